"""Exact, against counts by hand: from the shapes of layers, a multiply-add as two operations."""

from __future__ import annotations

import pytest
import torch

from bench import flops
from dipddpm.config import DIPConfig, UNetConfig

PIXELS = 8 * 8


def conv(c_in: int, c_out: int, kernel: int, pixels: int = PIXELS) -> int:
    return 2 * c_in * c_out * kernel**2 * pixels


def linear(n_in: int, n_out: int, rows: int = 1) -> int:
    return 2 * n_in * n_out * rows


def test_of_the_published_prior() -> None:
    first, middle, last = conv(3, 64, 3), conv(64, 64, 3), conv(64, 3, 3)
    forward = first + middle + last
    # Back: for the weights as much as forward, for the input as much again; the first layer's
    # input is no weight and asks for no gradient.
    there_and_back = 3 * forward - first
    assert flops.of_priors(DIPConfig(), 8, 1) == there_and_back
    # Nets side by side share nothing.
    assert flops.of_priors(DIPConfig(), 8, 5) == 5 * there_and_back
    assert flops.of_priors(DIPConfig(), 16, 1) == 4 * there_and_back


def test_of_the_hourglass_its_shrinking_layers_included() -> None:
    dip = DIPConfig(net="skip", skip_levels=1, skip_channels=8)
    quarter = PIXELS // 4
    pass_by, down = conv(32, 4, 1), conv(32, 8, 3, quarter)
    rest = conv(8, 8, 3, quarter) + conv(12, 8, 3) + conv(8, 8, 1) + conv(8, 3, 1)
    assert flops.of_priors(dip, 8, 1) == 2 * (pass_by + down) + 3 * rest


def resnet(c_in: int, c_out: int, embedding: int) -> int:
    """Two convolutions, the projection of the time, and a shortcut where the channels differ."""
    shortcut = conv(c_in, c_out, 1) if c_in != c_out else 0
    return conv(c_in, c_out, 3) + linear(embedding, c_out) + conv(c_out, c_out, 3) + shortcut


def attention(channels: int, tokens: int) -> int:
    """Query, key, value and output; the scores of all pairs of tokens, and the sums by them."""
    return 4 * linear(channels, channels, tokens) + 2 * linear(channels, tokens, tokens)


def smallest_unet(in_channels: int = 3) -> tuple[int, int]:
    """One level of 8 channels at 8 px: forward, and of it the layers whose input (the image, the
    time) asks for no gradient."""
    c, embedding = 8, 4 * 8
    first = conv(in_channels, c, 3)
    time = linear(c, embedding)
    forward = (
        first + time + linear(embedding, embedding)
        + resnet(c, c, embedding)  # down
        + resnet(c, c, embedding) + attention(c, PIXELS) + resnet(c, c, embedding)  # middle
        # Up: joined with what left the down block, then with what entered it.
        + 2 * resnet(2 * c, c, embedding)
        + conv(c, 3, 3)
    )  # fmt: skip
    return forward, first + time


UNET = UNetConfig(block_out_channels=(8,), layers_per_block=1, attention_levels=())


@pytest.mark.parametrize("num_images", [1, 3])
def test_of_the_smallest_unet(num_images: int) -> None:
    forward, _ = smallest_unet()
    assert flops.of_unet(UNET, 8, num_images, backward=False) == num_images * forward
    wider, _ = smallest_unet(in_channels=6)
    assert flops.of_unet(UNET, 8, 1, in_channels=6, backward=False) == wider


def test_of_the_smallest_unet_there_and_back() -> None:
    forward, without_gradient = smallest_unet()
    expected = 3 * forward - without_gradient
    assert flops.of_unet(UNET, 8, 2, backward=True) == 2 * expected


def test_nothing_is_computed() -> None:
    unet = UNetConfig(block_out_channels=(512, 512, 512))
    before = torch.get_rng_state()
    assert flops.of_unet(unet, 256, 64, backward=True) > 1e13
    assert torch.equal(torch.get_rng_state(), before)
