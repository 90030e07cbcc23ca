"""What several tests compare with, and random images to compare on."""

from __future__ import annotations

from typing import Any

import torch
from skimage import metrics as skimage_metrics
from torch import Tensor

# scikit-image has no types.
peak_signal_noise_ratio: Any = skimage_metrics.peak_signal_noise_ratio
structural_similarity: Any = skimage_metrics.structural_similarity


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def skimage_ssim(image: Tensor, reference: Tensor) -> float:
    return float(
        structural_similarity(
            image.double().numpy(),
            reference.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=2,
            channel_axis=0,
        )
    )
