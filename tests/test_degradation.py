from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dipddpm.config import Context
from dipddpm.degradation import blur_to_psnr, degrade, gaussian_blur
from dipddpm.images import ImageSet, prepare, take
from dipddpm.metrics import psnr
from dipddpm.sources import ImageSource


def test_degrading_adds_noise_of_the_stated_strength() -> None:
    clean = ImageSet(torch.full((20, 3, 64, 64), 0.9))
    noisy = degrade(clean, 25, Context(seed=3))
    noise = (noisy.pixels - clean.pixels).double()
    # 245,760 draws: the standard error of the deviation is 0.14 %, of the mean 0.0004.
    assert noise.std().item() == pytest.approx(50 / 255, rel=0.008)
    assert abs(noise.mean().item()) < 0.0024
    assert noisy.pixels.amax() > 1  # not clipped
    assert torch.equal(degrade(clean, 25, Context(seed=3)).pixels, noisy.pixels)
    assert not torch.equal(degrade(clean, 25, Context(seed=4)).pixels, noisy.pixels)
    fewer = degrade(take(clean, 0, 5), 25, Context(seed=3))
    assert torch.equal(fewer.pixels, noisy.pixels[:5])


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.5, 3.7, 20.0])
@pytest.mark.parametrize("shape", [(16, 16), (9, 13), (1, 7)])
def test_blur_is_that_of_scipy(sigma: float, shape: tuple[int, int]) -> None:
    # At sigma 20 the window is five times as wide as the image: mirrored again and again.
    pixels = torch.randn(
        2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    expected = np.stack(
        [
            [gaussian_filter(channel, sigma, mode="reflect", truncate=4.0) for channel in image]
            for image in pixels.numpy()
        ]
    )
    assert np.abs(gaussian_blur(pixels, sigma).numpy() - expected).max() < 1e-13


def rough(images: ImageSet) -> ImageSet:
    """Something like DIP outputs: smoother, noisy, of all qualities, some values out of range."""
    strength = torch.linspace(0.02, 0.2, len(images)).view(-1, 1, 1, 1)
    noise = torch.randn(images.pixels.shape, generator=torch.Generator().manual_seed(0))
    return ImageSet(gaussian_blur(images.pixels, 0.4) + strength * noise)


@pytest.mark.parametrize("size", [32, 64])
def test_a_blur_to_a_psnr_has_that_psnr(objects: ImageSource, size: int) -> None:
    images = prepare(objects.train[:70], size)  # more than are worked on at a time
    priors = rough(images)
    wanted = psnr(priors.pixels.clamp(-1, 1), images.pixels)
    assert wanted.amin() < 22 and wanted.amax() > 40
    blurred = blur_to_psnr(images, priors)
    assert blurred.pixels.dtype == torch.float32
    assert (psnr(blurred.pixels.clamp(-1, 1), images.pixels) - wanted).abs().max() < 1e-3
    assert blurred.pixels.abs().amax() <= 1 + 1e-6


@pytest.mark.parametrize("sigma", [0.3, 0.7, 2.0, 9.0])
@pytest.mark.parametrize("shape", [(16, 16), (12, 15)])
def test_the_blur_to_a_psnr_is_a_gaussian_blur(sigma: float, shape: tuple[int, int]) -> None:
    # What scipy blurred is found again, sigma and all.
    pixels = torch.rand(3, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = gaussian_filter(
        pixels.double().numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=4.0
    )
    blurred = blur_to_psnr(ImageSet(pixels), ImageSet(torch.from_numpy(expected)))
    assert np.abs(blurred.pixels.numpy() - expected).max() < 1e-5


def test_a_blur_to_a_psnr_depends_on_no_other_image(objects16: ImageSet) -> None:
    images = ImageSet(objects16.pixels.double())
    priors = rough(images)
    together = blur_to_psnr(images, priors).pixels
    for i in range(len(images)):
        alone = blur_to_psnr(take(images, i, i + 1), take(priors, i, i + 1)).pixels
        assert torch.allclose(together[i : i + 1], alone, rtol=0, atol=1e-9)


def test_a_worse_prior_means_a_wider_blur(objects16: ImageSet) -> None:
    error = rough(objects16).pixels - objects16.pixels
    roughness = []
    for scale in (0.0, 0.1, 0.3, 0.6, 1.0):
        blurred = blur_to_psnr(objects16, ImageSet(objects16.pixels + scale * error)).pixels
        roughness.append(blurred.diff(dim=-1).square().mean(dim=(1, 2, 3)))
    for sharper, smoother in itertools.pairwise(roughness):
        assert (sharper > smoother).all()


def test_a_perfect_prior_leaves_the_image_and_a_hopeless_one_its_mean(objects16: ImageSet) -> None:
    images = objects16.pixels
    same = blur_to_psnr(objects16, objects16).pixels
    assert torch.allclose(same, images, rtol=0, atol=1e-6)
    lost = blur_to_psnr(objects16, ImageSet(-images)).pixels
    means = images.mean(dim=(2, 3), keepdim=True)
    assert (lost - means).abs().amax() < 0.02
    flat = ImageSet(torch.full((1, 3, 8, 8), 0.5))
    assert torch.allclose(blur_to_psnr(flat, ImageSet(-flat.pixels)).pixels, flat.pixels)


def test_priors_of_another_shape_or_not_finite_are_refused(objects16: ImageSet) -> None:
    with pytest.raises(ValueError, match=r"priors must be \(10, 3, 16, 16\), got \(9, 3, 16, 16\)"):
        blur_to_psnr(objects16, take(objects16, 0, 9))
    bad = objects16.pixels.clone()
    bad[3, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="priors must be finite"):
        blur_to_psnr(objects16, ImageSet(bad))
