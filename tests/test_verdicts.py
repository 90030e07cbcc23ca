"""Verdicts against scipy, brute force, and the rate of false words in simulated experiments."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.stats import Effect, effect_of, t_test_p
from bench.verdicts import (
    EQUAL,
    NOT_DISTINGUISHABLE,
    NOT_MEASURED,
    RATIO_MARGIN,
    TOO_FEW,
    WITHHELD,
    Verdict,
    holm,
    is_equal,
    judge,
    pairs_needed,
)

DRAWS = 2000
# Three standard errors of a share of 0.05 over the draws.
FALSE_AT_MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
MARGIN = math.log1p(RATIO_MARGIN)

# Log-ratios of training seconds an image in three runs of the quick suite on two cores: the same
# case again, then DIP outputs against images from memory or decoded, which is the same work.
RECORDED = np.array(
    [
        *(0.0511, 0.0346, -0.0445),
        *(0.0105, 0.1308, -0.0340, -0.0939, -0.0322, 0.1853, -0.0572),
        *(0.0247, -0.0732, -0.0220, 0.0208, 0.0279, 0.0411, 0.0051),
        *(0.0272, -0.0984, 0.0602, -0.0482, -0.0238, 0.0473, -0.0128),
    ]
)


def noise(kind: str, size: tuple[int, ...], seed: int) -> np.ndarray:
    """Log-ratios around 0: which of two runs is the base is a coin's toss."""
    generator = np.random.default_rng(seed)
    if kind == "normal":
        return generator.normal(0, 0.02, size)
    if kind == "heavy":
        return generator.standard_t(3, size) * 0.015
    return np.asarray(generator.choice(RECORDED, size) * generator.choice([-1.0, 1.0], size))


def timed(effect: Effect | None, **options: Any) -> Verdict:
    """Judged as a ratio of times, but for the options."""
    return judge(effect, **{"margin": RATIO_MARGIN, "more": "slower", "less": "faster", **options})


def ratios(logs: np.ndarray) -> list[Effect]:
    """(draws, n) log-ratios -> an effect a draw."""
    return [effect_of(draw).as_ratio() for draw in logs.tolist()]


def steady(ratio: float, n: int = 6, spread: float = 0.001) -> Effect:
    """A ratio over n pairs with as good as no noise, but some."""
    return effect_of([math.log(ratio) + spread * (-1) ** i for i in range(n)]).as_ratio()


def share(verdicts: Iterable[Verdict], *words: str) -> float:
    return float(np.mean([verdict.word in words for verdict in verdicts]))


def judged_beside(effects: list[Effect], controls: list[Effect]) -> list[Verdict]:
    """Each beside one control of its own."""
    return [timed(e, controls=[c]) for e, c in zip(effects, controls, strict=True)]


# Equality --------------------------------------------------------------------------------------


def test_equality_is_scipys_two_one_sided_tests() -> None:
    draws = np.random.default_rng(0).normal(0.01, 0.015, (200, 6))
    for draw, effect in zip(draws, ratios(draws), strict=True):
        above = scipy_stats.ttest_1samp(draw, -MARGIN, alternative="greater").pvalue
        below = scipy_stats.ttest_1samp(draw, MARGIN, alternative="less").pvalue
        assert is_equal(effect, RATIO_MARGIN) == (max(above, below) < 0.05)
        assert is_equal(effect_of(draw.tolist()), MARGIN) == (max(above, below) < 0.05)
    assert 20 < sum(is_equal(effect, RATIO_MARGIN) for effect in ratios(draws)) < 180


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("n", [3, 6, 10])
def test_false_equality_at_the_margin(n: int, side: int) -> None:
    draws = np.random.default_rng(n).normal(side * MARGIN, 0.01, (DRAWS, n))
    found = np.mean([is_equal(effect, RATIO_MARGIN) for effect in ratios(draws)])
    assert found < FALSE_AT_MOST
    assert found > 0.03 or n == 3  # where the noise is small it is 5 %, not 0


def test_true_equality_is_found() -> None:
    draws = np.random.default_rng(0).normal(0, 0.01, (DRAWS, 6))
    assert np.mean([is_equal(effect, RATIO_MARGIN) for effect in ratios(draws)]) > 0.95


def test_equality_without_spread() -> None:
    assert is_equal(effect_of([0.0] * 6).as_ratio(), 1e-12)
    assert is_equal(effect_of([0.25] * 6), 0.3)
    assert not is_equal(effect_of([0.3] * 6), 0.3)
    assert not is_equal(effect_of([0.0]), 0.3)  # no interval


@pytest.mark.parametrize("margin", [0.0, -0.02, math.nan, math.inf])
def test_a_margin_is_above_zero(margin: float) -> None:
    with pytest.raises(ValueError, match="margin must be above 0 and finite, got"):
        is_equal(steady(1.0), margin)


# Holm ------------------------------------------------------------------------------------------


def rejected(ps: dict[str, float], level: float) -> set[str]:
    """The step-down rule as it is told: the least p against level / k, the next / (k - 1), ..."""
    left, found = dict(ps), set[str]()
    while left:
        least = min(left, key=left.__getitem__)
        if left[least] > level / len(left):
            break
        found.add(least)
        del left[least]
    return found


