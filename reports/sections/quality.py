"""The sections on what came out: loss, scores with their anchors, restoration."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.stats import effect_of
from reports.blocks import Block, Figure, Note, Section, Table, raw_table
from reports.context import LOSS_LEVELS, Report, arm_of, cell_words, eps_loss, facet_key
from reports.effects import missing
from reports.figures import quality as plots
from reports.figures import svg
from reports.figures.pictures import psnr
from reports.figures.plots import Line
from reports.figures.quality import AnchorPanel, Facet, Restored
from reports.tables import Outcome
from reports.words import change, number, plural, seconds, three

# Below it, neighbouring pixels of a picture have next to nothing in common.
NOISE_AUTOCORRELATION = 0.2
MAX_FACETS = 12


# Held-out loss -----------------------------------------------------------------------------------


def loss(report: Report) -> Section:
    """The headline: held-out loss against total seconds, the priors' included."""
    title, reference = "Held-out loss against total seconds", report.reference
    facets = _facets(report)
    if reference is None or reference.key not in facets:
        return Section("loss", title, missing(report, "held-out loss with a complete bill"))
    first = facets.pop(reference.key)
    blocks: list[Block] = [
        Figure(
            svg.render(
                "loss",
                "Held-out loss against total seconds",
                lambda width: plots.loss_curve(first, width),
            ),
            f"At {first.title}, images in memory; a mark a milestone, one run each, no "
            "interval; pale: the same case run again, or with another seed. The DIP line begins "
            "after the time it takes to fit its priors. Loss: mean squared error of the predicted "
            f"noise on held-out images, mean over {LOSS_LEVELS}, the same noise for every arm.",
            _loss_data([first]),
        )
    ]
    others = list(facets.values())[:MAX_FACETS]
    if others:
        left = len(facets) - len(others)
        blocks.append(
            Figure(
                svg.render(
                    "loss-cells",
                    "The same at the other settings",
                    lambda width: plots.loss_facets(others, width),
                ),
                "The same at the other settings of this run, on common axes"
                + (f"; {left} more are in the results table." if left else "."),
                _loss_data(others),
            )
        )
    return Section("loss", title, _loss_finding(report), blocks)


def _loss_finding(report: Report) -> str:
    reference, effect = report.reference, report.dip_loss
    arms = reference.arms if reference else {}
    with_dip, plain = arms.get(("dip", "memory")), arms.get(("images", "memory"))
    if with_dip is None or plain is None or effect is None:
        return missing(report, "pair of arms with and without DIP at one setting")
    return (
        f"After {plain.number('epochs'):g} epochs the held-out loss was "
        f"{number(eps_loss(with_dip))} with DIP, reached in {_reached(with_dip)}, and "
        f"{number(eps_loss(plain))} without, reached in {_reached(plain)} (one run each, no "
        "interval). Over all settings the loss with DIP was "
        f"{change(effect, 'higher', 'lower', of_seeds=True)}."
    )


def _reached(outcome: Outcome) -> str:
    unknown = "an unknown time (part of its bill is missing)"
    return unknown if outcome.net_seconds is None else seconds(outcome.net_seconds)


def _facets(report: Report) -> dict[str, Facet]:
    """A cell of the grid each, its arms in memory, in the order of the outcomes."""
    cells: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in report.generated:
        known = outcome.net_seconds is not None and eps_loss(outcome) is not None
        if known and arm_of(outcome)[1] == "memory":
            runs = cells.setdefault(facet_key(outcome), {})
            runs.setdefault(outcome.record.unit, []).append(outcome)
    return {key: _facet(runs) for key, runs in cells.items()}


def _facet(runs: dict[str, list[Outcome]]) -> Facet:
    lines: list[Line] = []
    priors = None
    for outcomes in runs.values():
        own = sorted(outcomes, key=lambda outcome: outcome.number("epochs"))
        arm = str(own[0].settings["train_on"])
        if arm == "dip":
            priors = own[0].group_seconds("priors")
        lines.append(
            Line(
                arm,
                [outcome.net_seconds or 0.0 for outcome in own],
                [eps_loss(outcome) or 0.0 for outcome in own],
                f"{arm}, {number(eps_loss(own[-1]))} in {seconds(own[-1].net_seconds)}",
                # One run an arm is drawn in full, its repeats and other seeds beside it.
                faint=any(line.arm == arm for line in lines),
            )
        )
    return Facet(cell_words(next(iter(runs.values()))[0]), lines, priors)


