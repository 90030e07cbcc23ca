"""From a trace of torch.profiler to tables: parts of a step, operators, kernels, memory, calls.

torch-tb-profiler makes them, but for the phases of a step on the host, which it does not tell
apart. Its share of tensor cores is left out: its names of kernels are older than Hopper.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_tb_profiler.profiler.data import RunProfileData  # type: ignore[import-untyped]
from torch_tb_profiler.profiler.event_parser import ProfileRole  # type: ignore[import-untyped]
from torch_tb_profiler.profiler.range_utils import (  # type: ignore[import-untyped]
    get_ranges_sum,
    intersection_ranges_lists,
    merge_ranges,
    subtract_ranges_lists,
)
from torch_tb_profiler.profiler.run_generator import RunGenerator  # type: ignore[import-untyped]
from torch_tb_profiler.utils import get_logger  # type: ignore[import-untyped]

from bench import traces
from bench.records import ProfileRow
from bench.run_folder import trace_file
from bench.traces import Event, TraceError
from reports.calls import Call, call_tree

# A span of the trace that is in several counts as the first: an operator of a module of the
# backward pass is of the backward pass.
PHASES = ("data loading", "optimizer", "backward", "forward", "other operators", "no operator")
DEVICE_PARTS = {
    "kernels": ProfileRole.Kernel,
    "copies": ProfileRole.Memcpy,
    "memory set": ProfileRole.Memset,
    "idle: calls of the runtime": ProfileRole.Runtime,
    "idle: data loading": ProfileRole.DataLoader,
    "idle: operators on the host": ProfileRole.CpuOp,
    "idle: else": ProfileRole.Other,
}
_CURVE_POINTS = 120
_MICRO = 1e-6


@dataclass(frozen=True)
class Operator:
    """Calls of an operator and the seconds in itself, less the operators it calls, over all steps.

    device_seconds: of the kernels it launched itself; None without a GPU
    """

    name: str
    calls: int
    host_seconds: float
    device_seconds: float | None

    @property
    def cost(self) -> float:
        """Seconds of what a step waits for: of the GPU where there is one."""
        return self.host_seconds if self.device_seconds is None else self.device_seconds


@dataclass(frozen=True)
class Kernel:
    """Calls of a kernel and their seconds, over all steps."""

    name: str
    calls: int
    seconds: float

    @property
    def cost(self) -> float:
        """Its seconds."""
        return self.seconds


@dataclass(frozen=True)
class Tables:
    """What a trace tells; operators and kernels are sorted, the costliest first.

    step_seconds: of each step; on a GPU until its last kernel has ended, and without the last step
        if much fewer kernels were launched in it: some may not have been seen
    phases: seconds a step on the host, by PHASES
    device: seconds a step by DEVICE_PARTS; empty without a GPU
    memory: by device, (seconds since the first event, bytes allocated), the highest of each moment
    calls: of the host, all that is called from outside of the steps
    """

    step_seconds: tuple[float, ...]
    phases: dict[str, float]
    device: dict[str, float]
    operators: tuple[Operator, ...]
    kernels: tuple[Kernel, ...]
    memory: dict[str, tuple[tuple[float, float], ...]]
    calls: tuple[Call, ...]


def read_tables(row: ProfileRow, unit: Path) -> Tables:
    """Of a profiled stage, from the folder of its unit.

    Raises TraceError if its trace is not what was written, or cannot be read.
    """
    path = trace_file(unit, row.function)
    content = traces.read(path, unit, row.trace_sha256)
    try:
        return tables(content)
    except _UNREADABLE as error:
        raise TraceError(f"{path}: {type(error).__name__}: {error}") from error


# What an event that is not as torch writes it makes the parser raise.
_UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


def tables(content: dict[str, Any]) -> Tables:
    """Of the content of a trace, whatever the categories of its events are called.

    Raises ValueError without a profiled step.
    """
    events = list(traces.normalised(content["traceEvents"]))
    steps = traces.steps(events)
    if not steps:
        raise ValueError("no profiled step is in it")
    with _quiet():
        data = RunProfileData.from_json("worker", None, {**content, "traceEvents": events})
        run = RunGenerator("worker", None, data).generate_run_profile()
    on_device = bool(data.has_kernel or data.has_memcpy_or_memset)
    return Tables(
        step_seconds=tuple(one.costs[ProfileRole.Total] * _MICRO for one in data.steps_costs),
        phases=_phases(events, steps),
        device={
            name: data.avg_costs.costs[role] * _MICRO for name, role in DEVICE_PARTS.items()
        } if on_device else {},
        operators=tuple(sorted(
            (
                Operator(
                    one["name"], one["calls"], one["host_self_duration"] * _MICRO,
                    one["device_self_duration"] * _MICRO if on_device else None,
                )
                for one in run.operation_table_by_name["data"]
            ),
            key=lambda operator: -operator.cost,
        )),
        kernels=() if data.kernel_stat is None else tuple(
            Kernel(str(name), int(one["count"]), float(one["sum"]) * _MICRO)
            for name, one in data.kernel_stat.iterrows()
        ),
        memory={} if run.memory_snapshot is None else dict(_memory(run, events)),
        calls=call_tree(events, steps),
    )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch-tb-profiler logs names of events as they are, and uses what pandas warns of."""
    log = get_logger()
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.disabled = before


