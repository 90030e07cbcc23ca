"""Restoration: held-out images with noise, and whether a start from a DIP is worth its seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.blocks import Block, Cell, Figure, Section, Table, Text, raw_table
from reports.context import (
    PAIRED_PSNR,
    Report,
    cell_words,
    epochs_of,
)
from reports.effects import VERDICT_COLUMNS, mean_cell, mean_of, middle, missing, verdict_cells
from reports.figures import restoration as plots
from reports.figures import svg
from reports.figures.restoration import Restored
from reports.pairs import Quantity
from reports.tables import NOISE_AUTOCORRELATION
from reports.ways import (
    OF_ALL,
    OF_DEGRADED,
    Comparison,
    Way,
    best_pairs,
    compared,
    judge_psnr,
    ways,
    whole,
)
from reports.words import judged, plural, seconds, three

SAMPLING = Quantity(
    "sampling seconds an image",
    lambda one: (
        None
        if (taken := one.group_seconds("sample")) is None
        else taken / one.number("num_samples")
    ),
)


def restoration(report: Report) -> Section:
    """PSNR against seconds of every way to restore, and the DIP start at equal seconds."""
    title, found = "Restoration", ways(report)
    if not found:
        return Section("restoration", title, missing(report, "restoration", "restoration-cpu"))
    degraded = found[0].first.score("degraded_psnr")
    comparisons = compared(whole(found))
    said = dip_finding(found) or [_best_words(found, degraded)]
    blocks: list[Block] = [*map(Text, [*said[1:], *_left_out(report, found)])]
    blocks.append(_figure(found, degraded))
    if comparisons:
        blocks.append(_comparisons(comparisons))
    blocks.append(_table(found))
    return Section("restoration", title, said[0], blocks)


def _left_out(report: Report, found: Sequence[Way]) -> list[str]:
    """What is compared with nothing, and why."""
    noise = [way for way in found if way.noise]
    exact = sum(one.score("paired_psnr") == math.inf for one in report.restored)
    said = []
    if noise:
        said.append(
            f"Of {plural(len(found), 'way')} {len(noise)} gave what looks like noise (lag-1 "
            f"autocorrelation below {NOISE_AUTOCORRELATION}); they are shown and not compared."
        )
    if exact:
        said.append(
            f"{plural(exact, 'outcome')} gave the originals back bit for bit: an infinite PSNR, "
            "which is in no figure and no comparison."
        )
    return said


# At equal seconds --------------------------------------------------------------------------------


def dip_finding(found: Sequence[Way]) -> list[str]:
    """Whether the DIP start beats the degraded start at equal seconds; none without both."""
    found = whole(found)
    comparisons = compared(found)
    of_degraded = [one for one in comparisons if one.rule == OF_DEGRADED]
    if not of_degraded:
        return []
    best = max(of_degraded, key=lambda one: one.way.psnr.mean)
    rival = next(one for one in comparisons if one.rule == OF_ALL and one.way is best.way)
    against_degraded, against_all = (
        judged(judge_psnr(best_pairs(found, rule), len(best.way.psnrs)), "dB")
        for rule in (OF_DEGRADED, OF_ALL)
    )
    first = (
        "PSNR of a start from the DIP against the start from the degraded image at no more "
        "seconds, each at its best setting, chosen on the other half of the images: "
        f"{against_degraded}."
    )
    text = (
        f"Over all images the best are {_reached(best.way)}, of "
        f"{plural(len(of_degraded), 'DIP setting')}, and {_reached(best.other)}."
    )
    if rival.other is not best.other:
        text += (
            " Against the best of all that takes no DIP and no more seconds, chosen likewise, "
            f"over all images {_reached(rival.other)}: {against_all}."
        )
    return [first, text]


def _reached(way: Way) -> str:
    """dip, t0 250, ddim, 20 steps: 24.1 dB in 20.0 ms an image."""
    return f"{way.words}: {three(way.psnr.mean)} dB in {seconds(way.seconds.mean)} an image"


def _best_words(found: Sequence[Way], degraded: float | None) -> str:
    """The best of each start, where no DIP start is to be compared; without a start that has what
    is sought, and without what looks like noise."""
    best: dict[str, Way] = {}
    methods = [way for way in found if not way.oracle and not way.noise]
    if not methods:
        return (
            "Whatever a net made of a start looks like noise here: no way to restore is compared."
        )
    for way in sorted(methods, key=lambda way: way.psnr.mean):
        best[way.start] = way
    said = [
        f"{way.words} {three(way.psnr.mean)} dB in {seconds(way.seconds.mean)}"
        for way in sorted(best.values(), key=lambda way: -way.psnr.mean)
    ]
    text = f"The best of each start, by PSNR: {'; '.join(said)}"
    if degraded is not None:
        text += f"; the degraded input itself has {three(degraded)} dB"
    return f"{text} ({plural(max(len(way.group) for way in found), 'seed')})."


def _comparisons(comparisons: Sequence[Comparison]) -> Table:
    # All are of as many images, and their p says little more.
    columns = ("effect", "95 % interval", "word")
    kept = [VERDICT_COLUMNS.index(name) for name in columns]
    rows = [
        [
            Cell(one.way.words, one.way.words),
            Cell(seconds(one.way.seconds.mean), one.way.seconds.mean),
            Cell(one.rule, one.rule),
            Cell(one.other.words, one.other.words),
            Cell(seconds(one.other.seconds.mean), one.other.seconds.mean),
            *(verdict_cells(one.verdict, PAIRED_PSNR)[place] for place in kept),
        ]
        for one in comparisons
    ]
    return Table(
        ["DIP start", "an image", "best of", "which is", "an image", *columns],
        rows,
        "Equal seconds: each DIP start against the best of the degraded starts that take no more "
        "seconds an image, and of all ways without a DIP that take no more, chosen by its PSNR on "
        "the same images and so in its favour. Difference of PSNR, image by image, each the mean "
        "over training seeds; equal is within 0.3 dB. The interval is over images, of the same "
        "nets. The original start takes no part.",
        filterable=True,
    )


# All ways ----------------------------------------------------------------------------------------


def _figure(found: Sequence[Way], degraded: float | None) -> Figure:
    points = [
        Restored(
            way.start,
            way.words,
            way.steps > 0,
            way.oracle,
            way.seconds.mean,
            way.psnr,
        )
        for way in found
    ]
    first = found[0].first
    several = max(len(way.group) for way in found)
    return Figure(
        svg.render(
            "restoration",
            "PSNR of restored images against seconds",
            lambda width: plots.restoration(points, degraded, width),
        ),
        f"By nets of {cell_words(first)}, {epochs_of([first])}; mean PSNR of "
        f"{first.number('num_samples'):g} held-out images to their originals, over "
        f"{plural(several, 'training seed')}, against the seconds an image that making the start "
        "and the reverse process took; training the net is not in it. "
        "Filled: denoised by a net, a mark a setting; hollow and large: the start itself, no net. "
        "Bars: 95 % interval over images. What takes less than a tenth of the quickest sampling is "
        "drawn at the left edge. Line: the Pareto front, the highest PSNR for so many "
        "seconds. The original start is the image that is sought: what the net would make "
        "of a perfect start, an upper bound and no method. cond is another net, "
        "given the DIP output. These are restorations of given images, and share no table with the "
        "samples made from noise.",
        raw_table(
            ["way", "seconds an image", "PSNR, dB", "low", "high", "seeds"],
            [
                [w.words, w.seconds.mean, w.psnr.mean, w.psnr.low, w.psnr.high, len(w.group)]
                for w in found
            ],
        ),
    )


def _table(found: Sequence[Way]) -> Table:
    rows = []
    for way in found:
        settings = way.first.settings
        t0 = settings["t0"] if isinstance(settings["t0"], int) else None
        name = f"{way.start} (bound, no method)" if way.oracle else way.start
        sampler = str(settings["sampler"]) if way.steps else "–"
        sampled = mean_of(way.group, SAMPLING)
        made = None if sampled is None else way.seconds.mean - sampled.mean
        rows.append(
            [
                Cell(name, name),
                Cell(_t0_words(way, t0), t0),
                Cell(sampler, sampler),
                Cell(f"{way.steps:g}", way.steps),
                mean_cell(way.psnr),
                mean_cell(way.ssim),
                Cell(seconds(made), made),
                Cell(seconds(middle(sampled)), middle(sampled)),
                Cell(seconds(way.seconds.mean), way.seconds.mean),
                Cell(str(len(way.group)), len(way.group)),
            ]
        )
    rows.sort(key=lambda cells: -_float(cells[4].value))
    return Table(
        [
            "start",
            "t0",
            "sampler",
            "steps",
            "PSNR, dB",
            "SSIM",
            "start, an image",
            "sampling, an image",
            "both, an image",
            "seeds",
        ],
        rows,
        "All ways, from the highest PSNR to the lowest: mean over training seeds, for scores with "
        "the 95 % interval over images. 0 steps: the start itself, no net.",
        filterable=True,
    )


def _t0_words(way: Way, t0: int | None) -> str:
    if not way.steps:
        return "–"
    return "default" if t0 is None else str(t0)


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else -math.inf
