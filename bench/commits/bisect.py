"""The commit that made the library slower, by halves, each told by a comparison with the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bench.commits.compare import Wish, compare
from bench.commits.decide import Margins
from bench.commits.records import Comparison
from bench.commits.trees import Repository, Tree
from bench.errors import UserError

State = Literal["slower", "as before", "skipped"]
# Called with a commit, what it was found to be, and why.
Tell = Callable[[Tree, State, str], None]


@dataclass(frozen=True)
class Step:
    """Where a benchmark became slower.

    ratio: of the whole step; suspects: the commits of which one made it, oldest first: more than
    one where those between could not be told
    """

    benchmark: str
    ratio: float
    suspects: tuple[Tree, ...]


def bisect(
    repository: Repository, good: Tree, bad: Tree, wish: Wish, folder: Path, tell: Tell
) -> Step:
    """Raises UserError if `bad` is not told to be slower than `good`, or does not come after it."""
    commits = repository.between(good, bad)

    def against_good(tree: Tree, how: Wish) -> Comparison:
        return compare(repository, good, tree, how, folder, lambda *_: None)

    whole = against_good(bad, wish)
    slower = [one for one in whole.benchmarks if one.effect.word == "slower" and not one.withheld]
    if not slower:
        raise UserError(f"{bad.label} is not told to be slower than {good.label}: nothing to find")
    worst = max(slower, key=lambda one: one.effect.ratio)
    tell(bad, "slower", f"{worst.name} by {worst.effect.ratio - 1:.1%}")
    # A commit has the step or has it not: half of it tells the two apart.
    half = math.sqrt(worst.effect.ratio) - 1
    how = replace(wish, benchmarks=(worst.name,), keyword="", margins=Margins(half, half))

    def state_of(commit: str) -> State:
        tree = repository.named(commit)
        try:
            (found,) = against_good(repository.commit(commit), how).benchmarks
        except UserError as error:
            tell(tree, "skipped", str(error))
            return "skipped"
        word = found.effect.word
        state: State = "slower" if word == "slower" else "as before"
        if found.withheld or word in ("not distinguishable", "too few rounds"):
            state = "skipped"
        tell(tree, state, f"{found.effect.ratio - 1:+.1%}, {word}")
        return state

    suspects = first_slower(commits, state_of)
    return Step(worst.name, worst.effect.ratio, tuple(map(repository.named, suspects)))


def first_slower(commits: Sequence[str], state_of: Callable[[str], State]) -> Sequence[str]:
    """The first of them that is slower, and before it those that could not be told.

    commits: the first is known to be as before, the last to be slower
    """
    low, high = 0, len(commits) - 1
    skipped: set[int] = set()
    while candidates := [i for i in range(low + 1, high) if i not in skipped]:
        middle = min(candidates, key=lambda i: abs(i - (low + high) / 2))
        state = state_of(commits[middle])
        if state == "slower":
            high = middle
        elif state == "as before":
            low = middle
        else:
            skipped.add(middle)
    return commits[low + 1 : high + 1]
