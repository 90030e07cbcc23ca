"""What a run is judged by after a fault: nothing lost, nothing doubled, nobody left behind."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import records
from bench.integrity import damage
from bench.run_folder import Run
from tests.processes import Background, on_linux
from tests.toy import SUITE

# One unit's images are read by processes of its worker's own; its priors take long enough to be
# interrupted.
TOY = (
    SUITE.replace("num_iter = 4", "num_iter = 40")
    + """
[[grid]]
num_images = 6
epochs = 2
loader = "decode"
num_workers = 1
"""
)
NO_RERUNS = ("--reruns", "0")
MARKS = [pytest.mark.faults, on_linux]


@dataclass
class Tally:
    """Of one kind of fault."""

    times: int = 0
    lost: int = 0
    doubled: int = 0
    orphans: int = 0


TALLIES: dict[str, Tally] = {}
SEED = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(10**6))


@dataclass(frozen=True)
class Table:
    """All of a run that is no time: each record as it is written, each artifact's digest."""

    records: Counter[str]
    artifacts: dict[tuple[str, str], str | None]

    @classmethod
    def of(cls, folder: Path) -> Table:
        run = Run.open(folder)
        rows = run.stage_rows()
        assert len({(row.unit, row.key) for row in rows}) == len(rows)
        return cls(
            Counter(record.model_dump_json() for record in run.records()),
            {(row.unit, row.key): row.artifact_sha256 for row in rows},
        )


@dataclass
class Whole:
    """The undisturbed run, and the judge of those that were disturbed."""

    suite: Path
    folder: Path
    seconds: float
    table: Table

    @classmethod
    def made(cls, text: str, place: Path) -> Whole:
        """Runs this suite, in a folder of its own below the place."""
        suite, folder = place / "toy.toml", place / "run"
        suite.write_text(text)
        began = time.monotonic()
        code, said = Background(*go_on(suite, folder)).end()
        assert code == 0, said
        return cls(suite, folder, time.monotonic() - began, Table.of(folder))

    def tally(self, fault: str, *ended: Background, times: int = 1) -> Tally:
        """Notes a fault, and the orphans of the commands that met it."""
        one = TALLIES.setdefault(fault, Tally())
        one.times += times
        orphans = [process for background in ended for process in background.orphans()]
        one.orphans += len(orphans)
        assert orphans == [], f"orphans of {fault}: {orphans}"
        return one

    def judge(self, fault: str, folder: Path, done: dict[str, int]) -> None:
        """After the last command: the table of the run is that of the undisturbed one.

        done: what `done_units` told after the fault, for none of it may have been made again
        """
        one = TALLIES.setdefault(fault, Tally())
        found = Table.of(folder)
        keys = Counter((record.case_id, record.repeat) for record in Run.open(folder).records())
        again = {unit for unit, inode in done.items() if done_units(folder).get(unit) != inode}
        redone = sum(record.unit in again for record in Run.open(folder).records())
        one.lost += (self.table.records - found.records).total() + redone
        one.doubled += sum(count - 1 for count in keys.values())
        assert again == set(), f"done, and made again after {fault}"
        assert found == self.table, fault
        assert list(folder.glob(f"units/*{records.UNFINISHED}")) == []
        run = Run.open(folder)
        assert [damage(run, spec) for spec in run.done()] == [None] * len(run.plan.units)


def done_units(folder: Path) -> dict[str, int]:
    """The units that are whole, with what tells each from a later one of its name."""
    if not (folder / records.PLAN).exists():
        return {}
    run = Run.open(folder)
    return {spec.unit: run.unit_folder(spec.unit).stat().st_ino for spec in run.done()}


def go_on(suite: Path, folder: Path) -> tuple[str | Path, ...]:
    """The command that begins a run, or goes on with one that has a folder."""
    if (folder / records.PLAN).exists():
        return "resume", folder, *NO_RERUNS
    return "run", suite, "--device", "cpu", "--out", folder, *NO_RERUNS
