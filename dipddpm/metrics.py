"""Scores, as pure functions, and the stages that take them.

Images are (N, 3, H, W) in [-1, 1] throughout, so the range of every PSNR and SSIM is 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dipddpm.config import (
    COMMON_LOG_SNR_LEVELS,
    LOG_SNR_LEVELS,
    Context,
    NoiseScheduleConfig,
    UNetConfig,
    alphas_cumprod,
    derive_seed,
    nearest_timestep,
    reaches,
)
from dipddpm.diffusion import build_unet
from dipddpm.images import ImageSet, gaussian_blur, seeded_noise
from dipddpm.sampling import Samples
from dipddpm.training import TrainedNet

DATA_RANGE = 2.0


@dataclass(frozen=True)
class Scores:
    """values: one number a score; per_image: (N,) float64, where a score has one an image."""

    values: dict[str, float]
    per_image: dict[str, Tensor]


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB, pair by pair: (N,) float64, inf for equal images.

    Raises ValueError if a shape differs or a reference leaves [-1, 1].
    """
    _check(images, references)
    error = (images.double() - references.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(DATA_RANGE**2 / error)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), pair by pair: (N,) float64.

    The paper's Gaussian window (11 x 11, sigma 1.5) and population covariances, averaged over the
    channels and over all pixels whose window lies inside the image; scikit-image gives the same
    with gaussian_weights=True, use_sample_covariance=False, data_range=2.
    Raises ValueError if a shape differs, a reference leaves [-1, 1], or a side is below 11.
    """
    _check(images, references)
    radius = 5
    if min(images.shape[-2:]) < 2 * radius + 1:
        raise ValueError(f"ssim needs sides of at least 11, got {tuple(images.shape[-2:])}")

    def local_mean(x: Tensor) -> Tensor:
        # sigma 1.5 cut off at 3.5 sigma is the window of radius 5.
        return gaussian_blur(x, 1.5, truncate=3.5)[..., radius:-radius, radius:-radius]

    x, y = images.double(), references.double()
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x = local_mean(x * x) - mean_x**2
    var_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.mean(dim=(1, 2, 3))


def all_pairs_psnr(images: Tensor, references: Tensor) -> Tensor:
    """PSNR in dB of each image against each reference: (N, M) float64.

    |x - y|^2 = |x|^2 + |y|^2 - 2 x y, as one matrix product; 1,000 x 1,000 in seconds.
    """
    _check_shapes(images[:1], references[:1])
    _check_range(references)
    x, y = images.double().flatten(1), references.double().flatten(1)
    error = (x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T) / x.shape[1]
    # Equal images may come out a rounding error below zero.
    return 10 * torch.log10(DATA_RANGE**2 / error.clamp(min=0))


def all_pairs_ssim(images: Tensor, references: Tensor) -> Tensor:
    """SSIM of each image against each reference: (N, M) float64."""
    _check_shapes(images[:1], references[:1])
    return torch.stack([ssim(image.expand_as(references), references) for image in images])


def lag1_autocorrelation(images: Tensor) -> Tensor:
    """Correlation of neighbouring pixels, (N,) float64; 0 for noise, 1 for a flat image."""
    x = images.double()
    x = x - x.mean(dim=(2, 3), keepdim=True)
    products = (x[..., 1:] * x[..., :-1]).mean(dim=(1, 2, 3)) + (
        x[..., 1:, :] * x[..., :-1, :]
    ).mean(dim=(1, 2, 3))
    power = x.square().mean(dim=(1, 2, 3))
    return torch.where(power > 0, products / 2 / power, 1.0)


def score_net(
    trained: TrainedNet,
    held_out: ImageSet,
    image_size: int,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    context: Context,
) -> Scores:
    """The held-out denoising loss of the EMA weights at fixed log-SNR levels.

    The noise of an image depends on the seed, the level and its place alone, so arms and schedules
    compare on the same noise. eps loss: mean (eps_hat - eps)^2; x0 loss: the same error in x_0.
    A level that the schedule does not reach has no score; `eps_loss` is the mean over the levels
    that schedules have in common.
    """
    device = torch.device(context.device)
    model = build_unet(unet, image_size, context.seed).to(device).eval().requires_grad_(False)
    model.load_state_dict(trained.ema_weights)
    abar = alphas_cumprod(schedule)
    clean = held_out.pixels.to(device)
    values, in_mean = {}, []
    for level in LOG_SNR_LEVELS:
        t = nearest_timestep(level, schedule)
        snr = abar[t] / (1 - abar[t])
        noise = seeded_noise(clean.shape, context.seed, "held-out loss", str(level)).to(device)
        noisy = math.sqrt(abar[t]) * clean + math.sqrt(1 - abar[t]) * noise
        with torch.no_grad():
            eps = torch.cat([model(x, t).sample for x in noisy.split(16)])
        loss = (eps - noise).square().mean(dim=(1, 2, 3)).double().cpu()
        if reaches(level, schedule):
            values[f"eps_loss_at_log_snr_{level:g}"] = loss.mean().item()
            # x_0_hat - x_0 = -(eps_hat - eps) / sqrt(SNR)
            values[f"x0_loss_at_log_snr_{level:g}"] = loss.mean().item() / snr
        if level in COMMON_LOG_SNR_LEVELS:
            in_mean.append(loss)
    mean_loss = torch.stack(in_mean).mean(0)
    values["eps_loss"] = mean_loss.mean().item()
    last_epoch = trained.losses[-(trained.num_steps // trained.epochs) :]
    values["train_loss_last_epoch"] = last_epoch.mean().item()
    return Scores(values, {"eps_loss": mean_loss})


def score_generation(samples: Samples, references: ImageSet) -> Scores:
    """The published scores: the mean PSNR and SSIM over all pairs of samples and references.

    The mean image of the references is their optimum, so they are no measure of quality; read them
    beside `score_anchors`.
    """
    autocorrelation = lag1_autocorrelation(samples.images)
    return Scores(
        {
            "all_pairs_psnr": all_pairs_psnr(samples.images, references.pixels).mean().item(),
            "all_pairs_ssim": all_pairs_ssim(samples.images, references.pixels).mean().item(),
            "lag1_autocorrelation": autocorrelation.mean().item(),
        },
        {"lag1_autocorrelation": autocorrelation},
    )


def score_restoration(samples: Samples, originals: ImageSet, degraded: ImageSet) -> Scores:
    """PSNR and SSIM of each restored image against its own original, and the degraded image's."""
    count = len(samples.images)
    original = originals.pixels[:count]
    paired = {
        "paired_psnr": psnr(samples.images, original),
        "paired_ssim": ssim(samples.images, original),
        "degraded_psnr": psnr(degraded.pixels[:count].clamp(-1, 1), original),
    }
    return Scores({name: values.mean().item() for name, values in paired.items()}, paired)


