from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.artifacts import Artifacts
from bench.ledger import BookingLedger, MeasuringLedger
from bench.meters import Spans
from bench.suite import pipeline_config
from dipddpm.config import Context, DIPConfig, PipelineConfig, RestorationConfig
from dipddpm.dip import fit_priors, join
from dipddpm.images import ImageSet, blur, degrade, prepare, take
from dipddpm.pipeline import Outcome, run_pipeline
from dipddpm.sources import open_source
from dipddpm.training import TrainedNet
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
