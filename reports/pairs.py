"""What is measured of outcomes, and the outcomes that differ in one factor alone."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from bench.records import Setting
from bench.stats import Effect, Pair, paired_difference, paired_ratio
from bench.verdicts import RATIO_MARGIN, Verdict, judge
from reports.tables import LOADING_SETTINGS, OUTCOME_SETTINGS, Outcome

# Equal for outcomes that are equal in some settings.
Key = tuple[Setting, ...]


def cell(outcome: Outcome, *without: str) -> Key:
    """What tells it from the other outcomes of its run, but for `without`, as a key to match by."""
    names, seed, repeat = _left(outcome.telling, without)
    record = outcome.record
    return (
        *map(record.settings.get, names),
        record.seed if seed else None,
        record.repeat if repeat else None,
    )


@cache
def _left(telling: tuple[str, ...], without: tuple[str, ...]) -> tuple[tuple[str, ...], bool, bool]:
    """The settings that are left, and whether seed and repeat are."""
    names = tuple(name for name in telling if name not in without)
    return names, "seed" not in without, "repeat" not in without


def run_cell(outcome: Outcome, *without: str) -> Key:
    """As `cell`, of the training run: the settings of one outcome aside."""
    return cell(outcome, *_of_outcome(without))


@cache
def _of_outcome(without: tuple[str, ...]) -> tuple[str, ...]:
    return (*OUTCOME_SETTINGS, *without)


def block(outcome: Outcome) -> Key:
    """What a run makes back to back: the arms and repeats of one setting and seed."""
    return run_cell(outcome, "train_on", "condition_on", *LOADING_SETTINGS, "repeat")


Side = Mapping[str, Setting]
# Outcomes that are equal in everything but the settings that the sides of a comparison name.
Group = tuple[Outcome, ...]


# What moves a total by less is no common cause of several outcomes.
MIN_SHARED_PART = 0.01


@dataclass(frozen=True)
class Quantity:
    """Something measured of an outcome; None where it is not known.

    more, less: the words for its two directions
    unit: of differences; None: it is compared as a ratio
    margin: what counts as equal (bench.verdicts); None: nothing does
    shared: what it counts was partly measured in other processes, which other outcomes share
    same_for_loaders: bit for bit the same whatever the loader, if flips are the device's, so that
        one loader says all
    is_time: what moves the seconds of a step moves it too
    of_samples: a score of samples, which says nothing of a setting where any look like noise
    of_seeds: its replicate is the seed of training: nets of one seed share their first weights,
        the order of their images and all noise, in whatever process they were trained
    """

    name: str
    of: Callable[[Outcome], float | None]
    more: str = "more"
    less: str = "less"
    unit: str | None = None
    margin: float | None = RATIO_MARGIN
    shared: bool = False
    same_for_loaders: bool = False
    is_time: bool = False
    of_samples: bool = False
    of_seeds: bool = False

    def executions(self, *found: Outcome) -> frozenset[str]:
        """The replicates that it was measured in: seeds; processes; or blocks, if of several.

        The runs of a block share what the machine did in those minutes. That is no part of what
        tells them apart from each other, and all of what tells them apart from another block.
        """
        if self.of_seeds:
            return frozenset(f"seed {outcome.record.seed}" for outcome in found)
        blocks = set(map(block, found))
        if len(blocks) > 1:
            return frozenset(map(repr, blocks))
        own = {outcome.record.unit for outcome in found}
        return frozenset(own | _shared_units(found) if self.shared else own)

    def effect(self, pairs: Iterable[Pair]) -> Effect | None:
        """A ratio or a difference, whichever it is compared as."""
        return paired_ratio(pairs) if self.unit is None else paired_difference(pairs)

    def judge(
        self,
        effect: Effect | None,
        controls: Iterable[Effect | None] = (),
        *,
        seeds: int | None = None,
    ) -> Verdict:
        """The word for an effect; seeds: over which each value is a mean, if they are no pairs."""
        return judge(
            effect,
            margin=self.margin,
            more=self.more,
            less=self.less,
            controls=controls,
            of_seeds=self.of_seeds and seeds is None,
            seeds=seeds,
        )


def _shared_units(found: Group) -> set[str]:
    """The paid units of an outcome each, but for what all of `found` were charged with alike: that
    makes no difference between them."""
    common = set(found[0].paid).intersection(*(one.paid for one in found))
    return {unit for one in found for unit in paid_units(one, without=common)}


def paid_units(outcome: Outcome, without: Container[tuple[str, str]] = ()) -> set[str]:
    """Units that paid for more than MIN_SHARED_PART of it.

    without: rows that are not counted, by unit and key
    """
    paid: dict[str, float] = {}
    for (unit, key), seconds in outcome.paid.items():
        if (unit, key) not in without:
            paid[unit] = paid.get(unit, 0.0) + seconds
    least = MIN_SHARED_PART * sum(outcome.paid.values())
    return {unit for unit, seconds in paid.items() if seconds > least}


def values(groups: Iterable[Group], quantity: Quantity) -> list[Pair]:
    """Of groups of two, those for which both sides have the quantity."""
    return [
        Pair(base, other, quantity.executions(*group))
        for group in groups
        for base, other in [map(quantity.of, group)]
        if base is not None and other is not None
    ]


def distinct(found: Iterable[Outcome], quantity: Quantity) -> list[Outcome]:
    """Those that have the quantity and of which it means something, without those that only say
    again, from another loader, what one in memory says."""
    known = [one for one in found if quantity.of(one) is not None]
    if quantity.of_samples:
        # Whole settings: to drop single outcomes for what they gave would bias what is left.
        apart = ("train_on", *LOADING_SETTINGS, "repeat", "seed")
        noisy = {cell(one, *apart) for one in known if one.looks_like_noise}
        known = [one for one in known if cell(one, *apart) not in noisy]
    if not quantity.same_for_loaders:
        return known
    loading = ("loader", "num_workers", "files")
    said = {cell(one, *loading) for one in known if one.settings["loader"] == "memory"}
    return [
        one
        for one in known
        if one.settings["loader"] == "memory"
        # A loader's flips are drawn once where tensors are kept, and anew where files are read.
        or one.settings["flip"] == "loader"
        or cell(one, *loading) not in said
    ]
