"""Effects against closed forms, scipy, enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.stats import (
    Effect,
    Pair,
    Quad,
    by_execution,
    effect_of,
    exponents,
    fitted_exponent,
    paired_difference,
    paired_ratio,
    pairs_for,
    sign_flip_p,
    t_test_p,
    two_by_two,
)


def pairs_of(values: list[tuple[float, float]]) -> list[Pair]:
    """Each pair in two processes of its own."""
    return [
        Pair(base, other, frozenset({f"a{i}", f"b{i}"})) for i, (base, other) in enumerate(values)
    ]


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.01, 0.05, 0.3])
def test_pairs_for_an_interval_are_the_least_that_suffice(spread: float) -> None:
    def half(n: int) -> float:
        return float(scipy_stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)

    expected = next(n for n in itertools.count(3) if half(n) <= 0.02)
    assert pairs_for(spread, 0.02) == expected
    with pytest.raises(ValueError, match="half_width must be above 0, got 0"):
        pairs_for(spread, 0.0)


def test_interval_is_the_closed_form() -> None:
    # Mean 2, sd 1, t(0.975, 2) = 4.302653.
    effect = effect_of([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert effect.mean == 2.0
    assert effect.low == pytest.approx(2 - half)
    assert effect.high == pytest.approx(2 + half)


@pytest.mark.parametrize("n", [2, 3, 7, 30])
def test_intervals_and_p_are_scipys(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1.0, n)
    expected = scipy_stats.ttest_1samp(differences, 0)
    effect = effect_of(differences.tolist())
    for confidence in (0.9, 0.95):
        ends = expected.confidence_interval(confidence)
        assert effect.interval(confidence) == pytest.approx((ends.low, ends.high))
    assert (effect.low, effect.high) == pytest.approx(effect.interval(0.95))
    assert effect.half_width == pytest.approx((ends.high - ends.low) / 2)
    assert t_test_p(effect) == pytest.approx(expected.pvalue)


def test_difference_is_scipys_paired_test() -> None:
    base, other = np.random.default_rng(0).normal(20, 3, (2, 7))
    expected = scipy_stats.ttest_rel(other, base)
    effect = paired_difference(pairs_of(list(zip(base.tolist(), other.tolist(), strict=True))))
    assert effect is not None
    assert effect.mean == pytest.approx(float(np.mean(other - base)))
    assert (effect.low, effect.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert t_test_p(effect) == pytest.approx(expected.pvalue)
    assert not effect.is_ratio


def test_a_difference_takes_zero_and_below_but_only_what_is_finite() -> None:
    effect = paired_difference(pairs_of([(-1.0, 0.0), (0.0, 2.0), (-2.0, 1.0)]))
    assert effect is not None
    assert effect.mean == 2.0
    with pytest.raises(ValueError, match="finite values, got inf - 1"):
        paired_difference(pairs_of([(1.0, math.inf)]))


def test_a_difference_that_is_not_finite_leaves_no_interval() -> None:
    effect = effect_of([1.0, math.inf, 2.0])
    assert effect == Effect(math.inf, None, None, 3, None, 3)
    assert effect.interval(0.9) is None
    assert effect.half_width is None
    assert t_test_p(effect) is None


def test_one_difference_has_no_interval() -> None:
    assert effect_of([0.5]) == Effect(0.5, None, None, 1, None, 1)


def test_no_difference_is_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        effect_of([])
    assert paired_ratio([]) is None


def test_zero_spread_is_an_interval_of_one_point() -> None:
    effect = effect_of([0.25] * 4)
    assert (effect.low, effect.mean, effect.high) == (0.25, 0.25, 0.25)
    assert effect.interval(0.9) == (0.25, 0.25)
    assert effect.half_width == 0
    assert t_test_p(effect) == 0
    assert t_test_p(effect_of([0.0] * 4)) == 1


def test_ratio_is_the_geometric_mean() -> None:
    effect = paired_ratio(pairs_of([(1, 2), (1, 8), (2, 8)]))
    assert effect is not None
    assert effect.mean == pytest.approx((2 * 8 * 4) ** (1 / 3))
    logs = effect_of([math.log(2), math.log(8), math.log(4)])
    assert logs.low is not None and logs.half_width is not None
    assert effect.low == pytest.approx(math.exp(logs.low))
    assert effect.interval(0.95) == pytest.approx((effect.low, effect.high))
    assert effect.half_width == pytest.approx(math.exp(logs.half_width) - 1)
    assert t_test_p(effect) == pytest.approx(t_test_p(logs))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_ratio_refuses_what_has_no_logarithm(value: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        paired_ratio(pairs_of([(1.0, value)]))


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_sign_flip_p_is_the_enumeration(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1.0, n).tolist()
    observed = abs(sum(differences))
    patterns = itertools.product((1, -1), repeat=n)
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    assert sign_flip_p(differences) == pytest.approx(
        np.mean([total >= observed - 1e-12 for total in sums])
    )


@pytest.mark.parametrize("n", [4, 6, 10])
def test_sign_flip_p_is_scipys_permutation_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1.0, n)

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(values.mean(axis))

    expected = scipy_stats.permutation_test(
        [differences], mean, permutation_type="samples", n_resamples=2**n
    )
    assert sign_flip_p(differences.tolist()) == pytest.approx(expected.pvalue)


def test_sign_flip_p_of_the_published_times() -> None:
    # All six pairs on one side: 2 of 64 patterns.
    assert sign_flip_p([0.1, 0.08, 0.12, 0.19, 0.16, 0.14]) == 2 / 64
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([1.0] * 21) is None


def test_pairs_that_share_a_process_are_one_replicate() -> None:
    pairs = [
        Pair(1, 2, frozenset({"a", "priors"})),
        Pair(1, 4, frozenset({"b", "priors"})),
        Pair(1, 8, frozenset({"c"})),
    ]
    assert sorted(by_execution(pairs, [1.0, 3.0, 8.0])) == [2.0, 8.0]


def test_a_chain_of_shared_processes_is_one_replicate() -> None:
    chain = [frozenset({"a", "b"}), frozenset({"c", "d"}), frozenset({"b", "c"})]
    assert by_execution([Pair(1, 1, link) for link in chain], [1.0, 2.0, 6.0]) == [3.0]


def test_one_measurement_charged_to_many_cases_has_no_interval() -> None:
    shared = [Pair(1, 5 + 0.1 * i, frozenset({f"run{i}", "priors"})) for i in range(6)]
    effect = paired_ratio(shared)
    assert effect is not None
    assert (effect.n, effect.pairs, effect.low, effect.p) == (1, 6, None, None)


@pytest.mark.parametrize(("n", "has_interval"), [(1, False), (2, False), (3, True)])
def test_an_interval_needs_three_executions(n: int, has_interval: bool) -> None:
    effect = paired_ratio(pairs_of([(1.0, 1.1 + i / 10) for i in range(n)]))
    assert effect is not None
    assert (effect.low is not None) is has_interval
    assert (effect.interval(0.9) is not None) is has_interval


@pytest.mark.parametrize("n", [3, 6, 10])
def test_interval_and_p_hold_their_level(n: int) -> None:
    draws = np.random.default_rng(n).normal(0.1, 1.0, (2000, n))
    effects = [effect_of(draw.tolist()) for draw in draws]
    covered = [e.low is not None and e.high is not None and e.low <= 0.1 <= e.high for e in effects]
    assert 0.93 < np.mean(covered) < 0.97
    nulls = [t_test_p(effect_of(draw.tolist())) for draw in draws - 0.1]
    assert 0.03 < np.mean([p is not None and p < 0.05 for p in nulls]) < 0.07


def test_values_of_one_process_raise_no_false_alarm() -> None:
    """A-vs-A: six pairs of processes with a speed of their own, five values each."""
    generator = np.random.default_rng(1)
    alarms = naive = 0
    for _ in range(1000):
        speeds = generator.normal(0, 0.02, (6, 2))
        values = np.exp(speeds[:, :, None] + generator.normal(0, 0.005, (6, 2, 5)))
        pairs = [
            Pair(values[unit, 0, i], values[unit, 1, i], frozenset({f"a{unit}", f"b{unit}"}))
            for unit in range(6)
            for i in range(5)
        ]
        effect = paired_ratio(pairs)
        assert effect is not None
        assert effect.low is not None
        assert effect.high is not None
        alarms += not effect.low <= 1 <= effect.high
        logs = effect_of([math.log(pair.other / pair.base) for pair in pairs])
        assert logs.low is not None
        assert logs.high is not None
        naive += not logs.low <= 0 <= logs.high
    assert 0.03 < alarms / 1000 < 0.07
    assert naive / 1000 > 0.2  # what averaging first is for


def test_exponent_of_a_power_law() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    fit = fitted_exponent(x, [3 * value**1.5 for value in x])
    assert fit is not None
    assert (fit.mean, fit.low, fit.high) == pytest.approx((1.5, 1.5, 1.5))
    assert fitted_exponent([1.0, 2.0, 2.0], [1.0, 2.0, 2.1]) is None
    # Of logarithms 0, 1, 2 against 0, 1, 3: slope 3/2, residuals 1/6, -1/3, 1/6; s^2 = 1/6 over one
    # degree of freedom, of the slope 1/6 / 2; t(0.975, 1) = 12.706.
    fit = fitted_exponent(np.exp([0.0, 1.0, 2.0]).tolist(), np.exp([0.0, 1.0, 3.0]).tolist())
    assert fit is not None and fit.low is not None
    assert fit.mean - fit.low == pytest.approx(12.706204736432095 * math.sqrt(1 / 12))


def test_exponents_of_many_lines_are_those_of_each() -> None:
    draw = np.random.default_rng(0)
    x = [1.0, 3.0, 4.0, 9.0]
    ys = draw.uniform(0.1, 10, (20, 4)).tolist()
    fits = [fitted_exponent(x, y) for y in ys]
    assert exponents(x, ys) == pytest.approx([fit.mean for fit in fits if fit])
    assert exponents([1.0, 2.0, 2.0], [[1.0, 2.0, 3.0]]) == []


def quads_of(values: np.ndarray) -> list[Quad]:
    """(n, 4) logarithms, in the order of the fields, each quad in processes of its own."""
    return [
        Quad(neither, a, b, both, frozenset({f"unit{i}"}))
        for i, (neither, a, b, both) in enumerate(np.exp(values).tolist())
    ]


def test_two_by_two_is_least_squares_on_logarithms() -> None:
    """Effects coded -1/2 and 1/2, so that a main effect is that at the mean of the other factor."""
    logs = np.random.default_rng(0).normal(0, 0.3, (7, 4))
    a, b = np.array([-0.5, 0.5, -0.5, 0.5]), np.array([-0.5, -0.5, 0.5, 0.5])
    design = np.stack([np.ones(4), a, b, a * b], axis=1)
    fits = np.linalg.lstsq(design, logs.T)[0][1:]  # (3, 7): the coefficients of each quad
    found = two_by_two(quads_of(logs))
    assert found is not None
    for effect, coefficients in zip((found.a, found.b, found.interaction), fits, strict=True):
        expected = effect_of(coefficients.tolist()).as_ratio()
        assert (effect.mean, effect.low, effect.high) == pytest.approx(
            (expected.mean, expected.low, expected.high)
        )
        assert (effect.n, effect.pairs, effect.is_ratio) == (7, 7, True)


def test_two_by_two_takes_the_loader_from_dip() -> None:
    """Decoding costs 30 %, DIP 1 %, and both together 5 % more than the two."""
    plain = np.linspace(1, 2, 6)
    values = np.log(np.stack([plain, plain * 1.01, plain * 1.3, plain * 1.01 * 1.3 * 1.05], axis=1))
    found = two_by_two(quads_of(values))
    assert found is not None
    assert found.a.mean == pytest.approx(1.01 * math.sqrt(1.05))
    assert found.b.mean == pytest.approx(1.3 * math.sqrt(1.05))
    assert found.interaction.mean == pytest.approx(1.05)
    # (dip, memory) / (images, decode) is what was published: all of it is called DIP's.
    assert 1.01 / 1.3 < 0.8 < 1 < found.a.mean


def test_quads_that_share_a_process_are_one_replicate() -> None:
    shared = [Quad(1, 2, 3, 4 + i, frozenset({f"unit{i}", "priors"})) for i in range(6)]
    found = two_by_two(shared)
    assert found is not None
    assert (found.a.n, found.a.pairs, found.a.low) == (1, 6, None)
    assert two_by_two([]) is None
    with pytest.raises(ValueError, match="above 0, got 0"):
        two_by_two([Quad(1, 0, 1, 1, frozenset({"unit"}))])
