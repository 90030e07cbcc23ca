"""Effects from pairs: the mean, its 95 % interval, and the exact sign-flip p. numpy and scipy only.

The replicate is the execution: what was measured in one fresh process is one value, however many
outcomes share it. With fewer than three of them there is no interval, however many cells there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
MIN_EXECUTIONS = 3
# 2**20 sign patterns are counted in a tenth of a second; beyond that nobody needs an exact p.
MAX_EXACT = 20


@dataclass(frozen=True)
class Pair:
    """Two values that differ in one factor only, and the processes that both were measured in."""

    base: float
    other: float
    executions: frozenset[str]


@dataclass(frozen=True)
class Effect:
    """The mean of n replicates, made of `pairs`; without an interval `low` and `high` are None.

    A difference, in logarithms or in the unit of the values, or, after `as_ratio`, a ratio.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    pairs: int

    def as_ratio(self) -> Effect:
        """From logarithms to ratios."""
        low, high = (None if end is None else math.exp(end) for end in (self.low, self.high))
        return replace(self, mean=math.exp(self.mean), low=low, high=high)


def paired_ratio(pairs: Iterable[Pair], *, confidence: float = CONFIDENCE) -> Effect | None:
    """other / base, as the mean of the log-ratios; None without a pair.

    Raises ValueError if a value is not above 0.
    """
    found = list(pairs)
    for pair in found:
        if not (pair.base > 0 and pair.other > 0):
            raise ValueError(f"a ratio needs values above 0, got {pair.other} / {pair.base}")
    logs = [math.log(pair.other / pair.base) for pair in found]
    effect = _over_executions(found, logs, confidence)
    return effect and effect.as_ratio()


def effect_of(differences: Sequence[float], *, confidence: float = CONFIDENCE) -> Effect:
    """Mean, paired-t interval and sign-flip p of independent differences.

    One difference has no interval; differences without any spread have an interval of one point.
    Raises ValueError if there is none.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if not n:
        raise ValueError("an effect needs at least one difference, got none")
    mean = float(values.mean())
    if n < 2:
        return Effect(mean, None, None, n, None, n)
    spread = 0.0 if np.ptp(values) == 0 else float(values.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread
    return Effect(mean, mean - half, mean + half, n, sign_flip_p(values.tolist()), n)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided: the share of all sign patterns whose sum is at least as far from 0 as this one.

    None above MAX_EXACT differences.
    """
    if len(differences) > MAX_EXACT:
        return None
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    # Sums that are equal on paper may differ in the last bit.
    slack = 1e-12 * sum(map(abs, differences))
    return float(np.mean(np.abs(sums) >= abs(sum(differences)) - slack))


def by_execution(pairs: Sequence[Pair], differences: Sequence[float]) -> list[float]:
    """One value for each set of pairs that share an execution: their mean.

    Pairs with a common process are not independent: what slowed it moved all of them.
    """
    groups: list[tuple[set[str], list[float]]] = []
    for pair, difference in zip(pairs, differences, strict=True):
        executions, values = set(pair.executions), [difference]
        apart = []
        for group in groups:
            if group[0] & executions:
                executions |= group[0]
                values = group[1] + values
            else:
                apart.append(group)
        groups = [*apart, (executions, values)]
    return [math.fsum(values) / len(values) for _, values in groups]


def _over_executions(
    pairs: Sequence[Pair], differences: Sequence[float], confidence: float
) -> Effect | None:
    values = by_execution(pairs, differences)
    if not values:
        return None
    effect = replace(effect_of(values, confidence=confidence), pairs=len(pairs))
    return effect if effect.n >= MIN_EXECUTIONS else replace(effect, low=None, high=None, p=None)


def fitted_exponent(x: Sequence[float], y: Sequence[float]) -> Effect | None:
    """The b of y = a x^b by least squares on logarithms; None below three different x.

    The interval is that of the fit, over the points, and None if they leave no freedom.
    """
    if len(set(x)) < 3:
        return None
    fit = stats.linregress(np.log(x), np.log(y))
    slope, freedom = float(fit.slope), len(x) - 2
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * float(fit.stderr)
    return Effect(slope, slope - half, slope + half, len(x), None, len(x))
