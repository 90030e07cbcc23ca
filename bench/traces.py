"""Traces of torch.profiler as files: read with care, and in the words of torch-tb-profiler.

A trace is JSON in Chrome's trace event format: {"traceEvents": [{"ph": "X", "cat", "name", "pid",
"tid", "ts", "dur", "args"}, ...]}, times in microseconds. Imports no torch.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]

# A trace of three steps of the published net has some 100 MB, and 5 million values. Either may be
# small where the other is large, and both become memory.
MAX_BYTES = 512 * 2**20
MAX_VALUES = 16 * 10**6
# In microseconds: what lies beyond is no moment.
_MAX_TIME = 1e18
# What a span of ours is called that covers a whole step, of which it says nothing.
OURS = "dipddpm: "
STEP = "ProfilerStep#"
# How DataLoaders call the time in which they are waited for, and torch-tb-profiler finds it.
LOADING = "enumerate(DataLoader)#"


class TraceError(Exception):
    """A file that is no trace that can be read, in one line."""


def read(path: Path, folder: Path, sha256: str | None = None) -> dict[str, Any]:
    """The content of a gzipped trace: `traceEvents` are events of the types they should have.

    sha256: of the file, if it is known
    Raises TraceError if it lies outside of `folder`, through a link too, is not the known one,
    unpacks to more than MAX_BYTES or MAX_VALUES, or is no trace.
    """
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve()):
            raise TraceError(f"{path}: it lies outside of {folder}")
        if not path.is_file():
            raise TraceError(f"{path}: it is no file")
        if sha256 is not None:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise TraceError(f"{path}: its content is not what was written")
        with gzip.open(path) as stream:
            packed = stream.read(MAX_BYTES + 1)
        if len(packed) > MAX_BYTES:
            raise TraceError(f"{path}: it unpacks to more than {MAX_BYTES // 2**20} MiB")
        if sum(map(packed.count, (b",", b"[", b"{"))) > MAX_VALUES:
            raise TraceError(f"{path}: it holds more than {MAX_VALUES} values")
        content = json.loads(packed)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except (EOFError, zlib.error, ValueError, RecursionError) as error:
        raise TraceError(f"{path}: {error}") from error
    events = content.get("traceEvents") if isinstance(content, dict) else None
    if not isinstance(events, list) or not all(map(_is_event, events)):
        raise TraceError(f"{path}: it is no trace of torch.profiler")
    found: dict[str, Any] = content
    return found


def _is_event(event: Any) -> bool:
    if not isinstance(event, dict) or not isinstance(event.get("name"), str):
        return False
    if not isinstance(event.get("args", {}), dict):
        return False
    if event.get("ph") != "X":
        return True
    return isinstance(event.get("cat"), str) and all(
        isinstance(event.get(key), int | float) and -_MAX_TIME < event[key] < _MAX_TIME
        for key in ("ts", "dur")
    )


def normalised(events: Iterable[Event]) -> Iterator[Event]:
    """The events with the categories that torch-tb-profiler 0.4.3 knows; twice gives the same.

    Without this it sees no calls of the CUDA runtime, counts each step again for its copy on the
    device, and sees neither data loading nor optimizer.
    """
    for event in events:
        category, name = event.get("cat"), event["name"]
        if category == "gpu_user_annotation":
            continue
        if category in ("cuda_runtime", "cuda_driver"):
            yield {**event, "cat": "Runtime"}
        elif category == "user_annotation" and not name.startswith((STEP, OURS)):
            yield {**event, "cat": "cpu_op"}
        else:
            yield event


def steps(events: Iterable[Event]) -> list[Event]:
    """The spans of the profiled steps, in order."""
    found = [
        event
        for event in events
        if event["name"].startswith(STEP) and event.get("cat") == "user_annotation"
    ]
    return sorted(found, key=lambda event: float(event["ts"]))


def end(event: Event) -> float:
    """When a span ends, in the trace's microseconds."""
    return float(event["ts"] + event["dur"])
