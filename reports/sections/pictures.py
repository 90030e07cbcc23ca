"""Pictures: originals and priors, degraded images and their restorations, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.records import StageRow
from reports.blocks import Block, Pictures, Section, Text
from reports.context import Reference, Report
from reports.effects import missing
from reports.figures.pictures import Strip, psnr, strip
from reports.tables import Outcome
from reports.ways import Way, ways
from reports.words import number, three

MAX_IMAGES = 6
# Of a column of pictures: larger images are fewer, or the page would be too large for a phone.
MAX_PIXELS = 6 * 64 * 64
SHOWN_SAMPLES = 16


def pictures(report: Report) -> Section:
    """Originals and priors, degraded images and their restorations, samples."""
    blocks: list[Block] = [
        *_prior_pictures(report),
        *_restoration_pictures(report),
        *_sample_pictures(report),
    ]
    if not blocks:
        return Section("pictures", "Pictures", missing(report, "stored picture"))
    said = _prior_finding(report)
    return Section("pictures", "Pictures", said, blocks)


def _row(outcome: Outcome, function: str, *, first: bool = False) -> StageRow | None:
    rows = [charge.row for charge in outcome.bill if charge.function == function and charge.row]
    return None if not rows else rows[0] if first else rows[-1]


def _first_fit(report: Report) -> tuple[Outcome, StageRow] | None:
    """The fit of the first chunk of training images, found by key from one on DIP outputs."""
    for outcome in report.generated:
        join = _row(outcome, "join") if outcome.settings["train_on"] == "dip" else None
        if join and join.parents:
            fit = report.ledger.row(outcome.record.unit, join.parents[0])
            if fit and fit.parents:
                return outcome, fit
    return None


def _prior_finding(report: Report) -> str:
    found = _first_fit(report)
    if found is None:
        return "No DIP of training images in this run; other pictures at whole-number zoom."
    _, fit = found
    originals = report.artifacts.tensors(fit.parents[0]).get("pixels")
    outputs = report.artifacts.tensors(fit.key).get("outputs")
    if originals is None or outputs is None:
        return "The pictures of the priors are missing or could not be read."
    each = psnr(outputs, originals)
    return (
        f"The DIP of {len(each)} training images after {number(found[0].number('num_iter'))} "
        f"iterations has a mean PSNR of {three(float(each.mean()))} dB to its image (from "
        f"{three(float(each.min()))} to {three(float(each.max()))} dB)."
    )


def _prior_pictures(report: Report) -> list[Block]:
    found = _first_fit(report)
    if found is None:
        return []
    _, fit = found
    strips = _strips(report, [("original", fit.parents[0], "pixels")])
    strips += _snapshots(report, fit.key)
    if not strips:
        return []
    return [
        Pictures(
            strips,
            "Rows: training images. Columns: the original, and its DIP after so many iterations.",
        )
    ]


def _snapshots(report: Report, key: str, *, of: str = "") -> list[Strip]:
    tensors = report.artifacts.tensors(key)
    if not {"snapshots", "snapshot_iters"} <= set(tensors):
        return []
    return [
        strip(f"DIP{of}, {iteration}", _shown(images), 1)
        for iteration, images in zip(
            tensors["snapshot_iters"].tolist(), tensors["snapshots"], strict=True
        )
    ]


def _shown(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[-2:]
    return images[: min(MAX_IMAGES, max(2, MAX_PIXELS // (height * width)))]


def _strips(report: Report, wanted: Sequence[tuple[str, str, str]]) -> list[Strip]:
    """(label, key, name of the array) -> a column of pictures; what is not there is left out."""
    found = [(label, report.artifacts.tensors(key).get(name)) for label, key, name in wanted]
    return [strip(label, _shown(images), 1) for label, images in found if images is not None]


@dataclass(frozen=True)
class _Chain:
    """Keys of the pictures on the way of a restoration; priors: fits, in the images' order."""

    outcome: Outcome
    originals: str
    degraded: str
    priors: tuple[str, ...]


def _restoration_chain(report: Report) -> _Chain | None:
    """Followed by key from an outcome that starts from a DIP, else from any restoration."""
    wanted = sorted(report.restored, key=lambda outcome: outcome.settings["start_from"] != "dip")
    for outcome in wanted:
        rows = {charge.function: charge.row for charge in outcome.bill if charge.row}
        scored = rows.get("score_restoration")
        if scored is None:
            continue
        degraded = next(
            (key for key in scored.parents if _function(report, outcome, key) == "degrade"), None
        )
        made = degraded and report.ledger.row(outcome.record.unit, degraded)
        if degraded and made and made.parents:
            joins = [
                charge.row
                for charge in outcome.bill
                if charge.function == "join" and charge.key in outcome.made_start and charge.row
            ]
            # The parts of a join are its parents in their order.
            priors = joins[-1].parents if joins else ()
            return _Chain(outcome, made.parents[0], degraded, priors)
    return None


