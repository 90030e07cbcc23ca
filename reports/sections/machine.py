"""The machine while the run went on: its probes, and the units during which it was busy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from bench.noise import drift, tolerances
from bench.records import UnitSummary
from reports.blocks import Block, Cell, Figure, Listing, Section, Table, raw_table
from reports.context import Report
from reports.figures import drift as figures
from reports.figures import svg
from reports.figures.drift import DriftPoint
from reports.words import by_text, plural, seconds, three

# Probes with a mark of their own; of more each stretch of the run has two.
MAX_POINTS, STRETCHES = 1_000, 150
# Units with a row of their own.
MAX_ROWS = 300


def machine(report: Report) -> Section:
    """Drift of the probes over the run, and what was measured again."""
    run = report.run
    title = "The machine while it ran"
    kept = [summary for summary in run.summaries if summary.probes]
    if not kept:
        text = "This run has no probes of the machine."
        return Section("machine", title, f"{text} {_busy(report)}", _disturbed(report))
    aside = [summary for summary in run.busy if summary.probes]
    probed = sorted((*kept, *aside), key=lambda summary: summary.started or "")
    allowed = tolerances(kept[0])
    counting = set(map(id, kept))
    points = [
        DriftPoint(place, *ratios, kept=id(summary) in counting, busy=busy)
        for place, summary in enumerate(probed, 1)
        for busy in [bool(run.why_busy(summary))]
        for ratios in drift(summary, run.usual_probes)
    ]
    low, high = (
        end(ratio for point in points for ratio in (point.matmul, point.copy)) for end in (min, max)
    )
    finding = (
        f"{_busy(report)} Its probes took from {three(low)} to {three(high)} times what is usual "
        "in this run."
    )
    many = len(points) > MAX_POINTS
    drawn = _by_stretch(points) if many else points
    figure = Figure(
        svg.render(
            "machine",
            "Drift of the machine over the run",
            lambda width: figures.drift(drawn, allowed, width),
        ),
        "A fixed matrix product and a fixed copy of memory, before and after each unit, over what "
        "they usually take in this run (the lower quartile, as what disturbs can only slow them); "
        "the best of five each. Dashed: as slow as they may be, a product by "
        f"{allowed['matmul']:.0%}, a copy by {allowed['copy']:.0%}. Ringed: a unit during which "
        "the machine was busy. Hollow: an attempt that counts nowhere."
        + (
            f" Of {len(points)} probes the medians and the slowest of {STRETCHES} stretches."
            if many
            else ""
        ),
        raw_table(
            ["unit", "place", "matmul / usual", "copy / usual", "in the tables", "busy"],
            [[probed[p.place - 1].unit, p.place, p.matmul, p.copy, p.kept, p.busy] for p in drawn],
        ),
    )
    return Section("machine", title, finding, [figure, *_disturbed(report)])


_ENDS: Sequence[Callable[[list[float]], float]] = (statistics.median, max)


def _by_stretch(points: Sequence[DriftPoint]) -> list[DriftPoint]:
    """Of each part of the run two points, at the place of its first: medians and slowest."""
    drawn = []
    for kept in (True, False):
        found = [point for point in points if point.kept is kept]
        length = -(-len(found) // STRETCHES) or 1
        for start in range(0, len(found), length):
            some = found[start : start + length]
            busy = any(one.busy for one in some)
            for end in _ENDS:
                matmul, copy = end([p.matmul for p in some]), end([p.copy for p in some])
                place, is_busy = some[0].place, busy and end is max
                drawn.append(DriftPoint(place, matmul, copy, kept=kept, busy=is_busy))
    return drawn


def _busy(report: Report) -> str:
    run = report.run
    said = (
        f"The machine was busy with something else during {len(run.disturbed)} of "
        f"{plural(run.num_watched, 'unit')} in the tables."
    )
    if run.busy:
        said += (
            f" {plural(len(run.busy), 'more attempt')} at them "
            f"{'counts' if len(run.busy) == 1 else 'count'} nowhere: of those that did not fail, "
            "that of the quietest machine does."
        )
    return said


def _disturbed(report: Report) -> list[Block]:
    """Units that are flagged, and attempts that were made again."""
    run = report.run
    again = {summary.unit for summary in run.busy}
    rows = [
        [
            Cell(summary.unit, summary.unit),
            Cell("in the tables" if kept else "set aside", kept),
            _seconds(summary),
            _why(summary, run.why_busy(summary)),
        ]
        for summaries, kept in ((run.busy, False), (run.summaries, True))
        for summary in summaries
        if not kept or summary.unit in run.disturbed or summary.unit in again
    ]
    if not rows:
        return []
    caption = "Units during which the machine was busy, and those that were measured again."
    if len(rows) > MAX_ROWS:
        said = (f"{attempt.text}: {why.text}" for _, attempt, _, why in rows)
        return [Listing(by_text(said, "unit"), f"{caption} There are {len(rows)}.")]
    return [
        Table(["unit", "attempt", "process seconds", "why"], sorted(rows, key=_by_unit), caption)
    ]


def _why(summary: UnitSummary, reasons: Sequence[str]) -> Cell:
    text = "; ".join(reasons) or "it was quiet"
    if summary.status != "ok":
        text = f"it ended with status {summary.status}"
    return Cell(text, text)


def _by_unit(row: Sequence[Cell]) -> tuple[str, bool]:
    return str(row[0].value), bool(row[1].value)


def _seconds(summary: UnitSummary) -> Cell:
    taken = summary.process_seconds
    return Cell("–" if taken is None else seconds(taken), taken)
