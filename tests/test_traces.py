"""Tables of traces: one written by hand, and files that are not what they should be."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bench import traces
from bench.records import ProfileRow
from bench.run_folder import trace_file
from bench.sync_finder import synchronising_calls
from bench.traces import TraceError
from reports.traces import PHASES, Tables, read_tables, tables

Event = dict[str, Any]
HOST, GPU = 100, 0


def span(cat: str, name: str, ts: float, dur: float, *, pid: int = HOST, tid: int = HOST,
         **args: Any) -> Event:  # fmt: skip
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur,
            "args": args}  # fmt: skip


def on_gpu(cat: str, name: str, ts: float, dur: float, correlation: int, operator: int) -> Event:
    args: dict[str, Any] = {
        "External id": operator, "correlation": correlation, "device": 0, "stream": 7,
        "grid": [1, 1, 1], "block": [32, 1, 1], "blocks per SM": 0.1,
        "est. achieved occupancy %": 5, "registers per thread": 16, "shared memory": 0,
    }  # fmt: skip
    return span(cat, name, ts, dur, pid=GPU, tid=7, **args)


def call(name: str, ts: float, dur: float, correlation: int, operator: int) -> Event:
    return span("cuda_runtime", name, ts, dur, correlation=correlation, **{"External id": operator})


def step(number: int, start: float, *, first_id: int) -> list[Event]:
    """1000 us from `start` in torch's categories; in each moment the GPU does what comes first:

    100-300 and 500-700 a kernel, 700-750 a copy, 750-760 a memory set; then the host, where the
    GPU is idle: 300-320 the runtime, 0-50 the loader, 50-100 and 320-400 operators.
    """
    conv, back = first_id, first_id + 1
    a_module: dict[str, Any] = {"Python id": 1, "Python parent id": None, "Python module id": 0}
    return [
        span("user_annotation", f"ProfilerStep#{number}", start, 1000),
        span("gpu_user_annotation", f"ProfilerStep#{number}", start + 100, 660, pid=GPU, tid=7),
        span("user_annotation", "dipddpm: train_ddpm step", start, 1000),
        span("user_annotation", "enumerate(DataLoader)#dipddpm.__next__", start, 50),
        span("python_function", "nn.Module: Net_0", start + 50, 200,
             **a_module),
        span("cpu_op", "aten::conv2d", start + 50, 200, **{"External id": conv}),
        call("cudaLaunchKernel", start + 90, 10, conv, conv),
        on_gpu("kernel", "conv_kernel<float>", start + 100, 200, conv, conv),
        span("cpu_op", "autograd::engine::evaluate_function: ConvolutionBackward0", start + 320,
             80, **{"External id": back}),
        call("cudaLaunchKernel", start + 395, 5, back, back),
        on_gpu("kernel", "conv_back_kernel<float>", start + 500, 200, back, back),
        call("cudaMemcpyAsync", start + 260, 10, back + 100, 0),
        on_gpu("gpu_memcpy", "Memcpy DtoH", start + 700, 50, back + 100, 0),
        call("cudaMemsetAsync", start + 270, 5, back + 200, 0),
        on_gpu("gpu_memset", "Memset (Device)", start + 750, 10, back + 200, 0),
        span("python_function", "dipddpm/training.py(90): train_ddpm", start, 1000,
             **{"Python id": 2}),
        call("cudaStreamSynchronize", start + 300, 20, back + 300, 0),
        {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": HOST,
         "tid": HOST, "ts": start + 60, "args": {"Total Reserved": 4096, "Total Allocated": 2048,
         "Bytes": 1024, "Addr": 16, "Device Id": 0, "Device Type": 1}},
        {"ph": "s", "cat": "fwdbwd", "id": conv, "name": "fwdbwd", "pid": HOST, "tid": HOST,
         "ts": start + 50},
        {"ph": "f", "cat": "fwdbwd", "id": conv, "name": "fwdbwd", "pid": HOST, "tid": HOST,
         "ts": start + 320, "bp": "e"},
    ]  # fmt: skip


def cuda_trace() -> dict[str, Any]:
    # A wait before the first step is in none.
    before = call("cudaDeviceSynchronize", 500, 100, 9000, 0)
    return {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "GPU", "computeMajor": 9, "numSms": 132}],
        "traceEvents": [before, *step(2, 1000, first_id=10), *step(3, 2000, first_id=20)],
    }


@pytest.fixture(scope="module")
def cuda_tables() -> Tables:
    return tables(cuda_trace())


def test_a_cuda_trace_gives_the_known_breakdown(cuda_tables: Tables) -> None:
    assert cuda_tables.step_seconds == pytest.approx((1000e-6, 1000e-6))
    assert cuda_tables.device == pytest.approx({
        "kernels": 400e-6, "copies": 50e-6, "memory set": 10e-6,
        # 90-100, 300-320 and 395-400; what of the calls lies under a kernel is no idleness.
        "idle: calls of the runtime": 35e-6,
        "idle: data loading": 50e-6,
        # 50-90 and 320-395
        "idle: operators on the host": 115e-6,
        "idle: else": 340e-6,
    })  # fmt: skip
    assert sum(cuda_tables.device.values()) == pytest.approx(1000e-6)
    assert cuda_tables.phases == pytest.approx({
        "data loading": 50e-6, "optimizer": 0, "backward": 80e-6, "forward": 200e-6,
        # The calls of the runtime outside of both.
        "other operators": 35e-6, "no operator": 635e-6,
    })  # fmt: skip
    assert list(cuda_tables.phases) == list(PHASES)


def test_a_cuda_trace_gives_its_operators_kernels_and_memory(cuda_tables: Tables) -> None:
    assert {(one.name, one.calls) for one in cuda_tables.kernels} == {
        ("conv_kernel<float>", 2), ("conv_back_kernel<float>", 2),
    }  # fmt: skip
    assert [one.seconds for one in cuda_tables.kernels] == pytest.approx([400e-6, 400e-6])
    # Its kernel counts for the operator that launched it, which takes the runtime's calls as known.
    [conv] = [one for one in cuda_tables.operators if one.name == "aten::conv2d"]
    assert conv.calls == 2
    assert (conv.host_seconds, conv.device_seconds) == pytest.approx((380e-6, 400e-6))
    assert {name: [height for _, height in points]
            for name, points in cuda_tables.memory.items()} == {"GPU0": [2048, 2048]}  # fmt: skip


def test_what_an_earlier_stage_left_on_the_cpu_is_not_of_this_one() -> None:
    def allocated(ts: float, size: int, total: int) -> Event:
        return {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": HOST,
                "tid": HOST, "ts": ts, "args": {"Total Reserved": 0, "Total Allocated": total,
                "Bytes": size, "Addr": 16, "Device Id": -1, "Device Type": 0}}  # fmt: skip

    events = [*step(2, 1000, first_id=10), allocated(1100, 300, 1_000_300),
              allocated(1200, 200, 1_000_500), allocated(1300, -500, 1_000_000)]  # fmt: skip
    curve = tables({**cuda_trace(), "traceEvents": events}).memory["CPU"]
    assert [height for _, height in curve] == [300, 500, 0]


def test_what_the_traced_steps_do_is_told_of_all_of_them() -> None:
    """torch-tb-profiler leaves out a last step in which few kernels were seen."""
    last = [event for event in step(3, 2000, first_id=20) if event.get("tid") != 7]
    found = tables({**cuda_trace(), "traceEvents": [*step(2, 1000, first_id=10), *last]})
    assert len(found.step_seconds) == 1
    [conv] = [one for one in found.operators if one.name == "aten::conv2d"]
    assert conv.calls == 2
    assert found.phases["forward"] == pytest.approx(200e-6)


def test_names_in_a_trace_reach_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;title\x07"
    overlapping = [span("cpu_op", hostile, 1000 + at, 100, **{"External id": at}) for at in
                   range(1, 400, 50)]  # fmt: skip
    tables({**cuda_trace(), "traceEvents": [*step(2, 1000, first_id=900), *overlapping]})
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")


def test_normalising_twice_is_normalising_once() -> None:
    once = list(traces.normalised(cuda_trace()["traceEvents"]))
    assert list(traces.normalised(once)) == once
    assert tables({**cuda_trace(), "traceEvents": once}) == tables(cuda_trace())


def test_waits_for_a_gpu_are_found_inside_steps_alone() -> None:
    [call] = synchronising_calls(cuda_trace()["traceEvents"])
    assert (call.name, call.calls) == ("cudaStreamSynchronize", 2)
    assert call.seconds == pytest.approx(40e-6)
    assert call.stack == ("dipddpm/training.py(90): train_ddpm",)


def test_a_blocking_copy_is_a_wait_and_the_calls_on_the_cpu_are_none_beside_a_gpu() -> None:
    events = step(2, 0, first_id=10)
    item = span("cpu_op", "aten::_local_scalar_dense", 800, 5)
    blocking = call("cudaMemcpy", 810, 30, 77, 0)
    found = synchronising_calls([*events, item, blocking])
    assert [one.name for one in found] == ["cudaMemcpy", "cudaStreamSynchronize"]


def test_a_copy_from_pageable_memory_is_a_wait_and_one_from_pinned_memory_is_none() -> None:
    def copies(name: str) -> list[Event]:
        return [call("cudaMemcpyAsync", 820, 30, 78, 0),
                on_gpu("gpu_memcpy", name, 850, 20, 78, 0)]  # fmt: skip

    events = step(2, 0, first_id=10)
    found = synchronising_calls([*events, *copies("Memcpy HtoD (Pageable -> Device)")])
    assert [(one.name, one.calls) for one in found] == [
        ("cudaMemcpyAsync", 1), ("cudaStreamSynchronize", 1),
    ]  # fmt: skip
    found = synchronising_calls([*events, *copies("Memcpy HtoD (Pinned -> Device)")])
    assert [one.name for one in found] == ["cudaStreamSynchronize"]


@pytest.mark.parametrize("name", ["cudaFree", "cuMemcpyDtoH_v2", "cuMemcpyHtoD_v2"])
def test_other_calls_that_wait(name: str) -> None:
    found = synchronising_calls([*step(2, 0, first_id=10), call(name, 820, 30, 78, 0)])
    assert name in {one.name for one in found}


# Files ------------------------------------------------------------------------------------------


def write(folder: Path, packed: bytes) -> ProfileRow:
    """A trace that is what was written."""
    path = trace_file(folder, "sample")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return row_of(packed)


def row_of(packed: bytes) -> ProfileRow:
    digest = hashlib.sha256(packed).hexdigest()
    return ProfileRow(unit="u", function="sample", trace_sha256=digest, num_steps=1,
                      sync_calls=(), flops_per_step=1)  # fmt: skip


def packed(content: object) -> bytes:
    return zipped(json.dumps(content).encode())


def zipped(content: bytes) -> bytes:
    """The same at any time: it becomes the name of a test."""
    return gzip.compress(content, compresslevel=1, mtime=0)


def test_a_trace_is_read_from_its_file(tmp_path: Path, cuda_tables: Tables) -> None:
    assert read_tables(write(tmp_path, packed(cuda_trace())), tmp_path) == cuda_tables


STEP = step(2, 0, first_id=1)[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no gzip", "gzip"),
        (packed(cuda_trace())[:-20], "end-of-stream"),
        (zipped(b"{"), "Expecting"),
        (zipped(b'"\xff"'), "decode"),
        (zipped(b"[" * 200_000), "recursion"),
        (packed([]), "no trace"),
        (packed({"traceEvents": {}}), "no trace"),
        (packed({"traceEvents": [1]}), "no trace"),
        (packed({"traceEvents": [{**STEP, "name": 3}]}), "no trace"),
        (packed({"traceEvents": [{**STEP, "dur": "1"}]}), "no trace"),
        (packed({"traceEvents": [{**STEP, "ts": float("nan")}]}), "no trace"),
        (packed({"traceEvents": [{**STEP, "ts": 10**400}]}), "no trace"),
        (packed({"traceEvents": []}), "no profiled step"),
        (packed({"traceEvents": [{**STEP, "name": "ProfilerStep#two"}]}), "ValueError"),
        (packed({"traceEvents": [STEP, {"ph": "i", "name": "[memory]"}]}), "Error"),
    ],
)
def test_what_is_no_trace_is_said_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(TraceError, match=words) as caught:
        read_tables(write(tmp_path, content), tmp_path)
    assert "\n" not in str(caught.value)
    assert "sample.pt.trace.json.gz" in str(caught.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = write(tmp_path, packed({**cuda_trace(), "filler": "0" * 2**20}))
    read_tables(row, tmp_path)
    monkeypatch.setattr(traces, "MAX_BYTES", 2**20)
    with pytest.raises(TraceError, match="unpacks to more than 1 MiB"):
        read_tables(row, tmp_path)


def test_a_small_file_of_many_values_is_not_parsed(tmp_path: Path) -> None:
    """Each becomes an object, of some tens of bytes."""
    content = b'{"traceEvents": [' + b"[]," * traces.MAX_VALUES + b"0]}"
    row = write(tmp_path, zipped(content))
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match="holds more than 16000000 values"):
            read_tables(row, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * traces.MAX_BYTES  # as much as the largest trace takes unpacked


def test_bytes_beyond_all_numbers_leave_the_rest_as_it_is(tmp_path: Path) -> None:
    events = step(2, 0, first_id=10)
    for event in events:
        if event["name"] == "[memory]":
            event["args"]["Total Allocated"] = float("inf")
    content = {**cuda_trace(), "traceEvents": events}
    assert read_tables(write(tmp_path, packed(content)), tmp_path).memory == {}


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json.gz"
    elsewhere.write_bytes(packed(cuda_trace()))
    unit = tmp_path / "unit"
    path = trace_file(unit, "sample")
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere)
    with pytest.raises(TraceError, match="lies outside"):
        read_tables(row_of(elsewhere.read_bytes()), unit)
    path.unlink()
    os.mkfifo(path)  # which would be waited for without end
    with pytest.raises(TraceError, match="it is no file"):
        read_tables(row_of(b""), unit)


def test_a_missing_trace_and_one_that_is_not_what_was_written_are_named(tmp_path: Path) -> None:
    row = row_of(packed(cuda_trace()))
    with pytest.raises(TraceError, match="No such file"):
        read_tables(row, tmp_path)
    write(tmp_path, packed({**cuda_trace(), "schemaVersion": 2}))
    with pytest.raises(TraceError, match="not what was written"):
        read_tables(row, tmp_path)
