"""How large the results of stages are: what the cost of a call depends on, beside its settings.

Of a result that is there, or of one that was only booked: both answer alike, so what a call costs
can be told before anything ran.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.baselines import FittedByLoop, sample_by_pipeline, train_by_tutorial
from dipddpm.dip import Initialisation, Priors, join, learn_initialisation
from dipddpm.encoded import EncodedImages
from dipddpm.features import Features, extract_features
from dipddpm.images import ImageSet, encode, prepare, take
from dipddpm.sampling import Samples, sample
from dipddpm.scoring import Scores
from dipddpm.training import TrainedNet, train_ddpm


@dataclass(frozen=True)
class Extent:
    """num_images, image_size: None where there are no images, or they have no common size.

    epochs: that a net was trained for
    """

    num_images: int | None = None
    image_size: int | None = None
    epochs: int = 0


@dataclass(frozen=True, eq=False)
class Booked:
    """Stands for the result of a call that was never made.

    given: its bound arguments, booked results among them
    """

    function: Callable[..., Any]
    given: Mapping[str, Any]

    @cached_property
    def extent(self) -> Extent:
        return extent_after(self.function, self.given)


@dataclass(frozen=True)
class Shape:
    """A result by all that tells how long a stage takes that is given it.

    kind: the name of its class; made_by: of files, the stage that wrote them
    """

    kind: str
    extent: Extent
    made_by: str = ""


def bound(function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by the names of the function's parameters."""
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)


def returned_by(function: Callable[..., Any]) -> str:
    """The name of the class of a stage's results; a user's function makes images."""
    returned = inspect.signature(function).return_annotation
    name = returned if isinstance(returned, str) else getattr(returned, "__name__", "")
    return name if name in _KINDS else ImageSet.__name__


def extent_of(value: object) -> Extent:
    """Of a result, made or booked; of a setting nothing is told."""
    if isinstance(value, Booked | Shape):
        return value.extent
    if isinstance(value, EncodedImages):
        return Extent(len(value))
    if isinstance(value, Features):
        return Extent(len(value.values))
    if isinstance(value, TrainedNet):
        return Extent(epochs=value.epochs)
    pixels = None
    if isinstance(value, ImageSet):
        pixels = value.pixels
    elif isinstance(value, Samples):
        pixels = value.images
    elif isinstance(value, Priors):
        pixels = value.outputs
    return Extent() if pixels is None else Extent(len(pixels), pixels.shape[-1])


def extent_after(function: Callable[..., Any], given: Mapping[str, Any]) -> Extent:
    """Of what a call will return, from its bound arguments."""
    if function in _AFTER:
        return _AFTER[function](given)
    if returned_by(function) == Scores.__name__:
        return Extent()
    # Whatever else there is makes one image of each that it is given. `training` comes last: a
    # start may be given it beside the images that it is a start for.
    return next((one for one in _extents(given) if one.num_images is not None), Extent())


def _extents(given: Mapping[str, Any]) -> Iterator[Extent]:
    for name in sorted(given):
        value = given[name]
        yield from map(extent_of, value if isinstance(value, tuple) else (value,))


def _after_take(given: Mapping[str, Any]) -> Extent:
    return Extent(given["last"] - given["first"], extent_of(given["images"]).image_size)


def _after_join(given: Mapping[str, Any]) -> Extent:
    parts = list(_extents(given))
    return Extent(sum(part.num_images or 0 for part in parts), parts[0].image_size)


_KINDS = {
    kind.__name__
    for kind in (
        EncodedImages,
        Features,
        FittedByLoop,
        ImageSet,
        Initialisation,
        Priors,
        Samples,
        Scores,
        TrainedNet,
    )
}
_AFTER: dict[Callable[..., Any], Callable[[Mapping[str, Any]], Extent]] = {
    prepare: lambda given: Extent(len(given["images"]), given["image_size"]),
    take: _after_take,
    join: _after_join,
    encode: lambda given: Extent(extent_of(given["images"]).num_images),
    learn_initialisation: lambda _: Extent(),
    train_ddpm: lambda given: Extent(epochs=given["epochs"]),
    train_by_tutorial: lambda given: Extent(epochs=given["epochs"]),
    sample: lambda given: Extent(given["sampling"].num_samples, given["image_size"]),
    sample_by_pipeline: lambda given: Extent(given["sampling"].num_samples, given["image_size"]),
    extract_features: lambda given: Extent(extent_of(given["images"]).num_images),
}
