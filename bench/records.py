"""The files of a run folder: what is in each, how it is written and read.

Imports the standard library and pydantic only.

    RUN/plan.json                  Plan: every unit that the run is to have
    RUN/environment.json           Environment: the machine and the code
    RUN/suite.toml                 the suite as it was given
    RUN/units/UNIT/spec.json       UnitSpec
    RUN/units/UNIT/records.jsonl   Record, one a line: an outcome, raw and unrounded
    RUN/units/UNIT/stages.jsonl    StageRow, one a line: a call of a stage
    RUN/units/UNIT/unit.json       UnitSummary: where the process's time went
    RUN/units/UNIT/artifacts/      stage results, KEY.safetensors
    RUN/units/UNIT/profile.jsonl   ProfileRow, one a line: a profiled stage
    RUN/units/UNIT/traces/         STAGE/STAGE.pt.trace.json.gz, for TensorBoard
    RUN/units/UNIT/log.txt         what the worker printed

A unit is worked on in UNIT.part and renamed when it is whole, so it is there whole or not at all.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from bench.versions import upgraded

# 1: the first.
# 2: units of kind "shared" in place of "priors"; functions of the user's; skipped images; settings
#    `protocol`, `condition_on` and those of the nets, loaders, schedules and scores.
# 3: probes, the state of the machine and its energy; setting `files`; units of kind "profile".
SCHEMA_VERSION: Final = 3

Status = Literal["ok", "oom", "nan", "error", "killed", "timeout"]
Setting = str | int | float | bool | None | tuple[int, ...]

PLAN, ENVIRONMENT, SUITE = "plan.json", "environment.json", "suite.toml"
SPEC, RECORDS, STAGES, SUMMARY = "spec.json", "records.jsonl", "stages.jsonl", "unit.json"
UNITS, ARTIFACTS, LOG, PROGRESS = "units", "artifacts", "log.txt", "progress"
PROFILE, TRACES = "profile.jsonl", "traces"
UNFINISHED = ".part"
# What a full disk or a quota raises, and the exit status of a worker that met it.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL = 75
# Attempts that are kept aside and count for nothing: UNIT.busy1, UNIT.killed1, UNIT.killed2, ...
BUSY, KILLED, FAILED, DAMAGED = ASIDE = (".busy", ".killed", ".failed", ".damaged")
PROGRESS_FORMAT = struct.Struct("<Q")

# What is longer was not written here. Characters of a text; bytes of a file of rows.
MAX_TEXT = 100_000
MAX_FILE = 2**30
# What files and folders are named after: never one outside the run, nor one of another kind.
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$", max_length=200)]
_SHOWN = 2_000
# Colours and cursor movements of a terminal, and all other control characters but the line end.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x09\x0b-\x1f\x7f-\x9f]"
)


def plain_text(text: str) -> str:
    """Without what a terminal would act on."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def shortened(text: str) -> str:
    """A text that is too long to be read, without its middle."""
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]} [...] {text[-half:]}"


class UserError(Exception):
    """Something the user can mend, in one line: told without a traceback, exit status 2."""

    def __init__(self, text: object) -> None:
        super().__init__(shortened(plain_text(str(text))))