def _loss_data(facets: Sequence[Facet]) -> Table:
    return raw_table(
        ["setting", "arm", "seconds", "held-out eps loss"],
        [
            [facet.title, f"{line.arm}{', again' if line.faint else ''}", x, y]
            for facet in facets
            for line in facet.lines
            for x, y in zip(line.x, line.y, strict=True)
        ],
    )


# Quality ---------------------------------------------------------------------------------------


def near_noise(report: Report) -> float | None:
    """The mean lag-1 autocorrelation of the samples if it is near 0; None if they are pictures."""
    found = [one.score("lag1_autocorrelation") for one in report.generated]
    known = [value for value in found if value is not None]
    if known and (mean := statistics.fmean(known)) < NOISE_AUTOCORRELATION:
        return mean
    return None


def quality(report: Report) -> Section:
    """The published scores with their anchors."""
    title = "Quality, with anchors"
    panels = [
        panel
        for name, label in (("psnr", "all-pairs PSNR, dB"), ("ssim", "all-pairs SSIM"))
        if (panel := _anchor_panel(report, name, label))
    ]
    if not panels:
        return Section("quality", title, missing(report, "scored sample"))
    blocks: list[Block] = []
    noise = near_noise(report)
    if noise is not None:
        blocks.append(
            Note(
                "These samples look like noise: their mean lag-1 autocorrelation is "
                f"{three(noise)}, below {NOISE_AUTOCORRELATION}. This run judges no quality of "
                "samples."
            )
        )
    blocks.append(
        Figure(
            svg.render(
                "quality",
                "All-pairs PSNR and SSIM with anchors",
                lambda width: plots.anchors(panels, width),
                wide=svg.BROAD,
            ),
            "A mark an outcome, in each column from the fewest epochs to the most; rules: what "
            "the same score gives to things that are no samples. This is the published score, "
            "kept as legacy: each sample against each of the first 16 images, so its optimum is "
            "their mean image, and it measures no quality.",
            raw_table(
                ["score", "of", "value"],
                [
                    [panel.title, name, value]
                    for panel in panels
                    for name, value in [
                        *((label, v) for label, (_, vs) in panel.columns.items() for v in vs),
                        *((f"anchor: {anchor}", level) for anchor, level in panel.anchors.items()),
                    ]
                ],
            ),
            broad=True,
        )
    )
    return Section("quality", title, _quality_finding(panels[0]), blocks)


def _anchor_panel(report: Report, name: str, label: str) -> AnchorPanel | None:
    columns: dict[str, tuple[str, list[float]]] = {}
    anchors: dict[str, float] = {}
    for outcome in sorted(report.generated, key=lambda outcome: outcome.number("epochs")):
        value = outcome.score(f"all_pairs_{name}")
        if value is None or not math.isfinite(value):
            continue
        arm = str(outcome.settings["train_on"])
        columns.setdefault(f"trained on\n{arm}", (arm, []))[1].append(value)
        for score, level in outcome.record.scores.items():
            if score.startswith("anchor_") and score.endswith(f"_{name}"):
                anchors[score.removeprefix("anchor_").removesuffix(f"_{name}")] = level
    if not columns:
        return None
    return AnchorPanel(label, label, columns, anchors)


def _quality_finding(panel: AnchorPanel) -> str:
    found = [value for _, of_column in panel.columns.values() for value in of_column]
    grey, real = panel.anchors.get("grey"), panel.anchors.get("held_out_real")
    low, high = three(min(found)), three(max(found))
    said = f"All-pairs PSNR of {plural(len(found), 'outcome')}: {low} to {high} dB"
    if grey is None or real is None:
        return f"{said}."
    below = sum(value < grey for value in found)
    return (
        f"{said}; {below} of them lie below a flat grey square ({three(grey)} dB), and real "
        f"held-out images reach {three(real)} dB."
    )


# Restoration -----------------------------------------------------------------------------------


