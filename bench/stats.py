"""Effects from pairs: the mean, its interval, and its p. numpy and scipy only.

The replicate is the execution: what was measured in one fresh process is one value, however many
outcomes share it. With fewer than three of them there is no interval, however many cells there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

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
class Quad:
    """Four values that differ in two factors, a and b, only, and their processes."""

    neither: float
    a: float
    b: float
    both: float
    executions: frozenset[str]


@dataclass(frozen=True)
class Effect:
    """The mean of n replicates, made of `pairs`; without an interval `low` and `high` are None.

    A difference, in logarithms or in the unit of the values, or, after `as_ratio`, a ratio.

    low, high: the 95 % interval
    p: of the sign flips
    standard_error: of the mean, of a ratio that of its logarithm; None without an interval, and
        for a slope
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    pairs: int
    standard_error: float | None = None
    is_ratio: bool = False

    def as_ratio(self) -> Effect:
        """From logarithms to ratios."""
        low, high = (None if end is None else math.exp(end) for end in (self.low, self.high))
        return replace(self, mean=math.exp(self.mean), low=low, high=high, is_ratio=True)

    @property
    def distance(self) -> float:
        """The mean on the scale where no effect is 0 and the interval is symmetric."""
        return math.log(self.mean) if self.is_ratio else self.mean

    def distances(self, confidence: float) -> tuple[float, float] | None:
        """The ends of an interval on the scale of `distance`: distance -+ t * standard error."""
        if self.standard_error is None:
            return None
        half = t_quantile(confidence, self.n) * self.standard_error
        return self.distance - half, self.distance + half

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The same in the unit of `mean`."""
        ends = self.distances(confidence)
        return (math.exp(ends[0]), math.exp(ends[1])) if ends and self.is_ratio else ends

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval: the smallest effect it could have seen; of a ratio 0.02 is 2 %."""
        if self.standard_error is None:
            return None
        half = t_quantile(CONFIDENCE, self.n) * self.standard_error
        return math.expm1(half) if self.is_ratio else half


def paired_ratio(pairs: Iterable[Pair]) -> Effect | None:
    """other / base, as the mean of the log-ratios; None without a pair.

    Raises ValueError if a value is not above 0 or not finite.
    """
    found = list(pairs)
    return _ratio(found, [_log_ratio(pair.other, pair.base) for pair in found])


def paired_difference(pairs: Iterable[Pair]) -> Effect | None:
    """other - base, the mean over the pairs, for scores in dB or KID; None without a pair.

    Raises ValueError if a value is not finite.
    """
    found = list(pairs)
    for pair in found:
        if not (math.isfinite(pair.base) and math.isfinite(pair.other)):
            raise ValueError(f"a difference needs finite values, got {pair.other} - {pair.base}")
    return _over_executions(found, [pair.other - pair.base for pair in found])


@dataclass(frozen=True)
class TwoByTwo:
    """Ratios: with a / without a, with b / without b, a's ratio with b / a's ratio without b."""

    a: Effect
    b: Effect
    interaction: Effect


def two_by_two(quads: Iterable[Quad]) -> TwoByTwo | None:
    """Main effects and interaction of two factors, as contrasts of logarithms; None without a quad.

    In logarithms, after Yates 1937, The design and analysis of factorial experiments:
    a = ((a - neither) + (both - b)) / 2, b likewise, interaction = (both - b) - (a - neither).
    Yates halves the interaction as well; whole it is a ratio of two ratios.
    Raises ValueError if a value is not above 0 or not finite.
    """
    found = list(quads)
    if not found:
        return None
    a_alone = np.array([_log_ratio(quad.a, quad.neither) for quad in found])
    a_with_b = np.array([_log_ratio(quad.both, quad.b) for quad in found])
    b_alone = np.array([_log_ratio(quad.b, quad.neither) for quad in found])
    b_with_a = np.array([_log_ratio(quad.both, quad.a) for quad in found])
    contrasts = (a_alone + a_with_b) / 2, (b_alone + b_with_a) / 2, a_with_b - a_alone
    a, b, interaction = (_ratio(found, contrast.tolist()) for contrast in contrasts)
    assert a is not None and b is not None and interaction is not None
    return TwoByTwo(a, b, interaction)


