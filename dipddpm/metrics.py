"""Scores, as pure functions of tensors.

Images are (N, 3, H, W) in [-1, 1] throughout, so the range of every PSNR and SSIM is 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dipddpm.images import gaussian_blur

DATA_RANGE = 2.0


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB, pair by pair: (N,) float64, inf for equal images.

    Raises ValueError if a shape differs or a reference leaves [-1, 1].
    """
    _check(images, references)
    error = (images.double() - references.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(DATA_RANGE**2 / error)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), pair by pair: (N,) float64.

    The paper's Gaussian window (11 x 11, sigma 1.5) and population covariances, averaged over the
    channels and over all pixels whose window lies inside the image; scikit-image gives the same
    with gaussian_weights=True, use_sample_covariance=False, data_range=2.
    Raises ValueError if a shape differs, a reference leaves [-1, 1], or a side is below 11.
    """
    _check(images, references)
    radius = 5
    if min(images.shape[-2:]) < 2 * radius + 1:
        raise ValueError(f"ssim needs sides of at least 11, got {tuple(images.shape[-2:])}")

    def local_mean(x: Tensor) -> Tensor:
        # sigma 1.5 cut off at 3.5 sigma is the window of radius 5.
        return gaussian_blur(x, 1.5, truncate=3.5)[..., radius:-radius, radius:-radius]

    x, y = images.double(), references.double()
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x = local_mean(x * x) - mean_x**2
    var_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.mean(dim=(1, 2, 3))


def all_pairs_psnr(images: Tensor, references: Tensor) -> Tensor:
    """PSNR in dB of each image against each reference: (N, M) float64.

    |x - y|^2 = |x|^2 + |y|^2 - 2 x y, as one matrix product; 1,000 x 1,000 in seconds.
    """
    _check_shapes(images[:1], references[:1])
    _check_range(references)
    x, y = images.double().flatten(1), references.double().flatten(1)
    error = (x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T) / x.shape[1]
    # Equal images may come out a rounding error below zero.
    return 10 * torch.log10(DATA_RANGE**2 / error.clamp(min=0))


def all_pairs_ssim(images: Tensor, references: Tensor) -> Tensor:
    """SSIM of each image against each reference: (N, M) float64."""
    _check_shapes(images[:1], references[:1])
    return torch.stack([ssim(image.expand_as(references), references) for image in images])


def lag1_autocorrelation(images: Tensor) -> Tensor:
    """Correlation of neighbouring pixels, (N,) float64; 0 for noise, 1 for a flat image."""
    x = images.double()
    x = x - x.mean(dim=(2, 3), keepdim=True)
    products = (x[..., 1:] * x[..., :-1]).mean(dim=(1, 2, 3)) + (
        x[..., 1:, :] * x[..., :-1, :]
    ).mean(dim=(1, 2, 3))
    power = x.square().mean(dim=(1, 2, 3))
    return torch.where(power > 0, products / 2 / power, 1.0)


def _check(images: Tensor, references: Tensor) -> None:
    _check_shapes(images, references)
    _check_range(references)


def _check_shapes(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.dim() != 4:
        raise ValueError(
            f"images and references must be alike (N, 3, H, W), got {tuple(images.shape)} "
            f"and {tuple(references.shape)}"
        )


def _check_range(references: Tensor) -> None:
    low, high = references.amin().item(), references.amax().item()
    if not (low >= -1 and high <= 1):  # refuses NaN too
        raise ValueError(f"references must be in [-1, 1], got [{low:.3g}, {high:.3g}]")
