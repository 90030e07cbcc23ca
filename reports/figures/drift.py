"""The drift of the machine over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.figures.svg import INK, STAGE_COLOURS, new_figure


@dataclass(frozen=True)
class DriftPoint:
    """A probe: the place of its unit in the run, and its times over what is usual.

    kept: its unit is in the tables
    """

    place: int
    matmul: float
    copy: float
    kept: bool
    busy: bool


def drift(points: Sequence[DriftPoint], tolerances: Mapping[str, float], width: float) -> Figure:
    """Each probe at the place of its unit, with the lines of what is tolerated, by its name."""
    figure, (ax,) = new_figure(width, 2.4)
    busy = [point for point in points if point.busy]
    if busy:
        ax.scatter(
            [point.place for point in busy for _ in range(2)],
            [ratio for point in busy for ratio in (point.matmul, point.copy)],
            s=70, facecolors="none", edgecolors=INK, linewidths=0.8, label="busy", zorder=1,
        )  # fmt: skip
    for name, marker, colour in (
        ("matmul", "o", STAGE_COLOURS["score"]),
        ("copy", "^", STAGE_COLOURS["sample"]),
    ):
        for kept in (True, False):
            found = [point for point in points if point.kept is kept]
            ax.scatter(
                [point.place for point in found], [getattr(point, name) for point in found],
                s=16, marker=marker, edgecolors=colour, linewidths=0.9, zorder=2,
                facecolors=colour if kept else "none", label=name if kept else None,
            )  # fmt: skip
        ax.axhline(
            1 + tolerances[name], color=colour, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0
        )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    ax.set_xlabel("unit, in the order of the run")
    ax.set_ylabel("probe / usual")
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False,
        handletextpad=0.2, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip
    return figure
