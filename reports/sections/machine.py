"""The machine while the run went on: its probes, and the units during which it was busy."""

from __future__ import annotations

from collections.abc import Sequence

from bench.noise import drift, tolerances
from bench.records import UnitSummary
from reports.blocks import Block, Cell, Figure, Section, Table, raw_table
from reports.context import Report
from reports.figures import drift as figures
from reports.figures import svg
from reports.figures.drift import DriftPoint
from reports.words import plural, seconds, three


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
        DriftPoint(place, *ratios, kept=id(summary) in counting, busy=bool(run.why_busy(summary)))
        for place, summary in enumerate(probed, 1)
        for ratios in drift(summary, run.usual_probes)
    ]
    low, high = (
        end(ratio for point in points for ratio in (point.matmul, point.copy)) for end in (min, max)
    )
    finding = (
        f"{_busy(report)} Its probes took from {three(low)} to {three(high)} times what is usual "
        "in this run."
    )
    figure = Figure(
        svg.render(
            "machine",
            "Drift of the machine over the run",
            lambda width: figures.drift(points, allowed, width),
        ),
        "A fixed matrix product and a fixed copy of memory, before and after each unit, over what "
        "they usually take in this run (the lower quartile, as what disturbs can only slow them); "
        "the best of five each. Dashed: as slow as they may be, a product by "
        f"{allowed['matmul']:.0%}, a copy by {allowed['copy']:.0%}. Ringed: a unit during which "
        "the machine was busy. Hollow: an attempt that counts nowhere.",
        raw_table(
            ["unit", "place", "matmul / usual", "copy / usual", "in the tables", "busy"],
            [[probed[p.place - 1].unit, p.place, p.matmul, p.copy, p.kept, p.busy] for p in points],
        ),
    )
    return Section("machine", title, finding, [figure, *_disturbed(report)])


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
