"""The sections on time: the answer, the loaders, the ledger, the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import Setting
from bench.stats import Effect, Pair, paired_ratio
from reports.blocks import Block, Cell, Figure, Section, Table, Text, raw_table
from reports.context import EPS_LOSS, PER_IMAGE, Report, cell_words, epochs_of, per_image
from reports.effects import effect_cells, forest_data, logs, missing, processes
from reports.figures import plots, svg
from reports.figures.plots import Bar, ForestRow, Line, LoaderPoint
from reports.tables import GROUPS, TRAIN, Matched, Outcome, Quantity, values
from reports.words import (
    change,
    half_width,
    number,
    percent,
    ratio_effect,
    seconds,
    three,
)

# The answer ------------------------------------------------------------------------------------


def answer(report: Report) -> Section:
    """Three sentences, the controls, and what so small a run can show."""
    said = [*_time_sentence(report), *_total_sentence(report), *_loss_sentence(report)]
    finding = said[0] if said else missing(report, "pair of training runs with and without DIP")
    blocks: list[Block] = [Text(text) for text in said[1:]]
    rows = _control_rows(report)
    if rows:
        blocks.append(
            Figure(
                svg.render("controls", "Controls: ratios that should be 1", _drawn(rows)),
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
    half = half_width(report.dip_time) if report.dip_time else None
    measured = (
        f"{half}, half the interval of DIP's effect on the training time"
        if half
        else "none, as DIP's effect on the training time has no interval"
    )
    return (
        f"What this run can and cannot show. {report.run.plan.about.rstrip()} "
        f"Resolution in time, measured: {measured}."
    )


def _time_sentence(report: Report) -> list[str]:
    effect, control = report.dip_time, report.repeat_time
    if effect is None:
        return []
    beside = (
        f"; the same case run again took {change(control, 'longer', 'less')}" if control else ""
    )
    return [
        "With DIP outputs in place of the images, all else equal and "
        f"{_epochs(report, PER_IMAGE)}, a training image took "
        f"{change(effect, 'longer', 'less')}{beside}."
    ]


def _total_sentence(report: Report) -> list[str]:
    effect, crossing = report.dip_total, _crossing(report)
    if effect is None:
        return []
    text = (
        "Counted in full, the priors' fit included, an outcome with DIP took "
        f"{ratio_effect(effect, 'the seconds of one without')}."
    )
    return [f"{text} {crossing}" if crossing else text]


def _loss_sentence(report: Report) -> list[str]:
    effect = report.dip_loss
    if effect is None:
        return []
    return [
        f"With DIP the held-out loss, {_epochs(report, EPS_LOSS)}, was "
        f"{change(effect, 'higher', 'lower', of_seeds=True)}."
    ]


def _epochs(report: Report, quantity: Quantity) -> str:
    """How long the runs with and without DIP had trained where they are compared."""
    pairs = report.pairs(quantity, "train_on", "images", "dip")
    return f"after {epochs_of(pair.base for pair in pairs)} on both sides"


def _control_rows(report: Report) -> list[ForestRow]:
    """A-vs-A, and what changes nothing in a training step."""
    factors: list[tuple[str, Setting, Setting, str]] = [
        ("repeat", 1, 2, "the same case again"),
        *_axis(report, "num_train_timesteps"),
        ("beta_schedule", "linear", "squaredcos_cap_v2", "squaredcos / linear"),
    ]
    rows = []
    for factor, base, other, label in factors:
        pairs = report.pair_values(PER_IMAGE, factor, base, other)
        if pairs:
            rows.append(ForestRow(label, logs(pairs), paired_ratio(pairs)))
    return rows


def _axis(report: Report, factor: str) -> list[tuple[str, Setting, Setting, str]]:
    levels = sorted({outcome.number(factor) for outcome in report.generated})
    if len(levels) < 2:
        return []
    return [(factor, levels[0], levels[-1], f"{levels[-1]:g} / {levels[0]:g} timesteps")]


def _drawn(rows: Sequence[ForestRow]) -> svg.Draw:
    return lambda width: plots.forest(rows, "ratio of training seconds an image", width)


# Target x loader -------------------------------------------------------------------------------


def loaders(report: Report) -> Section:
    """The 2 x 2 of what is trained on and how it is read."""
    title, reference = "Target × loader", report.reference
    points = [
        LoaderPoint(train_on, loader, 1000 * taken, _waiting(outcome))
        for (train_on, loader), outcome in (reference.arms.items() if reference else ())
        if (taken := per_image(outcome)) is not None
    ]
    if reference is None or len({point.loader for point in points}) < 2:
        return Section("loaders", title, missing(report, "case with more than one loader"))
    effect = report.loader_time
    decoded = [p for p in points if p.loader == "decode" and p.waiting is not None]
    waited = sum(p.waiting or 0 for p in decoded) / max(1, sum(p.milliseconds for p in decoded))
    finding = f"With the decode loader {percent(waited)} of the training time was waiting for data"
    if effect:
        finding += (
            f", and a training image took {change(effect, 'longer than from memory', 'less')}"
        )
    if report.dip_time:
        finding += (
            f"; at an equal loader DIP made it {change(report.dip_time, 'longer', 'shorter')}"
        )
    finding += "."
    figure = Figure(
        svg.render(
            "loaders",
            "Training time an image by target and loader",
            lambda width: plots.loaders(points, width),
            wide=5.6,
        ),
        f"Milliseconds for a training image at {reference.words}, one run each, no interval. "
        "Filled: all of it; hollow and dashed: the part spent waiting for the batch. Both loaders "
        "yield the same pixels.",
        raw_table(
            ["train on", "loader", "ms an image", "of it waiting, ms"],
            [[p.arm, p.loader, p.milliseconds, p.waiting] for p in points],
        ),
    )
    return Section("loaders", title, finding, [figure, _two_by_two(report)])


def _waiting(outcome: Outcome) -> float | None:
    waited = outcome.data_wait_seconds
    return None if waited is None else 1000 * waited / outcome.images_seen


def _two_by_two(report: Report) -> Table:
    effects = [
        ("loader: decode / memory", report.loader_time),
        ("DIP: dip / images", report.dip_time),
        ("interaction: DIP's ratio decoded / in memory", _interaction(report)),
    ]
    return Table(
        ["effect on training seconds an image", "ratio", "95 % interval", "pairs", "sign-flip p"],
        [[Cell(name, name), *effect_cells(effect)] for name, effect in effects],
        "Effects over all pairs of this run that differ in that factor alone. An interval needs "
        "three runs on each side.",
    )


def _interaction(report: Report) -> Effect | None:
    """How much DIP's ratio differs between the loaders: a ratio of ratios, a value a cell."""
    found = []
    for plain, with_dip, plain_decoded, dip_decoded in report.side_by_side(
        ("images", "memory"), ("dip", "memory"), ("images", "decode"), ("dip", "decode")
    ):
        memory = values([Matched(plain, with_dip)], PER_IMAGE)
        decoded = values([Matched(plain_decoded, dip_decoded)], PER_IMAGE)
        found += [
            Pair(m.other / m.base, d.other / d.base, m.executions | d.executions)
            for m, d in zip(memory, decoded, strict=False)
        ]
    return paired_ratio(found)


