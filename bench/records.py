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
    RUN/compiled/                  what torch.compile made
    RUN/counts.json                operations of nets by their shapes

A unit is worked on in UNIT.part and renamed when it is whole, so it is there whole or not at all.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from bench.errors import UserError
from bench.versions import upgraded

# 1: the first.
# 2: units of kind "shared" in place of "priors"; functions of the user's; skipped images; settings
#    `protocol`, `condition_on` and those of the nets, loaders, schedules and scores.
# 3: probes, the state of the machine and its energy; setting `files`; units of kind "profile";
#    digests of rows and checkpoints; where a unit ran.
# 4: floating-point operations and predicted memory of stages; the measured peaks of the machine.
SCHEMA_VERSION: Final = 4

Status = Literal["ok", "oom", "nan", "error", "killed", "timeout"]
Setting = str | int | float | bool | None | tuple[int, ...]

PLAN, ENVIRONMENT, SUITE = "plan.json", "environment.json", "suite.toml"
SPEC, RECORDS, STAGES, SUMMARY = "spec.json", "records.jsonl", "stages.jsonl", "unit.json"
UNITS, ARTIFACTS, LOG, PROGRESS = "units", "artifacts", "log.txt", "progress"
PROFILE, TRACES = "profile.jsonl", "traces"
COMPILED, COUNTS = "compiled", "counts.json"
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


# NaN and infinity are stored as strings: JSON knows neither.
_FORM = ConfigDict(extra="forbid", ser_json_inf_nan="strings", str_max_length=MAX_TEXT)


class Row(BaseModel):
    """Base of everything stored, but of `StageRow`."""

    model_config = _FORM | ConfigDict(frozen=True)

    schema_version: Literal[4] = SCHEMA_VERSION

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


def is_contest(one: Case | Record) -> bool:
    """Whether it is of `bench.contest`, and of no outcome of the pipeline."""
    return one.settings.get("contest", "none") != "none"


class UnitSpec(Row):
    """What one process is to do: a training run and its outcomes, what such runs share, one
    contender of a contest, or a look at a shortened run under the profiler, which gives no record.
    """

    unit: Name
    kind: Literal["shared", "train", "contest", "profile"]
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

    @property
    def gives_records(self) -> bool:
        """One for each of its cases."""
        return self.kind in ("train", "contest")


def kind_of_work(spec: UnitSpec) -> str:
    """The same for units whose steps take about as long."""
    if spec.kind != "contest":
        return spec.kind
    [case] = spec.cases
    return repr(sorted(case.settings.items()))


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


