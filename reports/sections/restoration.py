"""Restoration: held-out images with noise, and whether a start from a DIP is worth its seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bench.stats import Effect, Pair, over_replicates
from bench.verdicts import Verdict
from reports.blocks import Block, Cell, Figure, Section, Table, Text, raw_table
from reports.context import (
    HOW_RESTORED,
    PAIRED_PSNR,
    Report,
    cell_words,
    epochs_of,
    finite_score,
)
from reports.effects import VERDICT_COLUMNS, mean_cell, mean_of, middle, missing, verdict_cells
from reports.figures import restoration as plots
from reports.figures import svg
from reports.figures.restoration import Restored
from reports.pairs import Group, Quantity
from reports.tables import NOISE_AUTOCORRELATION, Outcome
from reports.words import judged, plural, seconds, three

SSIM = Quantity("SSIM", lambda one: finite_score("paired_ssim", one), of_seeds=True)
SECONDS = Quantity("seconds an image", lambda one: one.restoring_seconds, shared=True)
SAMPLING = Quantity(
    "sampling seconds an image",
    lambda one: (
        None
        if (taken := one.group_seconds("sample")) is None
        else taken / one.number("num_samples")
    ),
)
SCORED = "score_restoration"
OF_IMAGES = ("per_image/paired_psnr", "per_image/paired_ssim")
# A start that has the image that is sought. It is no method.
ORACLE = "original"


@dataclass(frozen=True)
class Way:
    """A way to restore, over seeds: an outcome each.

    psnrs, ssims: seed -> of each image, dB; empty where the run has kept none
    """

    group: Group
    psnrs: dict[int, np.ndarray]
    ssims: dict[int, np.ndarray]
    seconds: Effect

    @cached_property
    def psnr(self) -> Effect:
        """Over images, each the mean over seeds."""
        found = _over_images(self.psnrs) or _without_interval(mean_of(self.group, PAIRED_PSNR))
        assert found is not None  # a way has it
        return found

    @cached_property
    def ssim(self) -> Effect | None:
        return _over_images(self.ssims) or _without_interval(mean_of(self.group, SSIM))

    @property
    def first(self) -> Outcome:
        return self.group[0]

    @property
    def start(self) -> str:
        """The start image, with its weights where they are not the default; cond: the DIP output
        is given to the net instead."""
        settings = self.first.settings
        if settings["condition_on"] != "nothing":
            return "cond"
        weights = [
            f"{letter} = {self.first.number(name):g}"
            for letter, name in (("a", "start_image_weight"), ("b", "start_noise_weight"))
            if settings.get(name) is not None
        ]
        return ", ".join([str(settings["start_from"]), *weights])

    @property
    def steps(self) -> float:
        return self.first.number("num_inference_steps")

    @property
    def oracle(self) -> bool:
        return self.start.startswith(ORACLE)

    @property
    def from_dip(self) -> bool:
        """A DIP start, whatever its weights, denoised by a net."""
        return self.first.settings["start_from"] == "dip" and self.steps > 0

    @property
    def noise(self) -> bool:
        """Whether what a net made of it looks like noise, in any seed."""
        return self.steps > 0 and any(one.looks_like_noise for one in self.group)

    @property
    def words(self) -> str:
        """dip, t0 250, ddim, 20 steps; nlm alone."""
        if not self.steps:
            return f"{self.start} alone"
        settings = self.first.settings
        t0 = "" if settings["t0"] is None else f"t0 {settings['t0']}, "
        return f"{self.start}, {t0}{settings['sampler']}, {plural(int(self.steps), 'step')}"


def ways(report: Report) -> list[Way]:
    """Those of the largest set of restorations with a known PSNR and time, in their order."""
    groups: dict[str, dict[int, Outcome]] = {}
    for outcome in report.restored:
        key = repr([outcome.settings.get(name) for name in HOW_RESTORED])
        groups.setdefault(key, {}).setdefault(outcome.record.seed, outcome)
    found = []
    for seeds in groups.values():
        group = tuple(seeds[seed] for seed in sorted(seeds))
        known, taken = mean_of(group, PAIRED_PSNR), mean_of(group, SECONDS)
        if known is not None and taken is not None:
            scores = {one.record.seed: _of_images(report, one) for one in group}
            psnrs, ssims = (
                {seed: kept[name] for seed, kept in scores.items()} if all(scores.values()) else {}
                for name in OF_IMAGES
            )
            found.append(Way(group, psnrs, ssims, taken))
    return found


def _of_images(report: Report, outcome: Outcome) -> dict[str, np.ndarray]:
    """The scores of each image by OF_IMAGES; empty if the run has not kept them."""
    key = next((charge.key for charge in outcome.bill if charge.function == SCORED), None)
    kept = report.artifacts.tensors(key) if key else {}
    return kept if kept.keys() >= set(OF_IMAGES) else {}


def _over_images(scores: dict[int, np.ndarray]) -> Effect | None:
    return over_replicates(np.mean([*scores.values()], axis=0).tolist()) if scores else None


def _without_interval(effect: Effect | None) -> Effect | None:
    return effect and replace(effect, low=None, high=None, p=None, standard_error=None)


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


@dataclass(frozen=True)
class Comparison:
    """A DIP start against the best of others that take no DIP and no more seconds.

    rule: of which others
    """

    way: Way
    other: Way
    rule: str

    @property
    def verdict(self) -> Verdict:
        return judge_psnr(_pairs(self.other, self.way), len(self.way.psnrs))


def judge_psnr(pairs: Iterable[Pair], seeds: int) -> Verdict:
    """The word for differences of PSNR in dB, image by image, each the mean over the seeds."""
    effect = PAIRED_PSNR.effect(pairs)
    return PAIRED_PSNR.judge(effect, seeds=seeds)


def _pairs(base: Way, other: Way) -> list[Pair]:
    """Image by image, over the seeds that both have."""
    common = [seed for seed in other.psnrs if seed in base.psnrs]
    if not common:
        return []
    sides = (np.mean([way.psnrs[seed] for seed in common], axis=0) for way in (base, other))
    return [
        Pair(float(low), float(high), frozenset({f"image {i}"}))
        for i, (low, high) in enumerate(zip(*sides, strict=True))
    ]


OF_DEGRADED, OF_ALL = "degraded starts", "all without a DIP"


def compared(found: Sequence[Way]) -> list[Comparison]:
    """Each DIP start against the best of the degraded starts, and of all that take no DIP."""
    comparisons = []
    for way in found:
        if way.from_dip:
            for rule, others in _rivals(found).items():
                cheap = _no_dearer(others, way)
                if cheap:
                    best = max(cheap, key=lambda other: other.psnr.mean)
                    comparisons.append(Comparison(way, best, rule))
    return comparisons


def _rivals(found: Sequence[Way]) -> dict[str, list[Way]]:
    plain = [way for way in found if not way.oracle and not way.first.from_priors]
    degraded = [way for way in plain if way.start == "degraded" and way.steps]
    return {OF_DEGRADED: degraded, OF_ALL: plain}


def _no_dearer(others: Iterable[Way], way: Way) -> list[Way]:
    return [other for other in others if other.seconds.mean <= way.seconds.mean]


def whole(found: Sequence[Way]) -> list[Way]:
    """Those of all seeds, with the scores of each image, none of which looks like noise."""
    most = max((len(way.group) for way in found), default=0)
    return [way for way in found if len(way.psnrs) == most and not way.noise]


def best_pairs(found: Sequence[Way], rule: str) -> list[Pair]:
    """The best DIP start against the best of the others at no more seconds, image by image.

    For one half of the images both are chosen by their mean PSNR over the other half, and the
    reverse: no image is judged by a choice in which it had a part. One image alone has.
    """
    dips, rivals = [way for way in found if way.from_dip], _rivals(found)[rule]
    count = next((len(psnrs) for way in dips for psnrs in way.psnrs.values()), 0)
    pairs = []
    for half in (0, 1):
        judging = range(half, count, 2)
        chosen = _best(dips, range(1 - half, count, 2) or judging)
        cheap = _no_dearer(rivals, chosen) if chosen else []
        other = _best(cheap, range(1 - half, count, 2) or judging)
        if chosen and other:
            both = _pairs(other, chosen)
            pairs += [both[i] for i in judging]
    return pairs


def _best(found: Iterable[Way], images: range) -> Way | None:
    def psnr(way: Way) -> float:
        return float(np.mean([psnrs[images] for psnrs in way.psnrs.values()]))

    return max(found, key=psnr, default=None)


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
    """The best of each start, where no DIP start is to be compared."""
    best: dict[str, Way] = {}
    for way in sorted(found, key=lambda way: way.psnr.mean):
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
        "Bars: 95 % interval over images. Line: the Pareto front, the highest PSNR for so many "
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
