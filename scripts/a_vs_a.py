"""How often the comparison calls a case different from itself.

    python -m bench run scripts/a_vs_a.toml --out runs/a-vs-a --reruns 0
    python -m scripts.a_vs_a runs/a-vs-a

Prints the spread of the training seconds of a case that ran in many fresh processes, and the share
of 2,000 comparisons that find a difference where there is none (their 95 % interval leaves 1 out):
of pairs drawn from a log-normal distribution of that spread; of the real seconds, paired at random,
which have whatever distribution they have; and of the real seconds in the order in which they ran,
beginning anywhere and with either of two neighbours as the first, so that a drift counts. Last the
comparison of the real runs, each with its neighbour, and how far their seconds go with the probes
of the machine (Spearman's rank correlation).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from bench.run_folder import Run
from bench.stats import Effect, Pair, paired_ratio

DRAWS = 2000
PAIRS = (3, 6, 10, 12)


def main() -> None:
    """Prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = Run.open(parser.parse_args().run)
    seconds = train_seconds(run)
    logs = np.log(seconds)
    print(f"{len(seconds)} runs of {np.exp(logs.mean()):.3f} s, spread {logs.std(ddof=1):.2%}")
    generator = np.random.default_rng(0)
    for count in PAIRS:
        size = (DRAWS, 2 * count)
        normal = false_alarms(np.exp(generator.normal(logs.mean(), logs.std(ddof=1), size)))
        print(f"{count:2} pairs of that spread, {DRAWS} draws: {normal:.2%} called different")
    shuffled = generator.permuted(np.tile(seconds, (DRAWS, 1)), axis=1)[:, : len(seconds) // 2 * 2]
    in_order = np.array([_in_order(seconds, generator) for _ in range(DRAWS)])
    for what, draws in (("paired at random", shuffled), ("in order", in_order)):
        print(f"{draws.shape[1] // 2:2} pairs of the runs themselves, {what}, {DRAWS} draws: "
              f"{false_alarms(draws):.2%} called different")  # fmt: skip
    neighbours = compare(seconds)
    print(f"the runs themselves, {neighbours.pairs} pairs of neighbours: {neighbours.mean:.4f} "
          f"[{neighbours.low:.4f}, {neighbours.high:.4f}]")  # fmt: skip
    probes = [one.probes for one in run.summaries() if one.probes]
    for what in ("matmul_seconds", "copy_seconds"):
        told = [sum(getattr(probe, what) for probe in found) / len(found) for found in probes]
        found = spearmanr(seconds, told)
        print(f"with {what} of the probes, of spread {np.log(told).std(ddof=1):.2%}: rank "
              f"correlation {found.statistic:+.2f} (p {found.pvalue:.3f})")  # fmt: skip


def _in_order(seconds: list[float], generator: np.random.Generator) -> list[float]:
    """Pairs of neighbours, the first of each pair drawn, from any run on, and round."""
    begin = generator.integers(len(seconds))
    turned = [*seconds[begin:], *seconds[:begin]][: len(seconds) // 2 * 2]
    pairs = zip(turned[::2], turned[1::2], strict=True)
    return [value for pair in pairs for value in generator.permutation(pair)]


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
