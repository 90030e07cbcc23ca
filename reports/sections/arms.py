"""The arms over seeds: what training on something else than the images does, and at what cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

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
    spread_cell,
    verdict_cells,
)
from reports.pairs import Key, Quantity, Side
from reports.tables import Outcome
from reports.words import judged, number, seconds

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
    groups: dict[tuple[Key, float, Arm], list[Outcome]] = {}
    for outcome in report.generated:
        if outcome.record.repeat == 1:
            key = (facet_key(outcome), outcome.number("epochs"), arm_of(outcome))
            groups.setdefault(key, []).append(outcome)
    if len(groups) > MAX_ROWS:
        return _over_settings(groups)
    facets = list(dict.fromkeys(facet for facet, _, _ in groups))
    ordered = sorted(groups.items(), key=lambda item: (facets.index(item[0][0]), item[0][1]))
    rows = [
        _row(
            report.setting_words(group[0]),
            epochs,
            arm,
            [mean_cell(mean_by_seed(group, quantity), form) for quantity, form in _COLUMNS],
            len({outcome.record.seed for outcome in group}),
        )
        for (_, epochs, arm), group in ordered
    ]
    return Table(
        ["setting", *_HEAD, "seeds"],
        rows,
        "Each arm at each setting: mean over seeds, with its 95 % interval where there are three "
        "or more.",
        filterable=True,
    )


# Arms at settings; of more there is a row over all settings.
MAX_ROWS = 300
_HEAD = (
    "epochs", "arm", "loader", "held-out loss", "training an image", "KID", "total with priors",
)  # fmt: skip
_COLUMNS: Sequence[tuple[Quantity, Callable[[float | None], str]]] = (
    (EPS_LOSS, number),
    (PER_IMAGE, seconds),
    (KID, number),
    (TOTAL_SECONDS, seconds),
)


def _over_settings(groups: Mapping[tuple[Key, float, Arm], Sequence[Outcome]]) -> Table:
    """A row for all settings that have an arm: of too many for a row each."""
    merged: dict[tuple[float, Arm], list[Outcome]] = {}
    settings: Counter[tuple[float, Arm]] = Counter()
    for (_, epochs, arm), group in groups.items():
        merged.setdefault((epochs, arm), []).extend(group)
        settings[epochs, arm] += 1
    rows = [
        _row(
            f"all {settings[epochs, arm]}",
            epochs,
            arm,
            [spread_cell(group, quantity, form) for quantity, form in _COLUMNS],
            len(group),
        )
        for (epochs, arm), group in sorted(merged.items(), key=lambda item: item[0][0])
    ]
    return Table(
        ["settings", *_HEAD, "outcomes"],
        rows,
        f"Each arm over all settings, as {len(groups)} are too many for a row each: the median of "
        "all outcomes, in parentheses what nine tenths of them lie between; each by itself is in "
        "results.csv.",
        filterable=True,
    )


def _row(setting: str, epochs: float, arm: Arm, measured: Sequence[Cell], count: int) -> list[Cell]:
    return [
        Cell(setting, setting),
        Cell(f"{epochs:g}", epochs),
        Cell(arm_name(arm.train_on), arm_name(arm.train_on)),
        Cell(arm.loading, arm.loading),
        *measured,
        Cell(str(count), count),
    ]


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
