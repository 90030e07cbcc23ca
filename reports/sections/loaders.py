"""Target x loader: the 2 x 2, what the loader's share of it is, and what the publication saw."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.stats import Effect, Pair, paired_difference, paired_ratio
from reports.blocks import Block, Cell, Figure, Section, Table, Text, raw_table
from reports.context import KEPT, ON_DIP, ON_IMAGES, PER_IMAGE, Arm, Reference, Report
from reports.effects import (
    VERDICT_COLUMNS,
    forest_data,
    mean_cell,
    mean_of,
    missing,
    ratios,
    seeds_of,
    verdict_cells,
)
from reports.figures import plots, svg
from reports.figures.plots import ForestRow, LoaderPoint
from reports.pairs import Group, Quantity, Side, values
from reports.publication import published_effect, published_pairs, published_rows
from reports.words import judged, plural, ratio_interval, seconds, times

WAIT = Quantity("waiting s an image", lambda one: one.wait_seconds_per_image)


def loaders(report: Report) -> Section:
    """The 2 x 2 of what is trained on and how it is loaded, and the other ways of loading."""
    title, reference = "Target × loader", report.reference
    measured = {
        arm: group
        for arm, group in (reference.arms.items() if reference else ())
        if mean_of(group, PER_IMAGE)
    }
    if reference is None or len({arm[1:] for arm in measured}) < 2:
        text = missing(report, "case with more than one loader", "loaders-cpu")
        return Section("loaders", title, text)
    said = loader_finding(report) or [
        missing(report, "2 × 2 of target and loader at equal settings", "loaders-cpu")
    ]
    blocks: list[Block] = [
        *map(Text, said[1:]),
        _figure(reference, measured),
        _cells(reference, measured),
        *_effects(report),
        *_waiting_table(report),
        *_ways(report, measured),
        *_published(report),
    ]
    return Section("loaders", title, said[0], blocks)


def loader_finding(report: Report) -> list[str]:
    """The effects of the 2 x 2 in sentences, the main ones first; none without one."""
    if report.square is None:
        return []
    kept, effects = report.square
    controls = report.controls(PER_IMAGE)
    loader, dip, interaction = (
        judged(PER_IMAGE.judge(effect, controls))
        for effect in (effects.a, _dip_where_kept(report, kept), effects.interaction)
    )
    words = "a list of tensors" if kept == "list" else "one tensor in memory"
    first = (
        f"Training seconds an image, images decoded at every epoch against {words}: {loader}. DIP "
        f"outputs against images, both as {words}: {dip}."
    )
    second = (
        f"Interaction, the loader's ratio with DIP over that without: {interaction}"
        f"{_files_words(report)}.{_waiting_sentence(report, kept)}"
    )
    alone = report.effect(
        PER_IMAGE, {**ON_IMAGES, "loader": kept}, {**ON_IMAGES, "loader": "decode"}
    )
    theirs = published_effect(published_pairs(published_rows()))
    assert theirs is not None
    if alone is not None:
        second += (
            f" Without any DIP, (images, decode) / (images, {kept}) is {times(alone.mean)} "
            f"({plural(alone.pairs, 'pair')}, {ratio_interval(alone)}); the publication's ratio, "
            f"with DIP on one side, was {times(1 / theirs.mean)}."
        )
    return [first, second]


def _files_words(report: Report) -> str:
    """What the interaction holds beside DIP's effect."""
    if any(one.settings["files"] == "source" for one in report.generated):
        return (
            "; it holds that the images' own files are others than those of DIP outputs, and "
            "decode in another time"
        )
    return "; the files of both are of one encoder"


def _dip_where_kept(report: Report, kept: str) -> Effect | None:
    """DIP outputs against images where no file is decoded, which has its own time for each."""
    return report.effect(PER_IMAGE, {**ON_IMAGES, "loader": kept}, {**ON_DIP, "loader": kept})


# The seconds -------------------------------------------------------------------------------------


def _figure(reference: Reference, measured: dict[Arm, Group]) -> Figure:
    points = [
        LoaderPoint(arm.train_on, arm.loading, _milliseconds(group), _waits(group))
        for arm, group in measured.items()
    ]
    return Figure(
        svg.render(
            "loaders",
            "Training time an image by target and loader",
            lambda width: plots.loaders(points, width),
        ),
        f"Milliseconds for a training image at {reference.words}, mean over "
        f"{seeds_of(measured.values())}; bars: 95 % interval, where there are three or more. "
        "Filled: all of it; hollow: the part spent waiting for the batch.",
        raw_table(
            ["train on", "loader", "ms an image", "low", "high", "of it waiting, ms"],
            [[p.arm, p.loader, p.taken.mean, p.taken.low, p.taken.high, p.waiting] for p in points],
        ),
    )


