from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from dipddpm import sources
from dipddpm.encoded import MAX_PIXELS, EncodedImages, decode
from dipddpm.images import prepare
from dipddpm.sources import ImageSource, absolute_name, image_folder, open_source


def save(path: Path, level: int, size: tuple[int, int] = (12, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven images at three depths, and files that are none."""
    for i in range(5):
        save(tmp_path / f"{i}.png", i)
        save(tmp_path / "deep" / "deeper" / f"{i}.JPG", 100 + i)
    save(tmp_path / "deep" / "one.webp", 200)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_objects_are_split_once_and_do_not_overlap(objects: ImageSource) -> None:
    assert (len(objects.train), len(objects.held_out)) == (1000, 274)
    parts = [
        {hashlib.sha256(part.read(i)).digest() for i in range(len(part))}
        for part in (objects.train, objects.held_out)
    ]
    assert [len(part) for part in parts] == [1000, 274]  # no file is there twice
    assert parts[0].isdisjoint(parts[1])


def test_objects_are_webp_of_128(objects: ImageSource) -> None:
    assert {objects.train.original_form(i) for i in range(20)} == {("WEBP", (128, 128))}


def test_a_folder_is_read_to_its_depth_and_held_out_is_apart(folder: Path) -> None:
    source = image_folder(folder)
    train, held_out = set(source.train.files), set(source.held_out.files)
    assert len(held_out) == 2  # a fifth of 11
    assert train.isdisjoint(held_out)
    assert train | held_out == {
        path
        for path in folder.rglob("*.*")
        if path.suffix in (".png", ".JPG", ".webp") and path.is_file()
    }


def test_the_order_of_a_folder_is_fixed_and_mixed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = image_folder(folder)
    assert image_folder(folder).train.files == source.train.files
    # The same names below another root come in the same order, whatever was written first.
    other = tmp_path_factory.mktemp("other")
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    for name in reversed(names):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((folder / name).read_bytes())
    copy = image_folder(other)
    assert [path.relative_to(other) for path in copy.train.files if isinstance(path, Path)] == [
        path.relative_to(folder) for path in source.train.files if isinstance(path, Path)
    ]
    assert copy.digest == source.digest
    # A prefix is no folder of its own: the order is not that of the names.
    assert list(source.train.files) != sorted(source.train.files, key=str)


def test_a_digest_is_of_content(folder: Path) -> None:
    paths = image_folder(folder).train
    contents = EncodedImages(tuple(paths.read(i) for i in range(len(paths))))
    assert contents.digest == paths.digest
    assert contents[:3].digest == paths[:3].digest != paths.digest
    assert contents[::-1].digest != contents.digest
    # Where one file ends and the next begins counts too.
    assert EncodedImages((b"ab", b"c")).digest != EncodedImages((b"a", b"bc")).digest


def test_train_and_held_out_are_told_apart_by_the_digest() -> None:
    a, b = EncodedImages((b"a",)), EncodedImages((b"b",))
    assert ImageSource("x", a, b).digest != ImageSource("x", b, a).digest
    assert ImageSource("x", a, b).digest == ImageSource("y", a, b).digest


def test_a_slice_is_a_view_of_the_same_files(objects: ImageSource) -> None:
    part = objects.train[3:7]
    assert len(part) == 4
    assert part.files == objects.train.files[3:7]
    assert part.read(1) == objects.train.read(4)


def test_too_few_images_are_refused_with_the_number_asked(objects: ImageSource) -> None:
    objects.check_enough(1000, 274)
    with pytest.raises(ValueError, match=r"num_images .* 1000 with objects, got 1001"):
        objects.check_enough(1001, 1)
    with pytest.raises(ValueError, match=r"num_held_out .* 274 with objects, got 275"):
        objects.check_enough(1, 275)


def test_a_folder_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        open_source(str(tmp_path / "no such folder"))
    file = save(tmp_path / "file.png", 0)
    with pytest.raises(ValueError, match=r"file\.png"):
        open_source(str(file))
    with pytest.raises(ValueError, match=f"at least 2 that can be used, got 1 in '{tmp_path}'$"):
        open_source(str(tmp_path))
    for nothing in ("", "object", "photos:", "huggan/smithsonian_butterflies_subset"):
        known = "'objects', 'photos', 'hf:OWNER/NAME', or a folder"
        with pytest.raises(ValueError, match=rf"{known}, got '{nothing}'$"):
            open_source(nothing)


def test_two_images_are_one_to_train_on_and_one_held_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 0)
    save(tmp_path / "b.png", 255)
    source = open_source(str(tmp_path))
    assert (len(source.train), len(source.held_out)) == (1, 1)


def test_open_source_knows_the_objects_by_name(objects: ImageSource) -> None:
    assert open_source("objects").digest == objects.digest


def test_a_name_is_the_same_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    for name in ("objects", "photos", "hf:owner/name", ""):
        assert absolute_name(name, tmp_path) == name
    assert absolute_name("hf:saved", tmp_path) == f"hf:{tmp_path / 'saved'}"
    assert absolute_name("../images", tmp_path / "saved") == str(tmp_path / "images")
    assert absolute_name("/images", tmp_path) == "/images"
    assert absolute_name("hf:", tmp_path) == "hf:"


@pytest.mark.parametrize("name", ["a\0b", "long" * 1000])
def test_what_no_folder_can_be_called_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^images must be one of"):
        open_source(absolute_name(name, tmp_path))


def test_an_image_on_both_sides_is_refused_with_both_names(folder: Path) -> None:
    path = folder / "1.png"
    train = EncodedImages((b"a", path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path}, the same as image 1 of train"):
        ImageSource("mine", train, EncodedImages((b"b", path)))
    ImageSource("mine", train, EncodedImages((b"b", folder / "2.png")))


# What may lie in a folder ------------------------------------------------------------------------


def file_of(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def noise(seed: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png_that_claims(width: int, height: int) -> bytes:
    """A sound header with its checksum, before the data of a small image."""
    data = file_of(noise(0))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def gif_that_claims(side: int) -> bytes:
    data = file_of(noise(0), "GIF")
    return data[:6] + struct.pack("<HH", side, side) + data[10:]


def webp_that_claims(side: int) -> bytes:
    """Lossless WebP: after its signature 0x2f, 14 bits each of width - 1 and height - 1."""
    data = file_of(noise(0), "WEBP", lossless=True)
    assert data[12:16] == b"VP8L" and data[20] == 0x2F
    rest = struct.unpack("<I", data[21:25])[0] >> 28
    return data[:21] + struct.pack("<I", (side - 1) | (side - 1) << 14 | rest << 28) + data[25:]


def frames(file_format: str) -> bytes:
    return file_of(noise(1), file_format, save_all=True, append_images=[noise(2), noise(3)])


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


SIXTEEN_BIT = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
GOOD: dict[str, Callable[[], bytes]] = {
    "rgb.png": lambda: file_of(noise(10)),
    "cmyk.jpg": lambda: file_of(noise(11, "CMYK"), "JPEG"),
    "sixteen.png": lambda: file_of(Image.fromarray(SIXTEEN_BIT)),
    "sixteen.tif": lambda: file_of(Image.fromarray(SIXTEEN_BIT), "TIFF"),
    "motorola.tiff": lambda: file_of(
        Image.frombytes("I;16B", (16, 16), SIXTEEN_BIT.astype(">u2").tobytes()), "TIFF"
    ),
    "bits.bmp": lambda: file_of(noise(12, "1"), "BMP"),
    "palette.gif": lambda: file_of(noise(13, "P"), "GIF", transparency=3),
    "alpha.webp": lambda: file_of(noise(14, "RGBA"), "WEBP"),
    "grey-alpha.png": lambda: file_of(noise(15, "LA")),
    "turned.jpg": lambda: file_of(noise(16), "JPEG", exif=exif_of(6)),
    "two views.jpg": lambda: frames("MPO"),
    "a png in truth.JPG": lambda: file_of(noise(17)),
    "deep/er/oblong.jpeg": lambda: file_of(noise(18, size=(300, 9)), "JPEG", progressive=True),
    "8.png": lambda: file_of(noise(19, size=(8, 8))),
    "line\nbreak.png": lambda: file_of(noise(20)),
}
UNKNOWN = "must be a whole file of BMP, GIF, JPEG, PNG, TIFF, WEBP$"
ANIMATED = "must be one image, got an animation or several pages$"
TOO_LARGE = r"pixels.*exceeds limit"
TRUNCATED = "truncated"
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "must not be empty$"),
    "text.png": (lambda: b"no image at all", UNKNOWN),
    # Pillow would have Ghostscript run it.
    "program.png": (lambda: file_of(noise(1), "EPS"), UNKNOWN),
    "header only.png": (lambda: file_of(noise(1))[:20], "Truncated"),
    "truncated.jpg": (lambda: file_of(noise(1), "JPEG")[:-300], TRUNCATED),
    "truncated.jpeg": (lambda: file_of(noise(1), "JPEG", progressive=True)[:-300], TRUNCATED),
    "truncated.png": (lambda: file_of(noise(1))[:-300], TRUNCATED),
    "truncated.gif": (lambda: file_of(noise(1), "GIF")[:-300], TRUNCATED),
    "truncated.bmp": (lambda: file_of(noise(1), "BMP")[:-300], TRUNCATED),
    "truncated.webp": (lambda: file_of(noise(1), "WEBP")[:-300], "."),
    "one pixel.png": (lambda: file_of(noise(1, size=(1, 1))), "at least 8 pixels .* 1 x 1$"),
    "thin.png": (lambda: file_of(noise(1, size=(99, 7))), "at least 8 pixels .* 99 x 7$"),
    "bomb.png": (lambda: png_that_claims(100_000, 100_000), TOO_LARGE),
    "bomb.gif": (lambda: gif_that_claims(65_535), TOO_LARGE),
    "bomb.webp": (lambda: webp_that_claims(16_383), TOO_LARGE),
    # Within what Pillow lets pass, or warns of.
    "warned of.png": (lambda: png_that_claims(10_000, 10_000), f"{MAX_PIXELS} pixels, got 10000"),
    "large.png": (lambda: png_that_claims(8001, 8000), f"{MAX_PIXELS} pixels, got 8001 x 8000$"),
    "large.gif": (lambda: gif_that_claims(8001), f"{MAX_PIXELS} pixels, got 8001 x 8001$"),
    "large.webp": (lambda: webp_that_claims(8001), f"{MAX_PIXELS} pixels, got 8001 x 8001$"),
    "animated.gif": (lambda: frames("GIF"), ANIMATED),
    "animated.webp": (lambda: frames("WEBP"), ANIMATED),
    "animated.png": (lambda: frames("PNG"), ANIMATED),
    "pages.tif": (lambda: frames("TIFF"), ANIMATED),
    "float.tif": (lambda: file_of(noise(1, "F"), "TIFF"), "8 or 16 bits .* mode F$"),
}


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_skipped_with_its_name_and_reason(tmp_path: Path, name: str) -> None:
    make, reason = BAD[name]
    write(tmp_path, "deep/" + name, make())
    for i in range(2):
        save(tmp_path / f"{i}.png", i)
    source = image_folder(tmp_path)
    (line,) = source.skipped
    assert re.match(f"'deep/{name}': .*{reason}", line)
    assert len(source.train) + len(source.held_out) == 2


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_is_used(tmp_path: Path, name: str) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    path = write(tmp_path, name, GOOD[name]())
    source = image_folder(tmp_path)
    assert source.skipped == ()
    assert path in source.train.files + source.held_out.files


@pytest.mark.parametrize("name", ["sixteen.png", "sixteen.tif", "motorola.tiff"])
def test_sixteen_bits_become_eight_by_their_level(name: str) -> None:
    assert np.array_equal(np.asarray(decode(GOOD[name]()))[..., 0], SIXTEEN_BIT // 257)


def test_of_a_whole_zoo_the_good_are_used_and_the_others_listed(tmp_path: Path) -> None:
    for name, make in GOOD.items():
        write(tmp_path, name, make())
    for name, (make_bad, _) in BAD.items():
        write(tmp_path, name, make_bad())
    copy = write(tmp_path, "zzz/copy of rgb.png", GOOD["rgb.png"]())
    write(tmp_path, "an image.txt", file_of(noise(30)))
    write(tmp_path, "folder.png/inside.png", file_of(noise(31)))
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "not there")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "linked.png").symlink_to(tmp_path / "an image.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")

    source = image_folder(tmp_path)
    used = {str(Path(str(f)).relative_to(tmp_path)) for f in source.train.files}
    used |= {str(Path(str(f)).relative_to(tmp_path)) for f in source.held_out.files}
    # One picture in three formats.
    same = {"sixteen.png", "sixteen.tif"}
    assert used == {*GOOD, "folder.png/inside.png", "linked.png"} - same
    others = {copy.relative_to(tmp_path), "nowhere.png", "circle.png", "pipe.png", *same}
    assert {line.split("'")[1] for line in source.skipped} == {*BAD, *map(str, others)}
    assert len(source.skipped) == len(BAD) + 6
    assert all(line.isprintable() for line in source.skipped)
    for line in (
        "'zzz/copy of rgb.png': same content as 'rgb.png'",
        "'nowhere.png': No such file or directory",
        "'pipe.png': must be a regular file",
        "'sixteen.tif': same content as 'motorola.tiff'",
    ):
        assert line in source.skipped
    # What was found usable is: no loader meets a surprise.
    assert len(prepare(source.train, 16)) == len(source.train)
    assert len(prepare(source.held_out, 16)) == len(source.held_out)
    assert image_folder(tmp_path) == source


def test_a_truncated_jpeg_shows_at_an_eighth_of_its_size_too() -> None:
    for options in ({}, {"progressive": True}):
        data = file_of(noise(1, size=(123, 97)), "JPEG", **options)
        for length in range(len(data) // 2, len(data), 101):
            found = []
            for draft in (False, True):
                try:
                    decode(data[:length], draft=draft)
                except ValueError:
                    found.append(draft)
            assert found in ([], [False, True])


def test_a_name_of_stray_bytes_is_a_line_of_text(tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.png", i)
    write(tmp_path, os.fsdecode(b"\xff\n.png"), b"")
    (line,) = image_folder(tmp_path).skipped
    assert line == r"'\udcff\n.png': must not be empty"
    line.encode()


def test_a_file_too_large_for_any_image_is_not_read(tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.png", i)
    with (tmp_path / "sparse.png").open("wb") as stream:
        stream.truncate(2**40)
    (line,) = image_folder(tmp_path).skipped
    assert line == f"'sparse.png': must have at most {8 * MAX_PIXELS} bytes, got {2**40}"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, in the eyes of a user from whom files can be kept."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Image.init()  # the modules of root may be out of reach later
        root = os.geteuid() == 0
        for i in range(2):
            save(Path(folder, f"{i}.png"), i)
        save(Path(folder, "locked.png"), 2).chmod(0)
        save(Path(folder, "locked", "3.png"), 3).parent.chmod(0)
        if root:
            os.seteuid(65534)
        yield Path(folder)
        if root:
            os.seteuid(0)
        Path(folder, "locked").chmod(0o755)


def test_what_may_not_be_read_is_skipped_with_its_reason(unprivileged: Path) -> None:
    source = image_folder(unprivileged)
    assert source.skipped == ("'locked': Permission denied", "'locked.png': Permission denied")
    assert len(source.train) + len(source.held_out) == 2


def test_copies_are_used_once_whatever_they_are_called(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"{i}.png", i)
        write(tmp_path, f"copies/{i}.jpg", (tmp_path / f"{i}.png").read_bytes())
    source = image_folder(tmp_path)
    assert len(source.train) + len(source.held_out) == 10
    assert len({*source.train.hashes, *source.held_out.hashes}) == 10
    assert source.skipped == tuple(
        f"'copies/{i}.jpg': same content as '{i}.png'" for i in range(10)
    )


def test_a_picture_in_another_format_is_a_copy(folder: Path) -> None:
    """Or what is held out would have been trained on."""
    known = image_folder(folder)
    for i in range(5):
        with Image.open(folder / f"{i}.png") as image:
            image.save(folder / f"again {i}.bmp")
            image.save(folder / f"lossy {i}.jpg")
    source = image_folder(folder)
    new = [line for line in source.skipped if line not in known.skipped]
    assert len(new) == 5 and all("same content as" in line for line in new)
    # JPEGs are others, if only by what they lost.
    assert len(source.train) + len(source.held_out) == 16


def test_too_few_usable_images_are_refused_with_the_first_reason(tmp_path: Path) -> None:
    save(tmp_path / "good.png", 0)
    for name in ("b.png", "a.png"):
        write(tmp_path, name, b"")
    with pytest.raises(
        ValueError,
        match=f"got 1 in '{tmp_path}'; skipped 2, the first being 'a.png': must not be empty$",
    ):
        image_folder(tmp_path)


def test_a_file_that_is_gone_or_broken_later_is_named(folder: Path) -> None:
    source = image_folder(folder)
    first, second = (Path(str(file)) for file in source.train.files[:2])
    first.unlink()
    second.write_bytes(b"")
    for index, path in enumerate((first, second)):
        with pytest.raises(ValueError, match=rf"{path} is no image that can be read: "):
            prepare(source.train[index : index + 1], 16)


# Photographs ------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_patches_of_a_photograph_are_on_one_side() -> None:
    source = open_source("photos")
    assert (len(source.train), len(source.held_out)) == (104, 18)
    photos = {
        path.name: np.asarray(image.convert("RGB"))
        for path in map(Path, map(str, (resources.files("skimage") / "data").iterdir()))
        if path.suffix in (".jpg", ".png")
        for image in [Image.open(path)]
    }
    corners: dict[bytes, str] = {}
    for name, pixels in photos.items():
        for top in range(0, pixels.shape[0] - 127, 128):
            for left in range(0, pixels.shape[1] - 127, 128):
                corners[pixels[top : top + 128, left : left + 128].tobytes()] = name
    found = []
    for part in (source.train, source.held_out):
        pixels_of_part = [np.asarray(part.decode(i)).tobytes() for i in range(len(part))]
        assert len(set(pixels_of_part)) == len(part)
        found.append([corners[pixels] for pixels in pixels_of_part])
        assert found[-1] != sorted(found[-1])  # shuffled
    assert {*found[0]}.isdisjoint(found[1])
    assert (len({*found[0]}), len({*found[1]})) == (5, 2)
    assert {source.train.original_form(i) for i in range(104)} == {("PNG", (128, 128))}
    assert open_source("photos") == source


def test_without_scikit_image_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ValueError, match=r"images 'photos' must have .* pip install scikit-image$"):
        open_source("photos")


# Hugging Face ------------------------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with empty caches and a Hub that nobody answers for."""
    datasets = import_module("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return datasets


ROWS = [file_of(noise(i), "JPEG" if i % 2 else "PNG") for i in range(10)]


def table_of(datasets: Any, rows: list[bytes | None], column: str = "picture") -> Any:
    kinds = datasets.Features({"label": datasets.Value("int64"), column: datasets.Image()})
    cells = [None if row is None else {"bytes": row, "path": None} for row in rows]
    return datasets.Dataset.from_dict({"label": [*range(len(rows))], column: cells}, kinds)


@pytest.mark.parametrize("splits", [False, True])
def test_a_saved_data_set_gives_its_own_bytes_in_order(
    datasets: Any, tmp_path: Path, splits: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    table = table_of(datasets, [*ROWS])
    if splits:
        other = table_of(datasets, [file_of(noise(99))])
        table = datasets.DatasetDict({"test": other, "train": table})
    table.save_to_disk(tmp_path / "saved")
    capfd.readouterr()
    source = open_source(f"hf:{tmp_path / 'saved'}")
    assert source.train.files == tuple(ROWS[:8])
    assert source.held_out.files == tuple(ROWS[8:])
    assert source.skipped == ()
    assert capfd.readouterr() == ("", "")
    assert not datasets.utils.are_progress_bars_disabled()


def test_a_folder_of_files_goes_through_the_same_loader(
    datasets: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i, row in enumerate(ROWS):
        write(tmp_path / "images", f"train/kind{i % 2}/{i}.{'jpg' if i % 2 else 'png'}", row)
    source = open_source(f"hf:{tmp_path / 'images'}")
    read = [part.read(i) for part in (source.train, source.held_out) for i in range(len(part))]
    assert read == ROWS[::2] + ROWS[1::2]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_network")
def test_a_data_set_of_the_hub_comes_from_the_cache(datasets: Any, tmp_path: Path) -> None:
    # As the Hub's own client lays it out: a link to a blob, below the commit that `main` names.
    repository = tmp_path / "cache" / "hub" / "datasets--huggan--smithsonian_butterflies_subset"
    commit = "0" * 40
    data = repository / "snapshots" / commit / "data"
    for folder in (data, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    copy = ROWS[3]
    rows = [file_of(Image.new("RGB", (8, 8), (i % 256, i // 256, 0))) for i in range(996)]
    table_of(datasets, [*ROWS[:4], *rows, *ROWS[4:8], copy]).to_parquet(repository / "blobs" / "b")
    (data / "train-00000-of-00001.parquet").symlink_to(repository / "blobs" / "b")
    # The publication's first 1000 rows train; what this copy of its data set has more is held out.
    source = open_source("hf:huggan/smithsonian_butterflies_subset")
    assert source.train.files == (*ROWS[:4], *rows)
    assert source.held_out.files == tuple(ROWS[4:8])
    assert source.skipped == ("row 1004: same content as row 3",)


def test_a_bad_row_is_skipped_with_its_number(datasets: Any, tmp_path: Path) -> None:
    rows = [ROWS[0], None, ROWS[1][:-300], ROWS[2], ROWS[0], ROWS[0]]
    table_of(datasets, rows).save_to_disk(tmp_path / "saved")
    source = open_source(f"hf:{tmp_path / 'saved'}")
    # A copy to train on is a row like any other; one held out would have been seen.
    assert source.train.files == (ROWS[0], ROWS[2], ROWS[0])
    assert source.held_out.files == ()
    missing, broken, copy = source.skipped
    assert missing == "row 1: must not be empty"
    assert re.match("row 2: .*truncated", broken)
    assert copy == "row 5: same content as row 4"


def test_a_data_set_without_one_column_of_images_is_refused(datasets: Any, tmp_path: Path) -> None:
    table = table_of(datasets, [*ROWS])
    second = table.select_columns("picture").rename_column("picture", "second")
    for name, other, found in (
        ("none", table.remove_columns("picture"), r"\['label'\]"),
        ("two", datasets.concatenate_datasets([table, second], axis=1), r"\['picture', 'second'\]"),
    ):
        other.save_to_disk(tmp_path / name)
        with pytest.raises(ValueError, match=rf"one column of images, got {found}$"):
            open_source(f"hf:{tmp_path / name}")
    datasets.DatasetDict({"test": table}).save_to_disk(tmp_path / "split")
    with pytest.raises(ValueError, match=r"must have a split 'train', got \['test'\]$"):
        open_source(f"hf:{tmp_path / 'split'}")


def test_a_folder_that_is_no_data_set_is_refused_in_one_line(datasets: Any, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=rf"images 'hf:{tmp_path}/nothing' cannot be") as refused:
        open_source(f"hf:{tmp_path / 'nothing'}")
    assert "\n" not in str(refused.value)
    for name in ("", "name", "a/b/c", str(tmp_path / "not there")):
        with pytest.raises(ValueError, match=f"hf:OWNER/NAME or a folder, got 'hf:{name}'"):
            open_source(f"hf:{name}")


def test_out_of_reach_of_the_hub_it_is_said_what_to_do(
    datasets: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "huggan/smithsonian_butterflies_subset"
    with pytest.raises(ValueError, match=f"images 'hf:{name}' must be in the cache") as refused:
        open_source(f"hf:{name}")
    text = str(refused.value)
    assert f"hf download --repo-type dataset {name}" in text
    assert "HF_HOME" in text and "--images objects" in text and "\n" not in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("datasets")
def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_HUB_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"on the Hugging Face Hub \(ReadTimeout: timed out\)"):
            open_source("hf:owner/name")


def test_without_datasets_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "datasets"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r'must have the package datasets: pip install "dipddpm\[hf\]"$'
    ):
        open_source("hf:huggan/smithsonian_butterflies_subset")


def test_a_source_of_ones_own_is_one_entry(
    monkeypatch: pytest.MonkeyPatch, objects: ImageSource
) -> None:
    monkeypatch.setitem(sources.SOURCES, "mine", lambda: objects)
    assert open_source("mine") is objects
