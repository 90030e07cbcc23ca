"""What a user would pick instead: the loops that dipddpm is measured against and tested with.

Each is as it is usually written, neither slowed down nor sped up: what reports and saves is left
out, and so is what waits for the device only to report. accelerate and DDPMPipeline are imported
when they are called for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dipddpm.config import (
    Context,
    DIPConfig,
    LoaderConfig,
    MixedPrecision,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
    Watch,
    derive_seed,
    unwatched,
)
from dipddpm.diffusion import build_noise_scheduler, build_unet, load_unet
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, TrainingImages, load
from dipddpm.sampling import Samples
from dipddpm.training import TrainedNet


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
    watch: Watch = unwatched,
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
        for clean in watch(batches):
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
    device: str = "cpu",
    watch: Watch = unwatched,
) -> Tensor:
    """Samples of diffusers' DDPMPipeline: (N, 3, H, W) in [-1, 1] on the CPU.

    device: of the noise; from a CPU it would be copied to a GPU at every step
    """
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline

    new_pipeline: Any = DDPMPipeline
    pipeline = new_pipeline(unet=model, scheduler=noise_scheduler)
    pipeline.progress_bar = watch
    output = pipeline(
        batch_size=num_samples,
        num_inference_steps=num_inference_steps,
        generator=torch.Generator(device).manual_seed(seed),
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


@dataclass(frozen=True)
class FittedByLoop:
    """outputs: (N, 3, H, W) in [-1, 1]; spent_iters: (N,) int64"""

    outputs: Tensor
    spent_iters: Tensor


def paper_dip_loop(
    images: ImageSet,
    *,
    num_iter: int = 200,
    learning_rate: float = 0.01,
    device: str = "cpu",
    net_input: Tensor | None = None,
    new_net: Callable[[], nn.Module] = paper_net,
    stop_at_psnr: float | None = None,
    unit_target: bool = False,
    watch: Watch = unwatched,
) -> FittedByLoop:
    """The published fits: image after image a new net, from one noise input shared by all.

    The target is the image in [-1, 1], although the net ends in a Sigmoid; the net's image in
    [0, 1] is returned as all images here are, in [-1, 1].

    net_input: (1, 3, H, W), in place of noise from the global generator
    stop_at_psnr: in dB, to the target in [0, 1], at which a fit ends
    unit_target: the target is the image in [0, 1]
    """
    shape = images.pixels[:1].shape
    z = (torch.randn(shape) if net_input is None else net_input).to(device)
    outputs, spent = [], []
    for pixels in images.pixels.to(device):
        target = (pixels[None] + 1) / 2 if unit_target else pixels[None]
        net = new_net().to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
        iterations = 0
        for _ in watch(range(num_iter)):
            optimizer.zero_grad()
            loss = F.mse_loss(net(z), target)
            if stop_at_psnr is not None and loss.item() <= 10 ** (-stop_at_psnr / 10):
                break
            loss.backward()
            optimizer.step()
            iterations += 1
        with torch.no_grad():
            outputs.append(net(z)[0] * 2 - 1)
        spent.append(iterations)
    return FittedByLoop(torch.stack(outputs).cpu(), torch.tensor(spent))


# As stages, that are measured as ours are --------------------------------------------------------


def train_by_tutorial(
    images: TrainingImages,
    image_size: int,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    training: TrainingConfig,
    context: Context,
    *,
    loading: LoaderConfig,
    epochs: int,
) -> TrainedNet:
    """`tutorial_loop` with our net and rates; its order, flips and noise are its own.

    loading: with loader = decode files are decoded and flipped at every epoch, as in the tutorial;
        else the images are there as tensors
    """
    model = build_unet(unet, image_size, context.seed)
    dataset: Any = (
        DecodedFiles(images, image_size)
        if isinstance(images, EncodedImages)
        else list(images.pixels)
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(context.seed, "tutorial"))
        losses = tutorial_loop(
            model,
            build_noise_scheduler(schedule),
            DataLoader(dataset, training.batch_size, shuffle=True),
            num_epochs=epochs,
            learning_rate=training.learning_rate,
            lr_warmup_steps=training.lr_warmup_steps,
            mixed_precision=training.mixed_precision,
            device=context.device,
            watch=context.watch,
        )
    weights = model.state_dict()
    return TrainedNet(epochs, weights, weights, {}, losses)


def sample_by_pipeline(
    trained: TrainedNet,
    image_size: int,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    sampling: SamplingConfig,
    context: Context,
) -> Samples:
    """`pipeline_samples`, of as many images in as many steps."""
    model = load_unet(unet, image_size, trained.ema_weights).to(context.device).eval()
    return Samples(
        pipeline_samples(
            model,
            build_noise_scheduler(schedule),
            num_samples=sampling.num_samples,
            num_inference_steps=sampling.num_inference_steps,
            seed=derive_seed(context.seed, "pipeline"),
            device=context.device,
            watch=context.watch,
        )
    )


def fit_by_paper_loop(images: ImageSet, dip: DIPConfig, context: Context) -> FittedByLoop:
    """`paper_dip_loop`, with the target and the stop of `dip`."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(context.seed, "paper loop"))
        return paper_dip_loop(
            images,
            num_iter=dip.num_iter,
            learning_rate=dip.prior_learning_rate,
            device=context.device,
            stop_at_psnr=dip.es_psnr if dip.early_stopping == "psnr" else None,
            unit_target=dip.prior_target == "unit",
            watch=context.watch,
        )
