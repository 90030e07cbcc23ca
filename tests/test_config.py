from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from dipddpm import config as config_module
from dipddpm.arms import STARTS
from dipddpm.config import (
    CORRECTED,
    PAPER,
    BetaSchedule,
    Context,
    DataConfig,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
    ScoringConfig,
    TrainingConfig,
    UNetConfig,
    alphas_cumprod,
    derive_seed,
    own_noise_level,
    start_point,
    starts_from_priors,
    takes_features,
    targets_priors,
)

Make = Callable[..., object]

# One step: what t0 = 1 allows too.
from_a_prior = partial(SamplingConfig, task="restore", start_from="dip", num_inference_steps=1)
decoding = partial(LoaderConfig, loader="decode")

# class, field, the smallest value that is allowed
AT_LEAST: list[tuple[Make, str, int]] = [
    (DataConfig, "image_size", 11),  # the window of ssim, which every run takes
    (DataConfig, "num_images", 1),
    (DataConfig, "num_held_out", 0),
    (decoding, "num_workers", 0),
    (DIPConfig, "num_iter", 1),
    (DIPConfig, "images_per_fit", 1),
    (DIPConfig, "reg_noise_std", 0),
    (DIPConfig, "es_window", 2),
    (DIPConfig, "es_patience", 1),
    (DIPConfig, "skip_levels", 1),
    (DIPConfig, "skip_channels", 1),
    (UNetConfig, "layers_per_block", 1),
    (UNetConfig, "norm_num_groups", 1),
    (NoiseScheduleConfig, "num_train_timesteps", 2),
    (TrainingConfig, "batch_size", 1),
    (TrainingConfig, "lr_warmup_steps", 0),
    (RestorationConfig, "degradation_sigma", 0),
    (from_a_prior, "num_inference_steps", 0),
    (SamplingConfig, "num_inference_steps", 1),
    (SamplingConfig, "num_samples", 1),
    (from_a_prior, "t0", 1),
    (from_a_prior, "start_image_weight", 0),
    (from_a_prior, "start_noise_weight", 0),
    (ScoringConfig, "ssim_digits", 0),
    (OutcomeConfig, "epochs", 1),
]
ABOVE_ZERO: list[tuple[Make, str]] = [
    (DIPConfig, "prior_learning_rate"),
    (TrainingConfig, "learning_rate"),
    (TrainingConfig, "max_grad_norm"),
    (RestorationConfig, "blur_sigma"),
]
CONFIGS = [
    value
    for value in vars(config_module).values()
    if isinstance(value, type) and value.__name__.endswith("Config")
]


def refusal(make: Make, **settings: object) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        make(**settings)
    return str(caught.value)


@pytest.mark.parametrize(("make", "name", "minimum"), AT_LEAST)
@pytest.mark.parametrize("bad", ["below", "nan", "inf", "-inf"])
def test_a_value_below_its_minimum_is_refused_by_name(
    make: Make, name: str, minimum: int, bad: str
) -> None:
    value = minimum - 1 if bad == "below" else float(bad)
    message = refusal(make, **{name: value})
    assert name in message
    assert str(value) in message


@pytest.mark.parametrize(("make", "name", "minimum"), AT_LEAST)
def test_the_minimum_itself_is_allowed(make: Make, name: str, minimum: int) -> None:
    settings: dict[str, object] = {name: minimum}
    assert getattr(make(**settings), name) == minimum


@pytest.mark.parametrize(("make", "name"), ABOVE_ZERO)
@pytest.mark.parametrize("value", [0.0, -1.5, math.nan, math.inf, -math.inf])
def test_a_scale_must_be_positive_and_finite(make: Make, name: str, value: float) -> None:
    message = refusal(make, **{name: value})
    assert name in message
    assert str(value) in message


@pytest.mark.parametrize(
    ("make", "name"), [(TrainingConfig, "ema_decay"), (DIPConfig, "prior_adam_beta1")]
)
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan, math.inf])
def test_a_decay_must_be_below_one(make: Make, name: str, value: float) -> None:
    message = refusal(make, **{name: value})
    assert name in message
    assert str(value) in message
    settings: dict[str, object] = {name: 0.0}
    assert getattr(make(**settings), name) == 0


