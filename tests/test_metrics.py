from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dipddpm.images import ImageSet, gaussian_blur, prepare
from dipddpm.metrics import all_pairs_psnr, all_pairs_ssim, lag1_autocorrelation, psnr, ssim
from dipddpm.sources import ImageSource
from tests.reference import peak_signal_noise_ratio, skimage_ssim, uniform


@pytest.fixture(scope="module")
def pairs(objects: ImageSource) -> tuple[Tensor, Tensor]:
    """Random, real and nearly equal pairs, 33 x 33 (an odd side, which halves nothing)."""
    real = prepare(objects.train[:8], 33).pixels
    near = (real[:4] + 0.05 * uniform(4, 3, 33, 33)).clamp(-1, 1)
    return (
        torch.cat([uniform(4, 3, 33, 33, seed=1), real[:4], near]),
        torch.cat([uniform(4, 3, 33, 33, seed=2), real[4:], real[:4]]),
    )


def test_psnr_is_that_of_scikit_image(pairs: tuple[Tensor, Tensor]) -> None:
    images, references = pairs
    expected = [
        peak_signal_noise_ratio(reference.double().numpy(), image.double().numpy(), data_range=2)
        for image, reference in zip(*pairs, strict=True)
    ]
    assert psnr(images, references).dtype == torch.float64
    assert np.abs(psnr(images, references).numpy() - expected).max() < 1e-11


def test_ssim_is_that_of_scikit_image(pairs: tuple[Tensor, Tensor]) -> None:
    expected = [skimage_ssim(image, reference) for image, reference in zip(*pairs, strict=True)]
    assert np.abs(ssim(*pairs).numpy() - expected).max() < 1e-12
    assert min(expected) < 0.1
    assert max(expected) > 0.9


def test_ssim_at_its_smallest_side_and_of_an_oblong_image() -> None:
    for shape in ((1, 3, 11, 11), (1, 1, 12, 40)):
        x, y = uniform(*shape), uniform(*shape, seed=1)
        assert ssim(x, y).item() == pytest.approx(skimage_ssim(x[0], y[0]), abs=1e-12)


def test_a_copy(pairs: tuple[Tensor, Tensor]) -> None:
    images, _ = pairs
    assert psnr(images, images).tolist() == [math.inf] * len(images)
    assert torch.allclose(
        ssim(images, images), torch.ones(len(images), dtype=torch.float64), atol=1e-12
    )


def test_psnr_in_closed_form() -> None:
    flat = torch.zeros(1, 3, 16, 16)
    # The range is 2: an error of 2 everywhere is 0 dB, of 1 6.02 dB, of 0.2 20 dB.
    assert psnr(flat - 1, flat + 1).item() == 0
    assert psnr(flat, flat + 1).item() == pytest.approx(20 * math.log10(2), abs=1e-12)
    assert psnr(flat + 0.2, flat).item() == pytest.approx(20, abs=1e-6)


def test_all_pairs_are_a_double_loop(pairs: tuple[Tensor, Tensor]) -> None:
    images, references = pairs
    images = images[:9]
    expected_psnr = torch.stack(
        [torch.cat([psnr(x[None], y[None]) for y in references]) for x in images]
    )
    expected_ssim = torch.stack(
        [torch.cat([ssim(x[None], y[None]) for y in references]) for x in images]
    )
    assert all_pairs_psnr(images, references).shape == (9, 12)
    got, copies = all_pairs_psnr(images, references), expected_psnr.isinf()
    assert torch.allclose(got[~copies], expected_psnr[~copies], rtol=0, atol=1e-9)
    # Of a copy, |x|^2 + |y|^2 - 2 x y leaves a rounding of float64 in place of 0.
    assert copies.sum() == 4
    assert (got[copies] > 140).all()
    assert torch.allclose(all_pairs_ssim(images, references), expected_ssim, rtol=0, atol=1e-12)


def test_all_pairs_of_a_set_with_itself_peak_on_the_diagonal(objects16: ImageSet) -> None:
    pixels = objects16.pixels
    table = all_pairs_psnr(pixels, pixels)
    assert (table.diagonal() > 140).all()
    assert (table.argmax(dim=1) == torch.arange(10)).all()


