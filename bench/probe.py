"""A fixed piece of work, to see how fast the machine is beside what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bench.meters import Device
from bench.records import Probe

# Of each: the best of so many, as whatever disturbs can only add.
_REPEATS = 5
# Sides of the matrices and bytes of the copy. On a CPU of two cores all repeats together take less
# than 0.3 s. The copy is larger than caches: a smaller one takes 10 % more or less in each process,
# by where its pages happen to lie.
_SIZES = {"cpu": (768, 2**27), "cuda": (4096, 2**28)}


def probe(device: Device) -> Probe:
    """Multiplies two float32 matrices and copies memory, both on the device."""
    side, size = _SIZES["cuda" if device.is_cuda else "cpu"]
    matrix = torch.ones(side, side, device=device.torch_device)
    product = torch.empty_like(matrix)
    source = torch.ones(size, dtype=torch.uint8, device=device.torch_device)
    copy = torch.empty_like(source)
    found = Probe(
        matmul_seconds=best_seconds(device, lambda: torch.mm(matrix, matrix, out=product)),
        copy_seconds=best_seconds(device, lambda: copy.copy_(source)),
    )
    if device.is_cuda:
        del matrix, product, source, copy
        torch.cuda.empty_cache()  # or it would be reserved in every stage that follows
    return found


def best_seconds(device: Device, work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Of a call, the device idle at both ends; the best of several."""
    taken = []
    for _ in range(repeats + 1):
        device.synchronize()
        started = time.perf_counter()
        work()
        device.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])  # the first finds caches and kernels cold
