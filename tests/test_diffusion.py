from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from dipddpm.config import (
    BetaSchedule,
    NoiseScheduleConfig,
    UNetConfig,
    alphas_cumprod,
    derive_seed,
)
from dipddpm.diffusion import build_noise_scheduler, build_unet

SCHEDULES: list[tuple[int, BetaSchedule]] = [
    (total, kind) for total in (2, 50, 500, 1000) for kind in ("linear", "squaredcos_cap_v2")
]


@pytest.mark.parametrize(("total", "kind"), SCHEDULES)
def test_alphas_cumprod_are_those_of_diffusers(total: int, kind: BetaSchedule) -> None:
    schedule = NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind)
    ours = np.array(alphas_cumprod(schedule))
    scheduler: Any = DDPMScheduler(num_train_timesteps=total, beta_schedule=kind)
    # Its betas are float32: with their product taken in float64 only their own rounding is left.
    # 1 - beta is rounded to 6e-8, T times over; near beta = 0.999 a thousand times that.
    betas = scheduler.betas.double().numpy()
    theirs = np.cumprod(1 - betas)
    rounding = np.cumsum(2.0**-24 * betas / (1 - betas)) + 1e-12
    assert (np.abs(ours / theirs - 1) <= 4 * rounding).all()
    # and its own float32 product is rounded once more at each step
    own = scheduler.alphas_cumprod.double().numpy()
    assert (np.abs(ours / own - 1) <= 4 * rounding + 2.0**-23 * np.arange(1, total + 1)).all()
    built: Any = build_noise_scheduler(schedule)
    assert torch.equal(built.alphas_cumprod, scheduler.alphas_cumprod)


def test_linear_betas_in_closed_form() -> None:
    # log abar_T is the sum of log(1 - beta); betas run evenly from 1e-4 to 0.02.
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = alphas_cumprod(NoiseScheduleConfig())
    assert abar[-1] == pytest.approx(np.exp(np.log1p(-betas).sum()), rel=1e-12)
    assert abar[0] == pytest.approx(1 - 1e-4, rel=1e-14)
    assert all(np.diff(abar) < 0)


def test_add_noise_mixes_image_and_noise() -> None:
    schedule = NoiseScheduleConfig(num_train_timesteps=500)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 3, 8, 8, generator=generator)
    timesteps = torch.tensor([0, 1, 99, 400, 499])
    scheduler: Any = build_noise_scheduler(schedule)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    abar = torch.tensor(alphas_cumprod(schedule), dtype=torch.float64)[timesteps].view(-1, 1, 1, 1)
    expected = abar.sqrt() * clean + (1 - abar).sqrt() * noise
    # 1 - abar_0 = 1e-4 is a difference of float32 numbers near 1: 6e-8 of them is 3e-4 of its root.
    assert (noisy - expected).abs().max() < 2e-5


def test_the_default_net_is_the_stated_one() -> None:
    model = build_unet(UNetConfig(), 32, 0)
    assert sum(p.numel() for p in model.parameters()) == 687_347
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "unet"))
        plain: Any = UNet2DModel(
            sample_size=32,
            block_out_channels=(16, 32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(
        torch.equal(weight, plain.state_dict()[name]) for name, weight in model.state_dict().items()
    )


def test_attention_sits_at_the_levels_named() -> None:
    unet = UNetConfig(block_out_channels=(8, 16, 24), attention_levels=(1,), norm_num_groups=4)
    model: Any = build_unet(unet, 16, 0)
    assert model.config["down_block_types"] == ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")
    assert model.config["up_block_types"] == ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")


def test_the_weights_are_a_function_of_the_seed(tiny_unet: UNetConfig) -> None:
    before = torch.get_rng_state()
    first = build_unet(tiny_unet, 16, 1)
    torch.rand(3)
    again, other = build_unet(tiny_unet, 16, 1), build_unet(tiny_unet, 16, 2)
    torch.set_rng_state(before)
    for weight, same, different in zip(
        first.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(weight, same)
        assert weight.std() == 0 or not torch.equal(
            weight, different
        )  # biases and norms are constant


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_building_a_net_leaves_the_generator_of_cuda_alone(tiny_unet: UNetConfig) -> None:
    before = torch.cuda.get_rng_state()
    build_unet(tiny_unet, 16, 0)
    assert torch.equal(torch.cuda.get_rng_state(), before)
