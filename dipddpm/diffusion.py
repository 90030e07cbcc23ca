"""The denoiser and the forward process, both of diffusers."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from dipddpm.config import NoiseScheduleConfig, UNetConfig, derive_seed


def build_unet(unet: UNetConfig, image_size: int, seed: int) -> nn.Module:
    """A UNet2DModel on the CPU, its weights a function of the seed alone."""
    levels = range(len(unet.block_out_channels))

    def blocks(kind: str) -> list[str]:
        attention = f"Attn{kind}Block2D"
        return [attention if i in unet.attention_levels else f"{kind}Block2D" for i in levels]

    # diffusers draws weights from the global generator: lend it one, and put it back as it was.
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every CUDA device too.
        torch.default_generator.manual_seed(derive_seed(seed, "unet"))
        model: nn.Module = UNet2DModel(
            sample_size=image_size,
            in_channels=3,
            out_channels=3,
            block_out_channels=unet.block_out_channels,
            layers_per_block=unet.layers_per_block,
            norm_num_groups=unet.norm_num_groups,
            down_block_types=tuple(blocks("Down")),
            up_block_types=tuple(reversed(blocks("Up"))),
        )
    return model


def build_noise_scheduler(schedule: NoiseScheduleConfig) -> DDPMScheduler:
    scheduler: DDPMScheduler = DDPMScheduler(
        num_train_timesteps=schedule.num_train_timesteps, beta_schedule=schedule.beta_schedule
    )
    return scheduler
