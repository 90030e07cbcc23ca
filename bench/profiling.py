"""The pass of a case under torch.profiler: what a step of each loop does, call by call.

It has a process of its own and gives neither records nor stage rows: a profiled step takes up to
half as long again. Each loop runs for as few steps as the profiler's schedule needs, at the shapes
that its steps have in the case; three of them are traced.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from bench import flops, records, traces
from bench.cases import pipeline_config
from bench.meters import Device
from bench.records import ProfileRow, UnitSpec
from bench.run_folder import trace_file
from bench.sync_finder import synchronising_calls
from dipddpm.config import (
    Context,
    OutcomeConfig,
    PipelineConfig,
    SamplingConfig,
    TrainingConfig,
    start_point,
)
from dipddpm.dip import fit_priors
from dipddpm.pipeline import run_pipeline
from dipddpm.sampling import sample
from dipddpm.sources import ImageSource
from dipddpm.training import train_ddpm

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")

_WAIT, _WARMUP, _ACTIVE = 1, 1, 3
NUM_STEPS = _WAIT + _WARMUP + _ACTIVE


def profile_unit(unfinished: Path, spec: UnitSpec, source: ImageSource, device: Device) -> None:
    """Every loop of the unit's case under the profiler: traces, and a row of each."""
    # It tells of its own doings on the terminal, unless it is silenced before its first use.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    ledger = ProfilingLedger(unfinished, spec, device)
    context = Context(seed=spec.cases[0].seed, device=str(device.torch_device), watch=ledger.watch)
    config = shortened(pipeline_config(spec.cases))
    for _ in run_pipeline(config, source, context, stages=ledger):
        pass


