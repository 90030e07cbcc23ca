"""Whether a fit of priors in a process moves the training that follows it there.

    python -m scripts.order_bias [--pairs 8]

Trains the net of the quick suite for some epochs, each time in a fresh process, interleaved: after
a fit of priors of other images in the same process; alone; and alone once more, which is the floor.
Prints the paired ratios of training seconds with their 95 % intervals.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys

from bench.stats import Pair, paired_ratio

_WAYS = ("after a fit", "alone", "alone again")


def main() -> None:
    """Runs the pairs and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    # Of one process: train in this way and print its seconds.
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(train_seconds(after_a_fit=options.way == _WAYS[0]))
        return
    order = random.Random(0)
    taken: dict[str, list[float]] = {way: [] for way in _WAYS}
    for _ in range(options.pairs):
        for way in order.sample(_WAYS, len(_WAYS)):
            command = [sys.executable, "-m", "scripts.order_bias", "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            taken[way].append(float(done.stdout))
    for way in (_WAYS[0], _WAYS[2]):
        pairs = [
            Pair(base, other, frozenset({f"{way} {i}"}))
            for i, (base, other) in enumerate(zip(taken["alone"], taken[way], strict=True))
        ]
        effect = paired_ratio(pairs)
        assert effect is not None
        print(f"{way} / alone: {effect.mean:.3f} [{effect.low:.3f}, {effect.high:.3f}]")


def train_seconds(*, after_a_fit: bool) -> float:
    """Of a training of 64 images for 5 epochs, warmed up as in a run."""
    from bench.meters import Clock, Device
    from bench.warmup import wake, warm_up
    from dipddpm.config import (
        Context,
        DIPConfig,
        LoaderConfig,
        NoiseScheduleConfig,
        TrainingConfig,
        UNetConfig,
    )
    from dipddpm.dip import fit_priors
    from dipddpm.images import prepare
    from dipddpm.sources import bundled_objects
    from dipddpm.training import train_ddpm

    device, context = Device("cpu"), Context()
    wake(device.torch_device)
    images = prepare(bundled_objects().train[:64], 32)
    if after_a_fit:
        fit_priors(prepare(bundled_objects().train[64:80], 32), DIPConfig(), context)
    arguments = (images, 32, UNetConfig(), NoiseScheduleConfig(), TrainingConfig(), context)
    warm_up(train_ddpm, arguments, {"loading": LoaderConfig(), "epochs": 5})
    with Clock(device) as clock:
        train_ddpm(*arguments, loading=LoaderConfig(), epochs=5)
    return clock.seconds


if __name__ == "__main__":
    main()
