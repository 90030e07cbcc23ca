"""The first section: what the run found, what it cannot show, and whether its controls held."""

from __future__ import annotations

from bench.stats import paired_ratio
from reports.blocks import Block, Figure, Section, Text
from reports.context import (
    COSINE,
    EPS_LOSS,
    FIRST_RUN,
    LINEAR,
    ON_DIP,
    ON_IMAGES,
    PER_IMAGE,
    RUN_AGAIN,
    TOTAL_SECONDS,
    Report,
    epochs_of,
)
from reports.effects import forest_data, logs, missing
from reports.figures import plots, svg
from reports.figures.plots import ForestRow
from reports.pairs import Quantity, Side
from reports.sections.ledger import crossing_words
from reports.sections.loaders import loader_finding
from reports.sections.published import as_published_finding
from reports.sections.restoration import dip_finding
from reports.words import half_width, judged


def answer(report: Report) -> Section:
    """A sentence a question, the controls, and what so small a run can show."""
    said = [
        *loader_finding(report),
        *_time_sentence(report),
        *_dip_sentence(report, TOTAL_SECONDS),
        *crossing_words(report),
        *_dip_sentence(report, EPS_LOSS),
        *dip_finding(report),
    ]
    finding = said[0] if said else missing(report, "pair of training runs with and without DIP")
    blocks: list[Block] = [Text(text) for text in said[1:]]
    rows = _control_rows(report)
    if rows:
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


def _resolution(report: Report) -> str:
    """What the suite says of itself, and beside it what was measured."""
    about = f"What this run can and cannot show. {report.run.plan.about.strip().rstrip('.')}."
    if report.dip_time is None:
        return about
    half = half_width(report.dip_time)
    measured = (
        f"{half}, half the interval of DIP's effect on the training time"
        if half
        else "none, as DIP's effect on the training time has no interval"
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
    factors: list[tuple[Side, Side, str]] = [(FIRST_RUN, RUN_AGAIN, "the same case again")]
    levels = sorted({outcome.number("num_train_timesteps") for outcome in report.generated})
    if len(levels) > 1:
        least: Side = {"num_train_timesteps": levels[0]}
        most: Side = {"num_train_timesteps": levels[-1]}
        factors.append((least, most, f"{levels[-1]:g} / {levels[0]:g} timesteps"))
    factors.append((LINEAR, COSINE, "squaredcos / linear"))
    rows = []
    for base, other, label in factors:
        pairs = report.pairs(PER_IMAGE, base, other)
        if pairs:
            rows.append(ForestRow(label, logs(pairs), paired_ratio(pairs)))
    return rows
