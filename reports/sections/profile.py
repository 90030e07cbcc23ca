"""What the profiler saw in a step of each loop: phases, operators, kernels, waits, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from reports.blocks import (
    Block,
    Branch,
    Cell,
    Figure,
    Note,
    Section,
    Table,
    Text,
    Tree,
    Value,
    raw_table,
)
from reports.calls import BESIDE, LEAST_SHARE, Call
from reports.context import Report
from reports.figures import profile as figures
from reports.figures import svg
from reports.figures.profile import MemoryCurve, PhaseBar
from reports.load import without_home
from reports.profiles import Profile, Profiles
from reports.traces import DEVICE_PARTS, PHASES, Kernel, Operator, Tables
from reports.words import bytes_of, percent, plural, seconds, three

TITLE = "Inside a step: the profiler"
_LEAD = (
    "Times in this section hold the profiler's own cost: a step takes up to half as long again. "
    "They stand in no other table; compare them with each other alone."
)
# Of each stage; and of a name, which in C++ has no end.
_TOP, _NAME = 8, 90
# What the profiler calls a net.
_MODULE = "nn.Module: "


def profile(report: Report, profiles: Profiles) -> Section:
    """The traces of a run's profile units, read."""
    found = profiles.read
    if not report.run.profiles:
        text = "This run has no profile; `python -m bench profile SUITE` makes one, of its suite."
        return Section("profile", TITLE, text)
    broken: list[Block] = [Note(text) for text in profiles.broken]
    if not found:
        return Section("profile", TITLE, "No trace of this run can be read.", broken, _LEAD)
    blocks = [*broken, _phases(found), *_device(found), *_waits(found), *_operators(found),
              *_kernels(found), *_memory(found), *_calls(found), _elsewhere(report)]  # fmt: skip
    return Section("profile", TITLE, _finding(found), blocks, _LEAD)


def _finding(found: Sequence[Profile]) -> str:
    one = next((one for one in found if one.stage == "train"), found[0])
    parts = ", ".join(
        f"{phase} {percent(one.tables.phases[phase] / one.host_step)}"
        for phase in sorted(PHASES, key=lambda phase: -one.tables.phases[phase])
        if one.tables.phases[phase]
    )
    calls = sum(sum(call.calls for call in one.row.sync_calls) for one in found)
    if any(one.tables.device for one in found):
        said = (
            f"{plural(calls, 'call')} inside the traced steps "
            f"{'makes' if calls == 1 else 'make'} the host wait for the GPU."
            if calls
            else "No call inside a step makes the host wait for the GPU."
        )
    else:
        said = (
            f"{plural(calls, 'call')} inside the traced steps "
            f"{'reads' if calls == 1 else 'read'} values for which the host would wait on a GPU."
            if calls
            else "No step reads a value for which the host would wait on a GPU; copies to the host "
            "would, and a trace without a GPU does not show them."
        )
    return f"A step of {one.label}: {parts}. {said}"


def _phases(found: Sequence[Profile]) -> Figure:
    bars = [PhaseBar(one.label, one.tables.phases) for one in found]
    rows: list[list[Value]] = [
        [one.label, one.row.num_steps, one.host_step, one.row.flops_per_step / 1e9,
         *(one.tables.phases[phase] for phase in PHASES)]
        for one in found
    ]  # fmt: skip
    return Figure(
        svg.render(
            "profile-phases",
            "Phases of a step of each profiled loop",
            lambda width: figures.phases(bars, width),
        ),
        "Means of the traced steps. Other operators: loss, noise, clipping, averaged weights. No "
        "operator: Python between them. On a GPU this is the host, which launches kernels ahead.",
        raw_table(
            [
                "stage",
                "steps",
                "host step, s",
                "GFLOP a step",
                *(f"{phase}, s" for phase in PHASES),
            ],
            rows,
        ),
    )


def _device(found: Sequence[Profile]) -> list[Block]:
    with_device = [one for one in found if one.tables.device]
    if not with_device:
        return []
    rows = [
        [
            Cell(one.label, one.label),
            Cell(seconds(one.step), one.step),
            *(_share(one.tables.device[part], one.step) for part in DEVICE_PARTS),
        ]
        for one in with_device
    ]
    caption = (
        "The GPU in a step: what it does, and while it is idle what the host does. A step lasts "
        "until its last kernel has ended."
    )
    return [Table(["stage", "step", *DEVICE_PARTS], rows, caption)]


def _share(part: float, whole: float) -> Cell:
    share = part / whole if whole else 0.0
    return Cell(percent(share), share)


def _waits(found: Sequence[Profile]) -> list[Block]:
    heading = "Calls that make the host wait for the device"
    rows = [
        [
            Cell(one.label, one.label),
            _name(call.name),
            _number(call.calls / one.row.num_steps),
            Cell(seconds(call.seconds / one.row.num_steps), call.seconds / one.row.num_steps),
            _name(" < ".join(call.stack) or "not known"),
        ]
        for one in found
        for call in one.row.sync_calls
    ]
    if not rows:
        return [Text("None inside the traced steps.", heading)]
    columns = ["stage", "call", "calls a step", "time a step", "our lines, the innermost first"]
    return [Text("", heading), Table(columns, rows)]


