from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.meters import Device, Memory
from dipddpm import metrics
from dipddpm.config import ScoringConfig
from dipddpm.degradation import gaussian_blur
from dipddpm.images import ImageSet, prepare
from dipddpm.metrics import (
    FEATURE_SCORES,
    NOISE_AUTOCORRELATION,
    RESTORATION,
    FeatureSets,
    all_pairs_psnr,
    all_pairs_ssim,
    halves,
    kid,
    kid_resamplings,
    lag1_autocorrelation,
    nearest_distance,
    precision,
    psnr,
    score_features,
    score_generated,
    ssim,
)
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


def test_all_pairs_are_a_double_loop_over_more_than_are_worked_on_at_a_time() -> None:
    images, references = uniform(3, 3, 12, 13), uniform(35, 3, 12, 13, seed=1)
    expected = torch.stack([ssim(x.expand_as(references), references) for x in images])
    assert torch.allclose(all_pairs_ssim(images, references), expected, rtol=0, atol=1e-12)


def test_all_pairs_ssim_blurs_once_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    blurred: list[int] = []

    def counted(pixels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        blurred.append(len(pixels))
        return gaussian_blur(pixels, *args, **kwargs)

    monkeypatch.setattr(metrics, "gaussian_blur", counted)
    all_pairs_ssim(uniform(5, 3, 16, 16), uniform(16, 3, 16, 16))
    # Of each image and reference itself and its square, and of the product of each pair.
    assert sum(blurred) == 2 * 5 + 2 * 16 + 5 * 16
    # Whatever the number of images, memory holds those of a few.
    blurred.clear()
    all_pairs_ssim(uniform(20, 3, 11, 11), uniform(40, 3, 11, 11))
    assert max(blurred) == 16


def test_all_pairs_of_a_set_with_itself_peak_on_the_diagonal(objects16: ImageSet) -> None:
    pixels = objects16.pixels
    table = all_pairs_psnr(pixels, pixels)
    assert (table.diagonal() > 140).all()
    assert (table.argmax(dim=1) == torch.arange(10)).all()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_all_pairs_psnr_holds_no_float64_copies() -> None:
    images, references = torch.zeros(400, 3, 128, 128), torch.zeros(400, 3, 128, 128)
    all_pairs_psnr(images[:4], references[:4])  # what libraries take when first called
    with Memory(Device("cpu")) as before:
        pass
    with Memory(Device("cpu")) as during:
        all_pairs_psnr(images, references)
    assert before.host_peak_bytes is not None and during.host_peak_bytes is not None
    # A copy of one set would be twice its bytes; some tens of MB are parts of both.
    assert during.host_peak_bytes - before.host_peak_bytes < 1.5 * images.nbytes


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
    assert lag1_autocorrelation(torch.ones(1, 3, 16, 16)).item() == 1


def test_the_scores_of_an_image_with_a_nan_are_nan() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[0, 0, 3, 3] = math.nan
    zeros = torch.zeros(1, 3, 16, 16)
    for values in (
        lag1_autocorrelation(image),
        psnr(image, zeros),
        ssim(image, zeros),
        all_pairs_psnr(image, zeros),
        all_pairs_ssim(image, zeros),
    ):
        assert values.isnan().all()


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
@pytest.mark.parametrize("level", [-1.01, 1.5, 255.0, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_images_outside_the_range_are_refused(function: object, level: float, which: int) -> None:
    assert callable(function)
    images = torch.zeros(2, 3, 16, 16)
    images[which, 0, 3, 3] = level
    images[1 - which, 0, 3, 3] = math.nan  # beside an image that has a NaN for its score
    with pytest.raises(ValueError, match=r"images must be in \[-1, 1\], got \["):
        function(images, torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize("function", [psnr, ssim, all_pairs_psnr, all_pairs_ssim])
@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 1, 16, 16), (3, 16, 16), (0, 3, 16, 16)])
def test_other_shapes_are_refused(function: object, shape: tuple[int, ...]) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=r"alike|16, 12"):
        function(torch.zeros(2, 3, 16, 16), torch.zeros(shape))


def test_pairs_need_as_many_references() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\) and \(3, 3, 16, 16\)"):
        psnr(torch.zeros(2, 3, 16, 16), torch.zeros(3, 3, 16, 16))


@pytest.mark.parametrize("function", [psnr, ssim])
def test_no_pair_at_all_is_refused(function: object) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=r"N at least 1, got \(0, 3, 16, 16\)"):
        function(torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16))


