from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import records
from bench.meters import Clock, Device, Memory, SharedCounter, Spans, Steps
from bench.run_folder import read_progress

CPU = Device("cpu")


def test_two_loops_in_a_row_give_a_step_for_each_item() -> None:
    # A known defect elsewhere: the gap between two calls counted as a step.
    steps = Steps(CPU)
    for _ in range(2):
        with steps:
            assert list(steps.watch(range(5))) == [0, 1, 2, 3, 4]
        assert len(steps.step_seconds) == len(steps.data_wait_seconds) == 5


def test_two_loops_of_one_stage_are_both_counted() -> None:
    steps = Steps(CPU)
    with steps:
        list(steps.watch(range(3)))
        list(steps.watch(range(4)))
    assert len(steps.step_seconds) == 7


class FakeTime:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_for_an_item_is_part_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(monkeypatch)

    def items() -> Iterator[int]:
        for seconds in (2, 4):
            time.pass_by(seconds)
            yield seconds
        time.pass_by(1000)  # after the last item there is no step

    steps = Steps(CPU)
    with steps, Clock(CPU) as clock:
        time.pass_by(64)  # before the loop
        for _ in steps.watch(items()):
            time.pass_by(3)
    assert steps.data_wait_seconds == [2, 4]
    assert steps.step_seconds == [5, 7]
    assert clock.seconds == 64 + 5 + 7 + 1000


def test_an_empty_loop_has_no_steps_and_an_error_passes_through() -> None:
    steps = Steps(CPU)
    with steps:
        list(steps.watch([]))
    assert steps.step_seconds == []
    with pytest.raises(ZeroDivisionError), steps:
        [1 // (i - 1) for i in steps.watch(range(3))]
    assert len(steps.step_seconds) == 1


def test_the_counter_is_read_from_its_file(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == 0
    counter = SharedCounter(tmp_path / records.PROGRESS)
    steps = Steps(CPU, counter)
    with steps:
        for i in steps.watch(range(300)):
            assert read_progress(tmp_path) == i
    assert read_progress(tmp_path) == 300


def test_spans_give_each_moment_to_the_innermost(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    spans = Spans()  # 0
    with spans("outer"):  # 1
        with spans("inner"):  # 2, leaves at 3
            pass
        with spans("inner"):  # 4, leaves at 5
            with spans("innermost"):  # 6, leaves at 7
                pass
    # inner: 2-3, then 4-5 and 6-7 ... each booked second by second
    assert spans.seconds == {"outer": 3.0, "inner": 3.0, "innermost": 1.0}


def test_spans_close_on_errors() -> None:
    spans = Spans()
    with pytest.raises(ValueError, match="x"), spans("a"):
        raise ValueError("x")
    with spans("b"):
        pass
    assert set(spans.seconds) == {"a", "b"}


def test_the_clock_rests_the_garbage_collector_and_wakes_it() -> None:
    with Clock(CPU) as clock:
        assert not gc.isenabled()
    assert gc.isenabled()
    assert clock.seconds > 0
    assert clock.device_seconds is None
    with pytest.raises(ValueError, match="x"), Clock(CPU):
        raise ValueError("x")
    assert gc.isenabled()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_memory_sees_an_allocation_and_forgets_earlier_ones() -> None:
    size = 256 * 1024**2
    with Memory(CPU) as before:
        pass
    with Memory(CPU) as during:
        held = torch.ones(size // 4)
    del held
    with Memory(CPU) as after:
        pass
    assert before.host_peak_bytes is not None
    assert during.host_peak_bytes is not None and after.host_peak_bytes is not None
    assert during.host_peak_bytes - before.host_peak_bytes == pytest.approx(size, rel=0.02)
    assert after.host_peak_bytes - before.host_peak_bytes < 0.1 * size
    assert during.device_peak_allocated_bytes is None


@pytest.mark.cuda
def test_device_clock_memory_and_steps() -> None:
    device = Device("cuda:0")
    steps = Steps(device)
    x = torch.randn(2048, 2048, device="cuda")
    with Memory(device) as memory, steps, Clock(device) as clock:
        for _ in steps.watch(range(5)):
            x = x @ x / x.norm()
    assert clock.device_seconds is not None
    assert 0 < sum(steps.step_seconds) <= clock.device_seconds * 1.05
    assert clock.device_seconds <= clock.seconds
    assert memory.device_peak_allocated_bytes is not None
    with Memory(device) as during:
        held = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    del held
    with Memory(device) as after:
        pass
    assert during.device_peak_allocated_bytes is not None
    assert after.device_peak_allocated_bytes is not None
    # What an earlier case took at its height is none of a later one's.
    assert during.device_peak_allocated_bytes - after.device_peak_allocated_bytes >= 2**28
    assert memory.device_peak_allocated_bytes >= 3 * x.nbytes