def _memory(run: Any, events: list[Event]) -> Iterator[tuple[str, tuple[tuple[float, float], ...]]]:
    """The curve of each device. On a CPU what torch allocates is counted while a profiler looks:
    what earlier stages left in the count is taken off."""
    left = {"CPU": _left_before(events)}
    for device, points in run.get_memory_curve("s", "B", False)["rows"].items():
        known = [
            (float(when), max(float(height) - left.get(device, 0.0), 0.0))
            for when, height, *_ in points
            if math.isfinite(when) and math.isfinite(height)
        ]
        if known:
            yield device, _highest(known)


def _left_before(events: list[Event]) -> float:
    """The bytes that were counted on the CPU when the first of the trace came."""
    told = [event for event in events if event["name"] == "[memory]"
            and event["args"].get("Device Type") == 0]  # fmt: skip
    if not told:
        return 0.0
    first = min(told, key=lambda event: float(event["ts"]))["args"]
    return float(first["Total Allocated"] - first["Bytes"])


def _phases(events: list[Event], steps: list[Event]) -> dict[str, float]:
    """Seconds a step in each phase, each moment in one phase only."""
    spans: dict[str, list[tuple[float, float]]] = {phase: [] for phase in PHASES}
    for event in events:
        if event.get("ph") == "X" and (phase := _phase(event)):
            spans[phase].append((event["ts"], traces.end(event)))
    left = merge_ranges([(step["ts"], traces.end(step)) for step in steps])
    found = {}
    for phase in PHASES[:-1]:
        taken = merge_ranges(spans[phase])
        found[phase] = get_ranges_sum(intersection_ranges_lists(left, taken))
        left = subtract_ranges_lists(left, taken)
    found[PHASES[-1]] = get_ranges_sum(left)
    return {phase: micro * _MICRO / len(steps) for phase, micro in found.items()}


def _phase(event: Event) -> str | None:
    name, category = event["name"], event.get("cat")
    if category == "python_function":
        if "run_backward" in name:
            return "backward"
        return "forward" if "Python module id" in event.get("args", {}) else None
    if category not in ("cpu_op", "Runtime"):
        return None
    if name.startswith(traces.LOADING):
        return "data loading"
    if name.startswith("Optimizer."):
        return "optimizer"
    return "backward" if name.startswith("autograd::engine::") else "other operators"


def _highest(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The highest of each of _CURVE_POINTS moments: few points, and no peak is lost."""
    known = sorted(points)
    first, last = known[0][0], known[-1][0]
    length = (last - first) / _CURVE_POINTS or 1.0
    highest: dict[int, float] = {}
    for when, height in known:
        moment = min(int((when - first) / length), _CURVE_POINTS - 1)
        highest[moment] = max(highest.get(moment, 0.0), height)
    return tuple((first + moment * length, height) for moment, height in highest.items())
