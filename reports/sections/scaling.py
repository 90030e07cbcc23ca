"""Seconds and loss along the axes of the grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.stats import Effect, exponents, fitted_exponent, geometric_mean
from reports.blocks import Cell, Figure, Section, Table, raw_table
from reports.context import COSINE, EPS_LOSS, LINEAR, LOSS_LEVELS, PER_IMAGE, TRAIN_SECONDS, Report
from reports.effects import VERDICT_COLUMNS, missing, verdict_cells
from reports.figures import quality as plots
from reports.figures import svg
from reports.figures.plots import Line
from reports.figures.quality import ScalingPanel
from reports.pairs import Key, Quantity, Side, run_cell
from reports.tables import Outcome
from reports.words import interval_words, judged, plural, three, times

# Of more levels the first and the last are held against each other, whether or not both occur.
MAX_LEVELS = 6
# More lines in a panel are a blur.
MAX_LINES = 60


@dataclass(frozen=True)
class _Axis:
    """An axis of the grid, and its levels from the lowest to the highest.

    ends: the levels farthest apart that any pair has
    """

    factor: str
    label: str
    levels: Sequence[float]
    ends: tuple[float, float]

    def effect(self, report: Report, quantity: Quantity) -> Effect | None:
        """The higher end over the lower."""
        return report.effect(quantity, *self.sides)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Its ends."""
        return _sides(self.factor, self.ends)


def _sides(factor: str, ends: tuple[float, float]) -> tuple[Side, Side]:
    return {factor: ends[0]}, {factor: ends[1]}


def _axes(report: Report) -> list[_Axis]:
    named = (("num_images", "images"), ("epochs", "epochs"), ("num_train_timesteps", "timesteps"))
    axes = []
    for factor, label in named:
        levels = sorted({outcome.number(factor) for outcome in report.generated})
        if len(levels) > 1:
            axes.append(_Axis(factor, label, levels, _ends(report, factor, levels)))
    return axes


def _ends(report: Report, factor: str, levels: Sequence[float]) -> tuple[float, float]:
    """A grid need not have its first and its last level in one setting."""
    whole = (levels[0], levels[-1])
    if len(levels) > MAX_LEVELS:
        return whole
    pairs = sorted(itertools.combinations(levels, 2), key=lambda pair: pair[0] / pair[1])
    found = (pair for pair in pairs if report.groups(TRAIN_SECONDS, *_sides(factor, pair)))
    return next(found, whole)


def scaling(report: Report) -> Section:
    """Seconds and loss against each axis of the grid."""
    title, axes = "Scaling", _axes(report)
    if not axes:
        return Section("scaling", title, missing(report, "axis with more than one level"))
    panels = [
        _panel(report, axis, quantity) for quantity in (TRAIN_SECONDS, EPS_LOSS) for axis in axes
    ]
    figure = Figure(
        svg.render(
            "scaling",
            "Training seconds and held-out loss along the axes of the grid",
            lambda width: plots.scaling(panels, len(axes), width),
            wide=svg.BROAD,
        ),
        f"A line a cell of the grid and seed, where there are more than {MAX_LINES} their means "
        "over seeds, and where these are more, over all settings of an arm: round marks images, "
        "square marks DIP; both axes logarithmic. "
        "Above each panel the exponent of a power law where there are three levels or more, else "
        "the ratio of the last level to the first, mean over pairs. The loss is the mean over "
        f"{LOSS_LEVELS}, which all schedules have, so schedules compare.",
        raw_table(
            ["quantity", "against", "arm", "at", "value"],
            [
                [panel.ylabel, panel.xlabel, line.arm, x, y]
                for panel in panels
                for line in panel.lines
                for x, y in zip(line.x, line.y, strict=True)
            ],
        ),
        broad=True,
    )
    return Section("scaling", title, _finding(report, axes), [figure, _effects(report, axes)])


def _finding(report: Report, axes: Sequence[_Axis]) -> str:
    said = [
        f"{axis.ends[1] / axis.ends[0]:.3g}× the {axis.label}, training seconds: {judged(verdict)}"
        for axis in axes
        if (verdict := report.judge(TRAIN_SECONDS, *axis.sides)).effect is not None
    ]
    return f"{'; '.join(said)}." if said else missing(report, "pair along an axis")