def _function(report: Report, outcome: Outcome, key: str) -> str | None:
    row = report.ledger.row(outcome.record.unit, key)
    return row.function if row else None


def _restoration_pictures(report: Report) -> list[Block]:
    chain = _restoration_chain(report)
    if chain is None:
        return []
    strips = _strips(
        report, [("original", chain.originals, "pixels"), ("degraded", chain.degraded, "pixels")]
    )
    strips += _snapshots(report, chain.priors[0], of=" of it")[-1:] if chain.priors else []
    strips += _strips(report, _restorations(report, chain))
    if not strips:
        return []
    caption = (
        "Rows: held-out images. Columns: the original, the same with noise, and what each start "
        "gave at the most steps, of the settings with as many the first; the original start is an "
        "upper bound, no method."
    )
    return [Pictures(strips, caption)]


def _restorations(report: Report, chain: _Chain) -> list[tuple[str, str, str]]:
    """Of each start the samples with the most steps, from the chain's degraded images."""
    most: dict[str, Way] = {}
    for way in ways(report):
        own = [one for one in way.group if any(c.key == chain.degraded for c in one.bill)]
        if own and (way.start not in most or way.steps > most[way.start].steps):
            most[way.start] = replace(way, group=tuple(own))
    return [
        (way.words, key, "images") for way in most.values() if (key := way.first.record.samples)
    ]


def _sample_pictures(report: Report) -> list[Block]:
    reference = report.reference
    strips = []
    for target, group in (reference.by_target if reference else {}).items():
        images = report.artifacts.tensors(group[0].record.samples or "").get("images")
        if images is not None:
            shown = images[:SHOWN_SAMPLES]
            strips.append(strip(f"trained on {target}", shown, 4, shown_width=64))
    if reference is None or not strips:
        return []
    return [
        Text("", "Samples"),
        Pictures(
            strips,
            f"Samples from noise at {reference.words}, of the first seed; the same noise for every "
            "arm.",
        ),
        *_neighbours(report, reference),
        *_paths(report, reference),
    ]


def _neighbours(report: Report, reference: Reference) -> list[Block]:
    """Beside samples what they are nearest to of what was trained on."""
    trained_on = _trained_on(report, reference)
    strips = []
    for target, group in reference.by_target.items():
        images = report.artifacts.tensors(group[0].record.samples or "").get("images")
        if images is not None and target in trained_on:
            shown = _shown(images)
            strips.append(strip(f"trained on {target}", shown, 1))
            strips.append(strip("nearest of those", nearest(shown, trained_on[target]), 1))
    if not strips:
        return []
    return [
        Pictures(
            strips,
            "Samples, and beside each the image of those trained on, or its mirror image, from "
            "which its pixels differ the least in the mean square: a copy would look alike.",
        )
    ]


def _trained_on(report: Report, reference: Reference) -> dict[str, np.ndarray]:
    """The training images and their DIP outputs, from the fits that the run has kept."""
    group = reference.by_target.get("dip", ())
    join = _row(group[0], "join") if group else None
    found: dict[str, list[np.ndarray]] = {"images": [], "dip": []}
    for key in join.parents if join else ():
        fit = report.ledger.row(group[0].record.unit, key)
        given = fit.parents[0] if fit and fit.parents else ""
        for target, of, name in (("images", given, "pixels"), ("dip", key, "outputs")):
            part = report.artifacts.tensors(of).get(name)
            if part is None:
                return {}
            found[target].append(part)
    return {target: np.concatenate(parts) for target, parts in found.items() if parts}


def nearest(samples: np.ndarray, images: np.ndarray) -> np.ndarray:
    """For each of (N, 3, H, W) the one of `images`, or of their mirror images, with the least mean
    squared error."""
    both = np.concatenate([images, images[..., ::-1]])
    flat = both.reshape(len(both), -1)
    return np.stack(
        [both[np.argmin(((flat - one.reshape(-1)) ** 2).mean(axis=1))] for one in samples]
    )


def _paths(report: Report, reference: Reference) -> list[Block]:
    """The first samples on their way from noise."""
    blocks: list[Block] = []
    for target, group in reference.by_target.items():
        tensors = report.artifacts.tensors(group[0].record.samples or "")
        if not {"path", "path_timesteps", "images"} <= tensors.keys():
            continue
        path = tensors["path"]
        strips = [
            strip(f"t = {t}", images, 1)
            for t, images in zip(tensors["path_timesteps"].tolist(), path, strict=True)
        ]
        strips.append(strip("sample", tensors["images"][: path.shape[1]], 1))
        caption = (
            f"The way from noise of a net trained on {target}: x_t of its first samples before the "
            "step at timestep t, clipped to the range of images."
        )
        blocks.append(Pictures(strips, caption))
    return blocks
