"""A run folder of very many outcomes, made up: python -m tests.many FOLDER UNITS.

Each unit is a training run on a grid of settings and seeds, with ten outcomes: five milestones, of
each the samples of two numbers of steps.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import records
from bench.records import MachineState, Probe, Record, StageRow, UnitSummary
from bench.run_folder import sha256_of
from tests.test_report_tables import Folder, case, record, row, steps

OUTCOMES = 10
MILESTONES, SAMPLING_STEPS = (5, 10, 20, 40, 80), (20, 50)
# Of a grid of 960; each is done with so many seeds before the next begins.
SEEDS = 11


def many_run(path: Path, num_units: int) -> Path:
    """Of so many training runs and the priors that some of them share."""
    draw = random.Random(0)
    folder = Folder(path)
    folder.unit("priors", [row("priors", "fit", "fit_priors", 8.0)])
    for place, settings in enumerate(itertools.islice(_grid(), num_units)):
        unit, dip = f"train-{place:05d}", settings["train_on"] != "images"
        rows, found = _training(unit, settings, draw)
        folder.unit(unit, rows, found, needs=("priors",) if dip else ())
        _tell(path / records.UNITS / unit, place, draw)
    return folder.finish()


def _grid() -> Iterator[dict[str, Any]]:
    axes: dict[str, tuple[str | int, ...]] = {
        "batch_size": (16, 32, 64, 128),
        "num_iter": (100, 200),
        "num_images": (100, 200, 300, 400, 500),
        "num_train_timesteps": (1000, 500),
        "beta_schedule": ("linear", "squaredcos_cap_v2"),
        "loader": ("memory", "decode"),
        "train_on": ("images", "dip", "blur"),
    }
    for values in itertools.product(*axes.values()):
        for seed in range(SEEDS):
            # The last is the first again.
            again = {"seed": 0, "repeat": 2} if seed == SEEDS - 1 else {"seed": seed}
            yield {**dict(zip(axes, values, strict=True)), **again}


def _training(
    unit: str, settings: dict[str, Any], draw: random.Random
) -> tuple[list[StageRow], list[Record]]:
    dip = settings["train_on"] != "images"
    rows = [row(unit, name, "prepare", 0.1) for name in ("data", "refs", "held")]
    rows.append(row(unit, "anchors", "score_anchors", 0.2, "refs", "held"))
    rows += [row(unit, "fit", "fit_priors", None)] if dip else []
    base = [one.key for one in rows]
    trained: list[str] = []
    speed = settings["num_images"] / 500 * draw.lognormvariate(0, 0.03)
    speed *= 1.1 if settings["loader"] == "decode" else 1.0
    found = []
    for epochs in MILESTONES:
        net, loss = f"{unit}-t{epochs}", f"{unit}-n{epochs}"
        rows.append(steps(unit, net, speed * epochs, "data", *trained[-1:]))
        rows.append(row(unit, loss, "score_net", 0.1, net, "held"))
        trained.append(net)
        of_net = draw.lognormvariate(0, 0.03) * (1.1 if dip else 1.0) / epochs**0.3
        for count in SAMPLING_STEPS:
            samples, scored = f"{unit}-s{epochs}-{count}", f"{unit}-g{epochs}-{count}"
            rows.append(row(unit, samples, "sample", 0.02 * count, net))
            rows.append(row(unit, scored, "score_generation", 0.05, samples, "refs"))
            of = case(**settings, epochs=epochs, num_inference_steps=count)
            scores = {
                "eps_loss": of_net,
                "all_pairs_psnr": draw.gauss(8.0, 0.2),
                "all_pairs_ssim": draw.gauss(0.1, 0.01),
                "lag1_autocorrelation": draw.uniform(0.15, 0.9),
                "kid_efflite0": draw.gauss(0.1, 0.01),
            }
            bill = [*base, *trained, loss, samples, scored]
            found.append(record(unit, bill, samples, of, **scores))
    return rows, found


def _tell(folder: Path, place: int, draw: random.Random) -> None:
    """What a worker adds: the state of the machine, seldom a busy one, and the files' digests."""
    probes = tuple(
        Probe(matmul_seconds=0.04 * factor, copy_seconds=0.02 * factor)
        for factor in (draw.lognormvariate(0, 0.02), 1.5 if place % 97 == 0 else 1.0)
    )
    states = tuple(
        MachineState(
            monotonic_seconds=100.0 * place + 60 * end, load_average=1.0,
            busy_seconds=100.0 * place + 60 * end, own_seconds=60.0 * end, steal_seconds=0.0,
            cpu_mhz=2000.0, cpu_governor="performance", cpu_temperature_celsius=None, gpu=None,
        )
        for end in (0, 1)
    )  # fmt: skip
    names = (records.RECORDS, records.STAGES)
    summary = UnitSummary(
        unit=folder.name,
        status="ok",
        process_seconds=60.0,
        overhead_seconds={"warm_up": 1.5, "ledger": 0.1, "instruments": 0.2},
        started=f"2026-01-02T03:04:{place:012d}",
        rows_sha256={name: sha256_of(folder / name) for name in names},
        probes=probes,
        machine=states,
    )
    records.write(folder / records.SUMMARY, summary)


if __name__ == "__main__":
    many_run(Path(sys.argv[1]), int(sys.argv[2]))