def _milliseconds(group: Group) -> Effect:
    effect = mean_of(group, PER_IMAGE)
    assert effect is not None  # only measured arms are asked
    low, high = (None if end is None else 1000 * end for end in (effect.low, effect.high))
    return replace(effect, mean=1000 * effect.mean, low=low, high=high)


def _waits(group: Group) -> float | None:
    effect = mean_of(group, WAIT)
    return None if effect is None else 1000 * effect.mean


def _cells(reference: Reference, measured: dict[Arm, Group]) -> Table:
    return Table(
        ["train on", "loader", "files", "flip", "seconds an image", "of it waiting", "seeds"],
        [
            [
                Cell(arm.train_on, arm.train_on),
                Cell(arm.loading, arm.loading),
                Cell(arm.files if arm.loader == "decode" else "–", arm.files),
                Cell(arm.flip, arm.flip),
                mean_cell(mean_of(group, PER_IMAGE), seconds),
                mean_cell(mean_of(group, WAIT), seconds),
                Cell(str(len(group)), len(group)),
            ]
            for arm, group in measured.items()
        ],
        f"Training seconds an image at {reference.words}: mean over seeds, with its 95 % interval.",
    )


# The effects -------------------------------------------------------------------------------------


def _effects(report: Report) -> list[Block]:
    if report.square is None:
        return []
    kept, effects = report.square
    named = [
        (f"loader: decode / {kept}", effects.a),
        (f"DIP: dip / images, both {kept}", _dip_where_kept(report, kept)),
        ("interaction: the loader's ratio with DIP / without", effects.interaction),
    ]
    again = report.again(PER_IMAGE)
    rows = [
        [
            Cell(name, name),
            *verdict_cells(PER_IMAGE.judge(effect, report.controls(PER_IMAGE)), PER_IMAGE),
        ]
        for name, effect in named
    ]
    floor = "A-vs-A: the same case again"
    rows.append([Cell(floor, floor), *verdict_cells(PER_IMAGE.judge(again), PER_IMAGE)])
    return [
        Table(
            ["on training seconds an image", *VERDICT_COLUMNS],
            rows,
            "The 2 × 2, over all settings and seeds that have its four cells. A word stands only "
            "where it clears the controls, A-vs-A below it among them; equal is within 2 %.",
        )
    ]


def _ways(report: Report, measured: dict[Arm, Group]) -> list[Block]:
    """Every other way of loading images, against decoding them in the training process."""
    base: Side = {**ON_IMAGES, "loader": "decode", "num_workers": 0}
    ways = [arm for arm in measured if arm.train_on == "images" and arm.loading != "decode"]
    rows = []
    for arm in ways:
        way: Side = {"loader": arm.loader, "num_workers": arm.num_workers, "flip": arm.flip}
        flips = {a.flip for a in measured if a.loading == "decode"}
        # With the same flip where decode was run with it.
        flip = arm.flip if arm.flip in flips else min(flips, default=arm.flip)
        verdict = report.judge(PER_IMAGE, {**base, "flip": flip}, {**ON_IMAGES, **way})
        flips_words = "" if flip == arm.flip else f", flip on the {arm.flip} / in the {flip}"
        name = f"{arm.loading} / decode{flips_words}"
        if verdict.effect is not None:
            rows.append([Cell(name, name), *verdict_cells(verdict, PER_IMAGE)])
    caption = (
        "Other ways of loading the images against decoding them in the training process: training "
        "seconds an image, no DIP on either side."
    )
    return [Table(["images, loaded by", *VERDICT_COLUMNS], rows, caption)] if rows else []


# The waiting -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiting:
    """In seconds an image, decode less the loader that keeps its images, over the same pairs.

    unexplained: taken less waited, pair by pair
    """

    taken: Effect
    waited: Effect
    unexplained: Effect

    @property
    def explains(self) -> bool | None:
        """Whether the waiting equals the time within the interval; None without an interval."""
        low, high = self.unexplained.low, self.unexplained.high
        return None if low is None or high is None else low <= 0 <= high


def waiting(report: Report, kept: str, on: Side | None = None) -> Waiting | None:
    """What decoding takes longer, beside the longer waiting for data that the steps measured.

    on: what is trained on; None: whatever it is
    """
    groups = [
        group
        for group in report.groups(
            PER_IMAGE, {**(on or {}), "loader": kept}, {**(on or {}), "loader": "decode"}
        )
        if all(one.wait_seconds_per_image is not None for one in group)
    ]
    taken, waited = values(groups, PER_IMAGE), values(groups, WAIT)
    unexplained = [
        Pair(wait.other - wait.base, time.other - time.base, time.executions)
        for time, wait in zip(taken, waited, strict=True)
    ]
    effects = [paired_difference(pairs) for pairs in (taken, waited, unexplained)]
    first, second, third = effects
    return Waiting(first, second, third) if first and second and third else None


