"""The published table beside this run."""

from __future__ import annotations

from collections.abc import Sequence

from bench.stats import Effect, Pair, paired_ratio
from reports.blocks import Block, Cell, Figure, Section, Table, Text
from reports.context import (
    ALL_PAIRS_PSNR,
    FIRST_RUN,
    ON_DIP,
    ON_IMAGES,
    PER_IMAGE,
    RUN_AGAIN,
    Report,
    finite_score,
)
from reports.effects import NOT_MEASURED, forest_data, ratios
from reports.figures import plots, svg
from reports.figures.plots import ForestRow
from reports.pairs import Quantity
from reports.publication import (
    PUBLISHED_ARM,
    PublishedRow,
    is_replay,
    ours,
    published_effect,
    published_pairs,
    published_rows,
)
from reports.tables import Outcome
from reports.words import (
    effect_words,
    judged,
    number,
    plural,
    schedule,
    three,
)

_ANCHORS = ("anchor_copies_psnr", "anchor_held_out_real_psnr")


def published(report: Report) -> Section:
    """The 14 rows beside ours, and the DIP / no-DIP ratios of both."""
    rows = published_rows()
    theirs = published_effect(published_pairs(rows))
    assert theirs is not None
    there = ours(rows, report.found)
    count = sum(outcome is not None for outcome in there)
    as_theirs, equal = (
        _judged(report, PER_IMAGE, pairs)
        for pairs in (
            as_published(report, PER_IMAGE),
            report.pairs(PER_IMAGE, ON_IMAGES, ON_DIP),
        )
    )
    finding = (
        f"Published: the training time with DIP against without, {effect_words(theirs)}. Here, "
        f"with the loaders as published: {as_theirs}; with the same loader on both sides: {equal}. "
        f"Of the {len(rows)} published settings this run has {count}."
    )
    blocks: list[Block] = [
        Text(
            f"{_scope(report, there)} The publication decoded "
            "its images in every epoch and held its DIP outputs as tensors, so its ratio mixes the "
            f"loader with DIP. {_floor_words(report)}"
        ),
        _published_forest(report, theirs),
        *([_published_table(rows, there)] if count else []),
        *_score_words(report, there),
    ]
    if count < len(rows):
        blocks.append(
            Text(
                "All rows are measured by `python -m bench run paper` (the published net and "
                "images) or `python -m bench run paper-cpu` (small, for two cores)."
            )
        )
    return Section("published", "Published table beside ours", finding, blocks)


def _scope(report: Report, there: Sequence[Outcome | None]) -> str:
    """Whether this run has what the publication had, row by row."""
    found = [one for one in there if one is not None]
    device = report.run.environment.device
    if found and all(is_replay(one, device) for one in found):
        return "Replay: the published images, net, precision and class of device."
    return (
        "Other images, another net, precision or class of device: an analogue. Absolute seconds "
        "are not comparable between the columns; ratios within a column are."
    )


def _published_forest(report: Report, theirs: Effect) -> Figure:
    pairs = published_pairs(published_rows())
    rows = [ForestRow(f"published: {p.label}", [p.ratio], arm="dip", published=True) for p in pairs]
    rows.append(
        ForestRow("published, all", [p.ratio for p in pairs], theirs, "dip", published=True)
    )
    for label, measured in (
        ("ours, loaders as published", as_published(report, PER_IMAGE)),
        ("ours, equal loaders", report.pairs(PER_IMAGE, ON_IMAGES, ON_DIP)),
    ):
        if measured:
            rows.append(ForestRow(label, ratios(measured), paired_ratio(measured), "dip"))
    again = report.pairs(PER_IMAGE, FIRST_RUN, RUN_AGAIN)
    if again:
        rows.append(ForestRow("ours, A-vs-A", ratios(again), paired_ratio(again)))
    return Figure(
        svg.render(
            "published",
            "Training seconds with DIP over without, published and ours",
            lambda width: plots.forest(rows, "training seconds, DIP / no DIP", width),
        ),
        "Training seconds with DIP over without. Hollow: as published, one run each. Filled: "
        "ours, a dot a pair; a bar is a mean, a line its 95 % interval where three or more runs "
        "on each side give one. Left of 1× DIP was faster.",
        forest_data(rows),
    )


