from __future__ import annotations

import dataclasses
import inspect
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from dipddpm import config as config_module
from dipddpm.arms import STARTS
from dipddpm.config import (
    Context,
    DataConfig,
    DIPConfig,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    SamplingConfig,
    StartFrom,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.diffusion import build_unet
from dipddpm.images import ImageSet, degrade, prepare
from dipddpm.pipeline import Outcome, make_shared_priors, run_directly, run_pipeline
from dipddpm.sources import EncodedImages, ImageSource

P = ParamSpec("P")
T = TypeVar("T")

GENERATE = SamplingConfig(num_samples=2, num_inference_steps=2)
CONFIGS = tuple(
    value
    for value in vars(config_module).values()
    if isinstance(value, type) and hasattr(value, "__dataclass_fields__")
)


def restore(start_from: StartFrom, **settings: Any) -> SamplingConfig:
    return SamplingConfig(
        task="restore", start_from=start_from, num_samples=3, num_inference_steps=2, **settings
    )


@dataclass
class Call:
    name: str
    arguments: dict[str, Any]
    result: Any


@dataclass
class Recording:
    """`stages` that keep each call, and look at its arguments and at the global generators."""

    calls: list[Call] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    disturbed: set[str] = field(default_factory=set)

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        bound = inspect.signature(function).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            for item in value if isinstance(value, tuple) else (value,):
                if not self.is_known(item):
                    self.strangers.append(f"{function.__name__}({name}={type(item).__name__})")
        before = generator_states()
        result = function(*args, **kwargs)
        if generator_states() != before:
            self.disturbed.add(function.__name__)
        self.calls.append(Call(function.__name__, dict(bound.arguments), result))
        return result

    def is_known(self, value: object) -> bool:
        """A setting, the context, encoded images, or the result of an earlier stage."""
        if value is None or isinstance(value, (int, str, EncodedImages, *CONFIGS)):
            return True
        return any(value is call.result for call in self.calls)

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.calls]

    def of(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


def generator_states() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), str(numpy_state)


