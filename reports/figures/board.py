"""The figures of the board: scores against seconds, a line an entry."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from bench.stats import Effect
from reports.figures.plots import interval_bars
from reports.figures.svg import (
    ARM_COLOURS,
    INK,
    MUTED,
    is_narrow,
    new_figure,
    spread,
)

_MARKS = "osD^vPX*"


@dataclass(frozen=True)
class BoardLine:
    """(seconds, score) after each milestone, each the mean over seeds with its interval.

    arm: whose colour it has; None: one of those that are left
    """

    name: str
    arm: str | None
    points: Sequence[tuple[Effect, Effect]]


def board_lines(lines: Sequence[BoardLine], score: str, target: float, width: float) -> Figure:
    """The names stand below on a phone, else at the right."""
    narrow = is_narrow(width)
    figure, (ax,) = new_figure(width, 3.6 + (0.22 * len(lines) if narrow else 0))
    taken = {line.arm for line in lines}
    others = itertools.cycle(c for arm, c in ARM_COLOURS.items() if arm not in taken)
    ends = []
    for place, line in enumerate(lines):
        colour = ARM_COLOURS.get(line.arm or "") or next(others)
        reached = [y for _, y in line.points]
        ax.errorbar(
            [x.mean for x, _ in line.points],
            [y.mean for y in reached],
            yerr=interval_bars(reached),
            color=colour,
            marker=_MARKS[place % len(_MARKS)],
            markersize=5,
            elinewidth=1,
            label=line.name,
        )
        ends.append((reached[-1].mean, line.name, colour))
    ax.axhline(target, color=MUTED, linestyle="--", linewidth=1)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds: prepare, priors and training")
    ax.set_ylabel(score)
    if narrow:
        figure.legend(loc="outside lower left", frameon=False, labelcolor=INK)
        return figure
    low, high = ax.get_ylim()
    places = spread([end for end, _, _ in ends], (high - low) / 16)
    for (_, name, colour), height in zip(ends, places, strict=True):
        ax.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    return figure
