"""Each guard rail is set off by what it is for, alone, and is silent beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dipddpm.config import (
    ARMS,
    DataConfig,
    DIPConfig,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    SamplingConfig,
    ScoringConfig,
    TrainingConfig,
    alphas_cumprod,
)
from dipddpm.guard_rails import guard_rails


def sampled(*epochs: int, **sampling: Any) -> dict[str, Any]:
    config = SamplingConfig(**{"num_samples": 100, **sampling})
    return {"outcomes": tuple(OutcomeConfig(epochs=e, sampling=config) for e in epochs or (10,))}


ENOUGH = DataConfig(num_images=100, num_held_out=100)
# 100 images in batches of 25 for 10 epochs: 40 steps.
QUIET = PipelineConfig(data=ENOUGH, training=TrainingConfig(batch_size=25), **sampled())
RESTORE = sampled(task="restore")
FROM_DIP = sampled(task="restore", start_from="dip")
SIGNED = DIPConfig(prior_target="signed")
FP16 = TrainingConfig(batch_size=25, mixed_precision="fp16")


def ema(decay: float) -> TrainingConfig:
    return TrainingConfig(batch_size=25, ema_decay=decay, ema_ramp=False)


def stopping(window: int, patience: int = 1, *, num_iter: int = 100) -> DIPConfig:
    return DIPConfig(
        early_stopping="es_wmv", es_window=window, es_patience=patience, num_iter=num_iter
    )


def warm_up(steps: int) -> TrainingConfig:
    return TrainingConfig(batch_size=25, lr_warmup_steps=steps)


def weighted(arm: str) -> dict[str, Any]:
    T = QUIET.schedule.num_train_timesteps
    sampling = {k: T if v == "T" else v for k, v in ARMS[arm].items() if k != "condition_on"}
    return sampled(**sampling)


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        (
            {"schedule": NoiseScheduleConfig(num_train_timesteps=500)},
            "cpu",
            ["terminal SNR 0.0064", "500", "linear"],
        ),
        (
            {"schedule": NoiseScheduleConfig(num_train_timesteps=680)},
            "cpu",
            ["terminal SNR 0.001", "is above 0.001", "680", "linear"],
        ),
        (
            {
                "schedule": NoiseScheduleConfig(
                    num_train_timesteps=20, beta_schedule="squaredcos_cap_v2"
                ),
                **sampled(num_inference_steps=5),
            },
            "cpu",
            ["does not reach log-SNR 6:"],
        ),
        ({"training": warm_up(40)}, "cpu", ["lr_warmup_steps = 40", "not shorter", "40 steps"]),
        ({"training": warm_up(5)}, "cpu", ["lr_warmup_steps = 5", "a tenth", "40 steps"]),
        (
            {"training": warm_up(5), **sampled(20, 10)},
            "cpu",
            ["lr_warmup_steps = 5", "shortest milestone's 40 steps"],
        ),
        ({"training": ema(0.9999)}, "cpu", ["ema_decay = 0.9999", "half-life of 6931", "'s 40:"]),
        ({"training": ema(0.9999), **sampled(20, 10)}, "cpu", ["ema_decay", "milestone's 40:"]),
        # A half-life of 13.5 steps, where a third of the run is 13.3.
        ({"training": ema(0.95)}, "cpu", ["ema_decay = 0.95", "third"]),
        ({"train_on": "dip", "dip": SIGNED}, "cpu", ["prior_target = signed", "Sigmoid"]),
        ({"train_on": "blur", "dip": SIGNED}, "cpu", ["prior_target = signed"]),
        ({"condition_on": "dip", "dip": SIGNED, **RESTORE}, "cpu", ["prior_target = signed"]),
        ({"dip": SIGNED, **FROM_DIP}, "cpu", ["prior_target = signed"]),
        (
            {"train_on": "dip", "dip": stopping(101)},
            "cpu",
            ["es_window = 101", "100 iterations"],
        ),
        ({"dip": stopping(101), **FROM_DIP}, "cpu", ["es_window = 101"]),
        (
            {"train_on": "dip", "dip": stopping(60, 41)},
            "cpu",
            ["es_window = 60 and es_patience = 41", "100 iterations", "never ends a fit"],
        ),
        ({"scoring": ScoringConfig(score_range="mixed")}, "cpu", ["score_range = mixed"]),
        (weighted("blend"), "cpu", ["start_from = dip", "0.5 and 0.5", "sum to 0.5"]),
        (
            sampled(task="restore", start_from="tv", start_image_weight=1.0),
            "cpu",  # with the forward process's own weight for the noise, at T / 2
            ["start_from = tv", "weights 1 and 0.96"],
        ),
        (sampled(num_samples=99), "cpu", ["num_samples = 99", "KID", "100 of each"]),
        ({"data": replace(ENOUGH, num_held_out=99)}, "cpu", ["num_held_out = 99", "KID"]),
        ({"data": replace(ENOUGH, num_images=99)}, "cpu", ["num_images = 99", "KID"]),
        ({"training": FP16}, "cpu", ["mixed_precision = fp16", "float32 on cpu"]),
    ],
)
def test_it_is_set_off(changes: dict[str, Any], device: str, words: list[str]) -> None:
    [warning] = guard_rails(replace(QUIET, **changes), device)
    assert [word for word in words if word not in warning] == []
    assert "\n" not in warning


@pytest.mark.parametrize(
    ("changes", "device"),
    [
        ({}, "cpu"),
        # Terminal SNR and the log-SNR levels: the other schedules, and the one made to end at 0.
        ({"schedule": NoiseScheduleConfig(beta_schedule="squaredcos_cap_v2")}, "cpu"),
        (
            {
                "schedule": NoiseScheduleConfig(
                    num_train_timesteps=500, beta_schedule="squaredcos_cap_v2"
                )
            },
            "cpu",
        ),
        (
            {
                "schedule": NoiseScheduleConfig(
                    num_train_timesteps=500,
                    rescale_betas_zero_snr=True,
                    prediction_type="v_prediction",
                )
            },
            "cpu",
        ),
        ({"schedule": NoiseScheduleConfig(num_train_timesteps=690)}, "cpu"),
        ({"training": warm_up(4)}, "cpu"),  # a tenth of 40
        ({"training": warm_up(4), **sampled(20, 10)}, "cpu"),
        ({"training": ema(0.94)}, "cpu"),  # a half-life of 11.2 steps
        ({"training": ema(0)}, "cpu"),
        ({"training": TrainingConfig(batch_size=25, ema_decay=0.9999, ema_ramp=True)}, "cpu"),
        ({"dip": SIGNED}, "cpu"),  # no prior is fitted
        ({"dip": SIGNED, **sampled(task="restore", start_from="blur")}, "cpu"),
        ({"train_on": "dip"}, "cpu"),
        ({"train_on": "dip", "dip": stopping(60, 40)}, "cpu"),
        ({"train_on": "dip", "dip": DIPConfig(es_window=101)}, "cpu"),
        ({"dip": stopping(101)}, "cpu"),
        (weighted("start"), "cpu"),
        (weighted("xT"), "cpu"),  # 1 and 0: off-distribution, yet of the right size
        (sampled(task="restore", start_from="degraded"), "cpu"),  # is x_t0 but for a factor
        # Restorations are scored in pairs; of what is generated, one large enough set will do.
        (sampled(task="restore", num_samples=16), "cpu"),
        ({"outcomes": (*sampled(num_samples=16)["outcomes"], *sampled()["outcomes"])}, "cpu"),
        ({"training": FP16}, "cuda"),
        ({"training": FP16}, "cuda:0"),
    ],
)
def test_it_is_silent(changes: dict[str, Any], device: str) -> None:
    assert guard_rails(replace(QUIET, **changes), device) == []


def test_the_terminal_snr_is_what_the_literature_says_of_the_published_schedule() -> None:
    short = NoiseScheduleConfig(num_train_timesteps=500)
    assert math.sqrt(alphas_cumprod(short)[-1]) == pytest.approx(0.080, abs=5e-4)


def test_no_rail_hides_another() -> None:
    training = TrainingConfig(
        batch_size=25, lr_warmup_steps=41, ema_ramp=False, mixed_precision="fp16"
    )
    config = replace(
        QUIET,
        train_on="dip",
        dip=replace(stopping(101), prior_target="signed"),
        schedule=NoiseScheduleConfig(num_train_timesteps=30),
        training=training,
        scoring=ScoringConfig(score_range="mixed"),
        outcomes=(
            *sampled(num_samples=16)["outcomes"],
            *sampled(
                task="restore", start_from="dip", num_inference_steps=5, start_noise_weight=2.0
            )["outcomes"],
        ),
    )
    assert len(guard_rails(config, "cpu")) == 10


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("priors", ["prior_target", "es_window"]),
        ("train", ["terminal SNR", "log-SNR", "lr_warmup_steps", "mixed_precision"]),
        ("sample", ["terminal SNR", "mixed_precision", "sampling_precision"]),
    ],
)
def test_a_part_by_itself_is_warned_of_what_bears_on_it(part: str, words: list[str]) -> None:
    config = replace(
        QUIET,
        dip=replace(stopping(101), prior_target="signed"),
        schedule=NoiseScheduleConfig(num_train_timesteps=30),
        training=replace(warm_up(41), mixed_precision="fp16"),
        scoring=ScoringConfig(score_range="mixed"),
        **sampled(num_samples=16, sampling_precision="fp16"),
    )
    found = guard_rails(config, "cpu", part)
    assert len(found) == len(words)
    assert all(word in told for word, told in zip(words, found, strict=True))
