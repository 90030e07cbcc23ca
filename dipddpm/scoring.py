"""The stages that score: a trained net, its samples, and what is no sample at all."""

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
from dipddpm.images import ImageSet, seeded_noise
from dipddpm.metrics import all_pairs_psnr, all_pairs_ssim, lag1_autocorrelation, psnr, ssim
from dipddpm.sampling import Samples
from dipddpm.training import TrainedNet


@dataclass(frozen=True)
class Scores:
    """values: one number a score; per_image: (N,) float64, where a score has one an image."""

    values: dict[str, float]
    per_image: dict[str, Tensor]


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
