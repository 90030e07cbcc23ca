"""The sections along the axes of the grid, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import StageRow
from bench.stats import Effect, fitted_exponent
from reports.blocks import Block, Cell, Figure, Pictures, Section, Table, Text, raw_table
from reports.context import EPS_LOSS, LOSS_LEVELS, PER_IMAGE, TRAIN_SECONDS, Report
from reports.effects import effect_cells, missing
from reports.figures import quality as plots
from reports.figures import svg
from reports.figures.pictures import Strip, psnr, strip
from reports.figures.plots import Line
from reports.figures.quality import ScalingPanel
from reports.sections.quality import Chain, restoration_chain
from reports.tables import Outcome, Quantity, distinct, run_cell
from reports.words import number, plural, ratio_effect, three, times

SHOWN_IMAGES = 6
SHOWN_SAMPLES = 16


# Scaling ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """An axis of the grid, and its levels from the lowest to the highest."""

    factor: str
    label: str
    levels: Sequence[float]

    def effect(self, report: Report, quantity: Quantity) -> Effect | None:
        """The last level over the first."""
        return report.ratio(quantity, self.factor, self.levels[0], self.levels[-1])


def _axes(report: Report) -> list[_Axis]:
    named = (("num_images", "images"), ("epochs", "epochs"), ("num_train_timesteps", "timesteps"))
    axes = []
    for factor, label in named:
        levels = sorted({outcome.number(factor) for outcome in report.generated})
        if len(levels) > 1:
            axes.append(_Axis(factor, label, levels))
    return axes


def scaling(report: Report) -> Section:
    """Seconds and loss against each axis of the grid."""
    title, axes = "Scaling", _axes(report)
    if not axes:
        return Section("scaling", title, missing(report, "axis with more than one level"))
    panels = [
        _panel(report, axis, quantity) for quantity in (TRAIN_SECONDS, EPS_LOSS) for axis in axes
    ]
    figure = Figure(
        svg.render(
            "scaling",
            "Training seconds and held-out loss along the axes of the grid",
            lambda width: plots.scaling(panels, len(axes), width),
            wide=svg.BROAD,
        ),
        "A line a cell of the grid: round marks images, square marks DIP; both axes logarithmic. "
        "Above each panel the exponent of a power law where there are three levels or more, else "
        "the ratio of the last level to the first, mean over pairs. The loss is the mean over "
        f"{LOSS_LEVELS}, which all schedules have, so schedules compare.",
        raw_table(
            ["quantity", "against", "arm", "at", "value"],
            [
                [panel.ylabel, panel.xlabel, line.arm, x, y]
                for panel in panels
                for line in panel.lines
                for x, y in zip(line.x, line.y, strict=True)
            ],
        ),
        broad=True,
    )
    return Section("scaling", title, _finding(report, axes), [figure, _effects(report, axes)])


def _finding(report: Report, axes: Sequence[_Axis]) -> str:
    said = [
        f"{axis.levels[-1] / axis.levels[0]:.3g}× the {axis.label} took "
        f"{ratio_effect(effect, 'the training seconds')}"
        for axis in axes
        if (effect := axis.effect(report, TRAIN_SECONDS))
    ]
    return f"{'; '.join(said)}." if said else missing(report, "pair along an axis")


def _panel(report: Report, axis: _Axis, quantity: Quantity) -> ScalingPanel:
    # The setting of a line -> what all its points are after, in epochs -> its points.
    lines: dict[str, dict[float, dict[float, float]]] = {}
    arms: dict[str, str] = {}
    for outcome in distinct(report.generated, quantity):
        measured = quantity.of(outcome)
        if measured is not None and measured > 0 and outcome.record.repeat == 1:
            key = run_cell(outcome, axis.factor)
            epochs = 0.0 if axis.factor == "epochs" else outcome.number("epochs")
            points = lines.setdefault(key, {}).setdefault(epochs, {})
            points.setdefault(outcome.number(axis.factor), measured)
            arms[key] = str(outcome.settings["train_on"])
    drawn = []
    for key, milestones in lines.items():
        # The milestone that most of the runs reached, of those the last.
        _, points = max(milestones.items(), key=lambda item: (len(item[1]), item[0]))
        if len(points) > 1:
            drawn.append(Line(arms[key], sorted(points), [points[x] for x in sorted(points)]))
    return ScalingPanel(axis.label, quantity.name, drawn, _note(report, axis, quantity, drawn))


def _note(report: Report, axis: _Axis, quantity: Quantity, drawn: Sequence[Line]) -> str:
    if len(axis.levels) > 2:
        slopes = [fit.mean for line in drawn if (fit := fitted_exponent(line.x, line.y))]
        if slopes:
            return f"exponent {three(sum(slopes) / len(slopes))}, mean of {len(slopes)}"
    effect = axis.effect(report, quantity)
    return f"{times(effect.mean)}, {plural(effect.pairs, 'pair')}" if effect else "no pair"


def _effects(report: Report, axes: Sequence[_Axis]) -> Table:
    """Every factor of the grid on the two quantities that a pair can show."""
    factors = [(f"{axis.label}: {axis.levels[-1]:g} / {axis.levels[0]:g}", axis) for axis in axes]
    rows = [
        _effect_row(name, quantity, axis.effect(report, quantity))
        for name, axis in factors
        for quantity in (PER_IMAGE, EPS_LOSS)
    ]
    for quantity in (PER_IMAGE, EPS_LOSS):
        effect = report.ratio(quantity, "beta_schedule", "linear", "squaredcos_cap_v2")
        rows.append(_effect_row("schedule: squaredcos / linear", quantity, effect))
    return Table(
        ["factor", "of", "ratio", "95 % interval", "pairs", "sign-flip p"],
        rows,
        "Effects over all pairs that differ in that factor alone; descriptive, no correction for "
        "their number. The replicate of a time is the process, of a loss the seed of training.",
    )


def _effect_row(name: str, quantity: Quantity, effect: Effect | None) -> list[Cell]:
    return [
        Cell(name, name),
        Cell(quantity.name, quantity.name),
        *effect_cells(effect, of_seeds=quantity.of_seeds),
    ]


# Pictures --------------------------------------------------------------------------------------


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
    """The fit of the first chunk of training images, found by key from an outcome on DIP "
    "outputs."""
    for outcome in report.generated:
        join = _row(outcome, "join")
        if outcome.settings["train_on"] == "dip" and join and join.parents:
            fit = report.ledger.row(outcome.record.unit, join.parents[0])
            if fit and fit.parents:
                return outcome, fit
    return None


