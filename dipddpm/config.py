"""Every setting of the pipeline, checked once, as frozen dataclasses. Imports no torch.

Field names are unique over all the classes, so that a suite file or a table of results can name a
setting by its field alone. The defaults are the corrected protocol at a size for two CPU cores.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    Protocol,
    TypeVar,
)

from dipddpm.checks import a_decay, above_zero, at_least, at_most, check_types
from dipddpm.lookup import Table

if TYPE_CHECKING:
    from accelerate import PartialState  # type: ignore[import-untyped]

VERSION = "0.1.0"

Item = TypeVar("Item")
# What these names stand for is read from the tables of the modules that hold them.
_OF_TRAINING = frozenset({"images", "priors"})
_OF_HELD_OUT = frozenset({"degraded", "priors", "originals"})
TARGETS = Table("dipddpm.arms", "TARGETS", _OF_TRAINING | {"context"}, needed=_OF_TRAINING)
STARTS = Table(
    "dipddpm.arms",
    "STARTS",
    _OF_HELD_OUT | {"training", "restoration", "context"},
    needed=_OF_HELD_OUT,
)
NETS = Table("dipddpm.nets", "NETS")
SAMPLERS = Table("dipddpm.sampling", "SAMPLERS")
TrainOn = Annotated[str, TARGETS]
StartFrom = Annotated[str, STARTS]
PriorNet = Annotated[str, NETS]
Sampler = Annotated[str, SAMPLERS]
Loader = Literal["memory", "list", "decode"]
Flip = Literal["device", "loader"]
Files = Literal["source", "encoded"]
ConditionOn = Literal["nothing", "dip"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
PredictionType = Literal["epsilon", "v_prediction"]
LRSchedule = Literal["constant", "cosine"]
MixedPrecision = Literal["no", "fp16", "bf16"]
# Of fits no float16: the gradients of a mean over all pixels are too small for it.
PriorPrecision = Literal["no", "bf16"]
Attention = Literal["auto", "sdpa", "eager"]
Compile = Literal["no", "model", "blocks"]
TF32 = Literal["no", "convolutions", "all"]
Task = Literal["generate", "restore"]
TimestepSpacing = Literal["leading", "trailing"]
PriorTarget = Literal["unit", "signed"]
NetInput = Literal["own", "shared"]
EarlyStopping = Literal["none", "es_wmv", "psnr"]
Backend = Literal["auto", "loop", "grouped"]
WarmStart = Literal["none", "learned"]
ScoreRange = Literal["common", "mixed"]

# Two sets of 16 real images differ by a KID of 0.012 (one standard deviation), of 100 by 0.0018:
# scripts/kid_of_real_images.py.
MIN_FOR_FEATURES = 100


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and at what size."""

    image_size: int = 32
    num_images: int = 64
    num_held_out: int = 16

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 11, "image_size")  # the window of ssim
        at_most(self, 4096, "image_size")
        at_least(self, 1, "num_images")
        # Without any, the scores that need them are left out.
        at_least(self, 0, "num_held_out")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How the training loop comes by its batches."""

    # "memory": one tensor, indexed. "list": a tensor an image, collated by a DataLoader as
    # published. "decode": files, read, decoded and resized at every epoch, by a DataLoader.
    loader: Loader = "memory"
    # Processes of the DataLoader; 0 decodes in the training process, as published.
    num_workers: int = 0
    # Where the random flip is: "device", of each batch anew, whatever the loader; "loader", as
    # published: anew where files are decoded, once and for all where tensors are kept.
    flip: Flip = "device"
    # What "decode" reads where images are trained on. "source": their own files, as published.
    # "encoded": files of the encoder that made those of the priors, which have no source.
    files: Files = "encoded"

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 0, "num_workers")
        at_most(self, 64, "num_workers")
        if self.num_workers and self.loader != "decode":
            raise ValueError(
                f"num_workers must be 0 with loader = {self.loader}, got {self.num_workers}"
            )


@dataclass(frozen=True, kw_only=True)
class DIPConfig:
    """The fit of one small net to each image (Ulyanov et al. 2018)."""

    # "paper": the published net of three layers; "skip": the hourglass of Ulyanov et al.
    net: PriorNet = "paper"
    num_iter: int = 100
    prior_learning_rate: float = 0.01
    # Adam's decay of its mean of gradients. At 64 pixels a fit takes a quarter fewer iterations to
    # 30 dB with 0.8 (the suite `speed-cpu`); 0.9 is Adam's own, and the published way.
    prior_adam_beta1: float = 0.9
    # "signed" is the published flaw: a target in [-1, 1] under a net that ends in a Sigmoid, so
    # everything below mid-grey becomes black. "unit" gives the target in [0, 1].
    prior_target: PriorTarget = "unit"
    # "shared" is the published way: one fixed noise input for the nets of all images.
    net_input: NetInput = "own"
    # Standard deviation of the noise added to the input at each iteration, beside the input's own.
    reg_noise_std: float = 0.0
    # "es_wmv": the iterate at the least variance over a window of iterates (Wang et al. 2021,
    # arXiv 2112.06074); the fit ends `es_patience` iterations after it. "psnr": the first iterate
    # that has `es_psnr` dB to what it is fitted to, where the fit ends.
    early_stopping: EarlyStopping = "none"
    es_window: int = 100
    es_patience: int = 1000
    es_psnr: float = 30.0
    # "learned": from the weights of a fit to one image that is none of those fitted, of
    # `warm_start_iter` iterations, which the bill holds. "none": from weights of each net's own.
    warm_start: WarmStart = "none"
    warm_start_iter: int = 100
    # Of the skip net; the published sizes, for images from 64 pixels.
    skip_levels: int = 5
    skip_channels: int = 128
    # Images fitted together. A fit does not depend on it; the reuse of fits between data sizes
    # does: prefixes share whole chunks.
    images_per_fit: int = 16
    # "grouped": their nets side by side, as one; "loop": net after net. See `backend_on`.
    backend: Backend = "auto"
    # How the nets are run, as in training: see `Levers`. A layout of None is channels_last on a
    # CPU.
    prior_precision: PriorPrecision = "no"
    prior_channels_last: bool | None = None
    prior_tf32: TF32 = "convolutions"
    prior_cuda_graph: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "num_iter", "images_per_fit", "es_patience", "warm_start_iter")
        at_least(self, 1, "skip_levels", "skip_channels")
        at_most(self, 10, "skip_levels")
        at_least(self, 2, "es_window")
        at_least(self, 0, "reg_noise_std")
        above_zero(self, "prior_learning_rate", "es_psnr")
        a_decay(self, "prior_adam_beta1")

    def levers_on(self, device: str) -> Levers:
        """How the nets are run on a device of that kind."""
        layout = self.prior_channels_last
        return Levers(
            self.prior_precision,
            device == "cpu" if layout is None else layout,
            self.prior_tf32,
            cuda_graph=self.prior_cuda_graph,
        )

    def backend_on(self, device: str, image_size: int) -> Backend:
        """The backend that "auto" stands for on a device of that kind, by what has been measured.

        On two CPU cores net after net takes 1.3 times as long as side by side at 32 pixels, where
        much of the time goes into starting operations; at 64 it takes 1.1 times as long, but one
        net at a time is what lower precision makes 1.5 times as quick (the suite `speed-cpu`).
        On CUDA nothing has been measured.
        """
        if self.backend != "auto":
            return self.backend
        return "loop" if device == "cpu" and image_size >= 64 else "grouped"


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The denoiser, a diffusers UNet2DModel."""

    block_out_channels: tuple[int, ...] = (16, 32, 64)
    layers_per_block: int = 1
    # Levels, counted from 0 at full resolution, whose blocks have self-attention.
    attention_levels: tuple[int, ...] = (2,)
    norm_num_groups: int = 8

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "layers_per_block", "norm_num_groups")
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
    """The forward process, in the words of diffusers, and what the net predicts of it.

    linear: Ho et al. 2020; squaredcos_cap_v2: Nichol and Dhariwal 2021; scaled_linear: Rombach et
    al. 2022; rescale_betas_zero_snr: Lin et al. 2023 (arXiv 2305.08891), algorithm 1.
    """

    num_train_timesteps: int = 1000
    beta_schedule: BetaSchedule = "linear"
    rescale_betas_zero_snr: bool = False
    # "v_prediction": sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022).
    prediction_type: PredictionType = "epsilon"

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 2, "num_train_timesteps")
        at_most(self, 100_000, "num_train_timesteps")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            # At the last timestep x_t is eps: a net that predicts it says nothing of x_0.
            raise ValueError(
                "prediction_type must be 'v_prediction' with rescale_betas_zero_snr, got 'epsilon'"
            )


