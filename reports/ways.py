"""Ways to restore an image, over the outcomes of a run: what each reached, and in what time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bench.stats import Effect, Pair, over_replicates
from bench.verdicts import Verdict
from reports.context import HOW_RESTORED, PAIRED_PSNR, Report, finite_score
from reports.effects import mean_of
from reports.pairs import Group, Quantity
from reports.tables import Outcome
from reports.words import plural

SSIM = Quantity("SSIM", lambda one: finite_score("paired_ssim", one), unit="", of_seeds=True)
SECONDS = Quantity("seconds an image", lambda one: one.restoring_seconds, shared=True)
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
