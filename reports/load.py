"""From a run folder to checked records, and from keys to the artifacts behind them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from bench import run_folder
from bench.errors import UserError
from bench.errors import plain_text as plain_text
from bench.errors import without_home as without_home
from bench.noise import Usual, disturbances, is_watched, usual_probes
from bench.records import (
    ASIDE,
    BUSY,
    LOG,
    UNITS,
    Case,
    Environment,
    Plan,
    ProfileRow,
    Record,
    Row,
    Setting,
    StageRow,
    UnitSummary,
    is_contest,
)
from bench.run_folder import Run, artifact_file

LOG_LINES = 20
_LOG_BYTES = 8_000


class NoRecordError(UserError):
    """Of a run in which nothing is done yet."""


@dataclass(frozen=True)
class Loaded:
    """A run folder, read and checked.

    records, contests: of outcomes of the pipeline, and of parts of it by themselves
    missing: the cases without a record
    missing_units: units of the plan that are not done, those without cases of their own included
    attempts: attempts at units that were kept aside, by the names of their folders
    busy: those of them beside which the unit was measured again, or that were to replace it
    profiles: the stages that ran under the profiler; none of their times is in `rows`
    altered: files of rows that are not what was written, in a line each
    """

    folder: Path
    plan: Plan
    environment: Environment
    records: tuple[Record, ...]
    contests: tuple[Record, ...]
    rows: tuple[StageRow, ...]
    summaries: tuple[UnitSummary, ...]
    missing: tuple[Case, ...]
    missing_units: tuple[str, ...]
    attempts: tuple[str, ...]
    busy: tuple[UnitSummary, ...]
    profiles: tuple[ProfileRow, ...]
    altered: tuple[str, ...]

    @cached_property
    def usual_probes(self) -> Usual:
        """What the probes of the machine take when it is quiet."""
        return usual_probes(self.summaries)

    def why_busy(self, summary: UnitSummary) -> tuple[str, ...]:
        """What shows that the machine was busy during an attempt at a unit."""
        return disturbances(summary, self.usual_probes, self.environment.cpu_count)

    @cached_property
    def disturbed(self) -> dict[str, tuple[str, ...]]:
        """The units in the tables during which the machine was busy, with what shows it."""
        found = {summary.unit: self.why_busy(summary) for summary in self.summaries}
        return {unit: why for unit, why in found.items() if why}

    @cached_property
    def num_watched(self) -> int:
        """Of how many units it is known whether the machine was busy."""
        return sum(map(is_watched, self.summaries))

    @property
    def resume(self) -> str:
        """The command that makes what is missing."""
        return f"python -m bench resume {without_home(str(self.folder))}"


def find_run(name: str) -> Path:
    """As `bench.run_folder.find_run`; relative to here if it lies below."""
    folder = run_folder.find_run(name)
    whole, here = folder.resolve(), Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) else folder


def load_run(folder: Path) -> Loaded:
    """Raises UserError, naming the file, if the folder is no run or a line is broken;
    NoRecordError if none is there."""
    run = Run.open(folder)
    with _collector_off():
        plan, alike = run.plan, _Alike()
        for spec in plan.units:
            _forget_given(spec)
            alike.slim(spec.cases)
        units = []
        for unit in run.units():
            summary = unit.summary
            _forget_given(summary, *summary.probes, *summary.machine)
            alike.slim(unit.records)
            _share_nothing_chosen(unit.rows)
            units.append(unit)
        _give_back_memory()
        records = [record for unit in units for record in unit.records]
        profiles = tuple(row for unit in units for row in unit.profiles)
        if not records and not profiles:
            raise NoRecordError(
                f"{folder}: no record yet; make some with: python -m bench resume {folder}"
            )
        done = {unit.summary.unit for unit in units}
        return Loaded(
            folder=folder,
            plan=plan,
            environment=run.environment,
            records=tuple(record for record in records if not is_contest(record)),
            contests=tuple(record for record in records if is_contest(record)),
            rows=tuple(row for unit in units for row in unit.rows),
            summaries=tuple(unit.summary for unit in units),
            missing=tuple(run.missing(records)),
            missing_units=tuple(spec.unit for spec in plan.units if spec.unit not in done),
            attempts=tuple(
                sorted(path.name for path in (*run.aside(*ASIDE), *run.all_unfinished()))
            ),
            busy=tuple(run.attempts(BUSY)),
            profiles=profiles,
            altered=tuple(line for unit in units for line in unit.altered),
        )


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Rows are in no circles, and to look for some in a million again and again takes a third of
    the time that it takes to read them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # What there is counts as old from here on: else the next round would look at all of it.
        gc.freeze()
        gc.unfreeze()
        if was_on:
            gc.enable()


_NONE: set[str] = set()


def _forget_given(*rows: Row) -> None:
    """Drops the set in which pydantic keeps which fields were given: a third of a row's memory."""
    for row in rows:
        object.__setattr__(row, "__pydantic_fields_set__", _NONE)


