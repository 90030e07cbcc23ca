"""The peak that a stage is expected to allocate on a CUDA device, from shapes alone.

A plain sum: what lies there throughout, and what a step needs beside it. Left out are what cuDNN
takes for its convolutions, the fragments between blocks, and batches of images, which are small
beside what a net makes of them. With fp16 activations are taken to be as large as in float32, of
which autocast keeps about half: the sum is then an upper bound.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.exact import LiveBytes
from bench.extents import extent_of
from dipddpm.config import DIPConfig, SamplingConfig, TrainingConfig, UNetConfig
from dipddpm.diffusion import build_unet
from dipddpm.dip import fit_priors, learn_initialisation
from dipddpm.features import BATCH_SIZE, SIDE, EfficientNetLite0, extract_features
from dipddpm.nets import NETS
from dipddpm.sampling import sample
from dipddpm.scoring import SCORED_TOGETHER, score_net
from dipddpm.training import train_ddpm

_META = torch.device("meta")
_FLOAT32, _FLOAT64 = 4, 8


def predicted_bytes(function: Callable[..., Any], given: Mapping[str, Any]) -> int | None:
    """Of a call, from its bound arguments. None: it has no net that is known here."""
    sum_up = _STAGES.get(function)
    return None if sum_up is None else sum_up(given)


# What a pass of a net takes --------------------------------------------------------------------


@contextlib.contextmanager
def saved_storages(net: nn.Module) -> Iterator[dict[int, int]]:
    """The bytes of each storage that the backward pass of what runs in the block is going to need,
    by a number of its own; the weights, which are there anyway, are left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    found: dict[int, int] = {}
    kept = []  # so that no other storage gets the number of one that is gone

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept.append(storage)
            found[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


def _output(net: nn.Module, *inputs: Tensor) -> Tensor:
    # The attention whose parts are tensors of torch's: the fused kinds differ by device.
    with sdpa_kernel(SDPBackend.MATH):
        output = net(*inputs)
    tensor: Tensor = output if isinstance(output, Tensor) else output.sample
    return tensor


def activation_bytes(net: nn.Module, *inputs: Tensor) -> int:
    """What a forward pass keeps for the way back."""
    with saved_storages(net) as found:
        _output(net, *inputs)
        return sum(found.values())


def forward_bytes(net: nn.Module, *inputs: Tensor) -> int:
    """The most that a forward pass without a way back holds at one moment, beside its inputs."""
    live = LiveBytes()
    with torch.inference_mode(), live:
        _output(net, *inputs)
    return live.peak


def weight_bytes(net: nn.Module) -> int:
    """What its parameters take."""
    return sum(parameter.untyped_storage().nbytes() for parameter in net.parameters())


# Of the nets here, on the meta device -----------------------------------------------------------


def _meta_unet(
    unet: UNetConfig, image_size: int, in_channels: int, num_images: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """The net, x_t and timesteps."""
    with _META:
        net = build_unet(unet, image_size, 0, in_channels=in_channels)
        x = torch.empty(num_images, in_channels, image_size, image_size)
        return net, x, torch.zeros(num_images, dtype=torch.int64)


@functools.cache
def _unet_weights(unet: UNetConfig, image_size: int, in_channels: int) -> int:
    return weight_bytes(_meta_unet(unet, image_size, in_channels, 1)[0])


@functools.cache
def _unet_step(unet: UNetConfig, image_size: int, in_channels: int, num_images: int) -> int:
    net, *inputs = _meta_unet(unet, image_size, in_channels, num_images)
    return activation_bytes(net, *inputs)


@functools.cache
def _unet_forward(unet: UNetConfig, image_size: int, in_channels: int, num_images: int) -> int:
    net, *inputs = _meta_unet(unet, image_size, in_channels, num_images)
    return forward_bytes(net.eval(), *inputs)


@functools.cache
def _features_forward(num_images: int) -> int:
    with _META:
        net = EfficientNetLite0().eval()
        pixels = torch.empty(num_images, 3, SIDE, SIDE)
        return weight_bytes(net) + forward_bytes(net.layers, pixels)


# Of the stages ---------------------------------------------------------------------------------


def _shape(given: Mapping[str, Any]) -> tuple[UNetConfig, int, int]:
    return given["unet"], given["image_size"], 3 if given.get("condition") is None else 6


def _of_training(given: Mapping[str, Any]) -> int:
    training: TrainingConfig = given["training"]
    weights = _unet_weights(*_shape(given))
    step = _unet_step(*_shape(given), min(training.batch_size, _count(given["images"])))
    if training.mixed_precision != "no":
        step += weights // 2  # autocast's copies
    # The weights, their averages and Adam's two moments; the net it goes on from has as much again.
    there = 4 * weights * (1 if given.get("resume_from") is None else 2)
    # Gradients and activations; at the end copies of the weights and of the moments.
    return there + max(weights + step, 3 * weights)


def _of_sampling(given: Mapping[str, Any]) -> int:
    sampling: SamplingConfig = given["sampling"]
    at_once = min(sampling.num_samples, sampling.samples_per_batch or sampling.num_samples)
    forward: int = _unet_forward(*_shape(given), at_once)
    return _there(given) + forward


def _of_net_score(given: Mapping[str, Any]) -> int:
    if given["held_out"] is None:
        return _there(given)
    together = min(SCORED_TOGETHER, _count(given["held_out"]))
    return _there(given) + _unet_forward(*_shape(given), together)


def _there(given: Mapping[str, Any]) -> int:
    """A trained net: its weights, their averages and Adam's two moments."""
    weights: int = _unet_weights(*_shape(given))
    return 4 * weights


def _of_fits(given: Mapping[str, Any]) -> int:
    dip: DIPConfig = given["dip"]
    extent = extent_of(given["images"])
    assert extent.num_images is not None and extent.image_size is not None
    weights, step = _prior(dip, extent.image_size)
    pixels = 3 * extent.image_size**2
    # Weights, gradients and Adam's two moments.
    image = 4 * weights + step
    if dip.early_stopping == "es_wmv":
        # The window of iterates, and their mean and what it is made of.
        image += pixels * (dip.es_window * _FLOAT32 + 4 * _FLOAT64)
    alone = dip.backend_on("cuda", extent.image_size) == "loop"
    return image if alone else extent.num_images * image


def _of_initialisation(given: Mapping[str, Any]) -> int:
    size = extent_of(given["images"]).image_size
    assert size is not None
    weights, step = _prior(given["dip"], size)
    return 4 * weights + step


@functools.cache
def _prior(dip: DIPConfig, image_size: int) -> tuple[int, int]:
    """Bytes of the weights of one net, and of what its forward pass keeps."""
    net = NETS[dip.net](1, dip).to(_META)
    x = net.draw_input(image_size, torch.Generator()).to(_META)
    return weight_bytes(net), activation_bytes(net, x)


def _of_features(given: Mapping[str, Any]) -> int:
    return int(_features_forward(min(BATCH_SIZE, _count(given["images"]))))


def _count(images: object) -> int:
    count = extent_of(images).num_images
    assert count is not None
    return count


_STAGES: dict[Callable[..., Any], Callable[[Mapping[str, Any]], int]] = {
    fit_priors: _of_fits,
    learn_initialisation: _of_initialisation,
    train_ddpm: _of_training,
    sample: _of_sampling,
    score_net: _of_net_score,
    extract_features: _of_features,
}
