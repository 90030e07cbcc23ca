from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import restoration as skimage_restoration

from bench.ledger import BookingLedger
from dipddpm import arms
from dipddpm.config import (
    ARMS,
    Context,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
    alphas_cumprod,
    start_point,
)
from dipddpm.degradation import degrade
from dipddpm.images import ImageSet, prepare
from dipddpm.lookup import look_in
from dipddpm.sources import ImageSource, bundled_objects
from tests.reference import peak_signal_noise_ratio, uniform

# scikit-image has no types.
denoise_nl_means: Any = skimage_restoration.denoise_nl_means
denoise_tv_chambolle: Any = skimage_restoration.denoise_tv_chambolle

RESTORATION = RestorationConfig(degradation_sigma=25, blur_sigma=1.3)


def image_set(count: int = 3, *, seed: int = 0) -> ImageSet:
    return ImageSet(uniform(count, 3, 16, 16, seed=seed))


# What an arm may be given; no two alike, and more training images than others.
GIVEN: dict[str, Any] = {
    "images": image_set(seed=1),
    "degraded": image_set(seed=2),
    "priors": image_set(seed=3),
    "originals": image_set(seed=4),
    "training": image_set(5, seed=5),
    "restoration": RESTORATION,
    "context": Context(seed=7),
}


def call(make: arms.Make | None, **given: Any) -> ImageSet:
    assert make is not None
    return make(**{name: (GIVEN | given)[name] for name in inspect.signature(make).parameters})


def each(images: ImageSet, make: Callable[[np.ndarray], np.ndarray]) -> torch.Tensor:
    """Of each image as (H, W, 3) float64 in [0, 1], back in [-1, 1]."""
    made = [make((pixels.double().numpy().transpose(1, 2, 0) + 1) / 2) for pixels in images.pixels]
    return torch.from_numpy(np.stack(made).transpose(0, 3, 1, 2)).float() * 2 - 1


def mean_psnr(images: ImageSet, originals: ImageSet) -> float:
    pairs = zip(images.pixels.clamp(-1, 1), originals.pixels, strict=True)
    return float(np.mean([peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=2)
                          for a, b in pairs]))  # fmt: skip


# Ours --------------------------------------------------------------------------------------------


def test_the_files_as_they_are_and_pure_noise_take_no_function() -> None:
    assert arms.target("images") is None
    assert arms.start("noise") is None


def test_dip_trains_on_the_priors() -> None:
    assert torch.equal(call(arms.target("dip")).pixels, GIVEN["priors"].pixels)


def test_blur_trains_on_blurs_as_far_from_the_images_as_the_priors(objects16: ImageSet) -> None:
    # Priors from near to far.
    distances = torch.linspace(0.05, 0.5, len(objects16)).view(-1, 1, 1, 1)
    noise = distances * uniform(*objects16.pixels.shape)
    priors = ImageSet((objects16.pixels + noise).clamp(-1, 1))
    blurred = call(arms.target("blur"), images=objects16, priors=priors)
    for blur, prior, image in zip(blurred.pixels, priors.pixels, objects16.pixels, strict=True):
        wanted, found = (
            peak_signal_noise_ratio(image.numpy(), one.numpy(), data_range=2)
            for one in (prior, blur)
        )
        assert found == pytest.approx(wanted, abs=0.01)
        assert blur.std() < image.std()


@pytest.mark.parametrize(
    ("name", "wanted"), [("degraded", "degraded"), ("dip", "priors"), ("original", "originals")]
)
def test_a_start_that_is_what_it_is_given(name: str, wanted: str) -> None:
    made = call(arms.start(name))
    assert torch.equal(made.pixels, GIVEN[wanted].pixels)
    # A stage's result is its own: what is done to it is not done to another's.
    assert made.pixels.data_ptr() != GIVEN[wanted].pixels.data_ptr()


def test_blur_is_that_of_scipy() -> None:
    pixels = GIVEN["degraded"].pixels.double().numpy()
    wanted = ndimage.gaussian_filter(pixels, (0, 0, 1.3, 1.3), mode="reflect", truncate=4)
    found = call(arms.start("blur")).pixels
    assert torch.allclose(found.double(), torch.from_numpy(wanted), atol=1e-5)


def test_nlm_is_that_of_scikit_image() -> None:
    sigma = 25 / 255
    wanted = each(
        GIVEN["degraded"],
        lambda image: denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=arms.NLM_H * sigma, sigma=sigma,
            channel_axis=-1,
        ),
    )  # fmt: skip
    assert torch.allclose(call(arms.start("nlm")).pixels, wanted, atol=1e-6)


def test_tv_is_that_of_scikit_image() -> None:
    weight = arms.TV_WEIGHT * 25 / 255
    wanted = each(
        GIVEN["degraded"], lambda image: denoise_tv_chambolle(image, weight, channel_axis=-1)
    )
    assert torch.allclose(call(arms.start("tv")).pixels, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["nlm", "tv"])
