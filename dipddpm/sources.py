"""Where images come from: encoded files in a fixed order, train and held-out apart.

Imports no torch: listing images and checking that there are enough of them must be quick.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

OBJECTS = "objects"
# The bundled set is split here, always: the first 1000 for training, the rest held out.
_NUM_OBJECTS_TO_TRAIN_ON = 1000
# A folder's files are put into a fixed order, so that a prefix is an unbiased subset.
_FOLDER_ORDER_SEED = 0
_FOLDER_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class EncodedImages:
    """Image files, each as its bytes or as the path that holds them."""

    files: tuple[bytes | Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, part: slice) -> EncodedImages:
        return EncodedImages(self.files[part])

    def name(self, index: int) -> str:
        file = self.files[index]
        return f"image {index}" if isinstance(file, bytes) else str(file)

    def read(self, index: int) -> bytes:
        file = self.files[index]
        return file if isinstance(file, bytes) else file.read_bytes()

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over the content of all files, in order."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(hashlib.sha256(self.read(index)).digest())
        return digest.hexdigest()

    def original_form(self, index: int) -> tuple[str, tuple[int, int]]:
        """Format (as Pillow names it) and (width, height) of one file."""
        with Image.open(io.BytesIO(self.read(index))) as image:
            return image.format or "PNG", image.size


@dataclass(frozen=True)
class ImageSource:
    """A named set of images to train on, and one that no training ever sees."""

    name: str
    train: EncodedImages
    held_out: EncodedImages

    @property
    def digest(self) -> str:
        """sha256 over the content of all files."""
        return hashlib.sha256(f"{self.train.digest}{self.held_out.digest}".encode()).hexdigest()

    def check_enough(self, num_images: int, num_held_out: int) -> None:
        """Raises ValueError if the source holds fewer images than asked."""
        for field, asked, there in (
            ("num_images", num_images, len(self.train)),
            ("num_held_out", num_held_out, len(self.held_out)),
        ):
            if asked > there:
                raise ValueError(f"{field} must be at most {there} with {self.name}, got {asked}")


def open_source(name: str) -> ImageSource:
    """The bundled objects by their name, or a folder of images by its path.

    Raises ValueError if there is no such folder, or if it holds fewer than two images.
    """
    return bundled_objects() if name == OBJECTS else image_folder(Path(name))


def bundled_objects() -> ImageSource:
    """1,274 objects on white, 128 x 128, WebP (data/README.md tells where they come from)."""
    path = resources.files("dipddpm") / "data" / "objects128.zip"
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        images = EncodedImages(tuple(archive.read(name) for name in names))
    return ImageSource(
        OBJECTS, images[:_NUM_OBJECTS_TO_TRAIN_ON], images[_NUM_OBJECTS_TO_TRAIN_ON:]
    )


def image_folder(folder: Path) -> ImageSource:
    """Every image file below a folder, in a fixed shuffled order; the last fifth is held out."""
    if not folder.is_dir():
        raise ValueError(f"images must be {OBJECTS!r} or a folder, got {str(folder)!r}")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if len(paths) < 2:
        raise ValueError(f"images must name a folder of at least 2 images, got {str(folder)!r}")
    random.Random(_FOLDER_ORDER_SEED).shuffle(paths)
    images = EncodedImages(tuple(paths))
    num_held_out = max(1, round(_FOLDER_HELD_OUT_SHARE * len(images)))
    return ImageSource(str(folder), images[:-num_held_out], images[-num_held_out:])