@dataclass(frozen=True)
class Levers:
    """How a net is run, in fits, training or sampling; it moves a result by its rounding alone.

    precision: of convolutions and matrix products, in sampling of the whole net ("no": float32)
    channels_last: the layout of images and weights in memory
    tf32: on CUDA, in which float32 products take 10 bits of mantissa; torch's own: convolutions
    attention: "sdpa": torch's fused attention; "eager": softmax and two matrix products; "auto":
        the latter on a CPU, where it is the quicker one (the suite `speed-cpu`)
    compile: by torch.compile, the whole net, or each of its blocks, which compiles equal ones once
    cuda_graph: on CUDA, a step is recorded once for each shape and played again in one launch
    num_threads: on a CPU
    """

    precision: MixedPrecision = "no"
    channels_last: bool = False
    tf32: TF32 = "convolutions"
    attention: Attention = "auto"
    compile: Compile = "no"
    cuda_graph: bool = False
    num_threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training loop: AdamW and an exponential moving average of the weights (EMA)."""

    batch_size: int = 16
    learning_rate: float = 1e-4
    # After the warm-up. "cosine" falls to 0 at the end of the run, so it depends on its length, and
    # a run with it has one milestone.
    lr_schedule: LRSchedule = "constant"
    lr_warmup_steps: int = 1
    max_grad_norm: float = 1.0
    # With the ramp, the decay in force at step k is min(ema_decay, (1 + k) / (10 + k)). Samples and
    # losses are of the averaged weights; 0 takes the weights themselves.
    ema_decay: float = 0.9999
    ema_ramp: bool = True
    # fp16 is for CUDA; a CPU trains in float32 in its place.
    mixed_precision: MixedPrecision = "no"
    # Parts that a batch is cut into, to take less memory; their gradients are added up.
    gradient_accumulation_steps: int = 1
    # What follows moves a result by its rounding alone: see `Levers`.
    channels_last: bool = False
    tf32: TF32 = "convolutions"
    attention: Attention = "auto"
    compile: Compile = "no"
    cuda_graph: bool = False
    # One kernel for all weights in place of several for each; and so for their average.
    fused_adamw: bool = True
    foreach_ema: bool = True
    # Of a CPU; None leaves them as they are.
    num_threads: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "batch_size", "gradient_accumulation_steps", "num_threads")
        at_most(self, self.batch_size, "gradient_accumulation_steps")
        at_most(self, 1024, "num_threads")
        at_least(self, 0, "lr_warmup_steps")
        above_zero(self, "learning_rate", "max_grad_norm")
        a_decay(self, "ema_decay")
        if self.cuda_graph and not self.fused_adamw:
            # It would wait for the device, which a graph cannot.
            raise ValueError("fused_adamw must be true with cuda_graph, got False")

    @property
    def levers(self) -> Levers:
        """How the net is run."""
        return Levers(
            self.mixed_precision, self.channels_last, self.tf32, self.attention,
            self.compile, self.cuda_graph, self.num_threads,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RestorationConfig:
    """What is done to held-out images before they are restored, or in place of a prior."""

    # The standard deviation of the noise added, of a grey range of 255; 0 leaves them clean.
    degradation_sigma: float = 25.0
    # The standard deviation, in pixels, of the blur that stands in for a prior.
    blur_sigma: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 0, "degradation_sigma")
        above_zero(self, "blur_sigma")
        at_most(self, 1000, "degradation_sigma", "blur_sigma")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """One reverse process: from pure noise, or from a start image S as x_t0 = a S + b eps.

    num_inference_steps: 0 takes the start image itself, without any net.
    t0 counts noise levels from 1 to num_train_timesteps; None takes the default of `start_from`
    (`start_point`), as do start_image_weight (a) and start_noise_weight (b). Noise has the default
    alone.
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
    # None: all at once, or half as many, and so on, where that takes more memory than there is. The
    # samples of "ddpm" depend on it, whose noise is drawn for all of a batch.
    samples_per_batch: int | None = None
    # How the net is run, as in training: see `Levers`.
    sampling_precision: MixedPrecision = "no"
    sampling_channels_last: bool = False
    sampling_tf32: TF32 = "convolutions"
    sampling_attention: Attention = "auto"
    sampling_compile: Compile = "no"
    sampling_cuda_graph: bool = False
    restoration: RestorationConfig = RestorationConfig()

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "num_samples", "t0", "samples_per_batch")
        at_least(self, 0, "num_inference_steps", "start_image_weight", "start_noise_weight")
        at_most(self, 1000, "start_image_weight", "start_noise_weight")
        if self.num_inference_steps == 0 and self.start_from == "noise":
            raise ValueError("num_inference_steps must be at least 1 from noise, got 0")
        for name in ("t0", "start_image_weight", "start_noise_weight"):
            if self.start_from == "noise" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} must be left out with start_from = noise, got {getattr(self, name)}"
                )
        if (
            self.start_from != "noise"
            and self.num_inference_steps
            and self.timestep_spacing != "trailing"
        ):
            # "leading" begins below the level of x_t0: the net would be told of less noise.
            raise ValueError(
                f"timestep_spacing must be 'trailing' with start_from = {self.start_from}, "
                f"got {self.timestep_spacing!r}"
            )
        if self.task == "generate" and self.start_from != "noise":
            raise ValueError(
                f"start_from = {self.start_from} re-creates an image it was given: "
                "task must be 'restore', got 'generate'"
            )

    @property
    def levers(self) -> Levers:
        """How the net is run."""
        return Levers(
            self.sampling_precision, self.sampling_channels_last, self.sampling_tf32,
            self.sampling_attention, self.sampling_compile, self.sampling_cuda_graph,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How the published scores are taken (`metrics`); all others have one way only."""

    # "mixed" is the published flaw: samples in [0, 1] against references in [-1, 1].
    score_range: ScoreRange = "common"
    # To how many digits a mean SSIM is rounded; the publication kept 3, and found 0.
    ssim_digits: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 0, "ssim_digits")
        at_most(self, 15, "ssim_digits")  # float64 has no more


@dataclass(frozen=True, kw_only=True)
class OutcomeConfig:
    """What to ask of a training run: samples by `sampling` from the net after `epochs`."""

    epochs: int
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        check_types(self)
        at_least(self, 1, "epochs")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """One training run and every outcome asked of it."""

    train_on: TrainOn = "images"
    # "dip": the net is given a prior of the degraded image as three more channels.
    condition_on: ConditionOn = "nothing"
    loading: LoaderConfig = LoaderConfig()
    data: DataConfig = DataConfig()
    dip: DIPConfig = DIPConfig()
    unet: UNetConfig = UNetConfig()
    schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    outcomes: tuple[OutcomeConfig, ...] = field(default=(OutcomeConfig(epochs=10),))

    def __post_init__(self) -> None:
        check_types(self)
        if not self.outcomes:
            raise ValueError("outcomes must name at least one outcome, got ()")
        self._check_image_size()
        if self.training.lr_schedule == "cosine" and len(self.milestones) > 1:
            raise ValueError(
                "outcomes must be of one milestone with lr_schedule = cosine, which depends on the "
                f"length of the run, got {', '.join(map(str, self.milestones))} epochs"
            )
        for outcome in self.outcomes:
            start_point(outcome.sampling, self.schedule)  # refuses what does not fit the schedule
            self._check_task(outcome.sampling)

    def _check_image_size(self) -> None:
        size, halvings = self.data.image_size, len(self.unet.block_out_channels) - 1
        if size % 2**halvings:
            raise ValueError(
                f"image_size must be a multiple of {2**halvings} for "
                f"{halvings + 1} levels of block_out_channels, got {size}"
            )
        least = 2**self.dip.skip_levels
        # Reflection padding needs two pixels at the lowest level.
        if self.dip.net == "skip" and (size % least or size < 2 * least):
            raise ValueError(
                f"image_size must be a multiple of {least} and at least {2 * least} for "
                f"skip_levels = {self.dip.skip_levels}, got {size}"
            )

    def _check_task(self, sampling: SamplingConfig) -> None:
        if sampling.task == "restore" and sampling.num_samples > self.data.num_held_out:
            raise ValueError(
                f"num_samples must be at most num_held_out = {self.data.num_held_out} "
                f"for task 'restore', got {sampling.num_samples}"
            )
        if self.condition_on == "nothing":
            return
        if sampling.task == "generate":
            raise ValueError(
                f"condition_on = {self.condition_on} hands the net an image to re-create: "
                "task must be 'restore', got 'generate'"
            )
        sigma, first = (
            one.restoration.degradation_sigma for one in (sampling, self.outcomes[0].sampling)
        )
        if sigma != first:
            raise ValueError(
                f"degradation_sigma must be {first} for all outcomes of one net with "
                f"condition_on = {self.condition_on}, got {sigma}"
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
    """The `Watch` that looks away."""
    return iterable


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every stage is given beside its settings. Only the seed changes a result's identity.

    processes: those that train one net together, all called alike (`accelerate.PartialState()`
        under `accelerate launch`); None: this one alone
    """

    seed: int = 0
    device: str = "cpu"
    watch: Watch = unwatched
    processes: PartialState | None = None


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: the same for the same words, independent for others.

    Randomness is so a function of seed and step, never of how a generator was used before.
    """
    words = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


@functools.cache
def alphas_cumprod(schedule: NoiseScheduleConfig) -> tuple[float, ...]:
    """abar_t for t = 0 .. T-1, in float64, as diffusers' DDPMScheduler has them in float32.

    Betas run from 1e-4 to 0.02 whatever T, but for the cosine (Nichol and Dhariwal 2021, eq. 17).
    """
    T = schedule.num_train_timesteps
    first, last = 1e-4, 0.02

    def spaced(low: float, high: float) -> Iterator[float]:
        return (low + (high - low) * t / (T - 1) for t in range(T))

    def cosine(t: int) -> float:
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    betas: Iterable[float]
    if schedule.beta_schedule == "linear":
        betas = spaced(first, last)
    elif schedule.beta_schedule == "scaled_linear":
        betas = (root**2 for root in spaced(math.sqrt(first), math.sqrt(last)))
    elif schedule.beta_schedule == "sigmoid":
        betas = (first + (last - first) / (1 + math.exp(-x)) for x in spaced(-6, 6))
    else:
        betas = (min(1 - cosine(t + 1) / cosine(t), 0.999) for t in range(T))
    abar = list(itertools.accumulate((1 - beta for beta in betas), operator.mul))
    return tuple(_to_zero_snr(abar) if schedule.rescale_betas_zero_snr else abar)


def _to_zero_snr(abar: list[float]) -> list[float]:
    """sqrt(abar), shifted to end at 0 and scaled to begin as it did (Lin et al. 2023, alg. 1)."""
    first, last = math.sqrt(abar[0]), math.sqrt(abar[-1])
    return [((math.sqrt(value) - last) * first / (first - last)) ** 2 for value in abar]


# Where the held-out loss is read. 500 linear steps end at a log-SNR of -5, so the mean that
# compares schedules is over the others.
LOG_SNR_LEVELS = (-6.0, -3.0, 0.0, 3.0, 6.0)
COMMON_LOG_SNR_LEVELS = LOG_SNR_LEVELS[1:]
_MAX_LOG_SNR_ERROR = 0.25


def log_snr_of(abar: float) -> float:
    """log(abar / (1 - abar)), for abar in [0, 1)."""
    return math.log(abar / (1 - abar)) if abar else -math.inf


def nearest_timestep(log_snr: float, schedule: NoiseScheduleConfig) -> int:
    """The timestep whose log(abar / (1 - abar)) lies nearest to `log_snr`."""
    abar = alphas_cumprod(schedule)
    return min(range(len(abar)), key=lambda t: abs(log_snr_of(abar[t]) - log_snr))


def reaches(log_snr: float, schedule: NoiseScheduleConfig) -> bool:
    """Whether a timestep of the schedule lies near enough to `log_snr` to be read as that level."""
    found = log_snr_of(alphas_cumprod(schedule)[nearest_timestep(log_snr, schedule)])
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


@functools.cache
def own_noise_level(degradation_sigma: float, abar: tuple[float, ...]) -> int:
    """The t0 in 1 .. T at which x_t0 / sqrt(abar) has noise of degradation_sigma (of 255)."""
    if degradation_sigma == 0:
        return 1
    log_snr = -2 * math.log(2 * degradation_sigma / 255)
    # log((1 - abar) / abar) is that of the variance of the noise.
    return 1 + min(range(len(abar)), key=lambda t: abs(log_snr_of(abar[t]) - log_snr))


def takes_features(data: DataConfig, sampling: SamplingConfig) -> bool:
    """Whether there are images enough for the scores that compare features of whole sets."""
    fewest = min(sampling.num_samples, data.num_images, data.num_held_out)
    return sampling.task == "generate" and fewest >= MIN_FOR_FEATURES


def targets_priors(train_on: str) -> bool:
    """Whether what is trained on takes a fit of priors of the training images to make."""
    return "priors" in TARGETS.parameters(train_on)


def starts_from_priors(start_from: str) -> bool:
    """Whether a start takes a fit of priors of the degraded images to make."""
    return "priors" in STARTS.parameters(start_from)


# The protocols. Each field in which they differ, with what it does to the numbers; what is not here
# is the same in both. A suite names one: protocol = "paper".
PAPER: Final[Mapping[str, Any]] = {
    # Everything darker than mid-grey becomes black in the priors, which have 13-21 dB to their
    # images in place of 28-35 dB.
    "prior_target": "signed",
    # The nets of all images share what their input happens to be good at.
    "net_input": "shared",
    # The rate depends on the length of the run: 10 epochs are no milestone of 20.
    "lr_schedule": "cosine",
    # 10 epochs of 100 images are 70 steps: the rate ends at a seventh of its value.
    "lr_warmup_steps": 500,
    # Samples are of the weights themselves, and jump with the last steps.
    "ema_decay": 0.0,
    # On CUDA. The time of a step halves, for both arms alike.
    "mixed_precision": "fp16",
    # Without DIP a flip is part of every decoding, with DIP it was drawn once: the arm with DIP
    # saves its time and sees half as many different images.
    "flip": "loader",
    # The photographs' files have losses and those of priors have none: each arm decodes in a time
    # of its own, whatever the loader.
    "files": "source",
    # With fewer steps than timesteps the last timestep, that of pure noise, is not visited.
    "timestep_spacing": "leading",
    # A pixel-perfect copy scores some 13 dB.
    "score_range": "mixed",
    # SSIMs below 0.0005 become 0.
    "ssim_digits": 3,
}
CORRECTED: Final[Mapping[str, Any]] = {
    "prior_target": "unit",
    "net_input": "own",
    "lr_schedule": "constant",
    "lr_warmup_steps": 1,
    "ema_decay": 0.9999,
    "mixed_precision": "no",
    "flip": "device",
    "files": "encoded",
    "timestep_spacing": "trailing",
    "score_range": "common",
    "ssim_digits": None,
}
PROTOCOLS: Final = {"paper": PAPER, "corrected": CORRECTED}

# The combinations that people know by a name, as settings; "T" is num_train_timesteps.
ARMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {"train_on": "images", "start_from": "noise"},  # Ho et al. 2020
    "data": {"train_on": "dip"},  # what the publication did
    "data-blur": {"train_on": "blur"},  # is it DIP, or any low-pass?
    # What its theory says: SDEdit (Meng et al. 2021), CCDF (Chung et al. 2022).
    "start": {"task": "restore", "start_from": "dip"},
    # The naive reading of it: far from every x_T that the net was trained on.
    "xT": {
        "task": "restore",
        "start_from": "dip",
        "t0": "T",
        "start_image_weight": 1.0,
        "start_noise_weight": 0.0,
    },
    # Seen in public code; its variance is not 1.
    "blend": {
        "task": "restore",
        "start_from": "dip",
        "t0": "T",
        "start_image_weight": 0.5,
        "start_noise_weight": 0.5,
    },
    "cond": {"task": "restore", "condition_on": "dip"},  # near DiffuseVAE (Pandey et al. 2022)
}
