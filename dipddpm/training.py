"""Training a DDPM (Ho et al. 2020, algorithm 1)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dipddpm.config import (
    Context,
    LoaderConfig,
    NoiseScheduleConfig,
    TrainingConfig,
    UNetConfig,
    derive_seed,
)
from dipddpm.diffusion import (
    build_noise_scheduler,
    build_unet,
    conditioned,
    load_unet,
    training_target,
)
from dipddpm.images import ImageSet, TrainingImages
from dipddpm.levers import (
    Recorded,
    arrange,
    dtype_of,
    in_force,
    lower_precision,
    records_steps,
)
from dipddpm.loaders import Batches
from dipddpm.parallel import Share, held_back


@dataclass(frozen=True)
class TrainedNet:
    """A net after a number of epochs: a value, which training on does not change.

    weights, ema_weights: state dicts on the training device
    optimizer: the state dict of AdamW
    losses: (num_steps,) float32 on the CPU, of all steps since the first
    grad_scaler: the state dict of fp16's loss scaling, empty without
    """

    epochs: int
    weights: dict[str, Tensor]
    ema_weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    losses: Tensor
    grad_scaler: dict[str, Any] = field(default_factory=dict)

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
    loading: LoaderConfig,
    condition: ImageSet | None = None,
    epochs: int,
    resume_from: TrainedNet | None = None,
) -> TrainedNet:
    """Trains from scratch, or on from `resume_from`, up to `epochs`.

    Every random draw is a function of the seed and the step, so training 0 -> 2 -> 4 gives the bits
    of 0 -> 4, and two arms with one seed see the same order, flips, noise and u.

    images: ImageSet for the loaders memory and list (from `freeze_flips` with flip = "loader"),
        EncodedImages for decode
    condition: of the same images, in the same order; the net is given it beside x_t
    Raises ValueError if they do not fit the loader, if a cosine schedule is to be resumed, or if
    several processes were to record CUDA graphs.
    """
    if resume_from is not None and training.lr_schedule == "cosine":
        raise ValueError(
            "resume_from must be None with lr_schedule = cosine, which depends on the length of "
            f"the run, got a net of {resume_from.epochs} epochs"
        )
    device = torch.device(context.device)
    share = Share(context.processes)
    if share.count > 1 and training.cuda_graph:
        raise ValueError(f"cuda_graph must be false with {share.count} processes")
    in_channels = 3 if condition is None else 6
    if resume_from is None:
        model = build_unet(unet, image_size, context.seed, in_channels=in_channels)
    else:
        weights = _copied(resume_from.weights)
        model = load_unet(unet, image_size, weights, in_channels=in_channels)
    learner = _Learner(model.to(device), training, device, share, resume_from)
    batches = Batches(
        images, condition, image_size, training.batch_size, loading, context.seed,
        range(learner.first_epoch, epochs), share,
    )  # fmt: skip
    num_steps = learner.first_step + len(batches)

    forward = _ForwardProcess(schedule, context.seed, device, share, flips=loading.flip == "device")
    losses = []
    with in_force(training.levers):
        watched = zip(context.watch(batches), batches.sizes(), strict=False)  # it may end early
        for step, (batch, size) in enumerate(watched, learner.first_step):
            noisy, timesteps, target = forward(step, batch, size)
            learner.prepare(step, num_steps, size)
            losses.append(learner.step(noisy, timesteps, target))

    net = learner.trained_net(epochs, losses)
    # What waits for other processes ends here: left to the interpreter's end it may abort.
    learner.joined = learner.model
    return net


class _ForwardProcess:
    """What the net is asked of a batch. All is drawn from one generator on the device, by every
    process for the whole batch, of which it takes its share."""

    def __init__(
        self,
        schedule: NoiseScheduleConfig,
        seed: int,
        device: torch.device,
        share: Share,
        *,
        flips: bool,
    ) -> None:
        self.schedule, self.seed, self.device, self.share = schedule, seed, device, share
        self.flips = flips
        self.noise_scheduler = build_noise_scheduler(schedule)
        # add_noise would copy its table to the device at every step.
        self.abar = self.noise_scheduler.alphas_cumprod.to(device)
        self.noise_scheduler.alphas_cumprod = self.abar
        self.generator = torch.Generator(device)

    def __call__(self, step: int, batch: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The net's input, its timesteps and the target of its output.

        batch: (n, 3 or 6, H, W), its share of `size` images, their condition beside them
        """
        generator, device, share = self.generator, self.device, self.share
        generator.manual_seed(derive_seed(self.seed, "training step", step))
        if device.type == "cuda":
            batch = batch.pin_memory()  # from pageable memory the host would wait for the copy
        batch = batch.to(device, non_blocking=True)
        if self.flips:
            flip = torch.rand(size, 1, 1, 1, generator=generator, device=device) < 0.5
            batch = torch.where(share.of(flip), batch.flip(-1), batch)
        clean, condition = batch[:, :3], batch[:, 3:]
        noise = torch.randn((size, *clean.shape[1:]), generator=generator, device=device)
        # One u serves every T: t = floor(u T). float64, so that u T stays below T.
        u = torch.rand(size, generator=generator, device=device, dtype=torch.float64)
        noise, u = share.of(noise), share.of(u)
        timesteps = (u * self.schedule.num_train_timesteps).long()
        # diffusers asks for an IntTensor and indexes with it, for which torch wants int64.
        noisy = self.noise_scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]
        abar_t = self.abar[timesteps].view(-1, 1, 1, 1)
        target = training_target(self.schedule.prediction_type, clean, noise, abar_t)
        return conditioned(noisy, condition if condition.shape[1] else None), timesteps, target


