"""From encoded files to tensors and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dipddpm.encoded import EncodedImages


@dataclass(frozen=True)
class ImageSet:
    """pixels: (N, 3, H, W) float32 in [-1, 1], on the CPU."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


# What a training loop may read: ready pixels (the loaders memory and list) or files (decode).
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

    So that a loader that decodes reads as many pixels of the same format whatever is trained on.
    Lossless where the format can be: what is in eight bits comes back bit for bit, but from JPEG
    and GIF. A photograph's own file mostly has losses and decodes in another time.
    """
    return EncodedImages(
        tuple(
            _encode(pixels, *like.original_form(index))
            for index, pixels in enumerate(images.pixels)
        )
    )


def to_eight_bits(images: ImageSet) -> ImageSet:
    """Each value at the nearest of the 256 that a file may hold.

    What `prepare` gives of `encode`, to the bit, where the format has no losses.
    """
    return ImageSet(_to_signed(_eight_bits(images.pixels)))


def _decode(images: EncodedImages, index: int, image_size: int) -> Tensor:
    square = images.decode(index)
    if square.size != (image_size, image_size):
        # BOX averages areas: antialiased, and it undoes the enlargement of `_encode`, so that an
        # encoded image comes back as it was.
        square = square.resize((image_size, image_size), Image.Resampling.BOX)
    return _to_signed(torch.from_numpy(np.array(square)).permute(2, 0, 1)).contiguous()


def _to_signed(eight_bit: Tensor) -> Tensor:
    return eight_bit.float().div_(127.5).sub_(1.0)


def _eight_bits(pixels: Tensor) -> Tensor:
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte()


_SAVING: dict[str, dict[str, Any]] = {
    # WebP can do either; without an effort to be small it is quick, as this is charged to an arm.
    "WEBP": {"lossless": True, "quality": 0, "method": 0},
    # Some 45 dB to what is encoded, where a prior has 35 dB to its image at best.
    "JPEG": {"quality": 95, "subsampling": 0},
}


def _encode(pixels: Tensor, file_format: str, size: tuple[int, int]) -> bytes:
    image = Image.fromarray(_eight_bits(pixels).permute(1, 2, 0).numpy())
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
