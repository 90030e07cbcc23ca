"""The machine while the run went on: its probes, and the units during which it was busy."""

from __future__ import annotations

from collections.abc import Sequence

from bench.noise import PROBE_TOLERANCE, busy, drift
from bench.records import UnitSummary
from reports.blocks import Block, Cell, Figure, Section, Table, raw_table
from reports.context import Report
from reports.figures import drift as figures
from reports.figures import svg
from reports.figures.drift import DriftPoint
from reports.words import percent, plural, seconds


def machine(report: Report) -> Section:
    """Drift of the probes over the run, and what was measured again."""
    run = report.run
    title = "The machine while it ran"
    probed = sorted((s for s in run.summaries if s.probes), key=lambda s: s.started or "")
    if not probed:
        return Section("machine", title, "This run has no probes of the machine.")
    reasons = busy(run.summaries, run.environment.cpu_count)
    probes = [probe for summary in probed for probe in summary.probes]
    points = [
        DriftPoint(place, *ratios, busy=summary.unit in reasons)
        for place, summary in enumerate(probed, 1)
        for ratios in drift(summary.probes, probes)
    ]
    low, high = (
        end(ratio for point in points for ratio in (point.matmul, point.copy)) for end in (min, max)
    )
    finding = (
        f"The machine was disturbed during {len(reasons)} of {plural(len(probed), 'unit')} in the "
        f"tables; {plural(len(run.busy), 'earlier attempt')} at them, on a busy machine, "
        f"{'counts' if len(run.busy) == 1 else 'count'} nowhere. Its probes took from "
        f"{percent(low - 1)} to {percent(high - 1)} of their median more or less."
    )
    figure = Figure(
        svg.render(
            "machine",
            "Drift of the machine over the run",
            lambda width: figures.drift(points, PROBE_TOLERANCE, width),
        ),
        "A fixed matrix product and a fixed copy of memory, before and after each unit, over their "
        "median in the run; the best of ten each. Between the lines: within "
        f"{PROBE_TOLERANCE:.0%}. Ringed: a unit during which the machine was busy.",
        raw_table(
            ["unit", "place", "matmul / median", "copy / median", "busy"],
            [[probed[p.place - 1].unit, p.place, p.matmul, p.copy, p.busy] for p in points],
        ),
    )
    return Section("machine", title, finding, [figure, *_disturbed(report, reasons)])


def _disturbed(report: Report, reasons: dict[str, tuple[str, ...]]) -> list[Block]:
    """Units that are flagged, and attempts that were made again."""
    again = {summary.unit for summary in report.run.busy}
    rows = [
        [
            Cell(summary.unit, summary.unit),
            Cell("in the tables" if kept else "set aside", kept),
            _seconds(summary),
            Cell(
                "; ".join(reasons.get(summary.unit, ())) if kept else "as it was measured again", ""
            ),
        ]
        for summaries, kept in ((report.run.busy, False), (report.run.summaries, True))
        for summary in summaries
        if not kept or summary.unit in reasons or summary.unit in again
    ]
    if not rows:
        return []
    caption = "Units during which the machine was busy, and those that were measured again."
    return [
        Table(["unit", "attempt", "process seconds", "why"], sorted(rows, key=_by_unit), caption)
    ]


def _by_unit(row: Sequence[Cell]) -> tuple[str, bool]:
    return str(row[0].value), bool(row[1].value)


def _seconds(summary: UnitSummary) -> Cell:
    taken = summary.process_seconds
    return Cell("–" if taken is None else seconds(taken), taken)
