"""Where images come from: encoded files in a fixed order, train and held-out apart.

Imports no torch: listing images and checking that there are enough of them must be quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from PIL import Image

from dipddpm.encoded import EncodedImages, decode, read_file, reason

# What a file must be called for a folder to take it for an image.
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
OBJECTS = "objects"
PHOTOS = "photos"
HUGGING_FACE = "hf:"
# The bundled set is split here, always: the first 1000 for training, the rest held out.
_NUM_OBJECTS_TO_TRAIN_ON = 1000
# Folders and photos are put into a fixed order, so that a prefix is an unbiased subset.
_ORDER_SEED = 0
_HELD_OUT_SHARE = 0.2
# Different scenes: of the stereo pair motorcycle_left and _right one, and not the retina, whose
# 121 patches would be half of the set.
_PHOTOS_TO_TRAIN_ON = (
    "astronaut.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
_PHOTOS_HELD_OUT = ("chelsea.png", "coffee.png")
_PATCH_SIDE = 128
_HUB_TIMEOUT_SECONDS = 10.0
# The publication trained on up to 1000 images of its data set, which holds no more.
_NUM_ROWS_TO_TRAIN_ON = {"huggan/smithsonian_butterflies_subset": 1000}


@dataclass(frozen=True)
class ImageSource:
    """A named set of images to train on, and one that no training ever sees.

    skipped: a line, with name and reason, for each file that is in neither

    Raises ValueError, naming both, if a file of one has the content of a file of the other.
    """

    name: str
    train: EncodedImages
    held_out: EncodedImages
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        trained_on = {content: index for index, content in enumerate(self.train.hashes)}
        for index, content in enumerate(self.held_out.hashes):
            if content in trained_on:
                raise ValueError(
                    f"held_out of {self.name} must share no image with train, got "
                    f"{self.held_out.name(index)}, the same as "
                    f"{self.train.name(trained_on[content])} of train"
                )

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


# The sources ----------------------------------------------------------------------------------


def open_source(name: str) -> ImageSource:
    """The images of that name: of SOURCES, of one of PREFIXES, or of the folder of that path.

    Raises ValueError, in one line, if there are none, or fewer than two that can be used.
    """
    if name in SOURCES:
        return SOURCES[name]()
    for prefix, source in PREFIXES.items():
        if name.startswith(prefix):
            return source(name.removeprefix(prefix))
    if not name:  # as a path, it would be this folder
        _refuse(name)
    return image_folder(Path(name))


def absolute_name(name: str, base: Path) -> str:
    """`name` as it is to be opened from any working folder; a path in it is relative to `base`."""
    if not name or name in SOURCES:
        return name
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    rest = name.removeprefix(prefix)
    if not rest or (prefix and not _is_folder(base / rest)):
        return name
    return f"{prefix}{os.path.normpath(base.absolute() / rest)}"


def bundled_objects() -> ImageSource:
    """1,274 objects on white, 128 x 128, WebP (data/README.md tells where they come from)."""
    path = resources.files("dipddpm") / "data" / "objects128.zip"
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        images = EncodedImages(tuple(archive.read(name) for name in names))
    return ImageSource(
        OBJECTS, images[:_NUM_OBJECTS_TO_TRAIN_ON], images[_NUM_OBJECTS_TO_TRAIN_ON:]
    )


def photo_patches() -> ImageSource:
    """Patches of 128 x 128, side by side, of photographs in the wheel of scikit-image; PNG.

    104 patches of five photographs to train on, 18 of two others held out: patches of one
    photograph are too much alike to be told apart as seen and unseen. Fixed shuffled order.
    Raises ValueError if scikit-image, or one of the photographs in it, is missing.
    """
    return ImageSource(PHOTOS, _patches_of(_PHOTOS_TO_TRAIN_ON), _patches_of(_PHOTOS_HELD_OUT))


def image_folder(folder: Path) -> ImageSource:
    """Every usable image file below a folder, in a fixed shuffled order; a fifth is held out.

    Every file is decoded once; files with the content of another are used once. Linked folders
    are not entered. Raises ValueError if there is no such folder, or fewer than two such files.
    """
    if not _is_folder(folder):
        _refuse(str(folder))
    skipped: list[str] = []

    def skip_folder(error: OSError) -> None:
        path = Path(error.filename).relative_to(folder)
        skipped.append(f"{str(path)!r}: {reason(error)}")

    paths = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=skip_folder)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES
    )
    # Quoted, so that a strange name still is one line of text.
    usable = _usable([(repr(str(path.relative_to(folder))), path) for path in paths], skipped)
    usable = _without_copies(usable, {}, skipped)
    random.Random(_ORDER_SEED).shuffle(usable)
    return _split(str(folder), usable, _num_to_train_on(len(usable)), skipped)


def hugging_face_images(data_set: str) -> ImageSource:
    """The images of the split `train` of a data set, as the bytes it holds, in its order.

    data_set: a folder that `datasets` can load or has saved, or OWNER/NAME on the Hugging Face
        Hub, from the cache if it is there

    The last fifth is held out; of the published data set what follows its first 1000 images,
    which is nothing. Raises ValueError, in one line, if it cannot be had.
    """
    name = f"{HUGGING_FACE}{data_set}"
    try:
        libraries = [import_module(f"{each}.utils") for each in ("datasets", "huggingface_hub")]
    except ImportError as error:
        text = f'images {name!r} must have the package datasets: pip install "dipddpm[hf]"'
        raise ValueError(text) from error
    with _without_progress_bars(libraries):
        is_folder = data_set and _is_folder(Path(data_set))
        rows = _image_rows(name, Path(data_set) if is_folder else _download(data_set))
    skipped: list[str] = []
    usable = _usable([(f"row {i}", row) for i, row in enumerate(rows)], skipped)
    count = _NUM_ROWS_TO_TRAIN_ON.get(data_set, _num_to_train_on(len(usable)))
    # A copy within the part to train on stays: the publication trained on all rows.
    trained_on = {image.content: image.name for image in usable[:count]}
    held_out = _without_copies(usable[count:], trained_on, skipped)
    return _split(name, usable[:count] + held_out, count, skipped)


SOURCES: dict[str, Callable[[], ImageSource]] = {OBJECTS: bundled_objects, PHOTOS: photo_patches}
# Sources that take what follows their prefix.
PREFIXES: dict[str, Callable[[str], ImageSource]] = {HUGGING_FACE: hugging_face_images}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # of a name that no file can have
        return False


def _refuse(name: str) -> NoReturn:
    names = ", ".join(map(repr, (*SOURCES, f"{HUGGING_FACE}OWNER/NAME")))
    raise ValueError(f"images must be one of {names}, or a folder, got {name!r}")


# Many files -----------------------------------------------------------------------------------


_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class _Checked:
    """A file that was decoded once.

    content: the same for the same picture, also in another lossless format
    problem: why it cannot be used, or empty
    """

    name: str
    file: bytes | Path
    content: str = ""
    problem: str = ""


def _check(named: tuple[str, bytes | Path]) -> _Checked:
    name, file = named
    try:
        data = read_file(file)
        if not data:
            raise ValueError("must not be empty")
        image = decode(data, draft=True)
    except (OSError, ValueError) as error:
        return _Checked(name, file, problem=reason(error))
    # A JPEG was decoded at an eighth of its size, at which two pictures may be one.
    pixels = data if data.startswith(_JPEG) else str(image.size).encode() + image.tobytes()
    return _Checked(name, file, hashlib.sha256(pixels).hexdigest())


def _usable(named: Sequence[tuple[str, bytes | Path]], skipped: list[str]) -> list[_Checked]:
    """The files that can be decoded; of the others a line goes to `skipped`."""
    # Pillow decodes outside the interpreter's lock. Few threads: each may hold a whole image.
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("ignore")  # on what is odd in a file, but no reason to skip it
        checked = list(pool.map(_check, named))
    skipped += [f"{image.name}: {image.problem}" for image in checked if image.problem]
    return [image for image in checked if not image.problem]


def _without_copies(
    images: Sequence[_Checked], there: dict[str, str], skipped: list[str]
) -> list[_Checked]:
    """One image of each content that is not `there` (content -> name); lines go to `skipped`."""
    first = dict(there)
    kept = []
    for image in images:
        if image.content in first:
            skipped.append(f"{image.name}: same content as {first[image.content]}")
        else:
            first[image.content] = image.name
            kept.append(image)
    return kept


def _num_to_train_on(count: int) -> int:
    return count - max(1, round(_HELD_OUT_SHARE * count))


def _split(name: str, images: Sequence[_Checked], count: int, skipped: list[str]) -> ImageSource:
    """The first `count` images to train on, the rest held out."""
    if len(images) < 2:
        why = f"; skipped {len(skipped)}, the first being {skipped[0]}" if skipped else ""
        raise ValueError(
            f"images must have at least 2 that can be used, got {len(images)} in {name!r}{why}"
        )
    files = EncodedImages(tuple(image.file for image in images))
    return ImageSource(name, files[:count], files[count:], tuple(skipped))


# scikit-image ---------------------------------------------------------------------------------


def _patches_of(photos: Sequence[str]) -> EncodedImages:
    patches = [patch for photo in photos for patch in _patches(photo)]
    random.Random(_ORDER_SEED).shuffle(patches)
    return EncodedImages(tuple(patches))


def _patches(photo: str) -> Iterator[bytes]:
    try:
        # The file itself: a function of skimage.data may turn to the network.
        data = (resources.files("skimage") / "data" / photo).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ValueError(
            f"images {PHOTOS!r} must have the package scikit-image with {photo} in it: "
            "pip install scikit-image"
        ) from error
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    for top in range(0, rgb.height - _PATCH_SIDE + 1, _PATCH_SIDE):
        for left in range(0, rgb.width - _PATCH_SIDE + 1, _PATCH_SIDE):
            stream = io.BytesIO()
            rgb.crop((left, top, left + _PATCH_SIDE, top + _PATCH_SIDE)).save(stream, "PNG")
            yield stream.getvalue()


# Hugging Face ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _without_progress_bars(libraries: Sequence[ModuleType]) -> Iterator[None]:
    with contextlib.ExitStack() as after:
        for library in libraries:
            if not library.are_progress_bars_disabled():
                library.disable_progress_bars()
                after.callback(library.enable_progress_bars)
        yield


def _download(repository: str) -> Path:
    """The folder that holds a data set of the Hub; the network is asked only if none does.

    So all processes of a run read the same, and none waits for the network in vain.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = f"{HUGGING_FACE}{repository}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"images must be {HUGGING_FACE}OWNER/NAME or a folder, got {name!r}")
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(snapshot_download(repository, repo_type="dataset", local_files_only=True))
        # Asked first, for a download would wait for a silent network forever.
        HfApi().dataset_info(repository, timeout=_HUB_TIMEOUT_SECONDS)
        return Path(snapshot_download(repository, repo_type="dataset"))
    except Exception as error:  # the Hub's, its network library's, the disk's
        cause = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"images {name!r} must be in the cache or on the Hugging Face Hub "
            f"({cause}): run `hf download --repo-type dataset {repository}` "
            "where there is a network and set HF_HOME to that cache, "
            f"or take --images {OBJECTS}, which makes it an analogue"
        ) from error


def _image_rows(name: str, folder: Path) -> list[bytes | Path]:
    """The encoded images of the split `train`; what is missing is empty."""
    datasets = import_module("datasets")
    saved = any((folder / file).exists() for file in ("dataset_dict.json", "state.json"))
    load = datasets.load_from_disk if saved else datasets.load_dataset
    try:
        table = load(str(folder.resolve()))
    except Exception as error:  # as many kinds as there are formats
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ValueError(f"images {name!r} cannot be loaded: {reason(cause)}") from error
    if isinstance(table, datasets.DatasetDict):
        if "train" not in table:
            raise ValueError(f"images {name!r} must have a split 'train', got {[*table]}")
        table = table["train"]
    columns = [key for key, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if len(columns) != 1:
        found = columns or [*table.features]
        raise ValueError(f"images {name!r} must have one column of images, got {found}")
    table = table.select_columns(columns).cast_column(columns[0], datasets.Image(decode=False))
    cells = (row[columns[0]] or {} for row in table)
    return [
        cell.get("bytes") or (Path(cell["path"]) if cell.get("path") else b"") for cell in cells
    ]
