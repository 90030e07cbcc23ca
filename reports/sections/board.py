"""How long each setting of a training takes until its nets are as good as others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from bench.apart import value_words
from bench.records import Setting
from bench.stats import Effect
from bench.verdicts import MIN_SEEDS
from reports.blocks import Block, Cell, Figure, Section, Table, Text, raw_table
from reports.context import EPS_LOSS, KID, Report
from reports.effects import mean_cell, mean_of, missing
from reports.figures import svg
from reports.figures.board import BoardLine, board_lines
from reports.pairs import Group, Key, Quantity, cell
from reports.tables import NEEDED_SETTINGS, NOISE_AUTOCORRELATION, OUTCOME_SETTINGS, Outcome
from reports.words import number, plural, seconds

SLUG, TITLE = "time-to-quality", "Time to quality"
MAX_LINES, MAX_LABEL = 8, 60
# Entries with a row.
MAX_ROWS = 150
TO_NET = Quantity("seconds to the net", lambda one: one.cold_net_seconds, shared=True)
# Scores at other ones of these are of other images, or have another floor.
_WORK = ("images", "image_size", "num_held_out")


@dataclass(frozen=True)
class Entry:
    """A setting: what was asked of it after each number of epochs, one outcome a seed.

    differences: its settings that are not those of most, by name
    """

    differences: dict[str, Setting]
    milestones: dict[float, Group]
    _points: dict[Quantity, list[tuple[Effect, Effect]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        words = [f"{name} = {value_words(value)}" for name, value in self.differences.items()]
        return ", ".join(words) or "as most"

    @property
    def arm(self) -> str | None:
        """What it is trained on, if it differs in nothing else."""
        first, *_ = next(iter(self.milestones.values()))
        return str(first.settings["train_on"]) if self.differences.keys() <= {"train_on"} else None

    def points(self, score: Quantity) -> list[tuple[Effect, Effect]]:
        """Seconds to the net and the score, over seeds, after each number of epochs.

        Without those of too few seeds, or at which one failed or has samples that look like noise:
        the mean of the others would flatter it.
        """
        if score not in self._points:  # asked for again and again
            self._points[score] = self._measured(score)
        return self._points[score]

    def _measured(self, score: Quantity) -> list[tuple[Effect, Effect]]:
        found = []
        for _, group in sorted(self.milestones.items()):
            taken, reached = mean_of(group, TO_NET), mean_of(group, score)
            is_noise = score.of_samples and any(one.looks_like_noise for one in group)
            if taken and reached and len(group) >= MIN_SEEDS and not is_noise:
                found.append((taken, reached))
        return found

    def best(self, score: Quantity) -> Effect | None:
        reached = [one for _, one in self.points(score)]
        return min(reached, key=lambda one: one.mean, default=None)

    def seconds_to(self, score: Quantity, target: float) -> Effect | None:
        """To the first milestone after which the mean over seeds is that low."""
        good = target * (1 + 1e-9)  # a mean that is the target may be off by its last bit
        return next((taken for taken, one in self.points(score) if one.mean <= good), None)


@dataclass(frozen=True)
class Board:
    """Entries, the quickest first, and a round score that the better half of them reach, but two
    at least: the best alone would be the target of its own winner."""

    score: Quantity
    entries: Sequence[Entry]
    target: float

    @property
    def reach(self) -> list[Entry]:
        """Those that reach the target."""
        return [one for one in self.entries if one.seconds_to(self.score, self.target)]


def board(report: Report) -> Section:
    """For the held-out loss and for KID: an entry a row, and the score against seconds."""
    boards = [found for score in (EPS_LOSS, KID) if (found := board_of(report.found, score))]
    if not boards:
        text = missing(report, f"two settings of a training with {MIN_SEEDS} seeds each", SLUG)
        return Section(SLUG, TITLE, text)
    blocks = [
        block
        for place, one in enumerate(boards)
        for block in _blocks(place, one, report.run.disturbed)
    ]
    if all(one.score is not KID for one in boards):
        blocks += map(Text, _noise_words(report.generated))
    return Section(SLUG, TITLE, _finding(boards[0]), blocks)


def board_of(outcomes: Iterable[Outcome], score: Quantity) -> Board | None:
    """None without two entries that have a point."""
    entries = [one for one in entries_of(outcomes, score) if one.best(score)]
    if len(entries) < 2:
        return None
    bests = sorted(best.mean for one in entries if (best := one.best(score)))
    target = _round_up(bests[max(1, (len(bests) - 1) // 2)])

    def place(one: Entry) -> tuple[float, float]:
        taken, best = one.seconds_to(score, target), one.best(score)
        return (taken.mean if taken else math.inf, best.mean if best else math.inf)

    return Board(score, sorted(entries, key=place), target)


def _round_up(target: float) -> float:
    """To two digits: what differs by less is as good."""
    digits = 1 - math.floor(math.log10(abs(target))) if target else 0
    scale = 10.0**digits
    return math.ceil(round(target * scale, 6)) / scale


def entries_of(outcomes: Iterable[Outcome], score: Quantity) -> list[Entry]:
    """Those of the work that most of them do; a score of samples depends on how they are made."""
    apart = {"epochs"} if score.of_samples else OUTCOME_SETTINGS
    work = (*_WORK, "num_samples") if score.of_samples else _WORK
    found: dict[Key, dict[float, dict[int, Outcome]]] = {}
    settings: dict[Key, dict[str, Setting]] = {}
    sets: dict[Key, list[Key]] = {}
    for one in outcomes:
        asked = one.settings
        if not asked.keys() >= NEEDED_SETTINGS or asked["task"] != "generate":
            continue
        if one.record.repeat == 1:
            key = cell(one, "seed", *apart)
            if key not in found:
                settings[key] = {name: value for name, value in asked.items() if name not in apart}
                sets.setdefault(tuple(map(asked.get, work)), []).append(key)
            seeds = found.setdefault(key, {}).setdefault(one.number("epochs"), {})
            seeds.setdefault(one.record.seed, one)
    keys = max(sets.values(), key=len, default=[])
    names = sorted({name for key in keys for name in settings[key]})
    usual = {name: _usual([repr(settings[key].get(name)) for key in keys]) for name in names}
    return [
        Entry(
            {
                name: settings[key].get(name)
                for name in names
                if repr(settings[key].get(name)) != usual[name]
            },
            {epochs: tuple(seeds.values()) for epochs, seeds in found[key].items()},
        )
        for key in keys
    ]


def _usual(values: Sequence[str]) -> str | None:
    """What more than half of them are."""
    [(most, count)] = Counter(values).most_common(1)
    return most if 2 * count > len(values) else None


def _noise_words(found: Iterable[Outcome]) -> list[str]:
    """That no board of KID is to be had, where samples are the reason."""
    scored = [one for one in found if KID.of(one) is not None]
    noise = sum(one.looks_like_noise for one in scored)
    if not noise:
        return []
    return [
        f"No board of KID: of {plural(len(scored), 'set')} of samples {noise} look like noise "
        f"(lag-1 autocorrelation below {NOISE_AUTOCORRELATION}), and what is left has no two "
        "entries."
    ]


def _blocks(place: int, found: Board, disturbed: Container[str]) -> list[Block]:
    score, drawn = found.score, found.entries[:MAX_LINES]
    lines = [
        BoardLine(_label(place, one), one.arm, one.points(score))
        for place, one in enumerate(drawn, 1)
    ]
    more = len(found.entries) - len(drawn)
    return [
        _table(found, disturbed),
        Figure(
            svg.render(
                f"board-{place}",
                f"{score.name} against seconds",
                lambda width: board_lines(lines, score.name, found.target, width),
            ),
            "A mark a milestone, the mean over seeds, its bar the 95 % interval; dashed: "
            f"{_target_words(found)}. Left and down is better."
            + (f" {more} more are in the table." if more else ""),
            _data(found),
        ),
    ]


def _label(place: int, one: Entry) -> str:
    """Its name; of one that would leave no room for the figure the beginning, and its row."""
    name = one.name
    return name if len(name) <= MAX_LABEL else f"{place}. {name[: MAX_LABEL - 5]} …"


def _target_words(found: Board) -> str:
    return (
        f"a {found.score.name} of {number(found.target)}, which {len(found.reach)} of "
        f"{len(found.entries)} entries reach"
    )


def _table(found: Board, disturbed: Container[str]) -> Table:
    score = found.score
    rows = []
    for one in found.entries[:MAX_ROWS]:
        taken = one.seconds_to(score, found.target)
        epochs = sorted(one.milestones)
        rows.append(
            [
                Cell(one.name, one.name),
                Cell("not reached", None) if taken is None else mean_cell(taken, seconds),
                mean_cell(one.best(score)),
                Cell(", ".join(f"{epoch:g}" for epoch in epochs), epochs[-1]),
                _seeds_cell(one, disturbed),
            ]
        )
    return Table(
        ["entry", f"to {score.name} {number(found.target)}", f"best {score.name}", "epochs",
         "seeds"],
        rows,
        "Seconds: the mean over seeds to the first milestone at which the mean score is that low, "
        "with the priors that the training rests on and what compiling took, without sampling and "
        "scoring; in parentheses 95 % intervals. An entry is named by what is not as in most "
        f"others. A milestone counts with {MIN_SEEDS} seeds, none of which failed"
        + (" or has samples that look like noise" if score.of_samples else "")
        + ". Runs on one machine: descriptive, no verdict."
        + _left_words(found),
    )  # fmt: skip


def _left_words(found: Board) -> str:
    """What of too many entries has no row."""
    left = found.entries[MAX_ROWS:]
    if not left:
        return ""
    bests = sorted(best.mean for one in left if (best := one.best(found.score)))
    return (
        f" The quickest {MAX_ROWS} of {len(found.entries)}; the best {found.score.name} of the "
        f"others is {number(bests[0])} to {number(bests[-1])}."
    )


def _seeds_cell(one: Entry, disturbed: Container[str]) -> Cell:
    """Of all milestones the fewest; how many of all its outcomes failed, and how many of its runs
    a busy machine disturbed."""
    count = min(len(group) for group in one.milestones.values())
    failed = sum(not outcome.ok for group in one.milestones.values() for outcome in group)
    units = {outcome.record.unit for group in one.milestones.values() for outcome in group}
    busy = sum(unit in disturbed for unit in units)
    said = {"failed": failed, "disturbed": busy}
    words = [f"{number} {what}" for what, number in said.items() if number]
    return Cell(", ".join([plural(count, "seed"), *words]), count)


def _finding(found: Board) -> str:
    first, *others = found.entries
    taken, next_ = (one.seconds_to(found.score, found.target) for one in (first, others[0]))
    assert taken is not None  # the target is the best of one of them
    after = f"; next is {others[0].name} in {seconds(next_.mean)}" if next_ else ""
    return f"{first.name} takes {seconds(taken.mean)} to {_target_words(found)}{after}."


def _data(found: Board) -> Table:
    rows: list[list[str | float | None]] = []
    for one in found.entries[:MAX_ROWS]:
        for taken, reached in one.points(found.score):
            ends = [taken.mean, taken.low, taken.high, reached.mean, reached.low, reached.high]
            rows.append([one.name, *ends])
    return raw_table(["entry", "seconds", "low", "high", found.score.name, "low", "high"], rows)