class _Learner:
    """The net and all that changes with it: its optimizer, averaged weights and loss scaling.

    model: on the device, with the weights of `resume_from`, as its own

    With fp16, the forward pass runs under autocast and the loss is scaled, as accelerate does it.
    A step whose gradients overflow moves no weight but counts for the learning rate; accelerate
    holds the rate back, for which it waits for the device at every step.
    """

    def __init__(
        self,
        model: nn.Module,
        training: TrainingConfig,
        device: torch.device,
        share: Share,
        resume_from: TrainedNet | None,
    ) -> None:
        self.model, self.training, self.device, self.share = model, training, device, share
        arrange(model, training.levers)
        recorded = records_steps(training.levers, device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            # A recorded step reads it from where it lies.
            lr=torch.tensor(training.learning_rate, device=device)
            if recorded
            else training.learning_rate,
            fused=training.fused_adamw,
            capturable=recorded,
        )
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=dtype_of(training.levers, device) == torch.float16
        )
        self.first_epoch, self.losses_before = 0, torch.zeros(0)
        # The tensors themselves: it always holds the weights as they are.
        self.weights = model.state_dict()
        ema_weights = self.weights
        if resume_from is not None:
            self.optimizer.load_state_dict(copy.deepcopy(resume_from.optimizer))
            self.scaler.load_state_dict(resume_from.grad_scaler)
            self.first_epoch, self.losses_before = resume_from.epochs, resume_from.losses
            ema_weights = resume_from.ema_weights
        if self.scaler.is_enabled():
            # It makes its scale when it first scales: here, to be there before a step is recorded.
            self.scaler.scale(torch.zeros((), device=device))
        self.ema_weights = _copied(ema_weights)
        # 1 - decay
        self.ema_rate = torch.zeros((), device=device) if recorded else 0.0
        self.joined, self.weight = share.joined(model), 1.0
        self.step = Recorded(self._step, self._changes) if recorded else self._step

    @property
    def first_step(self) -> int:
        return len(self.losses_before)

    def prepare(self, step: int, num_steps: int, batch_size: int) -> None:
        """The rates of a step, of the weights and of their average, and what its share weighs."""
        rate = self.training.learning_rate * learning_rate_factor(step, num_steps, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = _set(group["lr"], rate)
        self.ema_rate = _set(self.ema_rate, 1 - ema_decay_at(step, self.training))
        self.weight = self.share.weight(batch_size)

    def _step(self, net_input: Tensor, timesteps: Tensor, target: Tensor) -> Tensor:
        """Moves the weights, and the averaged ones after them. Nothing waits for the device, but
        fp16 without fused_adamw.

        Returns the loss of the whole batch, whatever its parts; of several processes, the mean of
        what they return.
        """
        loss = torch.zeros((), device=self.device)
        num_parts = min(self.training.gradient_accumulation_steps, len(target))
        parts = list(
            zip(*(one.chunk(num_parts) for one in (net_input, timesteps, target)), strict=True)
        )
        for i, part in enumerate(parts, 1):
            with held_back(self.joined, i < len(parts)):
                part_loss = self._loss(*part) * (len(part[0]) / len(target) * self.weight)
                self.scaler.scale(part_loss).backward()
            loss = loss + part_loss.detach()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.training.ema_decay:
            update_ema(
                self.ema_weights, self.weights, self.ema_rate, foreach=self.training.foreach_ema
            )
        return loss

    def _loss(self, net_input: Tensor, timesteps: Tensor, target: Tensor) -> Tensor:
        if self.training.channels_last:
            net_input = net_input.contiguous(memory_format=torch.channels_last)
        with lower_precision(self.training.levers, self.device):
            prediction: Tensor = self.joined(net_input, timesteps).sample
        return (prediction.float() - target).square().mean()

    def _changes(self) -> list[Tensor]:
        """The tensors that a step changes."""
        moments = [one for state in self.optimizer.state.values() for one in state.values()]
        scale = [self.scaler._scale, self.scaler._growth_tracker]
        kept = [one for one in scale if one is not None]
        return [*self.weights.values(), *self.ema_weights.values(), *moments, *kept]

    def trained_net(self, epochs: int, losses: list[Tensor]) -> TrainedNet:
        return TrainedNet(
            epochs=epochs,
            weights=_copied(self.weights),
            ema_weights=self.ema_weights if self.training.ema_decay else _copied(self.weights),
            optimizer=copy.deepcopy(self.optimizer.state_dict()),
            losses=torch.cat(
                [
                    self.losses_before,
                    *([self.share.mean(torch.stack(losses)).cpu()] if losses else []),
                ]
            ),
            grad_scaler=self.scaler.state_dict(),
        )


def learning_rate_factor(step: int, num_steps: int, training: TrainingConfig) -> float:
    """The share of the learning rate in force at `step` (from 0) of a run of num_steps.

    constant: linear from the first step on, then 1. cosine: linear from 0, then half a cosine down
    to 0, as diffusers' get_cosine_schedule_with_warmup.
    """
    warmup = training.lr_warmup_steps
    if training.lr_schedule == "constant":
        return min(1.0, (step + 1) / (warmup + 1))
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay_at(step: int, training: TrainingConfig) -> float:
    """The decay in force at `step` (from 0); the ramp is for a start that is better forgotten."""
    ramp = (1 + step) / (10 + step) if training.ema_ramp else 1.0
    return min(training.ema_decay, ramp)


@torch.no_grad()
def update_ema(
    ema_weights: dict[str, Tensor],
    weights: dict[str, Tensor],
    rate: float | Tensor,
    *,
    foreach: bool = True,
) -> None:
    """ema <- (1 - rate) * ema + rate * weight, in place.

    rate: 1 - decay; in a tensor, each weight has a kernel of its own
    foreach: in one kernel for all weights
    """
    averages, latest = list(ema_weights.values()), [weights[name] for name in ema_weights]
    if not foreach:
        for average, weight in zip(averages, latest, strict=True):
            average.lerp_(weight, rate)
    elif isinstance(rate, Tensor):
        torch._foreach_lerp_(averages, latest, [rate] * len(latest))
    else:
        torch._foreach_lerp_(averages, latest, rate)


def _set(rate: float | Tensor, value: float) -> float | Tensor:
    """A rate of another value; one in a tensor stays where it lies."""
    return rate.fill_(value) if isinstance(rate, Tensor) else value


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in weights.items()}
