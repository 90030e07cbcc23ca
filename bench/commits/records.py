"""compare.json and history.json: what was found of commits. Standard library and pydantic only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import UserError
from bench.records import content_of, first_error

# 1: the first.
VERSION: Final = 1
COMPARE, HISTORY = "compare.json", "history.json"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(max_length=2000)]
SideName = Literal["base", "head"]
Word = Literal["slower", "faster", "equal", "not distinguishable", "too few rounds"]


def label_of(commit: str, changes: Sequence[str]) -> str:
    """abc123456, or abc123456 with uncommitted changes."""
    return f"{commit[:9]}{' with uncommitted changes' if changes else ''}"


class Stored(BaseModel):
    """Base of all that is kept here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StoredTree(Stored):
    """A side. sha256: of the library that each of its processes imported; versions: with which."""

    name: Text
    commit: Text
    subject: Text
    changes: tuple[Text, ...]
    sha256: Text
    versions: Text

    @property
    def label(self) -> str:
        return label_of(self.commit, self.changes)


class Decision(Stored):
    """head / base, or head / head: the word that it allows, and what it rests on.

    confidence: of the interval at which the word was decided
    visible: the smallest change that would have been called, as a share
    more: rounds that would decide, by the spread so far; 0: it is decided
    """

    word: Word
    rounds: Count
    ratio: Positive
    low: Positive | None
    high: Positive | None
    confidence: float
    visible: float | None
    more: Count

    @property
    def is_decided(self) -> bool:
        return self.word in ("slower", "faster", "equal")


class Counted(Stored):
    """What is the same on each try; None where two tries differed."""

    base: Count | None
    head: Count | None

    @property
    def change(self) -> float | None:
        """head / base - 1; infinite from nothing to something."""
        if self.base is None or self.head is None or self.base == self.head:
            return None
        return self.head / self.base - 1 if self.base else float("inf")


class Benchmark(Stored):
    """One that both sides ran.

    seconds: of the processes, in the order in which they ran
    floor: head against itself; withheld: it is called different, so that a word on times means
        nothing
    """

    name: Text
    effect: Decision
    floor: Decision
    withheld: bool
    flops: Counted
    peak_bytes: Counted
    sides: tuple[SideName, ...]
    seconds: tuple[Positive, ...]


class Missing(Stored):
    """One that is not compared, and why."""

    name: Text
    why: Text


class Comparison(Stored):
    """All of it.

    new: the base cannot run them; removed: they are in the base's own suite alone; failing: head
    cannot run them, whatever the base does
    stopped: why it ended before each benchmark was decided; empty: all are
    regressions: what ends it with status 1, in a line each
    """

    version: Literal[1] = VERSION
    command: Text
    started: Text
    seconds: float
    base: StoredTree
    head: StoredTree
    harness_sha256: Text
    device: Text
    environment: Text
    equal_within: Positive
    least: float
    benchmarks: tuple[Benchmark, ...]
    new: tuple[Missing, ...]
    removed: tuple[Text, ...]
    failing: tuple[Missing, ...]
    stopped: Text
    regressions: tuple[Text, ...]

    @property
    def is_a_vs_a(self) -> bool:
        """Whether the two sides are the same library."""
        return self.base.sha256 == self.head.sha256


class Change(Stored):
    """ratio: of the time from this commit on over the time before it."""

    commit: str
    ratio: Annotated[float, Field(gt=0)]


class Line(Stored):
    """A benchmark over the commits. seconds: geometric means; None: it cannot be run there.

    errors: the standard errors of their logarithms, by the spread within commits
    """

    name: str
    seconds: tuple[Positive | None, ...]
    errors: tuple[Annotated[float, Field(ge=0)], ...]
    steps: tuple[Change, ...]


class Commit(Stored):
    """why: what kept it from being measured; empty: it was."""

    commit: str
    subject: str
    why: str = ""


class History(Stored):
    """history.json: what the page shows."""

    version: Literal[1] = VERSION
    command: str
    device: str
    processes: int
    commits: Annotated[tuple[Commit, ...], Field(min_length=1)]
    lines: tuple[Line, ...]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        known = {one.commit for one in self.commits}
        for line in self.lines:
            if not len(line.seconds) == len(line.errors) == len(self.commits):
                raise ValueError(f"{line.name} must have a value for each commit")
            if not any(line.seconds) or not {step.commit for step in line.steps} <= known:
                raise ValueError(
                    f"{line.name} must have values, and steps at commits that are there"
                )
        return self


Found = TypeVar("Found", Comparison, History)


def read(path: Path, kind: type[Found]) -> Found:
    """Raises UserError, naming the file and the field, if it is not what it should be."""
    try:
        return kind.model_validate_json(content_of(path))
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}") from error
