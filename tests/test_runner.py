from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import display, noise, records, runner
from bench.engines import ForkserverEngine, Process, local_slots
from bench.records import Environment, Run, UnitSpec, UserError
from tests.toy import BASE, new_run, run_all


def test_a_slot_for_each_gpu_under_the_names_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    def slots(device: str, count: int) -> list[dict[str, str]]:
        machine = Environment.model_construct(device=device, device_count=count)
        return list(local_slots(machine).values())

    def visible(count: int) -> list[str]:
        return [given["CUDA_VISIBLE_DEVICES"] for given in slots("cuda", count)]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert visible(2) == ["3", "1"]
    # On a CPU one worker at a time, whatever there is.
    assert slots("cpu", 8) == [{}]


def test_every_signal_has_a_word() -> None:
    assert runner._why(-9, 1) == ("killed", "the process was ended by SIGKILL")
    # Linux has signals that Python has no name for.
    assert runner._why(-40, 1) == ("killed", "the process was ended by signal 40")
    assert runner._why(None, 2.5) == ("timeout", "ran for 2.5 s without an end")
    assert runner._why(3, 1)[0] == "error"


# Runs ---------------------------------------------------------------------------------------------


class Watched(ForkserverEngine):
    """Notes the units it is asked to start."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        self.asked.append(unfinished.stem)
        return super().start(unfinished, environment)


@pytest.fixture(scope="module")
def engine() -> Watched:
    return Watched()


@pytest.fixture(scope="module")
def finished(engine: Watched, tmp_path_factory: pytest.TempPathFactory) -> Run:
    text = BASE + "[[grid]]\ntrain_on = ['images', 'dip']\nnum_images = 4\nepochs = 1\n"
    return run_all(new_run(tmp_path_factory.mktemp("runs") / "toy", engine, text), engine)


@pytest.fixture
def run(finished: Run, tmp_path: Path, engine: Watched) -> Run:
    """A copy to do harm to."""
    shutil.copytree(finished.folder, tmp_path / "run")
    engine.asked.clear()
    return Run.open(tmp_path / "run")


def go_on(run: Run, engine: Watched, *, rerun_share: float = 0.0) -> str:
    """Works through the run and returns what the terminal was told."""
    stream = io.StringIO()
    with display.RunDisplay(run.plan, run.done(), Console(file=stream, width=400)) as shown:
        runner.run_units(run, engine, shown, rerun_share=rerun_share)
    return stream.getvalue()


def unit_of(run: Run, kind: str) -> str:
    return next(spec.unit for spec in run.plan.units if spec.kind == kind)


def aside(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / records.UNITS).iterdir() if path.suffix)


def flip_a_byte(run: Run, unit: str) -> None:
    path = sorted((run.unit_folder(unit) / records.ARTIFACTS).iterdir())[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_an_artifact(run: Run, unit: str) -> None:
    sorted((run.unit_folder(unit) / records.ARTIFACTS).iterdir())[0].unlink()


def tear_the_stages(run: Run, unit: str) -> None:
    path = run.unit_folder(unit) / records.STAGES
    path.write_bytes(path.read_bytes()[:-20])


def lose_the_summary(run: Run, unit: str) -> None:
    (run.unit_folder(unit) / records.SUMMARY).unlink()


@pytest.mark.parametrize("kind", ["shared", "train"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip_a_byte, "its content is not what was written"),
        (lose_an_artifact, "No such file"),
        (tear_the_stages, "stages.jsonl, line"),
        (lose_the_summary, "unit.json: No such file"),
    ],
)
def test_what_was_damaged_is_set_aside_and_made_again(
    run: Run, finished: Run, engine: Watched, kind: str, harm: Callable[..., None], words: str
) -> None:
    unit = unit_of(run, kind)
    harm(run, unit)
    said = go_on(run, engine)
    assert engine.asked == [unit]
    assert aside(run) == [f"{unit}{records.DAMAGED}1"]
    assert f"again: {unit}" in said and words in said
    assert run.records() == finished.records()
    assert [row.artifact_sha256 for row in run.stage_rows()] == [
        row.artifact_sha256 for row in finished.stage_rows()
    ]


def test_records_that_are_gone_are_made_again(run: Run, finished: Run, engine: Watched) -> None:
    unit = unit_of(run, "train")
    (run.unit_folder(unit) / records.RECORDS).unlink()
    go_on(run, engine)
    assert engine.asked == [unit]
    assert run.records() == finished.records()


def test_a_unit_on_a_busy_machine_is_measured_again_twice_at_most(
    run: Run, finished: Run, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(run, "train")
    monkeypatch.setattr(noise, "busy", lambda *_: {unit: ("it was busy",)})
    first = run.summary(unit)
    # All is done: nothing is measured again but at the end of work.
    go_on(run, engine, rerun_share=1.0)
    assert engine.asked == []
    shutil.rmtree(run.unit_folder(unit_of(run, "shared")))
    said = go_on(run, engine, rerun_share=1.0)
    assert engine.asked == [unit_of(run, "shared"), unit, unit]
    assert f"again: {unit}: it was busy" in said
    assert aside(run) == [f"{unit}.busy1", f"{unit}.busy2"]
    assert [attempt.unit for attempt in run.attempts(records.BUSY)] == [unit, unit]
    assert run.attempts(records.BUSY)[0] == first
    assert run.records() == finished.records()


def summarise(run: Run, unit: str, **changed: Any) -> None:
    summary = run.summary(unit).model_copy(update=changed)
    records.write(run.unit_folder(unit) / records.SUMMARY, summary)


def test_a_unit_that_failed_is_not_measured_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail again, and leave the attempt that is there as it is, without end."""
    unit = unit_of(run, "train")
    # As if whatever is looked at was busy.
    monkeypatch.setattr(noise, "busy", lambda found, _: {one.unit: ("busy",) for one in found})
    assert unit in [spec.unit for spec in runner._busy(run, _Quiet(), 1.0)]
    summarise(run, unit, status="error")
    assert unit not in [spec.unit for spec in runner._busy(run, _Quiet(), 1.0)]


