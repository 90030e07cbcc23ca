"""A run folder: read, and its units finished, failed and set aside.

Imports the standard library and pydantic only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from bench.errors import UserError
from bench.records import (
    ARTIFACTS,
    ASIDE,
    BUSY,
    ENVIRONMENT,
    PLAN,
    PROFILE,
    PROGRESS,
    PROGRESS_FORMAT,
    RECORDS,
    STAGES,
    SUMMARY,
    TRACES,
    UNFINISHED,
    UNITS,
    Case,
    Environment,
    Plan,
    ProfileRow,
    Record,
    StageRow,
    Status,
    UnitSpec,
    UnitSummary,
    append,
    content_of,
    failure_of,
    read,
    read_lines,
    rows_of,
    write,
)

# Where runs are made and looked for, if nothing else is said.
RUNS = Path("runs")
_Line = TypeVar("_Line", Record, StageRow, ProfileRow)
# A unit's name ends with a digest, so none looks like this.
_ASIDE = re.compile(rf"(?P<unit>.+)(?P<why>{'|'.join(map(re.escape, ASIDE))})\d+")
# The rows that a unit's summary answers for.
_ROWS = (RECORDS, STAGES, PROFILE)


def find_run(name: str) -> Path:
    """A run by its path, or by its name under runs/. Raises UserError if there is neither."""
    for folder in (Path(name), RUNS / name):
        if folder.exists():
            return folder
    raise UserError(f"run must be a run folder, or the name of one under {RUNS}/, got {name!r}")


@dataclass(frozen=True)
class Unit:
    """What a unit that is whole has left: its files, each read once.

    altered: the files of rows that are not what was written, in a line each
    """

    summary: UnitSummary
    records: list[Record]
    rows: list[StageRow]
    profiles: list[ProfileRow]
    altered: list[str]


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

    def all_unfinished(self) -> Iterator[Path]:
        """Where units are worked on, or were when a worker or runner was killed."""
        return (self.folder / UNITS).glob(f"*{UNFINISHED}")

    def is_done(self, spec: UnitSpec) -> bool:
        return self.unit_folder(spec.unit).is_dir()

    def done(self) -> Iterator[UnitSpec]:
        """The units that are whole, in the plan's order."""
        there = set(self._folders())
        return (spec for spec in self.plan.units if spec.unit in there)

    def _folders(self) -> list[str]:
        """Of units, done, under way and set aside; none where someone took all of them away."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder / UNITS) as found:
            return sorted(entry.name for entry in found if entry.is_dir())
        return []

    def units(self) -> Iterator[Unit]:
        """What the units that are whole have left, in the plan's order."""
        return map(self.unit, self.done())

    def unit(self, spec: UnitSpec) -> Unit:
        """What a unit that is whole has left."""
        folder, summary = self.unit_folder(spec.unit), self.summary(spec.unit)
        names = _ROWS if spec.kind == "profile" else (RECORDS, STAGES)
        contents = {name: content_of(folder / name) for name in names if (folder / name).exists()}

        def rows(name: str, kind: type[_Line]) -> list[_Line]:
            return _rows_of(spec.unit, contents.get(name, b""), folder / name, kind)

        return Unit(
            summary,
            rows(RECORDS, Record),
            rows(STAGES, StageRow),
            rows(PROFILE, ProfileRow),
            list(_altered(folder, summary, contents)),
        )

    def records(self) -> list[Record]:
        return self._lines(RECORDS, Record)

    def records_of(self, unit: str) -> list[Record]:
        return self._lines_of(unit, RECORDS, Record)

    def stage_rows(self) -> list[StageRow]:
        return self._lines(STAGES, StageRow)

    def stage_rows_of(self, unit: str) -> list[StageRow]:
        return self._lines_of(unit, STAGES, StageRow)

    def profiles(self) -> list[ProfileRow]:
        profiled = (spec for spec in self.done() if spec.kind == "profile")
        return [row for spec in profiled for row in self.profiles_of(spec.unit)]

    def profiles_of(self, unit: str) -> list[ProfileRow]:
        return self._lines_of(unit, PROFILE, ProfileRow)

    def summary(self, unit: str) -> UnitSummary:
        path = self.unit_folder(unit) / SUMMARY
        summary = read(path, UnitSummary)
        _check_is_of(unit, summary.unit, path)
        return summary

    def summaries(self) -> list[UnitSummary]:
        return [self.summary(spec.unit) for spec in self.done()]

    def failures(self) -> dict[str, str]:
        """Of units that failed, or of which an outcome did, what went wrong; of those that can no
        longer be read nothing."""
        found = {}
        for spec in self.done():
            with contextlib.suppress(UserError):
                told: list[UnitSummary | Record] = [
                    self.summary(spec.unit), *self.records_of(spec.unit)
                ]  # fmt: skip
                wrong = dict.fromkeys(one.error or one.status for one in told if one.status != "ok")
                if wrong:
                    found[spec.unit] = "; ".join(wrong)
        return found

    def missing(self, records: Iterable[Record] | None = None) -> list[Case]:
        """The cases that have no record yet; records: all that there are, if they were read."""
        found = self.records() if records is None else records
        there = {(record.case_id, record.repeat) for record in found}
        return [
            case
            for spec in self.plan.units
            if spec.gives_records
            for case in spec.cases
            if (case.case_id, case.repeat) not in there
        ]

    def aside(self, *why: str, unit: str | None = None) -> Iterator[Path]:
        """The folders of attempts (at a unit) that were set aside with one of these words."""
        for name in self._folders():
            found = _ASIDE.fullmatch(name)
            if found and found["why"] in why and unit in (None, found["unit"]):
                yield self.unit_folder(name)

    def attempts(self, why: str) -> list[UnitSummary]:
        """Of the attempts at units that were set aside with that word.

        They count for nothing, so those that do not tell, or no more, are left out.
        """
        found = []
        for folder in self.aside(why):
            with contextlib.suppress(UserError):
                found.append(read(folder / SUMMARY, UnitSummary))
        return found

    def altered(self) -> list[str]:
        """The files of rows that are not what was written, in a line each."""
        return [
            line
            for summary in self.summaries()
            for line in _altered(self.unit_folder(summary.unit), summary, {})
        ]

    def _lines(self, name: str, kind: type[_Line]) -> list[_Line]:
        return [row for spec in self.done() for row in self._lines_of(spec.unit, name, kind)]

    def _lines_of(self, unit: str, name: str, kind: type[_Line]) -> list[_Line]:
        path = self.unit_folder(unit) / name
        return _rows_of(unit, content_of(path), path, kind) if path.exists() else []


