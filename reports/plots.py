"""The figures, each from plain values; a figure is drawn for a width in inches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.stats import Effect
from reports.svg import (
    INK,
    MUTED,
    PAGE,
    STAGE_COLOURS,
    arm_colour,
    arm_mark,
    is_narrow,
    new_figure,
    plain_numbers,
    ratio_axis,
    spread,
    value_ticks,
)
from reports.words import seconds, three, times


# Behind a label that a line may cross.
_HALO = {"facecolor": PAGE, "edgecolor": "none", "pad": 1.0}


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
            _forest_text(row), (1, -place), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
        if narrow:
            ax.annotate(
                row.label, (0, -place), xycoords=("axes fraction", "data"), xytext=(0, 10),
                textcoords="offset points", va="center", bbox=_HALO,
            )  # fmt: skip
    ax.set_ylim(-len(rows) + 0.45, 0.75 if narrow else 0.55)
    ax.set_yticks([] if narrow else [-place for place in range(len(rows))])
    if not narrow:
        ax.set_yticklabels([row.label for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(xlabel)
    return figure


def _extent(row: ForestRow) -> list[float]:
    ends = (row.effect.low, row.effect.mean, row.effect.high) if row.effect else ()
    return [*row.dots, *(end for end in ends if end is not None)]


def _forest_row(ax: Axes, row: ForestRow, y: float) -> None:
    colour = arm_colour(row.arm)
    if row.effect and row.effect.low is not None and row.effect.high is not None:
        ax.plot([row.effect.low, row.effect.high], [y, y], color=colour, linewidth=2, zorder=2)
    size = 4 if row.effect and len(row.dots) > 1 else 5.5
    ax.plot(
        row.dots, [y] * len(row.dots), linestyle="none", marker=arm_mark(row.arm), markersize=size,
        markeredgecolor=colour, markerfacecolor=PAGE if row.published else colour,
        alpha=0.55 if size == 4 else 1, zorder=3,
    )  # fmt: skip
    if row.effect and len(row.dots) > 1:
        ax.plot(row.effect.mean, y, marker="|", markersize=13, markeredgewidth=2, color=INK, zorder=4)


def _forest_text(row: ForestRow) -> str:
    if row.effect:
        return times(row.effect.mean)
    return times(row.dots[0]) if len(row.dots) == 1 else ""


@dataclass(frozen=True)
class LoaderPoint:
    """Milliseconds for a training image, and the part of them spent waiting for it."""

    arm: str
    loader: str
    milliseconds: float
    waiting: float | None


def loaders(points: Sequence[LoaderPoint], width: float) -> Figure:
    """An arm a line, over the loaders; the waiting below, hollow."""
    figure, (ax,) = new_figure(width, 3.2)
    names = sorted({point.loader for point in points}, reverse=True)
    for arm in dict.fromkeys(point.arm for point in points):
        own = sorted((p for p in points if p.arm == arm), key=lambda p: names.index(p.loader))
        x, colour, mark = [names.index(p.loader) for p in own], arm_colour(arm), arm_mark(arm)
        ax.plot(x, [p.milliseconds for p in own], color=colour, marker=mark)
        waits = [(place, p.waiting) for place, p in zip(x, own, strict=True) if p.waiting is not None]
        ax.plot(
            [place for place, _ in waits], [wait for _, wait in waits], linestyle=(0, (3, 2)),
            linewidth=1, color=colour, marker=mark, markerfacecolor=PAGE,
        )  # fmt: skip
    _loader_labels(ax, points, names)
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.35, len(names) - 0.45)
    ax.set_ylim(0, 1.15 * max(point.milliseconds for point in points))
    ax.set_xlabel("loader")
    ax.set_ylabel("ms a training image")
    return figure


def _loader_labels(ax: Axes, points: Sequence[LoaderPoint], names: Sequence[str]) -> None:
    top = 1.15 * max(point.milliseconds for point in points)
    ends = [point for point in points if point.loader == names[-1]]
    for place, point in zip(spread([p.milliseconds for p in ends], top / 16), ends, strict=True):
        _label_right(ax, len(names) - 1, place, f"{point.arm} {three(point.milliseconds)}", point.arm)
    waits = [point.waiting for point in ends if point.waiting is not None]
    if waits:
        _label_right(ax, len(names) - 1, sum(waits) / len(waits), "of it waiting for data", "")


def _label_right(ax: Axes, x: float, y: float, text: str, arm: str) -> None:
    ax.annotate(
        text, (x, y), xytext=(9, 0), textcoords="offset points", va="center", color=arm_colour(arm),
        annotation_clip=False,
    )  # fmt: skip


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
                -place, row.groups.get(name, 0.0), left=left, height=0.4 if narrow else 0.62,
                color=STAGE_COLOURS[name], label=name if place == 0 else None,
            )  # fmt: skip
            left += row.groups.get(name, 0.0)
        ax.annotate(
            seconds(left), (left, -place), xytext=(5, 0), textcoords="offset points", va="center"
        )
        if narrow:
            ax.annotate(row.label, (0, -place), xytext=(0, 14), textcoords="offset points", va="center")
    ax.set_yticks([] if narrow else [-place for place in range(len(rows))])
    if not narrow:
        ax.set_yticklabels([row.label for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(0, longest * (1.2 if narrow else 1.1))
    ax.set_ylim(-len(rows) + 0.5, 0.8 if narrow else 0.5)
    ax.set_xlabel("seconds, everything the outcome rests on")
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside upper left", ncols=len(names), frameon=False,
        handlelength=0.9, handleheight=0.9, columnspacing=1.2, handletextpad=0.4, borderaxespad=0,
    )  # fmt: skip
    return figure


@dataclass(frozen=True)
class Line:
    """Points of one arm in their order. faint: another run of the same"""

    arm: str
    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    faint: bool = False


def break_even(lines: Sequence[Line], crossing: float | None, width: float) -> Figure:
    """Total seconds against the number of training runs that share the priors."""
    figure, (ax,) = new_figure(width, 2.9)
    top = max(max(line.y) for line in lines)
    for line in lines:
        ax.plot(line.x, line.y, color=arm_colour(line.arm))
    places = spread([line.y[-1] for line in lines], top / 14)
    for line, place in zip(lines, places, strict=True):
        _label_right(ax, line.x[-1], place, line.label, line.arm)
    if crossing is not None:
        ax.axvline(crossing, color=MUTED, linewidth=0.8, zorder=0)
        ax.annotate(
            f"break-even at {three(crossing)}", (crossing, top), xytext=(-5, 0),
            textcoords="offset points", ha="right", va="top",
        )  # fmt: skip
    ax.set_ylim(0, 1.05 * top)
    ax.set_xlim(0, max(max(line.x) for line in lines))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("training runs that share the priors")
    ax.set_ylabel("total seconds")
    return figure


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
    for line, place in zip(ends, spread([l.y[-1] for l in ends], (high - low) / 14), strict=True):
        # A line that ends at the right edge has its label below, where there is room.
        over = line.x[-1] > right
        ax.annotate(
            line.label, (line.x[-1], line.y[-1] if over else place), textcoords="offset points",
            xytext=(4, -15) if over else (9, 6), ha="right" if over else "left", va="center",
            color=arm_colour(line.arm),
        )  # fmt: skip
    if facet.priors:
        ax.annotate(
            f"priors being fitted, {seconds(facet.priors)}", (facet.priors / 2, 0.5),
            xycoords=("data", "axes fraction"), xytext=(6, 0), textcoords="offset points",
            ha="center", va="center", color=arm_colour("dip"),
        )  # fmt: skip
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
            line.x, line.y, color=arm_colour(line.arm), marker=arm_mark(line.arm),
            alpha=0.4 if line.faint else 1, linewidth=1 if line.faint else 1.6,
        )  # fmt: skip
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
        ax.plot([count - 0.4, count - 0.25], [level, place], color=MUTED, linewidth=0.7, clip_on=False)
        ax.annotate(
            f"{name.replace('_', ' ')} {three(level)}", (count - 0.25, place), xytext=(3, 0),
            textcoords="offset points", va="center", annotation_clip=False,
        )  # fmt: skip
    for column, (arm, values) in enumerate(panel.columns.values()):
        # Side by side in their order, so that equal values do not hide each other.
        shifts = [0.5 * (i + 0.5) / len(values) - 0.25 for i in range(len(values))]
        ax.plot(
            [column + shift for shift in shifts], values, linestyle="none", marker=arm_mark(arm),
            color=arm_colour(arm), alpha=0.75,
        )  # fmt: skip
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
            [p.seconds for p in own], [p.psnr for p in own], yerr=[p.half_width or 0 for p in own],
            color=arm_colour(start), marker="*" if alone else arm_mark(start),
            markersize=10 if alone else 5.5, elinewidth=0.8, linewidth=1.2,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(plain_numbers))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    low, high = min(p.seconds for p in points), max(p.seconds for p in points)
    ax.set_xlim(low / 1.4, high * (high / low) ** 0.35 * 1.2)
    _restoration_labels(ax, points)
    if degraded is not None:
        ax.axhline(degraded, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        ax.annotate(
            f"degraded input, {three(degraded)} dB", (0.99, degraded), xytext=(0, -10),
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
        )  # fmt: skip
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
            _label_right(ax, point.seconds, place, text, point.start)


@dataclass(frozen=True)
class ScalingPanel:
    """A quantity against one axis of the grid, a line a cell; note: the effect in words."""

    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    note: str
    levels: Sequence[float] = field(default=())


def scaling(panels: Sequence[ScalingPanel], columns: int, width: float) -> Figure:
    """Small multiples on logarithmic axes, row by row."""
    narrow = is_narrow(width)
    columns = 2 if narrow else columns
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(width, 2.15 * rows, rows, columns)
    for ax, panel in zip(axes, panels, strict=False):
        for line in panel.lines:
            ax.plot(
                line.x, line.y, color=arm_colour(line.arm), marker=arm_mark(line.arm), alpha=0.7,
                linewidth=1, markersize=4.5,
            )  # fmt: skip
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