# Where the time goes ---------------------------------------------------------------------------


def ledger(report: Report) -> Section:
    """A bill an arm, and what sharing the priors would change."""
    title, reference = "Where the time goes", report.reference
    arms = [
        (f"{train_on}, {loader}", outcome)
        for (train_on, loader), outcome in (reference.arms.items() if reference else ())
        if outcome.total_seconds is not None
    ]
    if reference is None or not arms:
        return Section("ledger", title, missing(report, "outcome with a complete bill"))
    rows = [Bar(name, _groups(outcome)) for name, outcome in arms]
    shares = [
        (name, (row.groups["priors"] / sum(row.groups.values())))
        for (name, _), row in zip(arms, rows, strict=True)
        if row.groups["priors"] and name.startswith("dip")
    ]
    finding = (
        f"At {reference.words}, making the priors was "
        + " and ".join(f"{percent(share)} of all the seconds ({name})" for name, share in shares)
        + "; one run each, no interval."
        if shares
        else f"At {reference.words}, no arm with priors has a complete bill."
    )
    figure = Figure(
        svg.render(
            "ledger", "Seconds by stage, a bar an arm", lambda width: plots.bars(rows, width)
        ),
        f"Everything an outcome rests on at {reference.words}; priors in full, wherever they were "
        "fitted; one run each. Process start and warm-up are no stage and not here.",
        raw_table(["arm", *GROUPS], [[row.label, *row.groups.values()] for row in rows]),
    )
    return Section("ledger", title, finding, [figure, *_sharing(report)])


