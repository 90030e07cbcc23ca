from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
)
from torch import Tensor

from dipddpm.config import (
    BetaSchedule,
    Context,
    NoiseScheduleConfig,
    PredictionType,
    RestorationConfig,
    SamplingConfig,
    TimestepSpacing,
    UNetConfig,
    alphas_cumprod,
    derive_seed,
    own_noise_level,
    start_point,
)
from dipddpm.degradation import degrade
from dipddpm.diffusion import build_unet, x_0_and_eps
from dipddpm.images import ImageSet, take
from dipddpm.metrics import psnr
from dipddpm.sampling import (
    SAMPLERS,
    Denoiser,
    as_images,
    as_samples,
    sample,
    sample_ddim,
    sample_ddpm,
    sample_dpmsolver,
    spaced_timesteps,
    start_noise,
)
from dipddpm.training import TrainedNet
from tests.recording import same

# In float64, and with our abar in place of its own of float32, diffusers gives the same numbers.
# As it comes, its product of 1,000 alphas is known to 1e-5 or so, and the first steps of a reverse
# process divide by sqrt(abar_T) = 0.006. Images span 2.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-3}
DTYPES = [torch.float32, torch.float64]
SPACINGS: list[TimestepSpacing] = ["leading", "trailing"]
PREDICTIONS: list[PredictionType] = ["epsilon", "v_prediction"]
COSINE = NoiseScheduleConfig(beta_schedule="squaredcos_cap_v2")
COSINE_50 = replace(COSINE, num_train_timesteps=50)
ZERO_SNR = NoiseScheduleConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction")
WITHOUT_NOISE = ["ddim", "dpmsolver++"]  # the samplers that draw none


@pytest.fixture(scope="module")
def model(tiny_unet: UNetConfig) -> Any:
    """Random weights, in the last layer enlarged so that the output is of the size of noise."""
    net: Any = build_unet(tiny_unet, 16, 3).eval().requires_grad_(False)
    net.conv_out.weight *= 3
    return net


