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
    Raises ValueError, naming the file, if it is no image.
    """
    if isinstance(images, ImageSet):
        return images.pixels[list(indices)]
    return torch.stack([_decode_file(images, index, image_size) for index in indices])


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
    noise = seeded_noise(images.pixels.shape, context.seed, "degrade")
    return ImageSet(images.pixels + 2 / 255 * restoration.degradation_sigma * noise)


def seeded_noise(shape: Sequence[int], seed: int, *purpose: str) -> Tensor:
    """Standard normal noise of that shape (N, ...), one seed for each of the N.

    So that of an image does not depend on N. It is drawn on the CPU: the same on every device.
    """
    generators = (
        torch.Generator().manual_seed(derive_seed(seed, *purpose, i)) for i in range(shape[0])
    )
    return torch.stack([torch.randn(*shape[1:], generator=one) for one in generators])


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


def _decode_file(images: EncodedImages, index: int, image_size: int) -> Tensor:
    """Raises ValueError, naming the file, if it is no image."""
    try:
        return _decode(images.read(index), image_size)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{images.name(index)} is no image that can be read: {error}") from error


def _decode(data: bytes, image_size: int) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        turned = ImageOps.exif_transpose(image)
        square = _centre(_on_white(turned))
    if square.size != (image_size, image_size):
        # BOX averages areas: antialiased, and it undoes the enlargement of `_encode`, so that an
        # encoded image comes back as it was.
        square = square.resize((image_size, image_size), Image.Resampling.BOX)
    return _to_signed(np.asarray(square))


def _centre(image: Image.Image) -> Image.Image:
    """The square in the middle, of whole pixels, where `_enlarge` puts its own."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8, not scale them
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
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
    # The multiple of the image's own side nearest to the file's: any other would blur, in the
    # round trip, what is trained on when it was made of priors and not when it is the images.
    side = image.width * max(1, round(min(size) / image.width))
    scaled = np.asarray(image.resize((side, side), Image.Resampling.NEAREST))
    width, height = (side if length == min(size) else max(length, side) for length in size)
    left, top = (width - side) // 2, (height - side) // 2
    padding = ((top, height - side - top), (left, width - side - left), (0, 0))
    return Image.fromarray(np.pad(scaled, padding, mode="edge"))