def _groups(outcome: Outcome) -> dict[str, float]:
    return {group: outcome.group_seconds(group) or 0.0 for group in GROUPS}


@dataclass(frozen=True)
class _Sharing:
    """What sharing the priors would change, in seconds; a run: to prepare and to train.

    fastest, slowest: a run with DIP at the ends of the interval of its effect on the training
        time; None without an interval
    """

    priors: float
    plain: float
    with_dip: float
    fastest: float | None
    slowest: float | None

    def paid_after(self, with_dip: float | None) -> float | None:
        """Runs that have to share the priors, if one takes this long; None: there is no number."""
        if with_dip is None or with_dip >= self.plain:
            return None
        return self.priors / (self.plain - with_dip)

    @property
    def at_least(self) -> float | None:
        """Below it sharing does not pay, as far as the interval goes."""
        return self.paid_after(self.fastest)

    @property
    def at_most(self) -> float | None:
        return self.paid_after(self.slowest)

    @property
    def crossing(self) -> float | None:
        """Where the priors are paid for; None unless all of the interval says that they are."""
        return None if self.at_most is None else self.paid_after(self.with_dip)


def _shared(report: Report) -> _Sharing | None:
    """From the reference cell in memory, its training time with DIP by the effect over all pairs.

    Preparing is as long on both sides. Sampling and scoring, which DIP cannot touch, are left out.
    """
    arms = report.reference.arms if report.reference else {}
    with_dip, without = arms.get(("dip", "memory")), arms.get(("images", "memory"))
    effect = report.dip_time
    if with_dip is None or without is None or effect is None:
        return None
    priors = with_dip.group_seconds("priors")
    prepared, trained = without.group_seconds("prepare"), without.group_seconds("train")
    if priors is None or prepared is None or trained is None:
        return None
    low, high = (None if r is None else prepared + r * trained for r in (effect.low, effect.high))
    return _Sharing(priors, prepared + trained, prepared + effect.mean * trained, low, high)


def _crossing(report: Report) -> str:
    shared = _shared(report)
    if shared is None:
        return ""
    priors, plain = seconds(shared.priors), seconds(shared.plain)
    if shared.fastest is None:
        return (
            f"This run cannot tell whether sharing the priors ever pays for their {priors}: DIP's "
            "effect on the training time has no interval here."
        )
    if shared.at_least is None:
        return (
            f"Sharing the priors never pays for their {priors}, as far as this run can see: at the "
            "near end of the interval of its training time a run with DIP takes "
            f"{seconds(shared.fastest)} to prepare and train, one on images {plain}."
        )
    if shared.crossing is None:
        return (
            f"This run cannot tell whether sharing the priors ever pays for their {priors}; at "
            f"least {math.ceil(shared.at_least)} training runs would have to share them "
            f"({seconds(shared.fastest)} a run with DIP at the near end of the interval of its "
            f"training time, {plain} a run on images)."
        )
    return (
        f"The priors' {priors} would be paid back after {three(shared.crossing)} training runs "
        f"that share them (95\N{NO-BREAK SPACE}% interval {three(shared.at_least)} to "
        f"{number(shared.at_most)}; {seconds(shared.with_dip)} against {plain} a run)."
    )


