"""The only wiring of stages: from images over priors, training and sampling to scores.

Every stage goes through `stages`, which by default just calls it. An observer passes its own, so
the measured and the plain path are the same code. The pipeline never looks into a stage's result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from dipddpm.arms import STARTS
from dipddpm.config import MADE_OF_PRIORS, Context, PipelineConfig, SamplingConfig
from dipddpm.dip import fit_priors, join
from dipddpm.images import ImageSet, degrade, encode, prepare, take
from dipddpm.sampling import Samples, sample
from dipddpm.scoring import (
    Scores,
    score_anchors,
    score_generation,
    score_net,
    score_restoration,
)
from dipddpm.sources import EncodedImages, ImageSource
from dipddpm.training import TrainedNet, train_ddpm

P = ParamSpec("P")
T = TypeVar("T")

# The publication scored its samples against the first 16 images.
NUM_REFERENCES = 16


class Stages(Protocol):
    """Calls a stage, or gives its result from elsewhere."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def run_directly(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


@dataclass(frozen=True)
class Outcome:
    """What a training run gave after `epochs` epochs, sampled by `sampling`.

    scores: of the net, of the samples, and of what is no sample at all (the anchors)
    """

    epochs: int
    sampling: SamplingConfig
    trained: TrainedNet
    samples: Samples
    scores: tuple[Scores, ...]


def run_pipeline(
    config: PipelineConfig,
    images: ImageSource,
    context: Context,
    *,
    stages: Stages = run_directly,
) -> Iterator[Outcome]:
    """One training run and every outcome asked of it, each yielded as it is done.

    Raises ValueError if `images` holds fewer images than `config` asks for.
    """
    data, size = config.data, config.data.image_size
    images.check_enough(data.num_images, data.num_held_out)
    references = stages(prepare, images.train[: min(NUM_REFERENCES, data.num_images)], size)
    originals = stages(prepare, images.held_out[: data.num_held_out], size)
    anchors = stages(score_anchors, references, originals, context)

    files = images.train[: data.num_images]
    if config.train_on in MADE_OF_PRIORS:
        priors = make_priors(files, data.num_images, config, context, stages=stages)
        files = stages(encode, priors, files)
    training_images = files if config.loader == "decode" else stages(prepare, files, size)

    trained = None
    for epochs in config.milestones:
        trained = stages(
            train_ddpm,
            training_images,
            size,
            config.unet,
            config.schedule,
            config.training,
            context,
            epochs=epochs,
            resume_from=trained,
        )
        net_scores = stages(
            score_net, trained, originals, size, config.unet, config.schedule, context
        )
        for sampling in config.samplings(epochs):
            degraded = start = None
            if sampling.task == "restore":
                degraded = stages(degrade, originals, sampling.restoration, context)
                start = make_start(degraded, sampling, config, context, stages=stages)
            samples = stages(
                sample, trained, start, size, config.unet, config.schedule, sampling, context
            )
            if degraded is None:
                scores = stages(score_generation, samples, references)
            else:
                scores = stages(score_restoration, samples, originals, degraded)
            yield Outcome(epochs, sampling, trained, samples, (net_scores, scores, anchors))


def make_priors(
    images: EncodedImages | ImageSet,
    count: int,
    config: PipelineConfig,
    context: Context,
    *,
    stages: Stages = run_directly,
) -> ImageSet:
    """A prior for each of the first `count` images, fitted in chunks of `images_per_fit`.

    A set that is a prefix of another shares its chunks.
    """
    parts = []
    for first in range(0, count, config.dip.images_per_fit):
        last = min(first + config.dip.images_per_fit, count)
        if isinstance(images, EncodedImages):
            chunk = stages(prepare, images[first:last], config.data.image_size)
        else:
            chunk = stages(take, images, first, last)
        parts.append(stages(fit_priors, chunk, config.dip, context, first_index=first))
    return stages(join, *parts)


def make_start(
    degraded: ImageSet,
    sampling: SamplingConfig,
    config: PipelineConfig,
    context: Context,
    *,
    stages: Stages = run_directly,
) -> ImageSet | None:
    """The start images that `sampling` asks for; None for pure noise."""
    if sampling.start_from == "noise":
        return None
    images = degraded
    if sampling.start_from in MADE_OF_PRIORS:
        images = make_priors(degraded, sampling.num_samples, config, context, stages=stages)
    make = STARTS[sampling.start_from]
    return images if make is None else stages(make, images, sampling.restoration, context)


def make_shared_priors(
    config: PipelineConfig, images: ImageSource, context: Context, *, stages: Stages = run_directly
) -> None:
    """Makes just the priors that `run_pipeline` would make, for runs that are to share them."""
    data = config.data
    images.check_enough(data.num_images, data.num_held_out)
    if config.train_on in MADE_OF_PRIORS:
        files = images.train[: data.num_images]
        make_priors(files, data.num_images, config, context, stages=stages)
    for epochs in config.milestones:
        for sampling in config.samplings(epochs):
            if sampling.start_from in MADE_OF_PRIORS:
                files = images.held_out[: data.num_held_out]
                originals = stages(prepare, files, data.image_size)
                degraded = stages(degrade, originals, sampling.restoration, context)
                make_start(degraded, sampling, config, context, stages=stages)
