from __future__ import annotations

import gc
import inspect
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import dryrun, flops
from bench.artifacts import Artifacts
from bench.cases import pipeline_config
from bench.choices import choices
from bench.extents import extent_of
from bench.ledger import BookingLedger, MeasuringLedger
from bench.machine import Machine
from bench.meters import Device, Spans
from dipddpm import dip as dip_module
from dipddpm.arms import STARTS, TARGETS, start_blur, start_nlm
from dipddpm.config import (
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
)
from dipddpm.degradation import degrade
from dipddpm.dip import fit_priors, join, learn_initialisation
from dipddpm.features import extract_features
from dipddpm.images import ImageSet, encode, prepare, take, to_eight_bits
from dipddpm.loaders import freeze_flips
from dipddpm.pipeline import Outcome, make_shared, run_pipeline
from dipddpm.sampling import as_images, as_samples, sample
from dipddpm.scoring import (
    score_anchors,
    score_features,
    score_generation,
    score_net,
    score_priors,
    score_restoration,
    score_start,
)
from dipddpm.sources import open_source
from dipddpm.training import TrainedNet, train_ddpm
from tests.test_meters import FakeTime
from tests.toy import toy_units

SOURCE = open_source("objects")
NET = (
    16,
    UNetConfig(block_out_channels=(8, 16), attention_levels=(1,), norm_num_groups=4),
    NoiseScheduleConfig(),
)
MEMORY = LoaderConfig()


def new_ledger(folder: Path, needed: dict[str, tuple[Path, str]] | None = None) -> MeasuringLedger:
    artifacts = Artifacts(folder, needed or {}, keep_all=True, keep_checkpoints=False)
    return MeasuringLedger("unit", Device("cpu"), Machine(), artifacts, Spans())


def restoring_config() -> PipelineConfig:
    """The toy's run with every start, of both milestones."""
    unit = max(toy_units(), key=lambda unit: len(unit.cases))
    return pipeline_config(unit.cases)


def tensors(outcome: Outcome) -> list[torch.Tensor]:
    net = outcome.trained
    of_net = [] if net is None else [*net.ema_weights.values(), net.losses]
    return [*of_net, outcome.samples.images]


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
    # One outcome takes the start image itself.
    assert sorted(steps["sample"]) == [3] * (len(config.outcomes) - 1)
    assert steps["fit_priors"] == [4]
    assert steps["score_net"] == [0, 0]


