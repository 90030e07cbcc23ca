"""The nets a Deep Image Prior is made of, many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PaperNet(nn.Module):
    """The published net, `num_nets` of it side by side: 40.7 k parameters each.

    conv 3->64, BN, ReLU, conv 64->64, BN, ReLU, conv 64->3, Sigmoid; 3x3, stride 1, padding 1.
    The nets stand in the groups of grouped convolutions and in the channels of the BatchNorms, and
    share nothing: with the sum of their losses and one Adam this is exactly `num_nets` separate
    fits.
    """

    channels = 64

    def __init__(self, num_nets: int = 1) -> None:
        super().__init__()
        self.num_nets = num_nets

        def conv(c_in: int, c_out: int) -> nn.Conv2d:
            return nn.Conv2d(c_in * num_nets, c_out * num_nets, 3, padding=1, groups=num_nets)

        width = self.channels
        self.layers = nn.Sequential(
            conv(3, width),
            nn.BatchNorm2d(width * num_nets),
            nn.ReLU(inplace=True),
            conv(width, width),
            nn.BatchNorm2d(width * num_nets),
            nn.ReLU(inplace=True),
            conv(width, 3),
            nn.Sigmoid(),
        )

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draws each net's weights from a generator of its own, as nn.Conv2d initialises itself.

        generators: one a net, on the CPU. Raises ValueError if there are more or fewer.
        """
        if len(generators) != self.num_nets:
            raise ValueError(f"generators must be {self.num_nets}, got {len(generators)}")
        for layer in self.layers:
            if not isinstance(layer, nn.Conv2d):
                continue
            # Kaiming uniform with a = sqrt(5) comes to 1 / sqrt(fan in), for weights and biases.
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert layer.bias is not None
            for parameter in (layer.weight, layer.bias):
                own = parameter.view(self.num_nets, -1).shape
                drawn = [
                    torch.empty(own[1]).uniform_(-bound, bound, generator=generator)
                    for generator in generators
                ]
                with torch.no_grad():
                    parameter.copy_(torch.stack(drawn).view_as(parameter))

    def forward(self, net_input: Tensor) -> Tensor:
        """net_input: (1, 3, H, W), shared by all nets. Returns (num_nets, 3, H, W) in [0, 1]."""
        images: Tensor = self.layers(net_input.repeat(1, self.num_nets, 1, 1))
        return images.view(self.num_nets, 3, *net_input.shape[-2:])
