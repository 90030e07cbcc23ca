from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from skimage import metrics as skimage_metrics
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
from dipddpm.images import ImageSet, gaussian_blur, prepare, take
from dipddpm.metrics import (
    all_pairs_psnr,
    all_pairs_ssim,
    lag1_autocorrelation,
    psnr,
    score_anchors,
    score_generation,
    score_net,
    score_restoration,
    ssim,
)
from dipddpm.sampling import Samples
from dipddpm.sources import ImageSource
from dipddpm.training import TrainedNet

# scikit-image has no types.
peak_signal_noise_ratio: Any = skimage_metrics.peak_signal_noise_ratio
structural_similarity: Any = skimage_metrics.structural_similarity


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def pairs(objects: ImageSource) -> tuple[Tensor, Tensor]:
    """Random, real and nearly equal pairs, 33 x 33 (an odd side, which halves nothing)."""
    real = prepare(objects.train[:8], 33).pixels
    near = (real[:4] + 0.05 * uniform(4, 3, 33, 33)).clamp(-1, 1)
    return (
        torch.cat([uniform(4, 3, 33, 33, seed=1), real[:4], near]),
        torch.cat([uniform(4, 3, 33, 33, seed=2), real[4:], real[:4]]),
    )


def test_psnr_is_that_of_scikit_image(pairs: tuple[Tensor, Tensor]) -> None:
    images, references = pairs
    expected = [
        peak_signal_noise_ratio(reference.double().numpy(), image.double().numpy(), data_range=2)
        for image, reference in zip(*pairs, strict=True)
    ]
    assert psnr(images, references).dtype == torch.float64
    assert np.abs(psnr(images, references).numpy() - expected).max() < 1e-11


def skimage_ssim(image: Tensor, reference: Tensor) -> float:
    return float(
        structural_similarity(
            image.double().numpy(),
            reference.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=2,
            channel_axis=0,
        )
    )


def test_ssim_is_that_of_scikit_image(pairs: tuple[Tensor, Tensor]) -> None:
    expected = [skimage_ssim(image, reference) for image, reference in zip(*pairs, strict=True)]
    assert np.abs(ssim(*pairs).numpy() - expected).max() < 1e-12
    assert min(expected) < 0.1
    assert max(expected) > 0.9


def test_ssim_at_its_smallest_side_and_of_an_oblong_image() -> None:
    for shape in ((1, 3, 11, 11), (1, 1, 12, 40)):
        x, y = uniform(*shape), uniform(*shape, seed=1)
        assert ssim(x, y).item() == pytest.approx(skimage_ssim(x[0], y[0]), abs=1e-12)


def test_a_copy(pairs: tuple[Tensor, Tensor]) -> None:
    images, _ = pairs
    assert psnr(images, images).tolist() == [math.inf] * len(images)
    assert torch.allclose(
        ssim(images, images), torch.ones(len(images), dtype=torch.float64), atol=1e-12
    )


def test_psnr_in_closed_form() -> None:
    flat = torch.zeros(1, 3, 16, 16)
    # The range is 2: an error of 2 everywhere is 0 dB, of 1 6.02 dB, of 0.2 20 dB.
    assert psnr(flat - 1, flat + 1).item() == 0
    assert psnr(flat, flat + 1).item() == pytest.approx(20 * math.log10(2), abs=1e-12)
    assert psnr(flat + 0.2, flat).item() == pytest.approx(20, abs=1e-6)


def test_all_pairs_are_a_double_loop(pairs: tuple[Tensor, Tensor]) -> None:
    images, references = pairs
    images = images[:9]
    expected_psnr = torch.stack(
        [torch.cat([psnr(x[None], y[None]) for y in references]) for x in images]
    )
    expected_ssim = torch.stack(
        [torch.cat([ssim(x[None], y[None]) for y in references]) for x in images]
    )
    assert all_pairs_psnr(images, references).shape == (9, 12)
    got, copies = all_pairs_psnr(images, references), expected_psnr.isinf()
    assert torch.allclose(got[~copies], expected_psnr[~copies], rtol=0, atol=1e-9)
    # Of a copy, |x|^2 + |y|^2 - 2 x y leaves a rounding of float64 in place of 0.
    assert copies.sum() == 4
    assert (got[copies] > 140).all()
    assert torch.allclose(all_pairs_ssim(images, references), expected_ssim, rtol=0, atol=1e-12)


def test_all_pairs_of_a_set_with_itself_peak_on_the_diagonal(objects16: ImageSet) -> None:
    pixels = objects16.pixels
    table = all_pairs_psnr(pixels, pixels)
    assert (table.diagonal() > 140).all()
    assert (table.argmax(dim=1) == torch.arange(10)).all()


