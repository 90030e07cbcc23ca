"""The figures on what came out, each from plain values, drawn for a width in inches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.stats import Effect
from reports.figures.plots import Line, interval_bars
from reports.figures.svg import (
    MUTED,
    PAGE,
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
class Curve:
    """An arm over epochs: (seconds, loss), each the mean over seeds with its interval.

    seeds: the points of each single seed, if there are several
    joined: the points are milestones of one run
    """

    arm: str
    points: Sequence[tuple[Effect, Effect]]
    seeds: Sequence[Sequence[tuple[float, float]]]
    label: str
    joined: bool


@dataclass(frozen=True)
class Facet:
    """Curves of equal settings. priors: seconds before the DIP arm can begin; None without."""

    title: str
    curves: Sequence[Curve]
    priors: float | None


def loss_curve(facet: Facet, width: float) -> Figure:
    """The headline: held-out loss against all the seconds it took, the priors' included."""
    figure, (ax,) = new_figure(width, 3.8)
    _loss_panel(ax, facet)
    narrow = is_narrow(width)
    low, high = ax.get_ylim()
    places = spread(
        [curve.points[-1][1].mean for curve in facet.curves],
        (high - low) / (7 if narrow else 14),
    )
    for curve, place in zip(facet.curves, places, strict=True):
        ax.annotate(
            curve.label.replace(" ", "\n", 1) if narrow else curve.label,
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=arm_colour(curve.arm),
        )
    if facet.priors:
        ax.annotate(
            f"priors, {seconds(facet.priors)}",
            (facet.priors / 2, 0.98),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
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
        # On a phone two stand side by side.
        ax.set_title(facet.title.replace(", ", ",\n", 1) if columns == 2 else facet.title)
    for ax in axes[max(0, len(facets) - columns) : len(facets)]:
        ax.tick_params(labelbottom=True)  # also where none is drawn below it
    for ax in axes[len(facets) :]:
        ax.set_visible(False)
    curves = [curve for facet in facets for curve in facet.curves]
    longest = max(
        *(x.high or x.mean for curve in curves for x, _ in curve.points),
        *(x for curve in curves for seed in curve.seeds for x, _ in seed),
        0.0,
    )
    axes[0].set_xlim(0, 1.06 * longest)
    figure.supxlabel("seconds: prepare, priors and training", fontsize=9)
    figure.supylabel("held-out eps loss", fontsize=9)
    return figure


def _loss_panel(ax: Axes, facet: Facet) -> None:
    if facet.priors:
        ax.axvspan(0, facet.priors, color=arm_colour("dip"), alpha=0.1, linewidth=0)
    losses: list[float] = []
    for curve in facet.curves:
        colour, line = arm_colour(curve.arm), "-" if curve.joined else "none"
        for seed in curve.seeds:
            x, y = zip(*seed, strict=True)
            mark = None if curve.joined else "."
            ax.plot(x, y, color=colour, linestyle=line, linewidth=0.6, marker=mark, alpha=0.35)
            losses += y
        effects = [y for _, y in curve.points]
        ax.errorbar(
            [x.mean for x, _ in curve.points],
            [y.mean for y in effects],
            yerr=interval_bars(effects),
            color=colour,
            marker=arm_mark(curve.arm),
            linestyle=line,
            elinewidth=1.2,
        )
        losses += [end for y in effects for end in (y.mean, y.low, y.high) if end is not None]
    ax.set_xlim(left=0)
    # At least 5 % to either side: what counts as equal must look alike.
    pad = max(0.18 * (max(losses) - min(losses)), 0.05 * max(losses))
    # Panels may share the axis: widen it, never narrow it.
    low, high = (min(losses) - pad, max(losses) + pad)
    ax.update_datalim([(0, low), (0, high)])
    ax.autoscale_view(scalex=False)


# Quantiles by which many values are drawn.
SPREAD = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class AnchorPanel:
    """A score of many outcomes, and what it gives to things that are no samples.

    columns: what was trained on -> values
    spreads: those whose values are quantiles of many, at SPREAD
    """

    title: str
    columns: Mapping[str, Sequence[float]]
    anchors: Mapping[str, float]
    spreads: frozenset[str] = frozenset()


def anchors(panels: Sequence[AnchorPanel], width: float) -> Figure:
    """A dot an outcome; the anchors as rules with their names at the right."""
    columns = 1 if is_narrow(width) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(width, 3.7 * rows, rows, columns)
    for ax, panel in zip(axes, panels, strict=False):
        _anchor_panel(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figure


def _anchor_panel(ax: Axes, panel: AnchorPanel) -> None:
    levels = [*panel.anchors.values(), *(v for vs in panel.columns.values() for v in vs)]
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
    for column, (arm, values) in enumerate(panel.columns.items()):
        if arm in panel.spreads:
            _spread_column(ax, column, arm, values)
            continue
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
    ax.set_xlabel("trained on")
    ax.set_xlim(-0.6, count - 0.4)
    ax.set_ylim(min(*levels, *places) - 0.04 * span, max(*levels, *places) + 0.04 * span)
    ax.set_title(panel.title)


def _spread_column(ax: Axes, column: int, arm: str, values: Sequence[float]) -> None:
    """From the values at SPREAD: a thin bar, a thick one, and the median."""
    colour = arm_colour(arm)
    low, lower, median, upper, high = values
    ax.plot([column, column], [low, high], color=colour, linewidth=1)
    ax.plot([column, column], [lower, upper], color=colour, linewidth=4)
    ax.plot(column, median, marker=arm_mark(arm), color=colour, markeredgecolor=PAGE)


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
        if panel.lines:
            x, y = ([v for line in panel.lines for v in getattr(line, axis)] for axis in "xy")
            value_ticks(ax, "x", x, room=3 if narrow else 6)
            value_ticks(ax, "y", y, room=5, pad=0.08, form=plain_numbers)
        else:
            ax.set(xticks=[], yticks=[])
        ax.set_xlabel(panel.xlabel)
        ax.set_ylabel(panel.ylabel)
        note = panel.note.replace(", ", ",\n", 1) if narrow else panel.note
        ax.set_title(note, fontweight="normal")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figure
