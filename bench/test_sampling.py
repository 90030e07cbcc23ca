"""What denoising takes: five steps of four samples by each sampler, and from a start image."""

from __future__ import annotations

import pytest

from bench.conftest import SIZE, Measure
from dipddpm.config import (
    Context,
    LoaderConfig,
    NoiseScheduleConfig,
    Sampler,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.images import ImageSet
from dipddpm.sampling import sample
from dipddpm.scoring import score_net
from dipddpm.training import TrainedNet, train_ddpm

UNET, SCHEDULE = UNetConfig(), NoiseScheduleConfig()
SAMPLES = 4


@pytest.fixture(scope="module")
def trained(images: ImageSet, context: Context) -> TrainedNet:
    return train_ddpm(
        images, SIZE, UNET, SCHEDULE, TrainingConfig(), context, loading=LoaderConfig(), epochs=1
    )


@pytest.mark.benchmark(group="sampling")
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_denoising_steps(
    measure: Measure, trained: TrainedNet, context: Context, sampler: Sampler
) -> None:
    """Building the net included."""
    config = SamplingConfig(num_inference_steps=5, sampler=sampler, num_samples=SAMPLES)
    measure(lambda: sample(trained, None, SIZE, UNET, SCHEDULE, config, context), images=SAMPLES)


@pytest.mark.benchmark(group="sampling")
def test_held_out_loss(
    measure: Measure, trained: TrainedNet, images: ImageSet, context: Context
) -> None:
    """Of the net over noise levels, on two images."""
    some = ImageSet(images.pixels[:2])
    measure(lambda: score_net(trained, some, SIZE, UNET, SCHEDULE, context), images=2)
