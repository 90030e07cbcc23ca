"""Training in several processes, each with a device of its own (`torchrun`, `accelerate launch`).

All draw the same numbers for the whole batch; each works on its share of it, and their gradients
are averaged. So they train as one process does, but for the order of summation.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from accelerate import PartialState  # type: ignore[import-untyped]


class Share:
    """What one of several processes takes of every batch; without others, all of it."""

    def __init__(self, processes: PartialState | None = None) -> None:
        self.index, self.count = 0, 1
        if processes is not None:
            self.index, self.count = processes.process_index, processes.num_processes

    def of(self, rows: Tensor) -> Tensor:
        """Its rows of a batch: as many as the others' or one more. Where there are too few for it,
        the first one, whose `weight` is then 0."""
        if self.count == 1:
            return rows
        share = rows.tensor_split(self.count)[self.index]
        return share if len(share) else rows[:1]

    def weight(self, num_rows: int) -> float:
        """What its mean counts for in the mean over all processes, for that to be the batch's."""
        num_own = num_rows // self.count + (self.index < num_rows % self.count)
        return num_own * self.count / num_rows

    def joined(self, model: nn.Module) -> nn.Module:
        """The net that after each backward pass has the mean of all processes' gradients."""
        return DistributedDataParallel(model) if self.count > 1 else model

    def mean(self, values: Tensor) -> Tensor:
        """Over all processes."""
        if self.count == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total / self.count


def held_back(model: nn.Module, gradients: bool) -> contextlib.AbstractContextManager[Any]:
    """The block whose gradients, if they are held back, wait for those of a later backward pass
    before they are averaged."""
    if gradients and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()
