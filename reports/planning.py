"""How many pairs a wanted interval takes, at which setting they are cheapest, and how well the
first half of a run foresaw the interval of all of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.stats import (
    CONFIDENCE,
    MIN_EXECUTIONS,
    Effect,
    Pair,
    by_execution,
    pairs_for,
    t_quantile,
)
from bench.verdicts import PSNR_MARGIN, RATIO_MARGIN
from reports.claims import Judged, Measured
from reports.context import Report, epochs_of
from reports.pairs import Group, Quantity, values


@dataclass(frozen=True)
class Wanted:
    """Half of the 95 % interval that is wanted: of ratios 0.02 is 2 %, of PSNRs in dB."""

    ratio: float = RATIO_MARGIN
    psnr: float = PSNR_MARGIN

    def of(self, quantity: Quantity) -> float | None:
        """On the scale of `Effect.distance`; None of what is neither."""
        if quantity.unit is None:
            return math.log1p(self.ratio)
        return self.psnr if quantity.unit == "dB" else None


@dataclass(frozen=True)
class Place:
    """A setting at which more pairs could be run.

    pairs: that there are, each a replicate
    spread: standard deviation of its replicates; within all places where it has too few of its own
    seconds: of one more pair, its priors included
    """

    words: str
    pairs: int
    spread: float
    seconds: float

    def needed(self, half_width: float) -> int:
        """Pairs for that interval, were all of them made here."""
        return pairs_for(self.spread, half_width)

    def cost(self, half_width: float) -> float:
        return self.needed(half_width) * self.seconds


@dataclass(frozen=True)
class Foreseen:
    """What the test of a claim could see; widths are half intervals of 95 %, on the scale of
    `Effect.distance`.

    promised: what the first half of its replicates, as the run began them, let expect of as many
        as there are
    places: the one at which the wanted interval is cheapest first
    """

    judged: Judged
    measured: Measured
    effect: Effect
    half: float
    wanted: float
    promised: float | None
    places: Sequence[Place]


def foreseen(report: Report, found: Iterable[Judged], wanted: Wanted) -> list[Foreseen]:
    """Of each claim that was measured with an interval, in their order."""
    begun = {spec.unit: place for place, spec in enumerate(report.run.plan.units)}
    made = []
    for one in found:
        measured = one.measured
        if measured is None or (effect := measured.effect) is None or not measured.groups:
            continue
        ends, half = effect.distances(CONFIDENCE), wanted.of(measured.quantity)
        if ends is None or half is None:
            continue
        places = _places(report.under(one.protocol), measured.quantity, measured.groups)
        in_turn = sorted(
            measured.groups, key=lambda group: max(begun[side.record.unit] for side in group)
        )
        made.append(
            Foreseen(
                one,
                measured,
                effect,
                (ends[1] - ends[0]) / 2,
                half,
                _promised(_replicates(in_turn, measured.quantity)),
                sorted(places, key=lambda place: place.cost(half)),
            )
        )
    return made


def _replicates(groups: Sequence[Group], quantity: Quantity) -> list[float]:
    pairs = values(groups, quantity)
    return by_execution(pairs, [_distance(pair, quantity) for pair in pairs])


def _distance(pair: Pair, quantity: Quantity) -> float:
    is_ratio = quantity.unit is None
    return math.log(pair.other / pair.base) if is_ratio else pair.other - pair.base


def _promised(replicates: Sequence[float]) -> float | None:
    n = len(replicates)
    first = replicates[: n // 2]
    if len(first) < MIN_EXECUTIONS:
        return None
    return t_quantile(CONFIDENCE, n) * statistics.stdev(first) / math.sqrt(n)


def _places(part: Report, quantity: Quantity, groups: Sequence[Group]) -> list[Place]:
    cells: dict[str, list[Group]] = {}
    for group in groups:
        cells.setdefault(_place_words(part, group), []).append(group)
    measured = {words: _replicates(some, quantity) for words, some in cells.items()}
    pooled = _pooled(measured.values())
    return [
        Place(
            words,
            len(replicates),
            statistics.stdev(replicates) if len(replicates) >= MIN_EXECUTIONS else pooled,
            taken,
        )
        for words, replicates in measured.items()
        if pooled is not None and (taken := _seconds(cells[words])) is not None
    ]


def _place_words(part: Report, group: Group) -> str:
    """64 images, 1000 linear, 10 epochs; and the arm, where it is that of both sides."""
    first, other = group
    same = [
        str(first.settings[name])
        for name in ("train_on", "loader")
        if first.settings[name] == other.settings[name]
    ]
    epochs = f", {epochs_of(group)}"
    return f"{part.setting_words(first)}{epochs}{''.join(f', {one}' for one in same)}"


def _pooled(measured: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within the settings, of all that have several replicates; where none
    has, over all of them. None of a single one."""
    found = list(measured)
    several = [some for some in found if len(some) > 1] or [[one for some in found for one in some]]
    freedom = sum(len(some) - 1 for some in several)
    squares = math.fsum(statistics.variance(some) * (len(some) - 1) for some in several if freedom)
    return math.sqrt(squares / freedom) if freedom else None


def _seconds(groups: Sequence[Group]) -> float | None:
    """Of a pair: of all that its two bills hold, each once."""
    taken = [
        sum({**first.paid, **other.paid}.values())
        for first, other in groups
        if first.total_seconds is not None and other.total_seconds is not None
    ]
    return statistics.fmean(taken) if taken else None