def _panel(report: Report, axis: _Axis, quantity: Quantity) -> ScalingPanel:
    """A line a setting and seed; of more than MAX_LINES the means over seeds, and of still more
    those of each arm."""
    of_seeds = _lines(report, axis, quantity)
    drawn = [line for lines in of_seeds.values() for line in lines]
    note = _note(report, axis, quantity, drawn)
    if len(drawn) > MAX_LINES:
        drawn = [mean for lines in of_seeds.values() for mean in _means(lines)]
    if len(drawn) > MAX_LINES:
        arms = dict.fromkeys(line.arm for line in drawn)
        drawn = [
            mean for arm in arms for mean in _means([line for line in drawn if line.arm == arm])
        ]
    return ScalingPanel(axis.label, quantity.name, drawn, note)


def _lines(report: Report, axis: _Axis, quantity: Quantity) -> dict[Key, list[Line]]:
    """Along the axis, by setting, of each seed a line of its own."""
    # The setting of a line -> what all its points are after, in epochs -> its points.
    lines: dict[Key, dict[float, dict[float, float]]] = {}
    firsts: dict[Key, Outcome] = {}
    for outcome in report.distinct(quantity):
        measured = quantity.of(outcome)
        if measured is not None and measured > 0 and outcome.record.repeat == 1:
            key = run_cell(outcome, axis.factor)
            epochs = 0.0 if axis.factor == "epochs" else outcome.number("epochs")
            points = lines.setdefault(key, {}).setdefault(epochs, {})
            points.setdefault(outcome.number(axis.factor), measured)
            firsts[key] = outcome
    found: dict[Key, list[Line]] = {}
    for key, milestones in lines.items():
        # The milestone that most of the runs reached, of those the last.
        _, points = max(milestones.items(), key=lambda item: (len(item[1]), item[0]))
        if len(points) > 1:
            first = firsts[key]
            line = Line(
                str(first.settings["train_on"]), sorted(points), [points[x] for x in sorted(points)]
            )
            found.setdefault(run_cell(first, axis.factor, "seed"), []).append(line)
    return found


def _means(lines: Sequence[Line]) -> list[Line]:
    """The geometric means of those that have the same points, a line for each such set."""
    return [
        Line(
            some[0].arm,
            x,
            [geometric_mean(values).mean for values in zip(*(one.y for one in some), strict=True)],
        )
        for x, some in _by_points(lines).items()
    ]


def _by_points(lines: Iterable[Line]) -> dict[tuple[float, ...], list[Line]]:
    """Those over the same x."""
    found: dict[tuple[float, ...], list[Line]] = {}
    for line in lines:
        found.setdefault(tuple(line.x), []).append(line)
    return found


def _note(report: Report, axis: _Axis, quantity: Quantity, drawn: Sequence[Line]) -> str:
    if len(axis.levels) > 2:
        if len(drawn) == 1 and (fit := fitted_exponent(drawn[0].x, drawn[0].y)):
            return f"exponent {three(fit.mean)}, {interval_words(fit)}"
        slopes = [
            slope
            for points, some in _by_points(drawn).items()
            for slope in exponents(points, [line.y for line in some])
        ]
        if slopes:
            return f"exponent {three(sum(slopes) / len(slopes))}, mean of {len(slopes)}"
    effect = axis.effect(report, quantity)
    return f"{times(effect.mean)}, {plural(effect.pairs, 'pair')}" if effect else "no pair"


def _effects(report: Report, axes: Sequence[_Axis]) -> Table:
    """Every factor of the grid on the two quantities that a pair can show."""
    factors = [(f"{axis.label}: {axis.ends[1]:g} / {axis.ends[0]:g}", axis) for axis in axes]
    rows = [
        _effect_row(report, name, quantity, axis.sides)
        for name, axis in factors
        for quantity in (PER_IMAGE, EPS_LOSS)
    ]
    rows += [
        _effect_row(report, "schedule: squaredcos / linear", quantity, (LINEAR, COSINE))
        for quantity in (PER_IMAGE, EPS_LOSS)
    ]
    return Table(
        ["factor", "of", *VERDICT_COLUMNS],
        rows,
        "Effects over all pairs that differ in that factor alone; descriptive, no correction for "
        "their number. The replicate of a time is the process, of a loss the seed of training.",
        stacked=True,
    )


def _effect_row(report: Report, name: str, quantity: Quantity, sides: Sequence[Side]) -> list[Cell]:
    verdict = report.judge(quantity, *sides)
    return [
        Cell(name, name),
        Cell(quantity.name, quantity.name),
        *verdict_cells(verdict, quantity),
    ]
