"""A contest: one contender for a piece of work, from its images to its seconds and its quality.

Priors, training or sampling, done by dipddpm with some levers or by what a user would pick instead.
Each contender has a process of its own; what is compared is told by `bench.speed`.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

from bench.baselines import (
    FittedByLoop,
    fit_by_paper_loop,
    sample_by_pipeline,
    train_by_tutorial,
)
from bench.cases import pipeline_config
from bench.ledger import MeasuringLedger
from bench.records import Case
from dipddpm.config import Context, Levers, PipelineConfig, SamplingConfig
from dipddpm.dip import Priors, fit_priors, learn_initialisation
from dipddpm.images import ImageSet, prepare
from dipddpm.metrics import psnr
from dipddpm.sampling import Samples, sample
from dipddpm.scoring import score_net
from dipddpm.sources import ImageSource
from dipddpm.training import TrainedNet, train_ddpm

# Added to the seed of a net that stands for any other of its kind.
_ANOTHER = 1000


class Contest:
    """What a case asks for, done stage by stage under a ledger."""

    def __init__(
        self, case: Case, source: ImageSource, context: Context, ledger: MeasuringLedger
    ) -> None:
        self.config: PipelineConfig = pipeline_config((case,))
        self.source, self.context, self.ledger = source, context, ledger
        self.contender = str(case.settings["contender"])

    def run(self, contest: str) -> tuple[dict[str, float], tuple[str, ...]]:
        """Its scores, and the keys of all that was done for them."""
        scores, results = {"priors": self._priors, "train": self._train, "sample": self._sample}[
            contest
        ]()
        return scores, self.ledger.bill(*results)

    # Priors ---------------------------------------------------------------------------------------

    def _priors(self) -> tuple[dict[str, float], list[Any]]:
        """seconds: of the median image. The seconds of a fit go by its iterations, for one after
        another takes its time, and of nets side by side each takes part while it is there."""
        dip, images = self.config.dip, self._training_images()
        fitted: Priors | FittedByLoop
        learning = 0.0
        if self.contender == "paper loop":
            fitted = self.ledger(fit_by_paper_loop, images, dip, self.context)
        else:
            learned = None
            if dip.warm_start == "learned":
                other = self.ledger(prepare, self.source.held_out[:1], self.config.data.image_size)
                learned = self.ledger(learn_initialisation, other, dip, self.context)
                learning = self._seconds(learned)
            fitted = self.ledger(fit_priors, images, dip, self.context, initialisation=learned)
        seconds, spent = self._seconds(fitted), fitted.spent_iters.double().clamp(min=1)
        each = seconds * spent / spent.sum() + learning / len(images)
        reached = psnr(fitted.outputs.clamp(-1, 1), images.pixels)
        return {
            "seconds": each.median().item(),
            "mean_seconds": each.mean().item(),
            "iterations": spent.median().item(),
            "psnr": reached.mean().item(),
            # Of the target, with a hair's breadth for what clamping and rounding move.
            "censored": float((reached < dip.es_psnr - 0.05).sum())
            if dip.early_stopping == "psnr"
            else 0.0,
        }, [fitted]

    # Training -------------------------------------------------------------------------------------

    def _train(self) -> tuple[dict[str, float], list[Any]]:
        """seconds: of the median step."""
        trained = self._trained(self.context)
        row = self.ledger.rows[self.ledger.key_of(trained)]
        held_out = self.ledger(
            prepare,
            self.source.held_out[: self.config.data.num_held_out],
            self.config.data.image_size,
        )
        scored = self.ledger(
            score_net, trained, held_out, self.config.data.image_size, self.config.unet,
            self.config.schedule, self.context, condition=None,
        )  # fmt: skip
        return {
            "seconds": statistics.median(row.step_seconds),
            "total_seconds": row.seconds or 0.0,
            "eps_loss": scored.values["eps_loss"],
        }, [trained, scored]

    def _trained(self, context: Context) -> TrainedNet:
        config = self.config
        if self.contender == "tutorial":
            return self.ledger(
                train_by_tutorial, self._read_images(), config.data.image_size, config.unet,
                config.schedule, config.training, context, loading=config.loading,
                epochs=config.milestones[-1],
            )  # fmt: skip
        return self.ledger(
            train_ddpm, self._read_images(), config.data.image_size, config.unet,
            config.schedule, config.training, context, loading=config.loading,
            epochs=config.milestones[-1],
        )  # fmt: skip

    def _read_images(self) -> Any:
        files = self.source.train[: self.config.data.num_images]
        return files if self.config.loading.loader == "decode" else self._training_images()

    def _training_images(self) -> ImageSet:
        return self.ledger(
            prepare,
            self.source.train[: self.config.data.num_images],
            self.config.data.image_size,
        )

    # Sampling -------------------------------------------------------------------------------------

    def _sample(self) -> tuple[dict[str, float], list[Any]]:
        """seconds: of a step, the whole call by its steps."""
        config, [outcome] = self.config, self.config.outcomes
        sampling = outcome.sampling
        context = self.context
        trained = self._trained(context)
        drawn_from = trained
        if self.contender == "another seed":
            drawn_from = self._trained(replace(context, seed=context.seed + _ANOTHER))
        samples: Samples
        if self.contender == "DDPMPipeline":
            samples = self.ledger(
                sample_by_pipeline, trained, config.data.image_size, config.unet,
                config.schedule, sampling, context,
            )  # fmt: skip
        else:
            samples = self._drawn(drawn_from, sampling)
        seconds = self._seconds(samples)
        # By the plain path, after what is measured.
        plain = self._drawn(trained, _without_levers(sampling))
        alike = psnr(samples.images.clamp(-1, 1), plain.images.clamp(-1, 1)).clamp(max=100)
        return {
            "seconds": seconds / sampling.num_inference_steps,
            "total_seconds": seconds,
            "psnr_to_plain": alike.mean().item(),
        }, [samples, plain]

    def _drawn(self, trained: TrainedNet, sampling: SamplingConfig) -> Samples:
        return self.ledger(
            sample, trained, None, self.config.data.image_size, self.config.unet,
            self.config.schedule, sampling, self.context, condition=None,
        )  # fmt: skip

    def _seconds(self, result: object) -> float:
        seconds = self.ledger.rows[self.ledger.key_of(result)].seconds
        assert seconds is not None  # it was executed here
        return seconds


def _without_levers(sampling: SamplingConfig) -> SamplingConfig:
    """The reference: float32 throughout, all at once."""
    plain = Levers()
    return replace(
        sampling,
        samples_per_batch=None,
        sampling_precision=plain.precision,
        sampling_channels_last=plain.channels_last,
        sampling_tf32="no",
        sampling_attention=plain.attention,
        sampling_compile=plain.compile,
        sampling_cuda_graph=plain.cuda_graph,
    )