def shortened(config: PipelineConfig) -> PipelineConfig:
    """As much of a training run as the schedule needs: NUM_STEPS steps of each loop, or a few more,
    on whole batches, with the priors of one fit, or of as many images as whole batches have."""
    sampling = config.outcomes[0].sampling
    num_steps = min(NUM_STEPS, start_point(sampling, config.schedule).t0)
    outcome = OutcomeConfig(
        epochs=NUM_STEPS, sampling=replace(sampling, num_inference_steps=num_steps)
    )
    batch_size, images_per_fit = config.training.batch_size, config.dip.images_per_fit
    num_images = min(config.data.num_images, -(-images_per_fit // batch_size) * batch_size)
    num_images = max(num_images - num_images % batch_size, min(num_images, batch_size))
    return replace(
        config,
        data=replace(config.data, num_images=num_images),
        dip=replace(config.dip, num_iter=NUM_STEPS),
        outcomes=(outcome,),
    )


class ProfilingLedger:
    """The `stages` of a pass: the first call of each loop is profiled, all others just made.

    Behind the last loop only scores are made; nobody asks for them here, and none is.
    """

    def __init__(self, unit: Path, spec: UnitSpec, device: Device) -> None:
        self._unit, self._spec, self._device = unit, spec, device
        self._done: set[Callable[..., Any]] = set()
        self._profiler: profile | None = None
        self._stage = ""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if sample in self._done:
            return cast(T, object())  # the pipeline looks into no result
        if function not in _FLOPS or function in self._done:
            return function(*args, **kwargs)
        with self._profiled(function, args, kwargs):
            result = function(*args, **kwargs)
        self._done.add(function)
        return result

    def watch(self, iterable: Iterable[Item], /) -> Iterator[Item]:
        """The items of a loop, whose steps are told apart and named for the profiler."""
        if self._profiler is None:
            yield from iterable
            return
        items = iter(iterable)
        while True:
            with self._range(f"{traces.OURS}{self._stage} step"):
                with record_function(f"{traces.LOADING}dipddpm.__next__"):
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item
            self._profiler.step()

    @contextmanager
    def _profiled(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Iterator[None]:
        """Raises ValueError if the block has fewer than NUM_STEPS steps."""
        given = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
        self._stage = function.__name__
        path = trace_file(self._unit, self._stage)
        path.parent.mkdir(parents=True)
        rows: list[ProfileRow] = []

        def keep(profiler: profile) -> None:
            events = write_trace(profiler, path)
            rows.append(
                ProfileRow(
                    unit=self._spec.unit,
                    function=self._stage,
                    trace_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                    num_steps=len(traces.steps(events)),
                    sync_calls=synchronising_calls(events),
                    flops_per_step=_FLOPS[function](given),
                )
            )

        with ExitStack() as block:
            if self._spec.memory_snapshot:
                block.enter_context(_memory_snapshot(path.with_name("memory_snapshot.pickle")))
            self._profiler = block.enter_context(
                profile(
                    activities=self._activities(),
                    schedule=schedule(wait=_WAIT, warmup=_WARMUP, active=_ACTIVE, repeat=1),
                    on_trace_ready=keep,
                    record_shapes=True,
                    profile_memory=True,
                    with_stack=True,
                )
            )
            block.enter_context(self._range(f"{traces.OURS}{self._stage}"))
            yield
            taken, self._profiler = self._profiler.step_num, None
        if taken < NUM_STEPS:
            raise ValueError(
                f"{self._stage} must have at least {NUM_STEPS} steps to be profiled, got {taken}"
            )
        records.append(self._unit / records.PROFILE, rows)

    def _activities(self) -> list[ProfilerActivity]:
        # Nsight Systems and torch cannot both listen to the device.
        if self._device.is_cuda and not self._spec.nvtx:
            return [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        return [ProfilerActivity.CPU]

    def _range(self, name: str) -> AbstractContextManager[object]:
        block = ExitStack()
        block.enter_context(record_function(name))
        if self._spec.nvtx:
            block.enter_context(torch.cuda.nvtx.range(name))
        return block


def write_trace(profiler: profile, path: Path) -> list[traces.Event]:
    """A gzipped trace that torch-tb-profiler reads rightly; returns its events.

    Beside torch's own arguments, each call of Python has `Caller`: the line that made it.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(raw))
        content = json.loads(raw.read_bytes())
    events = list(traces.normalised(_with_callers(content, profiler)))
    # Of this machine; no reader needs them.
    rest = {key: value for key, value in content.items() if key not in ("host_name", "traceName")}
    # In one piece, which is quicker than in many.
    text = json.dumps({**rest, "traceEvents": events})
    path.write_bytes(gzip.compress(text.encode(), compresslevel=6))
    return events


def _with_callers(content: dict[str, Any], profiler: profile) -> Iterator[traces.Event]:
    """The events of an exported trace, in which a function has the line where it begins alone."""
    callers: dict[int, str] = {}
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        caller = getattr(event.extra_fields, "caller", None)
        if caller is not None:
            place = f"{caller.file_name}({caller.line_number}): {caller.function_name}"
            callers[event.start_time_ns] = place
    began = content["baseTimeNanoseconds"]
    for event in content["traceEvents"]:
        caller = None
        if event.get("cat") == "python_function":
            caller = callers.get(began + round(event["ts"] * 1000))
        yield event if caller is None else {**event, "args": {**event["args"], "Caller": caller}}


@contextmanager
def _memory_snapshot(path: Path) -> Iterator[None]:
    """Every allocation of the block on the device, for PyTorch's memory viewer; never read here."""
    torch.cuda.memory._record_memory_history()
    try:
        yield
        torch.cuda.memory._dump_snapshot(str(path))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def _of_training(given: dict[str, Any]) -> int:
    training: TrainingConfig = given["training"]
    num_images = min(len(given["images"]), training.batch_size)
    return num_images * _of_unet(given)[1]


def _of_sampling(given: dict[str, Any]) -> int:
    sampling: SamplingConfig = given["sampling"]
    return sampling.num_samples * _of_unet(given)[0]


def _of_unet(given: dict[str, Any]) -> tuple[int, int]:
    in_channels = 3 if given.get("condition") is None else 6
    return flops.of_unet(given["unet"], given["image_size"], in_channels)


def _of_priors(given: dict[str, Any]) -> int:
    dip, (count, _, _, size) = given["dip"], given["images"].pixels.shape
    device = torch.device(given["context"].device).type
    at_once = 1 if dip.backend_on(device, size) == "loop" else count
    return int(at_once * flops.of_prior(dip, size)[1])


# The stages with a loop, and what a step of each computes, from the arguments of its call.
_FLOPS: dict[Callable[..., Any], Callable[[dict[str, Any]], int]] = {
    fit_priors: _of_priors,
    train_ddpm: _of_training,
    sample: _of_sampling,
}
