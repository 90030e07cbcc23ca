"""What is warmed up is what runs, and it leaves no trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.baselines import fit_by_paper_loop
from bench.warmup import ITERATIONS, warm_up
from dipddpm.config import (
    Context,
    DIPConfig,
    Loader,
    LoaderConfig,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.dip import fit_priors
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, take
from dipddpm.sampling import sample
from dipddpm.sources import ImageSource
from dipddpm.training import train_ddpm

ROOT = Path(__file__).parents[1]
SHAPE = (16, UNetConfig(block_out_channels=(8, 16), attention_levels=(1,), norm_num_groups=4))
SCHEDULE, TRAINING = NoiseScheduleConfig(), TrainingConfig(batch_size=4)
MEMORY = LoaderConfig()


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that convolutions are given, as they come."""
    seen: list[tuple[int, ...]] = []
    forward = nn.Conv2d.forward

    def watched(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    return seen


def shapes_of(seen: list[tuple[int, ...]], call: Callable[[], Any]) -> set[tuple[int, ...]]:
    seen.clear()
    call()
    return set(seen)


@pytest.mark.parametrize("loader", ["memory", "list", "decode"])
@pytest.mark.parametrize("count", [3, 4, 6, 8])
def test_training_is_warmed_at_every_batch_shape(
    shapes: list[tuple[int, ...]],
    objects: ImageSource,
    objects16: ImageSet,
    count: int,
    loader: Loader,
) -> None:
    # From files: the loop is warmed from memory all the same, and no file is read for it.
    images = objects.train[:count] if loader == "decode" else take(objects16, 0, count)
    arguments = (images, *SHAPE, SCHEDULE, TRAINING, Context())
    given: dict[str, Any] = {"loading": LoaderConfig(loader=loader)}
    warmed = shapes_of(shapes, lambda: warm_up(train_ddpm, arguments, {"epochs": 5, **given}))
    assert warmed == shapes_of(shapes, lambda: train_ddpm(*arguments, epochs=1, **given))


def test_no_file_is_read_and_no_worker_started(
    objects: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a warm-up read a file")

    monkeypatch.setattr(EncodedImages, "read", refuse)
    loading = LoaderConfig(loader="decode", num_workers=2, flip="loader")
    arguments = (objects.train[:5], *SHAPE, SCHEDULE, TRAINING, Context())
    warm_up(train_ddpm, arguments, {"epochs": 5, "loading": loading})
    with pytest.raises(AssertionError, match="read a file"):
        EncodedImages((b"",)).read(0)


def test_sampling_and_priors_are_warmed_at_their_shape(
    shapes: list[tuple[int, ...]], objects16: ImageSet
) -> None:
    given: dict[str, Any] = {"loading": MEMORY, "epochs": 1}
    trained = train_ddpm(objects16, *SHAPE, SCHEDULE, TRAINING, Context(), **given)
    sampling = SamplingConfig(num_samples=5, num_inference_steps=4)
    arguments = (trained, None, *SHAPE, SCHEDULE, sampling, Context())
    warmed = shapes_of(shapes, lambda: warm_up(sample, arguments, {}))
    assert warmed == shapes_of(shapes, lambda: sample(*arguments))
    fit = (objects16, DIPConfig(num_iter=7), Context())
    more = {"first_index": 3, "originals": objects16}
    warmed = shapes_of(shapes, lambda: warm_up(fit_priors, fit, more))
    assert warmed == shapes_of(shapes, lambda: fit_priors(*fit))


def test_fits_one_after_another_are_warmed_by_one(
    shapes: list[tuple[int, ...]], objects16: ImageSet
) -> None:
    """The first stands for all."""
    dip = DIPConfig(num_iter=7, backend="loop")
    for function, more in (
        (fit_priors, {"first_index": 3, "originals": objects16}),
        (fit_by_paper_loop, {}),
    ):
        fit = (objects16, dip, Context())
        warmed = shapes_of(shapes, lambda: warm_up(function, fit, more))  # noqa: B023
        assert len(shapes) <= 3 * (ITERATIONS + 1)  # layers, and once more for the output
        assert warmed == shapes_of(shapes, lambda: function(*fit))  # noqa: B023


def test_a_net_with_a_condition_is_warmed_with_one(
    shapes: list[tuple[int, ...]], objects16: ImageSet
) -> None:
    given: dict[str, Any] = {"loading": MEMORY, "epochs": 1, "condition": objects16}
    arguments = (objects16, *SHAPE, SCHEDULE, TRAINING, Context())
    warmed = shapes_of(shapes, lambda: warm_up(train_ddpm, arguments, given))
    assert warmed == shapes_of(shapes, lambda: train_ddpm(*arguments, **given))
    assert (4, 6, 16, 16) in warmed
    trained = train_ddpm(*arguments, **given)
    sampling = SamplingConfig(num_samples=5, num_inference_steps=4)
    of_sample = (trained, None, *SHAPE, SCHEDULE, sampling, Context())
    condition: dict[str, Any] = {"condition": objects16}
    warmed = shapes_of(shapes, lambda: warm_up(sample, of_sample, condition))
    assert warmed == shapes_of(shapes, lambda: sample(*of_sample, **condition))
    assert (5, 6, 16, 16) in warmed


def test_it_leaves_no_trace(objects16: ImageSet) -> None:
    watched: list[object] = []

    def watch(iterable: Any) -> Any:
        watched.append(iterable)
        return iterable

    arguments = (objects16, *SHAPE, SCHEDULE, TRAINING, Context(watch=watch))
    first = train_ddpm(*arguments, loading=MEMORY, epochs=1)
    kept = {name: weight.clone() for name, weight in first.weights.items()}
    watched.clear()
    state = torch.get_rng_state()
    warm_up(train_ddpm, arguments, {"loading": MEMORY, "epochs": 2, "resume_from": first})
    assert watched == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weight, kept[name]) for name, weight in first.weights.items())


def test_a_process_that_is_awake_has_its_decoders() -> None:
    # In a process of its own: Pillow looks for them at the first file, and keeps them.
    code = (
        "import torch\n"
        "from PIL import Image\n"
        "from bench.warmup import wake\n"
        "known = set(Image.OPEN)\n"
        "wake(torch.device('cpu'))\n"
        "print(known & {'WEBP', 'JPEG', 'PNG'}, sorted({'WEBP', 'JPEG', 'PNG'} & set(Image.OPEN)))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert output.strip() == "set() ['JPEG', 'PNG', 'WEBP']"
