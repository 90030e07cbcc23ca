"""The suite over a range of commits: measured in turn, kept, and searched for steps."""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import ruptures  # type: ignore[import-untyped]
from pydantic import ValidationError

from bench.commits.compare import TIMEOUT
from bench.commits.records import VERSION, Change, Commit, History, Line, Stored
from bench.commits.replicate import Measured
from bench.commits.rounds import SECONDS
from bench.commits.servers import THIS_PYTHON, ReplicateError, Servers, Side, serving
from bench.commits.trees import Repository, Tree
from bench.errors import UserError
from bench.records import first_error

STORE = Path("runs") / "benchmarks" / "history.jsonl"
# Of each commit, by turns, so that what drifts meets all of them alike.
PROCESSES, MIN_PROCESSES = 6, 3
# Of a step, in variances and logarithms of the number of values: by simulation a series without a
# step has one in fewer than 5 of 100 tries (tests/test_history.py).
PENALTY = 5.0
LEAST_STEP = 0.01
# Of the harness, what a time depends on.
_MEASURES = (
    "bench/conftest.py", "bench/test_*.py", "bench/exact.py", "bench/meters.py",
    "bench/commits/replicate.py", "pyproject.toml",
)  # fmt: skip


class Row(Stored):
    """One process: the library that it measured, by which suite, on what, and what it found."""

    version: Literal[1] = VERSION
    library: str
    harness: str
    device: str
    measured: dict[str, Measured]
    failed: dict[str, str]


@dataclass(frozen=True)
class Store:
    """Rows in a file, one a line; what was measured once is not measured again."""

    path: Path

    def rows(self) -> list[Row]:
        """Raises UserError, naming the line, if one is not what it should be; the last may be torn,
        by a process that was killed, and is left out."""
        if not self.path.exists():
            return []
        *lines, torn = self.path.read_bytes().split(b"\n")
        if torn:
            self.path.write_bytes(b"".join(line + b"\n" for line in lines))
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(Row.model_validate_json(line))
            except ValidationError as error:
                text = f"{self.path}, line {number}: {first_error(error)}"
                raise UserError(text) from error
        return rows

    def add(self, row: Row) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(row.model_dump_json() + "\n")


@dataclass(frozen=True)
class Wish:
    """keyword: pytest's -k; processes: of each commit"""

    commits: Sequence[str]
    keyword: str = ""
    processes: int = PROCESSES
    command: str = ""


def record_history(
    repository: Repository,
    wish: Wish,
    store: Store,
    folder: Path,
    tell: Callable[[int, int, Tree], None],
) -> History:
    """Measures what the store does not hold yet. tell: called before each process.

    Raises UserError if the store is of another device, or nothing could be measured.
    """
    harness = folder / "harness"
    repository.take_harness(harness)
    suite = _suite(harness) + (f" -k {wish.keyword}" if wish.keyword else "")
    known = [row for row in store.rows() if row.harness == suite]
    with serving(harness, folder, TIMEOUT) as servers:
        sides, commits = _sides(repository, wish.commits, folder)
        device = _measure(servers, sides, wish, suite, store, known, tell)
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in known:
        rows[row.library].append(row)
    of_commits = [rows[sides[one.commit].sha256] if one.commit in sides else [] for one in commits]
    return History(
        command=wish.command,
        device=device,
        processes=wish.processes,
        commits=tuple(
            commit if found or commit.why else commit.model_copy(update={"why": "nothing measured"})
            for commit, found in zip(commits, of_commits, strict=True)
        ),
        lines=tuple(lines_of([one.commit for one in commits], of_commits)),
    )


