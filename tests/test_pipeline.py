from __future__ import annotations

import inspect
import io
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bench.ledger import BookingLedger
from dipddpm.arms import STARTS
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
    TrainingConfig,
    UNetConfig,
)
from dipddpm.degradation import degrade
from dipddpm.diffusion import build_unet
from dipddpm.encoded import EncodedImages
from dipddpm.features import extract_features
from dipddpm.images import ImageSet, prepare
from dipddpm.inputs import run_directly
from dipddpm.metrics import psnr
from dipddpm.pipeline import Attempt, Outcome, attempts, make_shared, run_pipeline
from dipddpm.scoring import score_features
from dipddpm.sources import ImageSource
from tests.recording import Recording, same

ROOT = Path(__file__).parents[1]
GENERATE = SamplingConfig(num_samples=2, num_inference_steps=2)
CONTEXT = Context(seed=11)


def restore(start_from: str, **settings: Any) -> SamplingConfig:
    asked = {"num_samples": 3, "num_inference_steps": 2, **settings}
    return SamplingConfig(task="restore", start_from=start_from, **asked)


def asking(
    config: PipelineConfig, *asked: tuple[int, SamplingConfig], **settings: Any
) -> PipelineConfig:
    """For these milestones and sampling settings."""
    outcomes = (OutcomeConfig(epochs=epochs, sampling=sampling) for epochs, sampling in asked)
    return replace(config, outcomes=tuple(outcomes), **settings)


def run(config: PipelineConfig, images: ImageSource, context: Context = CONTEXT) -> list[Outcome]:
    return list(run_pipeline(config, images, context))


def recording(config: PipelineConfig, images: ImageSource) -> tuple[list[Outcome], Recording]:
    stages = Recording()
    return list(run_pipeline(config, images, CONTEXT, stages=stages)), stages


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
    """Priors to train on, files to decode, all kinds of starts, and milestones out of order."""
    return asking(
        tiny,
        (2, GENERATE),
        (1, replace(GENERATE, sampler="ddpm", timestep_spacing="leading")),
        (2, restore("dip")),
        (1, restore("noise", sampler="dpmsolver++")),
        (1, restore("degraded")),
        (1, restore("dip")),
        (1, restore("blur", t0=20)),
        (1, restore("nearest", num_samples=2)),
        (2, restore("dip", num_inference_steps=0)),
        train_on="dip",
        loading=LoaderConfig(loader="decode"),
    )


@pytest.fixture(scope="module")
def recorded(everything: PipelineConfig, objects: ImageSource) -> tuple[list[Outcome], Recording]:
    return recording(everything, objects)


# The wiring ---------------------------------------------------------------------------------------


def test_a_plain_run_is_eight_stages(tiny: PipelineConfig, objects: ImageSource) -> None:
    [outcome], stages = recording(tiny, objects)
    assert stages.names == [
        "prepare",  # training images
        "train_ddpm",
        "sample",
        "prepare",  # references
        "prepare",  # held-out images
        "score_anchors",
        "score_net",
        "score_generation",
    ]
    assert outcome.trained is stages.of("train_ddpm")[0].result
    assert outcome.samples is stages.of("sample")[0].result
    assert [id(scores) for scores in outcome.scores] == [
        id(call.result) for call in stages.calls if call.name.startswith("score")
    ]


