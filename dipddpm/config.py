"""Every setting of the pipeline, checked once, as frozen dataclasses. Imports no torch.

Field names are unique over all the classes, so that a suite file or a table of results can name a
setting by its field alone. The defaults are the corrected protocol at a size for two CPU cores.
"""

from __future__ import annotations

import functools
import hashlib
import math
import types
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

VERSION = "0.1.0"

Item = TypeVar("Item")
TrainOn = Literal["images", "dip"]
Loader = Literal["memory", "decode"]
StartFrom = Literal["noise", "degraded", "dip", "blur"]
BetaSchedule = Literal["linear", "squaredcos_cap_v2"]
Task = Literal["generate", "restore"]
Sampler = Literal["ddpm", "ddim"]
TimestepSpacing = Literal["leading", "trailing"]
PriorTarget = Literal["unit", "signed"]

# What is trained on, or started from, that takes a fit of priors to make.
MADE_OF_PRIORS = frozenset({"dip"})


@functools.cache
def _hints(config: Hashable) -> dict[str, Any]:
    return get_type_hints(config)


def _check_types(config: Any) -> None:
    """A setting by another name or of another type would silently measure something else."""
    for name, hint in _hints(config.__class__).items():
        value = getattr(config, name)
        options = set(get_args(hint)) if get_origin(hint) is types.UnionType else {hint}
        if value is None and type(None) in options:
            continue
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                names = ", ".join(map(str, get_args(hint)))
                raise ValueError(f"{name} must be one of {names}, got {value!r}")
        elif float in options:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name} must be a number, got {value!r}")
        elif int in options:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
        elif hint == tuple[int, ...] and not (
            isinstance(value, tuple) and all(type(item) is int for item in value)
        ):
            raise ValueError(f"{name} must be a tuple of whole numbers, got {value!r}")


