"""Training a DDPM (Ho et al. 2020, algorithm 1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dipddpm.config import (
    Context,
    NoiseScheduleConfig,
    TrainingConfig,
    UNetConfig,
    derive_seed,
)
from dipddpm.diffusion import build_noise_scheduler, build_unet
from dipddpm.images import TrainingImages, load


@dataclass(frozen=True)
class TrainedNet:
    """A net after a number of epochs: a value, which training on does not change.

    weights, ema_weights: state dicts on the training device
    optimizer: the state dict of AdamW
    losses: (num_steps,) float32 on the CPU, of all steps since the first
    """

    epochs: int
    weights: dict[str, Tensor]
    ema_weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    losses: Tensor

    @property
    def num_steps(self) -> int:
        return len(self.losses)


def train_ddpm(
    images: TrainingImages,
    image_size: int,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    training: TrainingConfig,
    context: Context,
    *,
    epochs: int,
    resume_from: TrainedNet | None = None,
) -> TrainedNet:
    """Trains from scratch, or on from `resume_from`, up to `epochs`.

    Every random draw is a function of the seed and the step, so training 0 -> 2 -> 4 gives the bits
    of 0 -> 4, and two arms with one seed see the same order, flips, noise and u.
    """
    device = torch.device(context.device)
    noise_scheduler = build_noise_scheduler(schedule)
    # add_noise would copy its table to the device at every step.
    noise_scheduler.alphas_cumprod = noise_scheduler.alphas_cumprod.to(device)
    model = build_unet(unet, image_size, context.seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, fused=True)
    first_epoch, step = 0, 0
    ema_weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    if resume_from is not None:
        first_epoch, step = resume_from.epochs, resume_from.num_steps
        model.load_state_dict(resume_from.weights)
        optimizer.load_state_dict(copy.deepcopy(resume_from.optimizer))
        ema_weights = {name: weight.clone() for name, weight in resume_from.ema_weights.items()}

    generator = torch.Generator(device)
    losses = []
    for batch in context.watch(
        _Batches(images, image_size, training, context.seed, range(first_epoch, epochs))
    ):
        generator.manual_seed(derive_seed(context.seed, "training step", step))
        clean = _random_flips(batch.to(device, non_blocking=True), generator)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        # One u serves every T: t = floor(u T). float64, so that u T stays below T.
        u = torch.rand(len(clean), generator=generator, device=device, dtype=torch.float64)
        timesteps = (u * schedule.num_train_timesteps).long()
        # diffusers asks for an IntTensor and indexes with it, for which torch wants int64.
        noisy = noise_scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]

        loss = (model(noisy, timesteps).sample - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * warmup_factor(step, training.lr_warmup_steps)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(ema_weights, model.state_dict(), ema_decay_at(step, training.ema_decay))
        losses.append(loss.detach())
        step += 1

    return TrainedNet(
        epochs=epochs,
        weights={name: weight.clone() for name, weight in model.state_dict().items()},
        ema_weights=ema_weights,
        optimizer=copy.deepcopy(optimizer.state_dict()),
        losses=torch.cat(
            [
                *([resume_from.losses] if resume_from is not None else []),
                *([torch.stack(losses).cpu()] if losses else []),
            ]
        ),
    )


def warmup_factor(step: int, lr_warmup_steps: int) -> float:
    """The share of the learning rate in force at `step` (from 0): linear, then constant."""
    return min(1.0, (step + 1) / (lr_warmup_steps + 1))


def ema_decay_at(step: int, ema_decay: float) -> float:
    """The decay in force at `step` (from 0), short while there is little to average."""
    return min(ema_decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema_weights: dict[str, Tensor], weights: dict[str, Tensor], decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * weight, in place."""
    torch._foreach_lerp_(
        list(ema_weights.values()), [weights[name] for name in ema_weights], 1 - decay
    )


class _Batches:
    """All batches of some epochs, in the order that the seed gives each epoch."""

    def __init__(
        self,
        images: TrainingImages,
        image_size: int,
        training: TrainingConfig,
        seed: int,
        epochs: range,
    ) -> None:
        self.images, self.image_size = images, image_size
        self.batch_size, self.seed, self.epochs = training.batch_size, seed, epochs

    def __len__(self) -> int:
        return len(self.epochs) * math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for epoch in self.epochs:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
            order = torch.randperm(len(self.images), generator=generator)
            for indices in order.split(self.batch_size):
                yield load(self.images, indices.tolist(), self.image_size)


def _random_flips(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of `images` mirrored left to right with probability 1/2, on their own device."""
    flip = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flip, images.flip(-1), images)
