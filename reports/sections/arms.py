"""The arms over seeds: what training on something else than the images does, and at what cost."""

from __future__ import annotations

from collections.abc import Iterable

from reports.blocks import Block, Cell, Section, Table, Text
from reports.context import (
    EPS_LOSS,
    KID,
    PER_IMAGE,
    TOTAL_SECONDS,
    Arm,
    Report,
    arm_of,
    facet_key,
    finite_score,
)
from reports.effects import (
    VERDICT_COLUMNS,
    mean_by_seed,
    mean_cell,
    missing,
    verdict_cells,
)
from reports.pairs import Quantity, Side
from reports.tables import Outcome
from reports.words import judged, seconds

# What is trained on, by the names of the arms.
ARM_NAMES = {"images": "none", "dip": "data", "blur": "data-blur"}
QUANTITIES = (EPS_LOSS, PER_IMAGE, KID, TOTAL_SECONDS)
PRIOR_SCORES = (
    ("PSNR at the peak, dB", "prior_psnr_peak"),
    ("at the stop, dB", "prior_psnr_stop"),
    ("at the last, dB", "prior_psnr_last"),
    ("iteration of the output", "prior_output_iteration"),
    ("iterations run", "prior_iterations"),
)


def arm_name(train_on: str) -> str:
    """data; a target of the user's by its own name."""
    return ARM_NAMES.get(train_on, train_on)


def arms(report: Report) -> Section:
    """What each arm does to loss, time and KID against the others, and all of them by setting."""
    title = "Arms"
    contrasts = _contrasts(report)
    if not contrasts:
        text = missing(report, "pair of arms at equal settings", "corrected-cpu")
        return Section("arms", title, text)
    first, *more = [
        said for quantity in (EPS_LOSS, KID, PER_IMAGE) for said in _said(report, quantity)
    ]
    blocks: list[Block] = [
        *map(Text, more),
        _summary(report, contrasts),
        _by_setting(report),
        *_priors(report),
    ]
    return Section("arms", title, first, blocks)


def _contrasts(report: Report) -> list[tuple[str, str]]:
    """(base, other) of which there are pairs: each target against images, and DIP against blur."""
    targets = dict.fromkeys(str(one.settings["train_on"]) for one in report.generated)
    wanted = [("images", target) for target in targets if target != "images"]
    if {"dip", "blur"} <= targets.keys():
        wanted.append(("blur", "dip"))
    return [pair for pair in wanted if report.pairs(PER_IMAGE, *_sides(pair))]


def _sides(contrast: tuple[str, str]) -> tuple[Side, Side]:
    base, other = contrast
    return {"train_on": base}, {"train_on": other}


def _said(report: Report, quantity: Quantity) -> list[str]:
    """What the arms do to a quantity, in a sentence; none where no pair has it."""
    said = [
        f"{arm_name(other)} against {arm_name(base)} "
        f"{judged(verdict, quantity.unit or '', of_seeds=quantity.of_seeds)}"
        for base, other in _contrasts(report)
        if (verdict := report.judge(quantity, *_sides((base, other)))).effect is not None
    ]
    return [f"{quantity.name[0].upper()}{quantity.name[1:]}: {'; '.join(said)}."] if said else []


def _summary(report: Report, contrasts: Iterable[tuple[str, str]]) -> Table:
    rows = []
    for quantity in QUANTITIES:
        of_quantity = []
        for base, other in contrasts:
            verdict = report.judge(quantity, *_sides((base, other)))
            if verdict.effect is not None:
                name = f"{arm_name(other)} against {arm_name(base)}"
                of_quantity.append([Cell(name, name), *verdict_cells(verdict, quantity)])
        again = report.again(quantity)
        if of_quantity and again is not None:
            name = "A-vs-A: the same case again"
            of_quantity.append([Cell(name, name), *verdict_cells(quantity.judge(again), quantity)])
        rows += [[Cell(quantity.name, quantity.name), *cells] for cells in of_quantity]
    return Table(
        ["of", "arm", *VERDICT_COLUMNS],
        rows,
        "Arms at equal settings and seeds, over all settings, at the last milestone that both "
        "have. Loss and times: ratios, equal is within 2 %; KID: a difference. A word stands only "
        "where it clears the controls, among them the A-vs-A of the same quantity. Total seconds "
        "hold the priors, which the blur too is set by.",
        stacked=True,
    )


def _by_setting(report: Report) -> Table:
    groups: dict[tuple[str, float, Arm], list[Outcome]] = {}
    for outcome in report.generated:
        if outcome.record.repeat == 1:
            key = (facet_key(outcome), outcome.number("epochs"), arm_of(outcome))
            groups.setdefault(key, []).append(outcome)
    facets = list(dict.fromkeys(facet for facet, _, _ in groups))
    ordered = sorted(groups.items(), key=lambda item: (facets.index(item[0][0]), item[0][1]))
    rows = []
    for (_, epochs, arm), group in ordered:
        seeds = len({outcome.record.seed for outcome in group})
        setting = report.setting_words(group[0])
        rows.append(
            [
                Cell(setting, setting),
                Cell(f"{epochs:g}", epochs),
                Cell(arm_name(arm.train_on), arm_name(arm.train_on)),
                Cell(arm.loading, arm.loading),
                mean_cell(mean_by_seed(group, EPS_LOSS)),
                mean_cell(mean_by_seed(group, PER_IMAGE), seconds),
                mean_cell(mean_by_seed(group, KID)),
                mean_cell(mean_by_seed(group, TOTAL_SECONDS), seconds),
                Cell(str(seeds), seeds),
            ]
        )
    return Table(
        [
            "setting",
            "epochs",
            "arm",
            "loader",
            "held-out loss",
            "training an image",
            "KID",
            "total with priors",
            "seeds",
        ],
        rows,
        "Each arm at each setting: mean over seeds, with its 95 % interval where there are three "
        "or more.",
        filterable=True,
    )


def _priors(report: Report) -> list[Block]:
    """The PSNR of the priors that each arm used."""
    groups: dict[tuple[str, str, float], list[Outcome]] = {}
    for outcome in report.ok:
        if outcome.record.repeat == 1:
            for of, arm, count in (
                ("training", arm_name(str(outcome.settings["train_on"])), "num_images"),
                ("start", f"start from {outcome.settings['start_from']}", "num_samples"),
            ):
                if outcome.score(f"{of}_prior_psnr_last") is not None:
                    groups.setdefault((of, arm, outcome.number(count)), []).append(outcome)
    rows = [
        [
            Cell(arm, arm),
            Cell(f"{count:g}", count),
            *(mean_cell(mean_by_seed(group, _score(f"{of}_{name}"))) for _, name in PRIOR_SCORES),
        ]
        for (of, arm, count), group in groups.items()
    ]
    if not rows:
        return []
    return [
        Table(
            ["arm", "images", *(label for label, _ in PRIOR_SCORES)],
            rows,
            "The priors: PSNR to the clean images, mean over images and seeds, with its 95 % "
            "interval over seeds. The peak takes the clean images to find, so it is told and never "
            "used; a start is fitted to degraded images.",
        )
    ]


def _score(name: str) -> Quantity:
    return Quantity(name, lambda one: finite_score(name, one), unit="", of_seeds=True)
