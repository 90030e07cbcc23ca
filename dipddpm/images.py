"""From encoded files to tensors and back, and the two loaders of the training loop."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dipddpm.config import Context, derive_seed
from dipddpm.encoded import EncodedImages


@dataclass(frozen=True)
class ImageSet:
    """pixels: (N, 3, H, W) float32 in [-1, 1], on the CPU."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


# What a training loop may read: ready pixels (the loader `memory`) or files (`decode`).
TrainingImages = ImageSet | EncodedImages


def load(images: TrainingImages, indices: Sequence[int], image_size: int) -> Tensor:
    """One batch, (B, 3, image_size, image_size) float32 in [-1, 1] on the CPU.

    Files are read, decoded and resized at every call; both kinds give the same bits.
    Raises ValueError, naming the file, if it is no image.
    """
    if isinstance(images, ImageSet):
        return images.pixels[list(indices)]
    return torch.stack([_decode(images, index, image_size) for index in indices])


def prepare(images: EncodedImages, image_size: int) -> ImageSet:
    """All of `images`, decoded and resized once."""
    return ImageSet(load(images, range(len(images)), image_size))


def take(images: ImageSet, first: int, last: int) -> ImageSet:
    """images[first:last]."""
    return ImageSet(images.pixels[first:last])


def encode(images: ImageSet, like: EncodedImages) -> EncodedImages:
    """Each of `images` as a file of the format and size of its counterpart in `like`.

    So that a loader that decodes has the same work to do whatever is trained on. What is in eight
    bits comes back from it bit for bit, but from JPEG and GIF, which have losses.
    """
    return EncodedImages(
        tuple(
            _encode(pixels, *like.original_form(index))
            for index, pixels in enumerate(images.pixels)
        )
    )


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


def _decode(images: EncodedImages, index: int, image_size: int) -> Tensor:
    square = images.decode(index)
    if square.size != (image_size, image_size):
        # BOX averages areas: antialiased, and it undoes the enlargement of `_encode`, so that an
        # encoded image comes back as it was.
        square = square.resize((image_size, image_size), Image.Resampling.BOX)
    return _to_signed(np.asarray(square))


def _to_signed(pixels: np.ndarray) -> Tensor:
    return (
        torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(127.5).sub_(1.0).contiguous()
    )


_SAVING: dict[str, dict[str, Any]] = {
    # WebP can do either; without an effort to be small it is quick, as this is charged to an arm.
    "WEBP": {"lossless": True, "quality": 0, "method": 0},
    # Some 45 dB to what is encoded, where a prior has 35 dB to its image at best.
    "JPEG": {"quality": 95, "subsampling": 0},
}


def _encode(pixels: Tensor, file_format: str, size: tuple[int, int]) -> bytes:
    eight_bit = ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
    image = Image.fromarray(eight_bit.permute(1, 2, 0).numpy())
    width, height = size
    enlarged = _enlarge(image, (width, height))
    stream = io.BytesIO()
    enlarged.save(stream, file_format, **_SAVING.get(file_format, {}))
    return stream.getvalue()


def _enlarge(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The square `image`, scaled to the shorter side of `size` and continued to the longer one."""
    # The multiple of the image's own side nearest to the file's: any other would blur, in the
    # round trip, what is trained on when it was made of priors and not when it is the images.
    side = image.width * max(1, round(min(size) / image.width))
    scaled = np.asarray(image.resize((side, side), Image.Resampling.NEAREST))
    width, height = (side if length == min(size) else max(length, side) for length in size)
    left, top = (width - side) // 2, (height - side) // 2
    padding = ((top, height - side - top), (left, width - side - left), (0, 0))
    return Image.fromarray(np.pad(scaled, padding, mode="edge"))
