"""The page of the suite over a range of commits: a plot a benchmark, and the steps in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure as Drawing

from bench.commits.records import History, Line
from reports import page
from reports.blocks import Block, Cell, Figure, Listing, Section, Table, raw_table
from reports.commits import short
from reports.figures import svg
from reports.figures.svg import INK, MUTED, is_narrow, new_figure
from reports.load import plain_text
from reports.words import plural, signed_percent


@dataclass(frozen=True)
class _Step:
    """A change of a benchmark, at the place of its commit."""

    line: Line
    place: int
    ratio: float


def build(found: History) -> dict[str, bytes]:
    """history.html; the same history gives the same bytes."""
    places = {one.commit: place for place, one in enumerate(found.commits)}
    steps = [
        _Step(line, places[change.commit], change.ratio)
        for line in found.lines
        for change in line.steps
    ]
    skipped = [one for one in found.commits if one.why]
    html = page.render(
        f"{len(found.commits)} commits, {found.commits[0].commit[:9]} to "
        f"{found.commits[-1].commit[:9]}",
        "history",
        [found.device, f"{plural(found.processes, 'process', 'processes')} a commit"],
        [_found_steps(found, steps), _lines(found, steps), _how(found)],
        incomplete=[f"{one.commit[:9]} is not measured: {one.why}" for one in skipped],
    )
    return {"history.html": html.encode()}


def _found_steps(found: History, steps: Sequence[_Step]) -> Section:
    if not steps:
        text = f"No step in {plural(len(found.lines), 'benchmark')}."
        return Section("steps", "Steps", text)
    worst = max(steps, key=lambda step: abs(math.log(step.ratio)))
    commits = {step.place for step in steps}
    text = (
        f"{plural(len(steps), 'step')} at {plural(len(commits), 'commit')}; the largest is "
        f"{signed_percent(worst.ratio)} of {short(worst.line.name)} at "
        f"{_label(found, worst.place)}."
    )
    rows = [
        [
            Cell(found.commits[step.place].commit[:9], step.place),
            Cell(found.commits[step.place].subject, found.commits[step.place].subject),
            Cell(short(step.line.name), step.line.name),
            Cell(signed_percent(step.ratio), step.ratio),
        ]
        for step in sorted(steps, key=lambda step: (step.place, -abs(math.log(step.ratio))))
    ]
    caption = (
        "A step: the times from this commit on are others than before it, by penalised least "
        "squares (PELT). Where commits were left out `python -m bench.commits bisect` looks closer."
    )
    table = Table(["commit", "subject", "benchmark", "time"], rows, caption, filterable=True)
    return Section("steps", "Steps", text, [table])


def _label(found: History, place: int) -> str:
    one = found.commits[place]
    return f"{one.commit[:9]} ({one.subject})"


def _lines(found: History, steps: Sequence[_Step]) -> Section:
    # Those with a step come first, the largest before.
    size = {line.name: 0.0 for line in found.lines}
    for step in steps:
        size[step.line.name] = max(size[step.line.name], abs(math.log(step.ratio)))
    order = sorted(found.lines, key=lambda line: -size[line.name])
    blocks: list[Block] = [_figure(found, line) for line in order]
    text = f"{plural(len(found.lines), 'benchmark')} over {plural(len(found.commits), 'commit')}."
    return Section("benchmarks", "Benchmarks", text, blocks)


def _figure(found: History, line: Line) -> Figure:
    told = [f"{signed_percent(change.ratio)} at {change.commit[:9]}" for change in line.steps] or [
        "no step"
    ]
    title = f"{short(line.name)} over {len(found.commits)} commits: {', '.join(told)}"
    data = raw_table(
        ["commit", "subject", "seconds", "standard error of its logarithm"],
        [
            (one.commit[:9], one.subject, taken, error)
            for one, taken, error in zip(found.commits, line.seconds, line.errors, strict=True)
        ],
    )
    caption = f"{short(line.name)}: {', '.join(told)}. Bars: two standard errors."
    return Figure(
        svg.render(f"history-{_slug(line.name)}", title, lambda width: _draw(found, line, width)),
        caption, data,
    )  # fmt: skip


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _draw(found: History, line: Line, width: float) -> Drawing:
    """Seconds over commits, with the subject of each at which there is a step."""
    figure, (ax,) = new_figure(width, 2.2)
    there = [place for place, taken in enumerate(line.seconds) if taken is not None]
    taken = [value for value in line.seconds if value is not None]
    scale, unit = (1.0, "s") if max(taken) >= 1 else (1000.0, "ms")
    values = [value * scale for value in taken]
    errors = [2 * line.errors[place] * value for place, value in zip(there, values, strict=True)]
    ax.errorbar(there, values, yerr=errors, fmt="o", color=INK, markersize=3.5, linewidth=0.8)
    ax.set_ylim(0, 1.25 * max(value + error for value, error in zip(values, errors, strict=True)))
    ax.set_xlim(-0.5, len(found.commits) - 0.5)
    ax.set_ylabel(unit)
    places = {one.commit: place for place, one in enumerate(found.commits)}
    for change in line.steps:
        place = places[change.commit]
        ax.axvline(place - 0.5, color=MUTED, linewidth=0.8)
        subject = plain_text(found.commits[place].subject)
        room = 24 if is_narrow(width) else 60
        words = subject if len(subject) <= room else f"{subject[: room - 1]}…"
        right = place > len(found.commits) / 2
        ax.annotate(
            f"{signed_percent(change.ratio)}: {words}",
            (place - 0.5, 1), xycoords=("data", "axes fraction"),
            xytext=(-4 if right else 4, -2), textcoords="offset points",
            ha="right" if right else "left", va="top",
        )  # fmt: skip
    shown = [0, len(found.commits) - 1] if is_narrow(width) else _ticks(len(found.commits))
    ax.set_xticks(shown, [found.commits[place].commit[:7] for place in shown])
    return figure


def _ticks(count: int) -> list[int]:
    """At most nine of so many places."""
    every = max(1, math.ceil(count / 9))
    return list(range(0, count, every))


def _how(found: History) -> Section:
    items = [f"{one.commit[:9]}: {one.subject or one.why}" for one in found.commits]
    table = Table(
        ["what", "value"],
        [[Cell(name, name), Cell(text, text)]
         for name, text in (("command", found.command), ("device", found.device))],
    )  # fmt: skip
    text = "One suite measured the library of each commit, in turn, in fresh processes."
    return Section("how", "How it was measured", text, [table, Listing(items, "Commits")])
