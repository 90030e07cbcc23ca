"""Scores, as pure functions of tensors, and the tables of those that are taken of every case.

Images are (N, 3, H, W) in [-1, 1] throughout, so the range of every PSNR and SSIM is 2. Features
are (N, D), of `features`. A new score is a function and an entry in a table at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dipddpm.config import MIN_FOR_FEATURES, ScoreRange, ScoringConfig
from dipddpm.degradation import gaussian_blur

DATA_RANGE: Final = 2.0

# Samples whose mean lag-1 autocorrelation is lower look like noise.
NOISE_AUTOCORRELATION: Final = 0.2

# One for all, so that the same halves are drawn in every arm.
_RESAMPLING_SEED = 0


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB, pair by pair: (N,) float64, inf for equal images.

    Raises ValueError if a shape differs, a value leaves [-1, 1], or a reference is NaN.
    """
    _check(images, references)
    error = (images.double() - references.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(DATA_RANGE**2 / error)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), pair by pair: (N,) float64.

    The paper's Gaussian window (11 x 11, sigma 1.5) and population covariances, averaged over the
    channels and over all pixels whose window lies inside the image; scikit-image gives the same
    with gaussian_weights=True, use_sample_covariance=False, data_range=2.
    Raises ValueError if a shape differs, a value leaves [-1, 1], a reference is NaN, or a side is
    below 11.
    """
    _check(images, references)
    return _similarity(_moments(images), _moments(references))


@dataclass(frozen=True)
class _Moments:
    """x: (N, C, H, W) float64; mean, variance: (N, C, H - 10, W - 10), under the window of ssim."""

    x: Tensor
    mean: Tensor
    variance: Tensor


def _moments(images: Tensor) -> _Moments:
    x = images.double()
    mean = _local_mean(x)
    return _Moments(x, mean, _local_mean(x * x) - mean**2)


def _local_mean(x: Tensor) -> Tensor:
    radius = 5
    if min(x.shape[-2:]) < 2 * radius + 1:
        raise ValueError(f"ssim needs sides of at least 11, got {tuple(x.shape[-2:])}")
    # sigma 1.5 cut off at 3.5 sigma is the window of radius 5.
    return gaussian_blur(x, 1.5, truncate=3.5)[..., radius:-radius, radius:-radius]


def _similarity(x: _Moments, y: _Moments) -> Tensor:
    """(N,), pair by pair; one image to each of several."""
    covariance = _local_mean(x.x * y.x) - x.mean * y.mean
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    similarity = ((2 * x.mean * y.mean + c1) * (2 * covariance + c2)) / (
        (x.mean**2 + y.mean**2 + c1) * (x.variance + y.variance + c2)
    )
    return similarity.mean(dim=(1, 2, 3))


def all_pairs_psnr(images: Tensor, references: Tensor) -> Tensor:
    """PSNR in dB of each image against each reference: (N, M) float64.

    |x - y|^2 = |x|^2 + |y|^2 - 2 x y, so that it is a matrix product: 1,000 x 1,000 in seconds. Of
    equal images a rounding of float64 may be left, some 150 dB, in place of inf.
    Raises ValueError if a shape differs, a value leaves [-1, 1], or a reference is NaN.
    """
    _check_shapes(images[:1], references[:1])
    _check_range(images, references)
    error = images.new_zeros(len(images), len(references), dtype=torch.float64)
    # Some pixels at a time: float64 copies of both sets would be the largest things in memory.
    for x, y in zip(*(z.flatten(1).split(4096, dim=1) for z in (images, references)), strict=True):
        x, y = x.double(), y.double()
        error += x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
    return 10 * torch.log10(DATA_RANGE**2 * images[0].numel() / error.clamp(min=0))


def all_pairs_ssim(images: Tensor, references: Tensor) -> Tensor:
    """SSIM of each image against each reference: (N, M) float64; raises as `ssim`."""
    _check_shapes(images[:1], references[:1])
    _check_range(images, references)
    # Some references at a time: in float64, with their moments, they are the largest things here.
    return torch.cat([_ssim_to_each(images, some) for some in references.split(16)], dim=1)


def _ssim_to_each(images: Tensor, references: Tensor) -> Tensor:
    moments = _moments(references)
    return torch.stack([_similarity(_moments(image[None]), moments) for image in images])


def lag1_autocorrelation(images: Tensor) -> Tensor:
    """Correlation of neighbouring pixels, (N,) float64; 0 for noise, 1 for a flat image.

    NaN for an image with a NaN.
    """
    x = images.double()
    x = x - x.mean(dim=(2, 3), keepdim=True)
    products = (x[..., 1:] * x[..., :-1]).mean(dim=(1, 2, 3)) + (
        x[..., 1:, :] * x[..., :-1, :]
    ).mean(dim=(1, 2, 3))
    power = x.square().mean(dim=(1, 2, 3))
    return torch.where(power == 0, 1.0, products / 2 / power)


def kid(x: Tensor, y: Tensor) -> Tensor:
    """Kernel inception distance of features (N, D) and (M, D): () float64.

    The unbiased estimate of the squared maximum mean discrepancy under the kernel (x y / D + 1)^3
    (Binkowski et al. 2018, arXiv 1801.01401, section 4); its mean is 0 for two sets of one kind, so
    it may be negative.
    Raises ValueError if D differs, a feature is not finite, or a set has fewer than 2 rows.
    """
    _check_features(x, y, least=2)
    return _kid_of_subsets(x, y, torch.ones(1, len(x)), torch.ones(1, len(y)))[0]


def kid_resamplings(x: Tensor, y: Tensor, *, num: int = 200, generator: torch.Generator) -> Tensor:
    """KID of half of x against half of y, both drawn `num` times: (num,) float64.

    Their mean tends to the KID of the whole sets, and they spread as it does: a mean over half of a
    set, drawn without replacement, has the variance about the mean of the set that this has about
    the truth. (Where KID is near 0 they spread more, up to sqrt(3) times.) Draws with replacement
    would hold pairs of equal rows, and be biased.
    Raises ValueError as `kid`, or if a set has fewer than 4 rows.
    """
    _check_features(x, y, least=4)
    return _kid_of_subsets(x, y, halves(num, len(x), generator), halves(num, len(y), generator))


def halves(num: int, of: int, generator: torch.Generator) -> Tensor:
    """`num` random halves of `of` things, rounded down: (num, of), 1 for what is in it, else 0."""
    order = torch.rand(num, of, generator=generator).argsort(dim=1)
    return torch.zeros(num, of).scatter_(1, order[:, : of // 2], 1.0)


def _kid_of_subsets(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """KID of the rows of x and of y in each subset; (num, N) and (num, M) of 0 and 1 -> (num,).

    The kernel is evaluated once for each pair of rows, and summed by matrix products.
    """
    x, y, in_x, in_y = (z.double() for z in (x, y, in_x, in_y))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(z: Tensor, subsets: Tensor) -> Tensor:
        count = subsets.sum(1)
        pairs = kernel(z, z).fill_diagonal_(0)
        return (subsets @ pairs * subsets).sum(1) / (count * (count - 1))

    between = (in_x @ kernel(x, y) * in_y).sum(1) / (in_x.sum(1) * in_y.sum(1))
    return within(x, in_x) + within(y, in_y) - 2 * between


def nearest_distance(x: Tensor, references: Tensor) -> Tensor:
    """Euclidean distance of each row of x to the nearest reference: (N, D), (M, D) -> (N,) float64.

    The more references, the nearer: compare only values of equally many.
    Raises ValueError if D differs, a feature is not finite, or a set is empty.
    """
    _check_features(x, references, least=1)
    return _distances(x, references).amin(dim=1)


def precision(generated: Tensor, real: Tensor, *, k: int = 3) -> Tensor:
    """The share of `generated` that lies in the manifold of `real`: (N, D), (M, D) -> () float64.

    That manifold is the union of balls around each real row that reach to its k-th nearest other
    (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2); their recall is
    precision(real, generated). It grows with the number of rows: compare only of equally many.
    Raises ValueError if D differs, a feature is not finite, or there are not more than k real rows.
    """
    _check_features(generated, real, least=1)
    _check_features(real, real, least=k + 1)
    # The nearest row of all is the row itself.
    radius = _distances(real, real).kthvalue(k + 1, dim=1).values
    return (_distances(generated, real) <= radius).any(dim=1).double().mean()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # By differences: as a matrix product, the distance of equal rows would not be 0.
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


# The scores of every case ------------------------------------------------------------------------


def in_score_range(images: Tensor, score_range: ScoreRange) -> Tensor:
    """`images` as the published scores compare them with references in [-1, 1].

    "mixed" is the published mistake: they are brought to [0, 1] first.
    """
    return (images + 1) / 2 if score_range == "mixed" else images


def published_psnr(images: Tensor, references: Tensor, scoring: ScoringConfig) -> Tensor:
    """The mean over all pairs: () float64."""
    return all_pairs_psnr(in_score_range(images, scoring.score_range), references).mean()


def published_ssim(images: Tensor, references: Tensor, scoring: ScoringConfig) -> Tensor:
    """The mean over all pairs, rounded to `ssim_digits`: () float64."""
    mean = all_pairs_ssim(in_score_range(images, scoring.score_range), references).mean()
    return mean if scoring.ssim_digits is None else mean.round(decimals=scoring.ssim_digits)


# Of samples, the images that the publication compared them with, and how it did.
GENERATION: Final[dict[str, Callable[[Tensor, Tensor, ScoringConfig], Tensor]]] = {
    "all_pairs_psnr": published_psnr,
    "all_pairs_ssim": published_ssim,
    "lag1_autocorrelation": lambda samples, _references, _scoring: lag1_autocorrelation(samples),
}

# Of restored images and their originals, in pairs.
RESTORATION: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "paired_psnr": psnr,
    "paired_ssim": ssim,
}


@dataclass(frozen=True)
class FeatureSets:
    """The features of samples, training images and held-out images: (N, D), (M, D), (L, D)."""

    samples: Tensor
    training: Tensor
    held_out: Tensor

    @property
    def num_references(self) -> int:
        """How many references each nearest distance is to; the floor takes two such sets."""
        return min(len(self.training), len(self.held_out) // 2)

    def equally_many(self) -> tuple[Tensor, Tensor]:
        """Samples and held-out images."""
        count = min(len(self.samples), len(self.held_out))
        return self.samples[:count], self.held_out[:count]


def _kid_quantile(sets: FeatureSets, q: float) -> Tensor:
    generator = torch.Generator().manual_seed(_RESAMPLING_SEED)
    return kid_resamplings(sets.samples, sets.held_out, generator=generator).quantile(q)


# KID is of held-out images, with no gain from a copy of a training image; it is unbiased, so that
# of few images it compares with that of many. Its interval, of 95 %, is that of one net; between
# nets it takes training seeds. nearest_real is the floor of the other two: unseen real images to as
# many real images.
FEATURE_SCORES: Final[dict[str, Callable[[FeatureSets], Tensor]]] = {
    "kid_efflite0": lambda sets: kid(sets.samples, sets.held_out),
    "kid_efflite0_low": lambda sets: _kid_quantile(sets, 0.025),
    "kid_efflite0_high": lambda sets: _kid_quantile(sets, 0.975),
    "nearest_training_efflite0": lambda sets: nearest_distance(
        sets.samples, sets.training[: sets.num_references]
    ),
    "nearest_held_out_efflite0": lambda sets: nearest_distance(
        sets.samples, sets.held_out[: sets.num_references]
    ),
    "nearest_real_efflite0": lambda sets: nearest_distance(
        sets.held_out[sets.num_references : 2 * sets.num_references],
        sets.held_out[: sets.num_references],
    ).mean(),
    "precision_efflite0": lambda sets: precision(*sets.equally_many()),
    "recall_efflite0": lambda sets: precision(*reversed(sets.equally_many())),
}


def score_generated(
    samples: Tensor, references: Tensor, scoring: ScoringConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """Each score of `GENERATION`, (N,) or () float64, and what to be warned of."""
    scores = {name: score(samples, references, scoring) for name, score in GENERATION.items()}
    return scores, noise_warnings(scores["lag1_autocorrelation"])


def noise_warnings(autocorrelation: Tensor) -> list[str]:
    """Of samples whose lag-1 autocorrelations, (N,), are near those of noise."""
    if not autocorrelation.mean() < NOISE_AUTOCORRELATION:
        return []
    return [f"samples look like noise: mean lag-1 autocorrelation below {NOISE_AUTOCORRELATION}"]


def score_features(sets: FeatureSets) -> dict[str, Tensor]:
    """Each score of `FEATURE_SCORES`, (N,) or () float64; NaN where a sample is not finite.

    Raises ValueError if D differs, a reference is not finite, or there are fewer than
    MIN_FOR_FEATURES samples or held-out images.
    """
    fewest = min(len(sets.samples), len(sets.held_out))
    if fewest < MIN_FOR_FEATURES:
        raise ValueError(f"scores of features need {MIN_FOR_FEATURES} images a set, got {fewest}")
    if not sets.samples.isfinite().all():
        return dict.fromkeys(FEATURE_SCORES, torch.tensor(torch.nan, dtype=torch.float64))
    return {name: score(sets) for name, score in FEATURE_SCORES.items()}


def _check(images: Tensor, references: Tensor) -> None:
    _check_shapes(images, references)
    _check_range(images, references)


def _check_shapes(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.dim() != 4 or not images.numel():
        raise ValueError(
            f"images and references must be alike (N, 3, H, W), N at least 1, got "
            f"{tuple(images.shape)} and {tuple(references.shape)}"
        )


def _check_range(images: Tensor, references: Tensor) -> None:
    """An image with a NaN passes: it has the score NaN."""
    for name, pixels in (("images", images), ("references", references)):
        low, high = pixels.flatten(1).aminmax(dim=1)
        if name == "images":
            low, high = low.nan_to_num(), high.nan_to_num()
        if not ((low >= -1) & (high <= 1)).all():  # refuses NaN too
            raise ValueError(
                f"{name} must be in [-1, 1], got [{low.min().item():.3g}, {high.max().item():.3g}]"
            )


def _check_features(x: Tensor, y: Tensor, *, least: int) -> None:
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features must be (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if min(len(x), len(y)) < least:
        raise ValueError(f"features must have at least {least} rows, got {len(x)} and {len(y)}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinity")