def test_ssim_needs_its_window() -> None:
    with pytest.raises(ValueError, match=r"at least 11, got \(10, 16\)"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(count: int, dimension: int = 5, *, shift: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(count, dimension, generator=seeded(seed)) + shift


def naive_kid(x: Tensor, y: Tensor) -> float:
    """Over every pair of rows, one by one."""

    def kernel(a: list[float], b: list[float]) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3)

    rows, columns = x.double().tolist(), y.double().tolist()
    among = [
        np.mean([kernel(a, b) for a, b in itertools.permutations(them, 2)])
        for them in (rows, columns)
    ]
    between = np.mean([kernel(a, b) for a in rows for b in columns])
    return float(sum(among) - 2 * between)


def test_kid_by_brute_force() -> None:
    for x, y in (
        (features(7), features(6, seed=1)),
        (features(2), features(9, shift=2, seed=1)),
        (features(4), features(4)),  # two equal sets: below 0, for their pairs of equal rows
    ):
        assert kid(x, y).dtype == torch.float64 and kid(x, y).shape == ()
        assert kid(x, y).item() == pytest.approx(naive_kid(x, y), rel=1e-12, abs=1e-12)
        assert kid(x, y).item() == pytest.approx(kid(y, x).item(), rel=1e-12, abs=1e-12)
    assert kid(features(4), features(4)).item() < 0


def test_kid_in_closed_form() -> None:
    # All rows alike: k(0, 0) = 1, k(1, 1) = 8, k(0, 1) = 1.
    assert kid(torch.zeros(3, 5), torch.ones(4, 5)).item() == pytest.approx(1 + 8 - 2)


def test_kid_is_unbiased() -> None:
    # Every way to split six rows in halves: the mean is 0, to the rounding.
    rows = features(6, 3)
    values = []
    for chosen in itertools.combinations(range(6), 3):
        rest = [i for i in range(6) if i not in chosen]
        values.append(kid(rows[list(chosen)], rows[rest]).item())
    assert np.mean(values) == pytest.approx(0, abs=1e-12)
    assert np.std(values) > 0.01


def test_halves_are_halves() -> None:
    drawn = halves(500, 7, seeded())
    assert drawn.shape == (500, 7)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(1) == 3).all()
    # Each is drawn 3 times in 7; the standard error is 0.022.
    assert (drawn.mean(0) - 3 / 7).abs().max() < 0.09


def test_kid_resamplings_are_kids_of_subsets() -> None:
    x, y = features(9), features(12, shift=0.5, seed=1)
    values = kid_resamplings(x, y, num=20, generator=seeded(3))
    again = seeded(3)
    of_x, of_y = (halves(20, len(z), again).bool() for z in (x, y))
    expected = [naive_kid(x[a], y[b]) for a, b in zip(of_x, of_y, strict=True)]
    assert values.numpy() == pytest.approx(np.array(expected), rel=1e-12, abs=1e-12)
    assert len(kid_resamplings(x, y, generator=seeded())) == 200


def test_kid_resamplings_scatter_about_the_whole_as_it_about_the_truth() -> None:
    def spreads(shift: float) -> tuple[float, float]:
        """Of KID over new draws, and of the resamplings of each, in the mean."""
        pairs = [
            (features(60, seed=2 * i), features(80, shift=shift, seed=2 * i + 1))
            for i in range(300)
        ]
        drawn = [kid_resamplings(x, y, num=100, generator=seeded(9)) for x, y in pairs]
        of_kid = torch.stack([kid(x, y) for x, y in pairs]).std().item()
        return of_kid, torch.stack(drawn).var(dim=1).mean().sqrt().item()

    of_kid, of_resamplings = spreads(1.0)
    assert of_resamplings / of_kid == pytest.approx(1, abs=0.15)
    of_kid, of_resamplings = spreads(0.0)
    assert of_resamplings / of_kid == pytest.approx(math.sqrt(3), abs=0.3)
    x, y = features(60), features(80, shift=1, seed=1)
    drawn = kid_resamplings(x, y, num=4000, generator=seeded())
    error = drawn.std().item() / math.sqrt(4000)
    assert drawn.mean().item() == pytest.approx(kid(x, y).item(), abs=4 * error)


def test_nearest_distance_by_brute_force() -> None:
    x, references = features(9), features(30, seed=1)
    expected = [min(math.dist(a, b) for b in references.tolist()) for a in x.tolist()]
    assert nearest_distance(x, references).dtype == torch.float64
    assert nearest_distance(x, references).numpy() == pytest.approx(np.array(expected), rel=1e-12)
    # Of a copy 0, and no rounding of far larger numbers.
    wide = 100 + features(40, 1280)
    assert (nearest_distance(wide[:7], wide) == 0).all()


