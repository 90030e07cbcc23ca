"""Effects, and what is missing, in the words and tables that several sections share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bench.stats import Effect, Pair, geometric_mean, over_replicates
from bench.verdicts import Verdict
from reports.blocks import Cell, Table, raw_table
from reports.context import Report
from reports.figures.plots import MAX_DOTS, ForestRow
from reports.pairs import Group, Quantity
from reports.tables import Outcome
from reports.words import number, of_how_many_seeds, plural, signed, verdict_word

NOT_MEASURED = "not measured here"
VERDICT_COLUMNS = ("effect", "95 % interval", "pairs", "sign-flip p", "word")


def missing(report: Report, what: str, suite: str = "quick") -> str:
    """The one line of a section without data; suite: one that makes it."""
    made = f"`python -m bench run {suite}`"
    if report.how_to_complete is not None:
        made = f"`{report.how_to_complete}` if this suite has it, else by {made}"
    return f"No {what} in this run. It is made by {made}."


def ratios(pairs: Sequence[Pair]) -> list[float]:
    """The ratios of pairs, as dots of a forest plot."""
    return [pair.other / pair.base for pair in pairs]


def forest_data(rows: Sequence[ForestRow]) -> Table:
    """The values behind a forest plot."""
    return raw_table(
        ["row", "pairs", "mean ratio", "low", "high", "sign-flip p"],
        [[row.label, dots_words(row.dots), *_effect_values(row.effect)] for row in rows],
    )


def dots_words(dots: Sequence[float]) -> str:
    """All of them, or of many the quantiles."""
    if len(dots) <= MAX_DOTS:
        return ", ".join(f"{dot:.6g}" for dot in dots)
    shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    found = np.quantile(dots, shares).tolist()
    said = ", ".join(f"{share:g}: {dot:.6g}" for share, dot in zip(shares, found, strict=True))
    return f"quantiles of {len(dots)}: {said}"


def _effect_values(effect: Effect | None) -> list[float | None]:
    return [effect.mean, effect.low, effect.high, effect.p] if effect else [None] * 4


def verdict_cells(verdict: Verdict, quantity: Quantity) -> list[Cell]:
    """Those of VERDICT_COLUMNS; what there is none of is a dash."""
    effect, unit = verdict.effect, quantity.unit or ""
    if effect is None:
        dash = Cell("–", None)
        return [Cell(NOT_MEASURED, None), dash, Cell("0", 0), dash, dash]
    interval = "no interval"
    if effect.low is not None and effect.high is not None:
        low, high = (signed(effect, end, unit) for end in (effect.low, effect.high))
        interval = f"{low} to {high}"
    pairs = str(effect.pairs)
    if verdict.seeds is not None:
        pairs = plural(effect.pairs, "image")
    elif quantity.of_seeds:
        pairs += f" of {of_how_many_seeds(effect)}"
    elif effect.n < effect.pairs:
        pairs += f", {effect.n} independent"
    word = verdict_word(verdict, unit, of_seeds=quantity.of_seeds)
    return [
        Cell(signed(effect, effect.mean, unit), effect.mean),
        Cell(interval, effect.low),
        Cell(pairs, effect.pairs),
        Cell(number(effect.p), effect.p),
        Cell(word, word),
    ]


def mean_by_seed(found: Iterable[Outcome], quantity: Quantity) -> Effect | None:
    """Over seeds, of each the first outcome that has the quantity; None if none has it.

    The geometric mean of what is compared as a ratio, unless a value is 0.
    """
    values: dict[int, float] = {}
    for outcome in found:
        value = quantity.of(outcome)
        if value is not None:
            values.setdefault(outcome.record.seed, value)
    if not values:
        return None
    known = list(values.values())
    if quantity.unit is None and min(known) > 0:
        return geometric_mean(known)
    return over_replicates(known, signs=False)


def mean_of(group: Group, quantity: Quantity) -> Effect | None:
    """As `mean_by_seed`, of a group with an outcome a seed; None unless all have the quantity."""
    whole = all(quantity.of(outcome) is not None for outcome in group)
    return mean_by_seed(group, quantity) if whole else None


def middle(effect: Effect | None) -> float | None:
    """The mean; an unknown stays unknown."""
    return None if effect is None else effect.mean


def mean_words(effect: Effect | None, form: Callable[[float | None], str] = number) -> str:
    """1.23 (1.10 to 1.36); an unknown is a dash."""
    if effect is None or effect.low is None or effect.high is None:
        return form(middle(effect))
    return f"{form(effect.mean)} ({form(effect.low)} to {form(effect.high)})"


def mean_cell(effect: Effect | None, form: Callable[[float | None], str] = number) -> Cell:
    """As `mean_words`, sorted by the mean."""
    return Cell(mean_words(effect, form), middle(effect))


def spread_cell(
    found: Iterable[Outcome],
    quantity: Quantity,
    form: Callable[[float | None], str] = number,
) -> Cell:
    """Of many outcomes the median, and what nine tenths of them lie between."""
    values = [value for one in found if (value := quantity.of(one)) is not None]
    if not values:
        return Cell(form(None), None)
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return Cell(f"{form(middle)} ({form(low)} to {form(high)})", middle)


def seeds_of(groups: Iterable[Group]) -> str:
    """6 seeds; 5 to 6 seeds."""
    counts = sorted({len(group) for group in groups})
    if counts == [1]:
        return "one seed"
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"
