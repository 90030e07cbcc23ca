"""Runs what a stage is about to run, shortened and on throw-away copies, at every batch shape.

Every arm is warmed alike, so that none pays for the first call of a kernel, the first growth of the
allocator, or for what its process did before. Randomness is no hindrance: no stage uses a global
generator.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from dipddpm.config import DIPConfig, LoaderConfig, SamplingConfig, TrainingConfig, unwatched
from dipddpm.dip import fit_priors
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, encode, prepare
from dipddpm.sampling import sample
from dipddpm.training import train_ddpm

# Of each shape of batch; and of a fit or of sampling.
EPOCHS = 2
ITERATIONS = 3


def wake(device: torch.device) -> None:
    """What a process pays once, whatever it does: threads, libraries, the allocator, decoders."""
    images = torch.zeros(4, 3, 32, 32, device=device)
    weight = torch.zeros(8, 3, 3, 3, device=device, requires_grad=True)
    torch.nn.functional.conv2d(images, weight).sum().backward()
    (images.double().flatten(1) @ images.double().flatten(1).T).sum().item()
    for file_format in ("WEBP", "JPEG", "PNG"):
        stream = io.BytesIO()
        Image.new("RGB", (48, 32)).save(stream, file_format)
        file = EncodedImages((stream.getvalue(),))
        encode(prepare(file, 16), file)


def warm_up(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Warms up the call `function(*args, **kwargs)`; nothing for a stage without a loop."""
    if function not in _WARM_UPS:
        return
    arguments = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    arguments["context"] = dataclasses.replace(arguments["context"], watch=unwatched)
    _WARM_UPS[function](arguments)


def _training(arguments: dict[str, Any]) -> None:
    training: TrainingConfig = arguments["training"]
    size, count = arguments["image_size"], len(arguments["images"])
    full, last = min(count, training.batch_size), count % training.batch_size
    for batch in {full, last} - {0}:
        # Grey from memory, whatever the loader: the loop is warmed, not the decoder.
        images = ImageSet(torch.zeros(batch, 3, size, size))
        given = {
            "images": images,
            "condition": images if arguments.get("condition") is not None else None,
            "loading": LoaderConfig(flip=arguments["loading"].flip),
            "epochs": EPOCHS,
            "resume_from": None,
        }
        train_ddpm(**{**arguments, **given})


def _sampling(arguments: dict[str, Any]) -> None:
    sampling: SamplingConfig = arguments["sampling"]
    steps = min(ITERATIONS, sampling.num_inference_steps)
    arguments["sampling"] = dataclasses.replace(sampling, num_inference_steps=steps)
    sample(**arguments)


def _priors(arguments: dict[str, Any]) -> None:
    dip: DIPConfig = arguments["dip"]
    arguments["dip"] = dataclasses.replace(dip, num_iter=min(ITERATIONS, dip.num_iter))
    fit_priors(**arguments)


_WARM_UPS: dict[Callable[..., Any], Callable[[dict[str, Any]], None]] = {
    train_ddpm: _training,
    sample: _sampling,
    fit_priors: _priors,
}
