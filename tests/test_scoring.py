from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dipddpm.config import (
    LOG_SNR_LEVELS,
    BetaSchedule,
    Context,
    NoiseScheduleConfig,
    UNetConfig,
    alphas_cumprod,
    nearest_timestep,
)
from dipddpm.diffusion import build_unet
from dipddpm.images import ImageSet, prepare, take
from dipddpm.sampling import Samples
from dipddpm.scoring import score_anchors, score_generation, score_net, score_restoration
from dipddpm.sources import ImageSource
from dipddpm.training import TrainedNet
from tests.reference import peak_signal_noise_ratio, skimage_ssim, uniform


def test_anchors_in_closed_form(objects: ImageSource) -> None:
    references = prepare(objects.train[:16], 16)
    held_out = prepare(objects.held_out[:5], 16)
    values = score_anchors(references, held_out, Context()).values
    x = references.pixels.double()

    def db(level: Tensor | float) -> float:
        """Of one image against each reference, the mean of the 16 values in dB."""
        return float((10 * torch.log10(4 / (x - level).square().mean(dim=(1, 2, 3)))).mean())

    colour = x.mean(dim=(0, 2, 3)).view(3, 1, 1)
    levels: dict[str, Tensor | float]
    levels = {"grey": 0.0, "white": 1.0, "black": -1.0, "mean_colour": colour}
    for name, level in levels.items():
        assert values[f"anchor_{name}_psnr"] == pytest.approx(db(level), abs=1e-5), name
    assert values["anchor_mean_image_psnr"] == pytest.approx(db(x.mean(0)), abs=1e-5)
    held_out_db = [db(image) for image in held_out.pixels.double()]
    assert values["anchor_held_out_real_psnr"] == pytest.approx(np.mean(held_out_db), abs=1e-9)
    # The order that makes the score worthless as a measure of quality: no sample at all beats
    # real images.
    assert values["anchor_mean_image_psnr"] > values["anchor_mean_colour_psnr"]
    assert values["anchor_white_psnr"] > values["anchor_held_out_real_psnr"]
    assert values["anchor_held_out_real_psnr"] > values["anchor_noise_psnr"]
    grey = [skimage_ssim(torch.zeros(3, 16, 16), image) for image in references.pixels]
    assert values["anchor_grey_ssim"] == pytest.approx(np.mean(grey), abs=1e-12)
    assert len(values) == 14


@pytest.mark.parametrize("total", [50, 500, 1000])
@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("log_snr", [*LOG_SNR_LEVELS, -100.0, 100.0, 0.123])
def test_nearest_timestep_by_brute_force(total: int, kind: BetaSchedule, log_snr: float) -> None:
    schedule = NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind)
    abar = np.array(alphas_cumprod(schedule))
    distance = np.abs(np.log(abar) - np.log1p(-abar) - log_snr)
    assert distance[nearest_timestep(log_snr, schedule)] == pytest.approx(distance.min(), abs=1e-9)


@pytest.fixture(scope="module")
def untrained(tiny_unet: UNetConfig) -> TrainedNet:
    """Weights of one seed, an average of another: a mix-up shows. Three epochs of two steps."""
    weights, ema = (dict(build_unet(tiny_unet, 16, seed).state_dict()) for seed in (1, 2))
    return TrainedNet(3, weights, ema, {}, torch.tensor([9.0, 8, 7, 6, 2, 1]))


def net_inputs(
    trained: TrainedNet, images: ImageSet, unet: UNetConfig, schedule: NoiseScheduleConfig
) -> list[tuple[Tensor, int]]:
    """(x_t, t) of each level of `score_net`, as the net was given them."""
    seen: dict[int, list[Tensor]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, UNet2DModel):
            seen.setdefault(int(args[1]), []).append(args[0].double())

    hook = register_module_forward_pre_hook(keep)
    try:
        score_net(trained, images, 16, unet, schedule, Context(seed=5))
    finally:
        hook.remove()
    return [(torch.cat(batches), t) for t, batches in seen.items()]


def test_the_held_out_loss_is_a_plain_loop(
    objects: ImageSource,
    tiny_unet: UNetConfig,
    untrained: TrainedNet,
) -> None:
    held_out = prepare(objects.held_out[:18], 16)  # more than one batch of 16
    schedule = NoiseScheduleConfig()
    scores = score_net(untrained, held_out, 16, tiny_unet, schedule, Context(seed=5))
    model = build_unet(tiny_unet, 16, 2).eval()
    abar = alphas_cumprod(schedule)
    eps_losses = []
    inputs = net_inputs(untrained, held_out, tiny_unet, schedule)
    for level, (noisy, t) in zip(LOG_SNR_LEVELS, inputs, strict=True):
        assert t == nearest_timestep(level, schedule)
        a, b = math.sqrt(abar[t]), math.sqrt(1 - abar[t])
        eps_errors, x0_errors = [], []
        for x_0, x_t in zip(held_out.pixels.double(), noisy, strict=True):
            noise = (x_t - a * x_0) / b
            with torch.no_grad():
                eps = model(x_t[None].float(), t).sample[0].double()
            eps_errors.append((eps - noise).square().mean().item())
            x0_errors.append(((x_t - b * eps) / a - x_0).square().mean().item())
        # Convolutions in batches of 16 round as those of one image to 1e-6 or so.
        got = scores.values
        assert got[f"eps_loss_at_log_snr_{level:g}"] == pytest.approx(np.mean(eps_errors), rel=1e-5)
        assert got[f"x0_loss_at_log_snr_{level:g}"] == pytest.approx(np.mean(x0_errors), rel=1e-5)
        if level != -6:  # 500 linear steps do not reach it
            eps_losses.append(eps_errors)
    per_image = np.mean(eps_losses, axis=0)
    assert np.allclose(scores.per_image["eps_loss"].numpy(), per_image, rtol=1e-5)
    assert scores.values["eps_loss"] == pytest.approx(per_image.mean(), rel=1e-5)
    assert scores.values["train_loss_last_epoch"] == 1.5
    assert len(scores.values) == 12