@pytest.mark.parametrize("k", [1, 3])
def test_precision_by_brute_force(k: int) -> None:
    generated, real = features(40, 2, shift=1.0), features(30, 2, seed=1)

    def naive(points: list[list[float]], manifold: list[list[float]]) -> float:
        radii = [
            sorted(math.dist(a, b) for j, b in enumerate(manifold) if j != i)[k - 1]
            for i, a in enumerate(manifold)
        ]
        inside = [
            any(math.dist(p, a) <= radius for a, radius in zip(manifold, radii, strict=True))
            for p in points
        ]
        return float(np.mean(inside))

    expected = naive(generated.double().tolist(), real.double().tolist())
    assert 0.2 < expected < 0.95
    assert precision(generated, real, k=k).item() == pytest.approx(expected)
    expected = naive(real.double().tolist(), generated.double().tolist())
    assert precision(real, generated, k=k).item() == pytest.approx(expected)


def test_precision_of_copies_and_of_what_is_far() -> None:
    real = features(10)
    assert precision(real, real) == 1
    assert precision(real + 100, real) == 0
    # A ball holds its surface.
    line = torch.tensor([[0.0], [1.0], [2.0]])
    assert precision(torch.tensor([[-1.0], [-1.01]]), line, k=1) == 0.5


def test_features_that_no_score_can_be_taken_of_are_refused() -> None:
    good, broken = features(10), features(10)
    broken[3, 2] = math.nan
    resample = lambda x, y: kid_resamplings(x, y, generator=seeded())  # noqa: E731
    for function, least in ((kid, 2), (resample, 4), (nearest_distance, 1)):
        few = good[: least - 1]
        for x, y in ((few, good), (good, few)):
            with pytest.raises(
                ValueError, match=f"at least {least} rows, got {len(x)} and {len(y)}"
            ):
                function(x, y)
        function(good[:least], good[:least])
        for x, y in ((broken, good), (good, broken), (good, broken / 0)):
            with pytest.raises(ValueError, match="features must be finite"):
                function(x, y)
        for x, y in ((good, features(10, 6)), (good, good[0]), (good[0], good)):
            with pytest.raises(ValueError, match=r"must be \(N, D\) and \(M, D\), got"):
                function(x, y)
    with pytest.raises(ValueError, match="at least 4 rows, got 3"):
        precision(good, good[:3])
    with pytest.raises(ValueError, match="at least 1 rows, got 0"):
        precision(good[:0], good)
    for x, y in ((broken, good), (good, broken)):
        with pytest.raises(ValueError, match="features must be finite"):
            precision(x, y)


def test_the_published_scoring(objects: ImageSource) -> None:
    images = prepare(objects.train[:3], 16).pixels
    references = prepare(objects.held_out[:2], 16).pixels
    pairs = list(itertools.product(images, references))
    mixed, _ = score_generated(images, references, ScoringConfig(score_range="mixed"))
    expected_psnr = [
        peak_signal_noise_ratio(y.double().numpy(), (x.double().numpy() + 1) / 2, data_range=2)
        for x, y in pairs
    ]
    expected_ssim = [skimage_ssim((x.double() + 1) / 2, y) for x, y in pairs]
    # Its samples are (x + 1) / 2 in float32.
    assert mixed["all_pairs_psnr"].item() == pytest.approx(np.mean(expected_psnr), abs=1e-5)
    assert mixed["all_pairs_ssim"].item() == pytest.approx(np.mean(expected_ssim), abs=1e-6)

    common, _ = score_generated(images, references, ScoringConfig())
    assert common["all_pairs_psnr"] == all_pairs_psnr(images, references).mean()
    assert common["all_pairs_ssim"] == all_pairs_ssim(images, references).mean()
    rounded, _ = score_generated(images, references, ScoringConfig(ssim_digits=3))
    assert rounded["all_pairs_ssim"].item() == round(common["all_pairs_ssim"].item(), 3)
    assert rounded["all_pairs_ssim"] != common["all_pairs_ssim"]
    assert rounded["all_pairs_psnr"] == common["all_pairs_psnr"]


def test_a_perfect_copy_scores_low_under_the_published_mistake() -> None:
    # |(x + 1) / 2 - x| = (1 - x) / 2: 6 dB and the darker the image the less.
    for level, expected in ((-1.0, 20 * math.log10(2)), (0.0, 20 * math.log10(4))):
        copy = torch.full((1, 3, 16, 16), level)
        scores, _ = score_generated(copy, copy, ScoringConfig(score_range="mixed"))
        assert scores["all_pairs_psnr"].item() == pytest.approx(expected, abs=1e-9)