def test_the_mean_image_is_the_optimum_in_closed_form(objects: ImageSource) -> None:
    references = prepare(objects.train[:100], 16).pixels.double()
    held_out = prepare(objects.held_out[:100], 16).pixels.double()
    mean = references.mean(0, keepdim=True)
    variance = (references - mean).square().mean().item()

    def mean_error(images: Tensor) -> Tensor:
        """(N,), averaged over the references, from the dB of each pair."""
        return (4 / 10 ** (all_pairs_psnr(images, references) / 10)).mean(dim=1)

    # mean over references of |g - x|^2 = |g - mean|^2 + Var
    images = torch.cat([held_out, mean, torch.zeros_like(mean)])
    expected = (images - mean).square().mean(dim=(1, 2, 3)) + variance
    assert torch.allclose(mean_error(images), expected, rtol=1e-12, atol=0)
    assert mean_error(mean).item() == pytest.approx(variance, rel=1e-12)
    # An unseen image of the same kind has twice the error: 3.0 dB, give or take the draw.
    below = 10 * math.log10(mean_error(held_out).mean().item() / variance)
    assert below == pytest.approx(10 * math.log10(2), abs=0.4)


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


def test_autocorrelation_by_brute_force(objects16: ImageSet) -> None:
    images = torch.cat([objects16.pixels[:3, :, :9, :7], uniform(2, 3, 9, 7)])
    for image, value in zip(images.double().numpy(), lag1_autocorrelation(images), strict=True):
        centred = [channel - channel.mean() for channel in image]
        power = np.mean([channel**2 for channel in centred])
        right = [c[i, j] * c[i, j + 1] for c in centred for i in range(9) for j in range(6)]
        below = [c[i, j] * c[i + 1, j] for c in centred for i in range(8) for j in range(7)]
        assert value.item() == pytest.approx(
            (np.mean(right) + np.mean(below)) / 2 / power, abs=1e-12
        )


def test_autocorrelation_tells_images_from_noise(objects16: ImageSet) -> None:
    noise = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    # The standard error over 98,304 pairs of neighbours is 0.0032.
    assert lag1_autocorrelation(noise).abs().max() < 0.015
    smooth = gaussian_blur(noise, 4.0)[..., 16:-16, 16:-16]  # its edges are mirrored
    # exp(-1 / (4 sigma^2)) for noise blurred with sigma
    assert lag1_autocorrelation(smooth).mean().item() == pytest.approx(math.exp(-1 / 64), abs=0.005)
    for image, value in zip(smooth.double().numpy(), lag1_autocorrelation(smooth), strict=True):
        neighbours = [
            np.corrcoef(a.ravel(), b.ravel())[0, 1]
            for channel in image
            for a, b in ((channel[:, 1:], channel[:, :-1]), (channel[1:], channel[:-1]))
        ]
        assert value.item() == pytest.approx(np.mean(neighbours), abs=0.02)
    assert lag1_autocorrelation(objects16.pixels).min() > 0.3


def test_autocorrelation_of_a_flat_image_is_a_number() -> None:
    # A net that saturates gives flat samples; they are not noise, and a record holds no NaN.
    assert lag1_autocorrelation(torch.ones(1, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize("total", [50, 500, 1000])
@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("log_snr", [*LOG_SNR_LEVELS, -100.0, 100.0, 0.123])
def test_nearest_timestep_by_brute_force(total: int, kind: BetaSchedule, log_snr: float) -> None:
    schedule = NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind)
    abar = np.array(alphas_cumprod(schedule))
    distance = np.abs(np.log(abar) - np.log1p(-abar) - log_snr)
    assert distance[nearest_timestep(log_snr, schedule)] == pytest.approx(distance.min(), abs=1e-9)


@pytest.mark.parametrize("function", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
@pytest.mark.parametrize("level", [-1.1, 1.5, 255.0, math.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_references_outside_the_range_are_refused(
    function: object, level: float, which: int
) -> None:
    assert callable(function)
    references = torch.zeros(2, 3, 16, 16)
    references[which, 0, 3, 3] = level
    with pytest.raises(ValueError, match=r"references must be in \[-1, 1\]"):
        function(torch.zeros(2, 3, 16, 16), references)


@pytest.mark.parametrize("function", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 1, 16, 16), (3, 16, 16)])
def test_other_shapes_are_refused(function: object, shape: tuple[int, ...]) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=r"alike|16, 12"):
        function(torch.zeros(2, 3, 16, 16), torch.zeros(shape))


def test_pairs_need_as_many_references() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\) and \(3, 3, 16, 16\)"):
        psnr(torch.zeros(2, 3, 16, 16), torch.zeros(3, 3, 16, 16))


def test_ssim_needs_its_window() -> None:
    with pytest.raises(ValueError, match=r"at least 11, got \(10, 16\)"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))


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
