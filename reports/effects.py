"""Effects, and what is missing, in the words and tables that several sections share."""

from __future__ import annotations

from collections.abc import Sequence

from bench.stats import Effect, Pair
from reports.blocks import Cell, Table, raw_table
from reports.context import Report
from reports.figures.plots import ForestRow
from reports.tables import Outcome
from reports.words import number, of_how_many_seeds, times

NOT_MEASURED = "not measured here"


def missing(report: Report, what: str) -> str:
    """The one line of a section without data."""
    made = "`python -m bench run quick`"
    if report.how_to_complete is not None:
        made = f"`{report.how_to_complete}` if this suite has it, else by {made}"
    return f"No {what} in this run. It is made by {made}."


def logs(pairs: Sequence[Pair]) -> list[float]:
    """The ratios of pairs, as dots of a forest plot."""
    return [pair.other / pair.base for pair in pairs]


def forest_data(rows: Sequence[ForestRow]) -> Table:
    """The values behind a forest plot."""
    return raw_table(
        ["row", "pairs", "mean ratio", "low", "high", "sign-flip p"],
        [
            [row.label, ", ".join(f"{dot:.6g}" for dot in row.dots), *_effect_values(row.effect)]
            for row in rows
        ],
    )


def _effect_values(effect: Effect | None) -> list[float | None]:
    return [effect.mean, effect.low, effect.high, effect.p] if effect else [None] * 4


def effect_cells(effect: Effect | None, *, of_seeds: bool = False) -> list[Cell]:
    """Ratio, interval, pairs and p; what there is none of is a dash."""
    if effect is None:
        return [Cell(NOT_MEASURED, None), Cell("–", None), Cell("0", 0), Cell("–", None)]
    interval = f"{of_how_many_seeds(effect)}, no interval" if of_seeds else "no interval"
    if effect.low is not None and effect.high is not None:
        interval = f"{times(effect.low)} to {times(effect.high)}"
    return [
        Cell(times(effect.mean), effect.mean),
        Cell(interval, effect.low),
        Cell(str(effect.pairs), effect.pairs),
        Cell(number(effect.p), effect.p),
    ]


def processes(*outcomes: Outcome) -> frozenset[str]:
    """Those that the outcomes were measured in."""
    return frozenset(outcome.record.unit for outcome in outcomes)
