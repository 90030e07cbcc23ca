"""Runs the units of a plan, one process each, and skips those that are done. Imports no torch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import records
from bench.engines import Engine, Process
from bench.records import Plan, Record, Run, Status, UnitSpec, UnitSummary, UserError

_LOCK = "lock"
# How often a finished worker is looked for, and how often the display is told.
_POLL_SECONDS = 0.05
_REDRAW_SECONDS = 1.0


class Display(Protocol):
    """Is told what happens; bench.display shows it."""

    def started(self, spec: UnitSpec, slot: str) -> None: ...
    def progressed(self, steps: dict[str, int]) -> None: ...
    def finished(self, spec: UnitSpec, summary: UnitSummary, outcomes: list[Record]) -> None: ...


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


def _slots(device: str, count: int) -> list[_Slot]:
    """One for each GPU that this process may use, by the names it has for them; one for the CPU."""
    if device != "cuda":
        return [_Slot("CPU", {})]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count)]
    return [_Slot(f"GPU {name}", {"CUDA_VISIBLE_DEVICES": name}) for name in names[:count]]


def run_units(
    run: Run, engine: Engine, display: Display, *, timeout_seconds: float = math.inf
) -> None:
    """Runs every unit that is not done, each for timeout_seconds at most; returns when all are.

    Parallel only on different GPUs. Raises UserError if another process works on this run, and
    KeyboardInterrupt as it comes, with no worker left behind.
    """
    plan = run.plan
    slots = _slots(plan.device, run.environment.device_count)
    with locked(run.folder), _workers_ended(slots):
        waiting = [spec for spec in plan.units if not run.is_done(spec)]
        drawn = 0.0
        while waiting or any(slot.process for slot in slots):
            for slot in slots:
                if slot.spec and slot.process:
                    if not _ended(run, slot.spec, slot.process, slot.started, timeout_seconds):
                        continue
                    display.finished(slot.spec, *_outcome(run, slot.spec))
                    slot.process = slot.spec = None
                if spec := _next(run, waiting):
                    waiting.remove(spec)
                    display.started(spec, slot.name)
                    if failed := _failed_need(run, spec):
                        _fail(run, spec, "error", f"needs {failed}, which failed")
                        display.finished(spec, *_outcome(run, spec))
                        continue
                    slot.spec, slot.started = spec, time.monotonic()
                    slot.process = engine.start(_prepare(run, spec), slot.environment)
            if (now := time.monotonic()) - drawn >= _REDRAW_SECONDS:
                drawn = now
                display.progressed(_steps(run, slots))
            time.sleep(_POLL_SECONDS)


def forget_failures(run: Run) -> int:
    """Takes the failed units out of what is done, to be run again; returns their number.

    Each is kept beside as UNIT.failed.
    """
    failed = {summary.unit for summary in run.summaries() if summary.status != "ok"}
    failed |= {record.unit for record in run.records() if record.status != "ok"}
    for unit in failed:
        aside = run.unit_folder(f"{unit}.failed")
        shutil.rmtree(aside, ignore_errors=True)
        run.unit_folder(unit).rename(aside)
    return len(failed)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """This process alone works on the run; the lock goes with the process."""
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"run {str(folder)!r} is being run by another process") from None
        yield


@contextlib.contextmanager
def _workers_ended(slots: list[_Slot]) -> Iterator[None]:
    try:
        yield
    finally:
        for slot in slots:
            if slot.process:
                slot.process.kill()


def _next(run: Run, waiting: list[UnitSpec]) -> UnitSpec | None:
    """The first waiting unit whose needs are done."""
    done = {spec.unit for spec in run.done()}
    return next((spec for spec in waiting if done.issuperset(spec.needs)), None)


def _unfinished(run: Run, spec: UnitSpec) -> Path:
    return run.unit_folder(spec.unit + records.UNFINISHED)


def _prepare(run: Run, spec: UnitSpec) -> Path:
    """A new folder to work in; what a killed worker left is run again from the start."""
    folder = _unfinished(run, spec)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    records.write(folder / records.SPEC, spec)
    return folder


def _steps(run: Run, slots: list[_Slot]) -> dict[str, int]:
    return {
        slot.spec.unit: records.read_progress(_unfinished(run, slot.spec))
        for slot in slots
        if slot.spec
    }


def _ended(
    run: Run, spec: UnitSpec, process: Process, started: float, timeout_seconds: float
) -> bool:
    """Whether a unit's process is gone.

    One that ended without finishing its unit, or has had its time, makes a failure of it.
    """
    code = process.exit_code()
    if code is None and time.monotonic() - started < timeout_seconds:
        return False
    if code is None:
        process.kill()
    if not run.is_done(spec):
        _fail(run, spec, *_why(code, timeout_seconds))
    return True


def _why(code: int | None, timeout_seconds: float) -> tuple[Status, str]:
    if code is None:
        return "timeout", f"ran for {timeout_seconds:g} s without an end"
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return "killed", f"the process was ended by {known.get(-code, f'signal {-code}')}"
    return "error", f"the process ended with status {code}; see {records.LOG}"


def _fail(run: Run, spec: UnitSpec, status: Status, text: str) -> None:
    """Finishes a unit from here, with a record of failure for each case that has no other."""
    folder = _unfinished(run, spec)
    if not folder.exists():
        _prepare(run, spec)
    records.record_failure(folder, spec, status, text)
    summary = UnitSummary(unit=spec.unit, status=status, error=text)
    records.write(folder / records.SUMMARY, summary)
    (folder / records.PROGRESS).unlink(missing_ok=True)
    records.finish_unit(folder)


def _outcome(run: Run, spec: UnitSpec) -> tuple[UnitSummary, list[Record]]:
    path = run.unit_folder(spec.unit) / records.RECORDS
    return run.summary(spec.unit), records.read_lines(path, Record) if path.exists() else []


def _failed_need(run: Run, spec: UnitSpec) -> str | None:
    return next((unit for unit in spec.needs if run.summary(unit).status != "ok"), None)
