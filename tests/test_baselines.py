"""Under the paper's protocol our loops are those that a user would pick instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.baselines import (
    DecodedFiles,
    paper_dip_loop,
    paper_net,
    pipeline_samples,
    tutorial_loop,
)
from dipddpm.config import (
    PAPER,
    Context,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    TrainingConfig,
    UNetConfig,
    derive_seed,
)
from dipddpm.diffusion import build_noise_scheduler, build_unet, x_0_and_eps
from dipddpm.dip import fit_priors
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, load, prepare, take
from dipddpm.loaders import freeze_flips, loader_flip
from dipddpm.nets import PaperNet
from dipddpm.sampling import sample_ddpm, spaced_timesteps
from dipddpm.sources import ImageSource
from dipddpm.training import train_ddpm

SEED, SIZE, EPOCHS = 7, 16, 5
SCHEDULE = NoiseScheduleConfig(num_train_timesteps=50)


def paper(config: Any, **changes: Any) -> Any:
    """A config with what the protocol says of its fields."""
    names = {field.name for field in fields(config)}
    return config(**{**{k: v for k, v in PAPER.items() if k in names}, **changes})


class EpochOrder:
    """Batches of indices in the order of our epochs; each iteration is the next epoch."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size, self.epoch = count, batch_size, -1

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        shuffled = torch.Generator().manual_seed(derive_seed(SEED, "epoch", self.epoch))
        order = torch.randperm(self.count, generator=shuffled).tolist()
        return (order[i : i + self.batch_size] for i in range(0, self.count, self.batch_size))


class FlippedAnew(Dataset[Tensor]):
    """DecodedFiles with our flips for its own."""

    def __init__(self, images: EncodedImages, order: EpochOrder) -> None:
        self.images, self.order = images, order

    def __getitem__(self, index: int) -> Tensor:
        pixels = load(self.images, [index], SIZE)[0]
        return pixels.flip(-1) if loader_flip(SEED, self.order.epoch, index) else pixels


def our_draw(step: int, clean: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(derive_seed(SEED, "training step", step))
    noise = torch.randn(clean.shape, generator=generator)
    u = torch.rand(len(clean), generator=generator, dtype=torch.float64)
    return noise, (u * 50).long()


def losses_of_both(
    loader: str, files: EncodedImages, unet: UNetConfig, training: TrainingConfig
) -> tuple[Tensor, Tensor]:
    """Ours and the tutorial's, from the same weights, order, flips, noise and timesteps."""
    order = EpochOrder(len(files), training.batch_size)
    dataset: Any
    if loader == "decode":
        images: Any = files
        dataset = FlippedAnew(files, order)
    else:
        plain = prepare(files, SIZE)
        images = freeze_flips(plain, Context(seed=SEED))
        dataset = [
            pixels.flip(-1) if loader_flip(SEED, i) else pixels
            for i, pixels in enumerate(plain.pixels)
        ]
    loading = paper(LoaderConfig, loader=loader)
    assert loading.flip == "loader"
    ours = train_ddpm(
        images, SIZE, unet, SCHEDULE, training, Context(seed=SEED), loading=loading, epochs=EPOCHS
    ).losses
    losses = tutorial_loop(
        build_unet(unet, SIZE, SEED),
        build_noise_scheduler(SCHEDULE),
        DataLoader(dataset, batch_sampler=order),
        num_epochs=EPOCHS,
        learning_rate=training.learning_rate,
        lr_warmup_steps=training.lr_warmup_steps,
        draw=our_draw,
    )
    return ours, losses


# The warm-up of 500 steps as published, and one that lets the weights go far in 15 steps.
@pytest.mark.parametrize(
    "changes", [{}, {"lr_warmup_steps": 3, "learning_rate": 3e-3}], ids=["published", "fast"]
)
@pytest.mark.parametrize("loader", ["decode", "list"])
def test_the_paper_protocol_is_the_loop_of_the_tutorial(
    objects: ImageSource, tiny_unet: UNetConfig, loader: str, changes: dict[str, Any]
) -> None:
    training: TrainingConfig = paper(TrainingConfig, batch_size=4, **changes)
    assert (training.lr_schedule, training.ema_decay) == ("cosine", 0)
    ours, theirs = losses_of_both(loader, objects.train[:10], tiny_unet, training)
    assert len(ours) == 15
    # What differs is the order of sums: AdamW of all weights at once, the mean of squares.
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "other",
    [
        {"lr_warmup_steps": 4},
        {"lr_schedule": "constant"},
        {"learning_rate": 2.9e-3},
        {"max_grad_norm": 0.5},
    ],
    ids=str,
)
def test_any_other_setting_gives_other_losses(
    objects: ImageSource, tiny_unet: UNetConfig, other: dict[str, Any]
) -> None:
    training = paper(TrainingConfig, batch_size=4, lr_warmup_steps=3, learning_rate=3e-3)
    files = objects.train[:10]
    _, theirs = losses_of_both("list", files, tiny_unet, training)
    ours, _ = losses_of_both("list", files, tiny_unet, replace(training, **other))
    assert (ours / theirs - 1).abs().max() > 1e-4


