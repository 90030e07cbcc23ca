"""Outcomes with what they cost, joined by key, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from bench.costs import Costs, peak_of
from bench.records import Environment, Plan, Record, Setting, StageRow
from reports.load import Loaded

TRAIN, SAMPLE, FIT = "train_ddpm", "sample", "fit_priors"
# Where a stage's seconds are shown. A name that is not here is that of a function of the user's: it
# makes a target or a start, as the stages of "priors" do, and stands with them.
GROUP_OF = {
    "prepare": "prepare",
    "degrade": "prepare",
    "freeze_flips": "prepare",
    "encode": "prepare",
    # The priors, and what it takes to put them, or what stands in for them, where they are used.
    "take": "priors",
    "learn_initialisation": "priors",
    FIT: "priors",
    "join": "priors",
    "to_eight_bits": "priors",
    "dip_targets": "priors",
    "blur_targets": "priors",
    "start_degraded": "priors",
    "start_dip": "priors",
    "start_blur": "priors",
    "start_nlm": "priors",
    "start_tv": "priors",
    "start_mean": "priors",
    "start_nearest": "priors",
    "start_original": "priors",
    TRAIN: "train",
    SAMPLE: "sample",
    # Puts a start in the place of samples, where no net is asked.
    "as_samples": "sample",
    "as_images": "score",
    "extract_features": "score",
    "score_anchors": "score",
    "score_priors": "score",
    "score_net": "score",
    "score_generation": "score",
    "score_features": "score",
    "score_restoration": "score",
    "score_start": "score",
}
GROUPS = ("prepare", "priors", "train", "sample", "score")
# What the training run of an outcome does not depend on.
OUTCOME_SETTINGS = frozenset(
    {
        "epochs",
        "task",
        "sampler",
        "num_inference_steps",
        "timestep_spacing",
        "num_samples",
        "start_from",
        "t0",
        "start_image_weight",
        "start_noise_weight",
        "samples_per_batch",
        "sampling_precision",
        "sampling_channels_last",
        "sampling_tf32",
        "sampling_attention",
        "sampling_compile",
        "sampling_cuda_graph",
        "degradation_sigma",
        "blur_sigma",
    }
)
# How the batches of a training run come about.
LOADING_SETTINGS = ("loader", "num_workers", "flip", "files")

# The lag-1 autocorrelation below which samples look like noise.
NOISE_AUTOCORRELATION = 0.2

# What tells outcomes apart at first sight, in the order in which they are sorted.
MAIN_SETTINGS = (
    "task",
    "protocol",
    "train_on",
    "condition_on",
    *LOADING_SETTINGS,
    "num_images",
    "num_train_timesteps",
    "beta_schedule",
    "epochs",
    "start_from",
    "t0",
    "sampler",
    "num_inference_steps",
    "num_samples",
)
# Without these an outcome can be told from no other.
NEEDED_SETTINGS = frozenset(MAIN_SETTINGS) - {"protocol"}


class Ledger(Costs):
    """Who pays for what, and what rests on what."""

    def __init__(self, plan: Plan, rows: Iterable[StageRow]) -> None:
        super().__init__(plan, rows)
        self._charges: dict[str, dict[str, Charge]] = {}

    def charge(self, unit: str, key: str) -> Charge:
        """A key of the bills of a unit's outcomes, one object in all of them."""
        known = self._charges.setdefault(unit, {})
        if key not in known:
            known[key] = Charge(key, self.row(unit, key), self.charged(unit, key))
        return known[key]

    def ancestors(self, unit: str, keys: Iterable[str], without: Container[str] = ()) -> set[str]:
        """`keys` and all that they rest on; without: what is left out with all below it."""
        found: set[str] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in found and key not in without:
                found.add(key)
                row = self.row(unit, key)
                waiting.extend(row.parents if row else ())
        return found