def test_a_denoiser_is_told_the_strength_of_the_noise(name: str) -> None:
    slight, strong = (
        call(arms.start(name), restoration=RestorationConfig(degradation_sigma=sigma))
        for sigma in (5, 50)
    )
    moved = [(made.pixels - GIVEN["degraded"].pixels).square().mean() for made in (slight, strong)]
    assert moved[0] < moved[1]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    ("name", "constant", "grid"),
    [
        ("nlm", "NLM_H", [0.5, 0.6, 0.7, 0.8, 0.9]),
        ("tv", "TV_WEIGHT", [0.5, 0.65, 0.8, 1.0]),
    ],
)
def test_the_strength_is_the_best_on_training_images(
    objects: ImageSource,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    name: str,
    constant: str,
    grid: list[float],
) -> None:
    clean = prepare(objects.train[:32], size)
    degraded = degrade(clean, 25, Context(), part="training")

    def quality(strength: float) -> float:
        monkeypatch.setattr(arms, constant, strength)
        made = call(arms.start(name), degraded=degraded, restoration=RestorationConfig())
        return mean_psnr(made, clean)

    chosen = quality(getattr(arms, constant))
    best = max(map(quality, grid))
    assert chosen > best - 0.1
    assert chosen > mean_psnr(degraded, clean) + 4


def test_mean_is_the_mean_training_image_for_each() -> None:
    wanted = GIVEN["training"].pixels.double().numpy().mean(axis=0)
    found = call(arms.start("mean")).pixels
    assert found.shape == GIVEN["degraded"].pixels.shape
    for pixels in found:
        assert torch.allclose(pixels.double(), torch.from_numpy(wanted), atol=1e-6)


def test_nearest_is_that_of_a_search_over_all() -> None:
    degraded, training = image_set(20, seed=8), image_set(50, seed=9)
    found = call(arms.start("nearest"), degraded=degraded, training=training)
    for one, nearest in zip(degraded.pixels.double(), found.pixels, strict=True):
        distances = [float((one - other.double()).square().mean()) for other in training.pixels]
        assert torch.equal(nearest, training.pixels[distances.index(min(distances))])


# The user's --------------------------------------------------------------------------------------


MODULE = """
import torch
from dipddpm import ImageSet

def same(degraded):
    return degraded

def spoils(degraded, originals):
    return ImageSet(degraded.pixels.zero_() + originals.pixels.add_(1))

def of_training(training, degraded):
    return ImageSet(training.pixels[: len(degraded)])

def with_a_gradient(degraded):
    return ImageSet(degraded.pixels.requires_grad_() * 2)

def nothing(degraded):
    pass

def pixels(degraded):
    return degraded.pixels

def too_few(degraded):
    return ImageSet(degraded.pixels[:1])

def too_large(degraded):
    return ImageSet(torch.zeros(3, 3, 32, 32))

def grey(degraded):
    return ImageSet(degraded.pixels.mean(1, keepdim=True))

def double(degraded):
    return ImageSet(degraded.pixels.double())

def whole(degraded):
    return ImageSet(degraded.pixels.byte())

def elsewhere(degraded):
    return ImageSet(degraded.pixels.to("meta"))

def not_a_number(degraded):
    degraded.pixels[0, 0, 0, 0] = float("nan")
    return degraded

def infinite(degraded):
    degraded.pixels[-1, -1, -1, -1] = -float("inf")
    return degraded

def no_tensor(degraded):
    return ImageSet(degraded.pixels.numpy())

def ends(degraded):
    raise SystemExit(3)

def unsettles(degraded):
    import os
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    os.chdir("/")
    return degraded

def unnamed(value):
    def inner(degraded):
        return ImageSet(degraded.pixels * 0 + value)
    return inner

def first(degraded): ...
def second(degraded): ...
first, second = unnamed(0.5), unnamed(-0.5)

def raises(degraded):
    raise ZeroDivisionError("mine")
"""


@pytest.fixture(scope="module", autouse=True)
def _mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("mine")
    (folder / "arms_of_mine.py").write_text(MODULE)
    before = sys.path.copy()
    look_in(str(folder))
    yield
    sys.path[:] = before


def mine(function: str) -> ImageSet:
    return call(arms.start(f"arms_of_mine:{function}"))


def test_what_a_function_of_ones_own_returns_is_taken_as_it_is() -> None:
    assert torch.equal(mine("same").pixels, GIVEN["degraded"].pixels)
    # As many as the degraded images, not as there are to train on.
    assert torch.equal(mine("of_training").pixels, GIVEN["training"].pixels[:3])
    made = mine("with_a_gradient")
    assert not made.pixels.requires_grad
    assert torch.equal(made.pixels, GIVEN["degraded"].pixels * 2)
    target = arms.target("arms_of_mine:same")
    assert target is not None
    assert target.__qualname__ == "same"  # which names it in the ledger
    assert target.__module__ == "arms_of_mine"


