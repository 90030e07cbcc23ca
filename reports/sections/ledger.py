"""Where the time goes: a bill an arm, and what sharing the priors would change."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.stats import over_replicates
from reports.blocks import Block, Figure, Section, Text, raw_table
from reports.context import PER_IMAGE, Report
from reports.effects import mean_of, missing, seeds_of
from reports.figures import plots, svg
from reports.figures.plots import Bar, Line
from reports.pairs import Group, Quantity
from reports.tables import GROUPS
from reports.words import number, percent, plural, seconds, three


def _seconds_of(group: str) -> Quantity:
    return Quantity(f"{group} seconds", lambda one: one.group_seconds(group))


def ledger(report: Report) -> Section:
    """A bill an arm, and what sharing the priors would change."""
    title, reference = "Where the time goes", report.reference
    arms = {
        str(arm): group
        for arm, group in (reference.arms.items() if reference else ())
        if all(outcome.total_seconds is not None for outcome in group)
    }
    if reference is None or not arms:
        return Section("ledger", title, missing(report, "outcome with a complete bill"))
    rows = [Bar(name, _groups(group)) for name, group in arms.items()]
    shares = [
        f"{_share(group)} ({name})"
        for name, group in arms.items()
        if group[0].settings["train_on"] == "dip"
    ]
    finding = (
        f"At {reference.words}, making the priors was {' and '.join(shares)} of all the seconds."
        if shares
        else f"At {reference.words}, no arm with priors has a complete bill."
    )
    figure = Figure(
        svg.render(
            "ledger", "Seconds by stage, a bar an arm", lambda width: plots.bars(rows, width)
        ),
        f"Everything an outcome rests on at {reference.words}, mean over "
        f"{seeds_of(arms.values())}; priors in full, wherever they were fitted; the "
        "blur is set by the priors' PSNR, so its arm pays for them too. Process start and "
        "warm-up are no stage and not here.",
        raw_table(["arm", *GROUPS], [[row.label, *row.groups.values()] for row in rows]),
    )
    return Section("ledger", title, finding, [figure, *_sharing(report)])


def _share(group: Group) -> str:
    """61.6 %, with its interval over seeds."""
    shares = [(one.group_seconds("priors") or 0.0) / (one.total_seconds or 1.0) for one in group]
    effect = over_replicates(shares)
    interval = "no interval"
    if effect.low is not None and effect.high is not None:
        interval = f"95 % interval {percent(effect.low)} to {percent(effect.high)}"
    return f"{percent(effect.mean)}, {plural(len(group), 'seed')}, {interval}"


def _groups(group: Group) -> dict[str, float]:
    """Seconds by group of stages, the mean over the outcomes."""
    return {
        name: sum(one.group_seconds(name) or 0.0 for one in group) / len(group) for name in GROUPS
    }


@dataclass(frozen=True)
class _Sharing:
    """What sharing the priors would change, in seconds; a run: to prepare and to train.

    fastest, slowest: a run with DIP at the ends of the interval of its effect on the training
        time; where its controls reach it, also of theirs; None without an interval or A-vs-A
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
    """From the reference cell, its training time with DIP by the effect over all pairs.

    Preparing is as long on both sides. Sampling and scoring, which DIP cannot touch, are left out.
    """
    groups = report.reference.by_target if report.reference else {}
    with_dip, without, effect = groups.get("dip"), groups.get("images"), report.dip_time
    if with_dip is None or without is None or effect is None:
        return None
    means = [
        mean_of(group, _seconds_of(name))
        for group, name in ((with_dip, "priors"), (without, "prepare"), (without, "train"))
    ]
    if any(mean is None for mean in means):
        return None
    priors, prepared, trained = (mean.mean for mean in means if mean)
    low = high = None
    distance = report.reach(PER_IMAGE)
    if effect.low is not None and effect.high is not None and distance is not None:
        low, high = effect.low, effect.high
        reach = math.exp(distance)
        if high >= 1 / reach and low <= reach:  # within what makes no difference
            low, high = min(low, 1 / reach), max(high, reach)
        low, high = prepared + low * trained, prepared + high * trained
    return _Sharing(priors, prepared + trained, prepared + effect.mean * trained, low, high)


def crossing_words(report: Report) -> list[str]:
    """After how many training runs the priors are paid for, in a sentence; none without a pair."""
    shared = _shared(report)
    return [] if shared is None else [_crossing(shared)]


def _crossing(shared: _Sharing) -> str:
    priors, plain = seconds(shared.priors), seconds(shared.plain)
    if shared.fastest is None:
        return (
            f"This run cannot tell whether sharing the priors ever pays for their {priors}: DIP's "
            "effect on the training time, or A-vs-A beside it, has no interval here."
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
            f"least {plural(math.ceil(shared.at_least), 'training run')} would have to share them "
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
        return [Text(missing(report, "pair of arms, at one loader, to find a break-even for"))]
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
        Text(_crossing(shared), "Break-even"),
        Figure(
            svg.render(
                "break-even",
                "Total seconds against runs that share the priors",
                lambda width: plots.break_even(lines, ends, mark, width),
                wide=5.6,
            ),
            "Seconds to prepare and train if the priors are made once and n training runs use "
            f"them, at {report.reference.words}; sampling and scoring, which DIP does not touch, "
            "are not in it. Images: mean over the seeds; DIP: the same with its training times the "
            "ratio over all pairs. "
            + (
                "Band: the interval of that ratio and, where they reach it, of its controls."
                if ends
                else "The ratio, or A-vs-A beside it, has no interval."
            ),
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