@dataclass(frozen=True, slots=True)
class Charge:
    """A key of a bill, the call as the unit saw it, and the row that carries its figures."""

    key: str
    row: StageRow | None
    paid: StageRow | None
    # Told here, as every outcome asks every charge of its bill for them.
    function: str | None = field(init=False)
    seconds: float | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", self.row.function if self.row else None)
        object.__setattr__(self, "seconds", self.paid.seconds if self.paid else None)

    def executed_in(self, outcome: Outcome) -> bool:
        """Whether the outcome's own process made it, rather than load it."""
        return self.paid is not None and self.paid.unit == outcome.record.unit


@dataclass(frozen=True)
class Outcome:
    """A record with its bill. Seconds are None where they are not known, never 0."""

    record: Record
    bill: tuple[Charge, ...]
    # Keys of the training run and of all that it rests on.
    made_net: frozenset[str]
    # Keys that made the start images, the degraded input aside.
    made_start: frozenset[str]
    # The settings in which the outcomes of the run differ; None: not looked for.
    differing: tuple[str, ...] | None = None

    @cached_property
    def failure(self) -> str | None:
        """Why it has nothing to show; None if it has."""
        record = self.record
        if record.status != "ok":
            return record.error or record.status
        missing = NEEDED_SETTINGS - record.settings.keys()
        return f"its record has no setting {', '.join(sorted(missing))}" if missing else None

    @property
    def ok(self) -> bool:
        return self.failure is None

    @cached_property
    def settings(self) -> dict[str, Setting]:
        return self.record.settings

    @property
    def telling(self) -> tuple[str, ...]:
        """The settings that tell it from the other outcomes of its run."""
        return tuple(sorted(self.settings)) if self.differing is None else self.differing

    def number(self, setting: str) -> float:
        """A numeric setting. Raises TypeError if it is none."""
        value = self.settings[setting]
        if type(value) is int or type(value) is float:
            return value
        raise TypeError(f"{setting} must be a number, got {value!r}")

    def score(self, name: str) -> float | None:
        return self.record.scores.get(name)

    def seconds(self, wanted: Callable[[Charge], bool] = lambda _: True) -> float | None:
        """The sum over the wanted part of the bill; None if any of it is not known."""
        if not self._is_known:
            return None
        seconds = [charge.seconds for charge in self.bill if wanted(charge)]
        known = [second for second in seconds if second is not None]
        return sum(known) if len(known) == len(seconds) else None

    @cached_property
    def _is_known(self) -> bool:
        """Whether there is a bill, and the call of each of its keys."""
        return bool(self.bill) and all(charge.row for charge in self.bill)

    def group_seconds(self, group: str) -> float | None:
        return self._by_group[group]

    @cached_property
    def _by_group(self) -> dict[str, float | None]:
        if not self._is_known:
            return dict.fromkeys(GROUPS)
        found: dict[str | None, list[float | None]] = {}
        for charge in self.bill:
            found.setdefault(group_of(charge), []).append(charge.seconds)
        sums: dict[str, float | None] = {}
        for group in GROUPS:
            known = [second for second in found.get(group, ()) if second is not None]
            sums[group] = sum(known) if len(known) == len(found.get(group, ())) else None
        return sums

    @property
    def seconds_by_function(self) -> dict[str | None, float | None] | None:
        """Over the calls of each stage, None of what is not known; None if the bill is not."""
        if not self._is_known:
            return None
        found: dict[str | None, float | None] = {}
        for charge in self.bill:
            before, seconds = found.get(charge.function, 0), charge.seconds
            found[charge.function] = None if before is None or seconds is None else before + seconds
        return found

    @property
    def chosen(self) -> dict[str, Setting]:
        """What stages of the bill chose where a setting leaves it open; the last of a kind counts,
        which of samples are the outcome's own."""
        return {name: value for row in self._paid for name, value in row.chosen.items()}

    @property
    def compile_seconds(self) -> float | None:
        """What torch.compile took for the stages of the bill, their warm-up included."""
        parts = [one for row in self._paid
                 for one in (row.compile_seconds, row.warm_up_compile_seconds)]  # fmt: skip
        known = [one for one in parts if one is not None]
        return sum(known) if known else None

    @property
    def _paid(self) -> list[StageRow]:
        return [charge.paid for charge in self.bill if charge.paid is not None]

    @cached_property
    def paid(self) -> dict[tuple[str, str], float]:
        """The seconds of each row that it is charged with, by unit and key; unknown ones are 0."""
        return {(row.unit, row.key): row.seconds or 0.0 for row in self._paid}

    @cached_property
    def total_seconds(self) -> float | None:
        """Everything the outcome rests on, priors included wherever they were made."""
        return self.seconds()

    @cached_property
    def net_seconds(self) -> float | None:
        """What the trained net rests on, priors included, without sampling and scoring."""
        return self.seconds(lambda charge: charge.key in self.made_net)

    @cached_property
    def cold_net_seconds(self) -> float | None:
        """The same with what torch.compile took beforehand for the stages of the net."""
        if self.net_seconds is None:
            return None
        made = [one.paid for one in self.bill if one.paid and one.key in self.made_net]
        return self.net_seconds + sum(row.warm_up_compile_seconds or 0.0 for row in made)

    @cached_property
    def start_seconds(self) -> float | None:
        """What making the start images took; 0 for a start from noise."""
        return self.seconds(lambda charge: charge.key in self.made_start)

    @property
    def restoring_seconds(self) -> float | None:
        """Of an image restored: to make its start, or its condition, and to sample."""
        made, sampled = self.start_seconds, self.group_seconds("sample")
        if made is None or sampled is None:
            return None
        # Conditions are of all held-out images, starts of those that are restored.
        conditioned = self.settings["condition_on"] != "nothing"
        starts = self.number("num_held_out" if conditioned else "num_samples")
        return made / starts + sampled / self.number("num_samples")

    @property
    def from_priors(self) -> bool:
        """Whether it took a DIP of what was to be restored."""
        return any(c.function == FIT and c.key in self.made_start for c in self.bill)

    @cached_property
    def train_rows(self) -> list[StageRow]:
        """The rows with the figures of the training run, from its first part to its last."""
        rows = [charge.paid for charge in self.bill if charge.function == TRAIN]
        known = [row for row in rows if row is not None]
        return known if len(known) == len(rows) else []

    @property
    def looks_like_noise(self) -> bool:
        """Whether neighbouring pixels of its samples have next to nothing in common."""
        correlation = self.score("lag1_autocorrelation")
        return correlation is not None and correlation < NOISE_AUTOCORRELATION

    @property
    def images_seen(self) -> float:
        return self.number("epochs") * self.number("num_images")

    @cached_property
    def train_seconds_per_image(self) -> float | None:
        seconds = self.group_seconds("train")
        return seconds / self.images_seen if seconds else None

    @property
    def wait_seconds_per_image(self) -> float | None:
        waited = self.data_wait_seconds
        return None if waited is None else waited / self.images_seen

    @property
    def data_wait_seconds(self) -> float | None:
        waits = [wait for row in self.train_rows for wait in row.data_wait_seconds]
        return sum(waits) if waits else None

    @property
    def step_seconds(self) -> list[float]:
        return [second for row in self.train_rows for second in row.step_seconds]

    @property
    def first_step_seconds(self) -> float | None:
        steps = self.step_seconds
        return steps[0] if steps else None

    @property
    def median_step_seconds(self) -> float | None:
        steps = self.step_seconds
        return statistics.median(steps) if steps else None

    def joules(self, name: str) -> float | None:
        """The sum of an energy meter over the bill; None if any stage of it was not metered."""
        readings = [getattr(charge.paid, name) if charge.paid else None for charge in self.bill]
        known = [reading for reading in readings if reading is not None]
        return sum(known) if known and len(known) == len(readings) else None

    def flops(self, function: str) -> int | None:
        """Operations of a stage's nets over the bill; None if any of its calls are not counted."""
        rows = [charge.paid for charge in self.bill if charge.function == function]
        known = [row.flops for row in rows if row is not None and row.flops is not None]
        return sum(known) if known and len(known) == len(rows) else None

    def share_of_peak(self, function: str, machine: Environment) -> float | None:
        """Of the operations that the device was seen to do a second, what a stage did."""
        flops = self.flops(function)
        taken = self.seconds(lambda charge: charge.function == function)
        peak = peak_of(function, self.settings, machine)
        return None if flops is None or not taken or peak is None else flops / taken / peak

    def peak(self, name: str) -> int | None:
        """The highest reading of a memory meter over the bill, in bytes; None if there is none."""
        readings = [getattr(charge.paid, name) for charge in self.bill if charge.paid]
        return max((reading for reading in readings if reading is not None), default=None)