def as_published(report: Report, quantity: Quantity) -> list[Pair]:
    """The contrast the publication drew: DIP outputs kept as tensors against images decoded."""
    (without, (decode,)), (with_dip, kept) = PUBLISHED_ARM["no"], PUBLISHED_ARM["yes"]
    for loader in kept:
        pairs = report.pairs(
            quantity,
            {"train_on": without, "loader": decode},
            {"train_on": with_dip, "loader": loader},
        )
        if pairs:
            return pairs
    return []


def as_published_finding(report: Report) -> list[str]:
    """DIP's effect on the time with the loaders as published; none without such a pair."""
    pairs = as_published(report, PER_IMAGE)
    if not pairs:
        return []
    return [
        "Training seconds an image with the loaders as published, DIP outputs kept as tensors "
        f"against images decoded at every epoch: {_judged(report, PER_IMAGE, pairs)}. This mixes "
        "the loader with DIP."
    ]


def _judged(report: Report, quantity: Quantity, pairs: Sequence[Pair]) -> str:
    verdict = quantity.judge(quantity.effect(pairs), report.controls(quantity))
    return judged(verdict, quantity.unit or "", of_seeds=quantity.of_seeds)


def _floor_words(report: Report) -> str:
    again = report.again(PER_IMAGE)
    if again is None:
        return "No case of this run ran twice, so it has no A-vs-A floor."
    return f"A-vs-A, the same case run again: {effect_words(again)}."


def _score_words(report: Report, there: Sequence[Outcome | None]) -> list[Block]:
    """Whether the ranges were mixed as published and what a copy gets then; DIP's effect."""
    found = []
    mixed = [one for one in there if one and one.settings.get("score_range") == "mixed"]
    copies = [value for one in mixed if (value := finite_score("anchor_copies_psnr", one))]
    if copies:
        found.append(
            f"Our PSNR of {plural(len(mixed), 'row')} has the published flaw, samples in [0, 1] "
            "against references in [−1, 1] (score_range = mixed): a pixel-perfect "
            f"copy of the references gets {three(min(copies))} dB."
        )
    pairs = as_published(report, ALL_PAIRS_PSNR)
    if pairs:
        again = report.again(ALL_PAIRS_PSNR)
        floor = (
            "none of these ran twice" if again is None else effect_words(again, "dB", of_seeds=True)
        )
        found.append(
            "All-pairs PSNR with the loaders as published, with DIP against without: "
            f"{_judged(report, ALL_PAIRS_PSNR, pairs)}; A-vs-A: {floor}."
        )
    return [Text(text) for text in found]


def _published_table(rows: Sequence[PublishedRow], there: Sequence[Outcome | None]) -> Table:
    return Table(
        [
            "DIP",
            "images",
            "epochs",
            "schedule",
            "published training, s",
            "ours, s",
            "published PSNR, dB",
            "ours, dB",
            "a copy gets, dB",
            "held-out real, dB",
            "our protocol",
        ],
        [_published_cells(row, outcome) for row, outcome in zip(rows, there, strict=True)],
        "PSNR: the published all-pairs score, whose optimum is the mean image, beside what it "
        "gives under the same settings to a copy of its references and to real held-out images. "
        "Ours: the first seed and run of each row.",
    )


def _published_cells(row: PublishedRow, outcome: Outcome | None) -> list[Cell]:
    trained = outcome.group_seconds("train") if outcome else None
    psnr = outcome.score("all_pairs_psnr") if outcome else None
    protocol = str(outcome.settings.get("protocol", "–")) if outcome else "–"
    words = schedule(row.timesteps, row.schedule)
    return [
        Cell(row.dip, row.dip),
        Cell(str(row.data_size), row.data_size),
        Cell(str(row.epochs), row.epochs),
        Cell(words, words),
        Cell(number(row.training_seconds), row.training_seconds),
        Cell(number(trained) if outcome else NOT_MEASURED, trained),
        Cell(number(row.psnr_db), row.psnr_db),
        Cell(number(psnr) if outcome else NOT_MEASURED, psnr),
        *(
            Cell(number(value), value)
            for value in (finite_score(name, outcome) if outcome else None for name in _ANCHORS)
        ),
        Cell(protocol, protocol),
    ]
