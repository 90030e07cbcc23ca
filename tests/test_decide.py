"""When a comparison calls a benchmark different: against closed forms, Holm's test, and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.commits.decide import (
    LEVEL,
    LOOKS,
    MAX_ROUNDS,
    ORDERS,
    Deciding,
    Margins,
    decide,
    effects_of,
    floors_of,
)
from bench.commits.records import SideName
from bench.stats import effect_of
from bench.verdicts import holm

ANY = Margins(equal=1e-9, least=1e-9)


def processes(rounds: int) -> list[SideName]:
    """The sides of so many rounds, in the order in which they run."""
    return [side for number in range(rounds) for side in ORDERS[number % len(ORDERS)]]


def test_rounds_cancel_a_steady_drift() -> None:
    sides = processes(6)
    # Each process takes 1 % longer than the one before it, and head 10 % longer than base.
    seconds = [1.01**i * (1.1 if side == "head" else 1.0) for i, side in enumerate(sides)]
    assert effects_of(sides, seconds) == pytest.approx([math.log(1.1)] * 6, abs=1e-12)
    # The two processes of head lie one or three places apart; over four rounds that cancels.
    step = math.log(1.01)
    turns = [step, 3 * step, -step, -3 * step, step, 3 * step]
    assert floors_of(sides, seconds) == pytest.approx(turns, abs=1e-12)


def test_an_interval_is_that_of_student() -> None:
    values = [0.02, 0.05, 0.03, 0.06, 0.01]
    decision = decide(effect_of(values, signs=False), 0.999, ANY)
    low, high = stats.t.interval(0.999, 4, np.mean(values), stats.sem(values))
    assert decision.low == pytest.approx(math.exp(low))
    assert decision.high == pytest.approx(math.exp(high))
    assert decision.visible == pytest.approx(math.expm1((high - low) / 2))


def test_its_last_look_is_the_test_of_holm() -> None:
    draw = np.random.default_rng(0)
    disagreements = 0
    for _ in range(200):
        shifts = draw.choice([0.0, 0.03], size=8)
        logs = {
            f"b{i}": draw.normal(shift, 0.02, size=9).tolist() for i, shift in enumerate(shifts)
        }
        found = Deciding(len(logs), ANY).look(logs, last=True)
        called = {name for name, one in found.items() if one.word in ("slower", "faster")}
        ps = {name: float(stats.ttest_1samp(values, 0).pvalue) for name, values in logs.items()}
        assert called == {name for name, p in holm(ps).items() if p <= LEVEL / 2}
        disagreements += 0 < len(called) < len(logs)
    assert disagreements > 50  # not all or none each time


@pytest.mark.parametrize(
    ("mean", "spread", "word"),
    [
        (0.10, 0.01, "slower"),
        (-0.10, 0.01, "faster"),
        (0.0, 0.01, "equal"),
        (0.005, 0.0001, "equal"),  # surely there, and too little to be called
        (0.03, 0.2, "not distinguishable"),
    ],
)
def test_words(mean: float, spread: float, word: str) -> None:
    values = (mean + spread * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])).tolist()
    decision = decide(effect_of(values, signs=False), 0.99, Margins(equal=0.05, least=0.01))
    assert decision.word == word
    assert decision.low is not None and decision.high is not None
    assert (decision.low > 1) == (word == "slower" or mean == 0.005)
    assert (decision.more > 0) == (word == "not distinguishable")


def test_so_many_more_rounds_would_decide() -> None:
    margins, draw = Margins(equal=0.05), np.random.default_rng(1)
    values = draw.normal(0, 0.05, 6)
    values = values / values.std(ddof=1) * 0.05
    values -= values.mean()
    now = decide(effect_of(values.tolist(), signs=False), 0.999, margins)
    assert now.word == "not distinguishable"
    for n, word in ((now.more + 6, "equal"), (now.more + 5, "not distinguishable")):
        more = draw.normal(0, 1, n)
        more = (more - more.mean()) / more.std(ddof=1) * 0.05
        assert decide(effect_of(more.tolist(), signs=False), 0.999, margins).word == word


def test_two_rounds_tell_nothing() -> None:
    decision = decide(effect_of([0.5, 0.5001], signs=False), 0.95, Margins())
    assert (decision.word, decision.low, decision.more) == ("too few rounds", None, 1)


def alarms(draws: int, count: int, noise: object, seed: int) -> float:
    """The share of comparisons of equal commits in which any benchmark is called different.

    noise(draw, size): logarithms of ratios of rounds
    """
    draw, raised = np.random.default_rng(seed), 0
    for _ in range(draws):
        logs = {f"b{i}": noise(draw, MAX_ROUNDS) for i in range(count)}  # type: ignore[operator]
        deciding = Deciding(count)
        # The time is up at any round.
        end = int(draw.integers(3, MAX_ROUNDS + 1))
        for rounds in range(1, end + 1):
            if rounds in LOOKS or rounds == end:
                left = {k: v[:rounds] for k, v in logs.items() if k not in deciding.decided}
                deciding.look(left, last=rounds == end)
        raised += any(one.word in ("slower", "faster") for one in deciding.decided.values())
    return raised / draws


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("normal", lambda draw, size: draw.normal(0, 0.03, size).tolist()),
        ("heavy tails", lambda draw, size: (0.02 * draw.standard_t(2, size)).tolist()),
        (
            "a slow process now and then",
            lambda draw, size: (
                draw.normal(0, 0.01, size) + draw.choice([-0.3, 0, 0.3], size, p=[0.05, 0.9, 0.05])
            ).tolist(),
        ),
    ],
)
def test_few_comparisons_of_equal_commits_raise_an_alarm(name: str, noise: object) -> None:
    """Of 200 draws at a level of 5 % more than 20 would be one chance in five hundred."""
    assert stats.binom.sf(20, 200, LEVEL) < 1 / 500
    assert alarms(200, 10, noise, seed=3) <= 20 / 200, name


def test_a_difference_is_called_in_most_comparisons() -> None:
    draw, called = np.random.default_rng(4), 0
    for _ in range(100):
        deciding = Deciding(10)
        logs = {f"b{i}": draw.normal(0, 0.02, 9).tolist() for i in range(9)}
        logs["slow"] = draw.normal(math.log(1.1), 0.02, 9).tolist()
        for rounds in LOOKS[:3]:
            left = {k: v[:rounds] for k, v in logs.items() if k not in deciding.decided}
            deciding.look(left, last=rounds == 9)
        called += deciding.decided["slow"].word == "slower"
    assert called >= 95