def _waiting_sentence(report: Report, kept: str) -> str:
    found, on_images = waiting(report, kept), waiting(report, kept, ON_IMAGES)
    if found is None:
        return ""
    text = (
        f" Decoding took {seconds(found.taken.mean)} an image longer ({_ends(found.taken)}), of "
        f"which {seconds(found.waited.mean)} were longer waiting for data as measured; the rest, "
        f"{_rest_words(found)}"
    )
    if on_images is not None and on_images.taken.pairs < found.taken.pairs:
        text += f"; on images alone the rest, {_rest_words(on_images)}"
    return f"{text}."


def _ends(effect: Effect) -> str:
    if effect.low is None:
        return "no interval"
    return f"95 % interval {seconds(effect.low)} to {seconds(effect.high)}"


def _rest_words(found: Waiting) -> str:
    """What the waiting leaves unexplained, and whether that is anything."""
    left = found.unexplained
    if left.low is None:
        return f"{seconds(left.mean)} ({plural(left.pairs, 'pair')}), has no interval"
    said = "cannot be told from 0" if found.explains else "is not 0"
    ends = f"95 % interval {seconds(left.low)} to {seconds(left.high)}"
    return f"{seconds(left.mean)} ({plural(left.pairs, 'pair')}, {ends}), {said}"


def _waiting_table(report: Report) -> list[Block]:
    kept = report.square[0] if report.square else KEPT[0]
    targets = dict.fromkeys(str(one.settings["train_on"]) for one in report.generated)
    sets: dict[str, Side | None] = {name: {"train_on": name} for name in targets}
    rows = []
    for name, on in {**sets, "all": None}.items():
        found = waiting(report, kept, on)
        if found is not None:
            rows += [
                [Cell(name, name), *_seconds_cells(what, effect)]
                for what, effect in (
                    (f"training seconds: decode less {kept}", found.taken),
                    ("waiting for data, as measured: the same", found.waited),
                    ("what the waiting leaves unexplained", found.unexplained),
                )
            ]
    if not rows:
        return []
    return [
        Table(
            ["trained on", "an image", "mean", "95 % interval", "pairs"],
            rows,
            "Whether the loader's effect is the time that a step waits for its batch, over the "
            "same pairs of runs: what is left unexplained cannot be told from nothing where its "
            "interval contains 0, and may be as much as that reaches.",
        )
    ]


def _seconds_cells(name: str, effect: Effect) -> list[Cell]:
    interval = "no interval"
    if effect.low is not None:
        interval = f"{seconds(effect.low)} to {seconds(effect.high)}"
    return [
        Cell(name, name),
        Cell(seconds(effect.mean), effect.mean),
        Cell(interval, effect.low),
        Cell(str(effect.pairs), effect.pairs),
    ]


# The publication ---------------------------------------------------------------------------------


def _published(report: Report) -> list[Block]:
    """Its ratio, with DIP on one side and the loader on the other, beside ours."""
    pairs = published_pairs(published_rows())
    theirs = published_effect(pairs)
    assert theirs is not None
    inverse = [Pair(pair.ratio, 1.0, frozenset({pair.label})) for pair in pairs]
    rows = [
        ForestRow(
            "published: (images, decode) / (dip, kept)",
            ratios(inverse),
            paired_ratio(inverse),
            "dip",
            published=True,
        )
    ]
    kept = report.square[0] if report.square else KEPT[0]
    for train_on, arm, label in (
        ("dip", "dip", f"ours: (images, decode) / (dip, {kept})"),
        ("images", "images", f"ours, without DIP: (images, decode) / (images, {kept})"),
    ):
        found = report.pairs(
            PER_IMAGE,
            {"train_on": train_on, "loader": kept},
            {**ON_IMAGES, "loader": "decode"},
        )
        if found:
            rows.append(ForestRow(label, ratios(found), paired_ratio(found), arm))
    if len(rows) == 1:
        return []
    return [
        Figure(
            svg.render(
                "published-loader",
                "The published ratio beside ours, with and without DIP in it",
                lambda width: plots.forest(rows, "ratio of training seconds", width),
            ),
            "What the publication compared, images decoded in every epoch against DIP outputs "
            "kept as tensors, and the same with images on both sides. A dot a pair, a bar the "
            "mean, a line its 95 % interval. Right of 1× decoding took longer.",
            forest_data(rows),
        )
    ]