def test_samples_that_look_like_noise_are_said_to(objects16: ImageSet) -> None:
    real, noise = objects16.pixels, torch.randn(10, 3, 16, 16, generator=seeded()).clamp(-1, 1)
    scores, warnings = score_generated(real, real, ScoringConfig())
    assert warnings == []
    assert scores["lag1_autocorrelation"].equal(lag1_autocorrelation(real))
    _, warnings = score_generated(noise, real, ScoringConfig())
    assert len(warnings) == 1
    assert "look like noise" in warnings[0]
    # A tenth more noise takes it over the limit.
    for share, expected in ((0.45, 0), (0.55, 1)):
        mixture = (1 - share) * real + share * noise
        autocorrelation = lag1_autocorrelation(mixture).mean().item()
        assert autocorrelation == pytest.approx(NOISE_AUTOCORRELATION, abs=0.1)
        assert (autocorrelation < NOISE_AUTOCORRELATION) == bool(expected)
        assert len(score_generated(mixture, real, ScoringConfig())[1]) == expected


def test_scores_of_features_are_those_of_the_functions() -> None:
    samples, training, held_out = (
        features(count, shift=shift, seed=seed)
        for count, shift, seed in ((120, 0.3, 0), (150, 0, 1), (101, 0, 2))
    )
    scores = score_features(FeatureSets(samples, training, held_out))
    assert list(scores) == list(FEATURE_SCORES)
    assert scores["kid_efflite0"] == kid(samples, held_out)
    drawn = kid_resamplings(samples, held_out, generator=seeded()).numpy()
    assert scores["kid_efflite0_low"].item() == pytest.approx(np.percentile(drawn, 2.5), rel=1e-9)
    assert scores["kid_efflite0_high"].item() == pytest.approx(np.percentile(drawn, 97.5), rel=1e-9)
    assert scores["kid_efflite0_low"] < scores["kid_efflite0"] < scores["kid_efflite0_high"]
    # Every distance is to 50 references: half of the held-out images.
    for name, references in (("training", training), ("held_out", held_out)):
        expected = nearest_distance(samples, references[:50])
        assert scores[f"nearest_{name}_efflite0"].equal(expected)
    real = nearest_distance(held_out[50:100], held_out[:50]).mean()
    assert scores["nearest_real_efflite0"] == real
    # As many of each: 101.
    assert scores["precision_efflite0"] == precision(samples[:101], held_out)
    assert scores["recall_efflite0"] == precision(held_out, samples[:101])


def test_nearest_distance_is_to_equally_many_of_few_training_images() -> None:
    samples, training, held_out = features(100), features(20, seed=1), features(100, seed=2)
    scores = score_features(FeatureSets(samples, training, held_out))
    expected = nearest_distance(samples, held_out[:20])
    assert scores["nearest_held_out_efflite0"].equal(expected)
    real = nearest_distance(held_out[20:40], held_out[:20]).mean()
    assert scores["nearest_real_efflite0"] == real


def test_memorised_images_are_nearer_than_real_ones() -> None:
    training, held_out = features(100, seed=1), features(100, seed=2)
    scores = score_features(FeatureSets(training.clone(), training, held_out))
    nearest_training, nearest_held_out, real = (
        scores[f"nearest_{name}_efflite0"].mean() for name in ("training", "held_out", "real")
    )
    assert nearest_training < 0.6 * real
    assert nearest_held_out.item() == pytest.approx(real.item(), rel=0.2)


@pytest.mark.parametrize(("samples", "held_out"), [(99, 100), (100, 99)])
def test_too_few_images_have_no_scores_of_features(samples: int, held_out: int) -> None:
    sets = FeatureSets(features(samples), features(100, seed=1), features(held_out, seed=2))
    with pytest.raises(ValueError, match="need 100 images a set, got 99"):
        score_features(sets)


def test_samples_that_are_no_numbers_score_nan_and_references_are_refused() -> None:
    good, broken = features(100), features(100)
    broken[7, 0] = math.nan
    scores = score_features(FeatureSets(broken, good, good))
    assert list(scores) == list(FEATURE_SCORES)
    assert all(value.isnan() for value in scores.values())
    for sets in (FeatureSets(good, broken, good), FeatureSets(good, good, broken)):
        with pytest.raises(ValueError, match="features must be finite"):
            score_features(sets)


def test_restored_images_are_scored_in_pairs(objects16: ImageSet) -> None:
    restored = (objects16.pixels + 0.1 * uniform(10, 3, 16, 16)).clamp(-1, 1)
    scores = {name: of(restored, objects16.pixels) for name, of in RESTORATION.items()}
    assert list(scores) == ["paired_psnr", "paired_ssim"]
    assert scores["paired_psnr"].equal(psnr(restored, objects16.pixels))
    assert scores["paired_ssim"].equal(ssim(restored, objects16.pixels))
