from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from dipddpm.nets import PaperNet


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


def net_input(size: int = 8) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_one_net_has_the_published_parameters() -> None:
    conv = 9 * 3 * 64 + 64 + 9 * 64 * 64 + 64 + 9 * 64 * 3 + 3
    norm = 2 * (64 + 64)
    assert conv + norm == 40_707
    assert sum(p.numel() for p in PaperNet(1).parameters()) == 40_707
    assert sum(p.numel() for p in published().parameters()) == 40_707
    assert sum(p.numel() for p in PaperNet(5).parameters()) == 5 * 40_707


def test_one_net_is_the_published_one() -> None:
    ours, plain = PaperNet(1), published()
    ours.initialise(generators(0))
    plain.load_state_dict(ours.layers.state_dict())
    assert torch.equal(ours(net_input()), plain(net_input()))
    target = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    for net in (ours, plain):
        (net(net_input()) - target).square().mean().backward()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)


def test_nets_side_by_side_are_the_nets_one_by_one() -> None:
    together = PaperNet(3)
    together.initialise(generators(5, 6, 7))
    outputs = together.double()(net_input().double())
    for i, seed in enumerate((5, 6, 7)):
        alone = PaperNet(1)
        alone.initialise(generators(seed))
        difference = (alone.double()(net_input().double()) - outputs[i : i + 1]).abs().max().item()
        assert difference <= 1e-14


def test_the_weights_are_drawn_as_conv2d_draws_its_own() -> None:
    drawn = PaperNet(64)
    drawn.initialise(generators(*range(64)))
    for layer in (layer for layer in drawn.layers if isinstance(layer, nn.Conv2d)):
        c_in, c_out = layer.weight.shape[1], layer.out_channels // 64
        bound = 1 / math.sqrt(9 * c_in)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            own = [nn.Conv2d(c_in, c_out, 3) for _ in range(64)]
        assert layer.bias is not None
        for ours, theirs in (
            (layer.weight, torch.cat([conv.weight for conv in own])),
            (layer.bias, torch.cat([conv.bias for conv in own if conv.bias is not None])),
        ):
            ours, theirs = ours.detach().flatten(), theirs.detach().flatten()
            assert len(ours) == len(theirs)
            # The greatest of n draws lies 1 / n of the bound below it on average; 20 / n is e^-20.
            assert bound * (1 - 20 / len(ours)) <= ours.abs().max().item() <= bound
            assert theirs.abs().max().item() <= bound * (1 + 1e-6)
            picked = slice(0, 20_000)
            assert stats.ks_2samp(ours[picked], theirs[picked]).pvalue > 1e-3


def test_no_two_nets_start_alike_and_a_generator_is_a_net() -> None:
    net = PaperNet(2)
    net.initialise(generators(0, 1))
    first, second = net.layers[0].weight.detach().chunk(2)  # type: ignore[operator]
    assert not torch.equal(first, second)
    net.initialise(generators(3, 3))
    first, second = net.layers[0].weight.detach().chunk(2)  # type: ignore[operator]
    assert torch.equal(first, second)


def test_as_many_generators_as_nets() -> None:
    with pytest.raises(ValueError, match="generators must be 3, got 2"):
        PaperNet(3).initialise(generators(0, 1))