def _rows_of(unit: str, content: bytes, path: Path, kind: type[_Line]) -> list[_Line]:
    rows = rows_of(content, path, kind)
    for row in rows:
        _check_is_of(unit, row.unit, path)
    return rows


def _altered(folder: Path, summary: UnitSummary, contents: Mapping[str, bytes]) -> Iterator[str]:
    """contents: of the files that were read, by their names"""
    for name, written in summary.rows_sha256.items():
        path = folder / name
        if name in contents:
            found = hashlib.sha256(contents[name]).hexdigest()
        elif path.exists():
            found = sha256_of(path)
        else:
            continue
        if found != written:
            yield f"{path}: its content is not what was written"


def _check_is_of(unit: str, told: str, path: Path) -> None:
    if told != unit:
        raise UserError(f"{path}: must be of unit {unit!r}, got {told!r}")


def _check_holds_files_only(run: Path) -> None:
    """A folder that someone sent may hold links to what is none of its business, or pipes."""
    waiting = [str(run)]
    while waiting:
        try:
            found = list(os.scandir(waiting.pop()))
        except OSError:  # a worker has just renamed it, or nobody may look into it
            continue
        waiting += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
        for entry in found:
            # The folder's own list tells what each is, so none has to be asked; but one that a
            # worker has just renamed is neither.
            known = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
            if not known and os.path.lexists(entry):
                raise UserError(f"{entry.path}: a run folder must hold files and folders only, "
                                "this is a link or something else")  # fmt: skip


# A unit at work -----------------------------------------------------------------------------------


def read_progress(unfinished: Path) -> int:
    """The steps that a worker has counted so far; 0 if it has not begun."""
    try:
        return int(PROGRESS_FORMAT.unpack((unfinished / PROGRESS).read_bytes())[0])
    except (FileNotFoundError, struct.error):
        return 0


def artifact_file(unit: Path, name: str) -> Path:
    """A stage result in the folder of its unit."""
    return unit / ARTIFACTS / f"{name}.safetensors"


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
    if spec.gives_records:
        append(path, failures)


def _drop_torn_end(path: Path) -> None:
    """Takes off the line that a killed process did not finish."""
    if path.exists():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def set_aside(folder: Path, why: str) -> None:
    """UNIT, UNIT.part or another UNIT.busy1 -> UNIT.busy1, or the next number that is free, with
    the word in `why`."""
    known = _ASIDE.fullmatch(folder.name)
    unit = known["unit"] if known else folder.name.removesuffix(UNFINISHED)
    number = 1
    while (aside := folder.with_name(f"{unit}{why}{number}")).exists():
        number += 1
    folder.rename(aside)


def finish_unit(unfinished: Path, summary: UnitSummary) -> None:
    """Writes how the unit ended, beside the digests of its rows, and puts it in its place."""
    sha256 = {name: sha256_of(unfinished / name) for name in _ROWS if (unfinished / name).exists()}
    write(unfinished / SUMMARY, summary.model_copy(update={"rows_sha256": sha256}))
    put_in_place(unfinished)


def put_in_place(unfinished: Path) -> None:
    """UNIT.part, which is whole, -> UNIT, on the disk when this returns.

    Where there is a UNIT it was measured again: the earlier attempt is set aside, or this one if it
    failed.
    """
    folder = unfinished.with_suffix("")
    failed = read(unfinished / SUMMARY, UnitSummary).status != "ok"
    if folder.exists() and failed:
        set_aside(unfinished, BUSY)
    else:
        if folder.exists():
            set_aside(folder, BUSY)
        unfinished.rename(folder)
    directory = os.open(unfinished.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_whole(unfinished: Path) -> bool:
    """Whether all was done but to put it in its place: the summary is written last."""
    return (unfinished / SUMMARY).exists()


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
