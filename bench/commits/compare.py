"""Two commits, held against each other: is the library slower at one of them than at the other?"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bench.commits.decide import MIN_ROUNDS, Margins
from bench.commits.records import (
    Benchmark,
    Comparison,
    Counted,
    Missing,
    SideName,
    StoredTree,
)
from bench.commits.rounds import Found, Series, run_rounds
from bench.commits.servers import (
    THIS_PYTHON,
    ReplicateError,
    Side,
    own_python,
    same_environment,
    serving,
)
from bench.commits.trees import CONSTRAINTS, Repository, Tree, functions_in, tree_sha256
from bench.errors import UserError
from bench.lifeline import interrupts_held
from bench.locks import locked_for

COMPARISONS = Path("runs") / "comparisons"
# Folders of one comparison, gone when it is over; what a killed one left goes with the next.
_SCRATCH = ".scratch"
# Of one process that runs the whole suite.
TIMEOUT = 600


@dataclass(frozen=True)
class Limit:
    """The share by which benchmarks with this text in their name may be slower, or take more."""

    share: float
    of: str = ""


@dataclass(frozen=True)
class Wish:
    """What is asked of a comparison.

    benchmarks, keyword: see `Request`; seconds: for its rounds; limits: the last that fits a
    benchmark holds for it, 0 where none does; own: each commit in an environment of its own
    """

    benchmarks: tuple[str, ...] = ()
    keyword: str = ""
    seconds: float = 300.0
    margins: Margins = field(default_factory=Margins)
    limits: Sequence[Limit] = field(default_factory=tuple)
    own: bool = False
    command: str = ""

    def limit(self, name: str) -> float:
        """Of a benchmark."""
        return next((one.share for one in reversed(self.limits) if one.of in name), 0.0)


@contextlib.contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """A folder for one comparison at a time: two would slow each other.

    Raises UserError if another process has it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with locked_for(home, f"a comparison in {home}"):
        folder = (home / _SCRATCH).resolve()
        # What a killed one had started may still be writing: it goes with the next.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            with interrupts_held():
                shutil.rmtree(folder, ignore_errors=True)


def compare(
    repository: Repository,
    base: Tree,
    head: Tree,
    wish: Wish,
    folder: Path,
    tell: Callable[[int, Found], None],
) -> Comparison:
    """folder: for what is needed meanwhile, see `scratch`.

    Raises UserError if the two cannot be compared.
    """
    started = datetime.now()
    folder = Path(tempfile.mkdtemp(dir=folder))  # a search compares more than once
    harness = folder / "harness"
    repository.take_harness(harness)
    removed = repository.benchmarks_of(base) - _benchmarks_in(harness)
    with serving(harness, folder, TIMEOUT) as servers:
        sides, environment = _sides(repository, base, head, wish.own, folder)
        try:
            found = run_rounds(
                servers,
                sides,
                wish.margins,
                benchmarks=wish.benchmarks,
                keyword=wish.keyword,
                seconds=wish.seconds,
                tell=tell,
            )
        except ReplicateError as error:
            raise UserError(f"cannot compare: {error}") from error
    if why := _why_nothing(found, wish.keyword):
        raise UserError(f"cannot compare: {why}")
    benchmarks = tuple(_benchmark(name, one, found) for name, one in found.series.items())
    return Comparison(
        command=wish.command,
        started=started.isoformat(timespec="seconds"),
        seconds=(datetime.now() - started).total_seconds(),
        base=_stored(sides["base"], found.versions["base"]),
        head=_stored(sides["head"], found.versions["head"]),
        harness_sha256=tree_sha256(harness),
        device=found.device,
        environment=environment,
        equal_within=wish.margins.equal,
        least=wish.margins.least,
        benchmarks=benchmarks,
        new=_alone(found, "base"),
        removed=() if wish.keyword else tuple(sorted(removed)),
        failing=_listed(found.failed["head"]),
        stopped=found.stopped,
        regressions=tuple(_regressions(benchmarks, _alone(found, "head"), wish)),
    )  # fmt: skip


