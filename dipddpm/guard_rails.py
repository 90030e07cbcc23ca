"""Warnings about settings that are allowed and do not mean what one might think.

Those that only the images, the samples or the scores can tell stand in the scores themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from dipddpm.config import (
    COMMON_LOG_SNR_LEVELS,
    MIN_FOR_FEATURES,
    PipelineConfig,
    alphas_cumprod,
    reaches,
    start_point,
    starts_from_priors,
    takes_features,
    targets_priors,
)


def guard_rails(config: PipelineConfig, device: str, part: str = "all") -> list[str]:
    """What to be warned of in a run of `config` on a device.

    part: "priors", "train" or "sample", where that part of the pipeline is run by itself
    """
    if part == "priors":
        config = replace(config, train_on="dip")
    return [
        *(warning for rail in _RAILS[part] for warning in rail(config)),
        *_precision(config, device, part),
    ]


def _terminal_snr(config: PipelineConfig) -> Iterator[str]:
    schedule = config.schedule
    abar_T = alphas_cumprod(schedule)[-1]
    if (snr := abar_T / (1 - abar_T)) > 1e-3:
        yield (
            f"terminal SNR {snr:.2g} is above 0.001 "
            f"(num_train_timesteps = {schedule.num_train_timesteps}, {schedule.beta_schedule}): "
            "training never sees pure noise, sampling starts from it"
        )


def _common_levels(config: PipelineConfig) -> Iterator[str]:
    unreached = [
        f"{level:g}" for level in COMMON_LOG_SNR_LEVELS if not reaches(level, config.schedule)
    ]
    if unreached:
        yield (
            f"the noise schedule does not reach log-SNR {', '.join(unreached)}: its held-out loss "
            "is read at other noise levels and compares with no other schedule's"
        )


def _warm_up(config: PipelineConfig) -> Iterator[str]:
    warmup = config.training.lr_warmup_steps
    shortest, longest = (
        epochs * config.steps_per_epoch for epochs in (config.milestones[0], config.milestones[-1])
    )
    if warmup >= longest:
        yield (
            f"lr_warmup_steps = {warmup} is not shorter than the run of {longest} steps: the "
            "learning rate never reaches its value"
        )
    elif warmup > 0.1 * shortest:
        yield (
            f"lr_warmup_steps = {warmup} is more than a tenth of the shortest milestone's "
            f"{shortest} steps"
        )


def _ema_half_life(config: PipelineConfig) -> Iterator[str]:
    training, steps = config.training, config.milestones[0] * config.steps_per_epoch
    decay = training.ema_decay
    if training.ema_ramp:
        decay = min(decay, steps / (9 + steps))
    half_life = math.log(0.5) / math.log(decay) if decay else 0.0
    if half_life > steps / 3:
        yield (
            f"ema_decay = {training.ema_decay}: its half-life of {half_life:.0f} steps is longer "
            f"than a third of the shortest milestone's {steps}: the averaged weights are mostly "
            "those of the random start"
        )


def _sigmoid_with_signed_target(config: PipelineConfig) -> Iterator[str]:
    if config.dip.prior_target == "signed" and _fits_priors(config):
        yield (
            "prior_target = signed: the priors' nets end in a Sigmoid and cannot follow a target "
            "below 0: everything darker than mid-grey becomes black"
        )


def _early_stopping(config: PipelineConfig) -> Iterator[str]:
    dip = config.dip
    if dip.early_stopping != "es_wmv" or not _fits_priors(config):
        return
    if dip.es_window > dip.num_iter:
        yield (
            f"es_window = {dip.es_window} is longer than the {dip.num_iter} iterations of a fit: "
            "the criterion never has a value, and the last iterate is taken"
        )
    elif dip.es_window + dip.es_patience > dip.num_iter:
        yield (
            f"es_window = {dip.es_window} and es_patience = {dip.es_patience} are more than the "
            f"{dip.num_iter} iterations of a fit: the criterion chooses an iterate and never ends "
            "a fit"
        )


def _mixed_range(config: PipelineConfig) -> Iterator[str]:
    if config.scoring.score_range == "mixed":
        yield (
            "score_range = mixed: the published scores compare samples in [0, 1] with references "
            "in [-1, 1], as the publication did; they compare with no other"
        )


def _start_variance(config: PipelineConfig) -> Iterator[str]:
    for sampling in dict.fromkeys(outcome.sampling for outcome in config.outcomes):
        if sampling.start_image_weight is None and sampling.start_noise_weight is None:
            continue
        point = start_point(sampling, config.schedule)
        if abs(point.a**2 + point.b**2 - 1) > 0.01:
            yield (
                f"start_from = {sampling.start_from} with weights {point.a:.3g} and {point.b:.3g}: "
                f"their squares sum to {point.a**2 + point.b**2:.3g}, not to the 1 of every x_t "
                "that the net was trained on"
            )


def _too_few_for_features(config: PipelineConfig) -> Iterator[str]:
    data, fewest = config.data, MIN_FOR_FEATURES
    samplings = [outcome.sampling for outcome in config.outcomes]
    generating = [sampling for sampling in samplings if sampling.task == "generate"]
    if generating and not any(takes_features(data, sampling) for sampling in generating):
        samples = max(sampling.num_samples for sampling in generating)
        yield (
            f"num_samples = {samples}, num_images = {data.num_images} and num_held_out = "
            f"{data.num_held_out}: KID and its like are left out, they need {fewest} of each"
        )


def _precision(config: PipelineConfig, device: str, part: str) -> Iterator[str]:
    if device.startswith("cuda"):
        return
    asked: dict[str, set[str]] = {}
    if part != "priors":
        asked["mixed_precision"] = {config.training.mixed_precision}
    if part in ("sample", "all"):
        asked["sampling_precision"] = {one.sampling.sampling_precision for one in config.outcomes}
    for name, precisions in asked.items():
        if "fp16" in precisions:
            yield f"{name} = fp16 is for CUDA: this ran in float32 on {device}"


_OF_PRIORS = (_sigmoid_with_signed_target, _early_stopping)
_OF_TRAINING = (_terminal_snr, _common_levels, _warm_up, _ema_half_life)
_RAILS: Mapping[str, tuple[Callable[[PipelineConfig], Iterator[str]], ...]] = {
    "priors": _OF_PRIORS,
    "train": _OF_TRAINING,
    "sample": (_terminal_snr,),
    "all": (*_OF_TRAINING, *_OF_PRIORS, _mixed_range, _start_variance, _too_few_for_features),
}


def _fits_priors(config: PipelineConfig) -> bool:
    return (
        targets_priors(config.train_on)
        or config.condition_on == "dip"
        or any(starts_from_priors(outcome.sampling.start_from) for outcome in config.outcomes)
    )
