"""The first section: what the run found, what it cannot show, and whether its controls held."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bench.stats import paired_ratio
from reports.blocks import Block, Figure, Note, Section, Text
from reports.context import (
    EPS_LOSS,
    FIRST_RUN,
    ON_DIP,
    ON_IMAGES,
    PER_IMAGE,
    RUN_AGAIN,
    TOTAL_SECONDS,
    Report,
    epochs_of,
)
from reports.effects import forest_data, missing, ratios
from reports.figures import plots, svg
from reports.figures.plots import ForestRow
from reports.load import without_home
from reports.pairs import Quantity
from reports.sections.ledger import crossing_words
from reports.sections.loaders import loader_finding
from reports.sections.published import as_published_finding
from reports.sections.restoration import dip_finding
from reports.ways import ways
from reports.words import judged, percent, some_of


def answer(report: Report) -> Section:
    """A sentence a question, the controls, and what so small a run can show."""
    said = [
        *(loader_finding(report) or _time_sentence(report)),
        *_dip_sentence(report, TOTAL_SECONDS),
        *crossing_words(report),
        *_dip_sentence(report, EPS_LOSS),
        *dip_finding(ways(report)),
    ]
    finding = said[0] if said else missing(report, "pair of training runs with and without DIP")
    blocks: list[Block] = [*map(Note, _not_to_be_trusted(report)), *map(Text, said[1:])]
    rows = _control_rows(report)
    if rows:
        words = "; ".join(f"{row.label} {judged(PER_IMAGE.judge(row.effect))}" for row in rows)
        blocks.append(Text(f"Controls, of which none should show an effect: {words}."))
        blocks.append(
            Figure(
                svg.render(
                    "controls",
                    "Controls: ratios that should be 1",
                    lambda width: plots.forest(rows, "ratio of training seconds an image", width),
                ),
                "Controls: training seconds an image where nothing that matters to a training "
                "step differs. A dot a pair of runs, a bar their mean, a line its 95 % interval; "
                "what they show beside 1× is noise, and no effect of that size can be told from "
                "it.",
                forest_data(rows),
            )
        )
    return Section("answer", "Answer", finding, blocks, lead=_resolution(report))


def _not_to_be_trusted(report: Report) -> Iterator[str]:
    """What stands between the figures and belief in them."""
    run = report.run
    for text in some_of(run.altered):
        yield f"{without_home(text)}; `{run.resume}` makes it again"


def _resolution(report: Report) -> str:
    """What the suite says of itself, and beside it what was measured."""
    about = f"What this run can and cannot show. {report.run.plan.about.strip().rstrip('.')}."
    if any(spec.cold for spec in report.run.plan.units):
        about += " Nothing was warmed up: the times hold what a first call costs."
    if report.dip_time is None:
        return about
    half = report.dip_time.half_width
    if half is None:
        measured = "none, as DIP's effect on the training time has no interval"
    elif (distance := report.reach(PER_IMAGE)) is None:
        measured = (
            f"±{percent(half)} at best, half the interval of DIP's effect; A-vs-A has no interval"
        )
    else:
        reach = math.expm1(distance)
        measured = (
            f"±{percent(max(half, reach))}, the larger of half the interval of DIP's effect, "
            f"{percent(half)}, and of what its controls reach, {percent(reach)}"
        )
    return f"{about} Resolution in time, measured: {measured}."


def _time_sentence(report: Report) -> list[str]:
    """At equal loaders, or else with those of the publication."""
    return _dip_sentence(report, PER_IMAGE) or as_published_finding(report)


def _dip_sentence(report: Report, quantity: Quantity) -> list[str]:
    groups = report.groups(quantity, ON_IMAGES, ON_DIP)
    if not groups:
        return []
    verdict = report.judge(quantity, ON_IMAGES, ON_DIP)
    after = f"after {epochs_of(group[0] for group in groups)} on both sides"
    counted = ", the priors' fit included" if quantity is TOTAL_SECONDS else ""
    return [
        f"With DIP outputs in place of the images, all else equal and {after}, "
        f"{quantity.name}{counted}: {judged(verdict, of_seeds=quantity.of_seeds)}."
    ]


def _control_rows(report: Report) -> list[ForestRow]:
    """A-vs-A, and what changes nothing in a training step."""
    rows = []
    for label, (base, other) in {"A-vs-A": (FIRST_RUN, RUN_AGAIN), **report.idle_sides}.items():
        pairs = report.pairs(PER_IMAGE, base, other)
        if pairs:
            rows.append(ForestRow(label, ratios(pairs), paired_ratio(pairs)))
    return rows
