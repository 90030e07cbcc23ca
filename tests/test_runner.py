from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import display, locks, noise, records, runner
from bench.engines import ForkserverEngine, Process, local_slots
from bench.errors import UserError
from bench.integrity import damage
from bench.locks import locked
from bench.records import Environment, UnitSpec, UnitSummary
from bench.run_folder import Run, finish_unit, put_in_place, set_aside
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
    with display.RunDisplay.of(run, Console(file=stream, width=400)) as shown:
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


def lose_a_line(run: Run, unit: str) -> None:
    path = run.unit_folder(unit) / records.STAGES
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def change_a_digit(run: Run, unit: str) -> None:
    """Of a number that can be any."""
    path = run.unit_folder(unit) / records.STAGES
    path.write_text(re.sub(r'("seconds":\d+\.\d*)\d', r"\g<1>5", path.read_text()))


def lose_the_summary(run: Run, unit: str) -> None:
    (run.unit_folder(unit) / records.SUMMARY).unlink()


@pytest.mark.parametrize("kind", ["shared", "train"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip_a_byte, "its content is not what was written"),
        (lose_an_artifact, "No such file"),
        (tear_the_stages, "stages.jsonl, line"),
        (lose_a_line, "stages.jsonl: its content is not what was written"),
        (change_a_digit, "stages.jsonl: its content is not what was written"),
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
    shutil.rmtree(run.unit_folder(unit_of(run, "shared")))
    # What was left to do comes first.
    said = go_on(run, engine, rerun_share=100.0)
    assert engine.asked == [unit_of(run, "shared"), unit, unit]
    assert f"again: {unit}: it was busy" in said
    assert len(aside(run)) == len(list(run.aside(records.BUSY, unit=unit))) == 2
    assert first in [*run.attempts(records.BUSY), run.summary(unit)]
    assert run.records() == finished.records()
    go_on(run, engine, rerun_share=100.0)
    assert len(engine.asked) == 3


def test_measuring_again_goes_on_where_it_was_ended(
    run: Run, finished: Run, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(run, "train")
    monkeypatch.setattr(noise, "busy", lambda *_: {unit: ("it was busy",)})
    # The runner was killed when all was done, in the middle of measuring again.
    shutil.copytree(run.unit_folder(unit), run.unfinished(unit))
    (run.unfinished(unit) / records.SUMMARY).unlink()
    go_on(run, engine)
    assert not run.unfinished(unit).exists() and aside(run) == []
    go_on(run, engine, rerun_share=100.0)
    assert engine.asked == [unit, unit]
    assert len(aside(run)) == len(list(run.aside(records.BUSY, unit=unit))) == 2
    assert run.records() == finished.records()


@pytest.mark.parametrize("moment", ["before both", "between", "first time"])
def test_what_is_whole_is_put_in_its_place(
    run: Run, finished: Run, engine: Watched, moment: str
) -> None:
    """The runner and the worker were killed when all was written and not all was renamed."""
    unit = unit_of(run, "train")
    folder, unfinished = run.unit_folder(unit), run.unfinished(unit)
    before = run.summary(unit)
    shutil.copytree(folder, unfinished)
    again = before.model_copy(update={"process_seconds": 1234.5})
    records.write(unfinished / records.SUMMARY, again)
    if moment == "between":
        set_aside(folder, records.BUSY)
    elif moment == "first time":
        shutil.rmtree(folder)
    go_on(run, engine)
    assert engine.asked == []
    assert run.summary(unit) == again
    kept = [] if moment == "first time" else [before]
    assert run.attempts(records.BUSY) == kept
    assert not unfinished.exists()
    assert run.records() == finished.records()


def test_the_attempt_of_the_quietest_machine_counts(
    run: Run, finished: Run, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the last nor the quickest."""
    unit = unit_of(run, "train")
    first = run.summary(unit)
    known: dict[float | None, float] = {first.process_seconds: 3.0}
    later = iter([9.0, 1.0])
    monkeypatch.setattr(noise, "busy", lambda *_: {unit: ("it was busy",)})
    monkeypatch.setattr(
        noise, "disturbance",
        lambda summary, *_: known.get(summary.process_seconds)
        or known.setdefault(summary.process_seconds, next(later)),
    )  # fmt: skip
    seen: list[UnitSummary] = []
    again = runner._keep_quietest

    def watched(run: Run, spec: UnitSpec) -> None:
        again(run, spec)
        if spec.unit == unit:
            seen.append(run.summary(unit))

    monkeypatch.setattr(runner, "_keep_quietest", watched)
    go_on(run, engine, rerun_share=100.0)
    assert engine.asked == [unit, unit]
    # The second was busier than the first, the third was not.
    assert seen[:-1] == [first, first]
    assert known[seen[-1].process_seconds] == 1.0
    assert len(run.attempts(records.BUSY)) == 2
    assert run.records() == finished.records()
    assert damage(run, next(spec for spec in run.plan.units if spec.unit == unit)) is None


def test_an_attempt_comes_back_if_the_runner_ended_while_it_was_moved(
    run: Run, finished: Run, engine: Watched
) -> None:
    unit = unit_of(run, "train")
    before = run.summary(unit)
    set_aside(run.unit_folder(unit), records.BUSY)
    go_on(run, engine)
    assert engine.asked == [] and aside(run) == []
    assert run.summary(unit) == before
    assert run.records() == finished.records()


def test_what_failed_each_time_it_was_measured_is_run_again(
    run: Run, finished: Run, engine: Watched
) -> None:
    """Its summary is ok, as the unit ran; an outcome in it failed."""
    unit = unit_of(run, "train")
    rows = run.unit_folder(unit) / records.RECORDS
    failed = [one.model_copy(update={"status": "nan"}) for one in run.records_of(unit)]
    rows.unlink()
    records.append(rows, failed)
    shutil.copytree(run.unit_folder(unit), run.unit_folder(f"{unit}.busy1"))
    assert runner.forget_failures(run) == 1
    assert aside(run) == [f"{unit}.failed1", f"{unit}.failed2"]
    go_on(run, engine)
    assert engine.asked == [unit]
    assert run.records() == finished.records()


def test_an_attempt_that_failed_never_takes_the_place_of_one_that_did_not(run: Run) -> None:
    (spec,) = [spec for spec in run.plan.units if spec.unit == unit_of(run, "train")]
    attempt = run.unit_folder(f"{spec.unit}.busy1")
    shutil.copytree(run.unit_folder(spec.unit), attempt)
    failed = [one.model_copy(update={"status": "nan"}) for one in run.records_of(spec.unit)]
    (attempt / records.RECORDS).unlink()
    records.append(attempt / records.RECORDS, failed)
    summary = run.summary(spec.unit)
    probes = tuple(one.model_copy(update={"matmul_seconds": 100.0}) for one in summary.probes)
    disturbed = summary.model_copy(update={"probes": probes})
    records.write(run.unit_folder(spec.unit) / records.SUMMARY, disturbed)
    runner.tidy(run)
    assert run.summary(spec.unit) == disturbed
    # Of two that did not fail the quieter does, also if the runner had no time to see to it.
    (attempt / records.RECORDS).unlink()
    shutil.copy(run.unit_folder(spec.unit) / records.RECORDS, attempt)
    runner.tidy(run)
    assert run.summary(spec.unit) == summary


def test_what_is_damaged_is_mended_though_another_was_measured_again(
    run: Run, finished: Run, engine: Watched
) -> None:
    again, harmed = (spec.unit for spec in run.plan.units if spec.kind == "train")
    shutil.copytree(run.unit_folder(again), run.unit_folder(f"{again}.busy1"))
    (run.unit_folder(harmed) / records.SUMMARY).write_text("{")
    go_on(run, engine)
    assert engine.asked == [harmed]
    assert run.records() == finished.records()


def test_a_unit_waits_for_what_it_needs_to_be_measured_again(run: Run) -> None:
    shared = next(spec for spec in run.plan.units if spec.kind == "shared")
    user = next(spec for spec in run.plan.units if shared.unit in spec.needs)
    assert runner._next(run, [user], set()) == user
    assert runner._next(run, [user], {shared.unit}) is None
    assert runner._next(run, [user, shared], set()) == shared


def test_a_badly_disturbed_unit_is_measured_again_as_it_would_be_quick(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took ten times as long: more than may be spent, but not by the pace of its like."""
    units = [spec.unit for spec in run.plan.units if spec.kind == "train"]
    for unit, seconds in zip(units, (5.0, 50.0), strict=True):
        summarise(run, unit, process_seconds=seconds)
    monkeypatch.setattr(noise, "busy", lambda *_: {units[1]: ("busy",)})
    assert [spec.unit for spec in runner._busy(run, _Quiet(), 0.2)] == [units[1]]
    specs = [spec.model_copy(update={"num_steps": 0}) for spec in run.plan.units]
    seconds_of = {spec.unit: 40.0 for spec in specs}
    assert runner._expected_seconds(specs, seconds_of) == seconds_of


def test_a_unit_named_like_an_attempt_is_none(run: Run) -> None:
    """Units are named after functions of the user's too."""
    units = run.folder / records.UNITS
    for name in ("train-mine.busy1-memory-4-1000-linear-716a76", "u.killed2-x", "u.part-x"):
        (units / name).mkdir()
    (units / "train-mine.busy1-memory-4-1000-linear-716a76.failed3").mkdir()
    assert [path.name for path in run.aside(*records.ASIDE)] == [
        "train-mine.busy1-memory-4-1000-linear-716a76.failed3"
    ]
    assert list(run.all_unfinished()) == []


def test_an_attempt_that_cannot_be_read_counts_for_nothing(run: Run, engine: Watched) -> None:
    for name in ("busy1", "failed1", "killed1"):
        (run.folder / records.UNITS / f"{unit_of(run, 'train')}.{name}").mkdir()
    (run.folder / records.UNITS / f"{unit_of(run, 'train')}.busy1" / records.SUMMARY).touch()
    assert run.attempts(records.BUSY) == run.attempts(records.KILLED) == []
    go_on(run, engine, rerun_share=0.1)


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
        finish_unit(again, summary)
    assert runner._busy(run, _Quiet(), 1.0) == []


def test_failures_that_were_forgotten_are_no_measuring_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(run, "train")
    monkeypatch.setattr(noise, "busy", lambda *_: {unit: ("busy",)})
    for number in (1, 2):
        shutil.copytree(run.unit_folder(unit), run.unit_folder(f"{unit}.failed{number}"))
    assert [spec.unit for spec in runner._busy(run, _Quiet(), 1.0)] == [unit]


def watched(run: Run, monkeypatch: pytest.MonkeyPatch, *actions: Callable[[], object]) -> str:
    """What `bench status --watch` shows while another process does these, one between two looks."""
    left = list(actions)
    monkeypatch.setattr("bench.display.time.sleep", lambda _: left.pop(0)())
    stream = io.StringIO()
    display.watch(run, Console(file=stream, width=400))
    assert left == []
    return stream.getvalue()


def test_watching_tells_of_units_that_are_shorter_than_a_look(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(run, "train")
    hidden = run.folder / "hidden"
    run.unit_folder(unit).rename(hidden)
    said = watched(run, monkeypatch, lambda: hidden.rename(run.unit_folder(unit)))
    assert f"[3/3] {unit}" in said


def test_watching_in_a_pipe_tells_whenever_a_unit_begins_or_ends(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(run, "train")
    folder, unfinished = run.unit_folder(unit), run.unfinished(unit)
    hidden = run.folder / "hidden"
    folder.rename(hidden)
    begun = time.time() - 3600
    os.utime(hidden / records.SPEC, (begun, begun))

    def done() -> None:
        unfinished.rename(folder)
        working.close()

    with contextlib.ExitStack() as working:
        working.enter_context(locked(run.folder))
        said = watched(
            run, monkeypatch, lambda: None, lambda: hidden.rename(unfinished), lambda: None, done
        )
    lines = [line for line in said.splitlines() if not line.startswith("  warning: ")]
    first, begins, ends, last = lines
    assert re.fullmatch(r"2 of 3 units done; at work: none(; .* left)?", first)
    assert begins.startswith(f"2 of 3 units done; at work: {unit}")
    # It was begun an hour before anybody looked.
    assert re.fullmatch(rf"\[3/3] {unit}  360\d\.\d s  ok", ends)
    assert last == "3 of 3 units done; at work: none; about 0 s left"


def test_watching_sees_what_is_measured_again_to_its_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(run, "train")
    folder, unfinished = run.unit_folder(unit), run.unfinished(unit)
    shutil.copytree(folder, unfinished)

    def done_again() -> None:
        put_in_place(unfinished)
        working.close()

    with contextlib.ExitStack() as working:
        working.enter_context(locked(run.folder))
        said = watched(
            run, monkeypatch,
            lambda: set_aside(unfinished, records.KILLED),
            lambda: shutil.copytree(folder, unfinished),
            done_again,
        )  # fmt: skip
    assert said.count(f"again: {unit}: it is measured again") == 2
    # The earlier attempt counts until another is whole.
    assert len(re.findall(rf"\[\d/\d] {unit}", said)) == 2
    assert "nobody" not in said


def test_watching_ends_when_nobody_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run.unit_folder(unit_of(run, "train")))
    said = watched(run, monkeypatch, *[lambda: None] * display._PATIENCE)
    assert "nobody works on this run; `bench resume` goes on with it" in said


def test_watching_ends_though_the_folder_cannot_be_written_to(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether anybody works on it cannot be known then: it may be a colleague's."""
    assert locks.is_worked_on(run.folder) is False
    with locked(run.folder):
        assert locks.is_worked_on(run.folder) is True
    shutil.rmtree(run.folder / "lock", ignore_errors=True)
    (run.folder / "lock").unlink(missing_ok=True)
    (run.folder / "lock").mkdir()  # which refuses root, too
    assert locks.is_worked_on(run.folder) is None
    assert "nobody" not in watched(run, monkeypatch)


def test_what_failed_at_once_says_nothing_of_the_pace(run: Run) -> None:
    spec = run.plan.units[-1]
    twin = spec.model_copy(update={"unit": "twin"})
    plan = run.plan.model_copy(update={"units": (spec, twin)})
    shown = display.RunDisplay(plan, [], Console(file=io.StringIO()))
    shown.started(spec, "CPU")
    shown.finished(spec, UnitSummary(unit=spec.unit, status="error"), [])
    assert shown.course.seconds_left({}) is None


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
    finish_unit(again, UnitSummary(unit=unit, status="oom"))
    assert aside(run) == [f"{unit}{records.BUSY}1"]
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
    shown = display.RunDisplay.of(run, Console(file=io.StringIO()))
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
    with display.RunDisplay.of(run, Console(file=io.StringIO())) as shown:
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