def _operators(found: Sequence[Profile]) -> list[Block]:
    on_device = any(one.tables.device for one in found)

    def times(operator: Operator) -> list[float | None]:
        return [operator.host_seconds, *([operator.device_seconds] if on_device else [])]

    rows = _costliest(found, lambda tables: tables.operators, times)
    columns = ["host, itself, a step", *(["its kernels, a step"] if on_device else [])]
    return _named_table("operator", columns, rows)


def _kernels(found: Sequence[Profile]) -> list[Block]:
    rows = _costliest(found, lambda tables: tables.kernels, lambda kernel: [kernel.seconds])
    return _named_table("kernel", ["time a step"], rows) if rows else []


_Costly = TypeVar("_Costly", bound=Operator | Kernel)


def _costliest(
    found: Sequence[Profile],
    of: Callable[[Tables], Sequence[_Costly]],
    times: Callable[[_Costly], list[float | None]],
) -> list[list[Cell]]:
    """A row each: its name, how often a step calls it, its times, and its share with all above."""
    rows: list[list[Cell]] = []
    for one in found:
        costly = of(one.tables)
        so_far = list(accumulate(each.cost for each in costly))
        rows += [
            [
                Cell(one.label, one.label),
                _name(each.name),
                _number(each.calls / one.row.num_steps),
                *(_a_step(taken, one) for taken in times(each)),
                _share(cost, so_far[-1]),
            ]
            for each, cost in zip(costly[:_TOP], so_far, strict=False)
        ]
    return rows


def _named_table(what: str, times: Sequence[str], rows: list[list[Cell]]) -> list[Block]:
    columns = ["stage", what, "calls a step", *times, "of all, so far"]
    return [Text("", f"Costliest {what}s"), Table(columns, rows, filterable=True)]


def _a_step(taken: float | None, one: Profile) -> Cell:
    if taken is None:
        return Cell("–", None)
    return Cell(seconds(taken / one.row.num_steps), taken / one.row.num_steps)


def _memory(found: Sequence[Profile]) -> Iterable[Block]:
    curves = [
        MemoryCurve(f"{one.label}, {device}", points)
        for one in found
        for device, points in one.tables.memory.items()
    ]
    if not curves:
        return
    yield Figure(
        svg.render(
            "profile-memory",
            "Memory that torch allocated during the traced steps",
            lambda width: figures.memory(curves, width),
            wide=svg.BROAD,
        ),
        "Bytes that torch had allocated, the highest of each moment; on a CPU, beyond what it had "
        "when the first traced step began.",
        raw_table(["curve", "peak", "bytes"], [_peak(curve) for curve in curves]),
        broad=True,
    )


def _peak(curve: MemoryCurve) -> Sequence[str | float]:
    highest = max(height for _, height in curve.points)
    return [curve.label, bytes_of(int(highest)), highest]


def _calls(found: Sequence[Profile]) -> list[Block]:
    text = (
        "Shares of a step on the host, each with what it is made of, and how often a step calls "
        "it; below half a per cent they are left out. Where one calls one other and little else, "
        "the last is shown."
    )
    trees = (Tree(one.label, _branches(one.tables.calls, one)) for one in found)
    return [Text(text, "What calls what"), *trees]


def _branches(calls: Iterable[Call], profile: Profile) -> list[Branch]:
    found, whole = [], profile.host_step * profile.row.num_steps
    least = LEAST_SHARE * whole
    for call in calls:
        share, module = call.seconds / whole, ""
        while (
            call.name != BESIDE
            and len(call.callees) == 1
            and call.seconds - call.callees[0].seconds < least
        ):
            module = call.name if call.name.startswith(_MODULE) else module
            (call,) = call.callees
        name = f"{module.removeprefix(_MODULE)}: {call.name}" if module else call.name
        often = call.calls / profile.row.num_steps
        times = "" if often == 1 else f" × {_number(often).text}"
        found.append(Branch(f"{_short(name)}{times}", share, _branches(call.callees, profile)))
    return found


def _elsewhere(report: Report) -> Text:
    folder = without_home(str(report.run.folder))
    return Text(
        f"`tensorboard --logdir {folder}` shows the traces themselves; each is a file that "
        "chrome://tracing and its like read, too. `profile.speedscope.json` beside this page is "
        "the same tree of calls for speedscope."
    )


def _name(text: str) -> Cell:
    """Of a name that may be anything, as much as can be read."""
    return Cell(_short(text), text[:_NAME])


def _short(text: str) -> str:
    return text if len(text) <= _NAME else f"{text[:_NAME]}…"


def _number(value: float) -> Cell:
    return Cell(three(value) if value % 1 else f"{value:.0f}", value)