def score_anchors(references: ImageSet, held_out: ImageSet, context: Context) -> Scores:
    """What the published all-pairs scores give to things that are no samples at all."""
    pixels = references.pixels
    shape = pixels.shape[1:]
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "anchors"))
    anchors = {
        "held_out_real": held_out.pixels,
        "mean_image": pixels.mean(0, keepdim=True),
        "mean_colour": pixels.mean(dim=(0, 2, 3)).view(1, 3, 1, 1).expand(1, *shape),
        "grey": torch.zeros(1, *shape),
        "white": torch.ones(1, *shape),
        "black": -torch.ones(1, *shape),
        "noise": torch.randn(len(pixels), *shape, generator=generator).clamp(-1, 1),
    }
    values = {}
    for name, images in anchors.items():
        values[f"anchor_{name}_psnr"] = all_pairs_psnr(images, pixels).mean().item()
        values[f"anchor_{name}_ssim"] = all_pairs_ssim(images, pixels).mean().item()
    return Scores(values, {})


def _check(images: Tensor, references: Tensor) -> None:
    _check_shapes(images, references)
    _check_range(references)


def _check_shapes(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.dim() != 4:
        raise ValueError(
            f"images and references must be alike (N, 3, H, W), got {tuple(images.shape)} "
            f"and {tuple(references.shape)}"
        )


def _check_range(references: Tensor) -> None:
    low, high = references.amin().item(), references.amax().item()
    if not (low >= -1 and high <= 1):  # refuses NaN too
        raise ValueError(f"references must be in [-1, 1], got [{low:.3g}, {high:.3g}]")
