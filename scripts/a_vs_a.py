"""How often the comparison calls a case different from itself.

    python -m bench run scripts/a_vs_a.toml --out runs/a-vs-a --reruns 0
    python -m scripts.a_vs_a runs/a-vs-a

Prints the spread of the training seconds of a case that ran in many fresh processes; the share of
2,000 simulated comparisons of so many pairs whose 95 % interval leaves 1 out, drawn from a
log-normal distribution of that spread, and from the seconds themselves, of which an outlier widens
the intervals of few pairs; and the comparison of the real runs, each with its neighbour.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.records import Run
from bench.stats import Effect, Pair, paired_ratio

DRAWS = 2000
PAIRS = (3, 6, 10, 12)


def main() -> None:
    """Prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    seconds = train_seconds(Run.open(parser.parse_args().run))
    logs = np.log(seconds)
    print(f"{len(seconds)} runs of {np.exp(logs.mean()):.3f} s, spread {logs.std(ddof=1):.2%}")
    generator = np.random.default_rng(0)
    for count in PAIRS:
        size = (DRAWS, 2 * count)
        normal = false_alarms(np.exp(generator.normal(logs.mean(), logs.std(ddof=1), size)))
        themselves = false_alarms(generator.choice(seconds, size))
        print(f"{count:2} pairs, {DRAWS} draws called different: {normal:.2%} of the spread, "
              f"{themselves:.2%} of the seconds themselves")  # fmt: skip
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


def false_alarms(draws: npt.NDArray[np.float64]) -> float:
    """The share of comparisons, a row each, that find an effect."""
    effects = [compare([float(value) for value in draw]) for draw in draws]
    return sum(not _holds_1(effect) for effect in effects) / len(draws)


def _holds_1(effect: Effect) -> bool:
    assert effect.low is not None and effect.high is not None
    return effect.low <= 1 <= effect.high


if __name__ == "__main__":
    main()
