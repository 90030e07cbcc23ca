from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from dipddpm.config import DIPConfig
from dipddpm.nets import NETS, PaperNet, SkipNet

SMALL = DIPConfig(skip_levels=2, skip_channels=6)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def published() -> nn.Sequential:
    """The net of the publication, written out."""
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, kernel_size=3, stride=1, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 3, kernel_size=3, stride=1, padding=1),
        nn.Sigmoid(),
    )


class Hourglass(nn.Module):
    """One net of Ulyanov et al. 2018, level in level, as their text and figure have it."""

    def __init__(self, levels: int, width: int, c_in: int = 32, *, outermost: bool = True) -> None:
        super().__init__()

        def block(c_in: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            return [
                nn.ReflectionPad2d(kernel // 2),
                nn.Conv2d(c_in, c_out, kernel, stride),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2),
            ]

        self.past = nn.Sequential(*block(c_in, 4, 1))
        self.down = nn.Sequential(*block(c_in, width, 3, 2), *block(width, width, 3))
        self.inner = Hourglass(levels - 1, width, width, outermost=False) if levels > 1 else None
        self.up = nn.Sequential(
            nn.BatchNorm2d(4 + width), *block(4 + width, width, 3), *block(width, width, 1)
        )
        self.last = nn.Sequential(nn.Conv2d(width, 3, 1), nn.Sigmoid()) if outermost else None
        self.double_size = nn.Upsample(scale_factor=2, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        deep = self.down(x)
        if self.inner is not None:
            deep = self.inner(deep)
        up: Tensor = self.up(torch.cat([self.past(x), self.double_size(deep)], dim=1))
        return up if self.last is None else self.last(up)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def gradients(net: nn.Module, z: Tensor) -> list[Tensor]:
    """Of the mean squared error to noise."""
    images = net(z)
    target = torch.rand(images.shape, generator=generators(2)[0]).to(images.dtype)
    (images - target).square().mean().backward()
    return [parameter.grad for parameter in net.parameters() if parameter.grad is not None]


def test_one_paper_net_has_the_published_parameters() -> None:
    conv = 9 * 3 * 64 + 64 + 9 * 64 * 64 + 64 + 9 * 64 * 3 + 3
    norm = 2 * (64 + 64)
    assert conv + norm == 40_707
    assert count(PaperNet(1, DIPConfig())) == 40_707
    assert count(published()) == 40_707
    assert count(PaperNet(5, DIPConfig())) == 5 * 40_707


@pytest.mark.parametrize(("levels", "width"), [(5, 128), (4, 32), (1, 7)])
def test_one_skip_net_has_the_parameters_of_the_hourglass(levels: int, width: int) -> None:
    def block(c_in: int, c_out: int, kernel: int) -> int:
        return kernel**2 * c_in * c_out + c_out + 2 * c_out

    def level(c_in: int) -> int:
        past, down = block(c_in, 4, 1), block(c_in, width, 3) + block(width, width, 3)
        return past + down + 2 * (width + 4) + block(width + 4, width, 3) + block(width, width, 1)

    by_hand = level(32) + (levels - 1) * level(width) + 3 * width + 3
    if levels == 5:  # as the published code prints it for its defaults
        assert by_hand == 2_217_831
    dip = DIPConfig(skip_levels=levels, skip_channels=width)
    assert count(SkipNet(1, dip)) == by_hand
    assert count(SkipNet(3, dip)) == 3 * by_hand
    assert count(Hourglass(levels, width)) == by_hand


def test_one_paper_net_is_the_published_one() -> None:
    ours, plain = PaperNet(1, DIPConfig()), published()
    ours.initialise(generators(0))
    plain.load_state_dict(ours.layers.state_dict())
    z = PaperNet.draw_input(8, *generators(1))
    assert torch.equal(ours(z), plain(z))
    for mine, theirs in zip(gradients(ours, z), gradients(plain, z), strict=True):
        assert torch.equal(mine, theirs)


def test_one_skip_net_is_the_hourglass() -> None:
    ours, plain = SkipNet(1, SMALL).double(), Hourglass(2, 6).double()
    ours.initialise(generators(0))
    mine = {id(parameter): i for i, parameter in enumerate(ours.parameters())}
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    level: Hourglass | None = plain
    for past, down, up in zip(ours.past, ours.down, ours.up, strict=True):
        assert level is not None
        mirrored = (*level.past.parameters(), *level.down.parameters(), *level.up.parameters())
        own = (*past.parameters(), *down.parameters(), *up.parameters())
        pairs += zip(own, mirrored, strict=True)
        level = level.inner
    assert plain.last is not None
    pairs += zip(ours.last.parameters(), plain.last.parameters(), strict=True)
    assert len(pairs) == len(mine)
    for own_one, mirrored_one in pairs:
        mirrored_one.data.copy_(own_one.data)
    z = SkipNet.draw_input(8, *generators(1)).double()
    assert (ours(z) - plain(z)).abs().max().item() <= 1e-14
    gradients(ours, z), gradients(plain, z)
    for own_one, mirrored_one in pairs:
        assert own_one.grad is not None and mirrored_one.grad is not None
        assert (own_one.grad - mirrored_one.grad).abs().max().item() <= 1e-12


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("net_input", ["shared", "own"])
def test_nets_side_by_side_are_the_nets_one_by_one(name: str, net_input: str) -> None:
    seeds = (5, 6, 7)
    together = NETS[name](3, SMALL)
    together.initialise(generators(*seeds))
    inputs = [together.draw_input(8, one).double() for one in generators(1, 2, 3)]
    z = inputs[0] if net_input == "shared" else torch.cat(inputs)
    outputs = together.double()(z)
    for i, seed in enumerate(seeds):
        alone = NETS[name](1, SMALL)
        alone.initialise(generators(seed))
        own = inputs[0 if net_input == "shared" else i]
        difference = (alone.double()(own) - outputs[i : i + 1]).abs().max().item()
        assert difference <= 1e-13


@pytest.mark.parametrize("name", NETS)
def test_shapes_and_ranges(name: str) -> None:
    net = NETS[name](2, SMALL)
    net.initialise(generators(0, 1))
    outputs = net(net.draw_input(16, *generators(2)))
    assert outputs.shape == (2, 3, 16, 16)
    assert outputs.min() >= 0 and outputs.max() <= 1


def test_what_the_nets_start_from() -> None:
    normal = PaperNet.draw_input(64, *generators(0)).flatten()
    uniform = SkipNet.draw_input(64, *generators(0)).flatten()
    assert len(normal) == 3 * 64**2
    assert len(uniform) == 32 * 64**2
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform", args=(0, 0.1)).pvalue > 1e-3


@pytest.mark.parametrize("name", NETS)
def test_the_weights_are_drawn_as_conv2d_draws_its_own(name: str) -> None:
    drawn = NETS[name](64, SMALL)
    drawn.initialise(generators(*range(64)))
    for layer in (layer for layer in drawn.modules() if isinstance(layer, nn.Conv2d)):
        c_in, c_out = layer.weight.shape[1], layer.out_channels // 64
        side = layer.weight.shape[-1]
        bound = 1 / math.sqrt(side**2 * c_in)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            own = [nn.Conv2d(c_in, c_out, side) for _ in range(64)]
        assert layer.bias is not None
        for ours, theirs in (
            (layer.weight, torch.cat([conv.weight for conv in own])),
            (layer.bias, torch.cat([conv.bias for conv in own if conv.bias is not None])),
        ):
            ours, theirs = ours.detach().flatten(), theirs.detach().flatten()
            assert len(ours) == len(theirs)
            # The greatest of n draws lies 1 / n of the bound below it on average; 20 / n is e^-20.
            assert bound * (1 - 20 / len(ours)) <= ours.abs().max().item() <= bound * (1 + 1e-6)
            assert theirs.abs().max().item() <= bound * (1 + 1e-6)
            picked = slice(0, 20_000)
            assert stats.ks_2samp(ours[picked], theirs[picked]).pvalue > 1e-3


@pytest.mark.parametrize("name", NETS)
def test_no_two_nets_start_alike_and_a_generator_is_a_net(name: str) -> None:
    def first_and_second(*seeds: int) -> tuple[Tensor, Tensor]:
        net = NETS[name](2, SMALL)
        net.initialise(generators(*seeds))
        convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
        halves = [layer.weight.detach().chunk(2) for layer in convs]
        first, second = (torch.cat([half[i].flatten() for half in halves]) for i in (0, 1))
        return first, second

    zero, one = first_and_second(0, 1)
    assert torch.isclose(zero, one).float().mean() < 0.01
    three, again = first_and_second(3, 3)
    assert torch.equal(three, again)
    assert torch.equal(first_and_second(1, 0)[0], one)


def test_as_many_generators_as_nets() -> None:
    with pytest.raises(ValueError, match="generators must be 3, got 2"):
        PaperNet(3, DIPConfig()).initialise(generators(0, 1))
