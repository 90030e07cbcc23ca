from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from torch import Tensor

from dipddpm import diffusion
from dipddpm.config import (
    BetaSchedule,
    NoiseScheduleConfig,
    PredictionType,
    UNetConfig,
    alphas_cumprod,
    derive_seed,
)
from dipddpm.diffusion import (
    build_noise_scheduler,
    build_unet,
    conditioned,
    load_unet,
    training_target,
    x_0_and_eps,
)

KINDS: list[BetaSchedule] = ["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2"]
SCHEDULES = [(total, kind) for total in (2, 10, 500, 1000) for kind in KINDS]
PREDICTIONS: list[PredictionType] = ["epsilon", "v_prediction"]


def zero_snr(total: int, kind: BetaSchedule = "linear") -> NoiseScheduleConfig:
    return NoiseScheduleConfig(
        num_train_timesteps=total,
        beta_schedule=kind,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
    )


@pytest.mark.parametrize(("total", "kind"), SCHEDULES)
def test_alphas_cumprod_are_those_of_diffusers(total: int, kind: BetaSchedule) -> None:
    schedule = NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind)
    ours = np.array(alphas_cumprod(schedule))
    scheduler: Any = DDPMScheduler(num_train_timesteps=total, beta_schedule=kind)
    # Its betas are float32: with their product taken in float64 only their own rounding is left.
    # A beta is rounded to 6e-8 of itself; near beta = 0.999 that is a thousand times as much of
    # 1 - beta. The root of scaled_linear, the sigmoid and the sums after them are rounded too, and
    # a difference of two roots that are rounded to 7e-9 is squared.
    betas = scheduler.betas.double().numpy()
    theirs = np.cumprod(1 - betas)
    rounding = np.cumsum((2.0**-24 * betas + 2.0**-30) / (1 - betas)) + 1e-12
    assert (np.abs(ours / theirs - 1) <= 4 * rounding).all()
    # and its own float32 product is rounded once more at each step
    own = scheduler.alphas_cumprod.double().numpy()
    assert (np.abs(ours / own - 1) <= 4 * rounding + 2.0**-23 * np.arange(1, total + 1)).all()
    built: Any = build_noise_scheduler(schedule)
    assert torch.equal(built.alphas_cumprod, scheduler.alphas_cumprod)


@pytest.mark.parametrize(("total", "kind"), SCHEDULES)
def test_zero_terminal_snr_is_that_of_diffusers(total: int, kind: BetaSchedule) -> None:
    plain = torch.tensor(
        alphas_cumprod(NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind)),
        dtype=torch.float64,
    )
    ours = torch.tensor(alphas_cumprod(zero_snr(total, kind)), dtype=torch.float64)
    # its function in float64, on our betas
    betas = 1 - plain / torch.cat((torch.ones(1), plain[:-1]))
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert ours[-1] == 0
    assert ours[0] == pytest.approx(plain[0].item(), rel=1e-14)
    assert (ours.diff() < 0).all()
    # what training uses: all of it in float32
    built: Any = build_noise_scheduler(zero_snr(total, kind))
    assert built.alphas_cumprod[-1] == 0
    assert (ours.sqrt() - built.alphas_cumprod.double().sqrt()).abs().max() < 3e-5


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


