"""Whether a fit of priors in a process moves the training that follows it there.

    python -m scripts.order_bias [--pairs 8]

Trains the net of the quick suite for some epochs, each time in a fresh process, interleaved: after
a fit of priors of other images in the same process; after that fit in a process of its own, as
units do it; alone; and alone once more, which is the floor. Prints the paired ratios of training
seconds with their 95 % intervals.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys

from bench.stats import Effect, Pair, paired_ratio

AFTER, APART, ALONE, AGAIN = _WAYS = (
    "after a fit", "after a fit in another process", "alone", "alone again",
)  # fmt: skip
_FIT = "a fit"


def main() -> None:
    """Runs the pairs and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    # Of one process: train in this way and print its seconds.
    parser.add_argument("--way", choices=(*_WAYS, _FIT), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way == _FIT:
        fit()
    elif options.way:
        print(train_seconds(after_a_fit=options.way == AFTER))
    else:
        for way, effect in effects(options.pairs).items():
            print(f"{way} / {ALONE}: {effect.mean:.3f} [{effect.low:.3f}, {effect.high:.3f}]")


def effects(pairs: int) -> dict[str, Effect]:
    """Of each way against training alone, over so many pairs."""
    order = random.Random(0)
    taken: dict[str, list[float]] = {way: [] for way in _WAYS}
    for _ in range(pairs):
        for way in order.sample(_WAYS, len(_WAYS)):
            if way == APART:
                _asked(_FIT)
            taken[way].append(float(_asked(way)))
    found = {}
    for way in (AFTER, APART, AGAIN):
        sides = zip(taken[ALONE], taken[way], strict=True)
        effect = paired_ratio(
            Pair(base, other, frozenset({f"{way} {i}"})) for i, (base, other) in enumerate(sides)
        )
        assert effect is not None
        found[way] = effect
    return found


def _asked(way: str) -> str:
    """What a fresh process says."""
    command = [sys.executable, "-m", "scripts.order_bias", "--way", way]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def fit() -> None:
    """Priors of 16 images."""
    from dipddpm.config import Context, DIPConfig
    from dipddpm.dip import fit_priors
    from dipddpm.images import prepare
    from dipddpm.sources import bundled_objects

    fit_priors(prepare(bundled_objects().train[64:80], 32), DIPConfig(), Context())


def train_seconds(*, after_a_fit: bool) -> float:
    """Of a training of 64 images for 5 epochs, warmed up as in a run."""
    from bench.meters import Clock, Device
    from bench.warmup import wake, warm_up
    from dipddpm.config import (
        Context,
        LoaderConfig,
        NoiseScheduleConfig,
        TrainingConfig,
        UNetConfig,
    )
    from dipddpm.images import prepare
    from dipddpm.sources import bundled_objects
    from dipddpm.training import train_ddpm

    device, context = Device("cpu"), Context()
    wake(device.torch_device)
    images = prepare(bundled_objects().train[:64], 32)
    if after_a_fit:
        fit()
    arguments = (images, 32, UNetConfig(), NoiseScheduleConfig(), TrainingConfig(), context)
    warm_up(train_ddpm, arguments, {"loading": LoaderConfig(), "epochs": 5})
    with Clock(device) as clock:
        train_ddpm(*arguments, loading=LoaderConfig(), epochs=5)
    return clock.seconds


if __name__ == "__main__":
    main()
