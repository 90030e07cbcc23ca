"""The batches of a training run: from one tensor, from a list of tensors, or from files."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dipddpm.config import Context, LoaderConfig, derive_seed
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, TrainingImages, load
from dipddpm.parallel import Share

# Of a DataLoader's workers. A forked one starts in milliseconds, where any other would first import
# torch, for seconds, at every call. It inherits the locks of threads that it does not have, those
# of OpenMP above all: it uses one thread (the DataLoader sees to it), no device, and ends with its
# parent, which it looks for every 5 seconds.
_START_METHOD = "fork" if sys.platform == "linux" else None


class Batches:
    """All batches of some epochs, in the order that the seed gives each epoch.

    Each is (B, 3, image_size, image_size) float32 in [-1, 1] on the CPU; with a condition of the
    same images, in the same order, (B, 6, ...), the condition behind the images. Whatever the
    loader does it does in `next`, where a `watch` sees it as waiting for data. Files are flipped
    here with flip = "loader"; tensors come as they are, from `freeze_flips`.

    share: the rows that are loaded of each

    Raises ValueError if the images or the condition do not fit the loader.
    """

    def __init__(
        self,
        images: TrainingImages,
        condition: ImageSet | None,
        image_size: int,
        batch_size: int,
        loading: LoaderConfig,
        seed: int,
        epochs: range,
        share: Share | None = None,
    ) -> None:
        kind = EncodedImages if loading.loader == "decode" else ImageSet
        if not isinstance(images, kind):
            raise ValueError(
                f"images must be {kind.__name__} with loader = {loading.loader}, "
                f"got {type(images).__name__}"
            )
        if condition is not None and len(condition) != len(images):
            raise ValueError(
                f"condition must be of the same {len(images)} images, got {len(condition)}"
            )
        self._images, self._condition, self._image_size = images, condition, image_size
        self._batch_size, self._loading = batch_size, loading
        self._seed, self._epochs, self._share = seed, epochs, share or Share()

    def __len__(self) -> int:
        return len(self._epochs) * math.ceil(len(self._images) / self._batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if isinstance(self._images, EncodedImages):
            flip_seed = self._seed if self._loading.flip == "loader" else None
            files = _Files(self._images, self._condition, self._image_size, flip_seed)
            places = (
                [(epoch, index) for index in indices.tolist()] for epoch, indices in self._order()
            )
            yield from _decoded(files, places, self._loading.num_workers)
            return
        pixels = self._images.pixels
        if self._condition is not None:
            pixels = torch.cat((pixels, self._condition.pixels), dim=1)
        if self._loading.loader == "memory":
            for _, indices in self._order():
                yield pixels[indices]
            return
        batches = (indices.tolist() for _, indices in self._order())
        # The generator: a DataLoader draws from the global one, for workers that there are none of.
        tensors: Any = list(pixels)
        yield from DataLoader(tensors, batch_sampler=batches, generator=torch.Generator())

    def sizes(self) -> Iterator[int]:
        """How many images each batch has, loaded here or not."""
        for _ in self._epochs:
            for first in range(0, len(self._images), self._batch_size):
                yield min(self._batch_size, len(self._images) - first)

    def _order(self) -> Iterator[tuple[int, Tensor]]:
        """The epoch and the indices of each batch, of those that are loaded here."""
        for epoch in self._epochs:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "epoch", epoch))
            order = torch.randperm(len(self._images), generator=generator)
            for indices in order.split(self._batch_size):
                yield epoch, self._share.of(indices)


def freeze_flips(images: ImageSet, context: Context) -> ImageSet:
    """Each of `images` mirrored or not, once and for all, by the coin of its place.

    What the loaders of tensors read with flip = "loader"; so does a condition, with the same coins.
    """
    flips = [loader_flip(context.seed, index) for index in range(len(images))]
    pixels = images.pixels
    return ImageSet(torch.where(torch.tensor(flips).view(-1, 1, 1, 1), pixels.flip(-1), pixels))


def loader_flip(seed: int, *place: int) -> bool:
    """Whether a loader mirrors an image: a fair coin for each of its places, whoever asks.

    place: the image's index in its set; before it the epoch, where each epoch flips anew.
    """
    return derive_seed(seed, "flip", *place) % 2 == 1


class _Files(Dataset[Tensor]):
    """Images by (epoch, index), decoded each time; flip_seed: None leaves them unflipped."""

    def __init__(
        self,
        images: EncodedImages,
        condition: ImageSet | None,
        image_size: int,
        flip_seed: int | None,
    ) -> None:
        self._images, self._condition = images, condition
        self._image_size, self._flip_seed = image_size, flip_seed

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        epoch, index = place
        pixels = load(self._images, [index], self._image_size)[0]
        if self._condition is not None:
            pixels = torch.cat((pixels, self._condition.pixels[index]))
        if self._flip_seed is not None and loader_flip(self._flip_seed, epoch, index):
            pixels = pixels.flip(-1)
        return pixels


def _decoded(
    files: _Files, places: Iterator[list[tuple[int, int]]], num_workers: int
) -> Iterator[Tensor]:
    """One DataLoader over all epochs, so that its workers start once and never idle between two."""
    loader = DataLoader(
        files,
        batch_sampler=places,
        num_workers=num_workers,
        generator=torch.Generator(),
        multiprocessing_context=_START_METHOD if num_workers else None,
    )
    with _may_have_children():
        batches: Any = iter(loader)
    try:
        yield from batches
    finally:
        if num_workers:
            # By itself it would, when the garbage collector finds it behind an error it raised.
            batches._shutdown_workers()


@contextlib.contextmanager
def _may_have_children() -> Iterator[None]:
    """A daemonic process may not, lest they outlive it; a DataLoader's workers do not."""
    process = multiprocessing.current_process()
    daemonic, process.daemon = process.daemon, False
    try:
        yield
    finally:
        process.daemon = daemonic