@pytest.fixture(scope="module")
def net(model: Any) -> TrainedNet:
    weights = dict(model.state_dict())
    other = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    return TrainedNet(1, other, weights, {}, torch.ones(1))  # samples come from the EMA weights


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def diffusers_images(
    pipeline: Any, schedule: NoiseScheduleConfig, dtype: torch.dtype, **settings: Any
) -> Tensor:
    """What a pipeline of diffusers gives, back in [-1, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    if dtype == torch.float64:
        pipeline.scheduler.alphas_cumprod = torch.tensor(alphas_cumprod(schedule), dtype=dtype)
    generator = seeded()
    output = pipeline(batch_size=3, generator=generator, output_type="np", **settings).images
    return torch.from_numpy(output).permute(0, 3, 1, 2) * 2 - 1


def our_denoiser(model: Any, schedule: NoiseScheduleConfig) -> Denoiser:
    abar = alphas_cumprod(schedule)

    def denoiser(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        output: Tensor = model(x, t, return_dict=False)[0]
        return x_0_and_eps(output, x, abar[t], schedule.prediction_type)

    return denoiser


def our_images(
    sampler: str,
    model: Any,
    schedule: NoiseScheduleConfig,
    n: int,
    spacing: TimestepSpacing,
) -> Tensor:
    """The same with our sampler: one generator for the start and then for the steps."""
    generator = seeded()
    x = torch.randn(3, 3, 16, 16, generator=generator, dtype=model.dtype)
    return SAMPLERS[sampler](
        our_denoiser(model, schedule),
        x,
        spaced_timesteps(schedule.num_train_timesteps, n, spacing),
        alphas_cumprod(schedule),
        generator=generator,
    )


def assert_alike(
    left: Tensor, right: Tensor, dtype: torch.dtype, *, least_inside: float = 0.2
) -> None:
    assert left.dtype == dtype
    assert (left - right).abs().max().item() < TOLERANCE[dtype]
    # and neither is the flat black or white that clipping makes of everything
    assert left.std() > 0.1
    assert (left.abs() < 0.99).float().mean() > least_inside


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("schedule", "n", "spacing"),
    [
        (NoiseScheduleConfig(num_train_timesteps=50), 50, "leading"),
        (COSINE_50, 50, "trailing"),
        (NoiseScheduleConfig(), 25, "leading"),
        (NoiseScheduleConfig(), 25, "trailing"),
        (NoiseScheduleConfig(beta_schedule="sigmoid"), 25, "trailing"),
        (COSINE, 30, "trailing"),  # 30 does not divide 1000
        (NoiseScheduleConfig(prediction_type="v_prediction"), 25, "leading"),
        (ZERO_SNR, 25, "trailing"),
        (ZERO_SNR, 25, "leading"),
    ],
)
def test_ddpm_is_the_pipeline_of_diffusers(
    model: Any,
    dtype: torch.dtype,
    schedule: NoiseScheduleConfig,
    n: int,
    spacing: TimestepSpacing,
) -> None:
    scheduler = DDPMScheduler(timestep_spacing=spacing, **vars(schedule))
    net = copy.deepcopy(model).to(dtype)
    theirs = diffusers_images(DDPMPipeline(net, scheduler), schedule, dtype, num_inference_steps=n)
    assert_alike(our_images("ddpm", net, schedule, n, spacing), theirs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("schedule", "n", "spacing"),
    [
        (NoiseScheduleConfig(), 10, "leading"),
        (NoiseScheduleConfig(), 20, "leading"),
        (NoiseScheduleConfig(), 20, "trailing"),
        (COSINE, 20, "leading"),
        (replace(COSINE, num_train_timesteps=500), 10, "trailing"),
        (NoiseScheduleConfig(num_train_timesteps=50), 50, "leading"),
        (NoiseScheduleConfig(beta_schedule="scaled_linear"), 20, "trailing"),
        (NoiseScheduleConfig(prediction_type="v_prediction"), 20, "trailing"),
        (ZERO_SNR, 20, "trailing"),
        (ZERO_SNR, 20, "leading"),
    ],
)
def test_ddim_is_the_pipeline_of_diffusers(
    model: Any,
    dtype: torch.dtype,
    schedule: NoiseScheduleConfig,
    n: int,
    spacing: TimestepSpacing,
) -> None:
    # With n a divisor of total: DDIMScheduler steps T // n down whatever its next timestep is.
    scheduler = DDIMScheduler(timestep_spacing=spacing, **vars(schedule))
    net = copy.deepcopy(model).to(dtype)
    theirs = diffusers_images(
        DDIMPipeline(net, scheduler), schedule, dtype, num_inference_steps=n, eta=0.0
    )
    assert_alike(our_images("ddim", net, schedule, n, spacing), theirs, dtype)


# np.array(tensor), which it calls
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("schedule", "n", "spacing"),
    [
        (NoiseScheduleConfig(), 20, "trailing"),
        (NoiseScheduleConfig(), 10, "leading"),
        (NoiseScheduleConfig(), 2, "trailing"),
        (NoiseScheduleConfig(), 1, "leading"),
        (COSINE, 30, "trailing"),
        (NoiseScheduleConfig(beta_schedule="scaled_linear"), 14, "trailing"),
        (NoiseScheduleConfig(prediction_type="v_prediction"), 15, "trailing"),
        (ZERO_SNR, 20, "leading"),
    ],
)
def test_dpmsolver_is_the_scheduler_of_diffusers(
    model: Any,
    dtype: torch.dtype,
    schedule: NoiseScheduleConfig,
    n: int,
    spacing: TimestepSpacing,
) -> None:
    net = copy.deepcopy(model).to(dtype)
    x = torch.randn(3, 3, 16, 16, generator=seeded(), dtype=dtype)
    theirs = dpmsolver_of_diffusers(net, x, schedule, n, spacing)
    ours = our_images("dpmsolver++", net, schedule, n, spacing)
    # From the eps of a net that knows nothing comes an x_0 that is mostly clipped.
    assert_alike(ours, theirs, dtype, least_inside=0.03)


def dpmsolver_of_diffusers(
    net: Any, x: Tensor, schedule: NoiseScheduleConfig, n: int, spacing: TimestepSpacing
) -> Tensor:
    """Its scheduler over our timesteps: its own leading ones are of n + 1 steps.

    It has no clip_sample; its thresholding at a maximum of 1 clips x_0 to [-1, 1]. Its `step`
    casts to float32: for float64 this calls the updates that it would choose.
    """
    scheduler: Any = DPMSolverMultistepScheduler(thresholding=True, **vars(schedule))
    timesteps = spaced_timesteps(schedule.num_train_timesteps, n, spacing)
    scheduler.set_timesteps(timesteps=timesteps)
    if x.dtype == torch.float32:
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t).sample, t, x).prev_sample
        return x.clamp(-1, 1)
    abar = torch.tensor([*(alphas_cumprod(schedule)[t] for t in timesteps), 1], dtype=x.dtype)
    scheduler.sigmas = ((1 - abar) / abar).sqrt()
    seen: list[Tensor] = []
    for i, t in enumerate(timesteps):
        scheduler._step_index = i
        seen.append(scheduler.convert_model_output(net(x, t).sample, sample=x))
        if i in (0, n - 1):
            x = scheduler.dpm_solver_first_order_update(seen[-1], sample=x)
        else:
            x = scheduler.multistep_dpm_solver_second_order_update(seen[-2:], sample=x)
    return x.clamp(-1, 1)


def of_a_gaussian(abar: Sequence[float], deviation: float) -> Denoiser:
    """The best denoiser there is, for images of independent normal pixels."""

    def denoiser(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        x_0 = math.sqrt(abar[t]) * deviation**2 / variance(abar[t], deviation) * x
        return x_0, (x - math.sqrt(abar[t]) * x_0) / math.sqrt(1 - abar[t])

    return denoiser


def variance(abar_t: float, deviation: float) -> float:
    """Of x_t."""
    return abar_t * deviation**2 + 1 - abar_t


@pytest.mark.parametrize("schedule", [NoiseScheduleConfig(), COSINE])
def test_dpmsolver_is_of_second_order(schedule: NoiseScheduleConfig) -> None:
    """Along the exact path x_t stays in proportion to its standard deviation."""
    abar, deviation = alphas_cumprod(schedule), 0.1
    denoiser = of_a_gaussian(abar, deviation)
    z = torch.randn(1, 3, 16, 16, generator=seeded(), dtype=torch.float64)
    first, last = (math.sqrt(variance(abar[t], deviation)) * z for t in (900, 100))
    # The last step goes where the denoiser says, whatever the path to it.
    exact, _ = denoiser(last, 100)

    def error(sampler: str, n: int) -> float:
        timesteps = range(900, 99, -800 // n)
        got = SAMPLERS[sampler](denoiser, first, timesteps, abar, generator=seeded())
        return ((got - exact) / exact).abs().max().item()

    for n in (50, 100, 200):
        # twice the steps: half the error of first order, a quarter of second
        assert 0.45 < error("ddim", 2 * n) / error("ddim", n) < 0.55
        assert 0.2 < error("dpmsolver++", 2 * n) / error("dpmsolver++", n) < 0.3
        assert error("dpmsolver++", n) < error("ddim", n) / 4


def test_dpmsolver_from_pure_noise_is_the_limit_of_little_signal() -> None:
    """A log-SNR of -inf needs no clamp: it is where ever smaller ones lead."""
    abar = alphas_cumprod(ZERO_SNR)
    x = torch.randn(1, 3, 16, 16, generator=seeded(), dtype=torch.float64)

    def images(terminal: float) -> Tensor:
        levels = [*abar[:-1], terminal]
        return sample_dpmsolver(
            of_a_gaussian(levels, 0.3), x, spaced_timesteps(1000, 8), levels, generator=seeded()
        )

    distances = [(images(terminal) - images(0)).abs().max().item() for terminal in TERMINALS]
    # The correction of the second step goes with 1 / log-SNR: it falls, slowly.
    assert all(b < a for a, b in pairwise(distances))
    assert 0 < distances[-1] < 0.02
    assert images(0).isfinite().all()


TERMINALS = [1e-8, 1e-16, 1e-32, 1e-64, 1e-128, 1e-256]


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_stage_is_a_plain_loop_over_the_scheduler(
    net: TrainedNet,
    model: Any,
    tiny_unet: UNetConfig,
    sampler: Any,
    prediction_type: PredictionType,
) -> None:
    schedule, context = NoiseScheduleConfig(prediction_type=prediction_type), Context(seed=9)
    sampling = SamplingConfig(sampler=sampler, num_samples=3, num_inference_steps=10)
    samples = sample(net, None, 16, tiny_unet, schedule, sampling, context).images
    kind: Any = DDPMScheduler if sampler == "ddpm" else DDIMScheduler
    scheduler = kind(timestep_spacing="trailing", prediction_type=prediction_type)
    scheduler.set_timesteps(10)
    generator = seeded(derive_seed(9, "ancestral"))
    x = torch.stack(
        [torch.randn(3, 16, 16, generator=seeded(derive_seed(9, "sample", i))) for i in range(3)]
    )
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t).sample, t, x, generator=generator).prev_sample
    assert_alike(samples, x.clamp(-1, 1), torch.float32)
    assert not samples.is_inference()


PAIRS = [
    *((T, n) for T in (2, 7, 50, 100) for n in range(1, T + 1)),
    *((T, n) for T in (500, 777, 1000) for n in range(1, T + 1, 13)),
    *((1000, n) for n in (2, 4, 5, 8, 10, 20, 25, 30, 50, 100, 125, 200, 250, 463, 500, 1000)),
]


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_leading_timesteps_are_those_of_diffusers(kind: Any) -> None:
    for T, n in PAIRS:
        scheduler = kind(num_train_timesteps=T, timestep_spacing="leading")
        scheduler.set_timesteps(n)
        assert spaced_timesteps(T, n, "leading") == scheduler.timesteps.tolist(), (T, n)


def test_trailing_timesteps_are_exact_and_those_of_diffusers_but_for_ties() -> None:
    """diffusers counts down in float64, which tips ties and now and then yields a step too many."""
    compared = 0
    for T, n in PAIRS:
        got = spaced_timesteps(T, n, "trailing")
        exact = [T - Fraction(i * T, n) for i in range(n)]
        assert got == [round(step) - 1 for step in exact], (T, n)  # half to even, as numpy rounds
        scheduler: Any = DDIMScheduler(num_train_timesteps=T, timestep_spacing="trailing")
        scheduler.set_timesteps(n)
        theirs = scheduler.timesteps.tolist()
        assert len(theirs) == n or (len(theirs) == n + 1 and theirs[-1] == -1), (T, n)
        for mine, other, step in zip(got, theirs, exact, strict=False):
            tie = step.denominator == 2
            assert mine == other or (tie and abs(mine - other) == 1), (T, n, mine, other)
            compared += not tie
        if T % n == 0:
            assert got == theirs
    assert compared > 10_000


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("t0", [1, 2, 13, 500, 1000])
def test_timesteps_descend_and_stay_below_t0(t0: int, spacing: TimestepSpacing) -> None:
    for n in {1, 2, 5, t0 // 3, t0} - {0}:
        if n > t0:
            continue
        steps = spaced_timesteps(t0, n, spacing)
        assert len(steps) == n
        assert all(np.diff(steps) < 0)
        assert min(steps) >= 0
        assert steps[0] == t0 - 1 if spacing == "trailing" else steps[-1] == 0
    assert spaced_timesteps(t0, t0, spacing) == list(range(t0))[::-1]


def test_the_start_noise_of_an_image_is_its_own() -> None:
    many = start_noise(9, 16, 4)
    assert torch.equal(start_noise(3, 16, 4), many[:3])
    assert torch.equal(start_noise(1, 16, 4), many[:1])
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(start_noise(1, 16, 5), many[:1])
    # 6,912 draws: standard errors of 0.012 and 0.0085
    assert abs(many.mean().item()) < 0.06
    assert abs(many.std().item() - 1) < 0.045


@pytest.mark.parametrize("sampler", WITHOUT_NOISE)
def test_a_sample_without_noise_does_not_depend_on_the_batch(
    net: TrainedNet, tiny_unet: UNetConfig, sampler: Any
) -> None:
    sampling = SamplingConfig(sampler=sampler, num_samples=5, num_inference_steps=5)
    arguments = (16, tiny_unet, NoiseScheduleConfig())
    many = sample(net, None, *arguments, sampling, Context()).images
    few = sample(net, None, *arguments, replace(sampling, num_samples=2), Context()).images
    # Convolutions of other batch sizes may add up in another order.
    assert torch.allclose(many[:2], few, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_start_of_nothing_but_noise_is_plain_sampling(
    net: TrainedNet, tiny_unet: UNetConfig, objects16: ImageSet, sampler: Any
) -> None:
    plain = SamplingConfig(sampler=sampler, num_samples=4, num_inference_steps=5)
    from_noise = replace(
        plain,
        task="restore",
        start_from="dip",
        t0=1000,
        start_image_weight=0.0,
        start_noise_weight=1.0,
    )
    arguments = (16, tiny_unet, NoiseScheduleConfig())
    expected = sample(net, None, *arguments, plain, Context()).images
    got = sample(net, objects16, *arguments, from_noise, Context()).images
    assert torch.equal(got, expected)
    # With its default weights the same start is another.
    default = replace(from_noise, t0=None, start_image_weight=None, start_noise_weight=None)
    assert not torch.equal(sample(net, objects16, *arguments, default, Context()).images, expected)


@pytest.mark.parametrize("t0", [1, 40, 500, 1000])
@pytest.mark.parametrize("n", [1, 7, 30])
@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("sampler", WITHOUT_NOISE)
def test_the_true_noise_gives_the_image_back(
    objects16: ImageSet, t0: int, n: int, kind: BetaSchedule, sampler: Any
) -> None:
    x_0 = take(objects16, 0, 3).pixels.double()
    schedule = NoiseScheduleConfig(beta_schedule=kind)
    abar = alphas_cumprod(schedule)
    sampling = SamplingConfig(
        task="restore",
        sampler=sampler,
        start_from="original",
        t0=t0,
        num_inference_steps=min(n, t0),
    )
    # Mixed and visited as `sample` does: at timestep t0 - 1, whatever is visited first.
    point = start_point(sampling, schedule)
    timesteps = spaced_timesteps(t0, sampling.num_inference_steps, sampling.timestep_spacing)
    eps = torch.randn(x_0.shape, generator=seeded(), dtype=torch.float64)
    x = point.a * x_0 + point.b * eps
    seen: list[int] = []

    def oracle(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        seen.append(t)
        return x_0_and_eps(eps, x, abar[t], "epsilon")

    got = SAMPLERS[sampler](oracle, x, timesteps, abar, generator=seeded())
    # float64 throughout; at T the image is a part in 2e4 of x for the cosine schedule
    assert (got - x_0).abs().max() < 1e-10
    assert seen == timesteps


@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
def test_ddpm_with_an_oracle_of_the_image_ends_at_it(
    objects16: ImageSet, kind: BetaSchedule
) -> None:
    x_0 = take(objects16, 0, 2).pixels.double()
    schedule = NoiseScheduleConfig(num_train_timesteps=50, beta_schedule=kind)
    abar = alphas_cumprod(schedule)

    def oracle(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return x_0, (x - math.sqrt(abar[t]) * x_0) / math.sqrt(1 - abar[t])

    x = torch.randn(x_0.shape, generator=seeded(), dtype=torch.float64)
    got = sample_ddpm(oracle, x, list(range(50))[::-1], abar, generator=seeded(1))
    assert (got - x_0).abs().max() < 1e-9


def test_ddpm_keeps_the_variance_of_the_forward_process() -> None:
    # With a true x_0 of zero everywhere, x_t is noise of variance 1 - abar_t at every step.
    schedule = NoiseScheduleConfig(num_train_timesteps=50)
    abar = alphas_cumprod(schedule)
    seen: dict[int, float] = {}

    def oracle(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        seen[t] = x.square().mean().item()
        return torch.zeros_like(x), x / math.sqrt(1 - abar[t])

    x = math.sqrt(1 - abar[49]) * torch.randn(8, 3, 32, 32, generator=seeded(), dtype=torch.float64)
    sample_ddpm(oracle, x, spaced_timesteps(50, 10), abar, generator=seeded(1))
    assert len(seen) == 10
    for t, power in seen.items():
        # 24,576 draws: a standard error of 0.9 % for their power
        assert power == pytest.approx(1 - abar[t], rel=0.045), t


def test_the_degraded_image_is_restored_from_its_own_level(objects16: ImageSet) -> None:
    """sqrt(abar) times the degraded image is x_t0: an oracle of its noise undoes the degrading."""
    restoration, schedule, context = RestorationConfig(), NoiseScheduleConfig(), Context(seed=2)
    degraded = degrade(objects16, restoration.degradation_sigma, context)
    sampling = SamplingConfig(
        task="restore", start_from="degraded", num_inference_steps=10, restoration=restoration
    )
    abar = alphas_cumprod(schedule)
    point = start_point(sampling, schedule)
    assert point.t0 == own_noise_level(25.0, abar)
    x_t0 = point.a * degraded.pixels
    noise = (degraded.pixels - objects16.pixels) / (50 / 255)
    timesteps = spaced_timesteps(point.t0, 10)

    def oracle(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return x_0_and_eps(noise, x, abar[t], "epsilon")

    got = sample_ddim(oracle, x_t0, timesteps, abar, generator=seeded())
    # The level is one of a thousand: it differs from that of the noise by up to 1 %, or
    # 0.01 x 50/255 of the noise, which is 60 dB.
    assert psnr(got, objects16.pixels).min() > 50
    assert psnr(degraded.pixels.clamp(-1, 1), objects16.pixels).max() < 23


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_leaves_the_net_as_it_was(
    net: TrainedNet, tiny_unet: UNetConfig, sampler: Any
) -> None:
    kept = copy.deepcopy(net)
    sampling = SamplingConfig(sampler=sampler, num_samples=2, num_inference_steps=2)
    sample(net, None, 16, tiny_unet, NoiseScheduleConfig(), sampling, Context())
    assert same(net, kept)
    assert not any(weight.requires_grad for weight in net.ema_weights.values())


def test_only_as_many_starts_as_samples_are_used(
    net: TrainedNet, tiny_unet: UNetConfig, objects16: ImageSet
) -> None:
    sampling = SamplingConfig(
        task="restore", start_from="blur", num_samples=2, num_inference_steps=3
    )
    arguments = (16, tiny_unet, NoiseScheduleConfig(), sampling, Context())
    assert torch.equal(
        sample(net, objects16, *arguments).images,
        sample(net, take(objects16, 0, 2), *arguments).images,
    )


def test_watch_sees_each_step_and_changes_nothing(net: TrainedNet, tiny_unet: UNetConfig) -> None:
    seen: list[object] = []

    def watch(iterable: Any, /) -> Any:
        for item in iterable:
            seen.append(item)
            yield item

    names: Any = SAMPLERS
    for sampler in names:
        seen.clear()
        sampling = SamplingConfig(sampler=sampler, num_samples=1, num_inference_steps=4)
        arguments = (net, None, 16, tiny_unet, NoiseScheduleConfig(), sampling)
        watched = sample(*arguments, Context(watch=watch)).images
        assert len(seen) == 4
        assert torch.equal(watched, sample(*arguments, Context()).images)


def test_the_net_is_given_its_condition(tiny_unet: UNetConfig, objects16: ImageSet) -> None:
    model: Any = build_unet(tiny_unet, 16, 3, in_channels=6).eval().requires_grad_(False)
    net = TrainedNet(1, {}, dict(model.state_dict()), {}, torch.ones(1))
    sampling = SamplingConfig(task="restore", num_samples=3, num_inference_steps=4)
    arguments = (net, None, 16, tiny_unet, NoiseScheduleConfig(), sampling, Context(seed=9))
    # The first three of ten are used.
    got = sample(*arguments, condition=objects16).images
    scheduler: Any = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    x = start_noise(3, 16, 9)
    for t in scheduler.timesteps:
        seen = torch.cat((x, objects16.pixels[:3]), dim=1)
        x = scheduler.step(model(seen, t).sample, t, x).prev_sample
    assert (got - x.clamp(-1, 1)).abs().max() < TOLERANCE[torch.float32]
    other = sample(*arguments, condition=take(objects16, 3, 6)).images
    assert (got - other).abs().max() > 0.01


def test_a_start_can_be_the_outcome(objects16: ImageSet) -> None:
    degraded = degrade(objects16, 25, Context())
    assert degraded.pixels.abs().max() > 1
    samples = as_samples(degraded)
    assert torch.equal(samples.images, degraded.pixels.clamp(-1, 1))
    assert as_images(samples).pixels is samples.images


@pytest.mark.cuda
def test_ddim_samples_on_cuda_are_those_of_the_cpu(net: TrainedNet, tiny_unet: UNetConfig) -> None:
    sampling = SamplingConfig(num_samples=3, num_inference_steps=5, sampling_tf32="no")
    cpu, cuda = (
        sample(
            net, None, 16, tiny_unet, NoiseScheduleConfig(), sampling, Context(device=device)
        ).images
        for device in ("cpu", "cuda")
    )
    assert cuda.device.type == "cpu"
    assert (cpu - cuda).abs().max() < TOLERANCE[torch.float32]


@pytest.mark.parametrize("num_steps", [1, 3, 20])
@pytest.mark.parametrize("samples_per_batch", [None, 1, 2])
def test_the_path_is_where_the_first_samples_pass(
    model: Any,
    net: TrainedNet,
    tiny_unet: UNetConfig,
    num_steps: int,
    samples_per_batch: int | None,
) -> None:
    sampling = SamplingConfig(
        sampler="ddim", num_samples=3, num_inference_steps=num_steps,
        samples_per_batch=samples_per_batch,
    )  # fmt: skip
    made = sample(net, None, 16, tiny_unet, COSINE, sampling, Context())
    timesteps = spaced_timesteps(1000, num_steps, sampling.timestep_spacing)
    assert made.path is not None and made.path_timesteps is not None
    shown = made.path_timesteps.tolist()
    assert shown[0] == timesteps[0] and shown[-1] == timesteps[-1]
    assert shown == sorted(set(shown), reverse=True) and set(shown) <= set(timesteps)
    assert len(shown) == min(num_steps, 6)
    assert made.path.shape == (len(shown), 2, 3, 16, 16)
    # All of the steps, by hand.
    abar = alphas_cumprod(COSINE)
    denoiser, x = our_denoiser(model, COSINE), start_noise(3, 16, 0)
    for place, t in enumerate(timesteps):
        if t in shown:
            assert (made.path[shown.index(t)] - x[:2]).abs().max() < TOLERANCE[torch.float32]
        x_0, eps = denoiser(x, t)
        following = abar[timesteps[place + 1]] if place + 1 < len(timesteps) else 1.0
        x = math.sqrt(following) * x_0.clamp(-1, 1) + math.sqrt(1 - following) * eps
    assert (made.images - x.clamp(-1, 1)).abs().max() < TOLERANCE[torch.float32]