def outcome(**sampling: Any) -> tuple[OutcomeConfig, ...]:
    return (OutcomeConfig(epochs=1, sampling=SamplingConfig(**sampling)),)


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (UNetConfig, {"block_out_channels": ()}, ["block_out_channels", "()"]),
        (UNetConfig, {"block_out_channels": (16, 20)}, ["block_out_channels", "20", "= 8"]),
        (UNetConfig, {"block_out_channels": (0, 16)}, ["block_out_channels", "0"]),
        (UNetConfig, {"block_out_channels": (-8, 16)}, ["block_out_channels", "-8"]),
        (UNetConfig, {"attention_levels": (3,)}, ["attention_levels", "below 3", "got 3"]),
        (UNetConfig, {"attention_levels": (-1,)}, ["attention_levels", "-1"]),
        (SamplingConfig, {"start_from": "dip"}, ["start_from", "dip", "task", "generate"]),
        (LoaderConfig, {"num_workers": 2}, ["num_workers", "loader = memory", "got 2"]),
        (LoaderConfig, {"loader": "list", "num_workers": 1}, ["num_workers", "list", "got 1"]),
        (decoding, {"num_workers": 65}, ["num_workers", "at most 64", "65"]),
        (
            NoiseScheduleConfig,
            {"rescale_betas_zero_snr": True},
            ["prediction_type", "v_prediction", "rescale_betas_zero_snr", "'epsilon'"],
        ),
        (
            PipelineConfig,
            {"dip": DIPConfig(net="skip")},  # five levels leave 32 px one pixel
            ["image_size", "at least 64", "skip_levels = 5", "got 32"],
        ),
        (
            PipelineConfig,
            {"dip": DIPConfig(net="skip", skip_levels=4), "data": DataConfig(image_size=44)},
            ["image_size", "multiple of 16", "got 44"],
        ),
        (
            PipelineConfig,
            {
                "training": TrainingConfig(lr_schedule="cosine"),
                "outcomes": (OutcomeConfig(epochs=1), OutcomeConfig(epochs=2)),
            },
            ["outcomes", "one milestone", "cosine", "1, 2"],
        ),
        (
            PipelineConfig,
            {"condition_on": "dip"},
            ["condition_on = dip", "task", "restore", "'generate'"],
        ),
        (
            PipelineConfig,
            {
                "condition_on": "dip",
                "outcomes": tuple(
                    OutcomeConfig(
                        epochs=1,
                        sampling=SamplingConfig(
                            task="restore",
                            restoration=RestorationConfig(degradation_sigma=sigma),
                        ),
                    )
                    for sigma in (25.0, 30.0)
                ),
            },
            ["degradation_sigma", "25.0", "condition_on = dip", "got 30.0"],
        ),
        (PipelineConfig, {"outcomes": ()}, ["outcomes", "()"]),
        (
            PipelineConfig,
            {"data": DataConfig(image_size=30)},
            ["image_size", "multiple of 4", "30"],
        ),
        (
            PipelineConfig,
            {"outcomes": outcome(task="restore", num_samples=17)},
            ["num_samples", "num_held_out = 16", "17"],
        ),
        (
            PipelineConfig,
            {"outcomes": outcome(task="restore", start_from="dip", t0=1001)},
            ["t0", "1000", "1001"],
        ),
        (
            PipelineConfig,
            {"outcomes": outcome(num_inference_steps=1001)},
            ["num_inference_steps", "t0 = 1000", "1001"],
        ),
        (
            PipelineConfig,
            {"outcomes": outcome(task="restore", start_from="dip", t0=10, num_inference_steps=11)},
            ["num_inference_steps", "t0 = 10", "11"],
        ),
        (
            PipelineConfig,  # by default halfway up
            {"outcomes": outcome(task="restore", start_from="dip", num_inference_steps=501)},
            ["num_inference_steps", "t0 = 500", "start_from = dip", "501"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(
    make: Make, settings: dict[str, Any], words: list[str]
) -> None:
    message = refusal(make, **settings)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("block_out_channels", "attention_levels"), [((4, 8), (0,)), ((8, 4), ()), ((4,), ())]
)
def test_attention_needs_channels_for_one_head_of_eight(
    block_out_channels: tuple[int, ...], attention_levels: tuple[int, ...]
) -> None:
    # UNet2DModel gives a head 8 channels, and divides by zero where that leaves none; its middle,
    # with the channels of the last level, always has attention.
    message = refusal(
        UNetConfig,
        block_out_channels=block_out_channels,
        attention_levels=attention_levels,
        norm_num_groups=4,
    )
    assert "block_out_channels" in message
    assert "got 4" in message


@pytest.mark.parametrize("name", ["t0", "start_noise_weight", "start_image_weight"])
@pytest.mark.parametrize("task", ["generate", "restore"])
def test_the_point_of_a_start_is_refused_where_there_is_none(name: str, task: str) -> None:
    # Pure noise enters as it is, at the top.
    message = refusal(SamplingConfig, task=task, start_from="noise", **{name: 1})
    assert message == f"{name} must be left out with start_from = noise, got 1"


@pytest.mark.parametrize("start_from", [name for name in STARTS if name != "noise"])
def test_a_start_enters_at_the_timestep_that_is_visited_first(start_from: str) -> None:
    settings: dict[str, Any] = {"task": "restore", "timestep_spacing": "leading"}
    assert refusal(SamplingConfig, **settings, start_from=start_from) == (
        f"timestep_spacing must be 'trailing' with start_from = {start_from}, got 'leading'"
    )
    # Without steps none is visited; from noise none is mixed.
    SamplingConfig(**settings, start_from=start_from, num_inference_steps=0)
    SamplingConfig(**settings, start_from="noise")


def test_settings_are_values() -> None:
    left, right = PipelineConfig(), PipelineConfig()
    assert left == right
    assert hash(left) == hash(right)
    assert {left, right, PipelineConfig(train_on="dip")} == {left, PipelineConfig(train_on="dip")}
    settings = [
        left,
        *(
            getattr(left, name)
            for name in ("loading", "data", "dip", "unet", "schedule", "training", "scoring")
        ),
    ]
    for value in [
        *settings,
        left.outcomes[0],
        left.outcomes[0].sampling,
        RestorationConfig(),
        Context(),
    ]:
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, None)


