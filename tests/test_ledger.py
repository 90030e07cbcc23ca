from __future__ import annotations

import gc
import inspect
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.artifacts import Artifacts
from bench.ledger import BookingLedger, MeasuringLedger
from bench.meters import Spans
from bench.suite import pipeline_config
from dipddpm import dip as dip_module
from dipddpm.config import (
    Context,
    DIPConfig,
    NoiseScheduleConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.dip import fit_priors, join
from dipddpm.images import ImageSet, blur, degrade, encode, prepare, take
from dipddpm.pipeline import Outcome, run_pipeline
from dipddpm.sampling import sample
from dipddpm.scoring import score_anchors, score_generation, score_net, score_restoration
from dipddpm.sources import open_source
from dipddpm.training import TrainedNet, train_ddpm
from tests.test_meters import FakeTime
from tests.toy import toy_units

SOURCE = open_source("objects")


def new_ledger(folder: Path, needed: dict[str, tuple[Path, str]] | None = None) -> MeasuringLedger:
    artifacts = Artifacts(folder, needed or {}, keep_all=True, keep_checkpoints=False)
    return MeasuringLedger("unit", "cpu", artifacts, Spans())


def restoring_config() -> PipelineConfig:
    """The toy's run with every start, of both milestones."""
    unit = max(toy_units(), key=lambda unit: len(unit.cases))
    return pipeline_config(unit.cases)


def tensors(outcome: Outcome) -> list[torch.Tensor]:
    return [*outcome.trained.ema_weights.values(), outcome.trained.losses, outcome.samples.images]


def test_the_measured_path_gives_the_bits_of_the_plain_path(tmp_path: Path) -> None:
    config = restoring_config()
    ledger = new_ledger(tmp_path)
    watched = Context(seed=3, watch=ledger.steps.watch)
    measured = list(run_pipeline(config, SOURCE, watched, stages=ledger))
    plain = list(run_pipeline(config, SOURCE, Context(seed=3)))
    assert len(measured) == len(plain) == len(config.outcomes)
    for left, right in zip(measured, plain, strict=True):
        assert [s.values for s in left.scores] == [s.values for s in right.scores]
        for one, other in zip(tensors(left), tensors(right), strict=True):
            assert torch.equal(one, other)


def test_steps_of_each_stage_are_its_loops(tmp_path: Path) -> None:
    config = restoring_config()
    ledger = new_ledger(tmp_path)
    watched = Context(watch=ledger.steps.watch)
    list(run_pipeline(config, SOURCE, watched, stages=ledger))
    steps: dict[str, list[int]] = {
        name: [] for name in ("train_ddpm", "sample", "fit_priors", "score_net")
    }
    for row in ledger.rows.values():
        steps.get(row.function, []).append(len(row.step_seconds))
        assert len(row.step_seconds) == len(row.data_wait_seconds)
        waits = zip(row.data_wait_seconds, row.step_seconds, strict=True)
        assert all(0 <= wait <= step for wait, step in waits)
    # 6 images in batches of 4: two steps an epoch, a milestone an epoch.
    assert steps["train_ddpm"] == [2, 2]
    assert sorted(steps["sample"]) == [3] * len(config.outcomes)
    assert steps["fit_priors"] == [4]
    assert steps["score_net"] == [0, 0]


def test_a_key_is_function_settings_seed_and_parents(tmp_path: Path) -> None:
    ledger = BookingLedger()
    images = ledger(prepare, SOURCE.held_out[:4], 16)
    restoration = RestorationConfig()

    def key(*arguments: Any, function: Any = degrade) -> str:
        return ledger.key_of(ledger(function, *arguments))

    first = key(images, restoration, Context(seed=1))
    assert first == key(images, restoration, Context(seed=1, device="cuda:3", watch=iter))
    other_images = ledger(prepare, SOURCE.held_out[1:5], 16)
    different = {
        first,
        key(images, restoration, Context(seed=2)),
        key(images, RestorationConfig(degradation_sigma=24), Context(seed=1)),
        key(other_images, restoration, Context(seed=1)),
        key(images, restoration, Context(seed=1), function=blur),
    }
    assert len(different) == 5
    assert key(SOURCE.held_out[:4], 16, function=prepare) == ledger.key_of(images)


@dataclass
class Call:
    """A stage with arguments, and for each of them another value."""

    function: Any
    arguments: dict[str, Any]
    others: dict[str, Any]


def every_stage(ledger: BookingLedger) -> list[Call]:
    files, images = SOURCE.train[:4], ledger(prepare, SOURCE.train[:4], 16)
    other_images = ledger(prepare, SOURCE.train[4:8], 16)
    unet, other_unet = UNetConfig(), UNetConfig(layers_per_block=2)
    schedule, other_schedule = NoiseScheduleConfig(), NoiseScheduleConfig(num_train_timesteps=999)
    training, sampling = TrainingConfig(), SamplingConfig()
    context, other_context = Context(seed=1), Context(seed=2)

    def train(epochs: int) -> Any:
        return ledger(train_ddpm, images, 16, unet, schedule, training, context, epochs=epochs)

    def drawn(steps: int) -> Any:
        config = SamplingConfig(num_inference_steps=steps)
        return ledger(sample, train(1), None, 16, unet, schedule, config, context)

    def fitted(first: int) -> Any:
        return ledger(fit_priors, images, DIPConfig(), context, first_index=first)

    shared = {"image_size": 16, "unet": unet, "schedule": schedule, "context": context}
    shared_others = {"image_size": 17, "unet": other_unet, "schedule": other_schedule,
                     "context": other_context}  # fmt: skip
    restoration, other_restoration = RestorationConfig(), RestorationConfig(blur_sigma=2)
    recipe = {"images": images, "restoration": restoration, "context": context}
    recipe_others = {"images": other_images, "restoration": other_restoration,
                     "context": other_context}  # fmt: skip
    return [
        Call(prepare, {"images": files, "image_size": 16},
             {"images": SOURCE.train[:5], "image_size": 17}),
        Call(take, {"images": images, "first": 0, "last": 2},
             {"images": other_images, "first": 1, "last": 3}),
        Call(encode, {"images": images, "like": files},
             {"images": other_images, "like": SOURCE.train[4:8]}),
        Call(degrade, recipe, recipe_others),
        Call(blur, recipe, recipe_others),
        Call(fit_priors,
             {"images": images, "dip": DIPConfig(), "context": context, "first_index": 0},
             {"images": other_images, "dip": DIPConfig(num_iter=7), "context": other_context,
              "first_index": 1}),
        Call(train_ddpm,
             {"images": images, "training": training, "epochs": 2, "resume_from": train(1),
              **shared},
             {"images": other_images, "training": TrainingConfig(batch_size=7), "epochs": 3,
              "resume_from": None, **shared_others}),
        Call(sample, {"trained": train(1), "start": images, "sampling": sampling, **shared},
             {"trained": train(2), "start": None, "sampling": SamplingConfig(num_samples=3),
              **shared_others}),
        Call(score_net, {"trained": train(1), "held_out": images, **shared},
             {"trained": train(2), "held_out": other_images, **shared_others}),
        Call(score_generation, {"samples": drawn(5), "references": images},
             {"samples": drawn(6), "references": other_images}),
        Call(score_restoration, {"samples": drawn(5), "originals": images, "degraded": images},
             {"samples": drawn(6), "originals": other_images, "degraded": other_images}),
        Call(score_anchors, {"references": images, "held_out": images, "context": context},
             {"references": other_images, "held_out": other_images, "context": other_context}),
    ]  # fmt: skip


def test_every_argument_of_every_stage_is_in_its_key() -> None:
    ledger = BookingLedger()
    for call in every_stage(ledger):
        key = ledger.key_of(ledger(call.function, **call.arguments))
        assert call.arguments.keys() == inspect.signature(call.function).parameters.keys()
        for name, other in call.others.items():
            changed = {**call.arguments, name: other}
            where = f"{call.function.__name__}({name})"
            assert ledger.key_of(ledger(call.function, **changed)) != key, where
            parents = ledger.rows[ledger.key_of(ledger(call.function, **changed))].parents
            wanted = [v for v in changed.values() if id(v) in ledger._key_of]
            assert sorted(parents) == sorted(ledger.key_of(value) for value in wanted), where
    called = {call.function for call in every_stage(BookingLedger())}
    stages = {row.function for row in ledger.rows.values()}
    assert {function.__name__ for function in called} == stages


def test_a_stage_is_warmed_first_and_the_clock_starts_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeTime(monkeypatch)
    calls: list[str] = []

    def stage(steps: int) -> ImageSet:
        calls.append(f"stage {steps}")
        time.pass_by(5)
        return ImageSet(torch.zeros(1, 3, 2, 2))

    def warm(function: Any, args: Any, kwargs: Any) -> None:
        assert (function, args, kwargs) == (stage, (3,), {})
        calls.append("warm")
        time.pass_by(11)

    spans = Spans()
    artifacts = Artifacts(tmp_path, {}, keep_all=True, keep_checkpoints=False)
    ledger = MeasuringLedger("unit", "cpu", artifacts, spans, warm=warm)
    ledger(stage, 3)
    (row,) = ledger.rows.values()
    assert calls == ["warm", "stage 3"]
    assert row.seconds == 5
    assert (spans.seconds["warm_up"], spans.seconds["stages"]) == (11, 5)


def test_the_ledger_of_a_worker_warms_up_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = new_ledger(tmp_path)
    images = ledger(prepare, SOURCE.train[:2], 16)
    warmed: list[int] = []
    fit = dip_module.fit

    def watched_fit(*args: Any, **kwargs: Any) -> Any:
        warmed.append(kwargs["num_iter"])
        return fit(*args, **kwargs)

    monkeypatch.setattr(dip_module, "fit", watched_fit)
    ledger(fit_priors, images, DIPConfig(num_iter=9), Context())
    assert warmed == [3, 9]


def test_what_belongs_to_another_unit_is_not_performed(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, {}, keep_all=True, keep_checkpoints=False)
    refusing = MeasuringLedger("unit", "cpu", artifacts, Spans(), refused=frozenset({fit_priors}))
    images = refusing(prepare, SOURCE.train[:2], 16)
    with pytest.raises(RuntimeError, match="fit_priors belongs to a unit of its own"):
        refusing(fit_priors, images, DIPConfig(num_iter=1), Context())


def test_images_at_the_root_go_by_content(tmp_path: Path) -> None:
    path = tmp_path / "image.webp"
    path.write_bytes(SOURCE.train.read(0))
    from_disk = type(SOURCE.train)((path,))
    ledger = BookingLedger()
    first = ledger(prepare, SOURCE.train[:1], 16)
    assert ledger(prepare, from_disk, 16) is first
    assert ledger(prepare, SOURCE.train[1:2], 16) is not first


def test_what_is_neither_setting_nor_result_is_refused(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    images = ledger(prepare, SOURCE.train[:4], 16)
    glued = ImageSet(torch.cat([images.pixels, images.pixels]))
    for foreign in (glued, images.pixels, object(), {"a": 1}):
        with pytest.raises(TypeError, match="neither a setting nor the result"):
            ledger(take, foreign, 0, 2)  # type: ignore[arg-type]


def test_a_stage_must_return_a_value_of_its_own(tmp_path: Path) -> None:
    def same(images: ImageSet) -> ImageSet:
        return images

    ledger = new_ledger(tmp_path)
    images = ledger(prepare, SOURCE.train[:4], 16)
    with pytest.raises(TypeError, match="another stage"):
        ledger(same, images)


def test_a_bill_is_the_ancestors(tmp_path: Path) -> None:
    ledger = BookingLedger()
    dip = DIPConfig(num_iter=1)
    chunks = [ledger(prepare, SOURCE.train[i : i + 2], 16) for i in (0, 2)]
    fits = [ledger(fit_priors, c, dip, Context(), first_index=i) for i, c in enumerate(chunks)]
    joined = ledger(join, *fits)
    unrelated = ledger(prepare, SOURCE.train[7:8], 16)
    assert set(ledger.bill(joined)) == {ledger.key_of(x) for x in (*chunks, *fits, joined)}
    assert ledger.bill(fits[1]) == (ledger.key_of(chunks[1]), ledger.key_of(fits[1]))
    assert ledger.bill(unrelated) == (ledger.key_of(unrelated),)


def test_a_call_is_performed_once_and_loaded_where_it_was_made(tmp_path: Path) -> None:
    maker = new_ledger(tmp_path)
    images = maker(prepare, SOURCE.train[:4], 16)
    assert maker(prepare, SOURCE.train[:4], 16) is images
    row = maker.rows[maker.key_of(images)]
    assert row.artifact_sha256 is not None and row.executed and row.seconds is not None

    user = new_ledger(tmp_path / "user", {row.key: (tmp_path, row.artifact_sha256)})
    loaded = user(prepare, SOURCE.train[:4], 16)
    assert torch.equal(loaded.pixels, images.pixels)
    found = user.rows[row.key]
    assert (found.executed, found.seconds, found.parents) == (False, None, row.parents)


def test_booking_names_the_calls_that_measuring_performs(tmp_path: Path) -> None:
    config = restoring_config()
    measured, booked = new_ledger(tmp_path), BookingLedger()
    list(run_pipeline(config, SOURCE, Context(), stages=measured))
    list(run_pipeline(config, SOURCE, Context(), stages=booked))
    shape = [(row.key, row.function, row.parents, row.executed) for row in measured.rows.values()]
    assert shape == [(r.key, r.function, r.parents, r.executed) for r in booked.rows.values()]


def test_trained_nets_live_no_longer_than_the_pipeline_holds_them(tmp_path: Path) -> None:
    config = restoring_config()
    ledger = new_ledger(tmp_path)
    seen: list[weakref.ref[TrainedNet]] = []
    for outcome in run_pipeline(config, SOURCE, Context(), stages=ledger):
        seen.append(weakref.ref(outcome.trained))
    del outcome
    gc.collect()
    assert [ref() for ref in seen] == [None] * len(config.outcomes)
