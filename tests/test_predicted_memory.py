"""Counts on the meta device against those of real passes, and sums against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.extents import bound
from bench.meters import Device, Memory
from bench.predicted_memory import (
    activation_bytes,
    forward_bytes,
    predicted_bytes,
    weight_bytes,
)
from dipddpm.config import (
    Context,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.diffusion import build_unet
from dipddpm.dip import fit_priors
from dipddpm.images import ImageSet
from dipddpm.nets import NETS
from dipddpm.sampling import sample
from dipddpm.scoring import score_restoration
from dipddpm.training import train_ddpm

SIZE = 16
UNET = UNetConfig(block_out_channels=(8, 16), attention_levels=(1,))
SCHEDULE, CONTEXT = NoiseScheduleConfig(), Context()


def really_saved(net: nn.Module, *inputs: Tensor) -> int:
    """Bytes of what a pass on the CPU saves, each place in memory once, without the weights."""
    places: dict[int, int] = {}
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        places[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with sdpa_kernel(SDPBackend.MATH), hooks:
        result = net(*inputs)
    del result
    for parameter in net.parameters():
        places.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(places.values())


@pytest.mark.parametrize("num_images", [2, 3])
def test_activations_of_the_unet_are_those_of_a_real_pass(num_images: int) -> None:
    net = build_unet(UNET, SIZE, 0)
    x, timesteps = torch.rand(num_images, 3, SIZE, SIZE), torch.zeros(num_images).long()
    expected = really_saved(net, x, timesteps)
    assert activation_bytes(net.to("meta"), x.to("meta"), timesteps.to("meta")) == expected > 0


@pytest.mark.parametrize("dip", [DIPConfig(), DIPConfig(net="skip", skip_levels=2)])
def test_activations_of_a_prior_are_those_of_a_real_pass(dip: DIPConfig) -> None:
    net = NETS[dip.net](1, dip)
    x = net.draw_input(SIZE, torch.Generator())
    expected = really_saved(net, x)
    assert activation_bytes(net.to("meta"), x.to("meta")) == expected > 0


class Wide(nn.Module):
    """Holds x, twice as much of it, and their sum; the first of them to the end."""

    def forward(self, x: Tensor) -> Tensor:
        first = x + 1
        wide = torch.cat((first, first))
        narrow = wide[: len(x)] * 2
        del wide
        return first + narrow


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_most_that_lives_at_one_moment(device: str) -> None:
    x = torch.zeros(5, 7, device=device)
    # `first`, `wide` of twice its size, and `narrow`; not the sum, for which `wide` has gone.
    assert forward_bytes(Wide(), x) == (1 + 2 + 1) * 5 * 7 * 4


def test_a_training_is_the_sum_of_its_parts() -> None:
    training = TrainingConfig(batch_size=4)
    net = build_unet(UNET, SIZE, 0)
    x, timesteps = torch.rand(4, 3, SIZE, SIZE), torch.zeros(4).long()
    weights, step = weight_bytes(net), really_saved(net, x, timesteps)
    assert weights == sum(p.numel() * p.element_size() for p in net.parameters())
    assert step > 2 * weights
    images = ImageSet(torch.zeros(10, 3, SIZE, SIZE))
    arguments = (images, SIZE, UNET, SCHEDULE, training, CONTEXT)
    given = bound(train_ddpm, arguments, {"loading": LoaderConfig(), "epochs": 1})
    # Weights, averages, two moments, gradients, activations.
    assert predicted_bytes(train_ddpm, given) == 5 * weights + step
    trained = train_ddpm(*arguments, loading=LoaderConfig(), epochs=1)
    # The net that it goes on from stays where it is.
    assert predicted_bytes(train_ddpm, {**given, "resume_from": trained}) == 9 * weights + step
    half = {**given, "training": replace(training, mixed_precision="fp16")}
    assert predicted_bytes(train_ddpm, half) == 5 * weights + step + weights // 2
    # Of a wide net less is kept for the way back than the copies at the end take.
    wide = UNetConfig(block_out_channels=(64, 128), attention_levels=(1,))
    many = weight_bytes(build_unet(wide, SIZE, 0))
    assert predicted_bytes(train_ddpm, {**given, "unet": wide}) == (4 + 3) * many
    pass_bytes = forward_bytes(net.eval(), x, timesteps)
    sampling = SamplingConfig(num_samples=4)
    drawn = bound(sample, (trained, None, SIZE, UNET, SCHEDULE, sampling, CONTEXT), {})
    assert predicted_bytes(sample, drawn) == 4 * weights + pass_bytes


def test_fits_take_as_much_each_and_their_windows() -> None:
    dip = DIPConfig(es_window=50)

    def expected(count: int, dip: DIPConfig) -> int | None:
        images = ImageSet(torch.zeros(count, 3, SIZE, SIZE))
        return predicted_bytes(fit_priors, bound(fit_priors, (images, dip, CONTEXT), {}))

    one, five = expected(1, dip), expected(5, dip)
    assert one is not None and five == 5 * one
    stopping = expected(1, replace(dip, early_stopping="es_wmv"))
    assert stopping == one + 3 * SIZE**2 * (50 * 4 + 4 * 8)


def test_of_a_stage_without_a_net_nothing_is_expected() -> None:
    assert predicted_bytes(score_restoration, {}) is None


@pytest.mark.cuda
def test_a_training_on_cuda_allocates_about_as_much() -> None:
    unet = UNetConfig(block_out_channels=(64, 128, 256), layers_per_block=2)
    images, loading = ImageSet(torch.zeros(16, 3, 64, 64)), LoaderConfig()
    arguments = (images, 64, unet, SCHEDULE, TrainingConfig(), Context(device="cuda"))
    given = bound(train_ddpm, arguments, {"loading": loading, "epochs": 2})
    with Memory(Device("cuda:0")) as memory:
        train_ddpm(*arguments, loading=loading, epochs=2)
    expected, found = predicted_bytes(train_ddpm, given), memory.device_peak_allocated_bytes
    assert expected is not None and found is not None
    assert 2 / 3 < found / expected < 3 / 2