def test_a_key_is_function_settings_seed_and_parents(tmp_path: Path) -> None:
    ledger = BookingLedger()
    images = ledger(prepare, SOURCE.held_out[:4], 16)

    def key(*arguments: Any, function: Any = degrade) -> str:
        return ledger.key_of(ledger(function, *arguments))

    first = key(images, 25.0, Context(seed=1))
    assert first == key(images, 25.0, Context(seed=1, device="cuda:3", watch=iter))
    other_images = ledger(prepare, SOURCE.held_out[1:5], 16)
    different = {
        first,
        key(images, 25.0, Context(seed=2)),
        key(images, 24.0, Context(seed=1)),
        key(other_images, 25.0, Context(seed=1)),
    }
    assert len(different) == 4
    blurred, denoised = (
        key(images, RestorationConfig(), function=f) for f in (start_blur, start_nlm)
    )
    assert blurred != denoised
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
    loading, other_loading = LoaderConfig(), LoaderConfig(loader="list")
    scoring, other_scoring = ScoringConfig(), ScoringConfig(ssim_digits=3)

    def train(epochs: int) -> Any:
        return ledger(train_ddpm, images, 16, unet, schedule, training, context,
                      loading=loading, epochs=epochs)  # fmt: skip

    def drawn(steps: int) -> Any:
        config = SamplingConfig(num_inference_steps=steps)
        return ledger(sample, train(1), None, 16, unet, schedule, config, context)

    def fitted(first: int) -> Any:
        return ledger(fit_priors, images, DIPConfig(), context, first_index=first)

    def learned(seed: int) -> Any:
        return ledger(learn_initialisation, images, DIPConfig(), Context(seed=seed))

    def features(seed: int) -> Any:
        return ledger(extract_features, images, Context(seed=seed))

    shared = {"image_size": 16, "unet": unet, "schedule": schedule, "context": context,
              "condition": None}  # fmt: skip
    shared_others = {"image_size": 17, "unet": other_unet, "schedule": other_schedule,
                     "context": other_context, "condition": other_images}  # fmt: skip
    restoration, other_restoration = RestorationConfig(), RestorationConfig(blur_sigma=2)
    offered = {"images": images, "degraded": images, "priors": images, "originals": images,
               "training": images, "restoration": restoration, "context": context}  # fmt: skip
    others = {**dict.fromkeys(offered, other_images), "restoration": other_restoration,
              "context": other_context}  # fmt: skip

    def arm(function: Any) -> Call:
        asked = inspect.signature(function).parameters
        return Call(function, *({name: values[name] for name in asked}
                                for values in (offered, others)))  # fmt: skip

    return [
        Call(prepare, {"images": files, "image_size": 16},
             {"images": SOURCE.train[:5], "image_size": 17}),
        Call(take, {"images": images, "first": 0, "last": 2},
             {"images": other_images, "first": 1, "last": 3}),
        Call(encode, {"images": images, "like": files},
             {"images": other_images, "like": SOURCE.train[4:8]}),
        Call(to_eight_bits, {"images": images}, {"images": other_images}),
        Call(freeze_flips, {"images": images, "context": context},
             {"images": other_images, "context": other_context}),
        Call(degrade, {"images": images, "degradation_sigma": 25.0, "context": context,
                       "part": "held-out"},
             {"images": other_images, "degradation_sigma": 9.0, "context": other_context,
              "part": "training"}),
        *(arm(function) for function in (*TARGETS.values(), *STARTS.values()) if function),
        Call(fit_priors,
             {"images": images, "dip": DIPConfig(), "context": context, "first_index": 0,
              "originals": None, "initialisation": None},
             {"images": other_images, "dip": DIPConfig(num_iter=7), "context": other_context,
              "first_index": 1, "originals": other_images, "initialisation": learned(1)}),
        Call(learn_initialisation,
             {"images": images, "dip": DIPConfig(), "context": context},
             {"images": other_images, "dip": DIPConfig(num_iter=7), "context": other_context}),
        Call(train_ddpm,
             {"images": images, "training": training, "epochs": 2, "resume_from": train(1),
              "loading": loading, **shared},
             {"images": other_images, "training": TrainingConfig(batch_size=7), "epochs": 3,
              "resume_from": None, "loading": other_loading, **shared_others}),
        Call(sample, {"trained": train(1), "start": images, "sampling": sampling, **shared},
             {"trained": train(2), "start": None, "sampling": SamplingConfig(num_samples=3),
              **shared_others}),
        Call(as_samples, {"start": images}, {"start": other_images}),
        Call(as_images, {"samples": drawn(5)}, {"samples": drawn(6)}),
        Call(extract_features, {"images": images, "context": context},
             {"images": other_images, "context": other_context}),
        Call(score_net, {"trained": train(1), "held_out": images, **shared},
             {"trained": train(2), "held_out": None, **shared_others}),
        Call(score_generation, {"samples": drawn(5), "references": images, "scoring": scoring},
             {"samples": drawn(6), "references": other_images, "scoring": other_scoring}),
        Call(score_features,
             {"samples": features(1), "training": features(2), "held_out": features(3)},
             dict.fromkeys(("samples", "training", "held_out"), features(4))),
        Call(score_restoration, {"samples": drawn(5), "originals": images, "degraded": images},
             {"samples": drawn(6), "originals": other_images, "degraded": other_images}),
        Call(score_start, {"start": images, "training": images},
             {"start": other_images, "training": other_images}),
        Call(score_anchors,
             {"references": images, "held_out": images, "scoring": scoring, "context": context},
             {"references": other_images, "held_out": None, "scoring": other_scoring,
              "context": other_context}),
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


def test_so_are_those_of_stages_of_any_number_of_fits() -> None:
    ledger = BookingLedger()
    images = ledger(prepare, SOURCE.train[:4], 16)
    fits = [ledger(fit_priors, images, DIPConfig(), Context(), first_index=i) for i in range(3)]
    joins = [ledger(join, *parts) for parts in (fits, fits[:2], fits[::-1])]
    scores = [ledger(score_priors, *parts, of="start") for parts in (fits, fits[:2], fits[::-1])]
    scores.append(ledger(score_priors, *fits, of="training"))
    assert len({ledger.key_of(result) for result in (*joins, *scores)}) == 7
    assert ledger.rows[ledger.key_of(joins[0])].parents == tuple(map(ledger.key_of, fits))


FEATURED = SamplingConfig(num_samples=100)
RESTORED = SamplingConfig(task="restore", start_from="dip")


def booked(config: PipelineConfig, *, seed: int = 0) -> BookingLedger:
    ledger = BookingLedger()
    list(run_pipeline(config, SOURCE, Context(seed=seed), stages=ledger))
    return ledger


def whole_config(**settings: Any) -> PipelineConfig:
    """Generation with features and restoration from priors, after training on priors."""
    outcomes = tuple(OutcomeConfig(epochs=1, sampling=s) for s in (FEATURED, RESTORED))
    data = DataConfig(num_images=100, num_held_out=100)
    given = {"train_on": "blur", "data": data, "outcomes": outcomes, **settings}
    return PipelineConfig(**given)


def test_every_stage_is_among_those_of_these_tests() -> None:
    tested = {call.function.__name__ for call in every_stage(BookingLedger())}
    starts = (replace(RESTORED, start_from=start) for start in STARTS)
    direct = replace(RESTORED, num_inference_steps=0)
    samplings = (FEATURED, direct, *starts)
    config = whole_config(
        outcomes=tuple(OutcomeConfig(epochs=1, sampling=sampling) for sampling in samplings)
    )
    others = (
        replace(config, train_on="dip", loading=LoaderConfig(flip="loader")),
        replace(config, loading=LoaderConfig(loader="decode")),
        replace(config, dip=DIPConfig(warm_start="learned")),
    )
    called = {row.function for one in (config, *others) for row in booked(one).rows.values()}
    assert called == tested | {"join", "score_priors"}


OF_SAMPLES = {"sample", "as_images", "extract_features", "score_generation", "score_features",
              "score_restoration"}  # fmt: skip
OF_NET = {"train_ddpm", "score_net", *OF_SAMPLES}
OF_TARGET = {"to_eight_bits", *OF_NET}
OF_FITS = {
    "fit_priors",
    "join",
    "score_priors",
    "start_dip",
    "score_start",
    "blur_targets",
} | OF_TARGET


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ({"scoring": ScoringConfig(score_range="mixed")}, {"score_anchors", "score_generation"}),
        ({"scoring": ScoringConfig(ssim_digits=3)}, {"score_anchors", "score_generation"}),
        ({"loading": LoaderConfig(flip="loader")}, {"freeze_flips", *OF_NET}),
        ({"loading": LoaderConfig(loader="list")}, OF_NET),
        ({"loading": LoaderConfig(loader="decode")}, {"encode", *OF_NET}),
        ({"training": TrainingConfig(ema_decay=0)}, OF_NET),
        ({"unet": UNetConfig(block_out_channels=(16, 32, 32))}, OF_NET),
        ({"schedule": NoiseScheduleConfig(prediction_type="v_prediction")}, OF_NET),
        ({"train_on": "dip"}, {"dip_targets", *OF_TARGET}),
        ({"dip": DIPConfig(num_iter=99)}, OF_FITS),
        ({"outcomes": tuple(OutcomeConfig(epochs=1, sampling=replace(s, sampler="ddpm"))
                            for s in (FEATURED, RESTORED))}, OF_SAMPLES),
    ],
    ids=lambda value: " ".join(sorted(value)),  # sets have no order
)  # fmt: skip
def test_a_setting_changes_the_keys_of_what_rests_on_it_and_no_others(
    changed: dict[str, Any], moved: set[str]
) -> None:
    before, after = (booked(whole_config(**settings)).rows for settings in ({}, changed))
    assert {row.function for key, row in after.items() if key not in before} == moved


