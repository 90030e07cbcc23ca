"""The headline: held-out loss against total seconds, the priors' included."""

from __future__ import annotations

from collections.abc import Sequence

from reports.blocks import Block, Figure, Section, Table, raw_table
from reports.context import (
    EPS_LOSS,
    LOSS_LEVELS,
    ON_DIP,
    ON_IMAGES,
    Arm,
    Report,
    arm_of,
    facet_key,
    of_one_loading,
)
from reports.effects import mean_of, mean_words, middle, missing, seeds_of
from reports.figures import quality as plots
from reports.figures import svg
from reports.figures.quality import Curve, Facet
from reports.pairs import Group, Key, Quantity
from reports.words import judged, number, seconds

MAX_FACETS = 12
# Single seeds beside their mean; more are a blur.
MAX_FAINT = 20
NET_SECONDS = Quantity("seconds to the net", lambda one: one.net_seconds, shared=True)

# Of an arm: the outcomes of each number of epochs, one a seed.
_Runs = dict[float, Group]


def loss(report: Report) -> Section:
    """Held-out loss against total seconds, an arm a line, at each setting."""
    title, reference = "Held-out loss against total seconds", report.reference
    settings = _settings(report)
    if reference is None or reference.key not in settings:
        text = missing(report, "held-out loss with a complete bill", "corrected-cpu")
        return Section("loss", title, text)
    runs = settings.pop(reference.key)
    first = _facet(report, runs)
    loaded = "; ".join(map(str, runs))
    blocks: list[Block] = [
        Figure(
            svg.render(
                "loss",
                "Held-out loss against total seconds",
                lambda width: plots.loss_curve(first, width),
            ),
            f"At {first.title} ({loaded}). A mark is the mean over "
            f"{seeds_of(group for arm in runs.values() for group in arm.values())} after so many "
            "epochs, its bar the 95 % interval where there are three seeds or more; faint: single "
            f"seeds, of at most {MAX_FAINT}. Milestones of one run are joined, runs of their own "
            "are not. Arms with priors "
            "begin after the time it takes to fit them, the blur too, which is set by their PSNR. "
            "Loss: mean squared error of the predicted noise on held-out images, mean over "
            f"{LOSS_LEVELS}, the same noise for every arm of a seed.",
            _data([(first.title, runs)]),
        )
    ]
    others = [(_facet(report, arms), arms) for arms in list(settings.values())[:MAX_FACETS]]
    if others:
        left = len(settings) - len(others)
        drawn = [facet for facet, _ in others]
        blocks.append(
            Figure(
                svg.render(
                    "loss-cells",
                    "The same at the other settings",
                    lambda width: plots.loss_facets(drawn, width),
                ),
                "The same at the other settings of this run, on common axes"
                + (f"; {left} more are in the results table." if left else "."),
                _data([(facet.title, arms) for facet, arms in others]),
            )
        )
    return Section("loss", title, _finding(report), blocks)


def _finding(report: Report) -> str:
    groups = report.reference.by_target if report.reference else {}
    reached = [
        f"{mean_words(mean_of(group, EPS_LOSS))} {words} in {_reached(group)}"
        for target, words in (("images", "on images"), ("dip", "on DIP outputs"))
        if (group := groups.get(target)) and mean_of(group, EPS_LOSS)
    ]
    verdict = report.judge(EPS_LOSS, ON_IMAGES, ON_DIP)
    if len(reached) < 2 or report.reference is None:
        return missing(report, "pair of arms with and without DIP at one setting", "corrected-cpu")
    return (
        f"At {report.reference.words} the held-out loss was {' and '.join(reached)} "
        f"({seeds_of(groups.values())}). Over all settings, the loss on DIP outputs against that "
        f"on images: {judged(verdict, of_seeds=True)}."
    )


def _reached(group: Group) -> str:
    effect = mean_of(group, NET_SECONDS)
    return seconds(effect.mean) if effect else "an unknown time (part of its bill is missing)"


def _settings(report: Report) -> dict[Key, dict[Arm, _Runs]]:
    """A setting of the grid each: its arms, of one way of loading where they share one."""
    found: dict[Key, dict[Arm, dict[float, dict[int, Group]]]] = {}
    for outcome in report.generated:
        if outcome.record.repeat == 1 and all(q.of(outcome) for q in (NET_SECONDS, EPS_LOSS)):
            arms = found.setdefault(facet_key(outcome), {})
            runs = arms.setdefault(arm_of(outcome), {})
            seeds = runs.setdefault(outcome.number("epochs"), {})
            seeds.setdefault(outcome.record.seed, (outcome,))
    return {
        key: {
            arm: {epochs: sum(seeds.values(), ()) for epochs, seeds in sorted(arms[arm].items())}
            for arm in of_one_loading(arms)
        }
        for key, arms in found.items()
    }


def _facet(report: Report, arms: dict[Arm, _Runs]) -> Facet:
    first = next(iter(next(iter(arms.values())).values()))[0]
    dip = next((runs for arm, runs in arms.items() if arm.train_on == "dip"), {})
    of_priors = Quantity("priors", lambda one: one.group_seconds("priors"))
    priors = next((mean_of(group, of_priors) for group in dip.values()), None)
    return Facet(
        report.setting_words(first),
        [_curve(arm.train_on, runs) for arm, runs in arms.items()],
        middle(priors),
    )


def _curve(arm: str, runs: _Runs) -> Curve:
    points = [
        (x, y)
        for group in runs.values()
        if (x := mean_of(group, NET_SECONDS)) and (y := mean_of(group, EPS_LOSS))
    ]
    single: dict[int, list[tuple[float, float]]] = {}
    units: dict[int, set[str]] = {}
    for group in runs.values():
        for one in group:
            point = (one.net_seconds or 0.0, EPS_LOSS.of(one) or 0.0)
            single.setdefault(one.record.seed, []).append(point)
            units.setdefault(one.record.seed, set()).add(one.record.unit)
    last_x, last_y = points[-1]
    return Curve(
        arm,
        points,
        list(single.values()) if 1 < len(single) <= MAX_FAINT else [],
        f"{arm} {number(last_y.mean)} in {seconds(last_x.mean)}",
        joined=all(len(of_seed) == 1 for of_seed in units.values()),
    )


def _data(settings: Sequence[tuple[str, dict[Arm, _Runs]]]) -> Table:
    rows = []
    for title, arms in settings:
        for arm, runs in arms.items():
            for epochs, group in runs.items():
                x, y = mean_of(group, NET_SECONDS), mean_of(group, EPS_LOSS)
                assert x is not None
                assert y is not None  # which `_settings` sees to
                ends = [x.mean, x.low, x.high, y.mean, y.low, y.high]
                rows.append([title, str(arm), epochs, *ends, len(group)])
    names = ["seconds", "low", "high", "held-out eps loss", "low", "high", "seeds"]
    return raw_table(["setting", "arm", "epochs", *names], rows)
