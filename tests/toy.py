"""A suite small enough to run in a test: 16 px, a UNet of some thousand parameters."""

from __future__ import annotations

import math
from pathlib import Path

from bench import display, runner, suite, terminal
from bench.engines import Engine
from bench.records import Plan, UnitSpec
from bench.run_folder import Run
from bench.units import plan_units
from dipddpm.sources import open_source

SUITE = """
title = "a toy"
about = "shows nothing"

[base]
image_size = 16
block_out_channels = [8, 16]
attention_levels = [1]
norm_num_groups = 4
num_held_out = 4
batch_size = 4
num_iter = 4
images_per_fit = 4
num_inference_steps = 3
num_samples = 4

[[grid]]
train_on = ["images", "dip"]
num_images = [4, 6]
epochs = [1, 2]

[[grid]]
task = "restore"
num_images = 6
epochs = 2
start_from = ["noise", "degraded", "dip", "blur", "nlm"]

[[grid]]
task = "restore"
num_images = 6
epochs = 2
start_from = "dip"
num_inference_steps = 0

[[grid]]
train_on = "blur"
num_images = 6
epochs = 1
"""
# The settings alone.
BASE = SUITE[: SUITE.index("[[grid]]")]
NUM_CASES = 15
# One takes the start image itself.
NUM_SAMPLED = 14


def toy_suite(text: str = SUITE, file: str = "toy.toml") -> suite.Suite:
    return suite.parse(text, file, "toy")


def toy_units(text: str = SUITE, file: str = "toy.toml") -> list[UnitSpec]:
    found = toy_suite(text, file)
    return plan_units(found, seed=0, device="cpu")


def plan_of(units: list[UnitSpec], title: str = "a title") -> Plan:
    """Of units that no run folder holds."""
    return Plan(
        suite="toy", title=title, about="", command="", created="2026-01-02T03:04:05+00:00",
        seed=0, device="cpu", images="objects", images_sha256="0" * 64, units=tuple(units),
    )  # fmt: skip


def new_run(folder: Path, engine: Engine, text: str = SUITE, *, file: str = "toy.toml") -> Run:
    """A run folder with nothing done yet; beside `file` lie functions of the user's."""
    found = toy_suite(text, file)
    plan = Plan(
        suite=found.name,
        title=found.title,
        about=found.about,
        command="test",
        created="2026-01-01T00:00:00+00:00",
        seed=0,
        device="cpu",
        images=found.images,
        images_sha256=open_source(found.images).digest,
        functions=found.functions(),
        units=tuple(toy_units(text, file)),
    )
    return runner.create(folder, plan, engine.describe("cpu"), found.text)


def run_all(
    run: Run,
    engine: Engine,
    *,
    timeout_seconds: float = math.inf,
    forced: tuple[str, ...] = (),
) -> Run:
    with display.RunDisplay.of(run, terminal.console()) as shown:
        # Nothing is measured again: whether the machine is busy is no matter of these tests.
        runner.run_units(
            run, engine, shown, timeout_seconds=timeout_seconds, rerun_share=0.0, forced=forced
        )
    return run


# Two rounds of fits, by both who may do them.
PRIORS_CONTEST = """
[[grid]]
contest = "priors"
num_images = 3
epochs = 1
contender = ["dipddpm", "paper loop"]
seed = [0, 1]
"""
