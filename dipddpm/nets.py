"""The nets a Deep Image Prior is made of, many at a time.

The nets of a class stand in the groups of grouped convolutions and in the channels of BatchNorms,
as one image of num_nets * C channels, and share nothing: with the sum of their losses and one Adam
this is exactly `num_nets` separate fits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dipddpm.config import DIPConfig


class GroupedNets(nn.Module, ABC):
    """`num_nets` nets of one architecture side by side, sized by `dip`."""

    def __init__(self, num_nets: int, dip: DIPConfig) -> None:
        super().__init__()
        self.num_nets = num_nets
        self.build(dip)

    @abstractmethod
    def build(self, dip: DIPConfig) -> None:
        """Makes the layers."""

    @staticmethod
    @abstractmethod
    def draw_input(size: int, generator: torch.Generator) -> Tensor:
        """The fixed noise that a net makes its image of: (1, C, size, size), on the CPU."""

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """From (1, num_nets * C, H, W) to (1, num_nets * 3, H, W) in [0, 1]."""

    def forward(self, net_input: Tensor) -> Tensor:
        """net_input: (num_nets, C, H, W), or (1, C, H, W), shared by all nets.

        Returns (num_nets, 3, H, W) in [0, 1].
        """
        own = net_input.expand(self.num_nets, -1, -1, -1)
        return self._apart(self.run(self._side_by_side(own)))

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draws each net's weights from a generator of its own, as nn.Conv2d initialises itself.

        generators: one a net, on the CPU. Raises ValueError if there are more or fewer.
        """
        if len(generators) != self.num_nets:
            raise ValueError(f"generators must be {self.num_nets}, got {len(generators)}")
        for layer in self.modules():
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

    def initialise_alike(self, weights: Mapping[str, Tensor]) -> None:
        """Gives each net these weights: the parameters of one net, by name."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.cat([weights[name]] * self.num_nets))

    def keep(self, kept: Tensor) -> None:
        """Drops all nets but those of the indices `kept`, (K,) int64 on the nets' device.

        Parameters stay the same objects, so an optimizer goes on with them once its state has been
        cut likewise (`kept_of`).
        """
        for layer in self.modules():
            for tensor in (*layer._parameters.values(), *layer._buffers.values()):
                if tensor is not None and tensor.ndim:
                    tensor.data = kept_of(tensor.data, self.num_nets, kept)
            if isinstance(layer, nn.Conv2d):
                layer.groups = len(kept)
                layer.in_channels = layer.in_channels // self.num_nets * len(kept)
                layer.out_channels = layer.out_channels // self.num_nets * len(kept)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.num_features = layer.num_features // self.num_nets * len(kept)
        self.num_nets = len(kept)

    def conv(self, c_in: int, c_out: int, kernel: int, **kwargs: int | str) -> nn.Conv2d:
        """A convolution from c_in to c_out channels of each net, of the same size at stride 1."""
        return nn.Conv2d(
            c_in * self.num_nets,
            c_out * self.num_nets,
            kernel,
            padding=kernel // 2,
            groups=self.num_nets,
            **kwargs,  # type: ignore[arg-type]
        )

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Batch normalisation of each net over its own pixels."""
        return nn.BatchNorm2d(channels * self.num_nets)

    def _side_by_side(self, x: Tensor) -> Tensor:
        """From (num_nets, C, H, W) to (1, num_nets * C, H, W)."""
        return x.reshape(1, -1, *x.shape[-2:])

    def _apart(self, x: Tensor) -> Tensor:
        """From (1, num_nets * C, H, W) to (num_nets, C, H, W)."""
        return x.reshape(self.num_nets, -1, *x.shape[-2:])


class PaperNet(GroupedNets):
    """The published net: 40.7 k parameters.

    conv 3->64, BN, ReLU, conv 64->64, BN, ReLU, conv 64->3, Sigmoid; 3x3, stride 1, padding 1.
    Its input is N(0, 1), of the image's shape.
    """

    def build(self, dip: DIPConfig) -> None:
        del dip  # as published: it has one size
        width = 64
        self.layers = nn.Sequential(
            self.conv(3, width, 3),
            self.norm(width),
            nn.ReLU(inplace=True),
            self.conv(width, width, 3),
            self.norm(width),
            nn.ReLU(inplace=True),
            self.conv(width, 3, 3),
            nn.Sigmoid(),
        )

    @staticmethod
    def draw_input(size: int, generator: torch.Generator) -> Tensor:
        return torch.randn(1, 3, size, size, generator=generator)

    def run(self, x: Tensor) -> Tensor:
        images: Tensor = self.layers(x)
        return images


class SkipNet(GroupedNets):
    """The hourglass of Ulyanov et al. 2018 (arXiv 1711.10925): 2.2 M parameters at its own size.

    Each of `dip.skip_levels` levels halves the image with a stride of 2 and a further convolution,
    and doubles it again, bilinearly; 4 channels of what entered the level pass it by, through a
    1x1 convolution, and join what comes back from below. All other widths are `dip.skip_channels`.
    Convolutions have 3x3 filters and reflection padding, each with BatchNorm and LeakyReLU 0.2.
    Its input is 32 channels of U(0, 1) / 10. Sides must be multiples of 2^levels, and at least
    twice that.
    """

    input_channels = 32
    channels_past = 4

    def build(self, dip: DIPConfig) -> None:
        width, past = dip.skip_channels, self.channels_past
        entering = [self.input_channels] + [width] * (dip.skip_levels - 1)
        self.past = nn.ModuleList(self._block(c_in, past, 1) for c_in in entering)
        self.down = nn.ModuleList(
            nn.Sequential(self._block(c_in, width, 3, stride=2), self._block(width, width, 3))
            for c_in in entering
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                self.norm(past + width),
                self._block(past + width, width, 3),
                self._block(width, width, 1),
            )
            for _ in entering
        )
        self.last = nn.Sequential(self.conv(width, 3, 1), nn.Sigmoid())

    @staticmethod
    def draw_input(size: int, generator: torch.Generator) -> Tensor:
        return torch.rand(1, SkipNet.input_channels, size, size, generator=generator) / 10

    def run(self, x: Tensor) -> Tensor:
        passed = []
        for past, down in zip(self.past, self.down, strict=True):
            passed.append(past(x))
            x = down(x)
        for up in reversed(self.up):
            doubled = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = up(self._joined(passed.pop(), doubled))
        images: Tensor = self.last(x)
        return images

    def _block(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            self.conv(c_in, c_out, kernel, stride=stride, padding_mode="reflect"),
            self.norm(c_out),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def _joined(self, *parts: Tensor) -> Tensor:
        """The channels of all parts, those of each net beside each other."""
        return self._side_by_side(torch.cat([self._apart(part) for part in parts], dim=1))


def kept_of(tensor: Tensor, num_nets: int, kept: Tensor) -> Tensor:
    """The rows of the nets `kept`, of a tensor that holds those of num_nets nets one by one."""
    rows = torch.arange(len(tensor), device=tensor.device).view(num_nets, -1)[kept].flatten()
    return tensor.index_select(0, rows)


NETS: dict[str, type[GroupedNets]] = {"paper": PaperNet, "skip": SkipNet}
