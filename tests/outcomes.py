"""What two runs of one suite have in common, however their workers were started."""

from __future__ import annotations

from pathlib import Path

from bench.records import Record
from bench.run_folder import Run
from tests.processes import Background
from tests.toy import BASE

# Priors, and two training runs of which one needs them.
SMALL = BASE + '[[grid]]\ntrain_on = ["images", "dip"]\nnum_images = 4\nepochs = [1, 2]\n'
NUM_SMALL = 4


def untimed(run: Run) -> tuple[list[Record], list[object]]:
    """Its records, and all of its stages but the times."""
    rows: list[object] = [
        (row.unit, row.key, row.function, row.parents, row.executed, row.artifact_sha256,
         len(row.step_seconds))
        for row in run.stage_rows()
    ]  # fmt: skip
    return run.records(), rows


def run_here(folder: Path, text: str) -> Run:
    """The run of a suite by this machine's own engine, with one thread, as the last bits need."""
    folder.mkdir(exist_ok=True)
    (folder / "toy.toml").write_text(text)
    options = ("--device", "cpu", "--reruns", "0", "--out", folder / "run")
    code, said = Background("run", folder / "toy.toml", *options).end()
    assert code == 0, said
    return Run.open(folder / "run")
