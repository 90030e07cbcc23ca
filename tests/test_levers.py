"""However a net is run, it is trained and sampled as in float64 by the plain formulas."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from dipddpm.config import (
    Compile,
    Context,
    Levers,
    LoaderConfig,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
    alphas_cumprod,
    derive_seed,
)
from dipddpm.diffusion import build_noise_scheduler, build_unet, load_unet, x_0_and_eps
from dipddpm.images import ImageSet
from dipddpm.levers import Recorded, arrange, in_force
from dipddpm.loaders import Batches
from dipddpm.sampling import _in_batches, sample, sample_ddim, spaced_timesteps, start_noise
from dipddpm.training import TrainedNet, learning_rate_factor, train_ddpm

# torch's own, when it first compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
SEED, SIZE, EPOCHS = 7, 16, 7
SCHEDULE = NoiseScheduleConfig(num_train_timesteps=50)
# Ten images: two batches of 4 and one of 2.
TRAINING = TrainingConfig(batch_size=4, learning_rate=1e-3, ema_decay=0.9, tf32="no")
MEMORY = LoaderConfig(flip="loader")

# How far float32 has come from float64 after 21 steps, and bfloat16, which keeps 8 bits.
FLOAT32, BFLOAT16 = 2e-4, 0.03


def plain_losses(images: ImageSet, unet: UNetConfig) -> Tensor:
    """In float64, by no code of the training loop."""
    model = build_unet(unet, SIZE, SEED).double()
    abar = build_noise_scheduler(SCHEDULE).alphas_cumprod.double()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False, fused=False)
    batches = Batches(images, None, SIZE, TRAINING.batch_size, MEMORY, SEED, range(EPOCHS))
    losses = []
    for step, clean in enumerate(batches):
        generator = torch.Generator().manual_seed(derive_seed(SEED, "training step", step))
        noise = torch.randn(clean.shape, generator=generator).double()
        t = (torch.rand(len(clean), generator=generator, dtype=torch.float64) * 50).long()
        share = abar[t].view(-1, 1, 1, 1)
        noisy = share.sqrt() * clean.double() + (1 - share).sqrt() * noise
        loss = nn.functional.mse_loss(model(noisy, t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * learning_rate_factor(step, len(batches), TRAINING)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def trained_by(training: TrainingConfig, images: ImageSet, unet: UNetConfig, **context: Any) -> Any:
    context = {"seed": SEED, **context}
    return train_ddpm(
        images, SIZE, unet, SCHEDULE, training, Context(**context), loading=MEMORY, epochs=EPOCHS
    )


@pytest.fixture(scope="module")
def plain(objects16: ImageSet, tiny_unet: UNetConfig) -> Tensor:
    return plain_losses(objects16, tiny_unet)


@pytest.mark.parametrize(
    ("lever", "tolerance"),
    [
        ({}, FLOAT32),
        ({"channels_last": True}, FLOAT32),
        ({"attention": "sdpa"}, FLOAT32),
        ({"gradient_accumulation_steps": 3}, FLOAT32),
        ({"fused_adamw": False}, FLOAT32),
        ({"foreach_ema": False}, FLOAT32),
        ({"num_threads": 2}, FLOAT32),
        ({"mixed_precision": "fp16"}, FLOAT32),  # which a CPU has not
        ({"mixed_precision": "bf16"}, BFLOAT16),
        pytest.param({"compile": "model"}, FLOAT32, marks=pytest.mark.slow),
        pytest.param({"compile": "blocks"}, FLOAT32, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_lever_trains_as_float64_does(
    lever: dict[str, Any],
    tolerance: float,
    plain: Tensor,
    objects16: ImageSet,
    tiny_unet: UNetConfig,
) -> None:
    losses = trained_by(replace(TRAINING, **lever), objects16, tiny_unet).losses
    assert len(losses) == len(plain) == 21
    assert (losses / plain - 1).abs().max() <= tolerance
    assert plain[-1] < 0.9 * plain[0]
    if lever == {"foreach_ema": False}:
        net = trained_by(replace(TRAINING, **lever), objects16, tiny_unet)
        assert_averaged_alike(net, trained_by(TRAINING, objects16, tiny_unet), tiny_unet)
    if tolerance == BFLOAT16:  # it did take it
        assert (losses / plain - 1).abs().max() > FLOAT32


def assert_averaged_alike(net: TrainedNet, other: TrainedNet, unet: UNetConfig) -> None:
    """The averages of both have come as far from the start, and to the same place."""
    start = build_unet(unet, SIZE, SEED).state_dict()
    for name, weight in other.ema_weights.items():
        moved = (weight.cpu() - start[name]).abs().max()
        assert moved > 0, name
        assert (net.ema_weights[name] - weight).abs().max().cpu() <= 0.2 * moved, name


@pytest.mark.slow
@pytest.mark.parametrize("how", ["model", "blocks"])
def test_a_compiled_net_has_the_gradients_of_the_net(how: Compile) -> None:
    # At this size, and at no smaller one, a faulty gradient was once seen.
    plain = build_unet(UNetConfig(), 32, 0)
    compiled, whole = copy.deepcopy(plain), copy.deepcopy(plain).double()
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, 16, 3, 32, 32, generator=generator)
    t = torch.randint(0, 1000, (16,), generator=generator)
    with in_force(Levers(compile=how)):
        arrange(compiled, Levers(compile=how))
        for net in (compiled, whole):
            dtype = next(net.parameters()).dtype
            loss = (net(x.to(dtype), t).sample - target.to(dtype)).square().mean()
            loss.backward()
    for (name, ours), theirs in zip(compiled.named_parameters(), whole.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        # Those of the keys' biases are 0 but for rounding.
        assert (ours.grad - theirs.grad).norm() <= 1e-3 * theirs.grad.norm() + 1e-6, name


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("lever", "tolerance"),
    [
        ({}, FLOAT32),
        ({"channels_last": True}, FLOAT32),
        ({"cuda_graph": True}, FLOAT32),
        ({"cuda_graph": True, "gradient_accumulation_steps": 2}, FLOAT32),
        ({"cuda_graph": True, "foreach_ema": False}, FLOAT32),
        ({"tf32": "convolutions"}, 0.01),
        ({"tf32": "all"}, 0.01),
        ({"mixed_precision": "fp16"}, 0.01),
        ({"mixed_precision": "bf16"}, BFLOAT16),
        ({"mixed_precision": "fp16", "cuda_graph": True}, 0.01),
        ({"mixed_precision": "bf16", "cuda_graph": True, "channels_last": True}, BFLOAT16),
        ({"compile": "model"}, FLOAT32),
        ({"compile": "blocks", "mixed_precision": "bf16"}, BFLOAT16),
    ],
    ids=str,
)
def test_a_lever_of_cuda_trains_as_float64_does(
    lever: dict[str, Any], tolerance: float, objects16: ImageSet, tiny_unet: UNetConfig
) -> None:
    plain_net = trained_by(TRAINING, objects16, tiny_unet, device="cuda")
    net = trained_by(replace(TRAINING, **lever), objects16, tiny_unet, device="cuda")
    # The device draws noise of its own, so the plain path is that of the device.
    assert (net.losses / plain_net.losses - 1).abs().max() <= tolerance
    assert net.losses.isfinite().all()
    assert_averaged_alike(net, plain_net, tiny_unet)


@pytest.mark.cuda
def test_what_is_resumed_under_a_graph_is_what_was_trained_at_once(
    objects16: ImageSet, tiny_unet: UNetConfig
) -> None:
    training, context = replace(TRAINING, cuda_graph=True), Context(seed=SEED, device="cuda")
    nets: list[TrainedNet | None] = [None]
    for epochs in (3, EPOCHS):
        nets.append(
            train_ddpm(
                objects16,
                SIZE,
                tiny_unet,
                SCHEDULE,
                training,
                context,
                loading=MEMORY,
                epochs=epochs,
                resume_from=nets[-1],
            )
        )
    whole = trained_by(training, objects16, tiny_unet, device="cuda")
    assert nets[-1] is not None
    assert torch.allclose(nets[-1].losses, whole.losses, rtol=FLOAT32, atol=0)


# Sampling -----------------------------------------------------------------------------------------

STEPS, NUM_SAMPLES = 5, 5


@pytest.fixture(scope="module")
def net(objects16: ImageSet, tiny_unet: UNetConfig) -> TrainedNet:
    trained: TrainedNet = trained_by(TRAINING, objects16, tiny_unet)
    return trained


def sampled(net: TrainedNet, unet: UNetConfig, device: str = "cpu", **settings: Any) -> Tensor:
    settings = {"num_inference_steps": STEPS, "num_samples": NUM_SAMPLES, **settings}
    config = SamplingConfig(sampling_tf32="no", **settings)
    context = Context(seed=SEED, device=device)
    return sample(net, None, SIZE, unet, SCHEDULE, config, context).images


@pytest.fixture(scope="module")
def plain_samples(net: TrainedNet, tiny_unet: UNetConfig) -> Tensor:
    """In float64, by the pure sampler."""
    model = load_unet(tiny_unet, SIZE, net.ema_weights).double().eval().requires_grad_(False)
    abar = alphas_cumprod(SCHEDULE)

    def denoiser(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return x_0_and_eps(model(x, t).sample, x, abar[t], "epsilon")

    x = start_noise(NUM_SAMPLES, SIZE, SEED).double()
    return sample_ddim(denoiser, x, spaced_timesteps(50, STEPS), abar, generator=torch.Generator())


SAMPLING_LEVERS = [
    ({}, 1e-4),
    ({"sampling_channels_last": True}, 1e-4),
    ({"sampling_attention": "sdpa"}, 1e-4),
    ({"sampling_precision": "bf16"}, 0.1),
]


@pytest.mark.parametrize(
    ("lever", "tolerance"),
    [
        *SAMPLING_LEVERS,
        ({"sampling_precision": "fp16"}, 1e-4),  # which a CPU has not
        pytest.param({"sampling_compile": "model"}, 1e-4, marks=pytest.mark.slow),
        pytest.param({"sampling_compile": "blocks"}, 1e-4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_lever_samples_as_float64_does(
    lever: dict[str, Any],
    tolerance: float,
    net: TrainedNet,
    plain_samples: Tensor,
    tiny_unet: UNetConfig,
) -> None:
    error = (sampled(net, tiny_unet, **lever) - plain_samples).abs().max()
    assert error <= tolerance
    assert plain_samples.std() > 0.1
    if tolerance == 0.1:
        assert error > 1e-4


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("lever", "tolerance"),
    [
        *SAMPLING_LEVERS,
        ({"sampling_precision": "fp16"}, 0.02),
        ({"sampling_cuda_graph": True}, 1e-4),
        ({"sampling_cuda_graph": True, "samples_per_batch": 2}, 1e-4),
        ({"sampling_cuda_graph": True, "sampling_precision": "bf16"}, 0.1),
        ({"sampling_compile": "model"}, 1e-4),
    ],
    ids=str,
)
def test_a_lever_of_cuda_samples_as_float64_does(
    lever: dict[str, Any],
    tolerance: float,
    net: TrainedNet,
    plain_samples: Tensor,
    tiny_unet: UNetConfig,
) -> None:
    on_device = replace(
        net, ema_weights={name: weight.cuda() for name, weight in net.ema_weights.items()}
    )
    found = sampled(on_device, tiny_unet, "cuda", **lever)
    assert (found - plain_samples).abs().max() <= tolerance


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_samples_do_not_depend_on_their_batch(
    net: TrainedNet, tiny_unet: UNetConfig, sampler: str, size: int
) -> None:
    together = sampled(net, tiny_unet, sampler=sampler)
    apart = sampled(net, tiny_unet, sampler=sampler, samples_per_batch=size)
    assert (together - apart).abs().max() <= 1e-5
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("fits", [1, 2, 5, 6])
def test_a_batch_that_memory_does_not_hold_is_halved(fits: int) -> None:
    asked = []

    def batch(first: int, last: int) -> Tensor:
        asked.append(last - first)
        if last - first > fits:
            raise torch.OutOfMemoryError
        return torch.arange(first, last)

    assert torch.equal(torch.cat(_in_batches(batch, 6, None)), torch.arange(6))
    # No further attempt than it takes to find a size.
    assert asked == {1: [6, 3, 2, *[1] * 6], 2: [6, 3, 2, 2, 2], 5: [6, 3, 3], 6: [6]}[fits]
    if fits < 6:
        with pytest.raises(torch.OutOfMemoryError):
            _in_batches(batch, 6, 6)
    with pytest.raises(torch.OutOfMemoryError):
        _in_batches(lambda first, last: batch(0, 7), 6, None)


# What a lever touches ---------------------------------------------------------------------------


def test_attention_is_the_one_asked_for(tiny_unet: UNetConfig) -> None:
    for levers, kind in (
        (Levers(attention="eager"), AttnProcessor),
        (Levers(attention="sdpa"), AttnProcessor2_0),
        (Levers(), AttnProcessor),  # on a CPU
    ):
        model = build_unet(tiny_unet, SIZE, 0)
        arrange(model, levers)
        layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
        assert layers and all(isinstance(layer.processor, kind) for layer in layers)


class _Seen:
    """What is in force while nets run, and how they are given their input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: set[int] = set()
        self.tf32: set[str] = set()
        self.layouts: set[tuple[bool, bool]] = set()
        self.compiled: set[str] = set()
        forward = nn.Conv2d.forward

        def watched(layer: nn.Conv2d, x: Tensor) -> Tensor:
            # 1 x 1 and single channels lie both ways.
            if x.shape[1] > 1 and layer.kernel_size == (3, 3) and x.shape[-1] > 1:
                self.layouts.add(
                    tuple(
                        one.is_contiguous(memory_format=torch.channels_last)
                        for one in (x, layer.weight)
                    )  # type: ignore[arg-type]
                )
            self.threads.add(torch.get_num_threads())
            cudnn: Any = torch.backends.cudnn
            self.tf32.add(cudnn.conv.fp32_precision)
            return forward(layer, x)

        def compile_only(layer: nn.Module, **_: Any) -> None:
            self.compiled.add(type(layer).__name__)

        monkeypatch.setattr(nn.Conv2d, "forward", watched)
        monkeypatch.setattr(nn.Module, "compile", compile_only)


