"""Runs what a stage is about to run, shortened and on throw-away copies, at every batch shape.

Every arm is warmed alike, so that none pays for the first call of a kernel, the first growth of the
allocator, or for what its process did before. Randomness is no hindrance: no stage uses a global
generator.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image

from bench.baselines import fit_by_paper_loop, sample_by_pipeline, train_by_tutorial
from dipddpm.config import DIPConfig, LoaderConfig, SamplingConfig, TrainingConfig, unwatched
from dipddpm.dip import fit_priors, learn_initialisation
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, encode, prepare, take
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


def is_warmed_up(function: Callable[..., Any]) -> bool:
    """Whether `warm_up` does anything for calls of it."""
    return function in _WARM_UPS


def warm_up(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Warms up the call `function(*args, **kwargs)`; nothing for a stage without a loop."""
    if function not in _WARM_UPS:
        return
    arguments = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    arguments["context"] = dataclasses.replace(arguments["context"], watch=unwatched)
    _WARM_UPS[function](arguments)


def _training(arguments: dict[str, Any]) -> None:
    for given in _short(arguments):
        condition = None if arguments.get("condition") is None else given["images"]
        train_ddpm(**{**given, "condition": condition, "resume_from": None})


def _tutorial(arguments: dict[str, Any]) -> None:
    for given in _short(arguments):
        train_by_tutorial(**given)


def _short(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of a few training steps, for each shape of a batch."""
    training: TrainingConfig = arguments["training"]
    size, count = arguments["image_size"], len(arguments["images"])
    full, last = min(count, training.batch_size), count % training.batch_size
    for batch in {full, last} - {0}:
        # Grey from memory, whatever the loader: the loop is warmed, not the decoder.
        yield {
            **arguments,
            "images": ImageSet(torch.zeros(batch, 3, size, size)),
            "loading": LoaderConfig(flip=arguments["loading"].flip),
            "epochs": EPOCHS,
        }


def _sampling(arguments: dict[str, Any]) -> None:
    sampling: SamplingConfig = arguments["sampling"]
    steps = min(ITERATIONS, sampling.num_inference_steps)
    arguments["sampling"] = dataclasses.replace(sampling, num_inference_steps=steps)
    sample(**arguments)


def _pipeline(arguments: dict[str, Any]) -> None:
    few = dataclasses.replace(arguments["sampling"], num_inference_steps=ITERATIONS)
    sample_by_pipeline(**{**arguments, "sampling": few})


def _priors(arguments: dict[str, Any]) -> None:
    dip: DIPConfig = arguments["dip"]
    images: ImageSet = arguments["images"]
    device = torch.device(arguments["context"].device)
    if dip.backend_on(device.type, images.pixels.shape[-1]) == "loop":
        arguments = _of_one_image(arguments)
    fit_priors(**_of_few_iterations(arguments))


def _paper_loop(arguments: dict[str, Any]) -> None:
    fit_by_paper_loop(**_of_few_iterations(_of_one_image(arguments)))


def _of_few_iterations(arguments: dict[str, Any]) -> dict[str, Any]:
    dip: DIPConfig = arguments["dip"]
    few = dataclasses.replace(dip, num_iter=min(ITERATIONS, dip.num_iter))
    return {**arguments, "dip": few}


def _of_one_image(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of a loop over images, each of which is done as the first."""
    first = {
        name: take(arguments[name], 0, 1)
        for name in ("images", "originals")
        if arguments.get(name) is not None
    }
    return {**arguments, **first}


def _initialisation(arguments: dict[str, Any]) -> None:
    dip: DIPConfig = arguments["dip"]
    few = min(ITERATIONS, dip.warm_start_iter)
    arguments["dip"] = dataclasses.replace(dip, warm_start_iter=few)
    learn_initialisation(**arguments)


_WARM_UPS: dict[Callable[..., Any], Callable[[dict[str, Any]], None]] = {
    train_ddpm: _training,
    sample: _sampling,
    fit_priors: _priors,
    fit_by_paper_loop: _paper_loop,
    train_by_tutorial: _tutorial,
    sample_by_pipeline: _pipeline,
    learn_initialisation: _initialisation,
}