def _suite(harness: Path) -> str:
    """A digest of what measures. What is beside it, and its words, may change."""
    digest = hashlib.sha256()
    for name in _MEASURES:
        for path in sorted(harness.glob(name)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _sides(
    repository: Repository, names: Iterable[str], folder: Path
) -> tuple[dict[str, Side], list[Commit]]:
    """The libraries in place; a commit without one is told."""
    sides, commits = {}, []
    for name in names:
        try:
            tree = repository.commit(name)
        except UserError as error:
            commits.append(Commit(commit=name, subject="", why=str(error)))
            continue
        sides[name] = Side.taken(repository, tree, folder / name, THIS_PYTHON)
        commits.append(Commit(commit=name, subject=tree.subject[:200]))
    return sides, commits


def _measure(
    servers: Servers,
    sides: Mapping[str, Side],
    wish: Wish,
    suite: str,
    store: Store,
    known: list[Row],
    tell: Callable[[int, int, Tree], None],
) -> str:
    """Adds to `known` what is missing of it; the device. Commits with one library share it."""
    libraries = {side.sha256: side for side in sides.values()}
    there = {sha256: sum(row.library == sha256 for row in known) for sha256 in libraries}
    # In another order in each turn: what comes first is not always the same.
    draw = random.Random(0)
    turns = [
        side
        for turn in range(wish.processes)
        for side in draw.sample(list(libraries.values()), len(libraries))
        if there[side.sha256] <= turn
    ]
    devices = {row.device for row in known if row.device}
    for number, side in enumerate(turns, 1):
        tell(number, len(turns), side.tree)
        row = _row(servers, side, wish.keyword, suite)
        if row.device and devices - {row.device}:
            raise UserError(
                f"{store.path}: it is of another device ({', '.join(devices - {row.device})}) than "
                f"this ({row.device}); give another file by --store"
            )
        devices |= {row.device} - {""}
        store.add(row)
        known.append(row)
    if not any(row.measured for row in known):
        raise UserError(f"nothing could be measured: {_why_nothing(known, wish.keyword)}")
    return ", ".join(devices)


def _row(servers: Servers, side: Side, keyword: str, suite: str) -> Row:
    """What a process found, or why it found nothing."""
    try:
        found = servers.measure(side, keyword=keyword, seconds=SECONDS, exact=False)
    except ReplicateError as error:
        return Row(library=side.sha256, harness=suite, device="", measured={},
                   failed={"": str(error)})  # fmt: skip
    return Row(
        library=side.sha256, harness=suite, device=f"{found.device}, {found.versions}",
        measured=found.measured, failed=found.failed,
    )  # fmt: skip


def _why_nothing(known: Iterable[Row], keyword: str) -> str:
    return next(
        (why for row in known for why in row.failed.values()), f"no benchmark is called {keyword!r}"
    )


def lines_of(commits: Sequence[str], rows: Sequence[Sequence[Row]]) -> list[Line]:
    """Of each benchmark that any commit runs. rows: of each commit."""
    names = dict.fromkeys(name for some in rows for row in some for name in row.measured)
    lines = []
    for name in names:
        logs = [
            [math.log(row.measured[name].seconds) for row in some if name in row.measured]
            for some in rows
        ]
        spread = _spread(logs)
        lines.append(
            Line(
                name=name,
                seconds=tuple(math.exp(np.mean(some)) if some else None for some in logs),
                errors=tuple(spread / math.sqrt(len(some)) if some else 0.0 for some in logs),
                steps=tuple(
                    Change(commit=commits[place], ratio=ratio) for place, ratio in steps_in(logs)
                ),
            )
        )
    return lines


def _spread(logs: Sequence[Sequence[float]]) -> float:
    """The standard deviation within commits, over all of them."""
    squares = sum(float(np.var(some)) * len(some) for some in logs if some)
    freedom = sum(len(some) - 1 for some in logs if some)
    return math.sqrt(squares / freedom) if freedom else 0.0


def steps_in(logs: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """The places from which on values are others, and the ratio there, of logarithms by commit.

    Penalised least squares (Killick et al. 2012, PELT), a change at the bounds of commits alone.
    Commits without values are passed over.
    """
    there = [place for place, some in enumerate(logs) if some]
    count = min((len(logs[place]) for place in there), default=0)
    spread = _spread(logs)
    if len(there) < 2 or count < MIN_PROCESSES:
        return []
    signal = np.array([value for place in there for value in logs[place][:count]])
    penalty = PENALTY * max(spread**2, 1e-12) * math.log(len(signal))
    search = ruptures.Pelt(model="l2", min_size=count, jump=count).fit(signal[:, None])
    ends = [0, *search.predict(pen=penalty)]
    segments = [signal[start:end] for start, end in pairwise(ends)]
    found = []
    for end, (before, after) in zip(ends[1:], pairwise(segments), strict=False):
        ratio = math.exp(float(after.mean() - before.mean()))
        if abs(math.log(ratio)) >= math.log1p(LEAST_STEP):
            found.append((there[end // count], ratio))
    return found
