"""The figures of a profile: the phases of a step, and memory over the traced steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reports.figures.plots import row_labels
from reports.figures.svg import HAIR, STAGE_COLOURS, is_narrow, new_figure
from reports.traces import PHASES

_STAGES = ("score", "sample", "priors", "train", "prepare")
_COLOURS = dict(zip(PHASES, (*(STAGE_COLOURS[stage] for stage in _STAGES), HAIR), strict=True))


@dataclass(frozen=True)
class PhaseBar:
    """Seconds of a step by PHASES."""

    label: str
    phases: Mapping[str, float]


def phases(rows: Sequence[PhaseBar], width: float) -> Figure:
    """A bar for each profiled stage: what share of its step each phase takes."""
    narrow = is_narrow(width)
    figure, (ax,) = new_figure(width, (1.25 if narrow else 0.95) + 0.42 * len(rows))
    for place, row in enumerate(rows):
        whole, left = sum(row.phases.values()) or 1.0, 0.0
        for phase, colour in _COLOURS.items():
            share = row.phases.get(phase, 0.0) / whole
            ax.barh(
                -place, share, left=left, height=0.4 if narrow else 0.62, color=colour,
                label=phase if place == 0 else None,
            )  # fmt: skip
            left += share
    row_labels(ax, [row.label for row in rows], narrow=narrow, above=14)
    ax.set_xlim(0, 1)
    ax.set_ylim(-len(rows) + 0.5, 0.8 if narrow else 0.5)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("of a step, on the host")
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside upper left", ncols=3 if narrow else 6,
        frameon=False, handlelength=0.9, handleheight=0.9, columnspacing=1.2, handletextpad=0.4,
        borderaxespad=0,
    )  # fmt: skip
    return figure


@dataclass(frozen=True)
class MemoryCurve:
    """(seconds, bytes allocated), in the order of time."""

    label: str
    points: Sequence[tuple[float, float]]


def memory(curves: Sequence[MemoryCurve], width: float) -> Figure:
    """A small plot for each curve, each with scales of its own."""
    columns = 1 if is_narrow(width) else min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure, axes = new_figure(width, 0.3 + 1.7 * rows, rows, columns)
    for ax, curve in zip(axes, curves, strict=False):
        ax.step(
            [when for when, _ in curve.points],
            [height / 2**20 for _, height in curve.points],
            where="post", color=STAGE_COLOURS["train"], linewidth=1.1,
        )  # fmt: skip
        ax.set_title(curve.label, weight="normal")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.set_xlabel("seconds")
        ax.set_ylabel("MiB")
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    return figure
