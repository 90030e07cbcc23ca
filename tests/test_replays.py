"""False alarms on noise as it is: a recorded comparison of equal commits, drawn again and again.

tests/recorded/equal.json is what `python -m bench.commits compare HEAD HEAD --equal-within 0.1%`
wrote, with which nothing is ever decided, so that all benchmarks have all rounds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bench.commits.decide import LEVEL, LOOKS, Deciding, effects_of
from bench.commits.records import Comparison, read

RECORDED = read(Path(__file__).parent / "recorded" / "equal.json", Comparison)
DRAWS = 2000


def test_the_recording_is_of_equal_commits() -> None:
    assert RECORDED.is_a_vs_a
    assert len(RECORDED.benchmarks) > 30
    assert min(one.effect.rounds for one in RECORDED.benchmarks) >= 8


@pytest.mark.slow
def test_few_replays_raise_an_alarm() -> None:
    """Rounds are drawn whole, of all benchmarks together, as what slows a process slows all that it
    measures; which side is called head is drawn too. The time is up at any round."""
    logs = np.array([effects_of(one.sides, one.seconds) for one in RECORDED.benchmarks])
    draw, alarms, words = np.random.default_rng(0), 0, 0
    for _ in range(DRAWS):
        end = int(draw.integers(4, 20))
        rounds = logs[:, draw.integers(0, logs.shape[1], end)] * draw.choice([-1.0, 1.0], end)
        deciding = Deciding(len(rounds))
        for number in range(1, end + 1):
            if number in LOOKS or number == end:
                deciding.look(
                    {
                        str(i): row[:number].tolist()
                        for i, row in enumerate(rounds)
                        if str(i) not in deciding.decided
                    },
                    last=number == end,
                )
        alarms += any(one.word in ("slower", "faster") for one in deciding.decided.values())
        words += sum(one.is_decided for one in deciding.decided.values())
    # At a level of 5 % more would be one chance in a thousand.
    assert alarms <= stats.binom.ppf(0.999, DRAWS, LEVEL)
    # And it does tell something: equality.
    assert words > DRAWS
