"""What the sections share: the run, its outcomes, and the effects that several of them tell of."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    last_in_common,
    matched,
    outcomes,
    run_cell,
    values,
)
from reports.words import listed, schedule

# What every noise schedule reaches, in words.
LOSS_LEVELS = "the log-SNR levels \N{MINUS SIGN}3, 0, 3 and 6"


def per_image(outcome: Outcome) -> float | None:
    """Training seconds for an image seen."""
    return outcome.train_seconds_per_image


def eps_loss(outcome: Outcome) -> float | None:
    """Held-out denoising loss, mean over LOSS_LEVELS; None if it has left all bounds."""
    loss = outcome.score("eps_loss")
    return loss if loss is not None and 0 < loss < math.inf else None


PER_IMAGE = Quantity("training s an image", per_image)
TRAIN_SECONDS = Quantity("training seconds", lambda outcome: outcome.group_seconds("train"))
TOTAL_SECONDS = Quantity("total seconds", lambda outcome: outcome.total_seconds, shared=True)
EPS_LOSS = Quantity("held-out loss", eps_loss, same_for_loaders=True, of_seeds=True)

Arm = tuple[str, str]

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

    arms: an outcome of each (train_on, loader), all after the same epochs, without repeats
    """

    words: str
    key: str
    arms: dict[Arm, Outcome]


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

    @property
    def how_to_complete(self) -> str | None:
        """The command that makes what the suite has and this run has not; None: all is there."""
        if self.run.missing or self.run.missing_units:
            return self.run.resume
        if any(not outcome.ok for outcome in self.found):
            return f"{self.run.resume} --retry-failed"
        return None

    def pairs(
        self, quantity: Quantity, factor: str, base: Setting, other: Setting
    ) -> list[Matched]:
        """Training runs that differ in one factor, each pair after as many epochs on both sides."""
        return last_in_common(matched(distinct(self.generated, quantity), factor, base, other))

    def pair_values(
        self, quantity: Quantity, factor: str, base: Setting, other: Setting
    ) -> list[Pair]:
        """The values of the quantity, pair by pair."""
        return values(self.pairs(quantity, factor, base, other), quantity)

    def ratio(
        self, quantity: Quantity, factor: str, base: Setting, other: Setting
    ) -> Effect | None:
        """other / base over all pairs; None without one."""
        return paired_ratio(self.pair_values(quantity, factor, base, other))

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
    def cells(self) -> list[dict[Arm, Outcome]]:
        """The arms of each setting, equal in all but what is trained on and how it is read."""
        cells: dict[str, dict[Arm, Outcome]] = {}
        for outcome in self.generated:
            if outcome.record.repeat == 1:
                cells.setdefault(setting_key(outcome), {}).setdefault(arm_of(outcome), outcome)
        return list(cells.values())

    def side_by_side(self, *arms: Arm) -> list[list[Outcome]]:
        """The outcomes of these arms, at the last milestone that the runs of all of them have."""
        last: dict[tuple[str, ...], list[Outcome]] = {}
        for of_cell in self.cells:
            if all(arm in of_cell for arm in arms):
                found = [of_cell[arm] for arm in arms]
                runs = tuple(outcome.record.unit for outcome in found)
                if runs not in last or found[0].number("epochs") > last[runs][0].number("epochs"):
                    last[runs] = found
        return list(last.values())

    @cached_property
    def reference(self) -> Reference | None:
        """The cell with the most arms; of those the largest. None without a finished generation."""
        if not self.cells:
            return None
        arms = max(self.cells, key=lambda arms: (len(arms), *_size(next(iter(arms.values())))))
        first = next(iter(arms.values()))
        return Reference(f"{cell_words(first)}, {epochs_of([first])}", facet_key(first), arms)


def _size(outcome: Outcome) -> tuple[float, ...]:
    return tuple(map(outcome.number, ("num_images", "num_train_timesteps", "epochs")))


def epochs_of(found: Iterable[Outcome]) -> str:
    """1 epoch; 10 epochs; 5 or 10 epochs."""
    levels = sorted({outcome.number("epochs") for outcome in found})
    return f"{listed(levels, 'or')} {'epoch' if levels == [1] else 'epochs'}"


def setting_key(outcome: Outcome) -> str:
    """What the arms of a comparison have in common, epochs and seed included."""
    epochs = outcome.number("epochs")
    return f"{run_cell(outcome, 'train_on', 'loader', 'repeat')} after {epochs:g}"


def facet_key(outcome: Outcome) -> str:
    """What is drawn together: the arms, repeats and seeds of one setting."""
    return run_cell(outcome, "train_on", "loader", "repeat", "seed")


def arm_of(outcome: Outcome) -> Arm:
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
