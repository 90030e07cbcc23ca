"""Floating-point operations of nets, counted from shapes alone, on torch's meta device.

Counted are convolutions, matrix products and attention, a multiplication and its addition as two,
as torch.utils.flop_counter does; what works element by element is left out. On the meta device, as
that counter does not see the fused attention of the CPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.baselines import (
    FittedByLoop,
    fit_by_paper_loop,
    sample_by_pipeline,
    train_by_tutorial,
)
from bench.extents import Booked, extent_of
from dipddpm.config import LOG_SNR_LEVELS, DIPConfig, SamplingConfig, UNetConfig
from dipddpm.diffusion import build_unet
from dipddpm.dip import Priors, fit_priors, learn_initialisation, steps_of_a_fit
from dipddpm.features import SIDE, EfficientNetLite0, extract_features
from dipddpm.nets import NETS
from dipddpm.sampling import sample
from dipddpm.scoring import score_net
from dipddpm.training import train_ddpm

_META = torch.device("meta")
_Counts = tuple[int, int]


class _Kept:
    """Counts by the shapes that they are of; in a file, where there is one, so that of the many
    processes of a run one counts a shape and the others read it."""

    def __init__(self) -> None:
        self.file: Path | None = None
        self._known: dict[str, _Counts] = {}

    def __call__(self, shape: tuple[object, ...], count: Callable[[], _Counts]) -> _Counts:
        name = repr(shape)
        if name not in self._known:
            self._known |= self._read()
        if name not in self._known:
            self._known[name] = count()
            self._write()
        return self._known[name]

    def _read(self) -> dict[str, _Counts]:
        try:
            kept = {} if self.file is None else json.loads(self.file.read_bytes())
            return {name: (int(one), int(other)) for name, (one, other) in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # not there yet, or nothing that was written here: it is counted again

    def _write(self) -> None:
        if self.file is None:
            return
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        part.write_text(json.dumps(self._read() | self._known))
        part.replace(self.file)


_kept = _Kept()


def keep_in(file: Path) -> None:
    """Where counts are kept between processes."""
    _kept.file = file


def of_passes(net: nn.Module, *inputs: Tensor) -> tuple[int, int]:
    """Of one forward pass of a net on the meta device, and of a pass there and back."""
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        output = net(*inputs)
        forward = counter.get_total_flops()
        (output if isinstance(output, Tensor) else output.sample).sum().backward()
    return int(forward), int(counter.get_total_flops())


def of_unet(unet: UNetConfig, image_size: int, in_channels: int = 3) -> _Counts:
    """Of a denoising step (forward), and of a training step (backward too), on one image."""

    def count() -> _Counts:
        with _META:
            net = build_unet(unet, image_size, 0, in_channels=in_channels)
            x = torch.empty(1, in_channels, image_size, image_size)
            return of_passes(net, x, torch.zeros(1, dtype=torch.int64))

    return _kept((unet, image_size, in_channels), count)


def of_prior(dip: DIPConfig, image_size: int) -> _Counts:
    """Of the forward pass of a fit of one image, and of an iteration."""

    def count() -> _Counts:
        # One net: of grouped convolutions the counter sees too much on the way back.
        net = NETS[dip.net](1, dip).to(_META)
        return of_passes(net, net.draw_input(image_size, torch.Generator()).to(_META))

    return _kept((dip.net, dip.skip_levels, dip.skip_channels, image_size), count)


def of_features() -> int:
    """Of the features of one image."""

    def count() -> _Counts:
        with _META, torch.no_grad(), FlopCounterMode(display=False) as counter:
            EfficientNetLite0().eval().layers(torch.empty(1, 3, SIDE, SIDE))
        return int(counter.get_total_flops()), 0

    return _kept(("features",), count)[0]


def of_stage(
    function: Callable[..., Any], given: Mapping[str, Any], *, result: Any = None
) -> int | None:
    """Of the nets of a whole call. None: it has no net that is known here.

    given: its bound arguments; of results of stages in them, made or booked, the extents count
    result: what it returned, where it has been made; before, a fit with a criterion is taken for
        one that never stops early
    """
    count = _STAGES.get(function)
    return None if count is None else count(given, result)


def of_booked(call: Booked) -> int | None:
    """As `of_stage`, before it is made."""
    return of_stage(call.function, call.given)


# Every count is exactly proportional to the number of images: nothing is between two of them.


def _unet_images(given: Mapping[str, Any], num_images: int, *, backward: bool) -> int:
    in_channels = 3 if given.get("condition") is None else 6
    return num_images * of_unet(given["unet"], given["image_size"], in_channels)[backward]


def _of_fits(given: Mapping[str, Any], made: Priors | None) -> int:
    dip: DIPConfig = given["dip"]
    extent = extent_of(given["images"])
    assert extent.num_images is not None and extent.image_size is not None
    forward, step = of_prior(dip, extent.image_size)
    # One forward pass more: that of the last iterate.
    whole = dip.num_iter * step + forward
    if made is None or dip.early_stopping == "none":
        return extent.num_images * whole
    device = torch.device(given["context"].device).type
    steps = (steps_of_a_fit(spent, dip.num_iter, device) for spent in made.spent_iters.tolist())
    return sum(whole if taken is None else taken * step for taken in steps)


def _of_initialisation(given: Mapping[str, Any], _: object) -> int:
    dip: DIPConfig = given["dip"]
    size = extent_of(given["images"]).image_size
    assert size is not None
    forward, step = of_prior(dip, size)
    return dip.warm_start_iter * step + forward


def _of_paper_loop(given: Mapping[str, Any], made: FittedByLoop | None) -> int:
    dip: DIPConfig = given["dip"]
    extent = extent_of(given["images"])
    assert extent.num_images is not None and extent.image_size is not None
    forward, step = of_prior(dip, extent.image_size)
    spent = [dip.num_iter] * extent.num_images if made is None else made.spent_iters.tolist()
    # One forward pass for the image, and one where it is seen that it may stop.
    return sum(one * step + (1 + (one < dip.num_iter)) * forward for one in spent)


def _of_training(given: Mapping[str, Any], _: object) -> int:
    epochs = given["epochs"] - extent_of(given.get("resume_from")).epochs
    # Over all batches, the last and smaller one of each epoch included.
    return _unet_images(given, epochs * _count(given["images"]), backward=True)


def _of_sampling(given: Mapping[str, Any], _: object) -> int:
    sampling: SamplingConfig = given["sampling"]
    num_images = sampling.num_inference_steps * sampling.num_samples
    return _unet_images(given, num_images, backward=False)


def _of_net_score(given: Mapping[str, Any], _: object) -> int:
    # Without held-out images no net is asked anything.
    held_out = 0 if given["held_out"] is None else _count(given["held_out"])
    return _unet_images(given, len(LOG_SNR_LEVELS) * held_out, backward=False)


def _of_features(given: Mapping[str, Any], _: object) -> int:
    return _count(given["images"]) * of_features()


def _count(images: object) -> int:
    count = extent_of(images).num_images
    assert count is not None
    return count


_STAGES: dict[Callable[..., Any], Callable[[Mapping[str, Any], Any], int]] = {
    learn_initialisation: _of_initialisation,
    fit_priors: _of_fits,
    fit_by_paper_loop: _of_paper_loop,
    train_ddpm: _of_training,
    train_by_tutorial: _of_training,
    sample: _of_sampling,
    sample_by_pipeline: _of_sampling,
    score_net: _of_net_score,
    extract_features: _of_features,
}