def test_a_field_name_belongs_to_one_class() -> None:
    names = [field.name for config in CONFIGS for field in dataclasses.fields(config)]
    assert len(CONFIGS) >= 11
    assert sorted(names) == sorted(set(names))


def test_milestones_and_their_samplings() -> None:
    few, many = SamplingConfig(num_inference_steps=2), SamplingConfig(num_inference_steps=4)
    config = PipelineConfig(
        data=DataConfig(num_images=33),
        outcomes=tuple(
            OutcomeConfig(epochs=e, sampling=s) for e, s in ((8, few), (1, many), (8, many))
        ),
    )
    assert config.milestones == (1, 8)  # not the order of asking, nor of a set
    assert list(config.samplings(8)) == [few, many]
    assert list(config.samplings(1)) == [many]
    assert list(config.samplings(3)) == []
    assert config.steps_per_epoch == 3  # 16 + 16 + 1


def test_derive_seed_never_changes() -> None:
    # Golden: sha256 of "0/unet", first 8 bytes, shifted right by one. A change orphans all results.
    assert derive_seed(0, "unet") == 0x277919EA7E089478
    assert derive_seed(0, "epoch", 3) == derive_seed(0, "epoch", 3)
    seeds = {
        derive_seed(seed, purpose, i)
        for seed in range(5)
        for purpose in ("epoch", "prior", "sample", "training step")
        for i in range(50)
    }
    assert len(seeds) == 5 * 4 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    # 1,000 fair coins: each bit is set about half of the time (six standard deviations).
    for bit in range(63):
        assert abs(sum(seed >> bit & 1 for seed in seeds) - 500) < 6 * math.sqrt(250)


