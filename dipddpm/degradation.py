"""What makes images worse: noise, Gaussian blur, and the blur that is as bad as a prior."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dipddpm.config import Context, derive_seed
from dipddpm.images import ImageSet


def degrade(
    images: ImageSet, degradation_sigma: float, context: Context, *, part: str = "held-out"
) -> ImageSet:
    """`images` with Gaussian noise of that standard deviation (of 255), not clipped.

    part: what the images are a part of; each part has noise of its own
    """
    noise = seeded_noise(images.pixels.shape, context.seed, "degrade", part)
    return ImageSet(images.pixels + 2 / 255 * degradation_sigma * noise)


def seeded_noise(shape: Sequence[int], seed: int, *purpose: str) -> Tensor:
    """Standard normal noise of that shape (N, ...), one seed for each of the N.

    So that of an image does not depend on N. It is drawn on the CPU: the same on every device.
    """
    generators = (
        torch.Generator().manual_seed(derive_seed(seed, *purpose, i)) for i in range(shape[0])
    )
    return torch.stack([torch.randn(*shape[1:], generator=one) for one in generators])


def gaussian_blur(pixels: Tensor, sigma: float, *, truncate: float = 4.0) -> Tensor:
    """pixels: (N, C, H, W); each row, then each column, with a Gaussian of `sigma` pixels.

    The window is cut off at `truncate` sigma; edges are mirrored (d c b a | a b c d | d c b a).
    """
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (-1, -2):
        size = pixels.shape[axis]
        places = torch.arange(-radius, size + radius) % (2 * size)
        mirrored = pixels.index_select(
            axis, torch.where(places < size, places, 2 * size - 1 - places)
        )
        pixels = mirrored.unfold(axis, len(kernel), 1) @ kernel
    return pixels


def blur_to_psnr(images: ImageSet, priors: ImageSet) -> ImageSet:
    """Each image under the Gaussian blur that leaves it the PSNR that its prior has to it.

    Of priors clamped to [-1, 1]; a blur stays in the range of its image by itself. Where no blur
    is as far from the image as the prior is, the widest is taken: a sigma of one side.
    Raises ValueError if the priors are not of the images' shape, or not finite.
    """
    if priors.pixels.shape != images.pixels.shape:
        raise ValueError(
            f"priors must be {tuple(images.pixels.shape)}, got {tuple(priors.pixels.shape)}"
        )
    if not priors.pixels.isfinite().all():
        raise ValueError("priors must be finite, got NaN or infinite values")
    parts = zip(images.pixels.split(64), priors.pixels.split(64), strict=True)
    return ImageSet(torch.cat([_blur_to_psnr(*part) for part in parts]))


def _blur_to_psnr(images: Tensor, priors: Tensor) -> Tensor:
    """As `blur_to_psnr`; (N, C, H, W) each.

    With mirrored edges a blur scales each coefficient of the DCT-II by the kernel's frequency
    response, so by Parseval's theorem its error is known before any image is blurred.
    """
    pixels = images.double()
    mse = (priors.double().clamp(-1, 1) - pixels).square().mean(dim=(1, 2, 3))
    height, width = pixels.shape[2:]
    over_rows, over_columns = _dct_matrix(height), _dct_matrix(width)
    coefficients = over_rows @ pixels @ over_columns.T
    power = coefficients.square().sum(dim=1) / pixels[0].numel()

    def left(sigma: Tensor) -> Tensor:
        rows, columns = _frequency_response(sigma, height), _frequency_response(sigma, width)
        return rows[:, :, None] * columns[:, None, :]

    low, high = torch.full_like(mse, 0.1), torch.full_like(mse, max(height, width))
    for _ in range(30):  # halvings: down to 1e-9 of the widest
        sigma = (low + high) / 2
        too_slight = (power * (1 - left(sigma)).square()).sum(dim=(1, 2)) < mse
        low, high = torch.where(too_slight, sigma, low), torch.where(too_slight, high, sigma)
    blurred = over_rows.T @ (coefficients * left(high)[:, None]) @ over_columns
    return blurred.to(images.dtype)


def _dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II, (size, size) float64: coefficients = matrix @ values."""
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(torch.pi / size * places[:, None] * (places + 0.5)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _frequency_response(sigma: Tensor, size: int, *, truncate: float = 4.0) -> Tensor:
    """What `gaussian_blur` leaves of each DCT-II coefficient of a row: (N,) -> (N, size)."""
    radius = (truncate * sigma + 0.5).floor()[:, None]
    offsets = torch.arange(int(radius.max()) + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2) * (offsets <= radius)
    weights[:, 1:] *= 2  # on both sides
    frequencies = torch.pi / size * torch.arange(size, dtype=torch.float64)
    kernel: Tensor = weights / weights.sum(dim=1, keepdim=True)
    return kernel @ torch.cos(offsets[:, None] * frequencies)