def test_the_mean_image_is_the_optimum_in_closed_form(objects: ImageSource) -> None:
    references = prepare(objects.train[:100], 16).pixels.double()
    held_out = prepare(objects.held_out[:100], 16).pixels.double()
    mean = references.mean(0, keepdim=True)
    variance = (references - mean).square().mean().item()

    def mean_error(images: Tensor) -> Tensor:
        """(N,), averaged over the references, from the dB of each pair."""
        return (4 / 10 ** (all_pairs_psnr(images, references) / 10)).mean(dim=1)

    # mean over references of |g - x|^2 = |g - mean|^2 + Var
    images = torch.cat([held_out, mean, torch.zeros_like(mean)])
    expected = (images - mean).square().mean(dim=(1, 2, 3)) + variance
    assert torch.allclose(mean_error(images), expected, rtol=1e-12, atol=0)
    assert mean_error(mean).item() == pytest.approx(variance, rel=1e-12)
    # An unseen image of the same kind has twice the error: 3.0 dB, give or take the draw.
    below = 10 * math.log10(mean_error(held_out).mean().item() / variance)
    assert below == pytest.approx(10 * math.log10(2), abs=0.4)


def test_autocorrelation_by_brute_force(objects16: ImageSet) -> None:
    images = torch.cat([objects16.pixels[:3, :, :9, :7], uniform(2, 3, 9, 7)])
    for image, value in zip(images.double().numpy(), lag1_autocorrelation(images), strict=True):
        centred = [channel - channel.mean() for channel in image]
        power = np.mean([channel**2 for channel in centred])
        right = [c[i, j] * c[i, j + 1] for c in centred for i in range(9) for j in range(6)]
        below = [c[i, j] * c[i + 1, j] for c in centred for i in range(8) for j in range(7)]
        assert value.item() == pytest.approx(
            (np.mean(right) + np.mean(below)) / 2 / power, abs=1e-12
        )


def test_autocorrelation_tells_images_from_noise(objects16: ImageSet) -> None:
    noise = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    # The standard error over 98,304 pairs of neighbours is 0.0032.
    assert lag1_autocorrelation(noise).abs().max() < 0.015
    smooth = gaussian_blur(noise, 4.0)[..., 16:-16, 16:-16]  # its edges are mirrored
    # exp(-1 / (4 sigma^2)) for noise blurred with sigma
    assert lag1_autocorrelation(smooth).mean().item() == pytest.approx(math.exp(-1 / 64), abs=0.005)
    for image, value in zip(smooth.double().numpy(), lag1_autocorrelation(smooth), strict=True):
        neighbours = [
            np.corrcoef(a.ravel(), b.ravel())[0, 1]
            for channel in image
            for a, b in ((channel[:, 1:], channel[:, :-1]), (channel[1:], channel[:-1]))
        ]
        assert value.item() == pytest.approx(np.mean(neighbours), abs=0.02)
    assert lag1_autocorrelation(objects16.pixels).min() > 0.3


def test_autocorrelation_of_a_flat_image_is_a_number() -> None:
    # A net that saturates gives flat samples; they are not noise, and a record holds no NaN.
    assert lag1_autocorrelation(torch.ones(1, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize("function", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
@pytest.mark.parametrize("level", [-1.1, 1.5, 255.0, math.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_references_outside_the_range_are_refused(
    function: object, level: float, which: int
) -> None:
    assert callable(function)
    references = torch.zeros(2, 3, 16, 16)
    references[which, 0, 3, 3] = level
    with pytest.raises(ValueError, match=r"references must be in \[-1, 1\]"):
        function(torch.zeros(2, 3, 16, 16), references)


@pytest.mark.parametrize("function", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 1, 16, 16), (3, 16, 16)])
def test_other_shapes_are_refused(function: object, shape: tuple[int, ...]) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=r"alike|16, 12"):
        function(torch.zeros(2, 3, 16, 16), torch.zeros(shape))


def test_pairs_need_as_many_references() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\) and \(3, 3, 16, 16\)"):
        psnr(torch.zeros(2, 3, 16, 16), torch.zeros(3, 3, 16, 16))


def test_ssim_needs_its_window() -> None:
    with pytest.raises(ValueError, match=r"at least 11, got \(10, 16\)"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))