def test_measuring_again_that_fails_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = unit_of(run, "train")
    monkeypatch.setattr(noise, "busy", lambda *_: {unit: ("busy",)})
    for _ in range(2):
        assert [spec.unit for spec in runner._busy(run, _Quiet(), 1.0)] == [unit]
        again = run.unfinished(unit)
        again.mkdir()
        summary = run.summary(unit).model_copy(update={"status": "oom", "process_seconds": None})
        records.write(again / records.SUMMARY, summary)
        records.finish_unit(again, failed=True)
    assert runner._busy(run, _Quiet(), 1.0) == []


def test_no_more_is_measured_again_than_the_share_of_the_run(
    run: Run, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [spec.unit for spec in run.plan.units]
    monkeypatch.setattr(noise, "busy", lambda *_: dict.fromkeys(units, ("busy",)))
    seconds = [run.summary(unit).process_seconds or 0.0 for unit in units]
    # The first alone fits.
    share = (seconds[0] + 0.5 * min(seconds)) / sum(seconds)
    assert [spec.unit for spec in runner._busy(run, _Quiet(), share)] == units[:1]
    assert runner._busy(run, _Quiet(), 0.0) == []


def test_measured_again_and_failed_leaves_what_was_there(run: Run, finished: Run) -> None:
    unit = unit_of(run, "train")
    again = run.unfinished(unit)
    again.mkdir()
    records.finish_unit(again, failed=True)
    assert aside(run) == [f"{unit}{records.FAILED}1"]
    assert run.records() == finished.records()


def test_a_read_only_run_is_one_line(run: Run, engine: Watched) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is read-only to root")
    run.folder.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        go_on(run, engine)


def test_what_was_forced_is_told_by_the_records(run: Run, engine: Watched) -> None:
    unit = unit_of(run, "train")
    shutil.rmtree(run.unit_folder(unit))
    shown = display.RunDisplay(run.plan, run.done(), Console(file=io.StringIO()))
    with shown:
        runner.run_units(run, engine, shown, rerun_share=0.0, forced=("packages: other",))
    for record in run.records():
        assert ("packages: other" in record.warnings) is (record.unit == unit)


class _Quiet(display.RunDisplay):
    """Says nothing."""

    def __init__(self) -> None:
        pass

    def again(self, spec: UnitSpec, why: str) -> None:
        pass


# One unit -----------------------------------------------------------------------------------------


def run_one(run: Run, unit: str, engine: Watched) -> None:
    with display.RunDisplay(run.plan, run.done(), Console(file=io.StringIO())) as shown:
        runner.run_unit(run, unit, engine, shown)


def test_one_unit_alone_is_run_when_what_it_needs_is_there(
    run: Run, finished: Run, engine: Watched
) -> None:
    shared, train = unit_of(run, "shared"), next(s.unit for s in run.plan.units if s.needs)
    shutil.rmtree(run.unit_folder(shared))
    shutil.rmtree(run.unit_folder(train))
    with pytest.raises(UserError, match=f"needs '{shared}', and it is not done"):
        run_one(run, train, engine)
    run_one(run, shared, engine)
    run_one(run, train, engine)
    run_one(run, train, engine)  # which is done
    assert engine.asked == [shared, train]
    assert run.records() == finished.records()
    assert aside(run) == []
    with pytest.raises(UserError, match="unit must be one of the run"):
        run_one(run, "nobody", engine)
