"""The figures on what came out, each from plain values, drawn for a width in inches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.figures.plots import Line, label_right
from reports.figures.svg import (
    INK,
    MUTED,
    arm_colour,
    arm_mark,
    is_narrow,
    new_figure,
    plain_numbers,
    spread,
    value_ticks,
)
from reports.words import seconds, three


@dataclass(frozen=True)
class Facet:
    """Curves of equal settings. priors: seconds before the DIP arm can begin; None without."""

    title: str
    lines: Sequence[Line]
    priors: float | None


def loss_curve(facet: Facet, width: float) -> Figure:
    """The headline: held-out loss against all the seconds it took, the priors' included."""
    figure, (ax,) = new_figure(width, 3.6)
    _loss_panel(ax, facet)
    ends = [line for line in facet.lines if not line.faint]
    low, high = ax.get_ylim()
    right = 0.55 * max(max(line.x) for line in facet.lines)
    for line, place in zip(
        ends, spread([line.y[-1] for line in ends], (high - low) / 14), strict=True
    ):
        # A line that ends at the right edge has its label below, where there is room.
        over = line.x[-1] > right
        ax.annotate(
            line.label,
            (line.x[-1], line.y[-1] if over else place),
            textcoords="offset points",
            xytext=(4, -15) if over else (9, 6),
            ha="right" if over else "left",
            va="center",
            color=arm_colour(line.arm),
        )
    if facet.priors:
        ax.annotate(
            f"priors being fitted, {seconds(facet.priors)}",
            (facet.priors / 2, 0.5),
            xycoords=("data", "axes fraction"),
            xytext=(6, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            color=arm_colour("dip"),
        )
    ax.set_xlabel("seconds: prepare, priors and training")
    ax.set_ylabel("held-out eps loss")
    return figure


def loss_facets(facets: Sequence[Facet], width: float) -> Figure:
    """The same for each cell of the grid, on common axes."""
    columns = 2 if is_narrow(width) else 3
    rows = -(-len(facets) // columns)
    figure, axes = new_figure(width, 0.5 + 1.9 * rows, rows, columns, sharex=True, sharey=True)
    for ax, facet in zip(axes, facets, strict=False):
        _loss_panel(ax, facet)
        ax.set_title(facet.title)
    for ax in axes[len(facets) :]:
        ax.set_visible(False)
    longest = max(x for facet in facets for line in facet.lines for x in line.x)
    axes[0].set_xlim(0, 1.06 * longest)
    figure.supxlabel("seconds: prepare, priors and training", fontsize=9)
    figure.supylabel("held-out eps loss", fontsize=9)
    return figure


def _loss_panel(ax: Axes, facet: Facet) -> None:
    if facet.priors:
        ax.axvspan(0, facet.priors, color=arm_colour("dip"), alpha=0.1, linewidth=0)
    for line in facet.lines:
        ax.plot(
            line.x,
            line.y,
            color=arm_colour(line.arm),
            marker=arm_mark(line.arm),
            alpha=0.4 if line.faint else 1,
            linewidth=1 if line.faint else 1.6,
        )
    ax.set_xlim(left=0)
    losses = [loss for line in facet.lines for loss in line.y]
    pad = 0.18 * (max(losses) - min(losses)) or 0.1 * max(losses)
    # Panels may share the axis: widen it, never narrow it.
    low, high = (min(losses) - pad, max(losses) + pad)
    ax.update_datalim([(0, low), (0, high)])
    ax.autoscale_view(scalex=False)


@dataclass(frozen=True)
class AnchorPanel:
    """A score of many outcomes, and what it gives to things that are no samples.

    columns: label -> (arm, values)
    """

    title: str
    ylabel: str
    columns: Mapping[str, tuple[str, Sequence[float]]]
    anchors: Mapping[str, float]


def anchors(panels: Sequence[AnchorPanel], width: float) -> Figure:
    """A dot an outcome; the anchors as rules with their names at the right."""
    narrow = is_narrow(width)
    rows, columns = (len(panels), 1) if narrow else (1, len(panels))
    figure, axes = new_figure(width, 3.7 * rows, rows, columns)
    for ax, panel in zip(axes, panels, strict=True):
        _anchor_panel(ax, panel)
    return figure


def _anchor_panel(ax: Axes, panel: AnchorPanel) -> None:
    levels = [*panel.anchors.values(), *(v for _, vs in panel.columns.values() for v in vs)]
    span = (max(levels) - min(levels)) or 1.0
    names = sorted(panel.anchors, key=lambda name: panel.anchors[name])
    places = spread([panel.anchors[name] for name in names], span / 15)
    count = len(panel.columns)
    for name, place in zip(names, places, strict=True):
        level = panel.anchors[name]
        ax.plot([-0.6, count - 0.4], [level, level], color=MUTED, linewidth=0.7, zorder=0)
        ax.plot(
            [count - 0.4, count - 0.25], [level, place], color=MUTED, linewidth=0.7, clip_on=False
        )
        ax.annotate(
            f"{name.replace('_', ' ')} {three(level)}",
            (count - 0.25, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    for column, (arm, values) in enumerate(panel.columns.values()):
        # Side by side in their order, so that equal values do not hide each other.
        shifts = [0.5 * (i + 0.5) / len(values) - 0.25 for i in range(len(values))]
        ax.plot(
            [column + shift for shift in shifts],
            values,
            linestyle="none",
            marker=arm_mark(arm),
            color=arm_colour(arm),
            alpha=0.75,
        )
    ax.set_xticks(range(count), list(panel.columns))
    ax.set_xlim(-0.6, count - 0.4)
    ax.set_ylim(min(*levels, *places) - 0.04 * span, max(*levels, *places) + 0.04 * span)
    ax.set_ylabel(panel.ylabel)
    ax.set_title(panel.title)


@dataclass(frozen=True)
class Restored:
    """A setting of restoration. dB, with the half-width of its interval over the images."""

    start: str
    steps: float | None
    seconds: float
    psnr: float
    half_width: float | None = None


def restoration(points: Sequence[Restored], degraded: float | None, width: float) -> Figure:
    """PSNR against the seconds that the start and the reverse process took."""
    figure, (ax,) = new_figure(width, 3.9)
    series: dict[tuple[str, bool], list[Restored]] = {}
    for point in sorted(points, key=lambda point: point.seconds):
        series.setdefault((point.start, point.steps is None), []).append(point)
    for (start, alone), own in series.items():
        ax.errorbar(
            [p.seconds for p in own],
            [p.psnr for p in own],
            yerr=[p.half_width or 0 for p in own],
            color=arm_colour(start),
            marker="*" if alone else arm_mark(start),
            markersize=10 if alone else 5.5,
            elinewidth=0.8,
            linewidth=1.2,
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(plain_numbers))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    low, high = min(p.seconds for p in points), max(p.seconds for p in points)
    ax.set_xlim(low / 1.4, high * (high / low) ** 0.35 * 1.2)
    _restoration_labels(ax, points)
    if degraded is not None:
        ax.axhline(degraded, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        ax.annotate(
            f"degraded input, {three(degraded)} dB",
            (0.99, degraded),
            xytext=(0, -10),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
        )
    ax.set_ylim(bottom=0)
    ax.set_xlabel("seconds to make the start and to sample, all images")
    ax.set_ylabel("PSNR to the original, dB")
    return figure


def _restoration_labels(ax: Axes, points: Sequence[Restored]) -> None:
    last = {(p.start, p.steps is None): p for p in sorted(points, key=lambda p: p.seconds)}
    for side in (True, False):
        middle = (ax.get_xlim()[0] * ax.get_xlim()[1]) ** 0.5
        own = [p for p in last.values() if (p.seconds < middle) == side]
        top = max(p.psnr for p in points)
        for point, place in zip(own, spread([p.psnr for p in own], top / 15), strict=True):
            text = "DIP alone" if point.steps is None else f"from {point.start}"
            label_right(ax, point.seconds, place, text, point.start)


@dataclass(frozen=True)
class ScalingPanel:
    """A quantity against one axis of the grid, a line a cell; note: the effect in words."""

    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    note: str


def scaling(panels: Sequence[ScalingPanel], columns: int, width: float) -> Figure:
    """Small multiples on logarithmic axes, row by row."""
    narrow = is_narrow(width)
    columns = 2 if narrow else columns
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(width, 2.15 * rows, rows, columns)
    for ax, panel in zip(axes, panels, strict=False):
        for line in panel.lines:
            ax.plot(
                line.x,
                line.y,
                color=arm_colour(line.arm),
                marker=arm_mark(line.arm),
                alpha=0.7,
                linewidth=1,
                markersize=7 if line.arm == "images" else 4,
            )
        value_ticks(ax, "x", [x for line in panel.lines for x in line.x])
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_minor_locator(MaxNLocator(1))
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        ax.yaxis.set_major_formatter(FuncFormatter(plain_numbers))
        ax.set_xlabel(panel.xlabel)
        ax.set_ylabel(panel.ylabel)
        ax.set_title(panel.note, fontweight="normal")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figure
