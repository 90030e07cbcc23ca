"""How often the comparison calls a case different from itself.

    python -m bench run scripts/a_vs_a.toml --out runs/a-vs-a --reruns 0
    python -m scripts.a_vs_a runs/a-vs-a

Prints the spread of the training seconds of a case that ran in many fresh processes; the share of
2,000 simulated comparisons of so many pairs, drawn from that spread, whose 95 % interval leaves 1
out; and the comparisons of the real runs themselves, each with its neighbour.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench.records import Run
from bench.stats import Effect, Pair, paired_ratio

DRAWS = 2000
PAIRS = (3, 6, 12)


def main() -> None:
    """Prints all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    seconds = train_seconds(Run.open(parser.parse_args().run))
    logs = np.log(seconds)
    print(f"{len(seconds)} runs of {np.exp(logs.mean()):.3f} s, spread {logs.std(ddof=1):.2%}")
    for count in PAIRS:
        print(f"{count} pairs: {false_alarms(seconds, count):.2%} of {DRAWS} called different")
    neighbours = compare(seconds)
    print(f"the runs themselves, {neighbours.pairs} pairs of neighbours: {neighbours.mean:.4f} "
          f"[{neighbours.low:.4f}, {neighbours.high:.4f}]")  # fmt: skip


def train_seconds(run: Run) -> list[float]:
    """Of each unit, in the order in which they ran."""
    taken: dict[str, float] = {}
    for row in run.stage_rows():
        if row.function == "train_ddpm" and row.seconds is not None:
            taken[row.unit] = taken.get(row.unit, 0.0) + row.seconds
    return list(taken.values())


def compare(seconds: list[float]) -> Effect:
    """Each second of two neighbours against the first."""
    pairs = [
        Pair(base, other, frozenset({str(place)}))
        for place, (base, other) in enumerate(zip(seconds[::2], seconds[1::2], strict=True))
    ]
    effect = paired_ratio(pairs)
    assert effect is not None
    return effect


def false_alarms(seconds: list[float], count: int, *, seed: int = 0) -> float:
    """The share of comparisons of `count` pairs, drawn with replacement, that find an effect."""
    draws = np.random.default_rng(seed).choice(seconds, (DRAWS, 2 * count))
    effects = [compare([float(value) for value in draw]) for draw in draws]
    return sum(not _holds_1(effect) for effect in effects) / DRAWS


def _holds_1(effect: Effect) -> bool:
    assert effect.low is not None and effect.high is not None
    return effect.low <= 1 <= effect.high


if __name__ == "__main__":
    main()
