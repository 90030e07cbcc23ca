"""Checks of timing, on a quiet machine: nox -s truth."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.truth


def seconds(*command: str) -> float:
    """Of the fastest of three calls."""
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=False)
        spent.append(time.perf_counter() - began)
    return min(spent)


@pytest.mark.parametrize(
    "arguments",
    [
        "list",
        "run quack",
        "run quick --images nowhere",
        "run quick --out /proc/x",
        "status nowhere",
    ],
)
def test_bench_answers_within_two_seconds(arguments: str) -> None:
    assert seconds("-m", "bench", *arguments.split()) < 2


def test_a_missing_device_is_told_within_ten_seconds(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert seconds("-m", "bench", "run", "quick", "--device", "cuda", "--out", out) < 10


def test_dipddpm_is_imported_within_a_second() -> None:
    assert seconds("-c", "import dipddpm") < 1