@pytest.mark.parametrize("stage", ["train", "sample"])
@pytest.mark.parametrize(
    ("channels_last", "compiles", "compiled"),
    [
        (False, "no", set()),
        (True, "model", {"UNet2DModel"}),
        (True, "blocks", {"ResnetBlock2D", "Attention"}),
    ],
)
def test_levers_reach_the_nets(
    stage: str,
    channels_last: bool,
    compiles: Compile,
    compiled: set[str],
    objects16: ImageSet,
    tiny_unet: UNetConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = trained_by(TRAINING, objects16, tiny_unet)
    seen = _Seen(monkeypatch)
    if stage == "train":
        threads = 3 if torch.get_num_threads() != 3 else 2
        training = replace(
            TRAINING, channels_last=channels_last, compile=compiles, num_threads=threads
        )
        trained_by(training, objects16, tiny_unet)
        assert seen.threads == {threads}
    else:
        sampling = SamplingConfig(
            num_samples=2,
            num_inference_steps=2,
            sampling_channels_last=channels_last,
            sampling_compile=compiles,
            sampling_tf32="no",
        )
        sample(net, None, SIZE, tiny_unet, SCHEDULE, sampling, Context(seed=SEED))
    assert seen.tf32 == {"ieee"}
    assert {weight for _, weight in seen.layouts} == {channels_last}
    if channels_last:  # without, attention leaves its output so all the same
        assert {given for given, _ in seen.layouts} == {True}
    assert seen.compiled == compiled


def test_what_holds_for_the_process_is_put_back() -> None:
    cudnn: Any = torch.backends.cudnn
    conv = cudnn.conv
    matmul: Any = torch.backends.cuda.matmul

    def now() -> tuple[str, str, int]:
        return conv.fp32_precision, matmul.fp32_precision, torch.get_num_threads()

    before = now()
    other = 3 if before[2] == 2 else 2
    for tf32, its_own in (("no", ("ieee", "ieee")), ("convolutions", ("tf32", "ieee"))):
        with in_force(Levers(tf32=tf32, num_threads=other)):  # type: ignore[arg-type]
            assert now() == (*its_own, other)
        assert now() == before
    levers = in_force(Levers(tf32="no", num_threads=other))
    levers.__enter__()
    assert now() != before
    assert not levers.__exit__(KeyError, KeyError(), None)
    assert now() == before


@pytest.mark.cuda
def test_a_recorded_step_changes_what_the_step_would_have_changed() -> None:
    total = torch.zeros(3, device="cuda")

    def step(x: Tensor) -> Tensor:
        total.add_(x.sum())
        return total * 2

    recorded = Recorded(step, lambda: [total])
    expected = 0.0
    for length in (2, 3, 2, 2, 3):
        x = torch.full((length,), float(length), device="cuda")
        expected += length**2
        assert recorded(x).tolist() == [2 * expected] * 3
    assert total.tolist() == [expected] * 3
