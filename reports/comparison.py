"""Runs side by side: what the same cases took and reached in each.

Each run is a visit to its machine of its own, and whatever differed between two visits moves all of
their pairs alike. So there are effects with their intervals here, and no verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from bench.apart import telling
from bench.errors import UserError
from bench.records import Setting
from bench.speed import QUALITY, Entry, entries
from bench.stats import Effect, Pair, paired_difference, paired_ratio
from bench.verdicts import NOT_MEASURED, TOO_FEW
from reports import page
from reports.blocks import Block, Cell, Listing, Section, Table
from reports.claims import judged_claims
from reports.context import (
    ALL_PAIRS_PSNR,
    EPS_LOSS,
    KID,
    PAIRED_PSNR,
    PER_IMAGE,
    TOTAL_SECONDS,
    Report,
)
from reports.effects import mean_cell
from reports.figures.rows import effect_row
from reports.load import Loaded, plain_text, without_home
from reports.pairs import MIN_SHARED_PART, Quantity, distinct
from reports.tables import MAIN_SETTINGS, Outcome
from reports.words import bytes_of, effect_words, interval_words, number, plural, seconds, signed

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
# More rows stay in the file beside the page.
MAX_ROWS = 1500
_ALL = "all that both have"


@dataclass(frozen=True)
class _Line:
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
        effect = paired_ratio if self.unit is None else paired_difference
        return effect(self.pairs.get(place, []))

    def means(self, place: int) -> list[Effect | None]:
        """Of the first run and of the other, over what both have."""
        pairs = self.pairs.get(place, [])
        if self.unit is None:
            return [
                paired_ratio(Pair(1.0, value, pair.executions) for value, pair in side)
                for side in _sides(pairs)
            ]
        return [
            paired_difference(Pair(0.0, value, pair.executions) for value, pair in side)
            for side in _sides(pairs)
        ]


def _sides(pairs: Sequence[Pair]) -> list[list[tuple[float, Pair]]]:
    return [[(pair.base, pair) for pair in pairs], [(pair.other, pair) for pair in pairs]]


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
    def lines(self) -> list[_Line]:
        """Of each quantity over all that is matched, then of each setting; and of contests."""
        found: dict[tuple[str, str], _Line] = {}
        firsts = [one for pairs in self.matched.values() for one, _ in pairs]
        varied = telling([one.settings for one in firsts], (), {"images"}, first=MAIN_SETTINGS)

        def add(place: int, pair: Pair, setting: str, like: _Line) -> None:
            line = found.setdefault(
                (setting, like.quantity),
                _Line(setting, like.quantity, like.unit, like.form, like.margin),
            )
            line.pairs.setdefault(place, []).append(pair)

        for quantity, form in _QUANTITIES:
            like = _Line("", quantity.name, quantity.unit, form, quantity.margin)
            meaningful = {
                id(one) for report in self.reports for one in distinct(report.ok, quantity)
            }
            for place, pairs in self.matched.items():
                for one, other in pairs:
                    pair = _pair(quantity, one, other)
                    if pair is not None and {id(one), id(other)} <= meaningful:
                        add(place, pair, _ALL, like)
                        add(place, pair, _words(one.settings, varied), like)
        lines = sorted(found.values(), key=lambda line: line.setting != _ALL)
        return [*lines, *self.contests]

    @cached_property
    def contests(self) -> list[_Line]:
        return list(self._contests())

    def _contests(self) -> Iterator[_Line]:
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
                    yield _Line(setting, quantity, unit, form, None, pairs)


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
        for unit in (_paid_units(outcome) if quantity.shared else {outcome.record.unit})
    ]
    return Pair(base, value, frozenset(units))


def _paid_units(outcome: Outcome) -> set[str]:
    """Of the bill; without those that made next to nothing of it."""
    seconds_of: dict[str, float] = {}
    for charge in outcome.bill:
        if charge.paid is not None:
            paid = seconds_of.get(charge.paid.unit, 0.0) + (charge.seconds or 0.0)
            seconds_of[charge.paid.unit] = paid
    least = MIN_SHARED_PART * sum(seconds_of.values())
    return {unit for unit, taken in seconds_of.items() if taken > least}


def _rounds(one: Entry, other: Entry, score: str) -> list[Pair]:
    base, found = ({r.seed: r.scores[score] for r in entry.records} for entry in (one, other))
    return [
        Pair(base[seed], found[seed], frozenset({f"round {seed}"}))
        for seed in sorted(base.keys() & found.keys())
    ]


def _words(settings: dict[str, Setting], names: Iterable[str]) -> str:
    return ", ".join(f"{name} = {_shown(settings.get(name))}" for name in names) or "its setting"


def _shown(value: Setting) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


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


# The page -----------------------------------------------------------------------------------------


def build(runs: Sequence[Loaded], command: str) -> dict[str, bytes]:
    """comparison.html and comparison.csv of two runs or more; the same runs give the same bytes."""
    found = Comparison(runs)
    sections = [_effects(found), _settings(found), _claims(found), _surroundings(found, command)]
    facts = [f"{name}: {run.plan.title}" for name, run in zip(found.names, runs, strict=True)]
    warned = [
        f"{found.names[0]} and {name} differ in {'; in '.join(why)}"
        for name, run in zip(found.names[1:], runs[1:], strict=True)
        if (why := differences(runs[0], run))
    ]
    title = f"{' and '.join(found.names[1:])} beside {found.names[0]}"
    warned += [
        f"The machine was busy with something else during {len(run.disturbed)} of "
        f"{plural(run.num_watched, 'unit')} of {name}, whose times are no measurement."
        for name, run in zip(found.names, runs, strict=True)
        if run.disturbed
    ]
    html = page.render(title, "runs side by side", facts, sections, incomplete=warned)
    csv = page.to_csv(_frame(found))
    return {"comparison.html": html.encode(), "comparison.csv": csv.encode()}


def _frame(found: Comparison) -> pd.DataFrame:
    """A row a quantity, setting and other run; a ratio is other / first."""
    rows = []
    for line in found.lines:
        for place in line.pairs:
            effect = line.effect(place)
            assert effect is not None  # a line has pairs
            means = line.means(place)
            rows.append(
                [
                    found.names[0], found.names[place], line.setting, line.quantity,
                    "ratio" if effect.is_ratio else "difference", effect.mean, effect.low,
                    effect.high, effect.pairs, effect.n, *(one and one.mean for one in means),
                ]
            )  # fmt: skip
    columns = ["first", "other", "setting", "quantity", "kind", "effect", "low", "high", "pairs",
               "replicates", "mean_of_first", "mean_of_other"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _effects(found: Comparison) -> Section:
    """Each quantity, over all that both runs have."""
    lines = [line for line in found.lines if line.setting == _ALL]
    said = [_counted(found, place) for place in range(1, len(found.runs))]
    main = next((line for line in lines if line.quantity == PER_IMAGE.name), None)
    finding = "; ".join(said) + "."
    effect = main and main.effect(1)
    if effect:
        finding = (
            f"{PER_IMAGE.name.capitalize()}, {found.names[1]} against {found.names[0]}: "
            f"{effect_words(effect)}. {finding}"
        )
    blocks: list[Block] = [_table(found, lines, _CAPTION)] if lines else []
    return Section("effects", "What changed", finding, blocks)


def _counted(found: Comparison, place: int) -> str:
    """What a run shares with the first, and what only one of them has."""
    first, name = found.names[0], found.names[place]
    contests = len({line.setting for line in found.contests if place in line.pairs})
    shared = [
        plural(len(found.matched[place]), "outcome of equal settings and seed",
               "outcomes of equal settings and seed"),
        *([plural(contests, "equal contender")] if contests else []),
    ]  # fmt: skip
    if not found.matched[place] and not contests:
        shared = ["nothing in common, neither outcomes of equal settings and seed nor contenders"]
    text = f"{name}: {' and '.join(shared)}"
    only = found.alone(place)
    if any(only):
        text += f"; {only[0]} only in {first}, {only[1]} only in {name}"
    lost = [
        f"{plural(count, 'outcome')} failed or missing in {of}"
        for of, run in ((first, found.runs[0]), (name, found.runs[place]))
        if (count := _lost(run))
    ]
    return "; ".join([text, *lost])


def _lost(run: Loaded) -> int:
    failed = sum(one.status != "ok" for one in (*run.records, *run.contests))
    return failed + len(run.missing)


_CAPTION = (
    "Change: the other run against the first, pair by pair of equal settings and seed; a ratio as "
    "a change in per cent, of scores the difference; the interval is over processes, of scores "
    "over seeds of training. It does not hold what differed between the two visits to the "
    "machine, which moves all pairs alike, so no word stands beside it. Grey band: what counts as "
    "equal."
)


def _settings(found: Comparison) -> Section:
    lines = [line for line in found.lines if line.setting != _ALL]
    if not lines:
        return Section("settings", "By setting", "The runs have no setting in common.")
    drawn = lines[:MAX_ROWS]
    finding = f"{plural(len(lines), 'quantity of a setting', 'quantities of settings')}."
    if len(drawn) < len(lines):
        finding += f" The first {len(drawn)} are here, all in comparison.csv."
    return Section("settings", "By setting", finding, [_table(found, drawn, "", filterable=True)])


def _table(
    found: Comparison, lines: Sequence[_Line], caption: str, *, filterable: bool = False
) -> Table:
    first, *others = found.names
    columns = ["setting", "quantity"]
    for name in others:
        suffix = f", {name}" if len(others) > 1 else ""
        columns += [first, name, f"effect{suffix}", f"change{suffix}", f"pairs{suffix}"]
    rows = [
        [
            Cell(line.setting, line.setting),
            Cell(line.quantity, line.quantity),
            *(cell for place in range(1, len(found.names)) for cell in _change(line, place)),
        ]
        for line in lines
    ]
    return Table(columns, rows, caption, filterable=filterable)


def _change(line: _Line, place: int) -> list[Cell]:
    effect, unit = line.effect(place), line.unit or ""
    if effect is None:
        return [Cell("–", None)] * 5
    words = f"{signed(effect, effect.mean, unit)} ({interval_words(effect, unit)})"
    drawn = effect_row(effect, line.margin, None, unit, f"{line.quantity}: {words}")
    return [
        *(mean_cell(mean, line.form) for mean in line.means(place)),
        Cell("", effect.distance, svg=drawn),
        Cell(words, effect.mean),
        Cell(str(effect.pairs), effect.pairs),
    ]


def _claims(found: Comparison) -> Section:
    judged = [judged_claims(report) for report in found.reports]
    rows = [
        [
            Cell(f"{one.claim.number}. {one.claim.text}", one.claim.number),
            Cell(one.protocol, one.protocol),
            *(Cell(each.word, each.word) for each in of_claim),
        ]
        for of_claim in zip(*judged, strict=True)
        if any(each.measured is not None for each in of_claim)
        for one in of_claim[:1]
    ]
    title = "Verdicts of each run"
    if not rows:
        return Section("claims", title, "None of the eight claims was measured in these runs.")
    # Whether one was measured at all is no other word.
    other = sum(len({cell.text for cell in row[2:]} - {NOT_MEASURED, TOO_FEW}) > 1 for row in rows)
    finding = (
        f"Of {plural(len(rows), 'measured claim')} {other} "
        f"{'has' if other == 1 else 'have'} another word in another run."
    )
    return Section("claims", title, finding, [Table(["claim", "protocol", *found.names], rows)])


def _surroundings(found: Comparison, command: str) -> Section:
    """The facts of machine and code that differ."""
    facts = [_facts(run) for run in found.runs]
    names = list(dict.fromkeys(name for some in facts for name in some))
    rows = [
        [Cell(name, name), *(Cell(some.get(name, "–"), some.get(name)) for some in facts)]
        for name in names
        if len({some.get(name) for some in facts}) > 1
    ]
    verb = "differs" if len(rows) == 1 else "differ"
    finding = f"{plural(len(rows), 'fact')} of machine and code {verb}."
    blocks: list[Block] = [Table(["what", *found.names], rows)] if rows else []
    return Section(
        "surroundings", "Machine and code", finding, [*blocks, Listing([command], "Command")]
    )


def _facts(run: Loaded) -> dict[str, str]:
    told = run.environment.model_dump(mode="json", exclude={"peaks", "schema_version"})
    seeds = {one.seed for one in (*run.records, *run.contests)}
    found = {
        "begun": run.plan.created,
        "suite": run.plan.suite,
        "images": run.plan.images,
        "seeds": ", ".join(map(str, sorted(seeds))),
    }
    for name, value in told.items():
        some = value if isinstance(value, dict) else {"": value}
        found |= {
            f"{name} {inner}".strip(): one if isinstance(one, str) else json.dumps(one)
            for inner, one in some.items()
        }
    return {name: without_home(plain_text(value)) for name, value in found.items()}
