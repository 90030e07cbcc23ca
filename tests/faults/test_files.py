"""Files of a run that are torn or altered, and two that want one run."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from bench import records
from bench.integrity import damage
from bench.run_folder import Run
from tests.faults.judge import MARKS, Whole, done_units, go_on
from tests.processes import Start, at_work, wait_until

pytestmark = MARKS


@pytest.fixture
def run(whole: Whole, tmp_path: Path) -> Run:
    """A copy to do harm to."""
    shutil.copytree(whole.folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


def flip(path: Path, draw: random.Random) -> None:
    """One bit of the file."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def go_on_after(fault: str, run: Run, harmed: set[str], whole: Whole, started: Start) -> str:
    done = {unit: inode for unit, inode in done_units(run.folder).items() if unit not in harmed}
    background = started(*go_on(whole.suite, run.folder))
    code, said = background.end()
    assert code == 0, said
    for unit in harmed:
        assert f"again: {unit}" in said
        assert (run.folder / records.UNITS / f"{unit}{records.DAMAGED}1").is_dir()
    whole.tally(fault, background, times=0)
    whole.judge(fault, run.folder, done)
    return said


def test_lines_are_torn(whole: Whole, run: Run, draw: random.Random, started: Start) -> None:
    """The last line of a file of each kind, each in a unit of its own."""
    train = [spec.unit for spec in run.plan.units if spec.kind == "train"]
    names = (records.RECORDS, records.STAGES, records.SUMMARY)
    harmed = dict(zip(draw.sample(train, len(names)), names, strict=True))
    for unit, name in harmed.items():
        path = run.unit_folder(unit) / name
        content = path.read_bytes()
        last = content.rstrip(b"\n").rfind(b"\n") + 1 if name != records.SUMMARY else 0
        path.write_bytes(content[: draw.randrange(last + 1, len(content) - 2)])
    fault = "a torn line of records, stages or summary"
    whole.tally(fault, times=len(harmed))
    go_on_after(fault, run, set(harmed), whole, started)


def test_a_byte_of_each_artifact(
    whole: Whole, run: Run, draw: random.Random, started: Start
) -> None:
    """Each is noticed by itself; then all are, and made again."""
    fault = "a flipped bit, in each artifact"
    units = {spec.unit: spec for spec in run.plan.units}
    artifacts = sorted(run.folder.rglob("*.safetensors"))
    kept = [row for row in run.stage_rows() if row.artifact_sha256 is not None]
    assert len(artifacts) == len(kept) > len(units)
    for path in artifacts:
        before = path.read_bytes()
        flip(path, draw)
        found = damage(run, units[path.parents[1].name])
        assert found is not None and path.name in found and "not what was written" in found
        path.write_bytes(before)
    for path in artifacts:
        flip(path, draw)
    whole.tally(fault, times=len(artifacts))
    harmed = {path.parents[1].name for path in artifacts}
    go_on_after(fault, run, harmed, whole, started)


def test_two_runners(whole: Whole, tmp_path: Path, started: Start) -> None:
    """The second is refused while the first lives, and no longer."""
    fault, run = "two runners on one folder", tmp_path / "run"
    first = started(*go_on(whole.suite, run))
    wait_until(lambda: at_work(run))
    for command in (("resume", run), ("clean", run), ("clean", "--all", run)):
        second = started(*command)
        code, said = second.end()
        assert code == 2 and "is being run by another process" in said, said
        assert first.process.poll() is None
        whole.tally(fault, second)
    first.kill()
    whole.tally(fault, first, times=0)
    done = done_units(run)
    third = started(*go_on(whole.suite, run))
    assert third.end()[0] == 0
    whole.tally(fault, third, times=0)
    whole.judge(fault, run, done)