def test_the_tutorial_draws_for_itself(objects: ImageSource, tiny_unet: UNetConfig) -> None:
    files = DecodedFiles(objects.train[:10], SIZE)

    def losses(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return tutorial_loop(
            build_unet(tiny_unet, SIZE, SEED),
            build_noise_scheduler(SCHEDULE),
            DataLoader(files, batch_size=4, shuffle=True),
            num_epochs=2,
        )

    with torch.random.fork_rng():
        first, again, other = losses(0), losses(0), losses(1)
    assert len(first) == 6
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_files_are_flipped_at_random(objects: ImageSource) -> None:
    files = DecodedFiles(objects.train[:10], SIZE)
    pixels = prepare(objects.train[:10], SIZE).pixels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shown = torch.stack([files[i % 10] for i in range(100)]).view(10, 10, 3, SIZE, SIZE)
    upright = (shown == pixels).flatten(2).all(2)
    assert (upright | (shown == pixels.flip(-1)).flatten(2).all(2)).all()
    assert 30 < upright.sum() < 70  # of 100 fair coins


def test_the_pipeline_of_diffusers_gives_our_samples(tiny_unet: UNetConfig) -> None:
    model: Any = build_unet(tiny_unet, SIZE, 3).eval().requires_grad_(False)
    model.conv_out.weight *= 3
    scheduler = build_noise_scheduler(SCHEDULE)
    theirs = pipeline_samples(model, scheduler, num_samples=3, num_inference_steps=25, seed=4)
    assert theirs.shape == (3, 3, SIZE, SIZE)
    abar = scheduler.alphas_cumprod.tolist()

    def denoiser(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return x_0_and_eps(model(x, t).sample, x, abar[t], "epsilon")

    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 3, SIZE, SIZE, generator=generator)
    timesteps = spaced_timesteps(50, 25, "leading")
    ours = sample_ddpm(denoiser, x, timesteps, abar, generator=generator)
    assert (ours - theirs).abs().max() < 1e-4
    assert ours.std() > 0.1


def test_the_published_priors_are_ours_under_its_protocol(objects16: ImageSet) -> None:
    images, context = take(objects16, 0, 3), Context(seed=SEED)
    # Rounding grows with the steps, and another layout rounds otherwise.
    dip = paper(DIPConfig, num_iter=30, prior_channels_last=False)
    assert (dip.prior_target, dip.net_input, dip.net) == ("signed", "shared", "paper")
    ours = fit_priors(images, dip, context).outputs
    places = iter(range(3))

    def new_net() -> nn.Sequential:
        """With the weights that ours draws for the next image."""
        net, grouped = paper_net(), PaperNet(1, dip)
        place = derive_seed(SEED, "prior", next(places))
        grouped.initialise([torch.Generator().manual_seed(place)])
        net.load_state_dict(grouped.layers.state_dict())
        return net

    shared = torch.Generator().manual_seed(derive_seed(SEED, "net_input"))
    z = torch.randn(1, 3, SIZE, SIZE, generator=shared)
    theirs = paper_dip_loop(images, num_iter=30, net_input=z, new_net=new_net).outputs
    # Images span 2.
    assert (ours - theirs).abs().max() < 1e-3
    assert sum(weight.numel() for weight in paper_net().parameters()) == 40_707
    few = paper_dip_loop(take(images, 0, 1), num_iter=2, net_input=z).outputs
    assert (few - theirs[:1]).abs().max() > 0.1