def _sharing(report: Report) -> list[Block]:
    shared = _shared(report)
    if shared is None or report.reference is None:
        return [Text(missing(report, "pair of arms, in memory, to find a break-even for"))]
    mark = None
    if shared.crossing is not None:
        mark = (f"break-even at {three(shared.crossing)}", shared.crossing)
    elif shared.at_least is not None:
        mark = (f"at least {math.ceil(shared.at_least)}", shared.at_least)
    x = [0.0, max(10.0, 1.5 * mark[1]) if mark else 10.0]
    lines = [
        Line("dip", x, [shared.priors + n * shared.with_dip for n in x], "dip, priors once"),
        Line("images", x, [n * shared.plain for n in x], "images"),
    ]
    ends = [
        [shared.priors + n * end for n in x]
        for end in (shared.fastest, shared.slowest)
        if end is not None
    ]
    return [
        Text(_crossing(report), "Break-even"),
        Figure(
            svg.render(
                "break-even",
                "Total seconds against runs that share the priors",
                lambda width: plots.break_even(lines, ends, mark, width),
                wide=5.6,
            ),
            "Seconds to prepare and train if the priors are made once and n training runs use "
            f"them, at {report.reference.words}; sampling and scoring, which DIP does not touch, "
            "are not in it. Images: one run; DIP: the same with its training times the ratio over "
            "all pairs. "
            + ("Band: the interval of that ratio." if ends else "The ratio has no interval."),
            raw_table(
                [
                    "priors, s",
                    "a run on images, s",
                    "a run with DIP, s",
                    "low",
                    "high",
                    "break-even, runs",
                    "at least, runs",
                ],
                [
                    [
                        shared.priors,
                        shared.plain,
                        shared.with_dip,
                        shared.fastest,
                        shared.slowest,
                        shared.crossing,
                        shared.at_least,
                    ]
                ],
            ),
        ),
    ]


# Noise -----------------------------------------------------------------------------------------


def noise(report: Report) -> Section:
    """A-vs-A by stage: rows of one key in the two units of a repeated case."""
    pairs = report.pairs(PER_IMAGE, "repeat", 1, 2)
    if not pairs:
        return Section("noise", "Noise", missing(report, "case that ran twice"))
    by_function: dict[str, list[Pair]] = {}
    for pair in pairs:
        theirs = {charge.key: charge for charge in pair.other.bill}
        for charge in pair.base.bill:
            twin = theirs.get(charge.key)
            # Only what each of the two processes executed itself.
            if charge.executed_in(pair.base) and twin and twin.executed_in(pair.other):
                made = _seconds_pair(charge.seconds, twin.seconds, pair.base, pair.other)
                by_function.setdefault(charge.function or "", []).extend(made)
    rows = [
        ForestRow(name, logs(found), paired_ratio(found))
        for name, found in sorted(by_function.items())
        if found
    ]
    effect = report.repeat_time
    trained = by_function.get(TRAIN, [])
    spread = max((abs(ratio - 1) for ratio in logs(trained)), default=0.0)
    figure = Figure(
        svg.render(
            "noise",
            "A-vs-A: each stage of a case that ran twice",
            lambda width: plots.forest(rows, "second run / first run", width),
        ),
        "The same case in two fresh processes: a dot a stage call, its seconds in the second run "
        "over those in the first; a bar is their mean. Stages of a few milliseconds scatter most.",
        raw_table(
            ["stage", "ratios"], [[r.label, ", ".join(f"{d:.6g}" for d in r.dots)] for r in rows]
        ),
    )
    finding = (
        f"The calls of train_ddpm in the same case run again differed by up to {percent(spread)}"
    )
    if effect:
        finding += f"; a training image took {change(effect, 'longer', 'less')}"
    finding += "."
    words = ", ".join(sorted({cell_words(pair.base) for pair in pairs}))
    return Section("noise", "Noise", finding, [figure, Text(f"Repeated: {words}.")])


def _seconds_pair(
    base: float | None, other: float | None, first: Outcome, second: Outcome
) -> list[Pair]:
    return [Pair(base, other, processes(first, second))] if base and other else []
