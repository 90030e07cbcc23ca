from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from dipddpm.sources import EncodedImages, ImageSource, image_folder, open_source


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
    with pytest.raises(ValueError, match=f"at least 2 images, got '{tmp_path}'"):
        open_source(str(tmp_path))


def test_two_images_are_one_to_train_on_and_one_held_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 0)
    save(tmp_path / "b.png", 255)
    source = open_source(str(tmp_path))
    assert (len(source.train), len(source.held_out)) == (1, 1)


def test_open_source_knows_the_objects_by_name(objects: ImageSource) -> None:
    assert open_source("objects").digest == objects.digest
