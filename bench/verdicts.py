"""From an effect to the word that it allows, beside its negative controls. scipy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy import special

from bench.stats import CONFIDENCE, Effect, t_quantile

LEVEL = 0.05
# Two one-sided tests, each at LEVEL, leave LEVEL out at either end.
EQUIVALENCE_CONFIDENCE = 0.9
# With six pairs the least sign-flip p is 2 / 2**6 = 0.031; with five it is never below 0.05.
MIN_PAIRS = 6
MIN_SEEDS = 3
# Times or losses that differ by at most 2 %, PSNRs by at most 0.3 dB, count as equal.
RATIO_MARGIN = 0.02
PSNR_MARGIN = 0.3

EQUAL = "equal"
NOT_DISTINGUISHABLE = "not distinguishable"
WITHHELD = "withheld"
TOO_FEW = "too few pairs"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Verdict:
    """A word, and what it rests on.

    word: one of the caller's two, EQUAL (within the margin), NOT_DISTINGUISHABLE (from no effect;
        `effect.half_width` is the smallest it could have seen), WITHHELD, TOO_FEW or NOT_MEASURED
    alone: the word without the controls; another one only where it is withheld
    control: the first that it is withheld for; None if that was not measured
    pairs_needed: see there; only where it is not distinguishable and has a margin
    seeds: of training, over which each value is a mean, where the replicate is something else
    """

    word: str
    effect: Effect | None
    margin: float | None
    alone: str
    control: Effect | None = None
    pairs_needed: int | None = None
    seeds: int | None = None


def judge(
    effect: Effect | None,
    *,
    margin: float | None,
    more: str,
    less: str,
    controls: Iterable[Effect | None] = (),
    of_seeds: bool = False,
    seeds: int | None = None,
    adjusted_p: float | None = None,
) -> Verdict:
    """The word for an effect; `more` and `less` are those of its two directions.

    EQUAL goes before them: an effect that surely exists and surely is within the margin is equal.
    With controls it stands if each of these is equal too. A direction stands if the near end of
    the 95 % interval is farther from no effect than the far end of each control's 90 % interval,
    on whichever side that lies: which run of a control came first says nothing. All else is
    withheld. Over independent, normal replicates at most 5 % of effects get a false word, even
    without controls; those are for what moves all the pairs of one factor alike.

    margin: as in `is_equal`; None: nothing is EQUAL
    controls: None stands for one that was not measured, and supports nothing
    of_seeds: the replicates are seeds of training, of which MIN_SEEDS are enough
    seeds: over how many seeds of training each value is a mean; below MIN_SEEDS it is TOO_FEW
    adjusted_p: `t_test_p` after `holm`, where the effect is one of several primary tests; above
        LEVEL no direction stands. EQUAL is at 5 % an effect, whatever their number
    Raises ValueError if a control is a ratio and the effect a difference, or the reverse.
    """
    if effect is None:
        return Verdict(NOT_MEASURED, None, margin, NOT_MEASURED)
    ends = effect.distances(CONFIDENCE)
    replicates = MIN_SEEDS if of_seeds else MIN_PAIRS
    few_seeds = seeds is not None and seeds < MIN_SEEDS
    if ends is None or effect.pairs < MIN_PAIRS or effect.n < replicates or few_seeds:
        return Verdict(TOO_FEW, effect, margin, TOO_FEW, seeds=seeds)
    near_end = max(ends[0], -ends[1])
    limit = 0.0 if margin is None else _margin_distance(effect, margin)
    equal = far_end(effect) < limit
    directed = near_end > 0 and (adjusted_p is None or adjusted_p <= LEVEL)
    if not equal and not directed:
        word, needed = NOT_DISTINGUISHABLE, None if margin is None else pairs_needed(effect, margin)
        return Verdict(word, effect, margin, word, pairs_needed=needed, seeds=seeds)
    word = EQUAL if equal else more if ends[0] > 0 else less
    for control in controls:
        if control is not None and control.is_ratio != effect.is_ratio:
            raise ValueError("controls must be ratios beside a ratio, else differences, got both")
        if control is None or far_end(control) >= (limit if equal else near_end):
            return Verdict(WITHHELD, effect, margin, word, control, seeds=seeds)
    return Verdict(word, effect, margin, word, seeds=seeds)


def is_equal(effect: Effect, margin: float) -> bool:
    """Two one-sided tests at 5 %: the 90 % interval lies within +-margin (Schuirmann 1987).

    margin: in the unit of a difference; of a ratio 0.02 is from 1 / 1.02 to 1.02
    """
    return far_end(effect) < _margin_distance(effect, margin)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p: the running maximum of min(1, (k - i) p_i), i = 0 the least of k (Holm 1979).

    Raises ValueError if a p is not from 0 to 1.
    """
    adjusted, highest = {}, 0.0
    for i, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        if not 0 <= p <= 1:
            raise ValueError(f"p of {name} must be from 0 to 1, got {p}")
        highest = max(highest, min(1.0, (len(ps) - i) * p))
        adjusted[name] = highest
    return {name: adjusted[name] for name in ps}


def pairs_needed(effect: Effect, margin: float, *, power: float = 0.8) -> int | None:
    """Independent pairs that would show equality, if there is no effect, in `power` of all tries.

    The least n, from MIN_PAIRS on, with (t(0.95, n - 1) + t((1 + power) / 2, n - 1)) s / sqrt(n)
    <= margin, where s is the spread seen (Chow, Shao and Wang, Sample Size Calculations in
    Clinical Research, section 3.1.3). They would also show an effect as large as the margin about
    as often; an effect of as many already lies near the margin. None without an interval.
    """
    if effect.standard_error is None:
        return None
    spread = effect.standard_error * math.sqrt(effect.n) / _margin_distance(effect, margin)
    # A t quantile is above the normal one, so fewer than with the latter are never enough.
    normal = special.ndtri(1 - LEVEL) + special.ndtri((1 + power) / 2)
    n = max(MIN_PAIRS, math.floor((normal * spread) ** 2))
    while (t_quantile(EQUIVALENCE_CONFIDENCE, n) + t_quantile(power, n)) * spread > math.sqrt(n):
        n += 1
    return n


def far_end(effect: Effect) -> float:
    """How far from no effect the 90 % interval reaches, on the scale of `Effect.distance`.

    Without an interval there is no end: infinity.
    """
    ends = effect.distances(EQUIVALENCE_CONFIDENCE)
    return max(map(abs, ends)) if ends else math.inf


def _margin_distance(effect: Effect, margin: float) -> float:
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be above 0 and finite, got {margin}")
    return math.log1p(margin) if effect.is_ratio else margin
