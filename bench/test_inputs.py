"""What goes in takes: loaders, encoding, the noise schedule, targets and starts of the arms."""

from __future__ import annotations

import pytest
import torch

from bench.conftest import COUNT, SIZE, Measure
from dipddpm.arms import blur_targets, start_nlm
from dipddpm.config import Context, Loader, LoaderConfig, NoiseScheduleConfig, RestorationConfig
from dipddpm.degradation import degrade
from dipddpm.diffusion import build_noise_scheduler
from dipddpm.images import ImageSet, encode, prepare
from dipddpm.loaders import Batches
from dipddpm.sources import ImageSource


@pytest.mark.benchmark(group="loaders")
@pytest.mark.parametrize("loader", ["memory", "list", "decode"])
def test_load_a_batch(
    measure: Measure, source: ImageSource, images: ImageSet, loader: Loader
) -> None:
    """An epoch of one batch, in the training process."""
    data = source.train[:COUNT] if loader == "decode" else images
    batches = Batches(data, None, SIZE, COUNT, LoaderConfig(loader=loader), 0, range(1))
    measure(lambda: list(batches), images=COUNT)


@pytest.mark.benchmark(group="loaders")
def test_prepare(measure: Measure, source: ImageSource) -> None:
    measure(lambda: prepare(source.train[:COUNT], SIZE), images=COUNT)


@pytest.mark.benchmark(group="loaders")
def test_encode_a_batch(measure: Measure, source: ImageSource, images: ImageSet) -> None:
    measure(lambda: encode(images, source.train[:COUNT]), images=COUNT)


@pytest.mark.benchmark(group="noise schedule")
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_noise_schedule(measure: Measure, images: ImageSet, beta_schedule: str) -> None:
    """Built for 1000 timesteps, and a batch noised by it."""
    schedule = NoiseScheduleConfig(beta_schedule=beta_schedule)  # type: ignore[arg-type]
    noise, timesteps = torch.zeros_like(images.pixels), torch.arange(COUNT)

    def build_and_noise() -> None:
        scheduler = build_noise_scheduler(schedule)
        scheduler.add_noise(images.pixels, noise, timesteps)  # type: ignore[arg-type]

    measure(build_and_noise, images=COUNT)


@pytest.mark.benchmark(group="arms")
def test_blur_target(measure: Measure, images: ImageSet, context: Context) -> None:
    """Each of 16 images blurred to the PSNR of its prior."""
    priors = degrade(images, 15, context)
    measure(lambda: blur_targets(images, priors), images=COUNT)


@pytest.mark.benchmark(group="arms")
def test_non_local_means(measure: Measure, images: ImageSet, context: Context) -> None:
    restoration = RestorationConfig()
    degraded = degrade(ImageSet(images.pixels[:4]), restoration.degradation_sigma, context)
    measure(lambda: start_nlm(degraded, restoration), images=4)
