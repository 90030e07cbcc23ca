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
    by_execution,
    effect_of,
    fitted_exponent,
    paired_ratio,
    sign_flip_p,
)


def pairs_of(values: list[tuple[float, float]]) -> list[Pair]:
    """Each pair in two processes of its own."""
    return [
        Pair(base, other, frozenset({f"a{i}", f"b{i}"})) for i, (base, other) in enumerate(values)
    ]


def test_interval_is_the_closed_form() -> None:
    # Mean 2, sd 1, t(0.975, 2) = 4.302653.
    effect = effect_of([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert effect.mean == 2.0
    assert effect.low == pytest.approx(2 - half)
    assert effect.high == pytest.approx(2 + half)


@pytest.mark.parametrize("n", [2, 3, 7, 30])
def test_interval_is_scipys(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1.0, n)
    expected = scipy_stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    effect = effect_of(differences.tolist())
    assert (effect.low, effect.high) == pytest.approx((expected.low, expected.high))


def test_one_difference_has_no_interval() -> None:
    assert effect_of([0.5]) == Effect(0.5, None, None, 1, None, 1)


def test_no_difference_is_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        effect_of([])
    assert paired_ratio([]) is None


def test_zero_spread_is_an_interval_of_one_point() -> None:
    effect = effect_of([0.25] * 4)
    assert (effect.low, effect.mean, effect.high) == (0.25, 0.25, 0.25)


def test_ratio_is_the_geometric_mean() -> None:
    effect = paired_ratio(pairs_of([(1, 2), (1, 8), (2, 8)]))
    assert effect is not None
    assert effect.mean == pytest.approx((2 * 8 * 4) ** (1 / 3))
    logs = effect_of([math.log(2), math.log(8), math.log(4)])
    assert logs.low is not None
    assert effect.low == pytest.approx(math.exp(logs.low))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
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


def test_coverage_is_95_percent() -> None:
    draws = np.random.default_rng(0).normal(0.1, 1.0, (2000, 6))
    effects = [effect_of(draw.tolist()) for draw in draws]
    covered = np.mean(
        [e.low is not None and e.high is not None and e.low <= 0.1 <= e.high for e in effects]
    )
    # Three standard errors of a share of 0.95 over 2000 draws.
    assert abs(covered - 0.95) < 0.015


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
