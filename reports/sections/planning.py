"""What more pairs would tell, and what they would cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.stats import Effect
from reports.blocks import Cell, Section, Table
from reports.claims import Judged
from reports.context import Report
from reports.effects import missing
from reports.planning import Foreseen, Wanted, foreseen
from reports.words import NO_BREAK, percent, plural, seconds, three

TITLE = "What more pairs would tell"


def planning(report: Report, claims: Sequence[Judged], wanted: Wanted | None = None) -> Section:
    """A row a claim: its interval, what was foreseen of it, and where a wanted one is cheapest."""
    wanted = wanted or Wanted()
    found = foreseen(report, claims, wanted)
    if not found:
        return Section(
            "planning", TITLE, missing(report, "claim with an interval", "corrected-cpu")
        )
    return Section("planning", TITLE, _finding(found, wanted), [_table(found)])


def _finding(found: Sequence[Foreseen], wanted: Wanted) -> str:
    lacking = [one for one in found if one.half > one.wanted]
    words = f"±{percent(wanted.ratio)} of times and losses, ±{three(wanted.psnr)}{NO_BREAK}dB"
    if not lacking:
        return f"All {len(found)} intervals are as narrow as {words}."
    verb = "is" if len(lacking) == 1 else "are"
    return f"{len(lacking)} of {plural(len(found), 'interval')} {verb} wider than {words}."


def _table(found: Sequence[Foreseen]) -> Table:
    return Table(
        ["claim", "protocol", "quantity", "replicates", "95 % interval ±", "foreseen by half",
         "wanted ±", "pairs for that interval", "cheapest at", "a pair takes", "in all"],
        [_row(one) for one in found],
        "The interval of a claim's test beside what the spread of the first half of its "
        "replicates, as the run began them, let expect of all of them. Then the pairs that the "
        "wanted interval takes if all are made at one setting and arm, at the one where they cost "
        "the least: by the spread seen there, or, below three replicates, within all settings. A "
        "pair holds its own priors. The pairs that a verdict names are others: those that would "
        "show equality, over all settings.",
        stacked=True,
    )  # fmt: skip


def _row(one: Foreseen) -> list[Cell]:
    claim, measured = one.judged.claim, one.measured
    widths = (one.half, one.promised, one.wanted)
    cells = [
        Cell(f"{claim.number}. {measured.contrast}", claim.number),
        Cell(one.judged.protocol, one.judged.protocol),
        Cell(measured.quantity.name, measured.quantity.name),
        Cell(str(one.effect.n), one.effect.n),
        *(Cell("–" if half is None else _width(one.effect, half), half) for half in widths),
    ]
    if not one.places:
        return [*cells, *[Cell("–", None)] * 4]
    best = one.places[0]
    needed, cost = best.needed(one.wanted), best.cost(one.wanted)
    return [
        *cells,
        Cell(str(needed), needed),
        Cell(best.words, best.words),
        Cell(seconds(best.seconds), best.seconds),
        Cell(seconds(cost), cost),
    ]


def _width(effect: Effect, half: float) -> str:
    return percent(math.expm1(half)) if effect.is_ratio else f"{three(half)}{NO_BREAK}dB"