def test_a_condition_changes_the_keys_of_the_net_alone() -> None:
    outcomes = (OutcomeConfig(epochs=1, sampling=RESTORED),)
    without, conditioned = (
        booked(whole_config(outcomes=outcomes, condition_on=condition)).rows
        for condition in ("nothing", "dip")
    )
    new = {row.function for key, row in conditioned.items() if key not in without}
    of_condition = {"degrade", "take", "fit_priors", "join"}
    assert new == {"train_ddpm", "score_net", "sample", "score_restoration", *of_condition}
    [training] = (row for row in conditioned.values() if row.function == "train_ddpm")
    parents = [conditioned[key].function for key in training.parents]
    assert sorted(parents) == ["join", "to_eight_bits"]


def test_features_of_references_are_the_same_for_every_seed() -> None:
    one, other = (booked(whole_config(), seed=seed).rows for seed in (1, 2))
    shared = [row.function for key, row in one.items() if key in other]
    # Training and held-out images; those of the samples are of a net with a seed.
    assert shared.count("extract_features") == 2
    assert set(shared) == {"prepare", "take", "extract_features"}
    assert sum(row.function == "extract_features" for row in one.values()) == 3
    made = BookingLedger()
    make_shared(whole_config(), SOURCE, Context(seed=3), stages=made)
    features = [key for key, row in made.rows.items() if row.function == "extract_features"]
    assert len(features) == 2 and set(features) <= set(one)


