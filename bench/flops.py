"""Floating-point operations of a step's nets, counted from shapes alone, on torch's meta device.

Counted are convolutions, matrix products and attention, a multiplication and its addition as two,
as torch.utils.flop_counter does; what works element by element is left out. On the meta device, as
that counter does not see the fused attention of the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dipddpm.config import DIPConfig, UNetConfig
from dipddpm.diffusion import build_unet
from dipddpm.nets import NETS

_META = torch.device("meta")


def of_call(net: nn.Module, *inputs: Tensor, backward: bool) -> int:
    """Of one forward pass of a net on the meta device, or of a pass there and back."""
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        output = net(*inputs)
        if backward:
            (output if isinstance(output, Tensor) else output.sample).sum().backward()
    return int(counter.get_total_flops())


def of_unet(
    unet: UNetConfig, image_size: int, num_images: int, *, in_channels: int = 3, backward: bool
) -> int:
    """Of a denoising step (forward) or of a training step (backward too) on that many images."""
    with _META:
        net = build_unet(unet, image_size, 0, in_channels=in_channels)
        x = torch.empty(num_images, in_channels, image_size, image_size)
        return of_call(net, x, torch.zeros(num_images, dtype=torch.int64), backward=backward)


def of_priors(dip: DIPConfig, image_size: int, num_images: int) -> int:
    """Of one iteration of the fits of that many images."""
    # One net times their number: of grouped convolutions the counter sees too much on the way back.
    net = NETS[dip.net](1, dip).to(_META)
    x = net.draw_input(image_size, torch.Generator()).to(_META)
    return num_images * of_call(net, x, backward=True)