def test_holm_is_the_step_down_rule() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        ps = {f"claim {i}": float(p) for i, p in enumerate(generator.beta(0.3, 2, 8))}
        adjusted = holm(ps)
        assert list(adjusted) == list(ps)
        for level in (0.01, 0.05, 0.2, 0.9):
            assert {name for name, p in adjusted.items() if p <= level} == rejected(ps, level)


def test_holm_by_hand() -> None:
    expected = {"b": 0.06, "a": 0.03, "c": 0.06, "d": 0.9}
    assert holm({"b": 0.03, "a": 0.0075, "c": 0.02, "d": 0.9}) == pytest.approx(expected)
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    with pytest.raises(ValueError, match="p of a must be from 0 to 1, got"):
        holm({"a": 1.5})


def test_holm_keeps_the_level_of_eight_claims() -> None:
    """Verdicts on eight effects that are none; without Holm a third of all reports would err."""
    draws = np.random.default_rng(0).normal(0, 0.03, (DRAWS, 8, 6))
    wrong = wrong_alone = 0
    for family in draws:
        effects = {str(i): effect for i, effect in enumerate(ratios(family))}
        ps = {name: p for name, effect in effects.items() if (p := t_test_p(effect)) is not None}
        adjusted = holm(ps)
        verdicts = [timed(e, margin=None, adjusted_p=adjusted[i]) for i, e in effects.items()]
        wrong += share(verdicts, NOT_DISTINGUISHABLE) < 1
        wrong_alone += min(ps.values()) < 0.05
    assert 0.02 < wrong / DRAWS < FALSE_AT_MOST
    assert wrong_alone / DRAWS > 0.3


# Planning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.001, 0.02, 0.05, 0.3])
def test_pairs_needed_is_the_least_that_suffice(spread: float) -> None:
    effect = effect_of([spread, -spread, spread, -spread, 0.0]).as_ratio()
    sd = spread  # sqrt(4 spread^2 / (5 - 1))

    def suffice(n: int) -> bool:
        quantiles = float(scipy_stats.t.ppf(0.95, n - 1) + scipy_stats.t.ppf(0.9, n - 1))
        return quantiles * sd / math.sqrt(n) <= MARGIN

    expected = next(n for n in range(6, 10**5) if suffice(n))
    assert pairs_needed(effect, RATIO_MARGIN) == expected


def test_pairs_needed_decide_either_way() -> None:
    effect = effect_of([0.03, -0.03, 0.03, -0.03, 0.0]).as_ratio()
    needed = pairs_needed(effect, RATIO_MARGIN)
    assert needed is not None and 15 < needed < 30
    draws = np.random.default_rng(0).normal(0, 0.03, (DRAWS, needed))
    assert share(map(timed, ratios(draws)), EQUAL) > 0.77
    assert share(map(timed, ratios(draws + MARGIN)), "slower") > 0.77


def test_pairs_needed_without_spread_or_interval() -> None:
    assert pairs_needed(effect_of([0.1] * 3), 0.3) == 6
    assert pairs_needed(effect_of([0.1]), 0.3) is None


# Verdicts --------------------------------------------------------------------------------------


def noisy(ratio: float) -> Effect:
    return steady(ratio, spread=0.03)


@pytest.mark.parametrize(
    ("effect", "controls", "word", "alone"),
    [
        (None, [], NOT_MEASURED, NOT_MEASURED),
        (steady(1.1, n=5), [], TOO_FEW, TOO_FEW),
        (effect_of([0.1]).as_ratio(), [], TOO_FEW, TOO_FEW),
        (steady(1.1), [], "slower", "slower"),
        (steady(0.9), [], "faster", "faster"),
        (steady(1.01), [], EQUAL, EQUAL),
        (noisy(1.0), [], NOT_DISTINGUISHABLE, NOT_DISTINGUISHABLE),
        (noisy(1.0), [steady(1.5)], NOT_DISTINGUISHABLE, NOT_DISTINGUISHABLE),
        # The control shows as much, to the one side or the other, or nothing at all.
        (steady(1.1), [steady(1.0)], "slower", "slower"),
        (steady(1.1), [steady(1.05), steady(1 / 1.05)], "slower", "slower"),
        (steady(1.1), [steady(1.0), steady(1.12)], WITHHELD, "slower"),
        (steady(1.1), [steady(1 / 1.12)], WITHHELD, "slower"),
        (steady(0.9), [noisy(1.1)], WITHHELD, "faster"),
        (steady(1.1), [None], WITHHELD, "slower"),
        (steady(1.1), [steady(1.0, n=1)], WITHHELD, "slower"),
        (steady(1.0), [steady(1.01)], EQUAL, EQUAL),
        (steady(1.0), [steady(1.0), steady(1.03)], WITHHELD, EQUAL),
        (steady(1.0), [noisy(1.0)], WITHHELD, EQUAL),
        (steady(1.0), [None], WITHHELD, EQUAL),
        # Bit-identical repeats.
        (effect_of([0.0] * 6).as_ratio(), [effect_of([0.0] * 6).as_ratio()], EQUAL, EQUAL),
        (effect_of([0.1] * 6).as_ratio(), [effect_of([0.0] * 6).as_ratio()], "slower", "slower"),
        (effect_of([0.1] * 6).as_ratio(), [effect_of([0.1] * 6).as_ratio()], WITHHELD, "slower"),
    ],
)
def test_words(effect: Effect | None, controls: list[Effect | None], word: str, alone: str) -> None:
    verdict = timed(effect, controls=controls)
    assert (verdict.word, verdict.alone) == (word, alone)
    assert verdict.effect is effect
    assert verdict.margin == RATIO_MARGIN
    if word == WITHHELD:
        assert verdict.control is controls[-1]
    assert (verdict.pairs_needed is not None) == (word == NOT_DISTINGUISHABLE)


