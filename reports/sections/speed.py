"""Contests: levers and backends beside what a user would pick instead."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from bench.speed import BASELINES, MIN_ROUNDS, QUALITY, Entry, entries
from bench.stats import Effect
from reports.blocks import Block, Cell, Figure, Section, Table, Text, raw_table
from reports.context import Report
from reports.figures import plots, svg
from reports.figures.plots import ForestRow
from reports.words import number, percent, plural, seconds, times

TITLE = "Speed"
_PARTS = {
    "priors": ("a prior", "PSNR dB"),
    "train": ("a training step", "held-out loss"),
    "sample": ("a sampling step", "dB to plain"),
}
# What stands between the pipeline and its seconds: instruments, keys and files of the harness.
_HARNESS = ("ledger", "instruments", "flops")


def speed(report: Report) -> Section:
    """A forest plot and a table for each contest; what the harness itself takes."""
    found = entries(report.run.contests)
    if not found:
        text = (
            "No contest was run; `python -m bench run speed-cpu` holds levers and backends beside "
            "what a user would pick instead."
        )
        return Section("speed", TITLE, text, _harness(report))
    blocks: list[Block] = []
    for contest, work in dict.fromkeys((one.contest, one.work) for one in found):
        some = [one for one in found if (one.contest, one.work) == (contest, work)]
        blocks += [*_figure(contest, work, some), _table(contest, some)]
    return Section("speed", TITLE, _finding(found), [*blocks, *_harness(report)])


def _finding(found: Sequence[Entry]) -> str:
    best: dict[tuple[str, str], Entry] = {}
    for one in found:  # the quickest of a contest come first
        if one.ratio is not None and one.ratio.n >= MIN_ROUNDS and one.is_allowed:
            best.setdefault((one.contest, one.work), one)
    said = [
        f"{_work(one)} {_ratio(one.ratio)} the pace of the {BASELINES[one.contest]} ({one.name})"
        for one in best.values()
        if one.ratio is not None
    ]
    if said:
        return f"At equal quality: {'; '.join(said)}."
    if any(one.ratio is not None for one in found):
        return f"No pace is told from fewer than {MIN_ROUNDS} rounds, and of equal quality."
    return "No contender has a counterpart."


def _work(one: Entry) -> str:
    """What a contest is of, in a few words."""
    settings = one.records[0].settings
    words = f"{_PARTS[one.contest][0]} at {settings['image_size']} px"
    if one.contest != "priors":
        return words
    if settings["early_stopping"] == "psnr":
        return f"{words}, to {settings['es_psnr']:g} dB"
    return f"{words}, of {settings['num_iter']} iterations"


def _ratio(ratio: Effect) -> str:
    ends = "" if ratio.low is None or ratio.high is None else (
        f" [{times(ratio.low)}, {times(ratio.high)}]"
    )  # fmt: skip
    return f"{times(ratio.mean)}{ends}"


def _figure(contest: str, work: str, some: Sequence[Entry]) -> list[Block]:
    rows = [ForestRow(one.name, one.ratios, one.ratio) for one in some if one.ratio is not None]
    if not rows:
        return []
    what = _PARTS[contest][0]
    label = f"pace beside the {BASELINES[contest]}'s"
    slug = "".join(letter if letter.isalnum() else "-" for letter in f"{contest}-{work}".lower())
    return [
        Text(f"{work}.", heading=_work(some[0])[0].upper() + _work(some[0])[1:]),
        Figure(
            svg.render(
                f"speed-{slug}",
                f"Pace of {what} beside the {BASELINES[contest]}'s",
                lambda width: plots.forest(rows, label, width),
            ),
            f"A dot a round of one seed, a bar their mean, a line its 95 % interval. Right of 1× "
            f"is faster than the {BASELINES[contest]}. Quality stands in the table.",
            raw_table(
                ["contender", "round", "ratio"],
                [[row.label, place, dot] for row in rows for place, dot in enumerate(row.dots)],
            ),
        ),
    ]


def _table(contest: str, some: Sequence[Entry]) -> Table:
    what, quality = _PARTS[contest]
    compiles = any("compile_seconds" in record.scores for one in some for record in one.records)
    rows = [
        [
            Cell(one.name, one.name),
            Cell(seconds(one.seconds), one.seconds),
            Cell("–" if one.ratio is None else _ratio(one.ratio), _mean(one.ratio)),
            Cell("–" if one.to_plain is None else _ratio(one.to_plain), _mean(one.to_plain)),
            Cell(str(len(one.records)), len(one.records)),
            Cell(number(one.quality), one.quality),
            Cell(_verdict(one), _verdict(one)),
            Cell(one.gate.why or "–", one.gate.why),
            *([_compiled(one)] if compiles else []),
        ]
        for one in some
    ]
    return Table(
        ["contender", f"{what}, median", f"beside {BASELINES[contest]}", "beside no lever",
         "rounds", quality, "lever", "quality gate", *(["to compile"] if compiles else [])],
        rows,
        f"A lever is a gain if the whole 95 % interval beside dipddpm without any lies above 1×, "
        f"over {MIN_ROUNDS} rounds or more, and its quality ({QUALITY[contest]}) is within what "
        "the last column says; where that interval leaves both open, more rounds would tell. "
        "Intervals in brackets; there that of 90 %.",
    )  # fmt: skip


def _compiled(one: Entry) -> Cell:
    """Seconds of the process that had to compile, and of those that found it in the run's cache."""
    *others, most = sorted(record.scores.get("compile_seconds", 0.0) for record in one.records)
    if not most:
        return Cell("–", None)
    again = f", again {seconds(statistics.median(others))}" if others else ""
    return Cell(f"{seconds(most)}{again}", most)


def _mean(effect: Effect | None) -> float | None:
    return None if effect is None else effect.mean


def _verdict(one: Entry) -> str:
    if one.failed:
        return "failed"
    if one.gate.passed is False:
        return "other quality"
    if one.to_plain is None:
        return "–"
    if one.to_plain.n < MIN_ROUNDS:
        return "too few rounds"
    if one.gate.passed is None:
        return "quality not told"
    if one.is_gain:
        return "gain"
    high = one.to_plain.high
    return "slower" if high is not None and high < 1 else "no gain seen"


def _harness(report: Report) -> list[Block]:
    """What the harness took inside the units, beside all that they did."""
    shares = list(_shares(report))
    if not shares:
        return []
    of_all = sum(taken for taken, _ in shares) / sum(whole for _, whole in shares)
    worst = max(taken / whole for taken, whole in shares)
    return [
        Text(
            f"Inside the pipeline the harness ({', '.join(_HARNESS)}) took {percent(of_all)} "
            f"of the stages' time and its own, over {plural(len(shares), 'unit')}; at most "
            f"{percent(worst)} of a unit's.",
            heading="What measuring costs",
        )
    ]


def _shares(report: Report) -> Iterable[tuple[float, float]]:
    """Of each unit, the harness's seconds inside the pipeline, and those with the stages'."""
    stages: dict[str, float] = {}
    for row in report.run.rows:
        stages[row.unit] = stages.get(row.unit, 0.0) + (row.seconds or 0.0)
    for summary in report.run.summaries:
        spent = [summary.overhead_seconds.get(name) for name in _HARNESS]
        known = [one for one in spent if one is not None]
        taken, whole = math.fsum(known), stages.get(summary.unit, 0.0)
        if known and whole:
            yield taken, taken + whole