class Row(BaseModel):
    """Base of everything stored. NaN and infinity are stored as strings: JSON knows neither."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", str_max_length=MAX_TEXT
    )

    schema_version: Literal[3] = SCHEMA_VERSION

    @model_validator(mode="before")
    @classmethod
    def _of_any_version(cls, content: Any) -> Any:
        return upgraded(cls.__name__, content, SCHEMA_VERSION)


class Case(Row):
    """One outcome that is asked for: the settings that make it, all of them, by their field."""

    case_id: str
    repeat: int
    seed: int
    settings: dict[str, Setting]


class UnitSpec(Row):
    """What one process is to do: a training run and its outcomes, what such runs share, or a look
    at a shortened run under the profiler, which gives no record."""

    unit: Name
    kind: Literal["shared", "train", "profile"]
    images: str
    # Empty: not known when the unit was planned.
    images_sha256: str = ""
    # The folder in which functions of the user's are looked for.
    functions: str
    device: str
    cases: tuple[Case, ...]
    # Units whose artifacts this one loads.
    needs: tuple[Name, ...] = ()
    # Iterations of its loops, for the display of progress.
    num_steps: int
    keep_checkpoints: bool = False
    # Nothing is warmed up before it is measured: what a first call costs is in it.
    cold: bool = False
    # Of a profile: NVTX ranges for Nsight Systems, a snapshot of the device's memory.
    nvtx: bool = False
    memory_snapshot: bool = False
    # What is not as it was when the run began, and was to be run all the same.
    forced: tuple[str, ...] = ()


class Plan(Row):
    """What a run is to do, written before its first unit."""

    suite: str
    title: str
    about: str
    command: str
    created: str
    seed: int
    device: str
    images: str
    images_sha256: str
    # The sha256 of the file of each function of the user's.
    functions: dict[str, str] = {}
    # Files that were left out of the images, with the reason.
    images_skipped: tuple[str, ...] = ()
    # In the order in which they run.
    units: tuple[UnitSpec, ...]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """A unit that needs one behind it would wait without end."""
        before: set[str] = set()
        for spec in self.units:
            if spec.unit in before or not before.issuperset(spec.needs):
                raise ValueError(
                    f"unit {spec.unit!r} must be there once, behind those that it needs"
                )
            before.add(spec.unit)
        return self


class Environment(Row):
    """Identity: what would make another run's figures incomparable."""

    device: str
    device_name: str
    device_count: int
    driver: str | None
    cpu: str
    cpu_count: int
    memory_bytes: int
    os: str
    python: str
    packages: dict[str, str]
    num_threads: int
    flags: dict[str, bool | str]
    commit: str | None
    subject: str | None
    dirty: bool | None
    source_sha256: str
    source_file: str
    # What the control group of the process may use; None: all that there is.
    memory_limit_bytes: int | None = None
    # Whether the GPU is cut into several.
    mig: bool | None = None


class StageRow(Row):
    """One call of a stage. What was reused carries the cost of making it in the row it names."""

    key: Name
    function: str
    parents: tuple[str, ...]
    unit: Name
    # False: the result came from a unit that this one needs, and the figures are empty.
    executed: bool
    seconds: float | None = None
    # Between device events around the stage, on CUDA.
    device_seconds: float | None = None
    step_seconds: tuple[float, ...] = ()
    # The part of each step spent waiting for its item (for training: the batch).
    data_wait_seconds: tuple[float, ...] = ()
    # None where the machine does not tell.
    host_peak_bytes: int | None = None
    device_peak_allocated_bytes: int | None = None
    device_peak_reserved_bytes: int | None = None
    # As the driver counts it at the end: torch's context and libraries, which it reserves beside.
    device_process_bytes: int | None = None
    cpu_joules: float | None = None
    gpu_joules: float | None = None
    artifact_sha256: str | None = None


class Record(Row):
    """One outcome, or the failure to get it."""

    case_id: str
    repeat: int
    seed: int
    unit: Name
    status: Status
    error: str | None = None
    settings: dict[str, Setting]
    scores: dict[str, float] = {}
    # The key of the stage result that holds the samples.
    samples: str | None = None
    # Keys of every stage that the scores rest on: the case's bill.
    stages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Probe(Row):
    """A fixed work, done beside what is measured: how fast the machine is at this moment."""

    matmul_seconds: float
    copy_seconds: float


class GPUState(Row):
    """A GPU at one moment. None: not told."""

    sm_mhz: float | None
    memory_mhz: float | None
    temperature_celsius: float | None
    power_watts: float | None
    power_limit_watts: float | None
    # Why it runs below the clock that was asked for; empty: it does not.
    throttle_reasons: tuple[str, ...] | None
    other_processes: int | None


class MachineState(Row):
    """The machine at one moment. None: not told."""

    # Of a clock that is never set, to be compared on one machine only.
    monotonic_seconds: float
    load_average: float
    # Of all CPUs since the machine started; of this process and its children; taken by other
    # guests of the machine's host.
    busy_seconds: float
    own_seconds: float
    steal_seconds: float | None
    cpu_mhz: float | None
    cpu_governor: str | None
    cpu_temperature_celsius: float | None
    gpu: GPUState | None


class SyncCall(Row):
    """A call that makes the host wait for the device: all of them from one place."""

    name: str
    calls: int
    seconds: float
    # The innermost lines of our code that it lies in, innermost first; empty: not known.
    stack: tuple[str, ...]


