"""What each part of the pipeline takes: pytest bench --benchmark-only.

Inside the timed region is one call as written here, the device idle at both ends; making its inputs
is outside. Sizes are those of the suite `quick`, but for the skip net, whose least size is 64 px,
and the metrics of whole sets.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dipddpm.arms import blur_targets, start_nlm
from dipddpm.config import (
    Context,
    DataConfig,
    DIPConfig,
    Loader,
    LoaderConfig,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    PriorNet,
    RestorationConfig,
    Sampler,
    SamplingConfig,
    TrainingConfig,
    TrainOn,
    UNetConfig,
)
from dipddpm.degradation import degrade
from dipddpm.dip import fit_priors
from dipddpm.features import NUM_FEATURES, extract_features
from dipddpm.images import ImageSet, TrainingImages, encode, prepare
from dipddpm.loaders import Batches
from dipddpm.metrics import (
    all_pairs_psnr,
    all_pairs_ssim,
    kid,
    kid_resamplings,
    nearest_distance,
    psnr,
    ssim,
)
from dipddpm.pipeline import run_pipeline
from dipddpm.sampling import sample
from dipddpm.scoring import score_net
from dipddpm.sources import ImageSource, bundled_objects
from dipddpm.training import TrainedNet, train_ddpm

Measure = Callable[..., None]
SIZE, BATCH = 32, 16
UNET, SCHEDULE, TRAINING = UNetConfig(), NoiseScheduleConfig(), TrainingConfig()
MEMORY = LoaderConfig()


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
    return train_ddpm(images, SIZE, UNET, SCHEDULE, TRAINING, context, loading=MEMORY, epochs=1)


def read_by(loader: Loader, source: ImageSource, images: ImageSet) -> TrainingImages:
    return source.train[:BATCH] if loader == "decode" else images


@pytest.mark.benchmark(group="priors")
@pytest.mark.parametrize("nets", [1, BATCH])
def test_dip_iterations(measure: Measure, images: ImageSet, context: Context, nets: int) -> None:
    """Ten iterations of `nets` fits side by side."""
    some = ImageSet(images.pixels[:nets])
    measure(lambda: fit_priors(some, DIPConfig(num_iter=10), context), images=nets)


@pytest.mark.benchmark(group="priors")
@pytest.mark.parametrize("net", ["paper", "skip"])
def test_dip_nets(measure: Measure, source: ImageSource, context: Context, net: PriorNet) -> None:
    """Two iterations of one fit at 64 px, the skip net at its published width."""
    one, dip = prepare(source.train[:1], 64), DIPConfig(net=net, num_iter=2)
    measure(lambda: fit_priors(one, dip, context), rounds=5, images=1)


@pytest.mark.benchmark(group="training")
@pytest.mark.parametrize("loader", ["memory", "list", "decode"])
def test_training_steps(
    measure: Measure, source: ImageSource, images: ImageSet, context: Context, loader: Loader
) -> None:
    """Four steps of batch 16, building and copying the net included."""
    data, loading = read_by(loader, source, images), LoaderConfig(loader=loader)
    arguments = (data, SIZE, UNET, SCHEDULE, TRAINING, context)
    measure(lambda: train_ddpm(*arguments, loading=loading, epochs=4), images=4 * BATCH)


@pytest.mark.benchmark(group="sampling")
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_denoising_steps(
    measure: Measure, trained: TrainedNet, context: Context, sampler: Sampler
) -> None:
    """Five steps of 16 samples, building the net included."""
    config = SamplingConfig(num_inference_steps=5, sampler=sampler)
    measure(lambda: sample(trained, None, SIZE, UNET, SCHEDULE, config, context), images=BATCH)


@pytest.mark.benchmark(group="loaders")
@pytest.mark.parametrize("loader", ["memory", "list", "decode"])
def test_load_a_batch(
    measure: Measure, source: ImageSource, images: ImageSet, loader: Loader
) -> None:
    """An epoch of one batch, in the training process."""
    data, loading = read_by(loader, source, images), LoaderConfig(loader=loader)
    batches = Batches(data, None, SIZE, BATCH, loading, 0, range(1))
    measure(lambda: list(batches), rounds=50, images=BATCH)


@pytest.mark.benchmark(group="loaders")
def test_encode_a_batch(measure: Measure, source: ImageSource, images: ImageSet) -> None:
    measure(lambda: encode(images, source.train[:BATCH]), images=BATCH)


@pytest.mark.benchmark(group="arms")
def test_blur_target(measure: Measure, images: ImageSet, context: Context) -> None:
    """Each of 16 images blurred to the PSNR of its prior."""
    priors = degrade(images, 15, context)
    measure(lambda: blur_targets(images, priors), images=BATCH)


@pytest.mark.benchmark(group="arms")
def test_non_local_means(measure: Measure, images: ImageSet, context: Context) -> None:
    restoration = RestorationConfig()
    degraded = degrade(images, restoration.degradation_sigma, context)
    measure(lambda: start_nlm(degraded, restoration), images=BATCH)


@pytest.mark.benchmark(group="metrics")
@pytest.mark.parametrize("metric", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
def test_image_metric(
    measure: Measure,
    images: ImageSet,
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    measure(lambda: metric(images.pixels.flip(0), images.pixels), rounds=30, images=BATCH)


@pytest.mark.benchmark(group="metrics")
def test_all_pairs_of_a_thousand(measure: Measure) -> None:
    """PSNR of 1,000 images of 64 px against 1,000."""
    x, y = (uniform(1000, 3, 64, 64, seed=seed) for seed in range(2))
    measure(lambda: all_pairs_psnr(x, y), rounds=3, images=1000)


@pytest.mark.benchmark(group="metrics")
def test_features_of_a_batch(measure: Measure, images: ImageSet, context: Context) -> None:
    """Loading the extractor included."""
    measure(lambda: extract_features(images, context), rounds=3, images=BATCH)


@pytest.mark.benchmark(group="metrics")
@pytest.mark.parametrize("metric", [kid, nearest_distance])
def test_feature_metric(
    measure: Measure, metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """Of 1,000 images and 1,000."""
    x, y = (uniform(1000, NUM_FEATURES, seed=seed) for seed in range(2))
    measure(lambda: metric(x, y), rounds=3, images=1000)


@pytest.mark.benchmark(group="metrics")
def test_resamplings_of_kid(measure: Measure) -> None:
    """200 of 1,000 images against 1,000."""
    x, y = (uniform(1000, NUM_FEATURES, seed=seed) for seed in range(2))
    measure(lambda: kid_resamplings(x, y, generator=torch.Generator()), rounds=3, images=1000)


@pytest.mark.benchmark(group="metrics")
def test_held_out_loss(
    measure: Measure, trained: TrainedNet, images: ImageSet, context: Context
) -> None:
    measure(lambda: score_net(trained, images, SIZE, UNET, SCHEDULE, context), images=BATCH)


@pytest.mark.benchmark(group="pipeline")
@pytest.mark.parametrize("train_on", ["images", "dip", "blur"])
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


def uniform(*shape: int, seed: int) -> torch.Tensor:
    """In [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