def test_an_interval_beyond_the_controls_mean_but_not_its_far_end_is_withheld() -> None:
    control = noisy(1.0)
    ends = control.interval(0.9)
    assert ends is not None
    assert timed(steady(ends[1] - 0.002), controls=[control]).word == WITHHELD
    assert timed(steady(ends[1] + 0.004), controls=[control]).word == "slower"


def test_words_of_a_difference() -> None:
    gain = effect_of([0.9, 1.1, 1.0, 1.2, 0.8, 1.0])
    flat = effect_of([0.1, 0.0, -0.1])
    scores = {"more": "higher", "less": "lower"}
    assert timed(gain, margin=0.3, **scores).word == "higher"
    assert timed(gain, margin=1.5, **scores).word == EQUAL
    assert timed(gain, margin=None, controls=[flat], **scores).word == "higher"
    assert timed(flat, margin=0.3, **scores).word == TOO_FEW
    with pytest.raises(ValueError, match="controls must be ratios beside a ratio"):
        timed(gain, margin=0.3, controls=[steady(1.0)])


def test_without_a_margin_nothing_is_equal() -> None:
    verdict = timed(effect_of([0.0] * 6).as_ratio(), margin=None)
    assert (verdict.word, verdict.pairs_needed) == (NOT_DISTINGUISHABLE, None)


def test_quality_needs_six_pairs_of_three_seeds() -> None:
    three = steady(1.1, n=3)
    of_six = Effect(**{**vars(three), "pairs": 6})
    of_two = Effect(**{**vars(steady(1.1, n=2)), "pairs": 6})
    assert timed(of_six, of_seeds=True).word == "slower"
    assert timed(of_six).word == TOO_FEW
    assert timed(three, of_seeds=True).word == TOO_FEW
    assert timed(of_two, of_seeds=True).word == TOO_FEW


def test_a_direction_stands_after_holm_only() -> None:
    assert timed(steady(1.1), adjusted_p=0.05).word == "slower"
    assert timed(steady(1.1), adjusted_p=0.06).word == NOT_DISTINGUISHABLE


@pytest.mark.parametrize("kind", ["normal", "heavy", "recorded"])
@pytest.mark.parametrize("n", [6, 10])
def test_false_alarms_of_the_whole_procedure(kind: str, n: int) -> None:
    """No effect; the control is drawn like it."""
    effects, controls = (ratios(noise(kind, (DRAWS, n), seed)) for seed in (n, n + 1))
    assert share(map(timed, effects), "slower", "faster") < FALSE_AT_MOST
    beside = judged_beside(effects, controls)
    assert share(beside, "slower", "faster") < 0.02


def test_alarms_without_a_margin_or_a_control_are_five_percent() -> None:
    words = [timed(e, margin=None).word for e in ratios(noise("normal", (DRAWS, 6), 0))]
    for word in ("slower", "faster"):
        assert 0.015 < np.mean([found == word for found in words]) < 0.035


def test_no_false_word_at_the_margin() -> None:
    """An effect as large as the margin, whatever the noise: neither equal nor the reverse."""
    for spread in (0.2, 1.0, 3.0):
        effects = ratios(MARGIN + spread * noise("normal", (DRAWS, 6), 2))
        assert share(map(timed, effects), EQUAL, "faster") < FALSE_AT_MOST


@pytest.mark.parametrize("kind", ["normal", "heavy", "recorded"])
def test_what_moves_the_control_alike_is_withheld(kind: str) -> None:
    """What comes second is 5 % slower, in the control as in the effect."""
    effects, controls = (ratios(0.05 + noise(kind, (DRAWS, 6), seed)) for seed in (0, 1))
    beside = judged_beside(effects, controls)
    assert share(beside, "slower", "faster") < FALSE_AT_MOST
    assert share(map(timed, effects), "slower") > (0.2 if kind == "recorded" else 0.9)


def test_a_true_effect_is_told_beside_its_control() -> None:
    effects, controls = (ratios(noise("normal", (DRAWS, 6), seed) + 0.1 * seed) for seed in (1, 0))
    beside = judged_beside(effects, controls)
    assert share(beside, "slower") > 0.95
