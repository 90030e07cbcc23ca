"""How long each setting of a training takes until its nets are as good as others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import Setting
from bench.stats import Effect
from reports.blocks import Block, Cell, Figure, Section, Table, raw_table
from reports.context import EPS_LOSS, KID, Report
from reports.effects import mean_cell, mean_of, missing, seeds_of
from reports.figures import svg
from reports.figures.board import BoardLine, board_lines
from reports.pairs import Group, Quantity
from reports.sections.loss import NET_SECONDS
from reports.tables import OUTCOME_SETTINGS, Outcome
from reports.words import number, seconds

SLUG, TITLE = "time-to-quality", "Time to quality"
MAX_LINES = 8
_SCORES = (EPS_LOSS, KID)


@dataclass(frozen=True)
class Entry:
    """A setting of a training: its outcomes after each number of epochs, one a seed.

    differences: its settings that are not those of most, by name
    """

    differences: dict[str, Setting]
    milestones: dict[float, Group]

    @property
    def name(self) -> str:
        words = [f"{name} = {_shown(value)}" for name, value in self.differences.items()]
        return ", ".join(words) or "as most"

    @property
    def arm(self) -> str | None:
        """What it is trained on, if it differs in nothing else."""
        first, *_ = next(iter(self.milestones.values()))
        return str(first.settings["train_on"]) if self.differences.keys() <= {"train_on"} else None

    def points(self, score: Quantity) -> list[tuple[Effect, Effect]]:
        """Seconds to the net and the score, over seeds, after each number of epochs."""
        found = [
            (mean_of(group, NET_SECONDS), mean_of(group, score))
            for _, group in sorted(self.milestones.items())
        ]
        return [(taken, reached) for taken, reached in found if taken and reached]

    def best(self, score: Quantity) -> Effect | None:
        reached = [one for _, one in self.points(score)]
        return min(reached, key=lambda one: one.mean, default=None)

    def seconds_to(self, score: Quantity, target: float) -> Effect | None:
        """To the first milestone after which the mean over seeds is that low."""
        return next((taken for taken, one in self.points(score) if one.mean <= target), None)


def board(report: Report) -> Section:
    """An entry a row, the quickest first, and its scores against the seconds that they took."""
    entries = entries_of(report.generated)
    targets = {score.name: target_of(entries, score) for score in _SCORES}
    loss_target = targets[EPS_LOSS.name]
    if len(entries) < 2 or loss_target is None:
        text = missing(report, "settings of a training with samples for KID", SLUG)
        return Section(SLUG, TITLE, text)
    entries.sort(key=lambda one: _mean(one.seconds_to(EPS_LOSS, loss_target)) or math.inf)
    blocks: list[Block] = [_table(entries, targets)]
    drawn = entries[:MAX_LINES]
    blocks += [
        Figure(
            svg.render(
                f"board-{place}",
                f"{score.name} against seconds",
                _drawing(drawn, score, target),
            ),
            f"A mark a milestone, the mean over {seeds_of(_groups(drawn))}, its bar the 95 % "
            "interval where there are three seeds or more; dashed: what half of the entries "
            "reach. Left and down is better."
            + (f" The first {MAX_LINES} of {len(entries)}." if len(entries) > MAX_LINES else ""),
            _data(entries, score),
        )
        for place, score in enumerate(_SCORES)
        if (target := targets[score.name]) is not None
    ]
    return Section(SLUG, TITLE, _finding(entries, loss_target), blocks)


def entries_of(outcomes: Sequence[Outcome]) -> list[Entry]:
    """Of the trainings with a loss, a KID and a complete bill, in no order."""
    found: dict[str, dict[float, dict[int, Outcome]]] = {}
    settings: dict[str, dict[str, Setting]] = {}
    for one in outcomes:
        if one.record.repeat != 1 or any(q.of(one) is None for q in (*_SCORES, NET_SECONDS)):
            continue
        of_run = {k: v for k, v in one.settings.items() if k not in OUTCOME_SETTINGS}
        key = repr(sorted(of_run.items()))
        settings[key] = of_run
        seeds = found.setdefault(key, {}).setdefault(one.number("epochs"), {})
        seeds.setdefault(one.record.seed, one)
    names = sorted({name for of_run in settings.values() for name in of_run})
    usual = {
        name: statistics.mode(repr(of_run.get(name)) for of_run in settings.values())
        for name in names
    }
    return [
        Entry(
            {name: of_run.get(name) for name in names if repr(of_run.get(name)) != usual[name]},
            {epochs: tuple(seeds.values()) for epochs, seeds in found[key].items()},
        )
        for key, of_run in settings.items()
    ]


def target_of(entries: Sequence[Entry], score: Quantity) -> float | None:
    """What at least half of the entries reach."""
    best = [_mean(one.best(score)) for one in entries]
    reached = [one for one in best if one is not None]
    return statistics.median_high(reached) if reached else None


def _table(entries: Sequence[Entry], targets: dict[str, float | None]) -> Table:
    rows = []
    for one in entries:
        cells = [Cell(one.name, one.name)]
        for score in _SCORES:
            target = targets[score.name]
            taken = None if target is None else one.seconds_to(score, target)
            cells += [
                Cell("not reached", None) if taken is None else mean_cell(taken, seconds),
                mean_cell(one.best(score)),
            ]
        epochs = sorted(one.milestones)
        cells.append(Cell(", ".join(f"{epoch:g}" for epoch in epochs), epochs[-1]))
        cells.append(Cell(seeds_of(one.milestones.values()), len(one.milestones[epochs[0]])))
        rows.append(cells)
    columns = ["entry"]
    for score in _SCORES:
        columns += [f"to {score.name} {number(targets[score.name])}", f"best {score.name}"]
    return Table(
        [*columns, "epochs", "seeds"],
        rows,
        "Seconds are the mean over seeds to the first milestone at which the mean score is that "
        "low, with the priors that the training rests on, without sampling and scoring; in "
        "parentheses 95 % intervals. An entry is named by what is not as in most others. Seeds of "
        "few runs on one machine: descriptive, no verdict.",
    )


def _finding(entries: Sequence[Entry], target: float) -> str:
    first, *others = entries
    taken = first.seconds_to(EPS_LOSS, target)
    next_ = others[0].seconds_to(EPS_LOSS, target)
    if taken is None:
        return f"No entry reaches a held-out loss of {number(target)}."
    after = f"; next is {others[0].name} in {seconds(next_.mean)}" if next_ else ""
    return (
        f"{first.name} takes {seconds(taken.mean)} to a held-out loss of {number(target)}, which "
        f"half of the {len(entries)} entries reach{after}."
    )


def _drawing(entries: Sequence[Entry], score: Quantity, target: float) -> svg.Draw:
    lines = [BoardLine(one.name, one.arm, one.points(score)) for one in entries]
    return lambda width: board_lines(lines, score.name, target, width)


def _data(entries: Sequence[Entry], score: Quantity) -> Table:
    rows: list[list[str | float | None]] = []
    for one in entries:
        for taken, reached in one.points(score):
            ends = [
                one for effect in (taken, reached) for one in (effect.mean, effect.low, effect.high)
            ]
            rows.append([one.name, *ends])
    return raw_table(["entry", "seconds", "low", "high", score.name, "low", "high"], rows)


def _groups(entries: Sequence[Entry]) -> list[Group]:
    return [group for one in entries for group in one.milestones.values()]


def _mean(effect: Effect | None) -> float | None:
    return None if effect is None else effect.mean


def _shown(value: Setting) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
