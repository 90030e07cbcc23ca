"""What the harness takes beside what it measures: its files, and its page.

It is the same on both sides of a comparison of libraries, which leaves it out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from bench.conftest import Measure
from bench.records import Record, StageRow, append, read_lines

ROOT = Path(__file__).parents[1]
RECORD = Record(
    case_id="0" * 12,
    repeat=1,
    seed=0,
    unit="unit",
    status="ok",
    settings={f"setting_{i}": i / 3 for i in range(60)},
    scores={f"score_{i}": i / 7 for i in range(30)},
)
ROW = StageRow(
    key="0" * 12, function="train_ddpm", parents=(), unit="unit", executed=True,
    step_seconds=tuple(i / 9 for i in range(400)),
)  # fmt: skip


@pytest.mark.benchmark(group="records")
def test_append(measure: Measure, tmp_path: Path) -> None:
    """Eight records and eight rows of 400 steps, on the disk."""

    def write() -> None:
        append(tmp_path / "records.jsonl", [RECORD] * 8)
        append(tmp_path / "stages.jsonl", [ROW] * 8)

    measure(write)


@pytest.mark.benchmark(group="records")
def test_read(measure: Measure, tmp_path: Path) -> None:
    """The same, 20 of each."""
    append(tmp_path / "records.jsonl", [RECORD] * 20)
    append(tmp_path / "stages.jsonl", [ROW] * 20)

    def read() -> None:
        read_lines(tmp_path / "records.jsonl", Record)
        read_lines(tmp_path / "stages.jsonl", StageRow)

    measure(read)


@pytest.mark.benchmark(group="report")
def test_report(measure: Measure, tmp_path: Path) -> None:
    """The page of a run of two trainings, in a new interpreter."""
    with ZipFile(ROOT / "tests" / "versions" / "3.zip") as archive:
        archive.extractall(tmp_path)
    (plan,) = tmp_path.rglob("plan.json")
    command = [sys.executable, "-m", "reports", "build", str(plan.parent)]
    measure(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL))
    shutil.rmtree(plan.parent)
