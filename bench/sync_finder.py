"""Finds, in a trace, the calls inside steps that make the host wait for the device.

One `.item()` a step can cost more than the step's own work: the host launches nothing while it
waits. On a trace without a GPU, where nothing waits, it finds the reads of a tensor's value that
would, but for copies. Imports no torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from bench import traces
from bench.records import SyncCall
from bench.traces import Event

# Of the CUDA runtime, and of the driver below it. cudaMemcpyAsync is one from or to pageable memory
# alone; where torch has to wait for another copy, it calls cudaStreamSynchronize after it.
_CUDA = frozenset(
    {
        "cudaStreamSynchronize",
        "cudaDeviceSynchronize",
        "cudaEventSynchronize",
        "cudaFree",
        "cudaMemcpy",
        "cudaMemcpy2D",
        "cuStreamSynchronize",
        "cuCtxSynchronize",
        "cuEventSynchronize",
        "cuMemcpyDtoH_v2",
        "cuMemcpyHtoD_v2",
    }
)
_COPY, _PAGEABLE = "cudaMemcpyAsync", "Pageable"
# Whatever reads a single value, an `if` on a tensor among them, comes down to the first, and
# `aten::item` around it is the same call. The others give as many values as there are. A copy of a
# tensor to the host is none here, where it is there already.
_CPU = frozenset(
    {"aten::_local_scalar_dense", "aten::_unique2", "aten::equal", "aten::masked_select",
     "aten::nonzero"}
)  # fmt: skip
# The optimizers in one kernel read their own step counts, which only the CPU's does on the host.
_READS_ON_THE_CPU_ALONE = "aten::_fused_"
# Lines of ours, and of a user's functions, are those of neither a library nor an instrument.
_NOT_OURS = (
    "torch/", "diffusers/", "accelerate/", "numpy/", "scipy/", "skimage/", "PIL/", "safetensors/",
    "bench/", "<", "nn.Module: ",
)  # fmt: skip
_FILE = re.compile(r"[^/.(]+")
_STACK = 3


def synchronising_calls(events: Iterable[Event]) -> tuple[SyncCall, ...]:
    """Those inside the steps of a trace, the costliest first; equal calls from one place are one.

    seconds: in which the host waited, or on a CPU in which it read
    """
    events = list(events)
    spans = [(float(step["ts"]), traces.end(step)) for step in traces.steps(events)]
    on_device = any(event.get("cat") in ("cuda_runtime", "Runtime", "kernel") for event in events)
    wanted = _CUDA if on_device else _CPU
    pageable = {
        event.get("args", {}).get("correlation")
        for event in events
        if event.get("cat") == "gpu_memcpy" and _PAGEABLE in event["name"]
    }
    found: dict[tuple[str, tuple[str, ...]], tuple[int, float]] = {}
    for event, around in _with_surroundings(events, wanted | {_COPY} if on_device else wanted):
        if event["name"] == _COPY and event.get("args", {}).get("correlation") not in pageable:
            continue
        inside = any(first <= event["ts"] and traces.end(event) <= last for first, last in spans)
        if not inside or any(one["name"].startswith(_READS_ON_THE_CPU_ALONE) for one in around):
            continue
        key = event["name"], _stack(around)
        calls, microseconds = found.get(key, (0, 0.0))
        found[key] = calls + 1, microseconds + event["dur"]
    rows = [
        SyncCall(name=name, calls=calls, seconds=microseconds / 1e6, stack=stack)
        for (name, stack), (calls, microseconds) in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _with_surroundings(
    events: list[Event], wanted: frozenset[str]
) -> Iterator[tuple[Event, list[Event]]]:
    """Each wanted event with the spans of its thread that it lies in, the outermost first."""
    open_spans: dict[tuple[object, object], list[Event]] = {}
    complete = [event for event in events if event.get("ph") == "X"]
    for event in sorted(complete, key=lambda event: (event["ts"], -event["dur"])):
        around = open_spans.setdefault((event.get("pid"), event.get("tid")), [])
        middle = event["ts"] + event["dur"] / 2
        while around and traces.end(around[-1]) < middle:
            around.pop()
        if event["name"] in wanted:
            # A block of record_function outlives the function that opens it, which lies below it.
            yield event, [one for one in around if traces.end(one) >= middle]
        around.append(event)


def _stack(around: list[Event]) -> tuple[str, ...]:
    """The innermost lines of ours, innermost first: file(line): function.

    The line is that of the call, where the trace tells it; where a value is read without a call (an
    `if` on a tensor), the line in which the function begins.
    """
    python = [event for event in around if event.get("cat") == "python_function"]
    if not python:
        return ()
    called = [str(event.get("args", {}).get("Caller", "")) for event in python]
    last = python[-1]["name"]
    lines = [*called, *([] if last.startswith("<") else [last])]
    return tuple(dict.fromkeys(filter(_is_ours, reversed(lines))))[:_STACK]


def _is_ours(line: str) -> bool:
    first = _FILE.match(line)
    if first is None or line.startswith(_NOT_OURS):
        return False
    return first.group() not in sys.stdlib_module_names