def _at_most(config: object, maximum: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value > maximum:
            raise ValueError(f"{name} must be at most {maximum}, got {value}")


def _at_least(config: object, minimum: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        # `not >=` also refuses NaN.
        if value is not None and not minimum <= value < math.inf:
            raise ValueError(f"{name} must be at least {minimum} and finite, got {value}")


def _above_zero(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and at what size."""

    image_size: int = 32
    num_images: int = 64
    num_held_out: int = 16

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 11, "image_size")  # the window of ssim
        _at_most(self, 4096, "image_size")
        _at_least(self, 1, "num_images", "num_held_out")


@dataclass(frozen=True, kw_only=True)
class DIPConfig:
    """The fit of one small net to each image (Ulyanov et al. 2018, with the published net)."""

    num_iter: int = 100
    prior_learning_rate: float = 0.01
    # "signed" is the published flaw: a target in [-1, 1] under a net that ends in a Sigmoid, so
    # everything below mid-grey becomes black. "unit" gives the target in [0, 1].
    prior_target: PriorTarget = "unit"
    # Images fitted together. A fit does not depend on it; the reuse of fits between data sizes
    # does: prefixes share whole chunks.
    images_per_fit: int = 16

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "num_iter", "images_per_fit")
        _above_zero(self, "prior_learning_rate")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The denoiser, a diffusers UNet2DModel."""

    block_out_channels: tuple[int, ...] = (16, 32, 64)
    layers_per_block: int = 1
    # Levels, counted from 0 at full resolution, whose blocks have self-attention.
    attention_levels: tuple[int, ...] = (2,)
    norm_num_groups: int = 8

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "layers_per_block", "norm_num_groups")
        if not self.block_out_channels:
            raise ValueError("block_out_channels must name at least one level, got ()")
        for channels in self.block_out_channels:
            if channels < 1 or channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels must be multiples of norm_num_groups = "
                    f"{self.norm_num_groups}, got {channels}"
                )
        for level in self.attention_levels:
            if not 0 <= level < len(self.block_out_channels):
                raise ValueError(
                    f"attention_levels must be below {len(self.block_out_channels)}, got {level}"
                )
        # UNet2DModel gives each head of attention 8 channels; its middle, after the last level,
        # always has attention.
        for level in (*self.attention_levels, -1):
            if self.block_out_channels[level] < 8:
                raise ValueError(
                    "block_out_channels must be at least 8 at attention_levels and at the last "
                    f"level, got {self.block_out_channels[level]}"
                )


@dataclass(frozen=True, kw_only=True)
class NoiseScheduleConfig:
    """The forward process (Ho et al. 2020; squaredcos_cap_v2: Nichol and Dhariwal 2021)."""

    num_train_timesteps: int = 1000
    beta_schedule: BetaSchedule = "linear"

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 2, "num_train_timesteps")
        _at_most(self, 100_000, "num_train_timesteps")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training loop: AdamW at a constant learning rate after a warm-up, with EMA."""

    batch_size: int = 16
    learning_rate: float = 1e-4
    lr_warmup_steps: int = 1
    max_grad_norm: float = 1.0
    # The decay in force at step k is min(ema_decay, (1 + k) / (10 + k)).
    ema_decay: float = 0.9999

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "batch_size")
        _at_least(self, 0, "lr_warmup_steps")
        _above_zero(self, "learning_rate", "max_grad_norm")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class RestorationConfig:
    """What is done to held-out images before they are restored, or in place of a prior."""

    # The standard deviation of the noise added, of a grey range of 255.
    degradation_sigma: float = 25.0
    # The standard deviation, in pixels, of the blur that stands in for a prior.
    blur_sigma: float = 1.0

    def __post_init__(self) -> None:
        _check_types(self)
        _above_zero(self, "degradation_sigma", "blur_sigma")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """One reverse process: from pure noise, or from a start image S as x_t0 = a S + b eps.

    t0 counts noise levels from 1 to num_train_timesteps; None takes the default of `start_from`
    (`start_point`), as do start_image_weight (a) and start_noise_weight (b).
    """

    task: Task = "generate"
    sampler: Sampler = "ddim"
    num_inference_steps: int = 20
    # "leading" (the default of diffusers) never visits the last timestep; see Lin et al. 2023.
    timestep_spacing: TimestepSpacing = "trailing"
    num_samples: int = 16
    start_from: StartFrom = "noise"
    t0: int | None = None
    start_image_weight: float | None = None
    start_noise_weight: float | None = None
    restoration: RestorationConfig = RestorationConfig()

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "num_inference_steps", "num_samples", "t0")
        _at_least(self, 0, "start_image_weight", "start_noise_weight")
        for name in ("start_image_weight", "start_noise_weight"):
            if self.start_from == "noise" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} must be left out with start_from = noise, got {getattr(self, name)}"
                )
        if self.task == "generate" and self.start_from != "noise":
            raise ValueError(
                f"start_from = {self.start_from} re-creates an image it was given: "
                "task must be 'restore', got 'generate'"
            )


@dataclass(frozen=True, kw_only=True)
class OutcomeConfig:
    """What to ask of a training run: samples by `sampling` from the net after `epochs`."""

    epochs: int
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "epochs")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """One training run and every outcome asked of it."""

    train_on: TrainOn = "images"
    loader: Loader = "memory"
    data: DataConfig = DataConfig()
    dip: DIPConfig = DIPConfig()
    unet: UNetConfig = UNetConfig()
    schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    outcomes: tuple[OutcomeConfig, ...] = field(default=(OutcomeConfig(epochs=10),))

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.outcomes:
            raise ValueError("outcomes must name at least one outcome, got ()")
        levels = len(self.unet.block_out_channels) - 1
        if self.data.image_size % 2**levels:
            raise ValueError(
                f"image_size must be a multiple of {2**levels} for "
                f"{levels + 1} levels of block_out_channels, got {self.data.image_size}"
            )
        for outcome in self.outcomes:
            sampling = outcome.sampling
            start_point(sampling, self.schedule)  # refuses what does not fit the schedule
            if sampling.task == "restore" and sampling.num_samples > self.data.num_held_out:
                raise ValueError(
                    f"num_samples must be at most num_held_out = {self.data.num_held_out} "
                    f"for task 'restore', got {sampling.num_samples}"
                )

    @property
    def milestones(self) -> tuple[int, ...]:
        """The epochs at which an outcome is asked, ascending."""
        return tuple(sorted({outcome.epochs for outcome in self.outcomes}))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.data.num_images / self.training.batch_size)

    def samplings(self, epochs: int) -> Iterator[SamplingConfig]:
        """The sampling settings asked of the net after `epochs`."""
        return (outcome.sampling for outcome in self.outcomes if outcome.epochs == epochs)


class Watch(Protocol):
    """Passes the items of a loop through, as tqdm does; an observer of steps."""

    def __call__(self, iterable: Iterable[Item], /) -> Iterable[Item]: ...


def unwatched(iterable: Iterable[Item], /) -> Iterable[Item]:
    return iterable


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every stage is given beside its settings. Only the seed changes a result's identity."""

    seed: int = 0
    device: str = "cpu"
    watch: Watch = unwatched


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: the same for the same words, independent for others.

    Randomness is so a function of seed and step, never of how a generator was used before.
    """
    words = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


def alphas_cumprod(schedule: NoiseScheduleConfig) -> list[float]:
    """abar_t for t = 0 .. T-1, in float64 (Ho et al. 2020, section 2; Nichol and Dhariwal 2021).

    Linear betas run from 1e-4 to 0.02 whatever T, as in diffusers.
    """
    T = schedule.num_train_timesteps
    if schedule.beta_schedule == "linear":
        betas = [1e-4 + (0.02 - 1e-4) * t / (T - 1) for t in range(T)]
    else:

        def abar(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - abar((t + 1) / T) / abar(t / T), 0.999) for t in range(T)]
    product, products = 1.0, []
    for beta in betas:
        product *= 1 - beta
        products.append(product)
    return products


# Where the held-out loss is read. 500 linear steps end at a log-SNR of -5, so the mean that
# compares schedules is over the others.
LOG_SNR_LEVELS = (-6.0, -3.0, 0.0, 3.0, 6.0)
COMMON_LOG_SNR_LEVELS = LOG_SNR_LEVELS[1:]
_MAX_LOG_SNR_ERROR = 0.25


def _log_snr(abar: float) -> float:
    return math.log(abar / (1 - abar))


def nearest_timestep(log_snr: float, schedule: NoiseScheduleConfig) -> int:
    """The timestep whose log(abar / (1 - abar)) lies nearest to `log_snr`."""
    abar = alphas_cumprod(schedule)
    return min(range(len(abar)), key=lambda t: abs(_log_snr(abar[t]) - log_snr))


def reaches(log_snr: float, schedule: NoiseScheduleConfig) -> bool:
    """Whether a timestep of the schedule lies near enough to `log_snr` to be read as that level."""
    found = _log_snr(alphas_cumprod(schedule)[nearest_timestep(log_snr, schedule)])
    return abs(found - log_snr) <= _MAX_LOG_SNR_ERROR


@dataclass(frozen=True)
class StartPoint:
    """x_t0 = a S + b eps, at level t0 in 1 .. T: the noise of timestep t0 - 1."""

    t0: int
    a: float
    b: float


def start_point(sampling: SamplingConfig, schedule: NoiseScheduleConfig) -> StartPoint:
    """Where and with which weights the reverse process starts.

    By default noise enters at t0 = T; the degraded image at the level of its own noise, where it
    already is x_t0 but for a factor and b is 0; any other image at T / 2. The default weights are
    those of the forward process at t0, a = sqrt(abar) and b = sqrt(1 - abar).
    Raises ValueError if t0 is above T or below the number of steps asked for.
    """
    abar = alphas_cumprod(schedule)
    T = len(abar)
    if sampling.t0 is not None and sampling.t0 > T:
        raise ValueError(f"t0 must be at most num_train_timesteps = {T}, got {sampling.t0}")
    t0, a, b = sampling.t0 or T, 0.0, 1.0
    if sampling.start_from != "noise":
        degraded = sampling.start_from == "degraded"
        if sampling.t0 is None:
            sigma = sampling.restoration.degradation_sigma
            t0 = own_noise_level(sigma, abar) if degraded else T // 2
        a, b = math.sqrt(abar[t0 - 1]), 0.0 if degraded else math.sqrt(1 - abar[t0 - 1])
    if sampling.num_inference_steps > t0:
        raise ValueError(
            f"num_inference_steps must be at most t0 = {t0} "
            f"(start_from = {sampling.start_from}, num_train_timesteps = {T}), "
            f"got {sampling.num_inference_steps}"
        )
    if sampling.start_image_weight is not None:
        a = sampling.start_image_weight
    if sampling.start_noise_weight is not None:
        b = sampling.start_noise_weight
    return StartPoint(t0, a, b)


def own_noise_level(degradation_sigma: float, abar: list[float]) -> int:
    """The t0 in 1 .. T at which x_t0 / sqrt(abar) has noise of degradation_sigma (of 255)."""
    sigma = 2 * degradation_sigma / 255
    return 1 + min(
        range(len(abar)),
        key=lambda t: abs(math.log(math.sqrt((1 - abar[t]) / abar[t]) / sigma)),
    )


def guard_rails(config: PipelineConfig) -> list[str]:
    """Warnings about settings that are allowed and do not mean what one might think."""
    warnings = []
    abar_T = alphas_cumprod(config.schedule)[-1]
    if abar_T / (1 - abar_T) > 1e-3:
        warnings.append(
            f"terminal SNR {abar_T / (1 - abar_T):.2g} is above 0.001 "
            f"(num_train_timesteps = {config.schedule.num_train_timesteps}, "
            f"{config.schedule.beta_schedule}): training never sees pure noise, sampling starts "
            "from it"
        )
    shortest = config.milestones[0] * config.steps_per_epoch
    if config.training.lr_warmup_steps > 0.1 * shortest:
        warnings.append(
            f"lr_warmup_steps = {config.training.lr_warmup_steps} is more than a tenth of the "
            f"shortest milestone's {shortest} steps"
        )
    unreached = [
        f"{level:g}" for level in COMMON_LOG_SNR_LEVELS if not reaches(level, config.schedule)
    ]
    if unreached:
        warnings.append(
            f"the noise schedule does not reach log-SNR {', '.join(unreached)}: its held-out loss "
            "is read at other noise levels and compares with no other schedule's"
        )
    return warnings