def test_a_level_that_is_not_reached_has_no_score(
    objects: ImageSource, tiny_unet: UNetConfig, untrained: TrainedNet
) -> None:
    held_out = prepare(objects.held_out[:4], 16)

    def scores(total: int) -> dict[str, float]:
        schedule = NoiseScheduleConfig(num_train_timesteps=total)
        return score_net(untrained, held_out, 16, tiny_unet, schedule, Context()).values

    assert set(scores(1000)) - set(scores(500)) == {
        "eps_loss_at_log_snr_-6",
        "x0_loss_at_log_snr_-6",
    }
    # 50 linear steps miss -3 and 0 too: their mean is read elsewhere, of which the config warns.
    few = scores(50)
    assert {name for name in few if name.startswith("eps_loss_at")} == {
        "eps_loss_at_log_snr_3",
        "eps_loss_at_log_snr_6",
    }
    assert few["eps_loss"] > 0


def test_schedules_compare_on_the_same_noise(
    objects: ImageSource, tiny_unet: UNetConfig, untrained: TrainedNet
) -> None:
    held_out = prepare(objects.held_out[:8], 16)
    noises = []
    for total, kind in ((1000, "linear"), (500, "linear"), (500, "squaredcos_cap_v2")):
        schedule = NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind)  # type: ignore[arg-type]
        abar = alphas_cumprod(schedule)
        noises.append(
            torch.stack(
                [
                    (x - math.sqrt(abar[t]) * held_out.pixels) / math.sqrt(1 - abar[t])
                    for x, t in net_inputs(untrained, held_out, tiny_unet, schedule)
                ]
            )
        )
    # x_t is float32, and at a log-SNR of 6 its noise has a share of 0.05.
    assert (noises[0] - noises[1]).abs().max() < 1e-5
    assert (noises[0] - noises[2]).abs().max() < 1e-5
    # Five levels of 6,144 draws each: standard errors of 0.013 and 0.009; and no level repeats one.
    assert noises[0].mean(dim=(1, 2, 3, 4)).abs().max() < 0.065
    assert (noises[0].std(dim=(1, 2, 3, 4)) - 1).abs().max() < 0.045
    assert torch.corrcoef(noises[0].flatten(1)).triu(1).abs().max() < 0.065


@pytest.mark.parametrize("size", [16, 14])
def test_the_held_out_loss_of_an_image_does_not_depend_on_the_others(
    size: int,
    objects: ImageSource,
    tiny_unet: UNetConfig,
    tiny_schedule: NoiseScheduleConfig,
    untrained: TrainedNet,
) -> None:
    many = prepare(objects.held_out[:7], size)
    more, fewer = (
        score_net(untrained, images, size, tiny_unet, tiny_schedule, Context()).per_image[
            "eps_loss"
        ]
        for images in (many, take(many, 0, 3))
    )
    assert torch.allclose(more[:3], fewer, rtol=1e-6)


def test_the_scores_of_a_generation_are_means_over_all_pairs(objects16: ImageSet) -> None:
    references = take(objects16, 0, 4)
    samples = Samples(uniform(3, 3, 16, 16))
    scores = score_generation(samples, references)
    table = [[skimage_ssim(x, y) for y in references.pixels] for x in samples.images]
    assert scores.values["all_pairs_ssim"] == pytest.approx(np.mean(table), abs=1e-12)
    values = [
        peak_signal_noise_ratio(y.double().numpy(), x.double().numpy(), data_range=2)
        for x in samples.images
        for y in references.pixels
    ]
    assert scores.values["all_pairs_psnr"] == pytest.approx(np.mean(values), abs=1e-9)
    assert scores.per_image["lag1_autocorrelation"].shape == (3,)


def test_the_scores_of_a_restoration_are_of_each_image_and_its_own_original(
    objects16: ImageSet,
) -> None:
    originals = take(objects16, 0, 5)
    degraded = ImageSet(originals.pixels + 0.3 * uniform(5, 3, 16, 16))
    samples = Samples((originals.pixels[:3] + 0.1 * uniform(3, 3, 16, 16, seed=1)).clamp(-1, 1))
    scores = score_restoration(samples, originals, degraded)
    for i in range(3):
        own = originals.pixels[i].double().numpy()
        restored, input_ = samples.images[i].double().numpy(), degraded.pixels[i].double().numpy()
        assert scores.per_image["paired_psnr"][i].item() == pytest.approx(
            peak_signal_noise_ratio(own, restored, data_range=2), abs=1e-9
        )
        assert scores.per_image["degraded_psnr"][i].item() == pytest.approx(
            peak_signal_noise_ratio(own, input_.clip(-1, 1), data_range=2), abs=1e-9
        )
        assert scores.per_image["paired_ssim"][i].item() == pytest.approx(
            skimage_ssim(samples.images[i], originals.pixels[i]), abs=1e-12
        )
    for name, values in scores.per_image.items():
        assert scores.values[name] == pytest.approx(values.mean().item(), abs=1e-12)
        assert len(values) == 3
