from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dipddpm.config import Context, LoaderConfig, derive_seed
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, TrainingImages, prepare
from dipddpm.loaders import Batches, freeze_flips, loader_flip
from dipddpm.sources import ImageSource

SEED, SIZE, BATCH = 7, 16, 4
CONTEXT = Context(seed=SEED)
MEMORY, LIST, DECODE = (LoaderConfig(loader=name) for name in ("memory", "list", "decode"))


def batches(
    images: TrainingImages,
    loading: LoaderConfig,
    *,
    condition: ImageSet | None = None,
    epochs: range = range(3),
) -> Batches:
    return Batches(images, condition, SIZE, BATCH, loading, SEED, epochs)


def order(count: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive_seed(SEED, "epoch", epoch))
    found: list[int] = torch.randperm(count, generator=generator).tolist()
    return found


def expected(pixels: Tensor, flipped: Callable[[int, int], bool]) -> list[Tensor]:
    """Of three epochs, image by image."""
    made = []
    for epoch in range(3):
        shown = [
            pixels[i].flip(-1) if flipped(epoch, i) else pixels[i]
            for i in order(len(pixels), epoch)
        ]
        made += [
            torch.stack(shown[first : first + BATCH]) for first in range(0, len(pixels), BATCH)
        ]
    return made


