"""How figures look, and how a matplotlib figure becomes SVG of the page: its colours, its font."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import seaborn as sns
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.words import three

# Drawn in colours that occur nowhere else, then named by the page's variables, which know the dark.
INK, MUTED, HAIR, PAGE = "#010203", "#010204", "#010205", "#010206"
# Okabe and Ito's colours, which colour-blind readers tell apart: one an arm, everywhere.
ARM_COLOURS = {
    "images": "#0072b2",
    "dip": "#d55e00",
    "blur": "#8c8c8c",
    "degraded": "#cc79a7",
    "noise": "#009e73",
    "nlm": "#56b4e9",
    "tv": "#e69f00",
    "mean": "#8a6d3b",
    "nearest": "#6a5acd",
    "cond": "#a83232",
}
STAGE_COLOURS = {
    "prepare": "#9aa5b1",
    "priors": "#c9a227",
    "train": "#4c6a92",
    "sample": "#6fa08b",
    "score": "#a287b8",
}
MARKS = {
    "images": "o",
    "dip": "s",
    "blur": "^",
    "degraded": "D",
    "noise": "v",
    "nlm": "P",
    "tv": "X",
    "mean": "<",
    "nearest": ">",
    "original": "*",
    "cond": "p",
}
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    HAIR: "--hair",
    PAGE: "--page",
    **{colour: f"--arm-{arm}" for arm, colour in ARM_COLOURS.items()},
    **{colour: f"--stage-{stage}" for stage, colour in STAGE_COLOURS.items()},
}
# The first to have room is drawn.
_RATIO_TICKS = (
    1, 0.1, 10, 0.5, 2, 0.2, 5, 0.8, 1.25, 0.67, 1.5, 0.9, 1.1, 0.95, 1.05, 0.98, 1.02,
)  # fmt: skip
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dipddpm",
    # A name from outside may hold dollar signs.
    "text.parse_math": False,
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.minor.bottom": False,
    "ytick.minor.left": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "axes.unicode_minus": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "patch.edgecolor": PAGE,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
# Inches of 96 CSS pixels: a phone's column, and the page's.
NARROW, WIDE = 3.7, 7.6
BROAD = 10.4


# From a width in inches to a figure.
Draw = Callable[[float], Figure]


def render(name: str, title: str, draw: Draw, *, wide: float = WIDE) -> Markup:
    """One figure in two widths, of which the page shows the one that fits.

    draw: from a width in inches to a figure
    """
    variants = []
    for variant, width in (("wide", wide), ("narrow", NARROW)):
        style: dict[Any, Any] = {**sns.axes_style("ticks"), **_STYLE}
        with mpl.rc_context(style):
            figure = draw(width)
            stream = io.StringIO()
            figure.savefig(
                stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None}
            )
        variants.append(_for_page(stream.getvalue(), f"{name}-{variant}", title, variant, width))
    return Markup("\n").join(variants)


def _for_page(svg: str, prefix: str, title: str, variant: str, width: float) -> Markup:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # In HTML the namespaces are known; without them the page names no address at all.
    body = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href", "href")
    # Figures of one page must not share names: a reference into a hidden figure draws nothing.
    body = re.sub(r'id="', f'id="{prefix}-', body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r"font: (?:\w+ )*?([\d.]+px) [^;\"]*", r"font-size: \1", body)
    for colour, variable in _VARIABLES.items():
        body = re.sub(colour, f"var({variable})", body, flags=re.IGNORECASE)
    view_box = re.search(r'viewBox="[^"]*"', body)
    assert view_box is not None
    head = (
        f'<svg class="{variant}" {view_box.group()} style="max-width: {width * 96:.0f}px" '
        f'role="img" aria-labelledby="{prefix}-title">'
        f'<title id="{prefix}-title">{escape(title)}</title>'
    )
    return Markup(head + body[body.index(">") + 1 :])


def is_narrow(width: float) -> bool:
    """Whether a figure of that many inches is for a phone."""
    return width <= NARROW


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **kwargs: Any
) -> tuple[Figure, list[Axes]]:
    """A figure without boxes, and its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel().tolist()
    for ax in axes:
        sns.despine(ax=ax)
    return figure, axes


