"""How a net is run (`Levers`): precision, layout, attention, compilation, CUDA graphs, threads.

None of it knows what the net is for; fits, training and sampling all run theirs by it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, ParamSpec

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from dipddpm.config import Levers

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Of one piece of code, for each shape it meets; torch gives up after 8, and runs the rest as it is.
_MOST_COMPILATIONS = 128
P = ParamSpec("P")
# Before it is recorded: libraries choose their kernels when first called, which cannot be recorded.
_CALLS_BEFORE_RECORDING = 3


def dtype_of(levers: Levers, device: torch.device) -> torch.dtype:
    """Of convolutions and matrix products; float16 is none of a CPU's, which takes float32."""
    if levers.precision == "fp16" and device.type != "cuda":
        return torch.float32
    return _DTYPES.get(levers.precision, torch.float32)


def lower_precision(levers: Levers, device: torch.device) -> torch.autocast:
    """The block in which a net with float32 weights is run in its precision."""
    dtype = dtype_of(levers, device)
    # No weight is asked for twice, and what was kept of a recorded pass would outlive it.
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)


def records_steps(levers: Levers, device: torch.device) -> bool:
    """Whether steps are `Recorded`."""
    return levers.cuda_graph and device.type == "cuda"


def attention_on(levers: Levers, device: str) -> str:
    """What "auto" stands for on a device of that kind: plain products on a CPU, where they are the
    quicker for small nets."""
    if levers.attention != "auto":
        return levers.attention
    return "eager" if device == "cpu" else "sdpa"


def arrange(model: nn.Module, levers: Levers) -> None:
    """Layout, attention and compilation of a net on its device, in place."""
    if levers.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(model.parameters()).device.type
    if attention_on(levers, device) == "eager":
        for layer in model.modules():
            if isinstance(layer, Attention):
                layer.set_processor(AttnProcessor())
    if levers.compile == "model":
        for layer in model.modules():
            if isinstance(layer, Upsample2D) and device == "cpu":
                # Compiled for a CPU together with what is around it, torch 2.13 gives no gradient
                # to what lies before it.
                setattr(layer, "forward", torch.compiler.disable(layer.forward))  # noqa: B010
        model.compile(dynamic=False)
    elif levers.compile == "blocks":
        for layer in model.modules():
            if isinstance(layer, Attention | ResnetBlock2D):
                layer.compile(dynamic=False)


@contextlib.contextmanager
def in_force(levers: Levers) -> Iterator[None]:
    """What holds for the whole process, for as long as a net is run."""
    cudnn: Any = torch.backends.cudnn
    conv = cudnn.conv
    matmul: Any = torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision, torch.get_num_threads()
    conv.fp32_precision = "ieee" if levers.tf32 == "no" else "tf32"
    matmul.fp32_precision = "tf32" if levers.tf32 == "all" else "ieee"
    if levers.num_threads is not None:
        torch.set_num_threads(levers.num_threads)
    compiling: Any = contextlib.nullcontext()
    if levers.compile != "no":
        from torch._dynamo import config  # which takes a second to load

        compiling = config.patch(recompile_limit=_MOST_COMPILATIONS)
    try:
        with compiling:
            yield
    finally:
        conv.fp32_precision, matmul.fp32_precision = before[:2]
        torch.set_num_threads(before[2])


class Recorded(Generic[P]):
    """A step on a CUDA device, recorded once for each shape of its inputs and then played again.

    step: tensors in, a tensor out; it may change what it keeps, but only where that lies
    changes: what a call changes, as tensors. The calls before a recording leave no trace in it:
        what is there before is put back, and what a first call makes is set to zero, where moments
        begin

    A call's result is a copy: the next may write where it lay.
    """

    def __init__(
        self, step: Callable[P, Tensor], changes: Callable[[], Sequence[Tensor]] = tuple
    ) -> None:
        self._step, self._changes = step, changes
        self._recordings: dict[
            tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]
        ] = {}

    def __call__(self, *inputs: P.args, **_: P.kwargs) -> Tensor:
        given: Sequence[Any] = inputs
        shapes = tuple(one.shape for one in given)
        if shapes not in self._recordings:
            self._recordings[shapes] = self._record(given)
        graph, places, result = self._recordings[shapes]
        for place, one in zip(places, given, strict=True):
            place.copy_(one)
        graph.replay()
        return result.clone()

    def forget(self) -> None:
        """Drops what was recorded: the places that it wrote to are no longer those of the step."""
        self._recordings.clear()

    def _record(
        self, inputs: Sequence[Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        step: Callable[..., Tensor] = self._step
        places = [one.clone() for one in inputs]
        before = {id(one): one.clone() for one in self._changes()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_CALLS_BEFORE_RECORDING):
                step(*places)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.no_grad():
            # What a first call has made begins at zero, as an optimizer's moments do.
            for one in self._changes():
                one.copy_(before[id(one)]) if id(one) in before else one.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = step(*places)
        return graph, places, result