def effect_of(differences: Sequence[float], *, signs: bool = True) -> Effect:
    """Mean, paired-t interval (Student 1908) and sign-flip p of independent differences.

    signs: whether their signs mean something; else there is no p

    One difference has no interval, nor have differences of which one is not finite; differences
    without any spread have an interval of one point. Raises ValueError if there is none.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if not n:
        raise ValueError("an effect needs at least one difference, got none")
    mean = float(values.mean())
    if n < 2 or not np.isfinite(values).all():
        return Effect(mean, None, None, n, None, n)
    error = 0.0 if np.ptp(values) == 0 else float(values.std(ddof=1)) / math.sqrt(n)
    half = t_quantile(CONFIDENCE, n) * error
    p = sign_flip_p(values.tolist()) if signs else None
    return Effect(mean, mean - half, mean + half, n, p, n, error)


def t_quantile(confidence: float, n: int) -> float:
    """Half the width of a two-sided interval over n values, in standard errors of their mean."""
    return float(special.stdtrit(n - 1, (1 + confidence) / 2))


def pairs_for(spread: float, half_width: float) -> int:
    """The least n, from MIN_EXECUTIONS on, with t(0.95, n - 1) spread / sqrt(n) <= half_width.

    spread: standard deviation of a replicate; both in the unit of `Effect.distance`
    Raises ValueError if the half-width is not above 0.
    """
    if not half_width > 0:
        raise ValueError(f"half_width must be above 0, got {half_width}")
    # A t quantile is above the normal one, so fewer than with the latter are never enough.
    normal = float(special.ndtri((1 + CONFIDENCE) / 2))
    n = max(MIN_EXECUTIONS, math.floor((normal * spread / half_width) ** 2))
    while t_quantile(CONFIDENCE, n) * spread > half_width * math.sqrt(n):
        n += 1
    return n


def t_test_p(effect: Effect) -> float | None:
    """Two-sided p of no effect by the paired t (Student 1908); None without an interval.

    Below 0.05 just where the 95 % interval leaves no effect out; what Holm corrects.
    """
    if effect.standard_error is None:
        return None
    if effect.standard_error == 0:
        return 1.0 if effect.distance == 0 else 0.0
    return float(2 * special.stdtr(effect.n - 1, -abs(effect.distance) / effect.standard_error))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided: the share of all sign patterns whose sum is at least as far from 0 as this one.

    Fisher 1935, The Design of Experiments, section 21. None above MAX_EXACT differences.
    """
    if len(differences) > MAX_EXACT:
        return None
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    # Sums that are equal on paper may differ in the last bit.
    slack = 1e-12 * sum(map(abs, differences))
    return float(np.mean(np.abs(sums) >= abs(sum(differences)) - slack))


def by_execution(measured: Sequence[Pair | Quad], differences: Sequence[float]) -> list[float]:
    """One value for each set of pairs, or of quads, that share an execution: their mean.

    Those with a common process are not independent: what slowed it moved all of them. In the order
    of the first of each set.
    """
    above: dict[str, str] = {}

    def root(execution: str) -> str:
        while (next_ := above.setdefault(execution, execution)) != execution:
            above[execution] = above[next_]
            execution = next_
        return execution

    for one in measured:
        first, *others = one.executions
        for other in others:
            above[root(other)] = root(first)
    groups: dict[str, list[float]] = {}
    for one, difference in zip(measured, differences, strict=True):
        groups.setdefault(root(next(iter(one.executions))), []).append(difference)
    return [math.fsum(values) / len(values) for values in groups.values()]


def _log_ratio(other: float, base: float) -> float:
    if not (0 < base < math.inf and 0 < other < math.inf):
        raise ValueError(f"a ratio needs finite values above 0, got {other} / {base}")
    return math.log(other / base)


def _ratio(measured: Sequence[Pair | Quad], logs: Sequence[float]) -> Effect | None:
    effect = _over_executions(measured, logs)
    return effect and effect.as_ratio()


def over_replicates(values: Sequence[float], *, signs: bool = True) -> Effect:
    """As `effect_of`, without an interval below MIN_EXECUTIONS."""
    effect = effect_of(values, signs=signs)
    if effect.n >= MIN_EXECUTIONS:
        return effect
    return replace(effect, low=None, high=None, p=None, standard_error=None)


def geometric_mean(values: Sequence[float]) -> Effect:
    """As `over_replicates`, in logarithms: of what is above 0, so is the whole interval. No p.

    Raises ValueError if a value is not above 0.
    """
    return over_replicates([math.log(value) for value in values], signs=False).as_ratio()


def _over_executions(
    measured: Sequence[Pair | Quad], differences: Sequence[float]
) -> Effect | None:
    values = by_execution(measured, differences)
    return replace(over_replicates(values), pairs=len(measured)) if values else None


def exponents(x: Sequence[float], ys: Sequence[Sequence[float]]) -> list[float]:
    """The b of y = a x^b of each of many y over the same x, as `fitted_exponent` has it and a
    hundred times as quick; none below three different x."""
    if len(set(x)) < 3:
        return []
    centred = np.log(x) - np.log(x).mean()
    found: list[float] = (np.log(ys) @ centred / (centred @ centred)).tolist()
    return found


def fitted_exponent(x: Sequence[float], y: Sequence[float]) -> Effect | None:
    """The b of y = a x^b by least squares on logarithms; None below three different x.

    The interval is that of the fit, over the points, and None if they leave no freedom.
    """
    if len(set(x)) < 3:
        return None
    fit = stats.linregress(np.log(x), np.log(y))
    slope, freedom = float(fit.slope), len(x) - 2
    half = t_quantile(CONFIDENCE, freedom + 1) * float(fit.stderr)
    return Effect(slope, slope - half, slope + half, len(x), None, len(x))