def arm_colour(arm: str) -> str:
    """The colour of an arm or a start; ink for one without a colour of its own."""
    return ARM_COLOURS.get(arm, INK)


def arm_mark(arm: str) -> str:
    """The shape of an arm's marks."""
    return MARKS.get(arm, "o")


def plain_numbers(value: float, _position: object = None) -> str:
    """A tick without exponent or needless zeros."""
    return three(value).rstrip("0").rstrip(".") if "." in three(value) else three(value)


def ratio_axis(ax: Axes, ratios: Sequence[float], *, room: int = 6) -> None:
    """A logarithmic x axis around 1, with ticks like 0.8×; `room` ticks fit."""
    logs = [math.log(ratio) for ratio in ratios if ratio > 0] or [0.0]
    low, high = min(*logs, -0.06, 0.0), max(*logs, 0.06, 0.0)
    pad = 0.08 * (high - low)
    low, high = low - pad, high + pad
    ticks: list[float] = []
    for tick in _RATIO_TICKS:
        place = math.log(tick)
        apart = all(abs(place - math.log(other)) > (high - low) / room for other in ticks)
        if low <= place <= high and apart:
            ticks.append(tick)
    ax.set_xscale("log")
    ax.set_xlim(math.exp(low), math.exp(high))
    ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    ax.axvline(1, color=MUTED, linewidth=0.8, zorder=0)


# Of more values that occur, a logarithmic axis has ticks only where it has room for their labels.
_MAX_TICKS = 12


def value_ticks(
    ax: Axes,
    axis: str,
    values: Sequence[float],
    *,
    room: int,
    pad: float = 0.2,
    form: Callable[[float], str] = "{:g}".format,
) -> None:
    """A logarithmic axis with ticks at the values that occur; `room` labels fit, those of the least
    and of the greatest among them.

    pad: beyond either end, as a share of what lies between them
    """
    places = sorted(set(values))
    named = _far_apart(places, room)
    getattr(ax, f"set_{axis}scale")("log")
    target = getattr(ax, f"{axis}axis")
    target.set_major_locator(FixedLocator(places if len(places) <= _MAX_TICKS else named))
    target.set_minor_locator(NullLocator())
    labels = {place: form(place) for place in named}
    target.set_major_formatter(FuncFormatter(lambda value, _: labels.get(value, "")))
    if len(places) > 1:
        span = (places[-1] / places[0]) ** pad
        getattr(ax, f"set_{axis}lim")(places[0] / span, places[-1] * span)


def _far_apart(places: Sequence[float], room: int) -> list[float]:
    """The first and the last, and of those between them from below what is far enough, by ratio,
    from both and from each other."""
    first, last = places[0], places[-1]
    least = (last / first) ** (1 / room)
    found = [first]
    for place in places[1:-1]:
        if place / found[-1] >= least and last / place >= least:
            found.append(place)
    return [*found, last] if last > first else found


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places moved as little as keeps neighbours `gap` apart, their order kept."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    # Blocks of (indices, centre); those that would overlap are merged around their mean.
    blocks: list[tuple[list[int], float]] = []
    for i in order:
        block, centre = [i], places[i]
        while blocks and centre - blocks[-1][1] < gap * (len(block) + len(blocks[-1][0])) / 2:
            before, _ = blocks.pop()
            block = before + block
            centre = sum(places[j] for j in block) / len(block)
        blocks.append((block, centre))
    moved = [0.0] * len(places)
    for block, centre in blocks:
        for position, i in enumerate(block):
            moved[i] = centre + gap * (position - (len(block) - 1) / 2)
    return moved
