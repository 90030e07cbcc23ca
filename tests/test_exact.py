"""What can be counted of a call, against closed forms."""

from __future__ import annotations

import gc

import pytest
import torch

from bench.exact import count

MIB = 2**20


def test_operations_and_bytes_are_those_of_a_product() -> None:
    a, b = torch.ones(64, 32), torch.ones(32, 16)
    found = count(lambda: a @ b)
    assert found.flops == 2 * 64 * 32 * 16
    assert found.peak_bytes == 64 * 16 * 4  # what was there before is not counted


def test_operations_of_attention_are_counted_on_a_cpu_too() -> None:
    q = torch.ones(1, 2, 8, 4)
    found = count(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert found.flops == 2 * (2 * 2 * 8 * 8 * 4)  # two products of two heads


def test_the_peak_is_of_what_lives_at_one_moment() -> None:
    def one_after_another() -> None:
        for _ in range(3):
            torch.empty(MIB, dtype=torch.uint8)

    def together() -> None:
        kept = [torch.empty(MIB, dtype=torch.uint8) for _ in range(3)]
        kept.clear()

    assert count(one_after_another).peak_bytes == MIB
    assert count(together).peak_bytes == 3 * MIB


def test_it_is_the_same_on_each_try() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3))
    x = torch.ones(2, 3, 16, 16)

    def step() -> None:
        net.zero_grad()
        net(x).square().mean().backward()

    step()  # gradients are there
    assert len({count(step) for _ in range(5)}) == 1


def test_garbage_is_collected_again_whatever_happens() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        count(fail)
    assert gc.isenabled()
