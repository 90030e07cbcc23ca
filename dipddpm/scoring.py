"""The stages that score: priors, a trained net, its samples, and what is no sample at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dipddpm import metrics
from dipddpm.config import (
    COMMON_LOG_SNR_LEVELS,
    LOG_SNR_LEVELS,
    Context,
    NoiseScheduleConfig,
    ScoringConfig,
    UNetConfig,
    derive_seed,
    nearest_timestep,
    reaches,
)
from dipddpm.degradation import seeded_noise
from dipddpm.diffusion import conditioned, load_unet, x_0_and_eps
from dipddpm.dip import Priors, prior_scores
from dipddpm.features import Features
from dipddpm.images import ImageSet
from dipddpm.sampling import Samples
from dipddpm.training import TrainedNet

# Held-out images that the net is asked for at once.
SCORED_TOGETHER = 16


@dataclass(frozen=True)
class Scores:
    """values: one number a score; per_image: (N,) float64, where a score has one an image.

    warnings: what keeps a score from meaning what one might think
    """

    values: dict[str, float]
    per_image: dict[str, Tensor]
    warnings: tuple[str, ...] = ()


def score_priors(*fits: Priors, of: str) -> Scores:
    """PSNR to the clean images at the peak, at the criterion's stop and at the last iterate, and
    the iterations that the fits took. The peak is told by no criterion: it needs the clean images.

    of: what the priors are of, the first word of each score
    """
    return _scores({f"{of}_{name}": values for name, values in prior_scores(*fits).items()})


def score_net(
    trained: TrainedNet,
    held_out: ImageSet | None,
    image_size: int,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    context: Context,
    *,
    condition: ImageSet | None = None,
) -> Scores:
    """The held-out denoising loss of the averaged weights at fixed log-SNR levels.

    condition: of the held-out images, where the net was trained with one
    The noise of an image depends on the seed, the level and its place alone, and x_t has exactly
    the level asked for: arms and schedules compare on the same x_t, and only the timestep that the
    net is told, the nearest one, is of its schedule. eps loss: mean (eps_hat - eps)^2; x0 loss: the
    same error in x_0. A level that the schedule does not reach has no score; `eps_loss` is the mean
    over the levels that schedules have in common. Without held-out images there is the training
    loss alone.
    """
    last_epoch = trained.losses[-(trained.num_steps // trained.epochs) :]
    values = {"train_loss_last_epoch": last_epoch.mean().item()}
    if held_out is None:
        return Scores(values, {})
    device = torch.device(context.device)
    in_channels = 3 if condition is None else 6
    model = load_unet(unet, image_size, trained.ema_weights, in_channels=in_channels)
    model = model.to(device).eval().requires_grad_(False)
    clean = held_out.pixels.to(device)
    given = None if condition is None else condition.pixels.to(device)
    in_mean = []
    for level in LOG_SNR_LEVELS:
        t, abar = nearest_timestep(level, schedule), 1 / (1 + math.exp(-level))
        noise = seeded_noise(clean.shape, context.seed, "held-out loss", str(level)).to(device)
        noisy = math.sqrt(abar) * clean + math.sqrt(1 - abar) * noise
        with torch.no_grad():
            predicted = torch.cat(
                [model(x, t).sample for x in conditioned(noisy, given).split(SCORED_TOGETHER)]
            )
        _, eps = x_0_and_eps(predicted, noisy, abar, schedule.prediction_type)
        loss = (eps - noise).square().mean(dim=(1, 2, 3)).double().cpu()
        if reaches(level, schedule):
            values[f"eps_loss_at_log_snr_{level:g}"] = loss.mean().item()
            # x_0_hat - x_0 = -(eps_hat - eps) / sqrt(SNR)
            values[f"x0_loss_at_log_snr_{level:g}"] = loss.mean().item() * math.exp(-level)
        if level in COMMON_LOG_SNR_LEVELS:
            in_mean.append(loss)
    mean_loss = torch.stack(in_mean).mean(0)
    values["eps_loss"] = mean_loss.mean().item()
    return Scores(values, {"eps_loss": mean_loss})


def score_generation(samples: Samples, references: ImageSet, scoring: ScoringConfig) -> Scores:
    """The published scores: the mean PSNR and SSIM over all pairs of samples and references.

    The mean image of the references is their optimum, so they are no measure of quality; read them
    beside `score_anchors`.
    """
    return _scores(*metrics.score_generated(samples.images, references.pixels, scoring))


def score_features(samples: Features, training: Features, held_out: Features) -> Scores:
    """Scores of samples as a set, against as many training and held-out images."""
    sets = metrics.FeatureSets(samples.values, training.values, held_out.values)
    return _scores(metrics.score_features(sets))


def score_restoration(samples: Samples, originals: ImageSet, degraded: ImageSet) -> Scores:
    """Each restored image against its own original, and the PSNR of the degraded image."""
    restored = samples.images
    original, noisy = (images.pixels[: len(restored)] for images in (originals, degraded))
    autocorrelation = metrics.lag1_autocorrelation(restored)
    return _scores(
        {
            **{name: score(restored, original) for name, score in metrics.RESTORATION.items()},
            "degraded_psnr": metrics.psnr(noisy.clamp(-1, 1), original),
            "lag1_autocorrelation": autocorrelation,
        },
        metrics.noise_warnings(autocorrelation),
    )


def score_start(start: ImageSet, training: ImageSet) -> Scores:
    """Whether start images are training images: what the net was trained on is no restoration."""
    known = {pixels.numpy().tobytes() for pixels in training.pixels}
    copies = sum(pixels.numpy().tobytes() in known for pixels in start.pixels)
    warning = f"{copies} of {len(start)} start images are images of the training set"
    return Scores({"start_copies": float(copies)}, {}, (warning,) if copies else ())


def score_anchors(
    references: ImageSet, held_out: ImageSet | None, scoring: ScoringConfig, context: Context
) -> Scores:
    """What the published scores give to things that are no samples at all."""
    pixels = references.pixels
    shape = pixels.shape[1:]
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "anchors"))
    anchors = {
        "mean_image": pixels.mean(0, keepdim=True),
        "mean_colour": pixels.mean(dim=(0, 2, 3)).view(1, 3, 1, 1).expand(1, *shape),
        "grey": torch.zeros(1, *shape),
        "white": torch.ones(1, *shape),
        "black": -torch.ones(1, *shape),
        "noise": torch.randn(len(pixels), *shape, generator=generator).clamp(-1, 1),
    }
    if scoring.score_range == "mixed":
        # In a common range copies have no PSNR.
        anchors["copies"] = pixels
    if held_out is not None:
        anchors["held_out_real"] = held_out.pixels
    values = {}
    for name, images in anchors.items():
        for score, published in (
            ("psnr", metrics.published_psnr),
            ("ssim", metrics.published_ssim),
        ):
            values[f"anchor_{name}_{score}"] = published(images, pixels, scoring)
    return _scores(values)


def _scores(found: Mapping[str, Tensor], warnings: Sequence[str] = ()) -> Scores:
    """Of () or (N,) tensors."""
    return Scores(
        {name: values.double().mean().item() for name, values in found.items()},
        {name: values for name, values in found.items() if values.dim()},
        tuple(warnings),
    )
