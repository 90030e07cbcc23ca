"""The only wiring of stages: from images over priors, training and sampling to scores.

Every stage goes through `stages`, which by default just calls it. An observer passes its own, so
the measured and the plain path are the same code. The pipeline never looks into a stage's result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from dipddpm.config import (
    Context,
    PipelineConfig,
    SamplingConfig,
    starts_from_priors,
    takes_features,
    targets_priors,
)
from dipddpm.features import extract_features
from dipddpm.images import ImageSet
from dipddpm.inputs import Inputs, Stages, run_directly
from dipddpm.sampling import Samples, as_images, as_samples, sample
from dipddpm.scoring import (
    Scores,
    score_anchors,
    score_features,
    score_generation,
    score_net,
    score_priors,
    score_restoration,
    score_start,
)
from dipddpm.sources import ImageSource
from dipddpm.training import TrainedNet, train_ddpm


@dataclass(frozen=True)
class Outcome:
    """What a training run gave after `epochs` epochs, sampled by `sampling`.

    trained: None where the start image itself is the outcome
    scores: of the priors, the net and the samples, and of what is no sample at all (the anchors)
    """

    epochs: int
    sampling: SamplingConfig
    trained: TrainedNet | None
    samples: Samples
    scores: tuple[Scores, ...]


@dataclass(frozen=True)
class Attempt:
    """An outcome that can be made now: its net is trained."""

    epochs: int
    sampling: SamplingConfig
    run: Callable[[], Outcome]


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
    return (attempt.run() for attempt in attempts(config, images, context, stages=stages))


def attempts(
    config: PipelineConfig,
    images: ImageSource,
    context: Context,
    *,
    stages: Stages = run_directly,
) -> Iterator[Attempt]:
    """As `run_pipeline`, each outcome as a call: one that fails need not keep back the next."""
    given = Inputs(config, images, context, stages)
    trained = None
    for epochs in config.milestones:
        if any(sampling.num_inference_steps for sampling in config.samplings(epochs)):
            trained = stages(
                train_ddpm,
                given.training_images,
                config.data.image_size,
                config.unet,
                config.schedule,
                config.training,
                context,
                loading=config.loading,
                condition=given.training_condition,
                epochs=epochs,
                resume_from=trained,
            )
        for sampling in config.samplings(epochs):
            yield Attempt(epochs, sampling, partial(_outcome, given, epochs, sampling, trained))


def make_shared(
    config: PipelineConfig, images: ImageSource, context: Context, *, stages: Stages = run_directly
) -> None:
    """Makes just the priors and reference features of `run_pipeline`, for runs to share them."""
    given = Inputs(config, images, context, stages)
    if targets_priors(config.train_on):
        given.joined(given.training_fits)
    if config.condition_on == "dip":
        given.joined(given.degraded_training_fits)
    for outcome in config.outcomes:
        given.held_out_condition(outcome.sampling)
        if starts_from_priors(outcome.sampling.start_from):
            given.joined(given.start_fits(outcome.sampling))
        if takes_features(config.data, outcome.sampling):
            given.reference_features()


def _outcome(
    given: Inputs, epochs: int, sampling: SamplingConfig, trained: TrainedNet | None
) -> Outcome:
    stages, start = given.stages, given.start(sampling)
    if sampling.num_inference_steps == 0:
        assert start is not None  # which the config sees to
        trained, samples = None, stages(as_samples, start)
    else:
        assert trained is not None
        samples = stages(
            sample,
            trained,
            start,
            given.config.data.image_size,
            given.config.unet,
            given.config.schedule,
            sampling,
            given.context,
            condition=given.held_out_condition(sampling),
        )
    scores = _scores(given, epochs, sampling, trained, start, samples)
    return Outcome(epochs, sampling, trained, samples, tuple(scores))


def _scores(
    given: Inputs,
    epochs: int,
    sampling: SamplingConfig,
    trained: TrainedNet | None,
    start: ImageSet | None,
    samples: Samples,
) -> Iterator[Scores]:
    config, context, stages = given.config, given.context, given.stages
    yield given.once(
        "anchors",
        lambda: stages(score_anchors, given.references, given.held_out, config.scoring, context),
    )
    if targets_priors(config.train_on):
        yield given.once(
            "training priors", lambda: stages(score_priors, *given.training_fits, of="training")
        )
    if starts_from_priors(sampling.start_from):
        yield given.once(
            ("start priors", sampling.restoration.degradation_sigma, sampling.num_samples),
            lambda: stages(score_priors, *given.start_fits(sampling), of="start"),
        )
    if trained is not None:
        yield given.once(
            ("net", epochs),
            lambda: stages(
                score_net,
                trained,
                given.held_out,
                config.data.image_size,
                config.unet,
                config.schedule,
                context,
                condition=given.held_out_condition(sampling),
            ),
        )
    if sampling.task == "generate":
        yield stages(score_generation, samples, given.references, config.scoring)
        if takes_features(config.data, sampling):
            features = stages(extract_features, stages(as_images, samples), context)
            yield stages(score_features, features, *given.reference_features())
    else:
        degraded = given.degraded(sampling.restoration.degradation_sigma)
        yield stages(score_restoration, samples, given.originals, degraded)
        if start is not None:
            yield given.once(
                ("start copies", id(start)), lambda: stages(score_start, start, given.training)
            )