SCHEDULES: list[tuple[int, BetaSchedule]] = [
    (1000, "linear"),
    (500, "linear"),
    (50, "linear"),
    (1000, "squaredcos_cap_v2"),
    (500, "squaredcos_cap_v2"),
]


@pytest.mark.parametrize(("total", "kind"), SCHEDULES)
@pytest.mark.parametrize("sigma", [1.0, 15.0, 25.0, 50.0, 200.0])
def test_own_noise_level_is_the_nearest_of_all(
    total: int, kind: BetaSchedule, sigma: float
) -> None:
    abar = alphas_cumprod(NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind))
    # In decibels, of x / sqrt(abar_t) against an image range of 2.
    levels = [10 * math.log10((1 - a) / a) for a in abar]
    target = 20 * math.log10(2 * sigma / 255)
    distances = [abs(level - target) for level in levels]
    assert distances[own_noise_level(sigma, abar) - 1] == min(distances)
    assert own_noise_level(0.0, abar) == 1  # the level with the least noise


@pytest.mark.parametrize(
    ("settings", "t0", "has_image", "has_noise"),
    [
        ({}, 1000, False, True),
        ({"task": "restore"}, 1000, False, True),
        *(
            ({"task": "restore", "start_from": name}, 500, True, True)
            for name in STARTS
            if name not in ("noise", "degraded")
        ),
        ({"task": "restore", "start_from": "dip", "t0": 77}, 77, True, True),
        ({"task": "restore", "start_from": "degraded", "t0": 77}, 77, True, False),
    ],
)
def test_where_the_reverse_process_starts(
    settings: dict[str, Any], t0: int, has_image: bool, has_noise: bool
) -> None:
    schedule = NoiseScheduleConfig()
    abar = alphas_cumprod(schedule)[t0 - 1]
    point = start_point(SamplingConfig(**settings), schedule)
    assert point.t0 == t0
    if has_image:
        assert point.a == pytest.approx(math.sqrt(abar), abs=1e-15)
        assert point.b == pytest.approx(math.sqrt(1 - abar) if has_noise else 0, abs=1e-15)
    else:
        assert (point.a, point.b) == (0, 1)


def test_the_degraded_image_starts_at_its_own_noise() -> None:
    sampling = SamplingConfig(task="restore", start_from="degraded")
    schedule = NoiseScheduleConfig()
    point = start_point(sampling, schedule)
    abar = alphas_cumprod(schedule)[point.t0 - 1]
    # 25 of 255 is 50 / 255 of a range of 2; adjacent levels are about 1 % apart.
    assert math.sqrt((1 - abar) / abar) == pytest.approx(50 / 255, rel=0.01)
    assert point.b == 0


def test_weights_given_take_the_place_of_the_defaults() -> None:
    sampling = SamplingConfig(
        task="restore", start_from="dip", t0=1000, start_image_weight=0.25, start_noise_weight=0.75
    )
    point = start_point(sampling, NoiseScheduleConfig())
    assert (point.t0, point.a, point.b) == (1000, 0.25, 0.75)


def test_one_milestone_is_what_a_cosine_can_have() -> None:
    cosine = TrainingConfig(lr_schedule="cosine")
    few, many = SamplingConfig(num_inference_steps=2), SamplingConfig(num_inference_steps=4)
    outcomes = tuple(OutcomeConfig(epochs=3, sampling=one) for one in (few, many))
    assert PipelineConfig(training=cosine, outcomes=outcomes).milestones == (3,)


def test_the_protocols_differ_in_each_of_their_settings_and_the_defaults_are_corrected() -> None:
    defaults = {
        field.name: field.default for config in CONFIGS for field in dataclasses.fields(config)
    }
    assert PAPER.keys() == CORRECTED.keys() <= defaults.keys()
    assert [name for name in PAPER if PAPER[name] == CORRECTED[name]] == []
    assert {name: defaults[name] for name in CORRECTED} == CORRECTED


