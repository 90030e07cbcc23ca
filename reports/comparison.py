"""The same cases in several runs: what they took and reached in each.

Each run is a visit to its machine of its own, and whatever differed between two visits moves all of
their pairs alike. So there are effects with their intervals here, and no verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bench.apart import telling, value_words
from bench.errors import UserError
from bench.records import Setting
from bench.speed import QUALITY, Entry, entries
from bench.stats import Effect, Pair, paired_difference, paired_ratio
from reports.context import (
    ALL_PAIRS_PSNR,
    EPS_LOSS,
    KID,
    PAIRED_PSNR,
    PER_IMAGE,
    TOTAL_SECONDS,
    Report,
)
from reports.load import Loaded, plain_text
from reports.pairs import Quantity, distinct, paid_units
from reports.tables import MAIN_SETTINGS, Outcome
from reports.words import bytes_of, number, seconds

PRIORS_SECONDS = Quantity("priors' seconds", lambda one: one.group_seconds("priors"), shared=True)
SAMPLE_SECONDS = Quantity("sampling seconds", lambda one: one.group_seconds("sample"))
PEAK = Quantity(
    "peak memory",
    lambda one: one.peak("device_peak_allocated_bytes") or one.peak("host_peak_bytes"),
    shared=True,
)
# What is compared of outcomes, and how its values are told.
_QUANTITIES: Sequence[tuple[Quantity, Callable[[float | None], str]]] = (
    (PER_IMAGE, seconds),
    (PRIORS_SECONDS, seconds),
    (SAMPLE_SECONDS, seconds),
    (TOTAL_SECONDS, seconds),
    (PEAK, lambda value: bytes_of(None if value is None else int(value))),
    (EPS_LOSS, number),
    (KID, number),
    (ALL_PAIRS_PSNR, number),
    (PAIRED_PSNR, number),
)
# The setting of a line over all that is matched.
ALL = "all that both have"


@dataclass(frozen=True)
class Line:
    """A quantity of a setting; pairs: by the place of the other run, the first run's value first.

    unit: of differences; None: compared as a ratio
    """

    setting: str
    quantity: str
    unit: str | None
    form: Callable[[float | None], str]
    margin: float | None
    pairs: dict[int, list[Pair]] = field(default_factory=dict)

    def effect(self, place: int) -> Effect | None:
        return self._paired(self.pairs.get(place, []))

    def means(self, place: int) -> tuple[Effect | None, Effect | None]:
        """Of the first run and of the other, over what both have."""
        pairs, nothing = self.pairs.get(place, []), 1.0 if self.unit is None else 0.0
        return (
            self._paired(Pair(nothing, pair.base, pair.executions) for pair in pairs),
            self._paired(Pair(nothing, pair.other, pair.executions) for pair in pairs),
        )

    def _paired(self, pairs: Iterable[Pair]) -> Effect | None:
        return (paired_ratio if self.unit is None else paired_difference)(pairs)


@dataclass(frozen=True)
class Comparison:
    """Of the first run with each of the others."""

    runs: Sequence[Loaded]

    @cached_property
    def reports(self) -> list[Report]:
        return [Report(run) for run in self.runs]

    @cached_property
    def names(self) -> list[str]:
        """Of their folders; with a number where two are called alike."""
        found = [plain_text(run.folder.name) for run in self.runs]
        return [
            name if found.count(name) == 1 else f"{name} ({place})"
            for place, name in enumerate(found, 1)
        ]

    @cached_property
    def _shared_settings(self) -> list[str]:
        """The settings that all outcomes have, but for where their images lie: a version may have
        added some."""
        names = [set(one.settings) for report in self.reports for one in report.ok]
        return sorted(set.intersection(*names) - {"images"}) if names else []

    def _cells(self, report: Report) -> dict[tuple[object, ...], Outcome]:
        """By what both runs know of them; without those that this does not tell apart."""
        found: dict[tuple[object, ...], list[Outcome]] = {}
        for one in report.ok:
            key = tuple(one.settings[name] for name in self._shared_settings)
            found.setdefault((*key, one.record.seed, one.record.repeat), []).append(one)
        return {key: some[0] for key, some in found.items() if len(some) == 1}

    @cached_property
    def matched(self) -> dict[int, list[tuple[Outcome, Outcome]]]:
        """By the place of the other run, the outcomes of equal settings and seed."""
        first = self._cells(self.reports[0])
        return {
            place: [(first[key], one) for key, one in self._cells(report).items() if key in first]
            for place, report in enumerate(self.reports[1:], 1)
        }

    def alone(self, place: int) -> tuple[int, int]:
        """Outcomes of the first run that the other has not, and the reverse."""
        both = len(self.matched[place])
        return len(self.reports[0].ok) - both, len(self.reports[place].ok) - both

    @cached_property
    def lines(self) -> list[Line]:
        """Of each quantity over all that is matched, then of each setting; and of contests."""
        found: dict[tuple[str, str], Line] = {}
        firsts = [one for pairs in self.matched.values() for one, _ in pairs]
        varied = telling([one.settings for one in firsts], (), {"images"}, first=MAIN_SETTINGS)

        for quantity, form in _QUANTITIES:
            meaningful = {
                id(one) for report in self.reports for one in distinct(report.ok, quantity)
            }
            for place, pairs in self.matched.items():
                for one, other in pairs:
                    pair = _pair(quantity, one, other)
                    if pair is None or not {id(one), id(other)} <= meaningful:
                        continue
                    for setting in (ALL, _words(one.settings, varied)):
                        line = found.setdefault(
                            (setting, quantity.name),
                            Line(setting, quantity.name, quantity.unit, form, quantity.margin),
                        )
                        line.pairs.setdefault(place, []).append(pair)
        lines = sorted(found.values(), key=lambda line: line.setting != ALL)
        return [*lines, *self.contests]

    @cached_property
    def contests(self) -> list[Line]:
        return list(self._contests())

    def _contests(self) -> Iterator[Line]:
        """The seconds and the quality of every contender, round by round."""
        by_run = [_by_name(entries(run.contests)) for run in self.runs]
        for key, one in by_run[0].items():
            there = {place: by[key] for place, by in enumerate(by_run) if place and key in by}
            setting = f"{one.contest}, {one.work}: {one.name}"
            for quantity, score, unit in (
                ("seconds", "seconds", None),
                (QUALITY[one.contest], QUALITY[one.contest], ""),
            ):
                pairs = {place: _rounds(one, other, score) for place, other in there.items()}
                if any(pairs.values()):
                    form = seconds if unit is None else number
                    yield Line(setting, quantity, unit, form, None, pairs)


def _by_name(found: Iterable[Entry]) -> dict[tuple[str, str, str], Entry]:
    """Without those that their names do not tell apart."""
    by_name: dict[tuple[str, str, str], list[Entry]] = {}
    for one in found:
        by_name.setdefault((one.contest, one.work, one.name), []).append(one)
    return {name: some[0] for name, some in by_name.items() if len(some) == 1}


def _pair(quantity: Quantity, one: Outcome, other: Outcome) -> Pair | None:
    """Replicates are the processes that were paid for it in both runs; of scores the seeds of
    training."""
    base, value = quantity.of(one), quantity.of(other)
    if base is None or value is None or (quantity.unit is None and not (base > 0 and value > 0)):
        return None
    if quantity.of_seeds:
        return Pair(base, value, frozenset({f"seed {one.record.seed}"}))
    units = [
        f"{run} {unit}"
        for run, outcome in (("first", one), ("other", other))
        for unit in {outcome.record.unit, *(paid_units(outcome) if quantity.shared else ())}
    ]
    return Pair(base, value, frozenset(units))


def _rounds(one: Entry, other: Entry, score: str) -> list[Pair]:
    base, found = ({r.seed: r.scores[score] for r in entry.records} for entry in (one, other))
    return [
        Pair(base[seed], found[seed], frozenset({f"round {seed}"}))
        for seed in sorted(base.keys() & found.keys())
    ]


def _words(settings: dict[str, Setting], names: Iterable[str]) -> str:
    words = [f"{name} = {value_words(settings.get(name))}" for name in names]
    return ", ".join(words) or "its setting"


# Whether ------------------------------------------------------------------------------------------


def differences(first: Loaded, other: Loaded) -> list[str]:
    """Why the figures of two runs are of different things."""
    one, another = first.environment, other.environment
    found = []
    if (one.device, one.device_name) != (another.device, another.device_name):
        found.append(f"their devices: {one.device_name} and {another.device_name}")
    if first.plan.images_sha256 != other.plan.images_sha256:
        found.append(f"their images: {first.plan.images} and {other.plan.images}")
    protocols = [
        sorted({str(record.settings.get("protocol")) for record in (*run.records, *run.contests)})
        for run in (first, other)
    ]
    if protocols[0] != protocols[1]:
        found.append("their protocols: " + " and ".join(", ".join(some) for some in protocols))
    return [plain_text(text) for text in found]


def check(runs: Sequence[Loaded]) -> None:
    """Raises UserError if a run is of something else than the first."""
    for other in runs[1:]:
        if why := differences(runs[0], other):
            raise UserError(
                f"{runs[0].folder} and {other.folder} differ in {'; in '.join(why)}: --across "
                "compares them all the same"
            )
