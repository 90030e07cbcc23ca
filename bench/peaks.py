"""The measured peak of a device: the most operations a second that one call of torch reaches.

It is the ceiling that the stages are compared with. A published peak is of the tensor cores alone
at a clock that is rarely held; of a CPU there is none. Timed are a product of two matrices and a
convolution, the device idle at both ends, their operands on it. The larger of the two counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from bench.meters import Device
from bench.probe import best_seconds
from bench.records import Peak
from dipddpm.config import Levers
from dipddpm.levers import in_force

_Precision = Literal["float32", "tf32", "float16", "bfloat16"]
_DTYPES: dict[_Precision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# The best of so many: a CPU that is shared has moments of its own.
_REPEATS = 15
# The side of the matrices; images, channels (in and out) and side of the convolution, with 3x3
# filters. Large enough that starting a call is no part of it; all of them together take half a
# second on a CPU of two cores.
_MATRIX = {"cpu": 768, "cuda": 8192}
_IMAGES = {"cpu": (8, 64, 32), "cuda": (64, 256, 64)}


def measure_peaks(device: Device) -> tuple[Peak, ...]:
    """Of float32, and on CUDA of what its tensor cores do too."""
    kind = "cuda" if device.is_cuda else "cpu"
    precisions: tuple[_Precision, ...] = tuple(_DTYPES) if device.is_cuda else ("float32",)
    found = []
    for precision in precisions:
        with _allowing_tf32(precision == "tf32"):
            matmul, conv = (
                count / best_seconds(device, work, _REPEATS)
                for count, work in (
                    _matmul(_MATRIX[kind], _DTYPES[precision], device.torch_device),
                    _convolution(*_IMAGES[kind], _DTYPES[precision], device.torch_device),
                )
            )
        found.append(Peak(precision=precision, matmul_flops=matmul, conv_flops=conv))
    if device.is_cuda:
        torch.cuda.empty_cache()
    return tuple(found)


_Work = tuple[int, Callable[[], Tensor]]


def _matmul(side: int, dtype: torch.dtype, device: torch.device) -> _Work:
    """Its operations, and the call."""
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    product = torch.empty_like(matrix)
    return 2 * side**3, lambda: torch.mm(matrix, matrix, out=product)


def _convolution(
    count: int, channels: int, side: int, dtype: torch.dtype, device: torch.device
) -> _Work:
    """Its operations, and the call; on CUDA in the order of memory that tensor cores read."""
    order = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    images = torch.ones(count, channels, side, side, dtype=dtype, device=device)
    filters = torch.ones(channels, channels, 3, 3, dtype=dtype, device=device)
    x, weight = (one.contiguous(memory_format=order) for one in (images, filters))
    flops = 2 * count * channels**2 * 9 * side**2
    return flops, lambda: torch.conv2d(x, weight, padding=1)


@contextlib.contextmanager
def _allowing_tf32(allowed: bool) -> Iterator[None]:
    """With the quickest algorithm that cuDNN finds."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        with torch.inference_mode(), in_force(Levers(tf32="all" if allowed else "no")):
            yield
    finally:
        cudnn.benchmark = before