class ProfileRow(Row):
    """A stage under the profiler, whose times hold the profiler's own cost: none is a result."""

    unit: Name
    function: Name
    trace_sha256: str
    # The steps that were traced, and what is counted over all of them.
    num_steps: int
    sync_calls: tuple[SyncCall, ...]
    # Floating-point operations of a step's nets.
    flops_per_step: int


class UnitSummary(Row):
    """How a unit ended, and where its process's time went: its stages, and all else by name."""

    unit: Name
    status: Status
    error: str | None = None
    # Empty for a process that did not live to say.
    process_seconds: float | None = None
    overhead_seconds: dict[str, float] = {}
    started: str | None = None
    # Before and after the unit's stages.
    probes: tuple[Probe, ...] = ()
    machine: tuple[MachineState, ...] = ()


Stored = TypeVar("Stored", bound=Row)
_Line = TypeVar("_Line", Record, StageRow, ProfileRow)


def write(path: Path, row: Row) -> None:
    """One row as a file, there whole or not at all."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("w", encoding="utf-8") as stream:
        stream.write(row.model_dump_json(indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Rows as lines at the end of a file, on the disk when this returns."""
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(row.model_dump_json() + "\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())


def read(path: Path, kind: type[Stored]) -> Stored:
    """Raises UserError, naming the file, if it is missing or not what it should be."""
    try:
        return kind.model_validate_json(_content(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {_first_error(error)}") from error


def read_lines(path: Path, kind: type[Stored]) -> list[Stored]:
    """Raises UserError, naming the file and the line, if one is not what it should be."""
    rows = []
    try:
        lines = _content(path).splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            rows.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {_first_error(error)}") from error
    return rows


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE:
        raise UserError(f"{path}: must be of at most {MAX_FILE} bytes, got {size}")
    return path.read_bytes()


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"


def read_progress(unfinished: Path) -> int:
    """The steps that a worker has counted so far; 0 if it has not begun."""
    try:
        return int(PROGRESS_FORMAT.unpack((unfinished / PROGRESS).read_bytes())[0])
    except (FileNotFoundError, struct.error):
        return 0


def failure_of(case: Case, unit: str, status: Status, error: str) -> Record:
    """The record of a case that gave no outcome."""
    return Record(
        case_id=case.case_id,
        repeat=case.repeat,
        seed=case.seed,
        unit=unit,
        status=status,
        error=error,
        settings=case.settings,
    )


def trace_file(unit: Path, function: str) -> Path:
    """The trace of a stage in the folder of its unit: TensorBoard takes the folder for a run."""
    return unit / TRACES / function / f"{function}.pt.trace.json.gz"


def record_failure(unfinished: Path, spec: UnitSpec, status: Status, error: str) -> None:
    """Adds a record of failure for each case of a unit that has no record yet."""
    path = unfinished / RECORDS
    _drop_torn_end(path)
    _drop_torn_end(unfinished / STAGES)
    there = {record.case_id for record in read_lines(path, Record)} if path.exists() else set()
    failures = [
        failure_of(case, spec.unit, status, error)
        for case in spec.cases
        if case.case_id not in there
    ]
    if spec.kind == "train":
        append(path, failures)


def _drop_torn_end(path: Path) -> None:
    """Takes off the line that a killed process did not finish."""
    if path.exists():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def set_aside(folder: Path, why: str) -> None:
    """UNIT or UNIT.part -> UNIT.busy1, or the next number that is free, with the word in `why`."""
    unit = folder.with_suffix("") if folder.suffix == UNFINISHED else folder
    number = 1
    while (aside := unit.with_name(f"{unit.name}{why}{number}")).exists():
        number += 1
    folder.rename(aside)


def finish_unit(unfinished: Path, *, failed: bool = False) -> None:
    """UNIT.part -> UNIT, on the disk when this returns.

    Where there is a UNIT it was measured again: the earlier attempt is set aside, or this one if it
    failed.
    """
    folder = unfinished.with_suffix("")
    if folder.exists() and failed:
        set_aside(unfinished, FAILED)
    else:
        if folder.exists():
            set_aside(folder, BUSY)
        unfinished.rename(folder)
    directory = os.open(unfinished.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@dataclass(frozen=True)
class Run:
    """A run folder, read."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Raises UserError if `folder` is no run folder, or something in it may lead out of it."""
        if not (folder / PLAN).is_file():
            raise UserError(f"run must be a run folder (with {PLAN}), got {str(folder)!r}")
        _check_holds_files_only(folder)
        return cls(folder)

    @cached_property
    def plan(self) -> Plan:
        return read(self.folder / PLAN, Plan)

    @cached_property
    def environment(self) -> Environment:
        return read(self.folder / ENVIRONMENT, Environment)

    def unit_folder(self, unit: str) -> Path:
        return self.folder / UNITS / unit

    def unfinished(self, unit: str) -> Path:
        """Where a unit is worked on."""
        return self.unit_folder(unit + UNFINISHED)

    def is_done(self, spec: UnitSpec) -> bool:
        return self.unit_folder(spec.unit).is_dir()

    def done(self) -> Iterator[UnitSpec]:
        """The units that are whole, in the plan's order."""
        return (spec for spec in self.plan.units if self.is_done(spec))

    def records(self) -> list[Record]:
        return self._lines(RECORDS, Record)

    def records_of(self, unit: str) -> list[Record]:
        return self._lines_of(unit, RECORDS, Record)

    def stage_rows(self) -> list[StageRow]:
        return self._lines(STAGES, StageRow)

    def stage_rows_of(self, unit: str) -> list[StageRow]:
        return self._lines_of(unit, STAGES, StageRow)

    def profiles(self) -> list[ProfileRow]:
        return self._lines(PROFILE, ProfileRow)

    def profiles_of(self, unit: str) -> list[ProfileRow]:
        return self._lines_of(unit, PROFILE, ProfileRow)

    def summary(self, unit: str) -> UnitSummary:
        path = self.unit_folder(unit) / SUMMARY
        summary = read(path, UnitSummary)
        _check_is_of(unit, summary.unit, path)
        return summary

    def summaries(self) -> list[UnitSummary]:
        return [self.summary(spec.unit) for spec in self.done()]

    def missing(self) -> list[Case]:
        """The cases that have no record yet."""
        there = {(record.case_id, record.repeat) for record in self.records()}
        return [
            case
            for spec in self.plan.units
            if spec.kind == "train"
            for case in spec.cases
            if (case.case_id, case.repeat) not in there
        ]

    def attempts(self, why: str) -> list[UnitSummary]:
        """Of the attempts at units that were set aside with that word."""
        return [
            read(folder / SUMMARY, UnitSummary)
            for folder in sorted((self.folder / UNITS).glob(f"*{why}[0-9]*"))
        ]

    def _lines(self, name: str, kind: type[_Line]) -> list[_Line]:
        return [row for spec in self.done() for row in self._lines_of(spec.unit, name, kind)]

    def _lines_of(self, unit: str, name: str, kind: type[_Line]) -> list[_Line]:
        path = self.unit_folder(unit) / name
        rows = read_lines(path, kind) if path.exists() else []
        for row in rows:
            _check_is_of(unit, row.unit, path)
        return rows


def _check_is_of(unit: str, told: str, path: Path) -> None:
    if told != unit:
        raise UserError(f"{path}: must be of unit {unit!r}, got {told!r}")


def _check_holds_files_only(run: Path) -> None:
    """A folder that someone sent may hold links to what is none of its business, or pipes."""
    for above, folders, files in os.walk(run):
        for name in (*folders, *files):
            try:
                mode = (path := Path(above, name)).lstat().st_mode
            except FileNotFoundError:  # a worker has just renamed it
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{path}: a run folder must hold files and folders only, this is "
                                "a link or something else")  # fmt: skip


class Costs:
    """The rows of stages by unit and key: who pays for what."""

    def __init__(self, plan: Plan, rows: Iterable[StageRow]) -> None:
        self._rows = {(row.unit, row.key): row for row in rows}
        self._needs = {spec.unit: spec.needs for spec in plan.units}

    def row(self, unit: str, key: str) -> StageRow | None:
        """The call of a stage as the unit saw it."""
        return self._rows.get((unit, key))

    def charged(self, unit: str, key: str) -> StageRow | None:
        """The row with the figures: of the unit itself, else of a unit whose results it loads.

        Repeats of a case have equal keys in other units, and those are not its cost.
        """
        for owner in (unit, *self._needs.get(unit, ())):
            row = self._rows.get((owner, key))
            if row is not None and row.executed:
                return row
        return None