def _prior_finding(report: Report) -> str:
    found = _first_fit(report)
    if found is None:
        return "Pictures of this run, at whole-number zoom."
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
        strip(f"DIP{of}, {iteration}", images[:SHOWN_IMAGES], 1)
        for iteration, images in zip(
            tensors["snapshot_iters"].tolist(), tensors["snapshots"], strict=True
        )
    ]


def _strips(report: Report, wanted: Sequence[tuple[str, str, str]]) -> list[Strip]:
    """(label, key, name of the array) -> a column of pictures each; what is not there is left "
    "out."""
    found = [(label, report.artifacts.tensors(key).get(name)) for label, key, name in wanted]
    return [strip(label, images[:SHOWN_IMAGES], 1) for label, images in found if images is not None]


def _restoration_pictures(report: Report) -> list[Block]:
    chain = restoration_chain(report)
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
        "gave at the most steps."
    )
    return [Pictures(strips, caption)]


def _restorations(report: Report, chain: Chain) -> list[tuple[str, str, str]]:
    """The samples with the most steps of each start, from the chain's degraded images."""
    best: dict[str, Outcome] = {}
    for outcome in report.restored:
        start = str(outcome.settings["start_from"])
        degraded = any(charge.key == chain.degraded for charge in outcome.bill)
        steps = outcome.number("num_inference_steps")
        if degraded and (start not in best or steps > best[start].number("num_inference_steps")):
            best[start] = outcome
    return [
        (f"from {start}, {outcome.number('num_inference_steps'):g} steps", key, "images")
        for start, outcome in best.items()
        if (key := outcome.record.samples)
    ]


def _sample_pictures(report: Report) -> list[Block]:
    reference = report.reference
    strips = []
    for (train_on, loader), outcome in (reference.arms if reference else {}).items():
        images = report.artifacts.tensors(outcome.record.samples or "").get("images")
        if images is not None and loader == "memory":
            label = f"trained on {train_on}"
            shown = images[:SHOWN_SAMPLES]
            strips.append(strip(label, shown, 4, shown_width=64))
    if reference is None or not strips:
        return []
    return [
        Text("", "Samples"),
        Pictures(strips, f"Samples from noise at {reference.words}; the same noise for every arm."),
    ]
