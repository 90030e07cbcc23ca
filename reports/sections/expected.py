"""What the nets of the stages had to compute and to hold, beside what that took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.costs import peak_of
from bench.records import StageRow
from reports.blocks import Block, Cell, Section, Table, Text
from reports.context import Report
from reports.tables import TRAIN
from reports.words import bytes_of, operations, percent, seconds


@dataclass(frozen=True)
class _Stage:
    """The calls of a stage that compute in one precision.

    peak: operations a second that the device was seen to do in it; None: not measured
    """

    name: str
    rows: Sequence[StageRow]
    peak: float | None

    @property
    def flops(self) -> int:
        return sum(row.flops or 0 for row in self.rows)

    @property
    def seconds(self) -> float:
        return sum(row.seconds or 0.0 for row in self.rows)

    @property
    def at_peak(self) -> float | None:
        """Seconds, were all of it done at the peak."""
        return None if self.peak is None else self.flops / self.peak

    @property
    def share(self) -> float | None:
        """Of the peak, what it reached."""
        return None if self.at_peak is None or not self.seconds else self.at_peak / self.seconds

    @property
    def memory(self) -> StageRow | None:
        """The call that was expected to allocate the most on the device."""
        told = [row for row in self.rows if row.predicted_bytes is not None]
        return max(told, key=lambda row: row.predicted_bytes or 0, default=None)


def expected(report: Report) -> Section:
    """A row a stage: operations, seconds at the peak of the device, what it took; and memory."""
    title, stages = "What was to be expected", _stages(report)
    if not stages:
        text = "This run, of an earlier version, does not tell the operations of its stages."
        return Section("expected", title, text)
    run = report.run
    counted, alone = report.ledger.totals(run.records, lambda row: row.flops)
    finding = f"The nets of all stages did {operations(counted)}"
    if alone:
        finding += (
            f", {counted / alone:.2f} of the {operations(alone)} that the outcomes would have "
            "taken without sharing any stage"
        )
    trained = [stage for stage in stages if stage.name == TRAIN and stage.share is not None]
    finding += "".join(
        f"; training reached {percent(stage.share)} of the measured peak"
        for stage in trained
        if stage.share is not None
    )
    blocks: list[Block] = [_table(stages), *_memory(stages), *_peaks(report)]
    return Section("expected", title, f"{finding}.", blocks)


def _stages(report: Report) -> list[_Stage]:
    run = report.run
    settings = {spec.unit: spec.cases[0].settings for spec in run.plan.units if spec.cases}
    found: dict[tuple[str, float | None], list[StageRow]] = {}
    for row in run.rows:
        if row.executed and row.flops:
            peak = peak_of(row.function, settings.get(row.unit, {}), run.environment)
            found.setdefault((row.function, peak), []).append(row)
    return [_Stage(name, rows, peak) for (name, peak), rows in found.items()]


def _table(stages: Iterable[_Stage]) -> Table:
    rows = [
        [
            Cell(stage.name, stage.name),
            Cell(str(len(stage.rows)), len(stage.rows)),
            Cell(operations(stage.flops), stage.flops),
            Cell(seconds(stage.at_peak), stage.at_peak),
            Cell(seconds(stage.seconds), stage.seconds),
            Cell("–" if stage.share is None else percent(stage.share), stage.share),
        ]
        for stage in stages
    ]
    columns = ["stage", "calls", "operations", "at the peak", "took", "share of the peak"]
    caption = (
        "Convolutions, matrix products and attention of the nets, counted from shapes; a stage "
        "without a net is not here. What it took contains all else that it does."
    )
    return Table(columns, rows, caption)


def _memory(stages: Iterable[_Stage]) -> list[Block]:
    """On CUDA; elsewhere nothing is expected."""
    told = [(stage.name, stage.memory) for stage in stages]
    rows = [
        [
            Cell(name, name),
            Cell(bytes_of(row.predicted_bytes), row.predicted_bytes),
            Cell(bytes_of(row.device_peak_allocated_bytes), row.device_peak_allocated_bytes),
            Cell(bytes_of(row.device_peak_reserved_bytes), row.device_peak_reserved_bytes),
        ]
        for name, row in told
        if row is not None
    ]
    if not rows:
        return []
    caption = (
        "Peak memory of the device, of each stage's call that was expected to take the most: "
        "weights, averages, gradients, moments and activations; without what cuDNN takes."
    )
    return [Table(["stage", "expected", "allocated", "reserved"], rows, caption)]


def _peaks(report: Report) -> list[Block]:
    """What the shares are of."""
    told = [
        f"{one.precision} {operations(one.flops)}/s "
        f"({'a matrix product' if one.matmul_flops >= one.conv_flops else 'a convolution'})"
        for one in report.run.environment.peaks
    ]
    if not told:
        return []
    text = (
        "Measured when the run began, the larger of a matrix product and a convolution, the best "
        f"of several: {', '.join(told)}."
    )
    return [Text(text, "The peak of the device")]
