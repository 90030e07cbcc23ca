"""Noise: A-vs-A by stage."""

from __future__ import annotations

from bench.stats import Pair, paired_ratio
from reports.blocks import Figure, Section, Text, raw_table
from reports.context import FIRST_RUN, PER_IMAGE, RUN_AGAIN, Report
from reports.effects import dots_words, missing, ratios
from reports.figures import plots, svg
from reports.figures.plots import ForestRow
from reports.tables import TRAIN
from reports.words import judged, percent, some_of


def noise(report: Report) -> Section:
    """A-vs-A by stage: rows of one key in the two units of a repeated case."""
    pairs = report.groups(PER_IMAGE, FIRST_RUN, RUN_AGAIN)
    if not pairs:
        return Section("noise", "Noise", missing(report, "case that ran twice"))
    by_function: dict[str, list[Pair]] = {}
    for first, second in pairs:
        twins = {charge.key: charge for charge in second.bill}
        for charge in first.bill:
            twin = twins.get(charge.key)
            # Only what each of the two processes executed itself.
            own = charge.executed_in(first) and twin and twin.executed_in(second)
            if own and twin and charge.seconds and twin.seconds:
                units = frozenset({first.record.unit, second.record.unit})
                pair = Pair(charge.seconds, twin.seconds, units)
                by_function.setdefault(charge.function or "", []).append(pair)
    rows = [
        ForestRow(name, ratios(found), paired_ratio(found))
        for name, found in sorted(by_function.items())
        if found
    ]
    spread = max((abs(ratio - 1) for ratio in ratios(by_function.get(TRAIN, []))), default=0.0)
    figure = Figure(
        svg.render(
            "noise",
            "A-vs-A: each stage of a case that ran twice",
            lambda width: plots.forest(rows, "second run / first run", width),
        ),
        "The same case in two fresh processes: a dot a stage call, its seconds in the second run "
        "over those in the first; a bar is their mean. Stages of a few milliseconds scatter most.",
        raw_table(["stage", "ratios"], [[row.label, dots_words(row.dots)] for row in rows]),
    )
    said = judged(PER_IMAGE.judge(report.again(PER_IMAGE)))
    finding = (
        f"The calls of train_ddpm in the same case run again differed by up to {percent(spread)}; "
        f"of a training image: {said}."
    )
    words = ", ".join(some_of(sorted({report.setting_words(first) for first, _ in pairs})))
    return Section("noise", "Noise", finding, [figure, Text(f"Repeated: {words}.")])
