"""The reverse process, from noise or from a start image (SDEdit, Meng et al. 2021).

Both samplers visit any descending timesteps and work in the space of the images; with the timesteps
of diffusers they give what its pipelines give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dipddpm.config import (
    Context,
    NoiseScheduleConfig,
    SamplingConfig,
    TimestepSpacing,
    UNetConfig,
    Watch,
    alphas_cumprod,
    derive_seed,
    start_point,
    unwatched,
)
from dipddpm.diffusion import build_unet
from dipddpm.images import ImageSet, seeded_noise
from dipddpm.training import TrainedNet


class Denoiser(Protocol):
    """eps(x_t, t): (N, 3, H, W) and () int64 on one device -> (N, 3, H, W)."""

    def __call__(self, x: Tensor, timestep: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Samples:
    """images: (N, 3, H, W) float32 in [-1, 1], on the CPU."""

    images: Tensor


def sample(
    trained: TrainedNet,
    start: ImageSet | None,
    image_size: int,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    sampling: SamplingConfig,
    context: Context,
) -> Samples:
    """num_samples images from the EMA weights, in one batch.

    start: the start images S, of which the first num_samples are used; None starts from noise.
    """
    device = torch.device(context.device)
    model = build_unet(unet, image_size, context.seed).to(device).eval().requires_grad_(False)
    model.load_state_dict(trained.ema_weights)

    point = start_point(sampling, schedule)
    noise = start_noise(sampling.num_samples, image_size, context.seed)
    x = noise if start is None else point.a * start.pixels[: sampling.num_samples] + point.b * noise
    generator = torch.Generator(device).manual_seed(derive_seed(context.seed, "ancestral"))
    with torch.inference_mode():
        images = SAMPLERS[sampling.sampler](
            lambda x, t: model(x, t).sample,
            x.to(device),
            spaced_timesteps(point.t0, sampling.num_inference_steps, sampling.timestep_spacing),
            alphas_cumprod(schedule),
            generator=generator,
            watch=context.watch,
        )
    # Out of inference mode, so that the result is a tensor like any other.
    return Samples(images.float().cpu().clone())


def start_noise(num_samples: int, image_size: int, seed: int) -> Tensor:
    """x_T, (N, 3, image_size, image_size)."""
    return seeded_noise((num_samples, 3, image_size, image_size), seed, "sample")


def spaced_timesteps(
    t0: int, num_inference_steps: int, spacing: TimestepSpacing = "trailing"
) -> list[int]:
    """num_inference_steps timesteps, descending, spread over the t0 lowest (0 .. t0 - 1).

    "leading" begins one stride below the top and ends at 0, "trailing" begins at the top
    (Lin et al. 2023, table 2). With t0 = T these are the timesteps of diffusers, whose float64 tips
    ties and now and then yields one more.
    """
    n = num_inference_steps
    if spacing == "leading":
        return [i * (t0 // n) for i in reversed(range(n))]
    return [round(t0 - i * t0 / n) - 1 for i in range(n)]


def sample_ddpm(
    eps_model: Denoiser,
    x: Tensor,
    timesteps: Sequence[int],
    abar: Sequence[float],
    *,
    generator: torch.Generator,
    watch: Watch = unwatched,
) -> Tensor:
    """Ancestral sampling, Ho et al. 2020, algorithm 2, with the small variance.

    x: (N, 3, H, W) at timesteps[0]; abar: alphas_cumprod, T values. Returns images in [-1, 1].
    """
    on_device = torch.tensor(timesteps, device=x.device)
    for i in watch(range(len(timesteps))):
        abar_t, abar_s = _levels(timesteps, i, abar)
        alpha_t = abar_t / abar_s
        x_0 = _predicted_x_0(x, eps_model(x, on_device[i]), abar_t)
        # The mean of q(x_s | x_t, x_0), eq. 7.
        x = (
            math.sqrt(abar_s) * (1 - alpha_t) / (1 - abar_t) * x_0
            + math.sqrt(alpha_t) * (1 - abar_s) / (1 - abar_t) * x
        )
        if i + 1 < len(timesteps):
            variance = max((1 - abar_s) / (1 - abar_t) * (1 - alpha_t), 1e-20)
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + math.sqrt(variance) * noise
    return x.clamp(-1, 1)


def sample_ddim(
    eps_model: Denoiser,
    x: Tensor,
    timesteps: Sequence[int],
    abar: Sequence[float],
    *,
    generator: torch.Generator,
    watch: Watch = unwatched,
) -> Tensor:
    """Song et al. 2020, eq. 12, with eta = 0: no noise is drawn.

    x: (N, 3, H, W) at timesteps[0]; abar: alphas_cumprod, T values. Returns images in [-1, 1].
    """
    del generator
    on_device = torch.tensor(timesteps, device=x.device)
    for i in watch(range(len(timesteps))):
        abar_t, abar_s = _levels(timesteps, i, abar)
        eps = eps_model(x, on_device[i])
        x_0 = _predicted_x_0(x, eps, abar_t)
        x = math.sqrt(abar_s) * x_0 + math.sqrt(1 - abar_s) * eps
    return x.clamp(-1, 1)


SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim}


def _levels(timesteps: Sequence[int], i: int, abar: Sequence[float]) -> tuple[float, float]:
    """abar at the i-th timestep and at the one it leads to; clean images have abar 1."""
    return abar[timesteps[i]], abar[timesteps[i + 1]] if i + 1 < len(timesteps) else 1.0


def _predicted_x_0(x: Tensor, eps: Tensor, abar_t: float) -> Tensor:
    # x_0 from eps, Ho et al. 2020, eq. 15; clipped, as diffusers does by default.
    return ((x - math.sqrt(1 - abar_t) * eps) / math.sqrt(abar_t)).clamp(-1, 1)