def same(left: object, right: object) -> bool:
    """The same bits, through dataclasses, dicts, lists and tuples."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if dataclasses.is_dataclass(left) and not isinstance(left, type):
        return type(left) is type(right) and same(vars(left), vars(right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.fixture(scope="module")
def tiny(
    tiny_data: DataConfig,
    tiny_dip: DIPConfig,
    tiny_unet: UNetConfig,
    tiny_schedule: NoiseScheduleConfig,
    tiny_training: TrainingConfig,
) -> PipelineConfig:
    return PipelineConfig(
        data=tiny_data,
        dip=tiny_dip,
        unet=tiny_unet,
        schedule=tiny_schedule,
        training=tiny_training,
        outcomes=(OutcomeConfig(epochs=1, sampling=GENERATE),),
    )


@pytest.fixture(scope="module")
def everything(tiny: PipelineConfig) -> PipelineConfig:
    """Priors to train on, files to decode, every start, and milestones out of order."""
    asked = [
        (2, GENERATE),
        (1, replace(GENERATE, sampler="ddpm", timestep_spacing="leading")),
        (2, restore("dip")),
        (1, restore("noise")),
        (1, restore("degraded")),
        (1, restore("dip")),
        (1, restore("blur", t0=20)),
    ]
    return replace(
        tiny,
        train_on="dip",
        loader="decode",
        outcomes=tuple(
            OutcomeConfig(epochs=epochs, sampling=sampling) for epochs, sampling in asked
        ),
    )


CONTEXT = Context(seed=11)


@pytest.fixture(scope="module")
def recorded(everything: PipelineConfig, objects: ImageSource) -> tuple[list[Outcome], Recording]:
    recording = Recording()
    outcomes = list(run_pipeline(everything, objects, CONTEXT, stages=recording))
    return outcomes, recording


def run(config: PipelineConfig, images: ImageSource, context: Context = CONTEXT) -> list[Outcome]:
    return list(run_pipeline(config, images, context))


def test_a_plain_run_is_seven_stages(tiny: PipelineConfig, objects: ImageSource) -> None:
    recording = Recording()
    [outcome] = run_pipeline(tiny, objects, CONTEXT, stages=recording)
    assert recording.names == [
        "prepare",  # references
        "prepare",  # originals
        "score_anchors",
        "prepare",  # training images
        "train_ddpm",
        "score_net",
        "sample",
        "score_generation",
    ]
    assert outcome.trained is recording.of("train_ddpm")[0].result
    assert outcome.samples is recording.of("sample")[0].result
    assert {id(scores) for scores in outcome.scores} == {
        id(call.result) for call in recording.calls if call.name.startswith("score")
    }


def test_a_run_of_everything_is_the_stages_it_needs(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    fit = ["prepare", "fit_priors"] * 3 + ["join"]  # five images, two at a time
    start = ["take", "fit_priors"] * 2 + ["join"]  # three held-out images
    restored = ["sample", "score_restoration"]
    assert recorded[1].names == [
        *("prepare", "prepare", "score_anchors"),
        *(*fit, "encode"),
        *("train_ddpm", "score_net"),
        *("sample", "score_generation"),
        *("degrade", *restored),
        *("degrade", *restored),
        *("degrade", *start, *restored),
        *("degrade", "blur", *restored),
        *("train_ddpm", "score_net"),
        *("sample", "score_generation"),
        *("degrade", *start, *restored),
    ]


def test_every_argument_is_a_setting_or_the_result_of_a_stage(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    _, recording = recorded
    assert len(recording.calls) > 40
    assert recording.strangers == []


def test_no_stage_touches_the_global_generators(recorded: tuple[list[Outcome], Recording]) -> None:
    assert recorded[1].disturbed == set()


def test_stages_are_given_the_context_of_the_run(recorded: tuple[list[Outcome], Recording]) -> None:
    contexts = [
        call.arguments["context"] for call in recorded[1].calls if "context" in call.arguments
    ]
    assert len(contexts) == 25
    assert all(context is CONTEXT for context in contexts)


def test_outcomes_come_by_milestone_and_each_that_was_asked_for(
    recorded: tuple[list[Outcome], Recording], everything: PipelineConfig
) -> None:
    outcomes, _ = recorded
    assert [outcome.epochs for outcome in outcomes] == [1, 1, 1, 1, 1, 2, 2]
    asked = [(outcome.epochs, outcome.sampling) for outcome in everything.outcomes]
    assert sorted(map(repr, asked)) == sorted(repr((o.epochs, o.sampling)) for o in outcomes)
    assert [o.trained.epochs for o in outcomes] == [o.epochs for o in outcomes]
    assert [o.trained.num_steps for o in outcomes] == [2 * o.epochs for o in outcomes]


def test_the_second_milestone_trains_on_from_the_first(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    first, second = recorded[1].of("train_ddpm")
    assert first.arguments["resume_from"] is None
    assert second.arguments["resume_from"] is first.result
    assert torch.equal(second.result.losses[:2], first.result.losses)


def test_every_start_works_and_gives_finite_scores(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    outcomes, _ = recorded
    assert {o.sampling.start_from for o in outcomes if o.sampling.task == "restore"} == {
        *STARTS,
        "noise",
    }
    for outcome in outcomes:
        assert outcome.samples.images.shape == (outcome.sampling.num_samples, 3, 16, 16)
        assert outcome.samples.images.abs().max() <= 1
        names = [name for scores in outcome.scores for name in scores.values]
        assert len(names) == len(set(names)) > 20
        for scores in outcome.scores:
            assert all(map(math.isfinite, scores.values.values())), scores.values
            assert all(values.isfinite().all() for values in scores.per_image.values())
    # Four starts from one net are four results.
    images = [o.samples.images for o in outcomes if o.epochs == 1 and o.sampling.task == "restore"]
    assert all(not torch.equal(x, y) for i, x in enumerate(images) for y in images[:i])


def test_starts_are_made_of_the_degraded_image_and_never_of_the_original(
    recorded: tuple[list[Outcome], Recording], objects: ImageSource, everything: PipelineConfig
) -> None:
    _, recording = recorded
    originals = prepare(objects.held_out[:3], 16)
    degraded = degrade(originals, GENERATE.restoration, CONTEXT).pixels
    for call in recording.of("take") + recording.of("blur"):
        assert torch.equal(call.arguments["images"].pixels, degraded)
    for call in recording.of("score_restoration"):
        assert torch.equal(call.arguments["originals"].pixels, originals.pixels)
        assert torch.equal(call.arguments["degraded"].pixels, degraded)
    starts = [call.arguments["start"] for call in recording.of("sample")]
    assert [start is None for start in starts] == [True, True, False, False, False, True, False]
    assert torch.equal(starts[2].pixels, degraded)
    assert torch.equal(starts[3].pixels, starts[6].pixels)  # the same priors for both milestones


def test_what_is_trained_on_are_the_files_of_the_priors(
    recorded: tuple[list[Outcome], Recording], objects: ImageSource
) -> None:
    _, recording = recorded
    [encoded] = recording.of("encode")
    for call in recording.of("train_ddpm"):
        assert call.arguments["images"] is encoded.result
    fits = recording.of("fit_priors")[:3]
    assert [call.arguments["first_index"] for call in fits] == [0, 2, 4]
    pixels = torch.cat([call.arguments["images"].pixels for call in fits])
    assert torch.equal(pixels, prepare(objects.train[:5], 16).pixels)
    assert torch.equal(
        encoded.arguments["images"].pixels, torch.cat([c.result.outputs for c in fits])
    )
    # Nothing held out is trained on, and only held-out images are scored or restored.
    shown = {file for call in recording.of("prepare") for file in call.arguments["images"].files}
    assert shown == {*objects.train.files[:5], *objects.held_out.files[:3]}


@pytest.mark.parametrize("train_on", ["images", "dip"])
def test_both_loaders_give_the_same_bits(
    tiny: PipelineConfig, objects: ImageSource, train_on: Any
) -> None:
    memory, decode = (
        run(replace(tiny, train_on=train_on, loader=loader), objects)
        for loader in ("memory", "decode")
    )
    assert same(memory, decode)


def test_the_measured_path_is_the_plain_path(
    everything: PipelineConfig, objects: ImageSource, recorded: tuple[list[Outcome], Recording]
) -> None:
    outcomes, _ = recorded
    plain = run(everything, objects)
    assert len(plain) == 7
    assert same(plain, outcomes)
    assert same(plain, list(run_pipeline(everything, objects, CONTEXT, stages=run_directly)))
    other = run(everything, objects, Context(seed=12))
    assert not same(plain[0].samples, other[0].samples)
    assert not same(plain[0].trained, other[0].trained)


def test_the_comparison_of_these_tests_can_fail(recorded: tuple[list[Outcome], Recording]) -> None:
    outcome = recorded[0][0]
    moved = replace(outcome.samples, images=outcome.samples.images + 1e-7)
    assert same(outcome, replace(outcome))
    assert not same(outcome, replace(outcome, samples=moved))


def test_arms_start_from_the_same_net_and_noise(tiny: PipelineConfig, objects: ImageSource) -> None:
    # At a learning rate of 1e-30 the net at the end is the net at the start.
    still = replace(tiny, training=replace(tiny.training, learning_rate=1e-30))
    start = dict(build_unet(tiny.unet, 16, CONTEXT.seed).state_dict())
    samples = []
    for train_on in ("images", "dip"):
        [outcome] = run(replace(still, train_on=train_on), objects)
        assert outcome.trained.weights.keys() == start.keys()
        for name, weight in outcome.trained.weights.items():
            assert (weight - start[name]).abs().max() < 1e-28
        samples.append(outcome.samples.images)
    assert torch.equal(*samples)


def priors_asked(recording: Recording) -> list[Any]:
    return [{**call.arguments, "result": call.result} for call in recording.of("fit_priors")]


@pytest.mark.parametrize("train_on", ["images", "dip"])
def test_shared_priors_are_those_that_a_run_makes(
    everything: PipelineConfig, objects: ImageSource, train_on: Any
) -> None:
    config = replace(everything, train_on=train_on)
    of_run, shared = Recording(), Recording()
    for _ in run_pipeline(config, objects, CONTEXT, stages=of_run):
        pass
    make_shared_priors(config, objects, CONTEXT, stages=shared)
    assert len(priors_asked(shared)) == (7 if train_on == "dip" else 4)
    assert same(priors_asked(shared), priors_asked(of_run))
    assert shared.strangers == []
    assert set(shared.names) <= {"prepare", "degrade", "take", "fit_priors", "join"}


def test_a_run_without_priors_shares_none(tiny: PipelineConfig, objects: ImageSource) -> None:
    recording = Recording()
    make_shared_priors(tiny, objects, CONTEXT, stages=recording)
    assert recording.names == []


def test_a_smaller_set_shares_the_chunks_of_a_larger_one(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    recordings = []
    for num_images in (4, 5):
        config = replace(tiny, train_on="dip", data=replace(tiny.data, num_images=num_images))
        recordings.append(Recording())
        make_shared_priors(config, objects, CONTEXT, stages=recordings[-1])
    few, many = map(priors_asked, recordings)
    assert len(few) == 2
    assert same(few, many[:2])


def test_too_few_images_are_refused_before_any_stage(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    recording = Recording()
    config = replace(tiny, data=replace(tiny.data, num_held_out=275))
    for make in (run_pipeline, make_shared_priors):
        with pytest.raises(
            ValueError, match="num_held_out must be at most 274 with objects, got 275"
        ):
            list(make(config, objects, CONTEXT, stages=recording) or ())
    assert recording.names == []


def test_outcomes_are_yielded_as_they_are_done(
    everything: PipelineConfig, objects: ImageSource
) -> None:
    recording = Recording()
    outcomes: Iterator[Outcome] = run_pipeline(everything, objects, CONTEXT, stages=recording)
    assert recording.names == []
    assert next(outcomes).epochs == 1
    assert len(recording.of("sample")) == len(recording.of("train_ddpm")) == 1


def test_every_start_but_noise_has_its_recipe() -> None:
    asked = set(StartFrom.__args__)  # type: ignore[attr-defined]
    assert asked == {*STARTS, "noise"}


def test_a_result_does_not_share_its_pixels_with_what_it_was_made_of(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    # A stage that wrote into its argument would change a value that others are to reuse.
    _, recording = recorded
    for call in recording.of("degrade") + recording.of("blur") + recording.of("fit_priors"):
        image_set = call.arguments["images"]
        assert isinstance(image_set, ImageSet)
        made = call.result.outputs if call.name == "fit_priors" else call.result.pixels
        assert made.untyped_storage().data_ptr() != image_set.pixels.untyped_storage().data_ptr()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_whole_pipeline_runs_on_cuda(everything: PipelineConfig, objects: ImageSource) -> None:
    cpu, cuda = (
        run(everything, objects, Context(seed=11, device=device)) for device in ("cpu", "cuda")
    )
    for left, right in zip(cpu, cuda, strict=True):
        assert (left.epochs, left.sampling) == (right.epochs, right.sampling)
        for ours, theirs in zip(left.scores, right.scores, strict=True):
            assert ours.values.keys() == theirs.values.keys()
            assert all(map(math.isfinite, theirs.values.values()))
        # The anchors are made on the CPU, whatever the device.
        assert same(left.scores[2], right.scores[2])