def test_runs_of_all_seeds_and_numbers_of_images_find_their_reference_features_made() -> None:
    text = (
        'title = "t"\nabout = "a"\n[base]\nepochs = 1\nnum_samples = 100\nnum_held_out = 150\n'
        "[[grid]]\nseed = [0, 1]\nnum_images = [99, 100, 150, 200]\n"
    )
    units = toy_units(text)
    shared = {unit.unit: unit for unit in units if unit.kind == "shared"}
    assert sorted(name.rpartition("-")[0] for name in shared) == ["features-100", "features-150"]
    for unit in units:
        num_images = unit.cases[0].settings["num_images"]
        if unit.kind == "train":
            wanted = {"99": [], "100": ["100"], "150": ["150"], "200": ["150"]}[str(num_images)]
            assert [name.split("-")[1] for name in unit.needs] == wanted
    # Booked with what is shared, each run takes the features of its samples alone.
    booking = dryrun.book(units)
    assert booking.by_stage(booking.shared)["extract_features"] == 2 * 2 + 2 * 3


def test_what_runs_share_is_what_they_are_given() -> None:
    """Every fit of a run is in the unit that makes them for all, by its key."""
    config = whole_config()
    made = BookingLedger()
    make_shared(config, SOURCE, Context(), stages=made)
    wanted = {"fit_priors", "join"}
    asked = {key for key, row in booked(config).rows.items() if row.function in wanted}
    assert asked <= set(made.rows)
    assert {row.function for row in made.rows.values()} == {
        *("prepare", "degrade", "take", "fit_priors", "join", "extract_features")
    }


def test_a_start_without_steps_rests_on_no_net() -> None:
    starts = [replace(RESTORED, num_inference_steps=steps) for steps in (0, 5)]
    config = whole_config(
        outcomes=tuple(OutcomeConfig(epochs=1, sampling=sampling) for sampling in starts)
    )
    ledger = BookingLedger()
    direct, sampled = (
        {ledger.rows[key].function for key in ledger.bill(*outcome.scores)}
        for outcome in run_pipeline(config, SOURCE, Context(), stages=ledger)
    )
    assert sampled - direct >= {"train_ddpm", "sample", "score_net"}
    assert direct - sampled == {"as_samples"}
    assert {"fit_priors", "join", "start_dip", "degrade"} <= direct


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
    ledger = MeasuringLedger("unit", Device("cpu"), Machine(), artifacts, spans, warm=warm)
    ledger(stage, 3)
    (row,) = ledger.rows.values()
    assert calls == ["warm", "stage 3"]
    assert row.seconds == 5
    assert (spans.seconds["warm_up"], spans.seconds["stages"]) == (11, 5)