def group_of(charge: Charge) -> str | None:
    """The group of stages that a charge belongs to; None for overhead."""
    return None if charge.function is None else GROUP_OF.get(charge.function, "priors")


def outcomes(run: Loaded, ledger: Ledger | None = None) -> list[Outcome]:
    """Every record with its bill, in an order that depends on the settings alone.

    ledger: of the run, if there is one already
    """
    ledger = ledger or Ledger(run.plan, run.rows)
    differing = _differing(run.records)

    @cache
    def made_net(unit: str, trained: tuple[str, ...]) -> frozenset[str]:
        """The same for all that is asked of a net."""
        return frozenset(ledger.ancestors(unit, trained))

    def outcome(record: Record) -> Outcome:
        unit = record.unit
        bill = tuple(ledger.charge(unit, key) for key in record.stages)
        of_net = made_net(unit, tuple(charge.key for charge in bill if charge.function == TRAIN))
        samples = [record.samples] if record.samples else []
        of_samples = ledger.ancestors(unit, samples, without=of_net)
        of_start = frozenset(
            charge.key
            for charge in bill
            if charge.key in of_samples and group_of(charge) not in ("prepare", "sample")
        )
        return Outcome(record, bill, of_net, of_start or _NO_KEYS, differing)

    key = _order(differing)
    return sorted(map(outcome, run.records), key=lambda one: key(one.record))