_NOTHING_CHOSEN: dict[str, Setting] = {}


def _share_nothing_chosen(rows: Iterable[StageRow]) -> None:
    """Most stages choose nothing, each with an empty dict of its own."""
    for row in rows:
        if not row.chosen:
            object.__setattr__(row, "chosen", _NOTHING_CHOSEN)


def _give_back_memory() -> None:
    """What reading took for a while, an eighth of a GiB of a large run: glibc would keep it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # of other systems
        ctypes.CDLL(None).malloc_trim(0)


class _Alike:
    """Settings that are alike, as one object."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], dict[str, Setting]] = {}

    def slim(self, found: Iterable[Case | Record]) -> None:
        """Changes what was just read, and nobody else has yet, into what takes half the memory.

        Settings lose what a terminal acts on: they become labels of figures, which have no glyph
        for it.
        """
        for one in found:
            given = one.settings
            # With the types of the values, as 1 is equal to 1.0 and to True.
            key = (*given, *given.values(), *map(type, given.values()))
            if key not in self._known:
                self._known[key] = {
                    name: plain_text(value) if isinstance(value, str) else value
                    for name, value in given.items()
                }
            one.__dict__["settings"] = self._known[key]
            _forget_given(one)


def log_tail(run: Loaded, unit: str) -> str:
    """The last lines of what the worker of a unit printed; empty if it printed nothing."""
    path = run.folder / UNITS / unit / LOG
    if not path.is_file():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    return plain_text("\n".join(lines[-LOG_LINES:])).strip()


class Artifacts:
    """Stage results by key. What is missing or not what was written is a warning, not an array."""

    def __init__(self, run: Loaded) -> None:
        self._units = run.folder / UNITS
        order = {spec.unit: place for place, spec in enumerate(run.plan.units)}
        self._kept: dict[str, StageRow] = {}
        kept = [row for row in run.rows if row.executed and row.artifact_sha256 is not None]
        for row in sorted(kept, key=lambda row: order.get(row.unit, len(order))):
            # Rows of one key hold one result; the first unit of the plan that kept it serves.
            self._kept.setdefault(row.key, row)
        self.warnings: list[str] = []

    def tensors(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of a stage result by name; empty if there are none to be had."""
        row = self._kept.get(key)
        if row is None:
            return {}
        path = artifact_file(self._units / row.unit, key)
        name = path.relative_to(self._units)
        try:
            data = path.read_bytes()
        except OSError as error:
            return self._warn(f"{UNITS}/{name} ({row.function}): {error.strerror}")
        if hashlib.sha256(data).hexdigest() != row.artifact_sha256:
            return self._warn(
                f"{UNITS}/{name} ({row.function}): its content is not what was written"
            )
        try:
            return dict(load_tensors(data))
        # KeyError: of a number format that NumPy has not; ValueError: of a shape beyond all memory.
        except (SafetensorError, KeyError, ValueError) as error:
            text = f"{UNITS}/{name} ({row.function}): cannot be read as tensors: {error}"
            return self._warn(text)

    def _warn(self, text: str) -> dict[str, np.ndarray]:
        if text not in self.warnings:
            self.warnings.append(text)
        return {}
