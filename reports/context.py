"""What the sections share: the run, its outcomes, and the effects that several of them tell of."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bench.apart import telling, value_words
from bench.stats import Effect, Pair, Quad, TwoByTwo, two_by_two
from bench.verdicts import PSNR_MARGIN, Verdict, far_end
from reports.columns import Columns
from reports.load import Artifacts, Loaded
from reports.pairs import (
    Group,
    Key,
    Quantity,
    Side,
    cell,
    distinct,
    run_cell,
    values,
)
from reports.tables import (
    LOADING_SETTINGS,
    MAIN_SETTINGS,
    OUTCOME_SETTINGS,
    Ledger,
    Outcome,
    outcomes,
)
from reports.words import listed, schedule

# What every noise schedule reaches, in words.
LOSS_LEVELS = "the log-SNR levels \N{MINUS SIGN}3, 0, 3 and 6"


def eps_loss(outcome: Outcome) -> float | None:
    """Held-out denoising loss, mean over LOSS_LEVELS; None if it has left all bounds."""
    loss = outcome.score("eps_loss")
    return loss if loss is not None and 0 < loss < math.inf else None


def finite_score(name: str, outcome: Outcome) -> float | None:
    """A score; None where it is missing, NaN or infinite."""
    score = outcome.score(name)
    return score if score is not None and math.isfinite(score) else None


PER_IMAGE = Quantity(
    "training seconds an image",
    lambda one: one.train_seconds_per_image,
    "longer",
    "shorter",
    is_time=True,
)
TRAIN_SECONDS = Quantity(
    "training seconds",
    lambda one: one.group_seconds("train"),
    "longer",
    "shorter",
    is_time=True,
)
TOTAL_SECONDS = Quantity(
    "total seconds",
    lambda one: one.total_seconds,
    "longer",
    "shorter",
    shared=True,
    is_time=True,
)
EPS_LOSS = Quantity(
    "held-out loss", eps_loss, "higher", "lower", same_for_loaders=True, of_seeds=True
)
KID = Quantity(
    "KID",
    lambda one: finite_score("kid_efflite0", one),
    "higher",
    "lower",
    unit="",
    margin=None,
    same_for_loaders=True,
    of_samples=True,
    of_seeds=True,
)
ALL_PAIRS_PSNR = Quantity(
    "all-pairs PSNR",
    lambda one: finite_score("all_pairs_psnr", one),
    "higher",
    "lower",
    unit="dB",
    margin=PSNR_MARGIN,
    of_samples=True,
    of_seeds=True,
)
PAIRED_PSNR = Quantity(
    "PSNR",
    lambda one: finite_score("paired_psnr", one),
    "better",
    "worse",
    unit="dB",
    margin=PSNR_MARGIN,
    of_seeds=True,
)

ON_IMAGES: Side = {"train_on": "images"}
ON_DIP: Side = {"train_on": "dip"}
LINEAR: Side = {"beta_schedule": "linear"}
COSINE: Side = {"beta_schedule": "squaredcos_cap_v2"}
FIRST_RUN: Side = {"repeat": 1}
RUN_AGAIN: Side = {"repeat": 2}
# The loaders that keep images as tensors; the published one first.
KEPT = ("list", "memory")


class Arm(NamedTuple):
    """What is trained on, and how its batches come about."""

    train_on: str
    loader: str
    num_workers: int
    flip: str
    files: str

    @property
    def loading(self) -> str:
        """decode, 2 workers."""
        return f"{self.loader}, {self.num_workers} workers" if self.num_workers else self.loader

    def __str__(self) -> str:
        return f"{self.train_on}, {self.loading}"


# What may differ between restorations that are compared, the seed aside.
HOW_RESTORED = (
    "condition_on",
    "sampler",
    "start_from",
    "num_inference_steps",
    "timestep_spacing",
    "t0",
    "start_image_weight",
    "start_noise_weight",
    "blur_sigma",
)


@dataclass(frozen=True)
class Reference:
    """The cell in which the arms are shown side by side.

    arms: after the same epochs, an outcome a seed, without repeats
    """

    words: str
    key: Key
    arms: dict[Arm, Group]

    @cached_property
    def by_target(self) -> dict[str, Group]:
        """Of each train_on, in the way of loading that the most of them share."""
        return {arm.train_on: self.arms[arm] for arm in of_one_loading(self.arms)}


@dataclass(frozen=True)
class Report:
    """A run with everything derived from it that more than one section needs.

    whole: the report that this one is of a part of
    """

    run: Loaded
    whole: Report | None = field(default=None, repr=False)
    _distinct: dict[Quantity, list[Outcome]] = field(default_factory=dict, init=False, repr=False)
    _known: dict[Quantity, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _parts: dict[str, Report] = field(default_factory=dict, init=False, repr=False)
    _groups: dict[Hashable, list[Group]] = field(default_factory=dict, init=False, repr=False)
    _pairs: dict[Hashable, list[Pair]] = field(default_factory=dict, init=False, repr=False)
    _effects: dict[Hashable, Effect | None] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def found(self) -> list[Outcome]:
        if self.whole is None:
            return outcomes(self.run, self.ledger)
        own = set(map(id, self.run.records))
        return [one for one in self.whole.found if id(one.record) in own]

    def under(self, protocol: str) -> Report:
        """The run as if it had no outcomes but those of a protocol."""
        if protocol not in self._parts:
            records = tuple(
                record
                for record in self.run.records
                if record.settings.get("protocol", "corrected") == protocol
            )
            is_all = len(records) == len(self.run.records)
            part = self if is_all else Report(replace(self.run, records=records), self)
            self._parts[protocol] = part
        return self._parts[protocol]

    @cached_property
    def ledger(self) -> Ledger:
        return self.whole.ledger if self.whole else Ledger(self.run.plan, self.run.rows)

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
        """The largest set of restorations of the same images by nets of the same settings."""
        sets: dict[Key, list[Outcome]] = {}
        for outcome in self.ok:
            if outcome.settings["task"] == "restore" and outcome.record.repeat == 1:
                sets.setdefault(cell(outcome, "seed", *HOW_RESTORED), []).append(outcome)
        return max(sets.values(), key=len, default=[])

    @property
    def how_to_complete(self) -> str | None:
        """The command that makes what the suite has and this run has not; None: all is there."""
        if self.run.missing or self.run.missing_units:
            return self.run.resume
        if any(not outcome.ok for outcome in self.found):
            return f"{self.run.resume} --retry-failed"
        return None

    def groups(self, quantity: Quantity, *sides: Side) -> list[Group]:
        """Training runs that differ in what the sides name alone, each group after as many epochs
        on all sides."""
        key = _key(quantity, *sides)
        if key not in self._groups:
            if quantity not in self._known:
                self._known[quantity] = self._columns.where(self.distinct(quantity))
            self._groups[key] = self._columns.matched(self._known[quantity], *sides)
        return self._groups[key]

    def distinct(self, quantity: Quantity) -> list[Outcome]:
        """Those from noise that have a quantity, of which each says something of its own."""
        if quantity not in self._distinct:
            self._distinct[quantity] = distinct(self.generated, quantity)
        return self._distinct[quantity]

    @cached_property
    def _columns(self) -> Columns:
        return Columns(self.generated)

    def pairs(self, quantity: Quantity, base: Side, other: Side) -> list[Pair]:
        """The values of the quantity, pair by pair."""
        key = _key(quantity, base, other)
        if key not in self._pairs:
            self._pairs[key] = values(self.groups(quantity, base, other), quantity)
        return self._pairs[key]

    def effect(self, quantity: Quantity, base: Side, other: Side) -> Effect | None:
        """other against base over all pairs; None without one."""
        key = _key(quantity, base, other)
        if key not in self._effects:
            self._effects[key] = quantity.effect(self.pairs(quantity, base, other))
        return self._effects[key]

    def again(self, quantity: Quantity) -> Effect | None:
        """A-vs-A: of cases that ran twice, the second run against the first."""
        return self.effect(quantity, FIRST_RUN, RUN_AGAIN)

    def controls(self, quantity: Quantity) -> list[Effect | None]:
        """A-vs-A, and for a time what makes no difference to a step, where it has an interval."""
        again = self.again(quantity)
        return [again, *self.idle_effects] if quantity.is_time else [again]

    def reach(self, quantity: Quantity) -> float | None:
        """How far from no effect the controls reach, on the scale of `Effect.distance`.

        None: not known, as one of them is missing or has no interval.
        """
        ends = [None if c is None else far_end(c) for c in self.controls(quantity)]
        known = [end for end in ends if end is not None and end < math.inf]
        return max(known) if len(known) == len(ends) else None

    @cached_property
    def idle_effects(self) -> list[Effect]:
        """Of `idle_sides`, those with an interval."""
        found = (self.effect(PER_IMAGE, *sides) for sides in self.idle_sides.values())
        return [effect for effect in found if effect is not None and effect.low is not None]

    @cached_property
    def idle_sides(self) -> dict[str, tuple[Side, Side]]:
        """In words, what makes no difference to a training step."""
        levels = sorted({outcome.number("num_train_timesteps") for outcome in self.generated})
        sides: dict[str, tuple[Side, Side]] = {}
        if len(levels) > 1:
            least, most = levels[0], levels[-1]
            name = f"{most:g} / {least:g} timesteps"
            sides[name] = {"num_train_timesteps": least}, {"num_train_timesteps": most}
        return {**sides, "squaredcos / linear": (LINEAR, COSINE)}

    def judge(self, quantity: Quantity, base: Side, other: Side) -> Verdict:
        """The word for an effect, beside its controls; those of a step stand by themselves."""
        controls = self.controls(quantity)
        if (base, other) in self.idle_sides.values():
            controls = controls[:1]
        return quantity.judge(self.effect(quantity, base, other), controls)

    @cached_property
    def dip_time(self) -> Effect | None:
        """Training seconds an image, DIP outputs / images, at equal settings."""
        return self.effect(PER_IMAGE, ON_IMAGES, ON_DIP)

    @cached_property
    def square(self) -> tuple[str, TwoByTwo] | None:
        """The loader that keeps its images, and the 2 x 2 of target and loader on the seconds of a
        training image: a is decode against that loader, b is DIP outputs against images."""
        for kept in KEPT:
            groups = self.groups(PER_IMAGE, *square_sides(kept))
            measured = []
            for group in groups:
                neither, a, b, both = (one.train_seconds_per_image or 0.0 for one in group)
                measured.append(Quad(neither, a, b, both, PER_IMAGE.executions(*group)))
            effects = two_by_two(measured)
            if effects is not None:
                return kept, effects
        return None

    @cached_property
    def cells(self) -> list[dict[Arm, Group]]:
        """The arms of each setting, equal in all but what is trained on and how it is loaded."""
        cells: dict[tuple[Key, float], dict[Arm, dict[int, Outcome]]] = {}
        for outcome in self.generated:
            if outcome.record.repeat == 1:
                arms = cells.setdefault((facet_key(outcome), outcome.number("epochs")), {})
                arms.setdefault(arm_of(outcome), {}).setdefault(outcome.record.seed, outcome)
        return [
            {arm: tuple(seeds[seed] for seed in sorted(seeds)) for arm, seeds in arms.items()}
            for arms in cells.values()
        ]

    @cached_property
    def reference(self) -> Reference | None:
        """The cell with the most arms; of those the largest. None without a finished generation."""
        if not self.cells:
            return None
        arms = max(self.cells, key=lambda arms: (len(arms), *_size(_any_of(arms))))
        first = _any_of(arms)
        words = f"{self.setting_words(first)}, {epochs_of([first])}"
        return Reference(words, facet_key(first), arms)

    def setting_words(self, outcome: Outcome) -> str:
        """64 images, 1000 linear; with what else tells it from other settings of the run."""
        more = [f"{name} = {value_words(outcome.settings.get(name))}" for name in self._telling]
        return ", ".join([cell_words(outcome), *more])

    @cached_property
    def _telling(self) -> list[str]:
        apart = {"train_on", *LOADING_SETTINGS, *OUTCOME_SETTINGS}
        settings = [one.settings for one in self.generated]
        shown = ("num_images", "num_train_timesteps", "beta_schedule")
        return telling(settings, shown, apart, first=MAIN_SETTINGS)


def _key(quantity: Quantity, *sides: Side) -> Hashable:
    return (quantity, *(tuple(side.items()) for side in sides))


def square_sides(kept: str) -> list[Side]:
    """neither, a = decode, b = DIP, both."""
    return [
        {"train_on": train_on, "loader": loader}
        for train_on in ("images", "dip")
        for loader in (kept, "decode")
    ]


def of_one_loading(arms: Mapping[Arm, Any]) -> list[Arm]:
    """An arm of each train_on: of the way of loading that the most of them have, memory first."""
    ways = {arm[1:] for arm in arms}
    order = {loader: place for place, loader in enumerate(("memory", "list", "decode"))}
    ranked = sorted(
        ways,
        key=lambda way: (-sum(arm[1:] == way for arm in arms), order.get(way[0], 9), *way[1:]),
    )
    return [
        Arm(target, *next(way for way in ranked if (target, *way) in arms))
        for target in dict.fromkeys(arm.train_on for arm in arms)
    ]


def _any_of(arms: Mapping[Arm, Group]) -> Outcome:
    return next(iter(arms.values()))[0]


def _size(outcome: Outcome) -> tuple[float, ...]:
    return tuple(map(outcome.number, ("num_images", "num_train_timesteps", "epochs")))


def epochs_of(found: Iterable[Outcome]) -> str:
    """1 epoch; 10 epochs; 5 or 10 epochs."""
    levels = sorted({outcome.number("epochs") for outcome in found})
    return f"{listed(levels, 'or')} {'epoch' if levels == [1] else 'epochs'}"


def facet_key(outcome: Outcome) -> Key:
    """What is drawn together: the arms, repeats and seeds of one setting."""
    return run_cell(outcome, "train_on", *LOADING_SETTINGS, "repeat", "seed")


def arm_of(outcome: Outcome) -> Arm:
    """What it was trained on, and how that was loaded."""
    settings = outcome.settings
    return Arm(
        str(settings["train_on"]),
        str(settings["loader"]),
        int(outcome.number("num_workers")),
        str(settings["flip"]),
        str(settings["files"]),
    )


def cell_words(outcome: Outcome) -> str:
    """64 images, 1000 linear."""
    settings = outcome.settings
    return (
        f"{settings['num_images']} images, "
        f"{schedule(settings['num_train_timesteps'], settings['beta_schedule'])}"
    )