def restoration(report: Report) -> Section:
    """Held-out images with noise, restored from several starts by one trained net."""
    title = "Restoration"
    points = [point for one in report.restored if (point := _restored(report, one)) is not None]
    if not points:
        return Section("restoration", title, missing(report, "restoration"))
    degraded = report.restored[0].score("degraded_psnr")
    alone = _dip_alone(report)
    shown = [*points, *([alone] if alone else [])]
    count = report.restored[0].number("num_samples")
    figure = Figure(
        svg.render(
            "restoration",
            "PSNR of restored images against seconds",
            lambda width: plots.restoration(shown, degraded, width),
        ),
        f"By the net of {_net_words(report.restored[0])}. "
        f"Mean PSNR of {count:g} held-out images to their originals against the seconds that "
        "making the start and the reverse process took, all images together; training the net is "
        "not in it, it is the same for all. A mark a number of steps; bars: 95 % interval over "
        "the images of one net. A DIP is fitted to the degraded image. These are restorations of "
        "given images, and share no table with the samples made from noise.",
        raw_table(
            ["start", "steps", "seconds", "PSNR, dB", "half-width, dB"],
            [[p.start, p.steps, p.seconds, p.psnr, p.half_width] for p in shown],
        ),
    )
    return Section("restoration", title, _restoration_finding(points, degraded, alone), [figure])


def _net_words(outcome: Outcome) -> str:
    return f"{cell_words(outcome)}, {outcome.number('epochs'):g} epochs"


def _restored(report: Report, outcome: Outcome) -> Restored | None:
    value, made = outcome.score("paired_psnr"), outcome.start_seconds
    sampled = outcome.group_seconds("sample")
    if value is None or not math.isfinite(value) or made is None or sampled is None:
        return None
    half = None
    for charge in outcome.bill:
        if charge.function == "score_restoration":
            each = report.artifacts.tensors(charge.key).get("per_image/paired_psnr")
            half = None if each is None else _half_width(each)
    start = str(outcome.settings["start_from"])
    return Restored(start, outcome.number("num_inference_steps"), made + sampled, value, half)


def _half_width(each: np.ndarray) -> float | None:
    effect = effect_of(each.tolist())
    return (
        None if effect.high is None or not math.isfinite(effect.high) else effect.high - effect.mean
    )


def _dip_alone(report: Report) -> Restored | None:
    """The DIP of the degraded images, before any denoising net."""
    chain = restoration_chain(report)
    if chain is None:
        return None
    made = chain.outcome.start_seconds
    originals = report.artifacts.tensors(chain.originals).get("pixels")
    chunks = [report.artifacts.tensors(key).get("outputs") for key in chain.priors]
    outputs = [chunk for chunk in chunks if chunk is not None]
    # The seconds are of all the chunks, so the images must be too.
    if made is None or originals is None or not outputs or len(outputs) < len(chunks):
        return None
    whole = np.concatenate(outputs)
    each = psnr(whole, originals[: len(whole)])
    return Restored("dip", None, made, float(each.mean()), _half_width(each))


def _restoration_finding(
    points: Sequence[Restored], degraded: float | None, alone: Restored | None
) -> str:
    best = {p.start: p for p in sorted(points, key=lambda p: p.psnr)}
    said = [
        f"from {start} {three(p.psnr)} dB in {seconds(p.seconds)}"
        for start, p in sorted(best.items(), key=lambda item: -item[1].psnr)
    ]
    text = f"The best of each start: {', '.join(said)}"
    if degraded is not None:
        text += f"; the degraded input itself has {three(degraded)} dB"
    if alone is not None:
        text += f", a DIP of it {three(alone.psnr)} dB"
    return f"{text} (one net, no interval over trainings)."


@dataclass(frozen=True)
class Chain:
    """Keys of the pictures on the way of a restoration; priors: fits, in the images' order."""

    outcome: Outcome
    originals: str
    degraded: str
    priors: tuple[str, ...]


def restoration_chain(report: Report) -> Chain | None:
    """Followed by key from an outcome that starts from a DIP, else from any restoration."""
    wanted = sorted(report.restored, key=lambda outcome: outcome.settings["start_from"] != "dip")
    for outcome in wanted:
        rows = {charge.function: charge.row for charge in outcome.bill if charge.row}
        degrade, join = rows.get("degrade"), None
        for charge in outcome.bill:
            if charge.function == "join" and charge.key in outcome.made_start:
                join = charge.row
        if degrade and degrade.parents:
            # The parts of a join are its parents in their order.
            priors = join.parents if join else ()
            return Chain(outcome, degrade.parents[0], degrade.key, priors)
    return None
