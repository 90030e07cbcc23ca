"""What each metric takes, at the sizes of a suite or of a set that a paper reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.conftest import COUNT, Measure
from dipddpm.config import Context
from dipddpm.features import NUM_FEATURES, extract_features
from dipddpm.images import ImageSet
from dipddpm.metrics import (
    all_pairs_psnr,
    all_pairs_ssim,
    kid,
    kid_resamplings,
    nearest_distance,
    precision,
    psnr,
    ssim,
)

pytestmark = pytest.mark.benchmark(group="metrics")
SET = 300
Metric = Callable[[Tensor, Tensor], Tensor]


@pytest.mark.parametrize("metric", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
def test_image_metric(measure: Measure, images: ImageSet, metric: Metric) -> None:
    """Of 16 images and 16."""
    measure(lambda: metric(images.pixels.flip(0), images.pixels), images=COUNT)


def test_all_pairs_of_a_set(measure: Measure) -> None:
    """PSNR of 300 images of 32 px against 300."""
    x, y = (uniform(SET, 3, 32, 32, seed=seed) for seed in range(2))
    measure(lambda: all_pairs_psnr(x, y), images=SET)


def test_features(measure: Measure, images: ImageSet, context: Context) -> None:
    """Of four images, loading the extractor included."""
    some = ImageSet(images.pixels[:4])
    measure(lambda: extract_features(some, context), images=4)


@pytest.mark.parametrize("metric", [kid, nearest_distance, precision])
def test_feature_metric(measure: Measure, metric: Metric) -> None:
    """Of 300 images and 300."""
    x, y = (uniform(SET, NUM_FEATURES, seed=seed) for seed in range(2))
    measure(lambda: metric(x, y), images=SET)


def test_resamplings_of_kid(measure: Measure) -> None:
    """50 of 300 images against 300."""
    x, y = (uniform(SET, NUM_FEATURES, seed=seed) for seed in range(2))
    measure(lambda: kid_resamplings(x, y, num=50, generator=torch.Generator()), images=SET)


def uniform(*shape: int, seed: int) -> Tensor:
    """In [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