@pytest.mark.parametrize("in_channels", [3, 6])
@pytest.mark.parametrize("levels", [(), (0, 1)])
def test_a_loaded_net_is_the_net_of_its_weights(in_channels: int, levels: tuple[int, ...]) -> None:
    unet = UNetConfig(block_out_channels=(8, 16), attention_levels=levels, norm_num_groups=4)
    nets = [build_unet(unet, 8, seed, in_channels=in_channels) for seed in (0, 1)]
    before = torch.get_rng_state()
    loaded = [load_unet(unet, 8, net.state_dict(), in_channels=in_channels) for net in nets]
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(2, in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    for net, other in zip(nets, loaded, strict=True):
        assert torch.equal(net(x, 3).sample, other(x, 3).sample)
        # None is left without a value, and none is of the net that was loaded before.
        assert not any(tensor.is_meta for tensor in (*other.parameters(), *other.buffers()))
        # The gradients of one are no business of the other.
        other(x, 3).sample.sum().backward()
        assert all(weight.grad is None for weight in net.parameters())
    for weight, own in zip(loaded[0].parameters(), loaded[1].parameters(), strict=True):
        assert weight is not own and weight.requires_grad


def test_a_loaded_net_draws_and_copies_no_weights(
    tiny_unet: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def noted(**settings: Any) -> Any:
        built.append(torch.empty(0).device.type)
        return UNet2DModel(**settings)

    weights = build_unet(tiny_unet, 8, 0).state_dict()
    monkeypatch.setattr(diffusion, "UNet2DModel", noted)
    load_unet(tiny_unet, 24, weights)
    load_unet(tiny_unet, 24, weights)
    assert built == ["meta"]
    loaded = load_unet(tiny_unet, 8, weights)
    for name, weight in loaded.state_dict().items():
        assert weight.data_ptr() == weights[name].data_ptr(), name
    # In its own mode, and on its own device.
    loaded.eval().requires_grad_(False).to(torch.float64)
    again = load_unet(tiny_unet, 8, weights)
    assert again.training and all(module.training for module in again.modules())
    assert all(weight.dtype == torch.float32 for weight in (*again.parameters(), *weights.values()))
    assert all(weight.requires_grad for weight in again.parameters())


def test_the_weights_of_another_net_are_refused(tiny_unet: UNetConfig) -> None:
    weights = build_unet(tiny_unet, 8, 0).state_dict()
    with pytest.raises(RuntimeError, match=r"conv_in\.weight"):
        load_unet(tiny_unet, 8, weights, in_channels=6)
    with pytest.raises(RuntimeError, match=r"[Mm]issing"):
        load_unet(tiny_unet, 8, {})


@pytest.mark.cuda
def test_building_a_net_leaves_the_generator_of_cuda_alone(tiny_unet: UNetConfig) -> None:
    before = torch.cuda.get_rng_state()
    build_unet(tiny_unet, 16, 0)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_the_target_is_that_of_diffusers(prediction_type: PredictionType) -> None:
    schedule = NoiseScheduleConfig(prediction_type=prediction_type)
    scheduler: Any = build_noise_scheduler(schedule)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    clean, noise = images_and_noise()
    timesteps = torch.tensor([0, 3, 250, 700, 999])
    abar_t = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    got = training_target(prediction_type, clean, noise, abar_t)
    wanted = noise
    if prediction_type == "v_prediction":
        wanted = scheduler.get_velocity(clean, noise, timesteps)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("t", [0, 400, 999])
def test_a_prediction_is_read_as_diffusers_reads_it(
    prediction_type: PredictionType, t: int
) -> None:
    schedule = NoiseScheduleConfig(prediction_type=prediction_type)
    x_t, prediction = images_and_noise()
    for kind in (DDPMScheduler, DDIMScheduler):
        scheduler: Any = kind(prediction_type=prediction_type, clip_sample=False)
        scheduler.alphas_cumprod = torch.tensor(alphas_cumprod(schedule), dtype=torch.float64)
        scheduler.set_timesteps(1000)
        wanted = scheduler.step(prediction, t, x_t).pred_original_sample
        abar_t = alphas_cumprod(schedule)[t]
        x_0, eps = x_0_and_eps(prediction, x_t, abar_t, prediction_type)
        assert torch.allclose(x_0, wanted, rtol=1e-12, atol=1e-12)
        assert torch.allclose(abar_t**0.5 * x_0 + (1 - abar_t) ** 0.5 * eps, x_t, atol=1e-12)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_perfect_prediction_gives_image_and_noise_back(prediction_type: PredictionType) -> None:
    clean, noise = images_and_noise()
    # v says both also at pure noise and at none; eps nothing of x_0 where there is no x_0
    first = 0.0 if prediction_type == "v_prediction" else 1e-4
    abar_t = torch.linspace(first, 1, 5, dtype=torch.float64).view(-1, 1, 1, 1)
    x_t = abar_t.sqrt() * clean + (1 - abar_t).sqrt() * noise
    target = training_target(prediction_type, clean, noise, abar_t)
    x_0, eps = x_0_and_eps(target, x_t, abar_t, prediction_type)
    assert torch.allclose(x_0, clean, rtol=0, atol=1e-12)
    assert torch.allclose(eps, noise, rtol=0, atol=1e-12)


def test_a_condition_is_three_more_channels(tiny_unet: UNetConfig) -> None:
    x_t, condition = (images.float() for images in images_and_noise())
    assert conditioned(x_t, None) is x_t
    both = conditioned(x_t, condition)
    assert torch.equal(both[:, :3], x_t) and torch.equal(both[:, 3:], condition)
    model: Any = build_unet(tiny_unet, 8, 0, in_channels=6)
    assert model(both, 3).sample.shape == x_t.shape


def images_and_noise() -> tuple[Tensor, Tensor]:
    """Five of each, float64."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 3, 8, 8, generator=generator, dtype=torch.float64)
    return clean.clamp(-1, 1), noise
