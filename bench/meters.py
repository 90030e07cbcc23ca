"""Clock, memory, steps: each one context manager around what it measures, all of them passive."""

from __future__ import annotations

import contextlib
import gc
import mmap
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.records import PROGRESS_FORMAT

Item = TypeVar("Item")


class Device:
    """Waits for, and remembers, what a device does. A CPU is done when a call returns."""

    def __init__(self, name: str) -> None:
        self.torch_device = torch.device(name)
        self.is_cuda = self.torch_device.type == "cuda"
        if self.is_cuda:
            # Now, so that the first stage does not pay for it.
            torch.cuda.init()

    @property
    def uuid(self) -> str | None:
        """Of the GPU; None for a CPU."""
        if not self.is_cuda:
            return None
        return str(torch.cuda.get_device_properties(self.torch_device).uuid)

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.torch_device)

    def event(self) -> torch.cuda.Event | None:
        """A mark in the device's queue at this point; None on a CPU."""
        if not self.is_cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.torch_device))
        return event


class Clock:
    """`seconds` on the wall, and `device_seconds` between device events, of its block.

    The device is idle at both ends. The garbage collector rests inside.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.seconds = 0.0
        self.device_seconds: float | None = None

    def __enter__(self) -> Clock:
        gc.collect()
        gc.disable()
        self._device.synchronize()
        self._first = self._device.event()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        last = self._device.event()
        self._device.synchronize()
        self.seconds = time.perf_counter() - self._started
        gc.enable()
        if self._first is not None and last is not None:
            self.device_seconds = self._first.elapsed_time(last) / 1000


class Memory:
    """The peaks of its block: of the process on the host, of torch's allocator on the device.

    Peaks are of all that is there, what was there before included. None: the machine does not tell.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.host_peak_bytes: int | None = None
        self.device_peak_allocated_bytes: int | None = None
        self.device_peak_reserved_bytes: int | None = None

    def __enter__(self) -> Memory:
        self._resettable = _reset_host_peak()
        if self._device.is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device.torch_device)
        return self

    def __exit__(self, *_: object) -> None:
        if self._resettable:
            self.host_peak_bytes = _host_peak()
        if self._device.is_cuda:
            device = self._device.torch_device
            self.device_peak_allocated_bytes = torch.cuda.max_memory_allocated(device)
            self.device_peak_reserved_bytes = torch.cuda.max_memory_reserved(device)


def _reset_host_peak() -> bool:
    # Not getrusage: its maximum cannot be reset, and a child inherits it.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _host_peak() -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def compile_seconds() -> float:
    """What torch.compile has taken in this process, by its own account.

    Of forward and backward graphs; what it is asked for first is found in no disk cache.
    """
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return 0.0 if dynamo is None else dynamo.calculate_time_spent().get("total_wall_time", 0.0)


class SharedCounter:
    """A step counter in a file that another process can read while this one writes."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(PROGRESS_FORMAT.pack(0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), PROGRESS_FORMAT.size)
        self._count = 0

    def add_one(self) -> None:
        self._count += 1
        PROGRESS_FORMAT.pack_into(self._memory, 0, self._count)


class Steps:
    """The steps of one stage: `watch` passes a loop's items through and notes their times.

    A step runs from the request for its item to the request for the next. On CUDA its end is marked
    in the device's queue and read when the block is over.
    """

    def __init__(self, device: Device, counter: SharedCounter | None = None) -> None:
        self._device = device
        self._counter = counter
        self._reset()

    def _reset(self) -> None:
        self.data_wait_seconds: list[float] = []
        self.step_seconds: list[float] = []
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> Steps:
        self._reset()
        return self

    def __exit__(self, *_: object) -> None:
        if self._marks:
            self._device.synchronize()
            self.step_seconds = [first.elapsed_time(last) / 1000 for first, last in self._marks]

    def watch(self, iterable: Iterable[Item], /) -> Iterator[Item]:
        iterator = iter(iterable)
        now = time.perf_counter
        while True:
            requested = now()
            first = self._device.event()
            try:
                item = next(iterator)
            except StopIteration:
                return
            given = now()
            yield item
            done = now()
            last = self._device.event()
            self.data_wait_seconds.append(given - requested)
            self.step_seconds.append(done - requested)
            if first is not None and last is not None:
                self._marks.append((first, last))
            if self._counter is not None:
                self._counter.add_one()


class Spans:
    """Seconds by name, each moment in one name only: an inner span stops the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._names: list[str] = []
        self._since = time.perf_counter()

    def _book(self) -> None:
        now = time.perf_counter()
        if self._names:
            name = self._names[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._book()
        self._names.append(name)
        try:
            yield
        finally:
            self._book()
            self._names.pop()
