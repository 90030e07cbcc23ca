"""The denoiser, the forward process, both of diffusers, and what the one predicts of the other."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from dipddpm.config import NoiseScheduleConfig, PredictionType, UNetConfig, derive_seed


def build_unet(unet: UNetConfig, image_size: int, seed: int, *, in_channels: int = 3) -> nn.Module:
    """A UNet2DModel on the CPU, its weights a function of the seed alone.

    in_channels: 3, or 6 for a net that is given a condition (`conditioned`).
    """
    # diffusers draws weights from the global generator: lend it one, and put it back as it was.
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every CUDA device too.
        torch.default_generator.manual_seed(derive_seed(seed, "unet"))
        return _unet(unet, image_size, in_channels)


def load_unet(
    unet: UNetConfig, image_size: int, weights: Mapping[str, Tensor], *, in_channels: int = 3
) -> nn.Module:
    """The UNet2DModel of these weights, which it shares: none are drawn, and none are copied.

    Raises RuntimeError if the weights are of another net.
    """
    model = _apart(_without_weights(unet, image_size, in_channels))
    model.load_state_dict(weights, assign=True)
    return model


@functools.cache
def _without_weights(unet: UNetConfig, image_size: int, in_channels: int) -> nn.Module:
    """Kept, as diffusers takes longer to put a small net together than that net to predict."""
    with torch.device("meta"):
        return _unet(unet, image_size, in_channels)


def _apart(module: nn.Module) -> nn.Module:
    """The same layers, whose parameters can be set without setting those of `module`."""
    other = copy.copy(module)
    other._parameters, other._buffers = dict(module._parameters), dict(module._buffers)
    other._modules = {
        name: None if child is None else _apart(child) for name, child in module._modules.items()
    }
    return other


def _unet(unet: UNetConfig, image_size: int, in_channels: int) -> nn.Module:
    levels = range(len(unet.block_out_channels))

    def blocks(kind: str) -> list[str]:
        attention = f"Attn{kind}Block2D"
        return [attention if i in unet.attention_levels else f"{kind}Block2D" for i in levels]

    model: nn.Module = UNet2DModel(
        sample_size=image_size,
        in_channels=in_channels,
        out_channels=3,
        block_out_channels=unet.block_out_channels,
        layers_per_block=unet.layers_per_block,
        norm_num_groups=unet.norm_num_groups,
        down_block_types=tuple(blocks("Down")),
        up_block_types=tuple(reversed(blocks("Up"))),
    )
    return model


def build_noise_scheduler(schedule: NoiseScheduleConfig) -> DDPMScheduler:
    """diffusers' own scheduler, for the forward process."""
    scheduler: DDPMScheduler = DDPMScheduler(
        num_train_timesteps=schedule.num_train_timesteps,
        beta_schedule=schedule.beta_schedule,
        rescale_betas_zero_snr=schedule.rescale_betas_zero_snr,
        prediction_type=schedule.prediction_type,
    )
    return scheduler


def conditioned(x_t: Tensor, condition: Tensor | None) -> Tensor:
    """What the net is given: x_t, (N, 3, H, W), and behind it the channels of a condition."""
    return x_t if condition is None else torch.cat((x_t, condition), dim=1)


def training_target(
    prediction_type: PredictionType, clean: Tensor, noise: Tensor, abar_t: float | Tensor
) -> Tensor:
    """What the net should predict of x_t = sqrt(abar_t) clean + sqrt(1 - abar_t) noise."""
    if prediction_type == "epsilon":
        return noise
    # v, Salimans and Ho 2022 (arXiv 2202.00512), appendix D
    return abar_t**0.5 * noise - (1 - abar_t) ** 0.5 * clean


def x_0_and_eps(
    prediction: Tensor, x_t: Tensor, abar_t: float | Tensor, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """The image, not clipped, and the noise that a prediction at x_t stands for.

    A prediction of eps says nothing of x_0 where abar_t is 0; one of v says both everywhere.
    """
    root, rest = abar_t**0.5, (1 - abar_t) ** 0.5
    if prediction_type == "epsilon":
        # Ho et al. 2020, eq. 15
        return (x_t - rest * prediction) / root, prediction
    # (x_t, v) is (x_0, eps) turned by the angle whose cosine is sqrt(abar_t)
    return root * x_t - rest * prediction, rest * x_t + root * prediction
