"""When a benchmark is decided, and how: no torch.

A round is base, head, head, base or head, base, base, head, each in a fresh process: what drifts
steadily cancels within it, and its two runs of head, held against each other, tell the noise. The
replicate is the round; its value is the logarithm of head's time over base's, each the geometric
mean of two processes.

Decisions fall at looks that are fixed beforehand, after so many rounds. LEVEL, the chance of any
false alarm in a whole comparison, is shared out: half to the looks before the last, in equal
shares, half to the last, whenever the time is up (by Bonferroni's inequality this holds however
many looks there come to be). At a look Holm's step-down test (1979) over all benchmarks that are
not called different yet shares its level out. A step of it is told as the interval at its level, so
that an interval and its word always agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy import special

from bench.commits.records import Decision, SideName, Word
from bench.stats import Effect, effect_of, t_quantile, t_test_p

LEVEL = 0.05
LOOKS = (4, 6, 9, 13, 19, 28)
MAX_ROUNDS = 42
# With fewer rounds there is no spread to speak of.
MIN_ROUNDS = 3
# As many rounds as this are told as these.
_NEVER = 10_000
# The sides of the processes of a round, by turns.
ORDERS: tuple[tuple[SideName, ...], ...] = (
    ("base", "head", "head", "base"),
    ("head", "base", "base", "head"),
)


@dataclass(frozen=True)
class Margins:
    """As shares of a time: what counts as equal, and what is too little to be called."""

    equal: float = 0.05
    least: float = 0.01


@dataclass
class Deciding:
    """Benchmarks under way: `look` at them after each round.

    count: of all benchmarks that are compared
    """

    count: int
    margins: Margins = Margins()
    decided: dict[str, Decision] = field(default_factory=dict)
    # Those called slower or faster: Holm's test goes on with one fewer for each.
    _different: int = 0

    def look(self, logs: Mapping[str, Sequence[float]], *, last: bool) -> dict[str, Decision]:
        """What stands now of those that are not decided; those that are, are kept.

        logs: for each of them log(head / base) by round
        last: there will be no more rounds
        """
        found: dict[str, Decision] = {}
        level = LEVEL / 2 if last else LEVEL / 2 / len(LOOKS)
        effects = {name: effect_of(values, signs=False) for name, values in logs.items()}
        order = sorted(effects, key=lambda name: (_p(effects[name]), name))
        for name in order:
            share = level / max(1, self.count - self._different)
            decision = decide(effects[name], 1 - share, self.margins)
            found[name] = decision
            if decision.word in ("slower", "faster"):
                self._different += 1
        self.decided |= {name: one for name, one in found.items() if one.is_decided or last}
        return found


def by_rounds(
    sides: Sequence[SideName], seconds: Sequence[float]
) -> list[dict[SideName, list[float]]]:
    """The logarithms of the times of processes, in the order in which they ran, as rounds of the
    sides."""
    rounds: list[dict[SideName, list[float]]] = []
    for place, (side, taken) in enumerate(zip(sides, seconds, strict=True)):
        if place % len(ORDERS[0]) == 0:
            rounds.append({"base": [], "head": []})
        rounds[-1][side].append(math.log(taken))
    return rounds


def effects_of(sides: Sequence[SideName], seconds: Sequence[float]) -> list[float]:
    """log(head / base) of each round."""
    return [_mean(logs["head"]) - _mean(logs["base"]) for logs in by_rounds(sides, seconds)]


def floors_of(sides: Sequence[SideName], seconds: Sequence[float]) -> list[float]:
    """log(head / head) of each round: its later process against its earlier one in two rounds, the
    other way round in the next two, so that over four rounds a steady drift cancels here too."""
    found = []
    for number, logs in enumerate(by_rounds(sides, seconds)):
        earlier, later = logs["head"]
        found.append(later - earlier if number % 4 < 2 else earlier - later)
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def decide(effect: Effect, confidence: float, margins: Margins) -> Decision:
    """By an interval of the logarithms of ratios.

    slower, faster: no effect lies outside the interval, and the ratio is beyond the least margin
    equal: the whole interval lies within the margin
    """
    ends = effect.distances(confidence)
    if effect.n < MIN_ROUNDS or ends is None or effect.standard_error is None:
        return Decision(
            word="too few rounds",
            rounds=effect.n,
            ratio=math.exp(effect.mean),
            low=None,
            high=None,
            confidence=confidence,
            visible=None,
            more=max(1, MIN_ROUNDS - effect.n),
        )
    low, high = ends
    equal, least = math.log1p(margins.equal), math.log1p(margins.least)
    word: Word = "not distinguishable"
    if (low > 0 or high < 0) and abs(effect.mean) >= least:
        word = "slower" if effect.mean > 0 else "faster"
    elif -equal < low and high < equal:
        word = "equal"
    more = 0
    if word == "not distinguishable":
        spread = effect.standard_error * math.sqrt(effect.n)
        # Of a change that is large enough the interval must leave out none, of another it must lie
        # within the margin.
        reach = equal - abs(effect.mean)
        if abs(effect.mean) >= least:
            reach = max(reach, abs(effect.mean))
        more = max(1, _rounds_for(spread, reach, confidence) - effect.n)
    return Decision(
        word=word,
        rounds=effect.n,
        ratio=math.exp(effect.mean),
        low=math.exp(low),
        high=math.exp(high),
        confidence=confidence,
        visible=math.expm1(max((high - low) / 2, least)),
        more=more,
    )


def _p(effect: Effect) -> float:
    p = t_test_p(effect)
    return 1.0 if p is None else p


def _rounds_for(spread: float, reach: float, confidence: float) -> int:
    """The least n with t * spread / sqrt(n) <= reach, or so many that nobody runs them."""
    if reach <= 0:
        return _NEVER
    # A t quantile is above the normal one, so fewer than with the latter are never enough.
    normal = float(special.ndtri((1 + confidence) / 2))
    least = (normal * spread / reach) ** 2
    if least > _NEVER:
        return _NEVER
    n = max(MIN_ROUNDS, math.floor(least))
    while t_quantile(confidence, n) * spread > reach * math.sqrt(n):
        n += 1
    return n