def _benchmarks_in(harness: Path) -> set[str]:
    return {
        name
        for path in (harness / "bench").glob("test_*.py")
        for name in functions_in(f"bench/{path.name}", path.read_bytes())
    }


def _sides(
    repository: Repository, base: Tree, head: Tree, own: bool, folder: Path
) -> tuple[dict[SideName, Side], str]:
    """Both libraries in place, and a word on what they run in."""
    trees: dict[SideName, Tree] = {"base": base, "head": head}
    if own:
        pythons = {
            name: own_python(repository, tree, folder / f"{name}-environment")
            for name, tree in trees.items()
        }
        environment = "each commit in an environment of its own, so that what they ask for counts"
    else:
        pythons = dict.fromkeys(trees, THIS_PYTHON)
        environment = "this environment for both"
        if not same_environment(repository, base, head):
            environment += (
                f", although their {CONSTRAINTS} differ: what they ask for does not count "
                "(--own-environments builds both)"
            )
    sides = {
        name: Side.taken(repository, tree, folder / name, pythons[name])
        for name, tree in trees.items()
    }
    return sides, environment


def _stored(side: Side, versions: str) -> StoredTree:
    tree = side.tree
    return StoredTree(
        name=tree.name, commit=tree.commit, subject=tree.subject[:200], changes=tree.changes,
        sha256=side.sha256, versions=versions,
    )  # fmt: skip


def _benchmark(name: str, series: Series, found: Found) -> Benchmark:
    floor, (flops, peak_bytes) = found.floors[name], _counted(series)
    return Benchmark(
        name=name,
        effect=found.decisions[name],
        floor=floor,
        withheld=floor.word in ("slower", "faster"),
        flops=flops,
        peak_bytes=peak_bytes,
        sides=tuple(series.sides),
        seconds=tuple(series.seconds),
    )


def _counted(series: Series) -> tuple[Counted, Counted]:
    """Operations and bytes of each side, as far as its processes agree."""
    agreed: dict[SideName, list[int | None]] = {}
    for side, counts in series.counted.items():
        columns = (set(column) for column in zip(*counts, strict=True)) if counts else ()
        agreed[side] = [one.pop() if len(one) == 1 else None for one in columns] or [None, None]
    flops, peaks = zip(agreed["base"], agreed["head"], strict=True)
    return Counted(base=flops[0], head=flops[1]), Counted(base=peaks[0], head=peaks[1])


def _alone(found: Found, side: SideName) -> tuple[Missing, ...]:
    """What this side cannot run, and the other can; of a file that cannot be imported, the file."""
    other = found.failed["head" if side == "base" else "base"]
    return _listed(
        {
            name: why
            for name, why in found.failed[side].items()
            if name not in other and name.partition("::")[0] not in other
        }
    )


def _listed(failed: Mapping[str, str]) -> tuple[Missing, ...]:
    return tuple(Missing(name=name, why=why[:500]) for name, why in sorted(failed.items()))


def _why_nothing(found: Found, keyword: str) -> str:
    """Why nothing can be told of two sides; empty: something can."""
    if any(one.low is not None for one in found.decisions.values()):
        return ""
    if found.series:
        return f"fewer than {MIN_ROUNDS} rounds were run ({found.stopped}); --minutes gives more"
    for side in ("head", "base"):
        for name, why in found.failed[side].items():
            return f"{side} runs no benchmark: {name}: {why}"
    return f"no benchmark is called {keyword!r}" if keyword else "there are no benchmarks"


def _regressions(
    benchmarks: Sequence[Benchmark], broken: Sequence[Missing], wish: Wish
) -> Iterator[str]:
    for one in benchmarks:
        limit, effect = wish.limit(one.name), one.effect
        if effect.word == "slower" and not one.withheld and effect.ratio > 1 + limit:
            yield f"{one.name}: slower by {effect.ratio - 1:.1%}"
        for counted, what in ((one.flops, "operations"), (one.peak_bytes, "bytes at the peak")):
            change = counted.change
            if change is not None and change > limit:
                yield f"{one.name}: {counted.base} -> {counted.head} {what}"
    for missing in broken:
        yield f"{missing.name}: fails: {missing.why}"
