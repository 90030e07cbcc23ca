"""The reverse process, from noise or from a start image (SDEdit, Meng et al. 2021).

All samplers visit any descending timesteps and clip x_0 to the range of the images; with the
timesteps of diffusers they give what its pipelines and schedulers give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

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
from dipddpm.degradation import seeded_noise
from dipddpm.diffusion import conditioned, load_unet, x_0_and_eps
from dipddpm.images import ImageSet
from dipddpm.levers import Recorded, arrange, dtype_of, in_force, records_steps
from dipddpm.training import TrainedNet


class Denoiser(Protocol):
    """(x_0, eps), as the net sees them in x_t: (N, 3, H, W), at a timestep; x_0 is not clipped."""

    def __call__(self, x: Tensor, timestep: int, /) -> tuple[Tensor, Tensor]: ...


# Of the samples so many are followed on their way, and seen so often.
_PATH_SAMPLES, _PATH_STEPS = 2, 6


@dataclass(frozen=True)
class Samples:
    """images: (N, 3, H, W) float32 in [-1, 1], on the CPU

    samples_per_batch: how many were made at once; None: it was not counted
    path: (K, P, 3, H, W) float32, the first P samples on their way: x_t at `path_timesteps`, (K,)
        int64, of which the first is where they start; None: it was not kept
    """

    images: Tensor
    samples_per_batch: int | None = None
    path: Tensor | None = None
    path_timesteps: Tensor | None = None


def sample(
    trained: TrainedNet,
    start: ImageSet | None,
    image_size: int,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    sampling: SamplingConfig,
    context: Context,
    *,
    condition: ImageSet | None = None,
) -> Samples:
    """num_samples images from the EMA weights.

    start: the start images S, of which the first num_samples are used; None starts from noise.
    condition: what the net is given beside x_t, of which the first num_samples are used.
    """
    device, levers = torch.device(context.device), sampling.levers
    in_channels = 3 if condition is None else 6
    model = load_unet(unet, image_size, trained.ema_weights, in_channels=in_channels)
    dtype = dtype_of(levers, device)
    # As a plain module: diffusers' own `to` warns of a dtype, whatever the net.
    nn.Module.to(model, device, dtype)
    model.eval().requires_grad_(False)
    arrange(model, levers)
    abar = alphas_cumprod(schedule)
    # A timestep made of a number at each step would be copied, and waited for.
    on_device = torch.arange(len(abar), device=device)

    def predict(net_input: Tensor, timestep: Tensor) -> Tensor:
        prediction: Tensor = model(net_input, timestep).sample
        return prediction

    run = Recorded(predict) if records_steps(levers, device) else predict
    layout = torch.channels_last if levers.channels_last else torch.contiguous_format

    point = start_point(sampling, schedule)
    noise = start_noise(sampling.num_samples, image_size, context.seed)
    x_start = (
        noise if start is None else point.a * start.pixels[: sampling.num_samples] + point.b * noise
    ).to(device)
    given = None if condition is None else condition.pixels[: sampling.num_samples].to(device)
    timesteps = spaced_timesteps(point.t0, sampling.num_inference_steps, sampling.timestep_spacing)
    generator = torch.Generator(device).manual_seed(derive_seed(context.seed, "ancestral"))
    path = _Path(timesteps)

    def batch(first: int, last: int) -> Tensor:
        beside = None if given is None else given[first:last]
        path.begin(first)

        def denoiser(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            path.note(x, t)
            net_input = conditioned(x, beside).to(dtype, memory_format=layout)
            prediction = run(net_input, on_device[t]).float()
            return x_0_and_eps(prediction, x, abar[t], schedule.prediction_type)

        return SAMPLERS[sampling.sampler](
            denoiser,
            x_start[first:last],
            timesteps,
            abar,
            generator=generator,
            watch=context.watch,
        )

    with in_force(levers), torch.inference_mode():
        parts = _in_batches(batch, sampling.num_samples, sampling.samples_per_batch)
        images = torch.cat(parts)
        passed = path.whole()
    # Out of inference mode, so that the result is a tensor like any other.
    return Samples(
        images.float().cpu().clone(),
        samples_per_batch=len(parts[0]),
        path=passed.float().cpu().clone(),
        path_timesteps=torch.tensor(path.timesteps),
    )


class _Path:
    """Where the first samples pass, of whatever batches they are.

    timesteps: at which they are noted, from the first to the last
    """

    def __init__(self, timesteps: Sequence[int]) -> None:
        last = len(timesteps) - 1
        places = {round(i * last / (_PATH_STEPS - 1)) for i in range(_PATH_STEPS)}
        self.timesteps = [timesteps[place] for place in sorted(places)]
        self._first = 0
        # By the first sample of a batch: one that memory did not hold is made anew.
        self._noted: dict[int, list[Tensor]] = {}

    def begin(self, first: int) -> None:
        """A batch from that sample on."""
        self._first, self._noted[first] = first, []

    def note(self, x: Tensor, t: int) -> None:
        """x_t of the batch."""
        followed = _PATH_SAMPLES - self._first
        if followed > 0 and t in self.timesteps:
            self._noted[self._first].append(x[:followed].clone())

    def whole(self) -> Tensor:
        """(K, P, 3, H, W)"""
        parts = [torch.stack(noted) for _, noted in sorted(self._noted.items()) if noted]
        return torch.cat(parts, dim=1)


def _in_batches(
    batch: Callable[[int, int], Tensor], num_samples: int, size: int | None
) -> list[Tensor]:
    """The samples from `first` to before `last`, batch after batch.

    size: None for as many as memory holds. Raises torch.OutOfMemoryError if not even one, or not
    as many as asked, can be.
    """
    at_once = num_samples if size is None else size
    parts: list[Tensor] = []
    first = 0
    while first < num_samples:
        try:
            parts.append(batch(first, min(first + at_once, num_samples)))
            first += at_once
        except torch.OutOfMemoryError:
            if size is not None or at_once == 1:
                raise
            at_once = math.ceil(at_once / 2)
    return parts


def as_samples(start: ImageSet) -> Samples:
    """The start images themselves, for no steps of any sampler."""
    return Samples(start.pixels.clamp(-1, 1))


def as_images(samples: Samples) -> ImageSet:
    """Samples, for a stage that takes images."""
    return ImageSet(samples.images)


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
    denoiser: Denoiser,
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
    for i in watch(range(len(timesteps))):
        abar_t, abar_s = _levels(timesteps, i, abar)
        alpha_t = abar_t / abar_s
        x_0, _ = denoiser(x, timesteps[i])
        # The mean of q(x_s | x_t, x_0), eq. 7.
        x = (
            math.sqrt(abar_s) * (1 - alpha_t) / (1 - abar_t) * x_0.clamp(-1, 1)
            + math.sqrt(alpha_t) * (1 - abar_s) / (1 - abar_t) * x
        )
        if i + 1 < len(timesteps):
            variance = max((1 - abar_s) / (1 - abar_t) * (1 - alpha_t), 1e-20)
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + math.sqrt(variance) * noise
    return x.clamp(-1, 1)


def sample_ddim(
    denoiser: Denoiser,
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
    for i in watch(range(len(timesteps))):
        _, abar_s = _levels(timesteps, i, abar)
        x_0, eps = denoiser(x, timesteps[i])
        # eps stays that of the x_0 before clipping.
        x = math.sqrt(abar_s) * x_0.clamp(-1, 1) + math.sqrt(1 - abar_s) * eps
    return x.clamp(-1, 1)


def sample_dpmsolver(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Sequence[int],
    abar: Sequence[float],
    *,
    generator: torch.Generator,
    watch: Watch = unwatched,
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2: no noise is drawn.

    The first step and the last, from and to an infinite log-SNR, are of first order. From pure
    noise (zero terminal SNR) the second is too: its correction is h / h_before = 0.

    x: (N, 3, H, W) at timesteps[0]; abar: alphas_cumprod, T values. Returns images in [-1, 1].
    """
    del generator
    x_0_before, h_before = None, math.inf
    for i in watch(range(len(timesteps))):
        abar_t, abar_s = _levels(timesteps, i, abar)
        h = _half_log_snr(abar_s) - _half_log_snr(abar_t)
        x_0 = denoiser(x, timesteps[i])[0].clamp(-1, 1)
        # D, the straight line through the last two x_0, at the middle of the step
        D = x_0
        if x_0_before is not None and h < math.inf:
            D = x_0 + h / (2 * h_before) * (x_0 - x_0_before)
        x = math.sqrt((1 - abar_s) / (1 - abar_t)) * x - math.sqrt(abar_s) * math.expm1(-h) * D
        x_0_before, h_before = x_0, h
    return x.clamp(-1, 1)


SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim, "dpmsolver++": sample_dpmsolver}


def _levels(timesteps: Sequence[int], i: int, abar: Sequence[float]) -> tuple[float, float]:
    """abar at the i-th timestep and at the one it leads to; clean images have abar 1."""
    return abar[timesteps[i]], abar[timesteps[i + 1]] if i + 1 < len(timesteps) else 1.0


def _half_log_snr(abar: float) -> float:
    """lambda = log(alpha / sigma); -inf for pure noise, inf for a clean image."""
    if abar in (0.0, 1.0):
        return math.inf if abar else -math.inf
    return 0.5 * (math.log(abar) - math.log1p(-abar))
