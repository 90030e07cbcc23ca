"""Images from the artifacts of a run, as WebP inside the page, at whole-number zoom."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

# Pixels of the screen that a small image should be wide.
SHOWN_WIDTH = 96
GAP = 1


@dataclass(frozen=True)
class Strip:
    """Several images in one, without loss.

    width, narrow: in CSS pixels, whole multiples of its own, on a page and on a phone
    """

    label: str
    uri: str
    width: int
    narrow: int
    height: int


def strip(label: str, images: np.ndarray, columns: int, *, shown_width: int = SHOWN_WIDTH) -> Strip:
    """images: (N, 3, H, W) in [-1, 1], row by row in `columns`; values beyond are clipped."""
    sheet = _sheet(images, columns)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "WEBP", lossless=True, quality=100, exact=True)
    own = images.shape[-1]
    zoom, narrow = max(1, shown_width // own), max(1, min(64, shown_width) // own)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    height, width, _ = sheet.shape
    return Strip(label, uri, width * zoom, width * narrow, height * zoom)


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """(H', W', 4) uint8; between the images a transparent line, so that any page can lie behind."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        part = sheet[top : top + height, left : left + width]
        part[..., :3] = np.clip(np.rint((image.transpose(1, 2, 0) + 1) * 127.5), 0, 255)
        part[..., 3] = 255
    return sheet


def psnr(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """In dB, of a range of 2, pair by pair: (N,); inf for equal images."""
    error = np.mean((images.astype(float) - originals.astype(float)) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(4 / error))