def assert_same(left: Any, right: list[Tensor]) -> None:
    got = list(left)
    assert len(got) == len(right)
    for one, other in zip(got, right, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.fixture(scope="module")
def files(objects: ImageSource) -> EncodedImages:
    return objects.train[:10]


@pytest.fixture(scope="module")
def images(files: EncodedImages) -> ImageSet:
    return prepare(files, SIZE)


def test_all_loaders_give_the_same_batches(files: EncodedImages, images: ImageSet) -> None:
    unflipped = expected(images.pixels, lambda epoch, i: False)
    for loading in (MEMORY, LIST):
        assert_same(batches(images, loading), unflipped)
    for num_workers in (0, 1, 2):
        assert_same(batches(files, replace(DECODE, num_workers=num_workers)), unflipped)
    assert len(batches(images, MEMORY)) == len(unflipped) == 9
    assert_same(batches(images, LIST, epochs=range(1, 3)), unflipped[3:])


def test_tensors_are_flipped_once_and_files_at_every_epoch(
    files: EncodedImages, images: ImageSet
) -> None:
    frozen = expected(images.pixels, lambda epoch, i: loader_flip(SEED, i))
    for loading in (MEMORY, LIST):
        loading = replace(loading, flip="loader")
        assert_same(batches(freeze_flips(images, CONTEXT), loading), frozen)
        # The loop itself, which is timed, draws none.
        assert_same(batches(images, loading), expected(images.pixels, lambda epoch, i: False))
    anew = expected(images.pixels, lambda epoch, i: loader_flip(SEED, epoch, i))
    for num_workers in (0, 2):
        loading = LoaderConfig(loader="decode", flip="loader", num_workers=num_workers)
        assert_same(batches(files, loading), anew)


def test_the_coin_is_fair_and_each_place_has_its_own() -> None:
    heads = torch.tensor([[loader_flip(SEED, e, i) for i in range(1000)] for e in range(4)])
    # a standard error of 0.016
    assert (heads.float().mean(dim=1) - 0.5).abs().max() < 0.08
    for e in range(3):
        assert abs((heads[e] == heads[e + 1]).float().mean().item() - 0.5) < 0.08
    assert [loader_flip(SEED, i) for i in range(1000)] != heads[0].tolist()
    assert [loader_flip(SEED + 1, 0, i) for i in range(1000)] != heads[0].tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_condition_is_flipped_with_its_image(
    files: EncodedImages, images: ImageSet, num_workers: int
) -> None:
    condition = ImageSet(-0.5 * images.pixels)
    both = torch.cat((images.pixels, condition.pixels), dim=1)
    for loading in (MEMORY, LIST):
        frozen = (freeze_flips(one, CONTEXT) for one in (images, condition))
        got = batches(next(frozen), replace(loading, flip="loader"), condition=next(frozen))
        assert_same(got, expected(both, lambda epoch, i: loader_flip(SEED, i)))
    loading = LoaderConfig(loader="decode", flip="loader", num_workers=num_workers)
    got = batches(files, loading, condition=condition)
    assert_same(got, expected(both, lambda epoch, i: loader_flip(SEED, epoch, i)))


def test_what_does_not_fit_is_refused(files: EncodedImages, images: ImageSet) -> None:
    with pytest.raises(ValueError, match="images must be EncodedImages with loader = decode, got"):
        batches(images, DECODE)
    for loading in (MEMORY, LIST):
        with pytest.raises(ValueError, match=r"images must be ImageSet .* got EncodedImages"):
            batches(files, loading)
    with pytest.raises(ValueError, match="condition must be of the same 10 images, got 9"):
        batches(images, MEMORY, condition=ImageSet(images.pixels[:9]))


class Noted(EncodedImages):
    """Writes down when a file is read."""

    events: list[str]

    def read(self, index: int) -> bytes:
        self.events.append("read")
        return super().read(index)


def test_decoding_is_in_next_batch_by_batch(files: EncodedImages) -> None:
    Noted.events = []
    iterator = iter(batches(Noted(files.files), DECODE, epochs=range(1)))
    assert Noted.events == []
    for _ in iterator:
        Noted.events.append("given")
    assert Noted.events == [*["read"] * 4, "given"] * 2 + [*["read"] * 2, "given"]


@pytest.mark.parametrize("loading", [MEMORY, LIST, replace(DECODE, num_workers=2)])
def test_the_global_generator_is_left_alone(
    files: EncodedImages, images: ImageSet, loading: LoaderConfig
) -> None:
    before = torch.get_rng_state()
    list(batches(files if loading.loader == "decode" else images, loading))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_file_is_named(tmp_path: Path, files: EncodedImages, num_workers: int) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    broken = EncodedImages((*files.files[:3], path))
    with pytest.raises(ValueError, match=r"broken\.png is no image that can be read"):
        list(batches(broken, replace(DECODE, num_workers=num_workers)))
    assert multiprocessing.active_children() == []


def test_workers_end_with_the_loop_even_one_left_early(files: EncodedImages) -> None:
    loading = replace(DECODE, num_workers=2)
    iterator = iter(batches(files, loading))
    next(iterator)
    assert len(multiprocessing.active_children()) == 2
    del iterator
    assert multiprocessing.active_children() == []
    list(batches(files, loading))
    assert multiprocessing.active_children() == []


# In a process as bench starts them: daemonic, of a forkserver, with OpenMP threads ----------------


def _train_in_daemon(files: EncodedImages, answer: Any) -> None:
    assert multiprocessing.current_process().daemon
    torch.set_num_threads(2)
    images = torch.randn(16, 32, 64, 64)
    torch.nn.functional.conv2d(images, torch.randn(32, 32, 3, 3)).sum().item()
    threads = len(list(Path("/proc/self/task").iterdir()))
    iterator = iter(batches(files, replace(DECODE, num_workers=2)))
    first = next(iterator).tolist()
    workers = [child.pid for child in multiprocessing.active_children()]
    answer.send((threads, first, workers, multiprocessing.current_process().daemon))
    time.sleep(60)  # until it is killed


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_workers_start_in_a_daemonic_process_and_die_with_it(
    files: EncodedImages, images: ImageSet
) -> None:
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_train_in_daemon, args=(files, there), daemon=True)
    process.start()
    assert here.poll(60)
    threads, first, workers, daemonic = here.recv()
    assert threads >= 2
    assert first == next(iter(batches(images, MEMORY))).tolist()
    assert len(workers) == 2 and all(map(_alive, workers))
    assert daemonic  # as before
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    deadline = time.monotonic() + 20  # they look for their parent every 5 seconds
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, workers))