_NO_KEYS: frozenset[str] = frozenset()


def _differing(records: Sequence[Record]) -> tuple[str, ...]:
    """The settings in which they differ."""
    found = _distinct(records)
    names = {name for settings in found for name in settings}
    return tuple(
        name for name in sorted(names) if len({settings.get(name) for settings in found}) > 1
    )


def _distinct(records: Iterable[Record]) -> list[dict[str, Setting]]:
    """Their settings; one object, which many may have, once."""
    return list({id(record.settings): record.settings for record in records}.values())


def _order(differing: Sequence[str]) -> Callable[[Record], tuple[object, ...]]:
    """What records are sorted by: their settings, MAIN_SETTINGS first, then their identity."""
    names = sorted(differing, key=lambda name: (_PLACES.get(name, len(_PLACES)), name))
    known: dict[int, tuple[object, ...]] = {}

    def key(record: Record) -> tuple[object, ...]:
        settings = record.settings
        if id(settings) not in known:
            known[id(settings)] = tuple(_sortable(settings.get(name)) for name in names)
        return known[id(settings)], record.seed, record.case_id, record.repeat

    return key


_PLACES = {name: place for place, name in enumerate(MAIN_SETTINGS)}
_BASELINES = (None, "images", "nothing", "memory", "noise")


def _sortable(value: Setting) -> tuple[int, float, str]:
    """Numbers by value; of words the baselines first."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, "" if value in _BASELINES else str(value))
