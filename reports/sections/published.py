"""The published table beside this run."""

from __future__ import annotations

from collections.abc import Sequence

from bench.stats import Effect, Pair, paired_ratio
from reports.blocks import Block, Cell, Code, Figure, Section, Table, Text
from reports.claims import (
    PUBLISHED_ARM,
    PublishedRow,
    ours,
    published_effect,
    published_pairs,
    published_rows,
    suite_of,
)
from reports.context import PER_IMAGE, Report
from reports.effects import NOT_MEASURED, forest_data, logs
from reports.figures import plots, svg
from reports.figures.plots import ForestRow
from reports.tables import Matched, Outcome, values
from reports.words import number, ratio_effect, schedule


def published(report: Report) -> Section:
    """The 14 rows beside ours, and the DIP / no-DIP ratios of both."""
    rows = published_rows()
    theirs = published_effect(published_pairs(rows))
    assert theirs is not None
    there = [ours(row, report.found) for row in rows]
    count = sum(outcome is not None for outcome in there)
    equal = report.dip_time
    said = ratio_effect(equal, "the time") if equal else "not measured"
    finding = (
        f"Published: training with DIP took {ratio_effect(theirs, 'the time without')}. Here, with "
        f"the same loader on both sides: {said}. Of the {len(rows)} published settings this run "
        f"has {count}."
    )
    blocks: list[Block] = [
        Text(
            "Other data, another net and another size: an analogue. Absolute seconds are not "
            "comparable between the columns; ratios within a column are. The publication decoded "
            "its images in every epoch and held its DIP outputs in memory, so its ratio mixes the "
            "loader with DIP."
        ),
        _published_forest(report, theirs),
        _published_table(rows, there),
    ]
    wanted = [row for row, outcome in zip(rows, there, strict=True) if outcome is None]
    if wanted:
        blocks += [
            Text(
                f"To measure {'it' if len(wanted) == 1 else f'the {len(wanted)}'} on a folder of "
                "images, save the text below as published.toml: `python -m bench run "
                "published.toml --images FOLDER`"
            ),
            Code(suite_of(wanted), "published.toml"),
        ]
    return Section("published", "Published table beside ours", finding, blocks)


def _published_forest(report: Report, theirs: Effect) -> Figure:
    pairs = published_pairs(published_rows())
    rows = [ForestRow(f"published: {p.label}", [p.ratio], arm="dip", published=True) for p in pairs]
    rows.append(
        ForestRow("published, all", [p.ratio for p in pairs], theirs, "dip", published=True)
    )
    as_published = _as_published(report)
    if as_published:
        effect = paired_ratio(as_published)
        rows.append(ForestRow("ours, loaders as published", logs(as_published), effect, "dip"))
    equal = report.pair_values(PER_IMAGE, "train_on", "images", "dip")
    if equal:
        rows.append(ForestRow("ours, equal loaders", logs(equal), report.dip_time, "dip"))
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


def _as_published(report: Report) -> list[Pair]:
    """The contrast the publication drew: DIP outputs in memory against images decoded."""
    arms = report.side_by_side(PUBLISHED_ARM["no"], PUBLISHED_ARM["yes"])
    return values((Matched(without, with_dip) for without, with_dip in arms), PER_IMAGE)


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
        ],
        [_published_cells(row, outcome) for row, outcome in zip(rows, there, strict=True)],
        "PSNR: the published all-pairs score, whose optimum is the mean image.",
    )


def _published_cells(row: PublishedRow, outcome: Outcome | None) -> list[Cell]:
    trained = outcome.group_seconds("train") if outcome else None
    psnr = outcome.score("all_pairs_psnr") if outcome else None
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
    ]
