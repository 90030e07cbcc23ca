"""The tree of calls of a profiled step: what called what, and for how long."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench import traces
from bench.traces import Event

# Spans of the host: Python's functions, torch's operators, calls of the CUDA runtime.
_HOST = ("python_function", "cpu_op", "Runtime")
BESIDE = "in other threads, at the same time"
# What takes less of a step, or lies deeper, is left out.
LEAST_SHARE = 0.005
_DEEPEST = 200
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# Begin and length of a span are rounded apart, so one may seem to end after what it is in.
_ROUNDED = 0.01
_MICRO = 1e-6


@dataclass(frozen=True)
class Call:
    """All calls of one name from one place, over all steps.

    seconds: with what they call
    callees: the costliest first
    """

    name: str
    calls: int
    seconds: float
    callees: tuple[Call, ...]


@dataclass
class _Node:
    calls: int = 0
    micro: float = 0.0
    callees: dict[str, _Node] = field(default_factory=dict)


def call_tree(events: Iterable[Event], steps: list[Event]) -> tuple[Call, ...]:
    """What the host's threads called first inside the steps, the costliest first.

    Threads beside that of the steps, as the backward pass has on a GPU, come together under
    BESIDE. A thread that calls no operator only waits, and is left out. A span is cut off where its
    step ends, or where one begins in it that outlives it.

    events, steps: as `traces.normalised` and `traces.steps` give them
    """
    main = (steps[0].get("pid"), steps[0].get("tid"))
    threads: dict[tuple[object, object], list[Event]] = {}
    for event in events:
        if event.get("ph") == "X" and event["cat"] in _HOST and event["dur"] > 0:
            threads.setdefault((event.get("pid"), event.get("tid")), []).append(event)
    root, beside = _Node(), _Node()
    for thread, spans in threads.items():
        if all(span["cat"] == "python_function" for span in spans):
            continue
        # The outer of two that begin at once goes first.
        spans.sort(key=lambda event: (event["ts"], -event["dur"]))
        for step in steps:
            _add(root if thread == main else beside, spans, step["ts"], traces.end(step))
    if beside.callees:
        beside.micro = sum(one.micro for one in beside.callees.values())
        root.callees[BESIDE] = beside
    least = LEAST_SHARE * sum(traces.end(step) - step["ts"] for step in steps)
    return _frozen(root, least)


def _add(root: _Node, spans: list[Event], first: float, last: float) -> None:
    """Of one thread what lies between two moments."""
    inside = [(last, root)]
    for span in spans:
        start, end = max(span["ts"], first), min(traces.end(span), last)
        if end <= start:
            continue
        # What has ended; and what this one outlives, as a `with record_function(...)` the
        # functions that open it and the one that closes it the block.
        while len(inside) > 1 and inside[-1][0] < max(start, end - _ROUNDED):
            ended, node = inside.pop()
            node.micro -= max(ended - start, 0.0)
        if len(inside) > _DEEPEST:
            continue
        node = inside[-1][1].callees.setdefault(_ADDRESS.sub("", span["name"]), _Node())
        node.calls += 1
        node.micro += end - start
        inside.append((end, node))


def _frozen(node: _Node, least: float) -> tuple[Call, ...]:
    kept = [(name, one) for name, one in node.callees.items() if one.micro >= least]
    kept.sort(key=lambda item: -item[1].micro)
    return tuple(
        Call(name, one.calls, one.micro * _MICRO, _frozen(one, least)) for name, one in kept
    )