class Peak(Row):
    """The most operations a second that the device was seen to do, in one precision."""

    precision: Literal["float32", "tf32", "float16", "bfloat16"]
    # Of a product of two matrices, and of a convolution.
    matmul_flops: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    conv_flops: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def flops(self) -> float:
        """The larger of the two: what the device can do, whatever asks it."""
        return max(self.matmul_flops, self.conv_flops)


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
    # Measured when the run began; empty in runs of earlier versions.
    peaks: tuple[Peak, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One call of a stage. What was reused carries the cost of making it in the row it names.

    A run has hundreds of thousands: with slots one takes a fifth of the memory of a `Row`, and half
    of the time to read. What is read is checked as a `Row` is.
    """

    __pydantic_config__: ClassVar = _FORM

    schema_version: Literal[4] = SCHEMA_VERSION
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
    # What was to be expected on CUDA of the peak that is allocated, from shapes alone.
    predicted_bytes: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    # Floating-point operations of its nets; None: it has none that is known.
    flops: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    # Of torch.compile, by its own account: within `seconds`, and in the warm-up before.
    compile_seconds: float | None = None
    warm_up_compile_seconds: float | None = None
    # What the stage chose where a setting leaves it open, by the setting's name.
    chosen: dict[str, Setting] = field(default_factory=dict)
    cpu_joules: float | None = None
    gpu_joules: float | None = None
    artifact_sha256: str | None = None
    # Of the EMA weights, where they are kept.
    checkpoint_sha256: str | None = None


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
    # Of the CPUs that it may use, since the machine started; of this process and its children;
    # taken by other guests of the machine's host.
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
    calls: Annotated[int, Field(ge=1, lt=2**63)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    # The innermost lines of our code that it lies in, innermost first; empty: not known.
    stack: tuple[str, ...]


class ProfileRow(Row):
    """A stage under the profiler, whose times hold the profiler's own cost: none is a result."""

    unit: Name
    function: Name
    trace_sha256: str
    # The steps that were traced, and what is counted over all of them.
    num_steps: Annotated[int, Field(ge=1, le=10**6)]
    sync_calls: tuple[SyncCall, ...]
    # Floating-point operations of a step's nets.
    flops_per_step: Annotated[int, Field(ge=0, lt=2**63)]


class UnitSummary(Row):
    """How a unit ended, and where its process's time went: its stages, and all else by name."""

    unit: Name
    status: Status
    error: str | None = None
    # Tells the machine and the GPU from others, and names neither; None: not known.
    host: str | None = None
    gpu: str | None = None
    # Empty for a process that did not live to say.
    process_seconds: float | None = None
    overhead_seconds: dict[str, float] = {}
    started: str | None = None
    # Of the files of its rows, by name; empty in runs of earlier versions.
    rows_sha256: dict[Name, str] = {}
    # Before and after the unit's stages.
    probes: tuple[Probe, ...] = ()
    machine: tuple[MachineState, ...] = ()


Stored = TypeVar("Stored", bound=Row)
Line = TypeVar("Line", bound=Row | StageRow)

_STAGE_ROW = TypeAdapter(StageRow)
# Of any version: what a `Row` does itself.
_UPGRADES = BeforeValidator(partial(upgraded, StageRow.__name__, version=SCHEMA_VERSION))
_OLD_STAGE_ROW: TypeAdapter[StageRow] = TypeAdapter(Annotated[StageRow, _UPGRADES])


def write(path: Path, row: BaseModel) -> None:
    """One row as a file, there whole or not at all."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("w", encoding="utf-8") as stream:
        stream.write(row.model_dump_json(indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)


def append(path: Path, rows: Iterable[Row | StageRow]) -> None:
    """Rows as lines at the end of a file, on the disk when this returns."""
    with path.open("ab") as stream:
        stream.writelines(_text(row) + b"\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())


def read(path: Path, kind: type[Stored]) -> Stored:
    """Raises UserError, naming the file, if it is missing or not what it should be."""
    try:
        row: Stored = _reader(kind)(content_of(path))
    except ValueError as error:
        raise UserError(f"{path}: {first_error(error)}") from error
    return row


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """Raises UserError, naming the file and the line, if one is not what it should be."""
    return rows_of(content_of(path), path, kind)


def rows_of(content: bytes, path: Path, kind: type[Line]) -> list[Line]:
    """The lines of a file that was read; raises as `read_lines`."""
    rows: list[Line] = []
    row_of = _reader(kind)
    for number, line in enumerate(content.splitlines(), 1):
        try:
            rows.append(row_of(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {first_error(error)}") from error
    return rows


def content_of(path: Path) -> bytes:
    """Raises UserError, naming the file, if it is missing or too large."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_FILE:
                raise UserError(f"{path}: must be of at most {MAX_FILE} bytes, got {size}")
            return stream.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _text(row: Row | StageRow) -> bytes:
    if isinstance(row, StageRow):
        return _STAGE_ROW.dump_json(row)
    return row.model_dump_json().encode()


def _reader(kind: type[Line]) -> Callable[[bytes], Any]:
    """From the text of a row to the row; raises ValueError if it is none."""
    if issubclass(kind, Row):
        # Not from the text at once: so strings that are equal, as in many settings, are one.
        return lambda text: kind.model_validate(from_json(text))
    return _stage_row


def _stage_row(text: bytes) -> StageRow:
    try:
        return _STAGE_ROW.validate_json(text)
    except ValidationError:  # of an earlier version, or broken
        return _OLD_STAGE_ROW.validate_json(text)


def first_error(error: ValueError) -> str:
    """Where it is, and what is wrong there."""
    if not isinstance(error, ValidationError):
        return f"content: Invalid JSON: {error}"
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"


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
