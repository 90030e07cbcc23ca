"""What training takes: two steps of batch 4 by each way to run them, and the parts of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.conftest import SIZE, Measure
from dipddpm.config import (
    Context,
    Loader,
    LoaderConfig,
    NoiseScheduleConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.diffusion import build_unet
from dipddpm.images import ImageSet
from dipddpm.sources import ImageSource
from dipddpm.training import train_ddpm, update_ema

pytestmark = pytest.mark.benchmark(group="training")
IMAGES, BATCH = 8, 4
# Settings of a training, by a name; a library that lacks one cannot run that benchmark.
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"mixed_precision": "bf16"},
    "channels_last": {"channels_last": True},
    "in_two_parts": {"gradient_accumulation_steps": 2},
    "one_by_one": {"fused_adamw": False, "foreach_ema": False},
}


@pytest.mark.parametrize("way", WAYS)
def test_training_steps(measure: Measure, images: ImageSet, context: Context, way: str) -> None:
    """An epoch of eight images from memory, building and copying the net included."""
    arguments = (
        ImageSet(images.pixels[:IMAGES]), SIZE, UNetConfig(), NoiseScheduleConfig(),
        TrainingConfig(batch_size=BATCH, **WAYS[way]), context,
    )  # fmt: skip
    measure(lambda: train_ddpm(*arguments, loading=LoaderConfig(), epochs=1), images=IMAGES)


@pytest.mark.parametrize("loader", ["list", "decode"])
def test_training_from_a_loader(
    measure: Measure, images: ImageSet, source: ImageSource, context: Context, loader: Loader
) -> None:
    data = source.train[:IMAGES] if loader == "decode" else ImageSet(images.pixels[:IMAGES])
    arguments = (
        data, SIZE, UNetConfig(), NoiseScheduleConfig(), TrainingConfig(batch_size=BATCH), context
    )  # fmt: skip
    measure(
        lambda: train_ddpm(*arguments, loading=LoaderConfig(loader=loader), epochs=1), images=IMAGES
    )


class Step:
    """A training step of the net, its parts callable one by one."""

    def __init__(self, images: ImageSet, context: Context) -> None:
        device = torch.device(context.device)
        self.net: nn.Module = build_unet(UNetConfig(), SIZE, 0).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), fused=True)
        self.inputs = images.pixels[:BATCH].to(device)
        self.timesteps = torch.arange(BATCH, device=device)
        self.averages = {name: one.clone() for name, one in self.net.state_dict().items()}
        self.loss = torch.zeros(())

    def forward(self) -> None:
        prediction: Tensor = self.net(self.inputs, self.timesteps).sample
        self.loss = (prediction - self.inputs).square().mean()

    def backward(self) -> None:
        self.loss.backward()

    def gradients(self) -> None:
        self.forward()
        self.backward()

    def move(self) -> None:
        self.optimizer.step()

    def average(self) -> None:
        update_ema(self.averages, self.net.state_dict(), 0.001)


@pytest.fixture
def step(images: ImageSet, context: Context) -> Step:
    return Step(images, context)


def test_forward(measure: Measure, step: Step) -> None:
    measure(step.forward, images=BATCH)


def test_backward(measure: Measure, step: Step) -> None:
    measure(step.backward, setup=step.forward, images=BATCH)


def test_optimizer(measure: Measure, step: Step) -> None:
    """AdamW in one kernel."""
    step.gradients()
    measure(step.move)


def test_average_of_weights(measure: Measure, step: Step) -> None:
    measure(step.average)
