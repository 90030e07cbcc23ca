"""What the sections share: the run, its outcomes, and the effects that several of them tell of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from bench.records import Setting
from bench.stats import Effect, Pair, paired_ratio
from reports.load import Artifacts, Loaded
from reports.tables import (
    Ledger,
    Matched,
    Outcome,
    Quantity,
    cell,
    distinct,
    matched,
    outcomes,
    run_cell,
    training_runs,
    values,
)
from reports.words import schedule


def per_image(outcome: Outcome) -> float | None:
    """Training seconds for an image seen."""
    return outcome.train_seconds_per_image


def eps_loss(outcome: Outcome) -> float | None:
    """Held-out denoising loss, mean over the log-SNR levels; None if it has left all bounds."""
    loss = outcome.score("eps_loss")
    return loss if loss is not None and 0 < loss < math.inf else None


PER_IMAGE = Quantity("training s an image", per_image)
TRAIN_SECONDS = Quantity("training seconds", lambda outcome: outcome.group_seconds("train"))
TOTAL_SECONDS = Quantity("total seconds", lambda outcome: outcome.total_seconds, shared=True)
EPS_LOSS = Quantity("held-out loss", eps_loss, same_for_loaders=True)


# What may differ between restorations that are compared.
HOW_RESTORED = (
    "start_from",
    "num_inference_steps",
    "t0",
    "start_image_weight",
    "start_noise_weight",
)


@dataclass(frozen=True)
class Reference:
    """The cell in which the arms are shown side by side.

    arms: the last outcome of the training run of each (train_on, loader), without repeats
    """

    words: str
    key: str
    arms: dict[tuple[str, str], Outcome]


@dataclass(frozen=True)
class Report:
    """A run with everything derived from it that more than one section needs."""

    run: Loaded

    @cached_property
    def found(self) -> list[Outcome]:
        return outcomes(self.run)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.run.plan, self.run.rows)

    @cached_property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.run)

    @cached_property
    def ok(self) -> list[Outcome]:
        return [outcome for outcome in self.found if outcome.ok]

    @cached_property
    def generated(self) -> list[Outcome]:
        return [outcome for outcome in self.ok if outcome.settings["task"] == "generate"]

    @cached_property
    def restored(self) -> list[Outcome]:
        """The largest set of restorations of the same images by the same net."""
        sets: dict[str, list[Outcome]] = {}
        for outcome in self.ok:
            if outcome.settings["task"] == "restore" and outcome.record.repeat == 1:
                sets.setdefault(cell(outcome, *HOW_RESTORED), []).append(outcome)
        return max(sets.values(), key=len, default=[])

    @cached_property
    def runs(self) -> list[Outcome]:
        """The last generation of each training run."""
        return training_runs(self.generated)

    @property
    def how_to_get(self) -> str:
        """The command that makes outcomes which this run has not."""
        if self.run.missing or self.run.missing_units:
            return self.run.resume
        if any(not outcome.ok for outcome in self.found):
            return f"{self.run.resume} --retry-failed"
        return "python -m bench run quick"

    def pairs(
        self,
        quantity: Quantity,
        factor: str,
        base: Setting,
        other: Setting,
        *,
        of_runs: bool = True,
    ) -> list[Matched]:
        """Training runs, or single outcomes, that differ in one factor."""
        if of_runs:
            return matched(distinct(self.runs, quantity), factor, base, other, where=run_cell)
        return matched(distinct(self.generated, quantity), factor, base, other, where=cell)

    def ratio(
        self,
        quantity: Quantity,
        factor: str,
        base: Setting,
        other: Setting,
        *,
        of_runs: bool = True,
    ) -> Effect | None:
        """other / base over all pairs; None without one."""
        return paired_ratio(self.pair_values(quantity, factor, base, other, of_runs=of_runs))

    def pair_values(
        self,
        quantity: Quantity,
        factor: str,
        base: Setting,
        other: Setting,
        *,
        of_runs: bool = True,
    ) -> list[Pair]:
        """The values of the quantity, pair by pair."""
        return values(self.pairs(quantity, factor, base, other, of_runs=of_runs), quantity)

    @cached_property
    def dip_time(self) -> Effect | None:
        """Training seconds an image, DIP outputs / images, at equal settings."""
        return self.ratio(PER_IMAGE, "train_on", "images", "dip")

    @cached_property
    def loader_time(self) -> Effect | None:
        """Training seconds an image, decode / memory, at equal settings."""
        return self.ratio(PER_IMAGE, "loader", "memory", "decode")

    @cached_property
    def dip_loss(self) -> Effect | None:
        """Held-out loss after the last milestone, DIP outputs / images, at equal settings."""
        return self.ratio(EPS_LOSS, "train_on", "images", "dip")

    @cached_property
    def dip_total(self) -> Effect | None:
        """Total seconds of an outcome, priors included, DIP outputs / images."""
        return self.ratio(TOTAL_SECONDS, "train_on", "images", "dip")

    @cached_property
    def repeat_time(self) -> Effect | None:
        """A-vs-A: training seconds an image of a case that ran twice, second / first."""
        return self.ratio(PER_IMAGE, "repeat", 1, 2)

    @cached_property
    def reference(self) -> Reference | None:
        """The cell with the most arms; of those the largest. None without a finished generation."""
        cells: dict[str, dict[tuple[str, str], Outcome]] = {}
        for outcome in self.runs:
            if outcome.record.repeat == 1:
                arms = cells.setdefault(facet_key(outcome), {})
                arms.setdefault(arm_of(outcome), outcome)
        if not cells:
            return None
        key = max(cells, key=lambda key: (len(cells[key]), *_size(next(iter(cells[key].values())))))
        return Reference(cell_words(next(iter(cells[key].values()))), key, cells[key])


def _size(outcome: Outcome) -> tuple[float, float, str]:
    return (
        outcome.number("num_images"),
        outcome.number("num_train_timesteps"),
        facet_key(outcome),
    )


def setting_key(outcome: Outcome) -> str:
    """What the arms of a comparison have in common, the seed included."""
    return run_cell(outcome, "train_on", "loader", "repeat")


def facet_key(outcome: Outcome) -> str:
    """What is drawn together: the arms, repeats and seeds of one setting."""
    return run_cell(outcome, "train_on", "loader", "repeat", "seed")


def arm_of(outcome: Outcome) -> tuple[str, str]:
    """What is trained on, and through which loader."""
    return str(outcome.settings["train_on"]), str(outcome.settings["loader"])


def cell_words(outcome: Outcome) -> str:
    """64 images, 1000 linear; with a seed if it is not 0."""
    settings, seed = outcome.settings, outcome.record.seed
    words = (
        f"{settings['num_images']} images, "
        f"{schedule(settings['num_train_timesteps'], settings['beta_schedule'])}"
    )
    return words if seed == 0 else f"{words}, seed {seed}"
