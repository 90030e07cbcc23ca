"""Outcomes with what they cost, joined by key, and the pairs that differ in one factor."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from bench.records import Costs, Record, Setting, StageRow
from bench.stats import Pair
from reports.load import Loaded, plain_text

TRAIN, SAMPLE = "train_ddpm", "sample"
# Where a stage's seconds are shown. What is not named here is "other".
GROUP_OF = {
    "prepare": "prepare",
    "degrade": "prepare",
    # The priors, and what it takes to put them, or what stands in for them, where they are used.
    "take": "priors",
    "fit_priors": "priors",
    "join": "priors",
    "encode": "priors",
    "blur": "priors",
    TRAIN: "train",
    SAMPLE: "sample",
    "score_anchors": "score",
    "score_net": "score",
    "score_generation": "score",
    "score_restoration": "score",
}
GROUPS = ("prepare", "priors", "train", "sample", "score", "other")
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
        "degradation_sigma",
        "blur_sigma",
    }
)

# What tells outcomes apart at first sight, in the order in which they are sorted.
MAIN_SETTINGS = (
    "task",
    "train_on",
    "loader",
    "num_images",
    "num_train_timesteps",
    "beta_schedule",
    "epochs",
    "start_from",
    "num_inference_steps",
)


class Ledger(Costs):
    """Who pays for what, and what rests on what."""

    def ancestors(self, unit: str, keys: Iterable[str]) -> set[str]:
        """`keys` and all that they rest on."""
        found: set[str] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                row = self.row(unit, key)
                waiting.extend(row.parents if row else ())
        return found


@dataclass(frozen=True)
class Charge:
    """A key of a bill, the call as the unit saw it, and the row that carries its figures."""

    key: str
    row: StageRow | None
    paid: StageRow | None

    @property
    def function(self) -> str | None:
        return self.row.function if self.row else None

    @property
    def seconds(self) -> float | None:
        return self.paid.seconds if self.paid else None

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

    @property
    def ok(self) -> bool:
        return self.record.status == "ok"

    @property
    def settings(self) -> dict[str, Setting]:
        return self.record.settings

    def number(self, setting: str) -> float:
        """A numeric setting. Raises TypeError if it is none."""
        value = self.settings[setting]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{setting} must be a number, got {value!r}")
        return value

    def score(self, name: str) -> float | None:
        return self.record.scores.get(name)

    def seconds(self, wanted: Callable[[Charge], bool] = lambda _: True) -> float | None:
        """The sum over the wanted part of the bill; None if any of it is not known."""
        if not self.bill or any(charge.row is None for charge in self.bill):
            return None
        seconds = [charge.seconds for charge in self.bill if wanted(charge)]
        known = [second for second in seconds if second is not None]
        return sum(known) if len(known) == len(seconds) else None

    def group_seconds(self, group: str) -> float | None:
        return self.seconds(lambda charge: GROUP_OF.get(charge.function or "", "other") == group)

    @cached_property
    def total_seconds(self) -> float | None:
        """Everything the outcome rests on, priors included wherever they were made."""
        return self.seconds()

    @cached_property
    def net_seconds(self) -> float | None:
        """What the trained net rests on, priors included, without sampling and scoring."""
        return self.seconds(lambda charge: charge.key in self.made_net)

    @cached_property
    def start_seconds(self) -> float | None:
        """What making the start images took; 0 for a start from noise."""
        return self.seconds(lambda charge: charge.key in self.made_start)

    @property
    def train_rows(self) -> list[StageRow]:
        """The rows with the figures of the training run, from its first part to its last."""
        rows = [charge.paid for charge in self.bill if charge.function == TRAIN]
        known = [row for row in rows if row is not None]
        return known if len(known) == len(rows) else []

    @property
    def images_seen(self) -> float:
        return self.number("epochs") * self.number("num_images")

    @property
    def train_seconds_per_image(self) -> float | None:
        seconds = self.group_seconds("train")
        return seconds / self.images_seen if seconds else None

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

    def peak(self, name: str) -> int | None:
        """The highest reading of a memory meter over the bill, in bytes; None if there is none."""
        readings = [getattr(charge.paid, name) for charge in self.bill if charge.paid]
        return max((reading for reading in readings if reading is not None), default=None)


def outcomes(run: Loaded) -> list[Outcome]:
    """Every record with its bill, in an order that depends on the settings alone."""
    ledger = Ledger(run.plan, run.rows)
    return sorted((_outcome(record, ledger) for record in run.records), key=_order)


def _outcome(record: Record, ledger: Ledger) -> Outcome:
    unit = record.unit
    bill = tuple(
        Charge(key, ledger.row(unit, key), ledger.charged(unit, key)) for key in record.stages
    )
    trained = [charge.key for charge in bill if charge.function == TRAIN]
    made_net = ledger.ancestors(unit, trained)
    made_samples = ledger.ancestors(unit, [record.samples] if record.samples else [])
    made_start = {
        charge.key
        for charge in bill
        if charge.key in made_samples - made_net
        and GROUP_OF.get(charge.function or "") not in ("prepare", "sample")
    }
    return Outcome(record, bill, frozenset(made_net), frozenset(made_start))


def _order(outcome: Outcome) -> tuple[object, ...]:
    record = outcome.record
    names = (*MAIN_SETTINGS, *sorted(set(record.settings) - set(MAIN_SETTINGS)))
    values = [_sortable(record.settings.get(name)) for name in names]
    return (*values, record.seed, record.case_id, record.repeat)


def _sortable(value: Setting) -> tuple[int, float, str]:
    """Numbers by value; of words the baselines first."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, "" if value in (None, "images", "memory", "noise") else str(value))