def test_a_run_of_everything_is_the_stages_it_needs(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    fit = ["prepare", "fit_priors"] * 3 + ["join"]  # five images, two at a time
    # Three held-out images, each chunk beside its originals.
    start_fit = ["take", "take", "fit_priors"] * 2 + ["join"]
    assert recorded[1].names == [
        *(*fit, "dip_targets", "encode", "train_ddpm"),
        *("sample", "prepare", "prepare", "score_anchors", "score_priors", "score_net"),
        "score_generation",
        *("sample", "degrade", "score_restoration"),
        *("start_degraded", "sample", "score_restoration", "prepare", "score_start"),
        *(*start_fit, "start_dip", "sample", "score_priors", "score_restoration", "score_start"),
        *("start_blur", "sample", "score_restoration", "score_start"),
        *("take", "start_nearest", "sample", "score_restoration", "score_start"),
        *("train_ddpm", "sample", "score_net", "score_generation"),
        *("sample", "score_restoration"),  # from the start that is there
        *("as_samples", "score_restoration"),
    ]


def test_every_argument_is_a_setting_or_the_result_of_a_stage(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    assert len(recorded[1].calls) > 40
    assert recorded[1].strangers == []


def test_no_stage_touches_the_global_generators(recorded: tuple[list[Outcome], Recording]) -> None:
    assert recorded[1].disturbed == set()


def test_stages_are_given_the_context_of_the_run(recorded: tuple[list[Outcome], Recording]) -> None:
    contexts = [
        call.arguments["context"] for call in recorded[1].calls if "context" in call.arguments
    ]
    # Five fits, two trainings, eight samplings, the anchors, two nets scored, degrade.
    assert len(contexts) == 19
    assert all(context is CONTEXT for context in contexts)


def test_outcomes_come_by_milestone_and_each_that_was_asked_for(
    recorded: tuple[list[Outcome], Recording], everything: PipelineConfig
) -> None:
    outcomes, _ = recorded
    assert [outcome.epochs for outcome in outcomes] == [1] * 6 + [2] * 3
    asked = [(outcome.epochs, outcome.sampling) for outcome in everything.outcomes]
    assert sorted(map(repr, asked)) == sorted(repr((o.epochs, o.sampling)) for o in outcomes)
    for outcome in outcomes[:-1]:
        assert outcome.trained is not None
        assert outcome.trained.epochs == outcome.epochs
        assert outcome.trained.num_steps == 2 * outcome.epochs


def test_the_second_milestone_trains_on_from_the_first(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    first, second = recorded[1].of("train_ddpm")
    assert first.arguments["resume_from"] is None
    assert second.arguments["resume_from"] is first.result
    assert torch.equal(second.result.losses[:2], first.result.losses)


def test_the_settings_of_a_stage_are_those_of_the_config(
    recorded: tuple[list[Outcome], Recording], everything: PipelineConfig
) -> None:
    for call in recorded[1].of("train_ddpm"):
        assert call.arguments["loading"] is everything.loading
        assert call.arguments["training"] is everything.training
    for call in recorded[1].of("score_anchors") + recorded[1].of("score_generation"):
        assert call.arguments["scoring"] is everything.scoring
    for call in recorded[1].of("sample") + recorded[1].of("score_net"):
        assert call.arguments["schedule"] is everything.schedule
        assert call.arguments["condition"] is None


def test_every_kind_of_outcome_gives_finite_scores(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    outcomes, _ = recorded
    for outcome in outcomes:
        assert outcome.samples.images.shape == (outcome.sampling.num_samples, 3, 16, 16)
        assert outcome.samples.images.abs().max() <= 1
        names = [name for scores in outcome.scores for name in scores.values]
        assert len(names) == len(set(names)) > 20
        for scores in outcome.scores:
            assert all(map(math.isfinite, scores.values.values())), scores.values
            assert all(values.isfinite().all() for values in scores.per_image.values())
    # Five starts from one net are five results.
    images = [o.samples.images for o in outcomes if o.epochs == 1 and o.sampling.task == "restore"]
    assert len(images) == 5
    assert not any(torch.equal(x, y) for i, x in enumerate(images) for y in images[:i])


def test_what_is_trained_on_are_the_files_of_the_priors(
    recorded: tuple[list[Outcome], Recording], objects: ImageSource
) -> None:
    stages = recorded[1]
    [target], [encoded] = stages.of("dip_targets"), stages.of("encode")
    for call in stages.of("train_ddpm"):
        assert call.arguments["images"] is encoded.result
    assert encoded.arguments["images"] is target.result
    assert encoded.arguments["like"].files == objects.train.files[:5]
    fits = stages.of("fit_priors")[:3]
    assert [call.arguments["first_index"] for call in fits] == [0, 2, 4]
    pixels = torch.cat([call.arguments["images"].pixels for call in fits])
    assert torch.equal(pixels, prepare(objects.train[:5], 16).pixels)
    assert torch.equal(target.result.pixels, torch.cat([call.result.outputs for call in fits]))


def test_only_held_out_images_are_restored_and_scored(
    recorded: tuple[list[Outcome], Recording], objects: ImageSource
) -> None:
    stages = recorded[1]
    originals = prepare(objects.held_out[:3], 16)
    degraded = degrade(originals, GENERATE.restoration.degradation_sigma, CONTEXT).pixels
    for call in stages.of("score_restoration"):
        assert torch.equal(call.arguments["originals"].pixels, originals.pixels)
        assert torch.equal(call.arguments["degraded"].pixels, degraded)
    for call in stages.of("score_net") + stages.of("score_anchors"):
        assert torch.equal(call.arguments["held_out"].pixels, originals.pixels)
    [nearest] = stages.of("start_nearest")
    assert torch.equal(nearest.arguments["degraded"].pixels, degraded[:2])
    assert torch.equal(nearest.arguments["training"].pixels, prepare(objects.train[:5], 16).pixels)
    # Five to train on, and the sixteen that the publication compared with.
    shown = [call.arguments["images"].files for call in stages.of("prepare")]
    assert {file for files in shown for file in files} == {
        *objects.train.files[:16],
        *objects.held_out.files[:3],
    }


@pytest.mark.parametrize("train_on", ["images", "dip", "blur"])
def test_all_loaders_give_the_same_bits(
    tiny: PipelineConfig, objects: ImageSource, train_on: str
) -> None:
    config = replace(tiny, train_on=train_on)
    memory, *others = (
        run(replace(config, loading=LoaderConfig(loader=loader)), objects)
        for loader in ("memory", "list", "decode")
    )
    assert all(same(memory, other) for other in others)


def test_the_measured_path_is_the_plain_path(
    everything: PipelineConfig, objects: ImageSource, recorded: tuple[list[Outcome], Recording]
) -> None:
    plain = run(everything, objects)
    assert len(plain) == 9
    assert same(plain, recorded[0])
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
    for train_on in ("images", "dip", "blur"):
        [outcome] = run(replace(still, train_on=train_on), objects)
        assert outcome.trained is not None
        assert outcome.trained.weights.keys() == start.keys()
        for name, weight in outcome.trained.weights.items():
            assert (weight - start[name]).abs().max() < 1e-28
        samples.append(outcome.samples.images)
    assert torch.equal(samples[0], samples[1]) and torch.equal(samples[0], samples[2])


# The path of a target -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The user's: a target that is the images, a start that is training images for some."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "pipeline_targets.py").write_text(
        "from dipddpm.images import ImageSet\n\n\n"
        "def identity(images: ImageSet) -> ImageSet:\n"
        "    return ImageSet(images.pixels.clone())\n\n\n"
        "def known(degraded: ImageSet, training: ImageSet) -> ImageSet:\n"
        "    pixels = degraded.pixels.clone()\n"
        "    pixels[:2] = training.pixels[:2]\n"
        "    return ImageSet(pixels)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "pipeline_targets"


def png_files(source: ImageSource) -> ImageSource:
    """The same as PNG, neither square nor a multiple of what they are resized to."""

    def as_png(part: EncodedImages) -> EncodedImages:
        files = []
        for index in range(8):
            stream = io.BytesIO()
            part.decode(index).resize((52, 40), Image.Resampling.LANCZOS).save(stream, "PNG")
            files.append(stream.getvalue())
        return EncodedImages(tuple(files))

    return ImageSource("png", as_png(source.train), as_png(source.held_out))


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("files", ["webp", "png"])
def test_images_through_the_path_of_the_dip_arm_are_the_plain_arm(
    tiny: PipelineConfig, objects: ImageSource, functions: str, files: str, size: int
) -> None:
    source = objects if files == "webp" else png_files(objects)
    config = replace(tiny, data=replace(tiny.data, image_size=size))
    plain = run(config, source)
    for loader in ("memory", "list", "decode"):
        loading = LoaderConfig(loader=loader)
        made, stages = recording(
            replace(config, train_on=f"{functions}:identity", loading=loading), source
        )
        assert ("encode" if loader == "decode" else "to_eight_bits") in stages.names
        # Weights, optimizer, losses, samples and scores, to the bit.
        assert same(plain, made), loader


# Starts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_a_start_without_its_image_at_the_top_is_noise(
    tiny: PipelineConfig, objects: ImageSource, sampler: str
) -> None:
    top = tiny.schedule.num_train_timesteps
    nothing = {"t0": top, "start_image_weight": 0.0, "start_noise_weight": 1.0, "sampler": sampler}
    starts = [name for name in STARTS if name != "noise"]
    config = asking(
        tiny,
        (1, restore("noise", sampler=sampler)),
        *((1, restore(name, **nothing)) for name in starts),
        (1, restore("original", **{**nothing, "start_image_weight": 0.1})),
    )
    noise, *others, moved = run(config, objects)
    assert [other.sampling.start_from for other in others] == starts
    assert all(same(other.samples, noise.samples) for other in others)
    assert not same(moved.samples, noise.samples)


def test_starts_share_one_net(tiny: PipelineConfig, objects: ImageSource) -> None:
    starts = [(epochs, restore(name)) for epochs in (1, 2) for name in STARTS]
    outcomes, stages = recording(asking(tiny, *starts), objects)
    assert [call.arguments["epochs"] for call in stages.of("train_ddpm")] == [1, 2]
    nets = [call.result for call in stages.of("train_ddpm")]
    assert len(outcomes) == 2 * len(STARTS) > 16
    assert all(outcome.trained is nets[outcome.epochs - 1] for outcome in outcomes)


def test_no_steps_are_the_start_itself_and_no_net(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    starts = [name for name in STARTS if name != "noise"]
    config = asking(tiny, *((1, restore(name, num_inference_steps=0)) for name in starts))
    outcomes, stages = recording(config, objects)
    assert {"train_ddpm", "sample", "score_net"}.isdisjoint(stages.names)
    for outcome, name in zip(outcomes, starts, strict=True):
        [made] = stages.of(f"start_{name}")
        assert torch.equal(outcome.samples.images, made.result.pixels.clamp(-1, 1)), name
        assert outcome.trained is None
        names = {key for scores in outcome.scores for key in scores.values}
        assert "paired_psnr" in names and "eps_loss" not in names
    # A perfect start is the one that is perfect.
    exact = next(o for o in outcomes if o.sampling.start_from == "original")
    scores = {key: value for part in exact.scores for key, value in part.values.items()}
    assert scores["paired_psnr"] == math.inf


def test_a_net_is_trained_up_to_the_milestones_that_need_one(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    start = restore("degraded", num_inference_steps=0)
    config = asking(tiny, (1, start), (2, GENERATE), (3, start))
    outcomes, stages = recording(config, objects)
    [training] = stages.of("train_ddpm")
    assert (training.arguments["epochs"], training.arguments["resume_from"]) == (2, None)
    assert [outcome.trained for outcome in outcomes] == [None, training.result, None]
    assert same(outcomes[1], run(asking(tiny, (2, GENERATE)), objects)[0])


def test_starts_from_training_images_are_told(tiny: PipelineConfig, objects: ImageSource) -> None:
    warned = {
        outcome.sampling.start_from: [text for part in outcome.scores for text in part.warnings]
        for outcome in run(asking(tiny, *((1, restore(name)) for name in STARTS)), objects)
    }
    copies = {name: [text for text in texts if "start" in text] for name, texts in warned.items()}
    assert copies.pop("nearest") == ["3 of 3 start images are images of the training set"]
    assert not any(copies.values())


def test_so_are_those_of_a_start_of_ones_own(
    tiny: PipelineConfig, objects: ImageSource, functions: str
) -> None:
    sampling = restore(f"{functions}:known")
    [outcome] = run(asking(tiny, (1, sampling)), objects)
    assert [text for part in outcome.scores for text in part.warnings] == [
        "2 of 3 start images are images of the training set"
    ]


def test_starts_of_other_noise_or_number_have_scores_of_their_own_priors(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    start = restore("dip", num_inference_steps=0)
    asked = [
        start,
        replace(start, restoration=RestorationConfig(degradation_sigma=9)),
        replace(start, num_samples=2),
    ]
    outcomes, stages = recording(asking(tiny, *((1, one) for one in asked)), objects)
    scored = stages.of("score_priors")
    assert len(scored) == 3
    for outcome, call in zip(outcomes, scored, strict=True):
        assert any(scores is call.result for scores in outcome.scores)
        restored = call.result.per_image["start_prior_psnr_stop"]
        assert len(restored) == outcome.sampling.num_samples
        # They are of the start that is the outcome.
        original = prepare(objects.held_out[: len(restored)], 16).pixels
        assert torch.allclose(restored, psnr(outcome.samples.images, original), atol=1e-3)


# Conditions ---------------------------------------------------------------------------------------


def test_a_condition_is_of_the_degraded_images(tiny: PipelineConfig, objects: ImageSource) -> None:
    config = asking(tiny, (1, restore("noise", num_samples=2)), condition_on="dip")
    [outcome], stages = recording(config, objects)
    clean = {
        "training": prepare(objects.train[:5], 16).pixels,
        "held-out": prepare(objects.held_out[:3], 16).pixels,
    }
    noise = {}
    for part, call in zip(("training", "held-out"), stages.of("degrade"), strict=True):
        assert torch.equal(call.arguments["images"].pixels, clean[part])
        noise[part] = call.result.pixels - clean[part]
        assert noise[part].std().item() == pytest.approx(2 * 25 / 255, rel=0.1)
    # The same noise in both would tell the net what it is to find.
    assert (noise["training"][:3] - noise["held-out"]).abs().min(dim=0).values.max() > 0.1

    fits = stages.of("fit_priors")
    assert [call.arguments["first_index"] for call in fits] == [0, 2, 4, 0, 2]
    of_training, of_held_out = fits[:3], fits[3:]
    for part, calls in (("training", of_training), ("held-out", of_held_out)):
        degraded = torch.cat([call.arguments["images"].pixels for call in calls])
        originals = torch.cat([call.arguments["originals"].pixels for call in calls])
        assert torch.equal(degraded, clean[part] + noise[part])
        assert torch.equal(originals, clean[part])

    def given(name: str) -> torch.Tensor:
        [call] = stages.of(name)
        pixels: torch.Tensor = call.arguments["condition"].pixels
        return pixels

    for name, calls in (
        ("train_ddpm", of_training),
        ("score_net", of_held_out),
        ("sample", of_held_out),
    ):
        assert torch.equal(given(name), torch.cat([call.result.outputs for call in calls]))
    assert stages.strangers == [] and stages.disturbed == set()

    [without] = run(replace(config, condition_on="nothing"), objects)
    assert outcome.trained is not None and without.trained is not None
    channels = [
        net.weights["conv_in.weight"].shape[1] for net in (outcome.trained, without.trained)
    ]
    assert channels == [6, 3]
    assert not same(outcome.trained.losses, without.trained.losses)
    assert not same(outcome.samples, without.samples)


def test_a_conditioned_net_heeds_its_condition(tiny: PipelineConfig, objects: ImageSource) -> None:
    # Longer fits are another condition and nothing else.
    config = asking(tiny, (1, restore("noise")), condition_on="dip")
    [short], [longer] = (
        run(replace(config, dip=replace(tiny.dip, num_iter=n)), objects) for n in (3, 30)
    )
    assert not same(short.samples, longer.samples)
    assert not same(short.trained, longer.trained)


def test_a_condition_comes_the_same_way_with_every_loader(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    config = asking(tiny, (1, restore("degraded")), condition_on="dip")
    memory, *others = (
        run(replace(config, loading=LoaderConfig(loader=loader)), objects)
        for loader in ("memory", "list", "decode")
    )
    assert all(same(memory, other) for other in others)


# What runs share ----------------------------------------------------------------------------------


def priors_asked(stages: Recording) -> list[Any]:
    return [{**call.arguments, "result": call.result} for call in stages.of("fit_priors")]


@pytest.mark.parametrize(("train_on", "count"), [("images", 2), ("dip", 5), ("blur", 5)])
def test_shared_priors_are_those_that_a_run_makes(
    everything: PipelineConfig, objects: ImageSource, train_on: str, count: int
) -> None:
    config = replace(everything, train_on=train_on)
    _, of_run = recording(config, objects)
    shared = Recording()
    make_shared(config, objects, CONTEXT, stages=shared)
    assert len(priors_asked(shared)) == count
    assert same(priors_asked(shared), priors_asked(of_run))
    assert shared.strangers == []
    assert set(shared.names) == {"prepare", "degrade", "take", "fit_priors", "join"}


def test_shared_conditions_are_those_that_a_run_makes(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    config = asking(tiny, (1, restore("noise", num_samples=2)), condition_on="dip")
    _, of_run = recording(config, objects)
    shared = Recording()
    make_shared(config, objects, CONTEXT, stages=shared)
    assert same(priors_asked(shared), priors_asked(of_run))
    assert same([c.result for c in shared.of("join")], [c.result for c in of_run.of("join")])


def test_a_run_without_priors_shares_none(tiny: PipelineConfig, objects: ImageSource) -> None:
    stages = Recording()
    make_shared(tiny, objects, CONTEXT, stages=stages)
    assert stages.names == []


def test_a_smaller_set_shares_the_chunks_of_a_larger_one(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    found = []
    for num_images in (4, 5):
        config = replace(tiny, train_on="dip", data=replace(tiny.data, num_images=num_images))
        found.append(Recording())
        make_shared(config, objects, CONTEXT, stages=found[-1])
    few, many = map(priors_asked, found)
    assert len(few) == 2
    assert same(few, many[:2])


def test_features_are_compared_with_those_of_their_own_set(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    data = replace(tiny.data, num_images=120, num_held_out=110)
    ledger = BookingLedger()
    config = asking(tiny, (1, replace(GENERATE, num_samples=100)), data=data)
    list(run_pipeline(config, objects, CONTEXT, stages=ledger))
    [scored] = (row for row in ledger.rows.values() if row.function == "score_features")
    [drawn] = (key for key, row in ledger.rows.items() if row.function == "as_images")

    def of_files(files: EncodedImages) -> object:
        return ledger(extract_features, ledger(prepare, files, 16), Context(seed=0))

    training, held_out = map(of_files, (objects.train[:110], objects.held_out[:110]))
    samples, *references = scored.parents
    assert ledger.rows[samples].parents == (drawn,)
    # In this order: KID to the training images would praise copies of them.
    assert references == [ledger.key_of(training), ledger.key_of(held_out)]
    assert list(inspect.signature(score_features).parameters)[1:] == ["training", "held_out"]


@pytest.mark.slow
def test_reference_features_are_shared_without_assertions_too() -> None:
    # Asserted, they would not be made under python -O.
    code = (
        "from bench.ledger import BookingLedger\n"
        "from dipddpm import *\n"
        "from dipddpm.pipeline import make_shared\n"
        "sampling = SamplingConfig(num_samples=100)\n"
        "data = DataConfig(num_images=100, num_held_out=100)\n"
        "outcomes = (OutcomeConfig(epochs=1, sampling=sampling),)\n"
        "ledger = BookingLedger()\n"
        "config = PipelineConfig(data=data, outcomes=outcomes)\n"
        "make_shared(config, open_source('objects'), Context(), stages=ledger)\n"
        "print(__debug__, *(row.function for row in ledger.rows.values()))"
    )
    output = subprocess.check_output([sys.executable, "-O", "-c", code], cwd=ROOT, text=True)
    assert output.split() == ["False", *["prepare", "extract_features"] * 2]


# The edges ----------------------------------------------------------------------------------------


def test_without_held_out_images_what_needs_them_is_left_out(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    config = replace(tiny, data=replace(tiny.data, num_held_out=0))
    [with_them], [without] = run(tiny, objects), run(config, objects)
    assert same(with_them.trained, without.trained)
    assert same(with_them.samples, without.samples)
    scores, fewer = (
        {name: value for part in outcome.scores for name, value in part.values.items()}
        for outcome in (with_them, without)
    )
    assert fewer == {name: scores[name] for name in fewer}
    left_out = {name for name in scores if name not in fewer}
    assert {name.split("_at_")[0] for name in left_out} == {
        *("eps_loss", "x0_loss", "anchor_held_out_real_psnr", "anchor_held_out_real_ssim")
    }
    # As in the publication, whose data set has no more.
    [outcome] = run(config, ImageSource("all", objects.train[:5], objects.held_out[:0]))
    assert same(outcome.trained, without.trained)


def test_too_few_images_are_refused_before_any_stage(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    stages = Recording()
    config = replace(tiny, data=replace(tiny.data, num_held_out=275))
    for make in (run_pipeline, attempts, make_shared):
        with pytest.raises(
            ValueError, match="num_held_out must be at most 274 with objects, got 275"
        ):
            list(make(config, objects, CONTEXT, stages=stages) or ())
    assert stages.names == []


def test_outcomes_are_yielded_as_they_are_done(
    everything: PipelineConfig, objects: ImageSource
) -> None:
    stages = Recording()
    outcomes: Iterator[Outcome] = run_pipeline(everything, objects, CONTEXT, stages=stages)
    assert stages.names == []
    assert next(outcomes).epochs == 1
    assert len(stages.of("sample")) == len(stages.of("train_ddpm")) == 1


def test_an_attempt_that_fails_keeps_back_no_other(
    tiny: PipelineConfig, objects: ImageSource
) -> None:
    def failing(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if function.__name__ == "start_blur":
            raise RuntimeError("no blur today")
        return function(*args, **kwargs)

    config = asking(tiny, *((1, restore(name)) for name in ("blur", "degraded", "noise")))
    blur, *others = attempts(config, objects, CONTEXT, stages=failing)
    with pytest.raises(RuntimeError, match="no blur today"):
        blur.run()
    made = [attempt.run() for attempt in others]
    assert same(made, run(config, objects)[1:])
    assert [(a.epochs, a.sampling) for a in (blur, *others)] == [
        (outcome.epochs, outcome.sampling) for outcome in config.outcomes
    ]
    assert isinstance(blur, Attempt)


def test_a_result_does_not_share_its_pixels_with_what_it_was_made_of(
    recorded: tuple[list[Outcome], Recording],
) -> None:
    # A stage that wrote into its argument would change a value that others are to reuse.
    def storage(pixels: torch.Tensor) -> int:
        return pixels.untyped_storage().data_ptr()

    compared = 0
    for call in recorded[1].calls:
        made = getattr(call.result, "pixels", getattr(call.result, "outputs", None))
        if made is None or call.name == "take":
            continue
        for given in call.arguments.values():
            if isinstance(given, ImageSet):
                assert storage(made) != storage(given.pixels), call.name
                compared += 1
    assert compared > 10


@pytest.mark.cuda
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
        assert same(left.scores[0], right.scores[0])
