from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.ledger import BookingLedger
from dipddpm.config import (
    Context,
    DataConfig,
    DIPConfig,
    Files,
    Flip,
    Loader,
    LoaderConfig,
    OutcomeConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
)
from dipddpm.degradation import degrade
from dipddpm.encoded import EncodedImages
from dipddpm.features import extract_features
from dipddpm.images import ImageSet, TrainingImages, prepare
from dipddpm.inputs import NUM_REFERENCES, Inputs
from dipddpm.loaders import loader_flip
from dipddpm.sources import ImageSource
from tests.recording import Recording, same

CONTEXT = Context(seed=4)
CONFIG = PipelineConfig(
    data=DataConfig(image_size=16, num_images=5, num_held_out=3),
    dip=DIPConfig(num_iter=2, images_per_fit=2),
)

# Each shows what it was given.
FUNCTIONS = """
from dipddpm import Context, ImageSet, RestorationConfig

SEEN = {}


def target(priors: ImageSet, images: ImageSet, context: Context) -> ImageSet:
    SEEN["target"] = (priors, images, context)
    return priors


def start(
    restoration: RestorationConfig,
    context: Context,
    training: ImageSet,
    originals: ImageSet,
    priors: ImageSet,
    degraded: ImageSet,
) -> ImageSet:
    SEEN["start"] = (restoration, context, training, originals, priors, degraded)
    return degraded
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "inputs_functions.py").write_text(FUNCTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import inputs_functions  # type: ignore[import-not-found]

        yield inputs_functions.SEEN


def restore(start_from: str, **settings: Any) -> SamplingConfig:
    asked = {"num_samples": 2, "num_inference_steps": 1, **settings}
    return SamplingConfig(task="restore", start_from=start_from, **asked)


def inputs(objects: ImageSource, config: PipelineConfig = CONFIG) -> tuple[Inputs, Recording]:
    stages = Recording()
    return Inputs(config, objects, CONTEXT, stages), stages


def test_nothing_is_made_before_it_is_asked_for_and_nothing_twice(objects: ImageSource) -> None:
    given, stages = inputs(objects)
    assert stages.names == []
    assert given.training is given.training
    assert given.originals is given.held_out
    sampling = restore("dip")
    fits = given.start_fits(sampling)
    assert given.start_fits(sampling) is fits
    assert given.joined(fits) is given.joined(fits)
    assert given.degraded(25.0) is given.degraded(25.0)
    assert stages.names == ["prepare", "prepare", "degrade", "take", "take", "fit_priors", "join"]


def test_starts_that_differ_in_their_blur_share_degraded_images_and_fits(
    objects: ImageSource,
) -> None:
    given, stages = inputs(objects)
    for blur_sigma in (0.5, 2.0):
        for start_from in ("blur", "dip"):
            given.start(restore(start_from, restoration=RestorationConfig(blur_sigma=blur_sigma)))
    assert [stages.names.count(name) for name in ("degrade", "fit_priors", "start_blur")] == [
        1,
        1,
        2,
    ]


def test_the_sets_are_parts_of_the_source(objects: ImageSource) -> None:
    given, _ = inputs(objects)
    assert torch.equal(given.training.pixels, prepare(objects.train[:5], 16).pixels)
    assert torch.equal(given.originals.pixels, prepare(objects.held_out[:3], 16).pixels)
    # Whatever is trained on, as in the publication.
    assert len(given.references) == NUM_REFERENCES == 16
    assert torch.equal(given.references.pixels, prepare(objects.train[:16], 16).pixels)


def test_without_held_out_images_there_are_none(objects: ImageSource) -> None:
    given, stages = inputs(objects, replace(CONFIG, data=replace(CONFIG.data, num_held_out=0)))
    assert given.held_out is None
    assert stages.names == []


def test_too_few_images_are_refused(objects: ImageSource) -> None:
    for field, count in (("num_images", 1001), ("num_held_out", 275)):
        config = replace(CONFIG, data=replace(CONFIG.data, **{field: count}))
        with pytest.raises(ValueError, match=f"{field} must be at most {count - 1} .* got {count}"):
            inputs(objects, config)


def test_each_loader_reads_what_it_can(objects: ImageSource) -> None:
    for loader in ("memory", "list", "decode"):
        for train_on in ("images", "dip"):
            config = replace(CONFIG, loading=LoaderConfig(loader=loader), train_on=train_on)
            given, stages = inputs(objects, config)
            kind = EncodedImages if loader == "decode" else ImageSet
            assert isinstance(given.training_images, kind)
            made = {name for name in ("encode", "to_eight_bits") if name in stages.names}
            # Prepared images are in eight bits already.
            rounded = {"to_eight_bits"} if train_on == "dip" else set()
            assert made == ({"encode"} if loader == "decode" else rounded)


@pytest.mark.parametrize("train_on", ["images", "dip"])
def test_images_are_decoded_from_their_own_files_or_from_those_of_the_priors_encoder(
    objects: ImageSource, train_on: str
) -> None:
    def read(files: Files) -> tuple[TrainingImages, Recording]:
        loading = LoaderConfig(loader="decode", files=files)
        given, stages = inputs(objects, replace(CONFIG, loading=loading, train_on=train_on))
        return given.training_images, stages

    (own, plain), (encoded, stages) = read("source"), read("encoded")
    assert isinstance(own, EncodedImages) and isinstance(encoded, EncodedImages)
    [call] = stages.of("encode")
    assert call.result is encoded
    assert call.arguments["like"].digest == objects.train[:5].digest
    if train_on == "dip":  # which has no files of its own
        assert own.digest == encoded.digest
        return
    assert "encode" not in plain.names
    assert own.digest == objects.train[:5].digest != encoded.digest
    # The same pixels, whichever is read.
    assert torch.equal(prepare(own, 16).pixels, prepare(encoded, 16).pixels)


@pytest.mark.parametrize("train_on", ["images", "dip"])
@pytest.mark.parametrize("loader", ["memory", "list", "decode"])
@pytest.mark.parametrize("flip", ["device", "loader"])
def test_flips_that_are_drawn_once_are_drawn_before_the_training_loop(
    objects: ImageSource, train_on: str, loader: Loader, flip: Flip
) -> None:
    config = replace(
        CONFIG,
        train_on=train_on,
        condition_on="dip",
        loading=LoaderConfig(loader=loader, flip=flip),
        outcomes=(OutcomeConfig(epochs=1, sampling=restore("noise")),),
    )
    given, stages = inputs(objects, config)
    images, condition = given.training_images, given.training_condition
    assert condition is not None
    priors = given.joined(given.degraded_training_fits)
    if flip == "device" or loader == "decode":
        assert "freeze_flips" not in stages.names
        assert condition is priors
        return
    of_images, of_condition = stages.of("freeze_flips")
    assert (images, condition) == (of_images.result, of_condition.result)
    assert of_condition.arguments["images"] is priors
    for call in (of_images, of_condition):
        assert call.arguments["context"] is CONTEXT
        for i, (shown, plain) in enumerate(
            zip(call.result.pixels, call.arguments["images"].pixels, strict=True)
        ):
            assert torch.equal(shown, plain.flip(-1) if loader_flip(CONTEXT.seed, i) else plain)
    # Others are given the images as they are.
    assert torch.equal(given.training.pixels, prepare(objects.train[:5], 16).pixels)


@pytest.mark.parametrize(("num_images", "num_held_out", "count"), [(5, 3, 3), (2, 3, 2)])
def test_reference_features_are_of_what_was_trained_on_and_of_as_many_others(
    objects: ImageSource, num_images: int, num_held_out: int, count: int
) -> None:
    data = DataConfig(image_size=16, num_images=num_images, num_held_out=num_held_out)
    ledger = BookingLedger()
    given = Inputs(replace(CONFIG, data=data), objects, CONTEXT, ledger)
    features = given.reference_features()
    assert given.reference_features() is features
    files = (objects.train[:count], objects.held_out[:count])
    for made, part in zip(features, files, strict=True):
        images = ledger(prepare, part, 16)
        assert ledger.key_of(made) == ledger.key_of(ledger(extract_features, images, Context()))


def test_a_target_is_given_what_it_names(objects: ImageSource, seen: dict[str, Any]) -> None:
    given, stages = inputs(objects, replace(CONFIG, train_on="inputs_functions:target"))
    made = given.training_images
    priors, images, context = seen["target"]
    assert torch.equal(images.pixels, prepare(objects.train[:5], 16).pixels)
    assert torch.equal(priors.pixels, given.joined(given.training_fits).pixels)
    assert context is CONTEXT
    # In the eight bits of a file.
    assert isinstance(made, ImageSet)
    assert 0 < (made.pixels - priors.pixels).abs().max() <= 0.5001 / 127.5
    assert stages.strangers == []


def test_a_start_is_given_what_it_names_of_the_images_to_restore(
    objects: ImageSource, seen: dict[str, Any]
) -> None:
    given, stages = inputs(objects)
    sampling = restore("inputs_functions:start", restoration=RestorationConfig(blur_sigma=3))
    made = given.start(sampling)
    restoration, context, training, originals, priors, degraded = seen["start"]
    clean = prepare(objects.held_out[:3], 16)
    assert (restoration, context) == (RestorationConfig(blur_sigma=3), CONTEXT)
    assert torch.equal(training.pixels, prepare(objects.train[:5], 16).pixels)
    # Two of the three are asked for.
    assert torch.equal(originals.pixels, clean.pixels[:2])
    assert torch.equal(
        degraded.pixels, degrade(clean, restoration.degradation_sigma, CONTEXT).pixels[:2]
    )
    assert torch.equal(priors.pixels, given.joined(given.start_fits(sampling)).pixels)
    assert made is not None and torch.equal(made.pixels, degraded.pixels)
    assert stages.strangers == []
    assert given.start(restore("noise")) is None


def test_fits_are_of_chunks_at_their_place(objects: ImageSource) -> None:
    given, stages = inputs(objects)
    assert len(given.training_fits) == 3
    assert len(given.degraded_training_fits) == 3
    assert len(given.start_fits(restore("dip", num_samples=3))) == 2
    calls = stages.of("fit_priors")
    assert [call.arguments["first_index"] for call in calls] == [0, 2, 4, 0, 2, 4, 0, 2]
    clean = [call.arguments.get("originals") for call in calls]
    assert clean[:3] == [None] * 3  # they are the originals
    both = (given.training.pixels, given.originals.pixels)
    of_degraded = [originals.pixels for originals in clean[3:] if originals is not None]
    assert torch.equal(torch.cat(of_degraded), torch.cat(both))


def test_conditions_are_of_all_images_whatever_is_sampled(objects: ImageSource) -> None:
    outcome = OutcomeConfig(epochs=1, sampling=restore("dip"))
    config = replace(CONFIG, condition_on="dip", outcomes=(outcome,))
    given, _ = inputs(objects, config)
    condition, held_out = given.training_condition, given.held_out_condition(outcome.sampling)
    assert condition is not None and held_out is not None
    assert (len(condition), len(held_out)) == (5, 3)
    # Those to start from are a whole chunk of them.
    start = given.start(outcome.sampling)
    assert start is not None and torch.equal(start.pixels, held_out.pixels[:2])
    assert same(given.start_fits(outcome.sampling)[0].outputs, start.pixels)
    without, stages = inputs(objects)
    assert without.training_condition is None
    assert without.held_out_condition(outcome.sampling) is None
    assert stages.names == []
