"""From encoded files to tensors and back, and the two loaders of the training loop."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dipddpm.config import Context, RestorationConfig, derive_seed
from dipddpm.sources import EncodedImages


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
    """
    if isinstance(images, ImageSet):
        return images.pixels[list(indices)]
    return torch.stack([_decode(images.read(index), image_size) for index in indices])


def prepare(images: EncodedImages, image_size: int) -> ImageSet:
    """All of `images`, decoded and resized once."""
    return ImageSet(load(images, range(len(images)), image_size))


def take(images: ImageSet, first: int, last: int) -> ImageSet:
    """images[first:last]."""
    return ImageSet(images.pixels[first:last])


def encode(images: ImageSet, like: EncodedImages) -> EncodedImages:
    """Each of `images` as a file of the format and size of its counterpart in `like`.

    So that a loader that decodes has the same work to do whatever is trained on.
    """
    return EncodedImages(
        tuple(
            _encode(pixels, *like.original_form(index))
            for index, pixels in enumerate(images.pixels)
        )
    )


def degrade(images: ImageSet, restoration: RestorationConfig, context: Context) -> ImageSet:
    """`images` with Gaussian noise of degradation_sigma (of 255), not clipped."""
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "degrade"))
    noise = torch.randn(images.pixels.shape, generator=generator)
    return ImageSet(images.pixels + 2 / 255 * restoration.degradation_sigma * noise)


def blur(images: ImageSet, restoration: RestorationConfig, context: Context) -> ImageSet:
    """Gaussian blur of blur_sigma pixels, cut off at four sigma, edges mirrored."""
    del context  # every recipe takes one; a blur draws nothing
    return ImageSet(gaussian_blur(images.pixels, restoration.blur_sigma))


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


def _decode(data: bytes, image_size: int) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        turned = ImageOps.exif_transpose(image)
        square = _on_white(turned)
    if square.size != (image_size, image_size):
        # Shorter side resized, centre cropped. BOX averages areas: antialiased, and it undoes the
        # enlargement of `_encode`, so that an encoded image comes back as it was.
        square = ImageOps.fit(square, (image_size, image_size), Image.Resampling.BOX)
    return _to_signed(np.asarray(square))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _to_signed(pixels: np.ndarray) -> Tensor:
    return (
        torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(127.5).sub_(1.0).contiguous()
    )


def _encode(pixels: Tensor, file_format: str, size: tuple[int, int]) -> bytes:
    eight_bit = ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
    image = Image.fromarray(eight_bit.permute(1, 2, 0).numpy())
    width, height = size
    enlarged = _enlarge(image, (width, height))
    stream = io.BytesIO()
    enlarged.save(stream, file_format, quality=90)
    return stream.getvalue()


def _enlarge(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The square `image`, scaled to the shorter side of `size` and continued to the longer one."""
    side = min(size)
    scaled = np.asarray(image.resize((side, side), Image.Resampling.NEAREST))
    width, height = size
    left, top = (width - side) // 2, (height - side) // 2
    padding = ((top, height - side - top), (left, width - side - left), (0, 0))
    return Image.fromarray(np.pad(scaled, padding, mode="edge"))
