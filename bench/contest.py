"""A contest: one contender for a part of the pipeline, from its images to seconds and quality.

Priors, training or sampling, done by dipddpm with some levers or by what a user would pick instead.
Each contender has a process of its own; `bench.speed` holds them side by side.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from bench.baselines import fit_by_paper_loop, sample_by_pipeline, train_by_tutorial
from bench.cases import pipeline_config
from bench.records import Case, StageRow
from dipddpm.config import Context, Levers, SamplingConfig
from dipddpm.inputs import Inputs, Stages
from dipddpm.metrics import psnr
from dipddpm.sampling import Samples, sample
from dipddpm.scoring import score_net
from dipddpm.sources import ImageSource
from dipddpm.training import TrainedNet, train_ddpm

# Added to the seed of a net that stands for any other of its kind.
_ANOTHER = 1000
# Stage results by their part in a contest; only fits are ever more than one.
Made = Mapping[str, tuple[Any, ...]]


def run_contest(case: Case, source: ImageSource, context: Context, stages: Stages) -> Made:
    """Does what the case asks for; what `scores` is told of has a name."""
    return _CONTESTS[str(case.settings["contest"])](_Contest(case, source, context, stages))


def scores(case: Case, made: Made, row_of: Callable[[object], StageRow]) -> dict[str, float]:
    """What a contest was for.

    row_of: the row of a stage's result, which was made here
    """
    return _SCORES[str(case.settings["contest"])](case, made, row_of)


class _Contest:
    """The stages of a case."""

    def __init__(self, case: Case, source: ImageSource, context: Context, stages: Stages) -> None:
        self.config = pipeline_config((case,))
        self.given = Inputs(self.config, source, context, stages)
        self.context, self.stages = context, stages
        self.contender = str(case.settings["contender"])
        self.shape = (self.config.data.image_size, self.config.unet, self.config.schedule)

    def priors(self) -> Made:
        images, dip = self.given.training, self.config.dip
        if self.contender == "paper loop":
            fits = self.stages(fit_by_paper_loop, images, dip, self.context)
            return {"images": (images,), "fits": (fits,)}
        learned = self.given.training_initialisation
        return {
            "images": (images,),
            "fits": self.given.training_fits,
            "learned": () if learned is None else (learned,),
        }

    def train(self) -> Made:
        trained = self._trained(self.context)
        scored = self.stages(score_net, trained, self.given.held_out, *self.shape, self.context)
        return {"trained": (trained,), "scored": (scored,)}

    def sample(self) -> Made:
        [outcome] = self.config.outcomes
        trained = self._trained(self.context)
        if self.contender == "DDPMPipeline":
            samples = self.stages(
                sample_by_pipeline, trained, *self.shape, outcome.sampling, self.context
            )
        else:
            net = trained
            if self.contender == "another seed":
                net = self._trained(replace(self.context, seed=self.context.seed + _ANOTHER))
            samples = self._drawn(net, outcome.sampling)
        # By the plain path, after what is measured.
        plain = self._drawn(trained, _without_levers(outcome.sampling))
        return {"samples": (samples,), "plain": (plain,)}

    def _trained(self, context: Context) -> TrainedNet:
        config = self.config
        arguments = (self.given.training_images, *self.shape, config.training, context)
        more = {"loading": config.loading, "epochs": config.milestones[-1]}
        function = train_by_tutorial if self.contender == "tutorial" else train_ddpm
        trained: TrainedNet = self.stages(function, *arguments, **more)  # type: ignore[arg-type]
        return trained

    def _drawn(self, trained: TrainedNet, sampling: SamplingConfig) -> Samples:
        return self.stages(sample, trained, None, *self.shape, sampling, self.context)


_CONTESTS: Mapping[str, Callable[[_Contest], Made]] = {
    "priors": _Contest.priors,
    "train": _Contest.train,
    "sample": _Contest.sample,
}


def _without_levers(sampling: SamplingConfig) -> SamplingConfig:
    """The reference: float32 throughout, all at once."""
    plain = Levers(tf32="no", attention="sdpa")
    return replace(
        sampling,
        samples_per_batch=None,
        sampling_precision=plain.precision,
        sampling_channels_last=plain.channels_last,
        sampling_tf32=plain.tf32,
        sampling_attention=plain.attention,
        sampling_compile=plain.compile,
        sampling_cuda_graph=plain.cuda_graph,
    )


# Scores -------------------------------------------------------------------------------------------

_RowOf = Callable[[object], StageRow]


def _of_priors(case: Case, made: Made, row_of: _RowOf) -> dict[str, float]:
    """seconds: of the median image, a start that is learned shared by all. Those of a fit go by its
    iterations: fits one after another take their time so, and of nets side by side each takes its
    part for as long as it is there."""
    fits, [images] = made["fits"], made["images"]
    learning = sum(_seconds(row_of(one)) for one in made.get("learned", ()))
    spent = [fit.spent_iters.double().clamp(min=1) for fit in fits]
    shares = [_seconds(row_of(fit)) * one / one.sum() for fit, one in zip(fits, spent, strict=True)]
    each = torch.cat(shares) + learning / len(images)
    outputs = torch.cat([fit.outputs for fit in fits]).clamp(-1, 1)
    reached = psnr(outputs, images.pixels)
    found = {
        "seconds": each.median().item(),
        "mean_seconds": each.mean().item(),
        "iterations": torch.cat(spent).median().item(),
        "psnr": reached.mean().item(),
    }
    if case.settings["early_stopping"] == "psnr":
        # A hair's breadth is for what clamping and rounding move.
        missed = reached < float(str(case.settings["es_psnr"])) - 0.05
        found["censored"] = float(missed.sum())
    return found


def _of_training(case: Case, made: Made, row_of: _RowOf) -> dict[str, float]:
    """seconds: of the median step."""
    del case
    [trained], [scored] = made["trained"], made["scored"]
    row = row_of(trained)
    return {
        "seconds": statistics.median(row.step_seconds),
        "total_seconds": _seconds(row),
        "eps_loss": scored.values["eps_loss"],
        **_compiled(row),
    }


def _of_sampling(case: Case, made: Made, row_of: _RowOf) -> dict[str, float]:
    """seconds: of a step, the whole call by its steps."""
    [samples], [plain] = made["samples"], made["plain"]
    row = row_of(samples)
    total = _seconds(row)
    return {
        "seconds": total / float(str(case.settings["num_inference_steps"])),
        "total_seconds": total,
        # Equal ones are infinitely near.
        "psnr_to_plain": psnr(samples.images.clamp(-1, 1), plain.images.clamp(-1, 1))
        .clamp(max=100)
        .mean()
        .item(),
        **_compiled(row),
    }


_SCORES: Mapping[str, Callable[[Case, Made, _RowOf], dict[str, float]]] = {
    "priors": _of_priors,
    "train": _of_training,
    "sample": _of_sampling,
}


def _compiled(row: StageRow) -> dict[str, float]:
    """What torch.compile took beforehand, in no other score."""
    taken = row.warm_up_compile_seconds
    return {"compile_seconds": taken} if taken else {}


def _seconds(row: StageRow) -> float:
    assert row.seconds is not None  # it was executed here
    return row.seconds
