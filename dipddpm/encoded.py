"""Images as encoded files, and the one way to decode them. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import io
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The formats that are read, whatever a file is called: of Pillow's others some start a program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# By the header, before anything is decoded: a few bytes may claim an image that fills the memory.
MAX_PIXELS = 64_000_000
MIN_SIDE = 8


@dataclass(frozen=True)
class EncodedImages:
    """Image files, each as its bytes or as the path that holds them."""

    files: tuple[bytes | Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, part: slice) -> EncodedImages:
        return EncodedImages(self.files[part])

    def name(self, index: int) -> str:
        """The path of one file, or its place where it has none."""
        file = self.files[index]
        return f"image {index}" if isinstance(file, bytes) else str(file)

    def read(self, index: int) -> bytes:
        """The content of one file. Raises as `read_file`."""
        return read_file(self.files[index])

    def decode(self, index: int) -> Image.Image:
        """As `decode`. Raises ValueError, naming the file, if it is no image that can be used."""
        try:
            return decode(self.read(index))
        except (OSError, ValueError) as error:
            text = f"{self.name(index)} is no image that can be read: {reason(error)}"
            raise ValueError(text) from error

    @functools.cached_property
    def hashes(self) -> tuple[bytes, ...]:
        """sha256 of the content of each file."""
        return tuple(hashlib.sha256(self.read(index)).digest() for index in range(len(self)))

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over the content of all files, in order."""
        return hashlib.sha256(b"".join(self.hashes)).hexdigest()

    def original_form(self, index: int) -> tuple[str, tuple[int, int]]:
        """Format (as Pillow names it) and (width, height) of one file."""
        with Image.open(io.BytesIO(self.read(index)), formats=FORMATS) as image:
            return image.format or "PNG", image.size


def decode(data: bytes, *, draft: bool = False) -> Image.Image:
    """The square in the middle of an encoded image: RGB in eight bits, upright, on white.

    draft: JPEG at an eighth of its size, for which all of the data is read all the same
    Raises ValueError, with the reason, if it is no image that can be used.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_form(image)
            if draft:
                image.draft(None, (1, 1))
            return _centre(_on_white(ImageOps.exif_transpose(image)))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on a broken file
        raise ValueError(reason(error)) from error


def _check_form(image: Image.Image) -> None:
    """Raises ValueError if what the header says cannot be used."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"must have at most {MAX_PIXELS} pixels, got {width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"must be at least {MIN_SIDE} pixels a side, got {width} x {height}")
    # Phones keep a second view of the same picture in an MPO.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError("must be one image, got an animation or several pages")
    if image.mode in ("I", "F"):
        raise ValueError(f"must have 8 or 16 bits a channel, got Pillow's mode {image.mode}")


def _centre(image: Image.Image) -> Image.Image:
    """The square in the middle, of whole pixels."""
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


def read_file(file: bytes | Path) -> bytes:
    """Raises OSError, or ValueError if `file` is no file that holds an image of MAX_PIXELS."""
    if isinstance(file, bytes):
        return file
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("must be a regular file")
    if status.st_size > 8 * MAX_PIXELS:  # four channels of 16 bits
        raise ValueError(f"must have at most {8 * MAX_PIXELS} bytes, got {status.st_size}")
    return file.read_bytes()


def reason(error: Exception) -> str:
    """One line, without the names of files or objects."""
    if isinstance(error, UnidentifiedImageError):  # its own text has an address in memory
        return f"must be a whole file of {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