# The table -------------------------------------------------------------------------------------


def results(run: Loaded, found: Sequence[Outcome]) -> pd.DataFrame:
    """One row an outcome: identity, settings, status, scores, costs; unknown is null."""
    functions = sorted({charge.function for one in found for charge in one.bill if charge.function})
    common = {
        "suite": run.plan.suite,
        "commit": run.environment.commit,
        "dirty": run.environment.dirty,
        "device": run.environment.device,
        "device_name": run.environment.device_name,
    }
    rows = [{**_result(one, functions), **common} for one in found]
    # Outcomes differ in the scores they have, so the first row alone does not name all columns.
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in names})


def _column(cells: list[object]) -> pd.Series:
    """A column of one type, whatever the cells hold: the type does not hang on which are null."""
    known = [value for value in cells if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pd.Series(cells, dtype="boolean")
    if known and all(isinstance(value, int) for value in known):
        return pd.Series(cells, dtype="Int64")
    if all(isinstance(value, int | float) for value in known):
        return pd.Series(cells, dtype="float64")
    return pd.Series([None if value is None else str(value) for value in cells], dtype="string")


def _result(outcome: Outcome, functions: Iterable[str]) -> dict[str, object]:
    record = outcome.record
    return {
        "case_id": record.case_id,
        "repeat": record.repeat,
        "seed": record.seed,
        "unit": record.unit,
        "status": record.status,
        "error": None if record.error is None else plain_text(record.error),
        **{name: _cell(value) for name, value in record.settings.items()},
        **record.scores,
        **{f"{group}_seconds": outcome.group_seconds(group) for group in GROUPS},
        "total_seconds": outcome.total_seconds,
        "net_seconds": outcome.net_seconds,
        "start_seconds": outcome.start_seconds,
        "train_seconds_per_image": outcome.train_seconds_per_image,
        "data_wait_seconds": outcome.data_wait_seconds,
        "first_step_seconds": outcome.first_step_seconds,
        "median_step_seconds": outcome.median_step_seconds,
        "host_peak_bytes": outcome.peak("host_peak_bytes"),
        "device_peak_allocated_bytes": outcome.peak("device_peak_allocated_bytes"),
        "device_peak_reserved_bytes": outcome.peak("device_peak_reserved_bytes"),
        **{f"stage_{name}_seconds": _stage_seconds(outcome, name) for name in functions},
        "warnings": "; ".join(map(plain_text, record.warnings)) or None,
    }


def _stage_seconds(outcome: Outcome, function: str) -> float | None:
    return outcome.seconds(lambda charge: charge.function == function)


def _cell(value: Setting) -> str | int | float | bool | None:
    """A setting that is a tuple as text, so that the column has one type."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


# Pairs -----------------------------------------------------------------------------------------


def cell(outcome: Outcome, *without: str) -> str:
    """All the settings and the seed, but for `without`, as a key to match by."""
    settings = {**outcome.settings, "seed": outcome.record.seed, "repeat": outcome.record.repeat}
    return repr(sorted((name, value) for name, value in settings.items() if name not in without))


def run_cell(outcome: Outcome, *without: str) -> str:
    """As `cell`, of the training run: the settings of one outcome aside."""
    return cell(outcome, *OUTCOME_SETTINGS, *without)


def factor_value(outcome: Outcome, factor: str) -> Setting:
    """A setting of an outcome, or its repeat."""
    return outcome.record.repeat if factor == "repeat" else outcome.settings.get(factor)


@dataclass(frozen=True)
class Matched:
    """Two outcomes that are equal in everything but one factor."""

    base: Outcome
    other: Outcome


def matched(
    found: Iterable[Outcome],
    factor: str,
    base: Setting,
    other: Setting,
) -> list[Matched]:
    """Pairs of finished outcomes of one `cell`, `factor` aside, in the order of the outcomes."""
    sides: dict[str, dict[Setting, Outcome]] = {}
    for outcome in found:
        repeats = factor == "repeat" or outcome.record.repeat == 1
        if outcome.ok and repeats and (value := factor_value(outcome, factor)) in (base, other):
            sides.setdefault(cell(outcome, factor), {}).setdefault(value, outcome)
    return [Matched(side[base], side[other]) for side in sides.values() if len(side) == 2]


def last_in_common(pairs: Iterable[Matched]) -> list[Matched]:
    """One pair for any two runs: of the last milestone that both have.

    So a measured row counts once, however many outcomes it is charged to.
    """
    last: dict[tuple[str, str], Matched] = {}
    for pair in pairs:
        runs = pair.base.record.unit, pair.other.record.unit
        if runs not in last or pair.base.number("epochs") > last[runs].base.number("epochs"):
            last[runs] = pair
    return list(last.values())


@dataclass(frozen=True)
class Quantity:
    """Something measured of an outcome; None where it is not known.

    shared: what it counts was partly measured in other processes, which other outcomes share
    same_for_loaders: bit for bit the same whatever the loader, so that one loader says all
    of_seeds: its replicate is the seed of training: nets of one seed share their first weights,
        the order of their images and all noise, in whatever process they were trained
    """

    name: str
    of: Callable[[Outcome], float | None]
    shared: bool = False
    same_for_loaders: bool = False
    of_seeds: bool = False

    def executions(self, outcome: Outcome) -> frozenset[str]:
        """The replicates that it was measured in: processes, or the seed."""
        if self.of_seeds:
            return frozenset({f"seed {outcome.record.seed}"})
        own = {outcome.record.unit}
        paid = (
            {charge.paid.unit for charge in outcome.bill if charge.paid} if self.shared else set()
        )
        return frozenset(own | paid)


def values(pairs: Iterable[Matched], quantity: Quantity) -> list[Pair]:
    """The pairs for which both sides have the quantity."""
    found = []
    for pair in pairs:
        base, other = quantity.of(pair.base), quantity.of(pair.other)
        if base is not None and other is not None:
            executions = quantity.executions(pair.base) | quantity.executions(pair.other)
            found.append(Pair(base, other, executions))
    return found


def distinct(found: Iterable[Outcome], quantity: Quantity) -> list[Outcome]:
    """Without the outcomes that only say again, from another loader, what one in memory says."""
    outcomes = list(found)
    if not quantity.same_for_loaders:
        return outcomes
    said = {cell(one, "loader") for one in outcomes if one.settings.get("loader") == "memory"}
    return [
        one
        for one in outcomes
        if one.settings.get("loader") == "memory" or cell(one, "loader") not in said
    ]
