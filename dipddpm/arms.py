"""The arms of the experiment: what is trained on, and from which image the reverse process starts.

Each is one function and one entry in a table; it is given what its parameters name. Users name
functions of their own as "module:function"; what those return is checked.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import restoration as skimage_restoration

from dipddpm.config import STARTS as START_NAMES
from dipddpm.config import TARGETS as TARGET_NAMES
from dipddpm.config import RestorationConfig
from dipddpm.degradation import blur_to_psnr, gaussian_blur
from dipddpm.images import ImageSet
from dipddpm.lookup import Table

Make = Callable[..., ImageSet]

# scikit-image has no types.
denoise_nl_means: Any = skimage_restoration.denoise_nl_means
denoise_tv_chambolle: Any = skimage_restoration.denoise_tv_chambolle

# What is trained on -----------------------------------------------------------------------------


def dip_targets(priors: ImageSet) -> ImageSet:
    """The DIP outputs of the training images (the publication's experiment)."""
    return ImageSet(priors.pixels.clone())


def blur_targets(images: ImageSet, priors: ImageSet) -> ImageSet:
    """Each training image blurred to the PSNR of its DIP output: is it DIP, or any low-pass?"""
    return blur_to_psnr(images, priors)


# "images" stands for the training images, as their files are.
TARGETS: dict[str, Make | None] = {
    "images": None,
    "dip": dip_targets,
    "blur": blur_targets,
}

# Where the reverse process starts -----------------------------------------------------------------


def start_degraded(degraded: ImageSet) -> ImageSet:
    """The degraded image itself, which costs nothing to make."""
    return ImageSet(degraded.pixels.clone())


def start_dip(priors: ImageSet) -> ImageSet:
    """The DIP output of the degraded image (SDEdit, Meng et al. 2021, from an estimate)."""
    return ImageSet(priors.pixels.clone())


def start_blur(degraded: ImageSet, restoration: RestorationConfig) -> ImageSet:
    """The degraded image under a Gaussian blur of blur_sigma pixels."""
    return ImageSet(gaussian_blur(degraded.pixels, restoration.blur_sigma))


def start_nlm(degraded: ImageSet, restoration: RestorationConfig) -> ImageSet:
    """Non-local means (Buades et al. 2005) of scikit-image, told the strength of the noise."""
    sigma = restoration.degradation_sigma / 255
    return _each(
        degraded,
        lambda image: denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=NLM_H * sigma, sigma=sigma, channel_axis=-1
        ),
    )


def start_tv(degraded: ImageSet, restoration: RestorationConfig) -> ImageSet:
    """Total variation (Chambolle 2004) of scikit-image, weighted by the strength of the noise."""
    weight = TV_WEIGHT * restoration.degradation_sigma / 255
    return _each(degraded, lambda image: denoise_tv_chambolle(image, weight, channel_axis=-1))


def start_mean(degraded: ImageSet, training: ImageSet) -> ImageSet:
    """The mean training image, the same for every degraded one."""
    return ImageSet(training.pixels.mean(0, keepdim=True).expand_as(degraded.pixels).clone())


def start_nearest(degraded: ImageSet, training: ImageSet) -> ImageSet:
    """The training image nearest to the degraded one, by the mean squared difference."""
    distances = torch.cdist(degraded.pixels.flatten(1), training.pixels.flatten(1))
    return ImageSet(training.pixels[distances.argmin(1)])


def start_original(originals: ImageSet) -> ImageSet:
    """The image that is sought: what a perfect start would give. No method has it."""
    return ImageSet(originals.pixels.clone())


# "noise" starts from no image.
STARTS: dict[str, Make | None] = {
    "noise": None,
    "degraded": start_degraded,
    "dip": start_dip,
    "blur": start_blur,
    "nlm": start_nlm,
    "tv": start_tv,
    "mean": start_mean,
    "nearest": start_nearest,
    "original": start_original,
}

# Of the strength of the noise, both: what gave the highest PSNR on training images (objects, 32 and
# 64 px, sigma 25).
NLM_H = 0.7
TV_WEIGHT = 0.75


def target(train_on: str) -> Make | None:
    """The function behind a `train_on`; None trains on the files as they are."""
    return _checked(TARGET_NAMES, train_on)


def start(start_from: str) -> Make | None:
    """The function behind a `start_from`; None starts from noise alone."""
    return _checked(START_NAMES, start_from)


def _checked(table: Table, name: str) -> Make | None:
    """A function of ours as it is; a user's is given copies, and what it returns is looked at."""
    make = table.function(name)
    if make is None or name in table.names():
        return make

    @functools.wraps(make)
    def checked(**given: object) -> ImageSet:
        sets = {key: value for key, value in given.items() if isinstance(value, ImageSet)}
        like = next(value for key, value in sets.items() if key in table.needed)
        copies = {key: ImageSet(value.pixels.clone()) for key, value in sets.items()}
        with _global_state_kept():
            try:
                made = make(**{**given, **copies})
            except SystemExit as error:
                text = f"{name} would have ended the process with status {error.code}"
                raise RuntimeError(text) from error
        return _looked_at(name, made, like=like)

    # What a suite calls it tells its results from those of any other, whatever made the function.
    checked.__module__, _, checked.__qualname__ = name.partition(":")
    checked.__name__ = checked.__qualname__
    return checked


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """What a function of the user's shares with all stages after it is put back as it was."""
    dtype, threads, grad, folder = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        Path.cwd(),
    )
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.set_grad_enabled(grad)
            os.chdir(folder)


def _looked_at(name: str, made: object, *, like: ImageSet) -> ImageSet:
    """Raises ValueError or TypeError, with the name of the function, if `made` is no such set."""
    if not isinstance(made, ImageSet):
        raise TypeError(f"{name} must return an ImageSet, got {type(made).__name__}")
    pixels: object = made.pixels
    if not isinstance(pixels, torch.Tensor):
        raise TypeError(f"{name} must return an ImageSet of a tensor, got {type(pixels).__name__}")
    if pixels.shape != like.pixels.shape:
        raise ValueError(
            f"{name} must return images of shape {tuple(like.pixels.shape)}, "
            f"got {tuple(pixels.shape)}"
        )
    if pixels.device.type != "cpu" or pixels.dtype != torch.float32:
        raise ValueError(
            f"{name} must return float32 pixels on the CPU, got {pixels.dtype} on {pixels.device}"
        )
    if not pixels.isfinite().all():
        raise ValueError(f"{name} must return finite pixels, got NaN or infinity")
    # Its own, even if it is what the function was given.
    return ImageSet(pixels.detach().clone())


def _each(images: ImageSet, denoise: Callable[[np.ndarray], np.ndarray]) -> ImageSet:
    """Of each image as scikit-image takes it: (H, W, 3) float64 in [0, 1], more where degraded."""
    denoised = [
        torch.from_numpy(denoise((pixels.permute(1, 2, 0).double().numpy() + 1) / 2)) * 2 - 1
        for pixels in images.pixels
    ]
    return ImageSet(torch.stack(denoised).permute(0, 3, 1, 2).float().contiguous())
