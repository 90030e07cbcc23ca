"""What of a call can be counted, and is the same on each try: operations, and bytes of tensors."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes that tensors made in the block took at one moment."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live: dict[StorageWeakRef, int] = {}
        # Of what is live, and of what was when it was last looked at.
        self._total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                ref, size = StorageWeakRef(storage), storage.nbytes()
                self._total += size - self._live.get(ref, 0)
                self._live[ref] = size
        if self._total > self.peak:  # else there cannot be a new one, whatever has gone
            self._live = {ref: size for ref, size in self._live.items() if not ref.expired()}
            self._total = sum(self._live.values())
            self.peak = max(self.peak, self._total)
        return result


@dataclass(frozen=True)
class Counts:
    """flops: of convolutions, matrix products and attention, a multiplication and its addition as
    two; peak_bytes: see `LiveBytes`."""

    flops: int
    peak_bytes: int


def count(call: Callable[[], object]) -> Counts:
    """Of one call, much slower than it is otherwise."""
    # A cycle of references that is collected at some other moment would free its tensors then.
    gc.collect()
    gc.disable()
    try:
        # The fused attention of a CPU is hidden from the counter.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            with LiveBytes() as live:
                call()
    finally:
        gc.enable()
    return Counts(int(flops.get_total_flops()), live.peak)
