"""The figures on time, each from plain values; a figure is drawn for a width in inches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.stats import Effect
from reports.figures.svg import (
    INK,
    MUTED,
    PAGE,
    STAGE_COLOURS,
    arm_colour,
    arm_mark,
    is_narrow,
    new_figure,
    ratio_axis,
    spread,
)
from reports.words import seconds, three, times

# Behind a label that a line may cross.
_HALO = {"facecolor": PAGE, "edgecolor": "none", "pad": 1.0}


# Of more pairs a line of a forest plot has a bar over nine tenths of them in place of dots.
MAX_DOTS = 200


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot: single pairs as dots, their effect with its interval.

    published: drawn hollow
    """

    label: str
    dots: Sequence[float]
    effect: Effect | None = None
    arm: str = ""
    published: bool = False


def forest(rows: Sequence[ForestRow], xlabel: str, width: float) -> Figure:
    """Ratios on a log axis around 1; the figures stand at the right."""
    narrow = is_narrow(width)
    pitch = 0.44 if narrow else 0.3
    figure, (ax,) = new_figure(width, 0.62 + pitch * len(rows))
    shown = [ratio for row in rows for ratio in _extent(row)]
    ratio_axis(ax, shown, room=6 if narrow else 9)
    for place, row in enumerate(rows):
        _forest_row(ax, row, -place)
        ax.annotate(
            _forest_text(row),
            (1, -place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    ax.set_ylim(-len(rows) + 0.45, 0.75 if narrow else 0.55)
    row_labels(ax, [row.label for row in rows], narrow=narrow, above=10)
    ax.set_xlabel(xlabel)
    return figure


def _extent(row: ForestRow) -> list[float]:
    ends = (row.effect.low, row.effect.mean, row.effect.high) if row.effect else ()
    dots = row.dots
    if len(dots) > MAX_DOTS:
        dots = np.quantile(dots, (0.05, 0.95)).tolist()
    return [*dots, *(end for end in ends if end is not None)]


def _forest_row(ax: Axes, row: ForestRow, y: float) -> None:
    colour = arm_colour(row.arm)
    if row.effect and row.effect.low is not None and row.effect.high is not None:
        ax.plot([row.effect.low, row.effect.high], [y, y], color=colour, linewidth=2, zorder=2)
    size = 4 if row.effect and len(row.dots) > 1 else 5.5
    dots = row.dots
    if len(dots) > MAX_DOTS:  # nine tenths of them, as a bar
        low, high = np.quantile(dots, (0.05, 0.95)).tolist()
        ax.plot([low, high], [y, y], color=colour, linewidth=9, alpha=0.2, solid_capstyle="butt")
        dots = []
    ax.plot(
        dots,
        [y] * len(dots),
        linestyle="none",
        marker=arm_mark(row.arm),
        markersize=size,
        markeredgecolor=colour,
        markerfacecolor=PAGE if row.published else colour,
        alpha=0.55 if size == 4 else 1,
        zorder=3,
    )
    if row.effect and len(row.dots) > 1:
        ax.plot(
            row.effect.mean, y, marker="|", markersize=13, markeredgewidth=2, color=INK, zorder=4
        )


def _forest_text(row: ForestRow) -> str:
    if row.effect:
        return times(row.effect.mean)
    return times(row.dots[0]) if len(row.dots) == 1 else ""


@dataclass(frozen=True)
class LoaderPoint:
    """Milliseconds for a training image, and the part of them spent waiting for it."""

    arm: str
    loader: str
    taken: Effect
    waiting: float | None


# From what costs a step most to what costs it least; others after them.
_LOADERS = ("decode", "list", "memory")


def loaders(points: Sequence[LoaderPoint], width: float) -> Figure:
    """A mark an arm over each loader; the waiting below, hollow."""
    figure, (ax,) = new_figure(width, 3.4)
    found = dict.fromkeys(point.loader for point in points)
    names = [n for n in _LOADERS if n in found] + sorted(n for n in found if n not in _LOADERS)
    arms = list(dict.fromkeys(point.arm for point in points))
    for place, arm in enumerate(arms):
        own = sorted((p for p in points if p.arm == arm), key=lambda p: names.index(p.loader))
        # Side by side, so that intervals do not hide each other.
        shift = 0.08 * (place - (len(arms) - 1) / 2)
        x, colour, mark = (
            [names.index(p.loader) + shift for p in own],
            arm_colour(arm),
            arm_mark(arm),
        )
        ax.errorbar(
            x,
            [p.taken.mean for p in own],
            yerr=interval_bars([p.taken for p in own]),
            color=colour,
            marker=mark,
            linestyle="none",  # a loader lies between no others
            elinewidth=1.2,
        )
        waits = [(x, p.waiting) for x, p in zip(x, own, strict=True) if p.waiting is not None]
        ax.plot(
            [place for place, _ in waits],
            [wait for _, wait in waits],
            linestyle="none",
            color=colour,
            marker=mark,
            markerfacecolor=PAGE,
        )
    top = 1.15 * max(point.taken.high or point.taken.mean for point in points)
    _loader_labels(ax, points, names)
    broken = "\nworkers" if is_narrow(width) else " workers"
    ax.set_xticks(
        range(len(names)), [n.replace(", ", ",\n").replace(" workers", broken) for n in names]
    )
    ax.set_xlim(-0.35, len(names) - (0.3 if is_narrow(width) else 0.45))
    ax.set_ylim(0, top)
    ax.set_ylabel("ms a training image")
    return figure


def interval_bars(effects: Sequence[Effect]) -> list[list[float]]:
    """Below and above each mean, as errorbar takes it; 0 where there is no interval."""
    return [
        [effect.mean - (effect.mean if effect.low is None else effect.low) for effect in effects],
        [(effect.mean if effect.high is None else effect.high) - effect.mean for effect in effects],
    ]


def _loader_labels(ax: Axes, points: Sequence[LoaderPoint], names: Sequence[str]) -> None:
    """The name of each arm above its last mark, and of the waiting above the longest."""
    last = {p.arm: p for p in sorted(points, key=lambda p: names.index(p.loader))}
    for arm, point in last.items():
        ax.annotate(
            f"{arm} {three(point.taken.mean)}",
            (names.index(point.loader), point.taken.high or point.taken.mean),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=arm_colour(arm),
            bbox=_HALO,
        )
    waits = [p for p in points if p.waiting is not None]
    if waits:
        longest = max(waits, key=lambda p: p.waiting or 0.0)
        ax.annotate(
            "waiting",
            (names.index(longest.loader), longest.waiting or 0.0),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            bbox=_HALO,
        )


def end_labels(ax: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float) -> None:
    """(x, y, text, arm): the names of lines at their ends, kept `gap` apart."""
    places = spread([y for _, y, _, _ in ends], gap)
    for (x, _, text, arm), place in zip(ends, places, strict=True):
        label_right(ax, x, place, text, arm)


def row_labels(ax: Axes, names: Sequence[str], *, narrow: bool, above: float) -> None:
    """The names of rows 0, -1, ...: at the left or, on a phone, `above` them in points."""
    ax.set_yticks([] if narrow else [-place for place in range(len(names))])
    if not narrow:
        ax.set_yticklabels(names)
    for place, name in enumerate(names if narrow else ()):
        ax.annotate(
            name,
            (0, -place),
            xycoords=("axes fraction", "data"),
            xytext=(0, above),
            textcoords="offset points",
            va="center",
            bbox=_HALO,
        )
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def label_right(ax: Axes, x: float, y: float, text: str, arm: str) -> None:
    """The name of a line at its end, in its colour."""
    ax.annotate(
        text,
        (x, y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        color=arm_colour(arm),
        annotation_clip=False,
    )


@dataclass(frozen=True)
class Bar:
    """The bill of an outcome, in seconds by group of stages."""

    label: str
    groups: Mapping[str, float]


def bars(rows: Sequence[Bar], width: float) -> Figure:
    """A stacked bar an arm, the total at its end."""
    narrow = is_narrow(width)
    pitch = 0.5 if narrow else 0.38
    figure, (ax,) = new_figure(width, 0.95 + pitch * len(rows))
    longest = max(sum(row.groups.values()) for row in rows)
    names = [name for name in STAGE_COLOURS if any(row.groups.get(name) for row in rows)]
    for place, row in enumerate(rows):
        left = 0.0
        for name in names:
            ax.barh(
                -place,
                row.groups.get(name, 0.0),
                left=left,
                height=0.4 if narrow else 0.62,
                color=STAGE_COLOURS[name],
                label=name if place == 0 else None,
            )
            left += row.groups.get(name, 0.0)
        ax.annotate(
            seconds(left), (left, -place), xytext=(5, 0), textcoords="offset points", va="center"
        )
    row_labels(ax, [row.label for row in rows], narrow=narrow, above=14)
    ax.set_xlim(0, longest * (1.2 if narrow else 1.1))
    ax.set_ylim(-len(rows) + 0.5, 0.8 if narrow else 0.5)
    ax.set_xlabel("seconds, everything the outcome rests on")
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=len(names),
        frameon=False,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.2,
        handletextpad=0.4,
        borderaxespad=0,
    )
    return figure


@dataclass(frozen=True)
class Line:
    """Points of one arm in their order. faint: another run of the same"""

    arm: str
    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    faint: bool = False


def break_even(
    lines: Sequence[Line],
    ends: Sequence[Sequence[float]],
    mark: tuple[str, float] | None,
    width: float,
) -> Figure:
    """Seconds against the number of training runs that share the priors.

    ends: of the band of the first line, low and high; mark: a name for a number of runs
    """
    figure, (ax,) = new_figure(width, 2.9)
    top = max(value for values in (*(line.y for line in lines), *ends) for value in values)
    for line in lines:
        ax.plot(line.x, line.y, color=arm_colour(line.arm))
    end_labels(ax, [(line.x[-1], line.y[-1], line.label, line.arm) for line in lines], top / 14)
    if ends:
        low, high = ends
        ax.fill_between(
            lines[0].x, low, high, color=arm_colour(lines[0].arm), alpha=0.15, linewidth=0
        )
    if mark is not None:
        name, runs = mark
        ax.axvline(runs, color=MUTED, linewidth=0.8, zorder=0)
        # Above the axes, where no line runs, and to the side that has the more room.
        ax.annotate(
            name,
            (runs, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="left" if runs < max(lines[0].x) / 2 else "right",
            va="bottom",
        )
    ax.set_ylim(0, 1.05 * top)
    ax.set_xlim(0, max(max(line.x) for line in lines))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("training runs that share the priors")
    ax.set_ylabel("seconds, priors included")
    return figure
