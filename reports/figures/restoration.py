"""The figure on restoration: what a start and its denoising give for their seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from bench.stats import Effect
from reports.figures.plots import interval_bars
from reports.figures.svg import INK, PAGE, arm_colour, arm_mark, is_narrow, new_figure
from reports.words import three


@dataclass(frozen=True)
class Restored:
    """A way to restore. net: denoised by one; oracle: it knows the image that is sought."""

    start: str
    words: str
    net: bool
    oracle: bool
    seconds: float
    psnr: Effect


def pareto(points: Sequence[Restored]) -> list[Restored]:
    """Those that no other beats in PSNR at no more seconds, from the fastest on; no oracle."""
    front: list[Restored] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.psnr.mean)):
        if not point.oracle and (not front or point.psnr.mean > front[-1].psnr.mean):
            front.append(point)
    return front


def restoration(points: Sequence[Restored], degraded: float | None, width: float) -> Figure:
    """PSNR against the seconds an image that the start and the reverse process took."""
    narrow = is_narrow(width)
    figure, (ax,) = new_figure(width, 5.2 if narrow else 4.6)
    # What takes next to nothing is drawn at the left edge.
    sampled = [p.seconds for p in points if p.net] or [p.seconds for p in points]
    floor = max(min(sampled) / 10, min(p.seconds for p in points))
    for start in dict.fromkeys(point.start for point in points):
        for net in (True, False):
            own = [p for p in points if p.start == start and p.net == net]
            if own:
                _marks(ax, own, floor)
    front = pareto(points)
    ax.step(
        [max(p.seconds, floor) for p in front] + [max(p.seconds for p in points) * 1.3],
        [p.psnr.mean for p in front] + [front[-1].psnr.mean],
        where="post",
        color=INK,
        linewidth=0.9,
        zorder=1,
    )
    for place, point in enumerate(_labelled(front, 2 if narrow else 4)):
        ax.annotate(
            point.words,
            (max(point.seconds, floor), point.psnr.mean),
            # Neighbours are near in height, and their names long.
            xytext=(0, 9 + 10 * (place % 2)),
            textcoords="offset points",
            ha="left" if point.seconds <= 3 * floor else "right",
            color=arm_colour(point.start.split(",")[0]),
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=5 if narrow else 8))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds_tick(value)))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    ax.set_xlim(floor / 1.5, max(p.seconds for p in points) * 1.5)
    if degraded is not None:
        ax.axhline(degraded, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        ax.annotate(
            f"degraded input, {three(degraded)} dB",
            (1, degraded),
            xytext=(0, -10),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
        )
    ax.margins(y=0.09)
    ax.set_xlabel("seconds an image: start and sampling")
    ax.set_ylabel("PSNR to the original, dB")
    _key(figure, points, narrow=narrow)
    return figure


def seconds_tick(value: float) -> str:
    """1 ms, 10 s."""
    return f"{value:g} s" if value >= 1 else f"{1000 * value:g} ms"


def _marks(ax: Axes, own: Sequence[Restored], floor: float) -> None:
    first = own[0]
    name = first.start.split(",")[0]
    colour = arm_colour(name)
    ax.errorbar(
        [max(p.seconds, floor) for p in own],
        [p.psnr.mean for p in own],
        yerr=interval_bars([p.psnr for p in own]),
        linestyle="none",
        color=colour,
        marker=arm_mark(name),
        markersize=5 if first.net else 8.5,
        markerfacecolor=colour if first.net else PAGE,
        markeredgecolor=colour,
        markeredgewidth=0.6 if first.net else 1.6,
        elinewidth=0.7,
        alpha=0.85,
        zorder=2 if first.net else 3,
    )


def _labelled(front: Sequence[Restored], count: int) -> list[Restored]:
    """The highest of the front, and of each further start its highest."""
    best = {point.start: point for point in front}
    return sorted(best.values(), key=lambda point: -point.psnr.mean)[:count]


def _key(figure: Figure, points: Sequence[Restored], *, narrow: bool) -> None:
    """The marks with their names, from the highest PSNR to the lowest."""
    best: dict[str, Restored] = {}
    for point in sorted(points, key=lambda p: p.psnr.mean):
        best[point.start] = point
    handles = []
    for start, point in sorted(best.items(), key=lambda item: -item[1].psnr.mean):
        name = start.split(",")[0]
        note = ", no method:" if point.oracle else ""
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                color=arm_colour(name),
                marker=arm_mark(name),
                markersize=5,
                label=f"{start}{note} {three(point.psnr.mean)}",
            )
        )
    figure.legend(
        handles=handles,
        loc="outside upper left" if narrow else "outside right upper",
        ncols=2 if narrow else 1,
        title="best of each start, dB",
        alignment="left",
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.0,
        borderaxespad=0,
    )
