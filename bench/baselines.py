"""What a user would pick instead: the loops that dipddpm is measured against and tested with.

Each is as it is usually written, neither slowed down nor sped up: what reports and saves is left
out, and so is what waits for the device only to report. accelerate, which only the first one needs,
is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dipddpm.config import MixedPrecision
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, load


class DecodedFiles(Dataset[Tensor]):
    """Each file decoded, resized and flipped at random whenever it is asked for."""

    def __init__(self, images: EncodedImages, image_size: int) -> None:
        self._images, self._image_size = images, image_size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        pixels = load(self._images, [index], self._image_size)[0]
        return pixels.flip(-1) if torch.rand(1) < 0.5 else pixels


class Draw(Protocol):
    """The noise, and the timesteps (N,) int64, of a step of the loop (from 0)."""

    def __call__(self, step: int, clean: Tensor, /) -> tuple[Tensor, Tensor]: ...


def tutorial_loop(
    model: nn.Module,
    noise_scheduler: DDPMScheduler,
    batches: DataLoader[Tensor],
    *,
    num_epochs: int,
    learning_rate: float = 1e-4,
    lr_warmup_steps: int = 500,
    mixed_precision: MixedPrecision = "no",
    device: str = "cpu",
    draw: Draw | None = None,
) -> Tensor:
    """The loop of diffusers' tutorial "Train a diffusion model", with accelerate.

    Trains `model` in place and returns the losses, (num_steps,) float32 on the CPU.

    batches: of (N, 3, H, W) in [-1, 1], as a DataLoader over DecodedFiles or over a list of tensors
        gives them, in the tutorial shuffled and without workers
    draw: in place of the tutorial's own draws from the global generator
    mixed_precision: of accelerate, which refuses fp16 on a CPU
    """
    from accelerate import Accelerator  # type: ignore[import-untyped]

    def drawn(step: int, clean: Tensor) -> tuple[Tensor, Tensor]:
        if draw is not None:
            return draw(step, clean)
        noise = torch.randn(clean.shape, device=clean.device)
        T = noise_scheduler.config["num_train_timesteps"]
        return noise, torch.randint(0, T, (len(clean),), device=clean.device, dtype=torch.int64)

    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=device == "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, lr_warmup_steps, num_training_steps=len(batches) * num_epochs
    )
    model, optimizer, batches, schedule = accelerator.prepare(model, optimizer, batches, schedule)
    losses: list[Tensor] = []
    for _ in range(num_epochs):
        for clean in batches:
            noise, timesteps = drawn(len(losses), clean)
            noisy = noise_scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]
            with accelerator.accumulate(model):
                noise_pred = model(noisy, timesteps, return_dict=False)[0]
                loss = F.mse_loss(noise_pred, noise)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
    return torch.stack(losses).cpu()


def pipeline_samples(
    model: nn.Module,
    noise_scheduler: DDPMScheduler,
    *,
    num_samples: int,
    num_inference_steps: int,
    seed: int = 0,
) -> Tensor:
    """Samples of diffusers' DDPMPipeline: (N, 3, H, W) in [-1, 1] on the CPU."""
    new_pipeline: Any = DDPMPipeline
    pipeline = new_pipeline(unet=model, scheduler=noise_scheduler)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        batch_size=num_samples,
        num_inference_steps=num_inference_steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images
    return torch.from_numpy(output).permute(0, 3, 1, 2) * 2 - 1


def paper_net() -> nn.Sequential:
    """The published net of a Deep Image Prior."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 3, 3, padding=1),
        nn.Sigmoid(),
    )


def paper_dip_loop(
    images: ImageSet,
    *,
    num_iter: int = 200,
    learning_rate: float = 0.01,
    device: str = "cpu",
    net_input: Tensor | None = None,
    new_net: Callable[[], nn.Module] = paper_net,
) -> ImageSet:
    """The published fits: image after image a new net, from one noise input shared by all.

    The target is the image in [-1, 1], although the net ends in a Sigmoid; the net's image in
    [0, 1] is returned as all images here are, in [-1, 1].

    net_input: (1, 3, H, W), in place of noise from the global generator
    """
    shape = images.pixels[:1].shape
    z = (torch.randn(shape) if net_input is None else net_input).to(device)
    outputs = []
    for pixels in images.pixels.to(device):
        net = new_net().to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
        for _ in range(num_iter):
            optimizer.zero_grad()
            loss = F.mse_loss(net(z), pixels[None])
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            outputs.append(net(z)[0] * 2 - 1)
    return ImageSet(torch.stack(outputs).cpu())
