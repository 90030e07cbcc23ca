"""Runs the units of a plan, one process each, and skips those that are done. Imports no torch."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench import noise, records
from bench.engines import Engine, Process
from bench.errors import UserError
from bench.integrity import damage
from bench.locks import locked, locked_unit
from bench.records import Plan, Record, Status, UnitSpec, UnitSummary, kind_of_work
from bench.run_folder import (
    Run,
    finish_unit,
    is_whole,
    put_in_place,
    read_progress,
    record_failure,
    set_aside,
)

# What the runner may meet in the run folder, beside a full disk.
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
# How often a finished worker is looked for, and how often the display is told.
_POLL_SECONDS = 0.05
_REDRAW_SECONDS = 1.0
# A unit is run again when a signal ended it, so often; a Python error would come again.
_MAX_RETRIES = 2
# A unit is measured again when the machine was busy, so often.
_MAX_RERUNS = 2
RERUN_SHARE = 0.1


class Display(Protocol):
    """Is told what happens; bench.display shows it."""

    def started(self, spec: UnitSpec, slot: str) -> None: ...
    def progressed(self, steps: dict[str, int]) -> None: ...
    def finished(self, spec: UnitSpec, summary: UnitSummary, outcomes: list[Record]) -> None: ...
    def again(self, spec: UnitSpec, why: str) -> None: ...
    def stopping(self) -> None: ...


def check_new(folder: Path) -> None:
    """Raises UserError if no run folder can be made there."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(f"--out must be text in UTF-8, got {str(folder)!r}") from None
    try:
        if folder.exists():
            raise UserError(f"--out must be a new folder, got {str(folder)!r}; see `bench resume`")
        above = next(path for path in folder.absolute().parents if path.exists())
        # Tried, not asked: permissions are not all that can be in the way.
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise UserError(f"--out must be writable, got {str(folder)!r}: {error.strerror}") from error


