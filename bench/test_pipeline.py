"""What each part of the pipeline takes: pytest bench --benchmark-only.

Inside the timed region is one call as written here, the device idle at both ends; making its inputs
is outside. Sizes are those of the suite `quick`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dipddpm.config import (
    Context,
    DataConfig,
    DIPConfig,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    Sampler,
    SamplingConfig,
    TrainingConfig,
    TrainOn,
    UNetConfig,
)
from dipddpm.dip import fit_priors
from dipddpm.images import ImageSet, encode, load, prepare
from dipddpm.metrics import all_pairs_psnr, all_pairs_ssim, psnr, ssim
from dipddpm.pipeline import run_pipeline
from dipddpm.sampling import sample
from dipddpm.scoring import score_net
from dipddpm.sources import ImageSource, bundled_objects
from dipddpm.training import TrainedNet, train_ddpm

Measure = Callable[..., None]
SIZE, BATCH = 32, 16
UNET, SCHEDULE, TRAINING = UNetConfig(), NoiseScheduleConfig(), TrainingConfig()


@pytest.fixture(scope="module")
def source() -> ImageSource:
    return bundled_objects()


@pytest.fixture(scope="module")
def images(source: ImageSource) -> ImageSet:
    return prepare(source.train[:BATCH], SIZE)


@pytest.fixture(scope="module")
def context(device: str) -> Context:
    return Context(device=device)


@pytest.fixture(scope="module")
def trained(images: ImageSet, context: Context) -> TrainedNet:
    return train_ddpm(images, SIZE, UNET, SCHEDULE, TRAINING, context, epochs=1)


@pytest.mark.benchmark(group="priors")
@pytest.mark.parametrize("nets", [1, BATCH])
def test_dip_iterations(measure: Measure, images: ImageSet, context: Context, nets: int) -> None:
    """Ten iterations of `nets` fits side by side."""
    some = ImageSet(images.pixels[:nets])
    measure(lambda: fit_priors(some, DIPConfig(num_iter=10), context), images=nets)


@pytest.mark.benchmark(group="training")
@pytest.mark.parametrize("loader", ["memory", "decode"])
def test_training_steps(
    measure: Measure, source: ImageSource, images: ImageSet, context: Context, loader: str
) -> None:
    """Four steps of batch 16, building and copying the net included."""
    data = images if loader == "memory" else source.train[:BATCH]
    measure(
        lambda: train_ddpm(data, SIZE, UNET, SCHEDULE, TRAINING, context, epochs=4),
        images=4 * BATCH,
    )


@pytest.mark.benchmark(group="sampling")
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_denoising_steps(
    measure: Measure, trained: TrainedNet, context: Context, sampler: Sampler
) -> None:
    """Five steps of 16 samples, building the net included."""
    config = SamplingConfig(num_inference_steps=5, sampler=sampler)
    measure(lambda: sample(trained, None, SIZE, UNET, SCHEDULE, config, context), images=BATCH)


@pytest.mark.benchmark(group="loaders")
@pytest.mark.parametrize("loader", ["memory", "decode"])
def test_load_a_batch(measure: Measure, source: ImageSource, images: ImageSet, loader: str) -> None:
    data = images if loader == "memory" else source.train[:BATCH]
    measure(lambda: load(data, range(BATCH), SIZE), rounds=50, images=BATCH)


@pytest.mark.benchmark(group="loaders")
def test_encode_a_batch(measure: Measure, source: ImageSource, images: ImageSet) -> None:
    measure(lambda: encode(images, source.train[:BATCH]), images=BATCH)


@pytest.mark.benchmark(group="metrics")
@pytest.mark.parametrize("metric", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
def test_image_metric(
    measure: Measure,
    images: ImageSet,
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    measure(lambda: metric(images.pixels.flip(0), images.pixels), rounds=30, images=BATCH)


@pytest.mark.benchmark(group="metrics")
def test_held_out_loss(
    measure: Measure, trained: TrainedNet, images: ImageSet, context: Context
) -> None:
    measure(lambda: score_net(trained, images, SIZE, UNET, SCHEDULE, context), images=BATCH)


@pytest.mark.benchmark(group="pipeline")
@pytest.mark.parametrize("train_on", ["images", "dip"])
def test_whole_pipeline(
    measure: Measure, source: ImageSource, context: Context, train_on: TrainOn
) -> None:
    """Sixteen images, priors of 10 iterations, two epochs, 16 samples of 5 steps, scored."""
    config = PipelineConfig(
        train_on=train_on,
        data=DataConfig(num_images=BATCH),
        dip=DIPConfig(num_iter=10),
        outcomes=(OutcomeConfig(epochs=2, sampling=SamplingConfig(num_inference_steps=5)),),
    )
    measure(lambda: list(run_pipeline(config, source, context)), rounds=3, images=BATCH)
