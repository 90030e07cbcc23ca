"""What came out of sampling: the published scores with their anchors, and those of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reports.blocks import Block, Cell, Figure, Note, Section, Table, Text, raw_table
from reports.context import Report, epochs_of, facet_key, finite_score
from reports.effects import mean_by_seed, mean_cell, missing, spread_cell
from reports.figures import quality as plots
from reports.figures import svg
from reports.figures.quality import SPREAD, AnchorPanel
from reports.pairs import Key, Quantity
from reports.tables import NOISE_AUTOCORRELATION, Outcome
from reports.words import plural, three

MIXED = "mixed ranges"
# More dots in a column hide each other.
MAX_DOTS = 200
# Settings with a row of their own in the table of features.
MAX_ROWS = 300
_ANCHOR = "anchor_"


def quality(report: Report) -> Section:
    """The published scores with their anchors."""
    title = "Quality, with anchors"
    panels = _panels(report)
    if not panels:
        return Section("quality", title, missing(report, "scored sample"))
    blocks: list[Block] = []
    noise = sum(one.looks_like_noise for one in report.generated)
    if noise:
        blocks.append(
            Note(
                f"Of {plural(len(report.generated), 'outcome')} the samples of {noise} look like "
                f"noise: their lag-1 autocorrelation is below {NOISE_AUTOCORRELATION}. No score of "
                "these is one of quality, and no word of this page on samples is of a setting that "
                "has such."
            )
        )
    blocks.append(_figure(panels))
    blocks += _features(report)
    return Section("quality", title, _finding(panels[0]), blocks)


def _figure(panels: Sequence[AnchorPanel]) -> Figure:
    mixed = any(MIXED in panel.title for panel in panels)
    return Figure(
        svg.render(
            "quality",
            "Scores of samples with their anchors",
            lambda width: plots.anchors(panels, width),
            wide=svg.BROAD,
        ),
        "A mark an outcome, in each column from the fewest epochs to the most; rules: what the "
        "same score gives to things that are no samples. The all-pairs scores are the published "
        "ones, kept as legacy: each sample against each of the first 16 images, so their optimum "
        "is the mean image, and they measure no quality."
        + (
            f" Of more than {MAX_DOTS} outcomes the median, with half of them in the thick bar and "
            "nine tenths in the thin one."
            if any(panel.spreads for panel in panels)
            else ""
        )
        + (
            " Mixed ranges is the published flaw: samples in [0, 1] against references in "
            "[−1, 1]; copies is what a pixel-perfect copy of the references gets."
            if mixed
            else ""
        ),
        raw_table(
            ["score", "of", "value"],
            [
                [panel.title, name, value]
                for panel in panels
                for name, value in [
                    *(
                        (f"trained on {arm}{of_all}", value)
                        for arm, values in panel.columns.items()
                        for of_all, value in zip(
                            _shares(arm in panel.spreads, len(values)), values, strict=True
                        )
                    ),
                    *((f"anchor: {anchor}", level) for anchor, level in panel.anchors.items()),
                ]
            ],
        ),
        broad=True,
    )


def _shares(is_spread: bool, count: int) -> list[str]:
    """Which values of a column they are."""
    return [f", quantile {share:g}" for share in SPREAD] if is_spread else [""] * count


def _panels(report: Report) -> list[AnchorPanel]:
    """The published scores, each range by itself, and KID."""
    ranges = dict.fromkeys(one.settings.get("score_range") for one in report.generated)
    panels = []
    for score_range in ranges:
        found = [one for one in report.generated if one.settings.get("score_range") == score_range]
        note = f", {MIXED}" if score_range == "mixed" else ""
        levels = _anchor_levels(found)
        for name, label in (("psnr", "All-pairs PSNR, dB"), ("ssim", "All-pairs SSIM")):
            anchors = {
                anchor.removesuffix(f"_{name}"): level
                for anchor, level in levels.items()
                # In a common range a copy is compared with itself too, which is infinite.
                if anchor.endswith(f"_{name}") and (note or "copies" not in anchor)
            }
            panels.append(_panel(found, f"all_pairs_{name}", f"{label}{note}", anchors))
    panels.append(_panel(report.generated, "kid_efflite0", "KID, efflite0", {"two real sets": 0.0}))
    return [panel for panel in panels if panel.columns]


def _anchor_levels(found: Sequence[Outcome]) -> dict[str, float]:
    """Of each anchor the last score that is finite."""
    names = dict.fromkeys(
        name for one in found for name in one.record.scores if name.startswith(_ANCHOR)
    )
    levels = {}
    for name in names:
        told = (finite_score(name, one) for one in reversed(found))
        level = next((level for level in told if level is not None), None)
        if level is not None:
            levels[name.removeprefix(_ANCHOR)] = level
    return levels


def _panel(
    found: Sequence[Outcome], score: str, label: str, anchors: dict[str, float]
) -> AnchorPanel:
    columns: dict[str, Sequence[float]] = {}
    single: dict[str, list[float]] = {}
    for outcome in sorted(found, key=lambda outcome: outcome.number("epochs")):
        value = finite_score(score, outcome)
        if value is not None:
            single.setdefault(str(outcome.settings["train_on"]), []).append(value)
    many = frozenset(arm for arm, values in single.items() if len(values) > MAX_DOTS)
    for arm, values in single.items():
        columns[arm] = np.quantile(values, SPREAD).tolist() if arm in many else values
    return AnchorPanel(label, columns, anchors, many)


def _finding(panel: AnchorPanel) -> str:
    found = [value for of_column in panel.columns.values() for value in of_column]
    said = f"{panel.title.split(',')[0]} of {plural(len(found), 'outcome')}: "
    said += f"{three(min(found))} to {three(max(found))} dB"
    for anchor, words in (
        ("grey", "a flat grey square"),
        ("held_out_real", "real held-out images"),
        ("copies", "pixel-perfect copies, the ranges being mixed,"),
    ):
        level = panel.anchors.get(anchor)
        if level is not None:
            below = sum(value < level for value in found)
            said += f"; {below} of them lie below {words} ({three(level)} dB)"
    return f"{said}."


# Features ----------------------------------------------------------------------------------------

_FEATURES = (
    ("KID", "kid_efflite0"),
    ("single nets, from", "kid_efflite0_low"),
    ("to", "kid_efflite0_high"),
    ("nearest training", "nearest_training_efflite0"),
    ("nearest held-out", "nearest_held_out_efflite0"),
    ("floor: real to real", "nearest_real_efflite0"),
    ("precision", "precision_efflite0"),
    ("recall", "recall_efflite0"),
)


def _features(report: Report) -> list[Block]:
    """KID with both of its intervals, and distances to the nearest images with their floor."""
    groups: _Features = {}
    for one in report.generated:
        if one.record.repeat == 1 and finite_score("kid_efflite0", one) is not None:
            counts = one.number("epochs"), one.number("num_samples")
            key = (facet_key(one), *counts, str(one.settings["train_on"]))
            groups.setdefault(key, []).append(one)
    if not groups:
        return [Text(missing(report, "set of 100 samples or more for a KID", "corrected-cpu"))]
    aggregated = len(groups) > MAX_ROWS
    if aggregated:
        groups = _over_settings(groups)
    rows = []
    for (_, _, samples, arm), group in groups.items():
        where = "all" if aggregated else report.setting_words(group[0])
        setting = f"{where}, {epochs_of(group[:1])}"
        count = len(group) if aggregated else len({one.record.seed for one in group})
        rows.append(
            [
                Cell(setting, setting),
                Cell(arm, arm),
                Cell(f"{samples:g}", samples),
                *(
                    spread_cell(group, _feature(name))
                    if aggregated
                    else mean_cell(mean_by_seed(group, _feature(name)))
                    for _, name in _FEATURES
                ),
                Cell(str(count), count),
            ]
        )
    counted = "outcomes" if aggregated else "seeds"
    over = (
        f"over all settings, as these are too many for a row each ({MAX_ROWS}): the median of all "
        "outcomes, in parentheses what nine tenths of them lie between"
        if aggregated
        else "mean over seeds with its 95 % interval where there are three or more"
    )
    return [
        Table(
            ["setting", "trained on", "samples", *(label for label, _ in _FEATURES), counted],
            rows,
            "Features of EfficientNet-Lite0 of images resized to 224 px, bicubic and antialiased; "
            f"{over}. KID against "
            "held-out images, unbiased: 0 is two real sets, between which it has a standard "
            "deviation of some 0.012 at 16 images and 0.0012 at 128 (objects, 32 px: "
            "`python scripts/kid_of_real_images.py`); single nets: the mean ends of the interval "
            "from resampling the samples of one net. Nearest: the distance of a sample to as many "
            "training or held-out images, beside that of unseen real images. Precision and recall "
            "are for display only.",
            stacked=True,
        )
    ]


_Features = dict[tuple[Key, float, float, str], list[Outcome]]


def _over_settings(groups: _Features) -> _Features:
    """All settings as one."""
    merged: _Features = {}
    for (_, epochs, samples, arm), group in groups.items():
        merged.setdefault(((), epochs, samples, arm), []).extend(group)
    return merged


def _feature(name: str) -> Quantity:
    return Quantity(name, lambda one: finite_score(name, one), unit="", of_seeds=True)