def test_what_settings_leave_open_is_told(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    images = ledger(prepare, SOURCE.train[:5], 16)
    ledger(fit_priors, images, DIPConfig(num_iter=1), Context())
    net = ledger(train_ddpm, images, *NET, TrainingConfig(), Context(), loading=MEMORY, epochs=1)
    for size in (None, 3):
        sampling = SamplingConfig(num_samples=7, num_inference_steps=1, samples_per_batch=size)
        ledger(sample, net, None, *NET, sampling, Context())
    told = [row.chosen for row in ledger.rows.values()]
    assert told == [
        {},
        {"backend": "grouped", "prior_channels_last": True},
        {"attention": "eager"},
        {"sampling_attention": "eager", "samples_per_batch": 7},
        {"sampling_attention": "eager", "samples_per_batch": 3},
    ]


@pytest.mark.parametrize(
    ("device", "size", "backend", "layout", "attention"),
    [("cpu", 64, "loop", True, "eager"), ("cuda", 64, "grouped", False, "sdpa")],
)
def test_what_is_told_goes_by_the_device(
    device: str, size: int, backend: str, layout: bool, attention: str
) -> None:
    images = ImageSet(torch.zeros(2, 3, size, size))
    fit = {"images": images, "dip": DIPConfig()}
    assert choices(fit_priors, fit, None, device) == {
        "backend": backend, "prior_channels_last": layout
    }  # fmt: skip
    asked = {"images": images, "dip": DIPConfig(backend="grouped", prior_channels_last=False)}
    assert choices(fit_priors, asked, None, device) == {
        "backend": "grouped", "prior_channels_last": False
    }  # fmt: skip
    for wanted, found in (("auto", attention), ("sdpa", "sdpa"), ("eager", "eager")):
        training = TrainingConfig(attention=wanted)  # type: ignore[arg-type]
        assert choices(train_ddpm, {"training": training}, None, device) == {"attention": found}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_what_compiling_takes_stands_apart(tmp_path: Path) -> None:
    """In the warm-up, and none of it in the seconds of a stage."""
    ledger = new_ledger(tmp_path)
    images = ledger(prepare, SOURCE.train[:6], 16)
    training = TrainingConfig(batch_size=4, compile="blocks")
    net = ledger(train_ddpm, images, *NET, training, Context(), loading=MEMORY, epochs=2)
    sampling = SamplingConfig(num_samples=5, num_inference_steps=4, sampling_compile="model")
    ledger(sample, net, None, *NET, sampling, Context())
    for row in list(ledger.rows.values())[1:]:
        assert row.warm_up_compile_seconds is not None
        assert row.warm_up_compile_seconds > 0.1
        assert row.compile_seconds == 0


def test_the_ledger_of_a_worker_warms_up_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = new_ledger(tmp_path)
    images = ledger(prepare, SOURCE.train[:2], 16)
    warmed: list[int] = []
    fit = dip_module.fit

    def watched_fit(net: Any, net_input: Any, target: Any, dip: DIPConfig, **kwargs: Any) -> Any:
        warmed.append(dip.num_iter)
        return fit(net, net_input, target, dip, **kwargs)

    monkeypatch.setattr(dip_module, "fit", watched_fit)
    ledger(fit_priors, images, DIPConfig(num_iter=9), Context())
    assert warmed == [3, 9]


def test_what_belongs_to_another_unit_is_not_performed(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, {}, keep_all=True, keep_checkpoints=False)
    refusing = MeasuringLedger(
        "unit", Device("cpu"), Machine(), artifacts, Spans(), refused=frozenset({fit_priors})
    )
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
    # What a call costs is known before it is made, to the last operation.
    assert {key: row.flops for key, row in measured.rows.items()} == {
        key: flops.of_booked(call) for key, call in booked.booked.items()
    }
    counted = {row.function for row in measured.rows.values() if row.flops}
    assert counted == {"fit_priors", "train_ddpm", "sample", "score_net"}


@pytest.mark.parametrize("train_on", ["images", "blur"])
def test_results_are_as_large_as_they_were_booked(tmp_path: Path, train_on: str) -> None:
    loading = LoaderConfig(loader="decode")
    config = replace(restoring_config(), train_on=train_on, loading=loading)
    measured, booked = new_ledger(tmp_path), BookingLedger()
    list(run_pipeline(config, SOURCE, Context(), stages=booked))
    expected = {key: extent_of(result) for key, result in booked._results.items()}
    for outcome in run_pipeline(config, SOURCE, Context(), stages=measured):
        if outcome.trained is not None:
            assert extent_of(outcome.trained) == expected[measured.key_of(outcome.trained)]
    known = {key: extent_of(result) for key, result in measured._results.items()}
    assert known == {key: expected[key] for key in known}
    assert {"encode", "join", "take", "start_nlm"} <= {measured.rows[key].function for key in known}


def test_trained_nets_live_no_longer_than_the_pipeline_holds_them(tmp_path: Path) -> None:
    config = restoring_config()
    ledger = new_ledger(tmp_path)
    seen: list[weakref.ref[TrainedNet]] = []
    for outcome in run_pipeline(config, SOURCE, Context(), stages=ledger):
        if outcome.trained is not None:
            seen.append(weakref.ref(outcome.trained))
    del outcome
    gc.collect()
    assert [ref() for ref in seen] == [None] * (len(config.outcomes) - 1)