def test_the_published_settings_are_those_of_the_publication() -> None:
    # Here once more by hand: every result under "paper" rests on them.
    assert PAPER == {
        "prior_target": "signed",
        "net_input": "shared",
        "lr_schedule": "cosine",
        "lr_warmup_steps": 500,
        "ema_decay": 0.0,
        "mixed_precision": "fp16",
        "flip": "loader",
        "files": "source",
        "timestep_spacing": "leading",
        "score_range": "mixed",
        "ssim_digits": 3,
    }


@pytest.mark.parametrize(
    ("task", "num_samples", "num_images", "num_held_out", "enough"),
    [
        ("generate", 100, 100, 100, True),
        ("generate", 99, 100, 100, False),
        ("generate", 100, 99, 100, False),
        ("generate", 100, 100, 99, False),
        ("restore", 100, 100, 100, False),
    ],
)
def test_features_are_taken_from_a_hundred_images_on(
    task: Any, num_samples: int, num_images: int, num_held_out: int, enough: bool
) -> None:
    sampling = SamplingConfig(task=task, num_samples=num_samples)
    data = DataConfig(num_images=num_images, num_held_out=num_held_out)
    assert takes_features(data, sampling) is enough


def test_what_takes_a_fit_of_priors() -> None:
    assert [targets_priors(name) for name in ("images", "dip", "blur")] == [False, True, True]
    assert [starts_from_priors(name) for name in ("noise", "dip", "blur")] == [False, True, False]


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (PipelineConfig, "train_on", "DIP"),
        (PipelineConfig, "condition_on", "blur"),
        (LoaderConfig, "loader", "decoding"),
        (LoaderConfig, "flip", "both"),
        (LoaderConfig, "files", "original"),
        (DIPConfig, "net", "unet"),
        (DIPConfig, "early_stopping", "oracle"),
        (DIPConfig, "prior_target", "sign"),
        (DIPConfig, "prior_learning_rate", "1e-3"),
        (DIPConfig, "num_iter", 2.0),
        (NoiseScheduleConfig, "beta_schedule", "cosine"),
        (SamplingConfig, "sampler", "DDIM"),
        (SamplingConfig, "timestep_spacing", "linspace"),
        (SamplingConfig, "task", "restoration"),
        (ScoringConfig, "score_range", "signed"),
        (ScoringConfig, "ssim_digits", 2.5),
        (ScoringConfig, "ssim_digits", 16),
        (NoiseScheduleConfig, "prediction_type", "sample"),
        (NoiseScheduleConfig, "rescale_betas_zero_snr", 1),
        (TrainingConfig, "ema_ramp", "yes"),
        (TrainingConfig, "lr_schedule", "step"),
        (TrainingConfig, "mixed_precision", "bf8"),
        (TrainingConfig, "compile", True),
        (TrainingConfig, "tf32", False),
        (TrainingConfig, "num_threads", 0),
        (TrainingConfig, "gradient_accumulation_steps", 17),
        (SamplingConfig, "samples_per_batch", 0),
        (SamplingConfig, "sampling_attention", "flash"),
        (SamplingConfig, "start_from", None),
        (SamplingConfig, "t0", 2.5),
        (SamplingConfig, "start_image_weight", "1"),
        (SamplingConfig, "num_samples", True),
        (OutcomeConfig, "epochs", 1.5),
        (UNetConfig, "block_out_channels", [16, 32]),
        (UNetConfig, "attention_levels", (1.0,)),
        (DataConfig, "image_size", 5000),
        (NoiseScheduleConfig, "num_train_timesteps", 10**12),
    ],
)
def test_a_value_of_another_kind_is_refused_not_read_as_the_default(
    config: Any, field: str, value: object
) -> None:
    # In the library there is no suite file whose types were checked before.
    with pytest.raises(ValueError, match=rf"^{field} must be .*{re.escape(str(value))}"):
        config(**{field: value})


def test_optional_settings_may_be_none_and_numbers_whole() -> None:
    sampling = SamplingConfig(t0=None, start_image_weight=None)
    assert (sampling.t0, sampling.start_image_weight) == (None, None)
    assert TrainingConfig(learning_rate=1).learning_rate == 1