def create(folder: Path, plan: Plan, environment: records.Environment, suite_text: str) -> Run:
    """Makes the run folder, whole or not at all. Raises UserError if it cannot be made."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder it will be, under a name that nobody has.
        unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            unfinished.chmod(0o755)
            (unfinished / records.UNITS).mkdir()
            (unfinished / records.SUITE).write_text(suite_text, encoding="utf-8")
            records.write(unfinished / records.ENVIRONMENT, environment)
            records.write(unfinished / records.PLAN, plan)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)  # of what was not renamed
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # another run was quicker
            check_new(folder)
        raise UserError(f"--out must be writable, got {str(folder)!r}: {error.strerror}") from error
    return Run.open(folder)


@dataclass
class _Slot:
    """One device, on which one worker works at a time."""

    name: str
    environment: dict[str, str]
    spec: UnitSpec | None = None
    process: Process | None = None
    started: float = 0.0


def run_units(
    run: Run,
    engine: Engine,
    display: Display,
    *,
    timeout_seconds: float = math.inf,
    rerun_share: float = RERUN_SHARE,
    forced: tuple[str, ...] = (),
) -> None:
    """Runs every unit that is not done, each for timeout_seconds at most; returns when all are.

    What was done and is damaged is set aside and run again; so are, in the end and for about
    rerun_share of the run's time, the units during which the machine was busy. Parallel only on
    different GPUs.

    forced: what the records are to say of this machine or these sources
    Raises UserError if another process works on this run or its disk is full, and
    KeyboardInterrupt if it was interrupted, with no worker left behind.
    """
    slots = [_Slot(name, given) for name, given in engine.slots(run.environment).items()]
    with _disk(run), locked(run.folder), _workers_ended(slots), _Stop(display) as stop:
        tidy(run)
        for spec in run.done():
            _set_aside_damaged(run, spec, display)
        waiting = [spec for spec in run.plan.units if not run.is_done(spec)]
        while waiting := waiting or _busy(run, display, rerun_share):
            _Work(run, engine, display, slots, timeout_seconds, forced, stop, waiting).do()


def run_unit(
    run: Run,
    unit: str,
    engine: Engine,
    display: Display,
    *,
    timeout_seconds: float = math.inf,
    forced: tuple[str, ...] = (),
) -> None:
    """Runs one unit, beside other processes that run others of the same folder.

    Raises UserError if it cannot be run, or if another process works on it or on the whole run.
    """
    spec = ready(run, unit)
    (name, given), *_ = engine.slots(run.environment).items()
    slots = [_Slot(name, given)]
    with (
        _disk(run),
        locked(run.folder, shared=True),
        locked_unit(run.unit_folder(unit)),
        _workers_ended(slots),
        _Stop(display) as stop,
    ):
        _tidy(run, spec)
        if not run.is_done(spec):
            _Work(run, engine, display, slots, timeout_seconds, forced, stop, [spec]).do()


def ready(run: Run, unit: str) -> UnitSpec:
    """A unit that is done or can be run.

    Raises UserError if there is no such unit, or if one that it needs is not done.
    """
    spec = next((spec for spec in run.plan.units if spec.unit == unit), None)
    if spec is None:
        raise UserError(f"unit must be one of the run {str(run.folder)!r}, got {unit!r}")
    for need in () if run.is_done(spec) else run.plan.units:
        if need.unit in spec.needs:
            problem = damage(run, need) if run.is_done(need) else "it is not done"
            if problem is not None:
                raise UserError(f"unit {unit!r} needs {need.unit!r}, and {problem}: run it before")
    return spec


@dataclass
class _Work:
    """Units that wait, and the slots that take them."""

    run: Run
    engine: Engine
    display: Display
    slots: list[_Slot]
    timeout_seconds: float
    forced: tuple[str, ...]
    stop: _Stop
    waiting: list[UnitSpec]
    retries: Counter[str] = field(default_factory=Counter)

    def do(self) -> None:
        """Returns when nothing waits and nothing runs.

        Raises KeyboardInterrupt when it was asked to stop and nothing runs.
        """
        drawn = 0.0
        while self.waiting or any(slot.spec for slot in self.slots):
            for slot in self.slots:
                if slot.spec and slot.process:
                    self._look_after(slot, slot.spec, slot.process)
                if not slot.spec and not self.stop.asked:
                    self._give_next(slot)
            if self.stop.asked and not any(slot.spec for slot in self.slots):
                raise KeyboardInterrupt
            if (now := time.monotonic()) - drawn >= _REDRAW_SECONDS:
                drawn = now
                self.display.progressed(_steps(self.run, self.slots))
            time.sleep(_POLL_SECONDS)

    def _give_next(self, slot: _Slot) -> None:
        spec = _next(self.run, self.waiting, {one.spec.unit for one in self.slots if one.spec})
        if spec is None:
            return
        damaged = [one for one in self.run.done() if one.unit in spec.needs
                   and _set_aside_damaged(self.run, one, self.display)]  # fmt: skip
        if damaged:
            self.waiting[:0] = damaged
            return
        self.waiting.remove(spec)
        self.display.started(spec, slot.name)
        if failed := _failed_need(self.run, spec):
            self._fail(spec, "error", f"needs {failed}, which failed")
            return
        unfinished = _prepare(self.run, spec.model_copy(update={"forced": self.forced}))
        process = self.engine.start(unfinished, slot.environment)
        slot.spec, slot.process, slot.started = spec, process, time.monotonic()

    def _look_after(self, slot: _Slot, spec: UnitSpec, process: Process) -> None:
        """Empties the slot of a process that has ended, or has had its time."""
        code = process.exit_code()
        if code is None:
            if not process.begun:
                slot.started = time.monotonic()
            if time.monotonic() - slot.started < self.timeout_seconds:
                return
            process.kill()
        slot.spec = slot.process = None
        unfinished = self.run.unfinished(spec.unit)
        if is_whole(unfinished):
            put_in_place(unfinished)
        if not unfinished.exists():  # it finished, however it ended after that
            _keep_quietest(self.run, spec)
            self.display.finished(spec, *_outcome(self.run, spec))
            return
        if code == records.DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        status, text = _why(code, self.timeout_seconds)
        if status == "killed" and self.stop.asked:
            return  # it will be run again, as what has not begun
        if status == "killed" and self.retries[spec.unit] < _MAX_RETRIES:
            self.retries[spec.unit] += 1
            set_aside(unfinished, records.KILLED)
            self.display.again(spec, text)
            self.waiting.insert(0, spec)
        else:
            self._fail(spec, status, text)

    def _fail(self, spec: UnitSpec, status: Status, text: str) -> None:
        _fail(self.run, spec, status, text)
        self.display.finished(spec, *_outcome(self.run, spec))


class _Stop:
    """Whether Ctrl-C or SIGTERM asked, in its block, that nothing new is begun.

    Asked again, KeyboardInterrupt is raised wherever the program is.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self.asked = False

    def __enter__(self) -> _Stop:
        self._before = {number: signal.signal(number, self._ask)
                        for number in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._display.stopping()


@contextlib.contextmanager
def _disk(run: Run) -> Iterator[None]:
    """What the disk or its permissions refuse is told in one line; what is done stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*records.DISK_ERRORS, *_NOT_WRITABLE):
            raise
        raise UserError(
            f"{error.filename or run.folder}: {error.strerror}; nothing that was done is lost, go "
            "on with `bench resume` when that is mended"
        ) from error


def tidy(run: Run) -> None:
    """What killed workers and runners left goes into its place, or goes."""
    for spec in run.plan.units:
        _tidy(run, spec)


def _tidy(run: Run, spec: UnitSpec) -> None:
    """What a killed worker or runner left of a unit: whole, it goes into its place; of a unit that
    is done, and was being measured again, it goes."""
    unfinished = run.unfinished(spec.unit)
    if is_whole(unfinished):
        put_in_place(unfinished)
    elif run.is_done(spec):
        shutil.rmtree(unfinished, ignore_errors=True)
    else:
        # It was to make room for a quieter one, or the other way round.
        for attempt in run.aside(records.BUSY, unit=spec.unit):
            if _summary_if_ok(attempt):
                attempt.rename(run.unit_folder(spec.unit))
                break
    _keep_quietest(run, spec)


def _keep_quietest(run: Run, spec: UnitSpec) -> None:
    """Of the attempts at a unit that was measured again, the one that counts is that during which
    the machine was least busy: not the quickest, nor the last."""
    counting = run.unit_folder(spec.unit)
    attempts = {
        folder: summary
        for folder in (counting, *run.aside(records.BUSY, unit=spec.unit))
        if (summary := _summary_if_ok(folder))
    }
    if counting not in attempts or len(attempts) == 1:
        return
    done = (_summary_if_ok(run.unit_folder(one.unit)) for one in run.done())
    usual = noise.usual_probes(filter(None, done))
    cpu_count = run.environment.cpu_count
    quietest = min(
        attempts, key=lambda folder: noise.disturbance(attempts[folder], usual, cpu_count)
    )
    if quietest != counting:
        set_aside(counting, records.BUSY)
        quietest.rename(counting)


def _summary_if_ok(attempt: Path) -> UnitSummary | None:
    """How an attempt ended; None if anything in it failed, or it cannot be read: then it counts for
    nothing, or is damaged."""
    rows = attempt / records.RECORDS
    try:
        found = records.read_lines(rows, Record) if rows.exists() else []
        summary = records.read(attempt / records.SUMMARY, UnitSummary)
    except UserError:
        return None
    return summary if {summary.status, *(one.status for one in found)} == {"ok"} else None


def _set_aside_damaged(run: Run, spec: UnitSpec, display: Display) -> bool:
    """Whether a unit that was done has to be run again."""
    problem = damage(run, spec)
    if problem is None:
        return False
    set_aside(run.unit_folder(spec.unit), records.DAMAGED)
    display.again(spec, problem)
    return True


def _busy(run: Run, display: Display, share: float) -> list[UnitSpec]:
    """The units to be measured again as the machine was busy, as many as may be, the most disturbed
    first."""
    measured = [summary for summary in run.summaries() if summary.status == "ok"]
    seconds = {summary.unit: summary.process_seconds or 0.0 for summary in measured}
    # The earlier attempt, or the later one if it failed; one that was killed tells no seconds.
    aside = run.attempts(records.BUSY)
    attempts = Counter(summary.unit for summary in aside)
    spent = sum(summary.process_seconds or seconds.get(summary.unit, 0.0) for summary in aside)
    limit = share * sum(seconds.values())
    reasons = noise.busy(measured, run.environment.cpu_count)
    specs = {spec.unit: spec for spec in run.plan.units}
    expected = _expected_seconds([specs[unit] for unit in seconds], seconds)
    chosen = []
    for unit, why in reasons.items():
        if attempts[unit] < _MAX_RERUNS and spent + expected[unit] <= limit:
            spent += expected[unit]
            chosen.append(specs[unit])
            display.again(specs[unit], "; ".join(why))
    return chosen


def _expected_seconds(units: list[UnitSpec], seconds: Mapping[str, float]) -> dict[str, float]:
    """About what units would take on a quiet machine: by the pace of the quicker of their kind, for
    what was disturbed took longer than it need. Of units without steps nothing is known."""
    paces: defaultdict[str, list[float]] = defaultdict(list)
    for spec in units:
        if spec.num_steps:
            paces[kind_of_work(spec)].append(seconds[spec.unit] / spec.num_steps)
    quick = {kind: sorted(found)[(len(found) - 1) // 4] for kind, found in paces.items()}
    return {
        spec.unit: min(seconds[spec.unit], quick[kind_of_work(spec)] * spec.num_steps)
        if spec.num_steps
        else seconds[spec.unit]
        for spec in units
    }


def forget_failures(run: Run) -> int:
    """Takes the failed units out of what is done, to be run again; returns their number.

    Each is kept beside as UNIT.failed1.
    """
    failed = {summary.unit for summary in run.summaries() if summary.status != "ok"}
    failed |= {record.unit for record in run.records() if record.status != "ok"}
    for unit in failed:
        set_aside(run.unit_folder(unit), records.FAILED)
        # What was measured again, and failed each time, is no result to come back to.
        for attempt in list(run.aside(records.BUSY, unit=unit)):
            set_aside(attempt, records.FAILED)
    return len(failed)


@contextlib.contextmanager
def _workers_ended(slots: list[_Slot]) -> Iterator[None]:
    try:
        yield
    finally:
        for slot in slots:
            if slot.process:
                slot.process.kill()


def _next(run: Run, waiting: list[UnitSpec], at_work: set[str]) -> UnitSpec | None:
    """The first waiting unit whose needs are done, and not to be measured again."""
    done = {spec.unit for spec in run.done()} - {spec.unit for spec in waiting} - at_work
    return next((spec for spec in waiting if done.issuperset(spec.needs)), None)


def _prepare(run: Run, spec: UnitSpec) -> Path:
    """A new folder to work in; what a killed worker left is run again from the start."""
    folder = run.unfinished(spec.unit)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    records.write(folder / records.SPEC, spec)
    return folder


def _steps(run: Run, slots: list[_Slot]) -> dict[str, int]:
    return {
        slot.spec.unit: read_progress(run.unfinished(slot.spec.unit)) for slot in slots if slot.spec
    }


def _why(code: int | None, timeout_seconds: float) -> tuple[Status, str]:
    if code is None:
        return "timeout", f"ran for {timeout_seconds:g} s without an end"
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return "killed", f"the process was ended by {known.get(-code, f'signal {-code}')}"
    return "error", f"the process ended with status {code}; see {records.LOG}"


def _fail(run: Run, spec: UnitSpec, status: Status, text: str) -> None:
    """Finishes a unit from here, with a record of failure for each case that has no other."""
    folder = run.unfinished(spec.unit)
    if not folder.exists():
        _prepare(run, spec)
    record_failure(folder, spec, status, text)
    (folder / records.PROGRESS).unlink(missing_ok=True)
    finish_unit(folder, UnitSummary(unit=spec.unit, status=status, error=text))


def _outcome(run: Run, spec: UnitSpec) -> tuple[UnitSummary, list[Record]]:
    return run.summary(spec.unit), run.records_of(spec.unit)


def _failed_need(run: Run, spec: UnitSpec) -> str | None:
    return next((unit for unit in spec.needs if run.summary(unit).status != "ok"), None)