def test_what_it_does_to_what_it_is_given_is_done_to_copies() -> None:
    degraded, originals = (GIVEN[name].pixels.clone() for name in ("degraded", "originals"))
    assert torch.equal(mine("spoils").pixels, originals + 1)
    assert torch.equal(GIVEN["degraded"].pixels, degraded)
    assert torch.equal(GIVEN["originals"].pixels, originals)
    assert mine("same").pixels.data_ptr() != GIVEN["degraded"].pixels.data_ptr()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nothing", ["an ImageSet", "got NoneType"]),
        ("pixels", ["an ImageSet", "got Tensor"]),
        ("too_few", ["shape (3, 3, 16, 16)", "got (1, 3, 16, 16)"]),
        ("too_large", ["shape (3, 3, 16, 16)", "got (3, 3, 32, 32)"]),
        ("grey", ["shape (3, 3, 16, 16)", "got (3, 1, 16, 16)"]),
        ("double", ["float32", "got torch.float64"]),
        ("whole", ["float32", "got torch.uint8"]),
        ("elsewhere", ["on the CPU", "on meta"]),
        ("not_a_number", ["finite"]),
        ("infinite", ["finite"]),
        ("no_tensor", ["a tensor", "got ndarray"]),
    ],
)
def test_what_it_may_not_return_is_refused_by_its_name(function: str, words: list[str]) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        mine(function)
    message = str(refused.value)
    assert message.startswith(f"arms_of_mine:{function} must ")
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_what_it_does_to_the_process_is_undone() -> None:
    def state() -> tuple[object, ...]:
        random = torch.random.get_rng_state().numpy().tobytes()
        threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
        return torch.get_default_dtype(), threads, grad, random, Path.cwd()

    before = state()
    mine("unsettles")
    assert state() == before
    with pytest.raises(RuntimeError, match=r"arms_of_mine:ends would have ended .* status 3"):
        mine("ends")


def test_results_are_told_apart_by_the_names_in_the_suite() -> None:
    """One decorator, or factory, makes functions of one name."""
    first, second = (arms.start(f"arms_of_mine:{name}") for name in ("first", "second"))
    assert first is not None and second is not None
    ledger = BookingLedger()
    images = ledger(prepare, bundled_objects().held_out[:2], 16)
    keys = {ledger.key_of(ledger(one, degraded=images)) for one in (first, second)}
    assert len(keys) == 2
    assert mine("first").pixels.mean() == 0.5
    assert mine("second").pixels.mean() == -0.5


def test_what_it_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        mine("raises")


# The named combinations --------------------------------------------------------------------------


def config_of(arm: str, *, num_train_timesteps: int = 1000) -> PipelineConfig:
    """The settings of an arm, as a suite takes them."""
    settings: dict[str, Any] = {
        name: num_train_timesteps if value == "T" else value for name, value in ARMS[arm].items()
    }
    run = {name: settings.pop(name) for name in ("train_on", "condition_on") if name in settings}
    outcome = OutcomeConfig(epochs=1, sampling=SamplingConfig(**settings))
    schedule = NoiseScheduleConfig(num_train_timesteps=num_train_timesteps)
    return PipelineConfig(**run, schedule=schedule, outcomes=(outcome,))


@pytest.mark.parametrize(
    ("arm", "train_on", "condition_on", "start_from", "task"),
    [
        ("none", "images", "nothing", "noise", "generate"),
        ("data", "dip", "nothing", "noise", "generate"),
        ("data-blur", "blur", "nothing", "noise", "generate"),
        ("start", "images", "nothing", "dip", "restore"),
        ("xT", "images", "nothing", "dip", "restore"),
        ("blend", "images", "nothing", "dip", "restore"),
        ("cond", "images", "dip", "noise", "restore"),
    ],
)
@pytest.mark.parametrize("total", [1000, 500])
def test_an_arm_is_what_it_is_called(
    arm: str, train_on: str, condition_on: str, start_from: str, task: str, total: int
) -> None:
    config = config_of(arm, num_train_timesteps=total)
    sampling = config.outcomes[0].sampling
    assert (config.train_on, config.condition_on) == (train_on, condition_on)
    assert (sampling.start_from, sampling.task) == (start_from, task)
    point = start_point(sampling, config.schedule)
    abar = alphas_cumprod(config.schedule)[total // 2 - 1]
    wanted = {
        "start": (total // 2, math.sqrt(abar), math.sqrt(1 - abar)),
        "xT": (total, 1, 0),
        "blend": (total, 0.5, 0.5),
    }
    assert (point.t0, point.a, point.b) == wanted.get(arm, (total, 0, 1))


def test_no_arm_is_missing() -> None:
    assert list(ARMS) == ["none", "data", "data-blur", "start", "xT", "blend", "cond"]
