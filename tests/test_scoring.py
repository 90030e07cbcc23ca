from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dipddpm import metrics, scoring
from dipddpm.config import (
    LOG_SNR_LEVELS,
    BetaSchedule,
    Context,
    DIPConfig,
    NoiseScheduleConfig,
    PredictionType,
    ScoringConfig,
    UNetConfig,
    alphas_cumprod,
    nearest_timestep,
)
from dipddpm.diffusion import build_unet
from dipddpm.dip import fit_priors
from dipddpm.features import Features
from dipddpm.images import ImageSet, prepare, take
from dipddpm.sampling import Samples
from dipddpm.scoring import (
    score_anchors,
    score_features,
    score_generation,
    score_net,
    score_priors,
    score_restoration,
    score_start,
)
from dipddpm.sources import ImageSource
from dipddpm.training import TrainedNet
from tests.recording import same
from tests.reference import peak_signal_noise_ratio, skimage_ssim, uniform

COMMON, PUBLISHED = ScoringConfig(), ScoringConfig(score_range="mixed", ssim_digits=3)


def test_anchors_in_closed_form(objects: ImageSource) -> None:
    references = prepare(objects.train[:16], 16)
    held_out = prepare(objects.held_out[:5], 16)
    values = score_anchors(references, held_out, COMMON, Context()).values
    x = references.pixels.double()

    def db(level: Tensor | float) -> float:
        """Of one image against each reference, the mean of the 16 values in dB."""
        return float((10 * torch.log10(4 / (x - level).square().mean(dim=(1, 2, 3)))).mean())

    colour = x.mean(dim=(0, 2, 3)).view(3, 1, 1)
    levels: dict[str, Tensor | float]
    levels = {"grey": 0.0, "white": 1.0, "black": -1.0, "mean_colour": colour}
    for name, level in levels.items():
        assert values[f"anchor_{name}_psnr"] == pytest.approx(db(level), abs=1e-5), name
    assert values["anchor_mean_image_psnr"] == pytest.approx(db(x.mean(0)), abs=1e-5)
    held_out_db = [db(image) for image in held_out.pixels.double()]
    assert values["anchor_held_out_real_psnr"] == pytest.approx(np.mean(held_out_db), abs=1e-9)
    # The order that makes the score worthless as a measure of quality: no sample at all beats
    # real images.
    assert values["anchor_mean_image_psnr"] > values["anchor_mean_colour_psnr"]
    assert values["anchor_white_psnr"] > values["anchor_held_out_real_psnr"]
    assert values["anchor_held_out_real_psnr"] > values["anchor_noise_psnr"]
    grey = [skimage_ssim(torch.zeros(3, 16, 16), image) for image in references.pixels]
    assert values["anchor_grey_ssim"] == pytest.approx(np.mean(grey), abs=1e-12)
    assert len(values) == 14


def published_by_hand(images: Tensor, references: Tensor) -> tuple[float, float]:
    """All-pairs PSNR and SSIM as the publication took them, pair by pair."""
    pairs = [((x + 1) / 2, y) for x in images for y in references]
    return (
        np.mean([peak_signal_noise_ratio(y.double().numpy(), x.double().numpy(), data_range=2)
                 for x, y in pairs]).item(),
        round(np.mean([skimage_ssim(x, y) for x, y in pairs]).item(), 3),
    )  # fmt: skip


def test_the_published_flaws_are_those_of_the_publication(objects: ImageSource) -> None:
    references, held_out = prepare(objects.train[:6], 16), prepare(objects.held_out[:3], 16)
    anchors = score_anchors(references, held_out, PUBLISHED, Context()).values
    # A pixel-perfect copy of the references, as samples and as an anchor.
    copies = score_generation(Samples(references.pixels), references, PUBLISHED).values
    for images, values, names in (
        (references.pixels, copies, ("all_pairs_psnr", "all_pairs_ssim")),
        (references.pixels, anchors, ("anchor_copies_psnr", "anchor_copies_ssim")),
        (held_out.pixels, anchors, ("anchor_held_out_real_psnr", "anchor_held_out_real_ssim")),
    ):
        psnr, ssim = published_by_hand(images, references.pixels)
        assert values[names[0]] == pytest.approx(psnr, abs=1e-5)
        assert values[names[1]] == ssim
    # The closed form of a flat image: the mistake leaves white, and makes black grey.
    corrected = score_anchors(references, held_out, COMMON, Context()).values
    assert anchors["anchor_white_psnr"] == corrected["anchor_white_psnr"]
    assert anchors["anchor_black_psnr"] == corrected["anchor_grey_psnr"]
    # In one range a copy has no finite PSNR, and its mean no meaning.
    assert anchors.keys() - corrected.keys() == {"anchor_copies_psnr", "anchor_copies_ssim"}


@pytest.mark.parametrize("digits", [0, 2, None])
def test_ssim_is_rounded_to_the_digits_asked_for(objects16: ImageSet, digits: int | None) -> None:
    config, samples = ScoringConfig(ssim_digits=digits), Samples(objects16.pixels[:3])
    exact = score_generation(samples, objects16, COMMON).values["all_pairs_ssim"]
    got = score_generation(samples, objects16, config).values["all_pairs_ssim"]
    assert got == (exact if digits is None else round(exact, digits))


@pytest.mark.parametrize("total", [50, 500, 1000])
@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("log_snr", [*LOG_SNR_LEVELS, -100.0, 100.0, 0.123])
def test_nearest_timestep_by_brute_force(total: int, kind: BetaSchedule, log_snr: float) -> None:
    schedule = NoiseScheduleConfig(num_train_timesteps=total, beta_schedule=kind)
    abar = np.array(alphas_cumprod(schedule))
    distance = np.abs(np.log(abar) - np.log1p(-abar) - log_snr)
    assert distance[nearest_timestep(log_snr, schedule)] == pytest.approx(distance.min(), abs=1e-9)


@pytest.fixture(scope="module")
def untrained(tiny_unet: UNetConfig) -> TrainedNet:
    """Weights of one seed, an average of another: a mix-up shows. Three epochs of two steps."""
    weights, ema = (dict(build_unet(tiny_unet, 16, seed).state_dict()) for seed in (1, 2))
    return TrainedNet(3, weights, ema, {}, torch.tensor([9.0, 8, 7, 6, 2, 1]))


def abar_at(log_snr: float) -> float:
    return 1 / (1 + math.exp(-log_snr))


def net_inputs(
    trained: TrainedNet,
    images: ImageSet,
    unet: UNetConfig,
    schedule: NoiseScheduleConfig,
    *,
    seed: int = 5,
) -> list[tuple[Tensor, int]]:
    """(x_t, t) of each level of `score_net`, as the net was given them."""
    seen: dict[int, list[Tensor]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, UNet2DModel):
            seen.setdefault(int(args[1]), []).append(args[0].double())

    hook = register_module_forward_pre_hook(keep)
    try:
        score_net(trained, images, 16, unet, schedule, Context(seed=seed))
    finally:
        hook.remove()
    return [(torch.cat(batches), t) for t, batches in seen.items()]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_held_out_loss_is_a_plain_loop(
    objects: ImageSource,
    tiny_unet: UNetConfig,
    untrained: TrainedNet,
    prediction_type: PredictionType,
) -> None:
    held_out = prepare(objects.held_out[:18], 16)  # more than one batch of 16
    schedule = NoiseScheduleConfig(prediction_type=prediction_type)
    scores = score_net(untrained, held_out, 16, tiny_unet, schedule, Context(seed=5))
    model = build_unet(tiny_unet, 16, 2).eval()
    eps_losses = []
    inputs = net_inputs(untrained, held_out, tiny_unet, schedule)
    for level, (noisy, t) in zip(LOG_SNR_LEVELS, inputs, strict=True):
        assert t == nearest_timestep(level, schedule)
        # The level itself, not that of the timestep.
        a, b = math.sqrt(abar_at(level)), math.sqrt(1 - abar_at(level))
        eps_errors, x0_errors = [], []
        for x_0, x_t in zip(held_out.pixels.double(), noisy, strict=True):
            noise = (x_t - a * x_0) / b
            with torch.no_grad():
                eps = model(x_t[None].float(), t).sample[0].double()
            if prediction_type == "v_prediction":
                eps = b * x_t + a * eps
            eps_errors.append((eps - noise).square().mean().item())
            x0_errors.append(((x_t - b * eps) / a - x_0).square().mean().item())
        # Convolutions in batches of 16 round as those of one image to 1e-6 or so.
        got = scores.values
        assert got[f"eps_loss_at_log_snr_{level:g}"] == pytest.approx(np.mean(eps_errors), rel=1e-5)
        assert got[f"x0_loss_at_log_snr_{level:g}"] == pytest.approx(np.mean(x0_errors), rel=1e-5)
        if level != -6:  # 500 linear steps do not reach it
            eps_losses.append(eps_errors)
    per_image = np.mean(eps_losses, axis=0)
    assert np.allclose(scores.per_image["eps_loss"].numpy(), per_image, rtol=1e-5)
    assert scores.values["eps_loss"] == pytest.approx(per_image.mean(), rel=1e-5)
    assert scores.values["train_loss_last_epoch"] == 1.5
    assert len(scores.values) == 12


class Exact(nn.Module):
    """Knows the images and the levels, and so the noise in x_t and the v of both."""

    def __init__(self, clean: Tensor, schedule: NoiseScheduleConfig) -> None:
        super().__init__()
        self.clean, self.schedule = clean, schedule
        self.level_of = {nearest_timestep(level, schedule): level for level in LOG_SNR_LEVELS}

    def forward(self, x: Tensor, t: int) -> SimpleNamespace:
        abar = abar_at(self.level_of[t])
        a, b = math.sqrt(abar), math.sqrt(1 - abar)
        noise = (x.double() - a * self.clean) / b
        exact = noise if self.schedule.prediction_type == "epsilon" else a * noise - b * self.clean
        return SimpleNamespace(sample=exact.float())


@pytest.mark.parametrize(
    ("prediction_type", "rescaled"),
    [("epsilon", False), ("v_prediction", False), ("v_prediction", True)],
)
def test_an_exact_net_has_no_held_out_loss(
    objects: ImageSource,
    tiny_unet: UNetConfig,
    monkeypatch: pytest.MonkeyPatch,
    prediction_type: PredictionType,
    rescaled: bool,
) -> None:
    schedule = NoiseScheduleConfig(prediction_type=prediction_type, rescale_betas_zero_snr=rescaled)
    held_out = prepare(objects.held_out[:4], 16)
    net = Exact(held_out.pixels.double(), schedule)
    monkeypatch.setattr(scoring, "load_unet", lambda *args, **kwargs: net)
    exact = TrainedNet(1, {}, {}, {}, torch.ones(2))
    values = score_net(exact, held_out, 16, tiny_unet, schedule, Context()).values
    losses = [value for name, value in values.items() if "_loss_at" in name]
    assert len(losses) == 10
    assert max(losses) < 1e-8


class Half(nn.Module):
    """Takes half of what it sees for noise, whatever it is told."""

    def forward(self, x: Tensor, t: int) -> SimpleNamespace:
        return SimpleNamespace(sample=x / 2)


def test_a_net_that_heeds_no_timestep_has_one_loss_on_all_schedules(
    objects: ImageSource, tiny_unet: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = prepare(objects.held_out[:4], 16)
    monkeypatch.setattr(scoring, "load_unet", lambda *args, **kwargs: Half())
    net = TrainedNet(1, {}, {}, {}, torch.ones(2))
    schedules = [
        NoiseScheduleConfig(),
        NoiseScheduleConfig(beta_schedule="squaredcos_cap_v2"),
        NoiseScheduleConfig(num_train_timesteps=500),
        NoiseScheduleConfig(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2"),
    ]
    first, *others = (
        score_net(net, held_out, 16, tiny_unet, schedule, Context()).values
        for schedule in schedules
    )
    for values in others:
        assert len(values) >= 10  # all levels, or all but one
        assert values == {name: first[name] for name in values}


def test_a_net_is_scored_with_the_condition_it_is_given(
    objects: ImageSource, tiny_unet: UNetConfig
) -> None:
    held_out, other = prepare(objects.held_out[:18], 16), prepare(objects.train[:18], 16)
    weights = dict(build_unet(tiny_unet, 16, 1, in_channels=6).state_dict())
    net = TrainedNet(1, weights, weights, {}, torch.ones(2))

    def loss(condition: ImageSet) -> Tensor:
        scores = score_net(
            net, held_out, 16, tiny_unet, NoiseScheduleConfig(), Context(), condition=condition
        )
        return scores.per_image["eps_loss"]

    both = ImageSet(torch.cat((held_out.pixels[:9], other.pixels[9:])))
    ours, theirs, mixed = loss(held_out), loss(other), loss(both)
    assert not torch.isclose(ours, theirs, rtol=1e-4).any()
    # Each image has its own, beside it.
    assert torch.allclose(mixed, torch.cat((ours[:9], theirs[9:])), rtol=1e-6)


def test_without_held_out_images_there_is_the_training_loss(
    tiny_unet: UNetConfig, untrained: TrainedNet
) -> None:
    scores = score_net(untrained, None, 16, tiny_unet, NoiseScheduleConfig(), Context())
    assert (scores.values, scores.per_image) == ({"train_loss_last_epoch": 1.5}, {})


def test_a_level_that_is_not_reached_has_no_score(
    objects: ImageSource, tiny_unet: UNetConfig, untrained: TrainedNet
) -> None:
    held_out = prepare(objects.held_out[:4], 16)

    def scores(total: int) -> dict[str, float]:
        schedule = NoiseScheduleConfig(num_train_timesteps=total)
        return score_net(untrained, held_out, 16, tiny_unet, schedule, Context()).values

    assert set(scores(1000)) - set(scores(500)) == {
        "eps_loss_at_log_snr_-6",
        "x0_loss_at_log_snr_-6",
    }
    # 50 linear steps miss -3 and 0 too: their mean is read elsewhere, of which the config warns.
    few = scores(50)
    assert {name for name in few if name.startswith("eps_loss_at")} == {
        "eps_loss_at_log_snr_3",
        "eps_loss_at_log_snr_6",
    }
    assert few["eps_loss"] > 0


def test_schedules_compare_on_the_same_noise(
    objects: ImageSource, tiny_unet: UNetConfig, untrained: TrainedNet
) -> None:
    held_out = prepare(objects.held_out[:8], 16)

    def seen(schedule: NoiseScheduleConfig, seed: int) -> Tensor:
        """x_t at each level."""
        inputs = net_inputs(untrained, held_out, tiny_unet, schedule, seed=seed)
        return torch.stack([x for x, _ in inputs])

    x_t = seen(NoiseScheduleConfig(), 5)
    for other in (
        NoiseScheduleConfig(num_train_timesteps=500),
        NoiseScheduleConfig(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2"),
    ):
        assert torch.equal(seen(other, 5), x_t)
    levels = torch.tensor([abar_at(level) for level in LOG_SNR_LEVELS]).view(-1, 1, 1, 1, 1)
    noise = (x_t - levels.sqrt() * held_out.pixels) / (1 - levels).sqrt()
    # Five levels of 6,144 draws each: standard errors of 0.013 and 0.009; and no level repeats one.
    assert noise.mean(dim=(1, 2, 3, 4)).abs().max() < 0.065
    assert (noise.std(dim=(1, 2, 3, 4)) - 1).abs().max() < 0.045
    assert torch.corrcoef(noise.flatten(1)).triu(1).abs().max() < 0.065
    # Nor does another seed.
    again = (seen(NoiseScheduleConfig(), 6) - levels.sqrt() * held_out.pixels) / (1 - levels).sqrt()
    both = torch.cat((noise.flatten(1), again.flatten(1)))
    assert torch.corrcoef(both).triu(1).abs().max() < 0.065


def test_scoring_leaves_the_net_as_it_was(
    objects: ImageSource, tiny_unet: UNetConfig, untrained: TrainedNet
) -> None:
    kept = copy.deepcopy(untrained)
    held_out = prepare(objects.held_out[:2], 16)
    score_net(untrained, held_out, 16, tiny_unet, NoiseScheduleConfig(), Context())
    assert same(untrained, kept)


@pytest.mark.parametrize("size", [16, 14])
def test_the_held_out_loss_of_an_image_does_not_depend_on_the_others(
    size: int,
    objects: ImageSource,
    tiny_unet: UNetConfig,
    tiny_schedule: NoiseScheduleConfig,
    untrained: TrainedNet,
) -> None:
    many = prepare(objects.held_out[:7], size)
    more, fewer = (
        score_net(untrained, images, size, tiny_unet, tiny_schedule, Context()).per_image[
            "eps_loss"
        ]
        for images in (many, take(many, 0, 3))
    )
    assert torch.allclose(more[:3], fewer, rtol=1e-6)


def test_the_scores_of_a_generation_are_means_over_all_pairs(objects16: ImageSet) -> None:
    references = take(objects16, 0, 4)
    samples = Samples(uniform(3, 3, 16, 16))
    scores = score_generation(samples, references, COMMON)
    table = [[skimage_ssim(x, y) for y in references.pixels] for x in samples.images]
    assert scores.values["all_pairs_ssim"] == pytest.approx(np.mean(table), abs=1e-12)
    values = [
        peak_signal_noise_ratio(y.double().numpy(), x.double().numpy(), data_range=2)
        for x in samples.images
        for y in references.pixels
    ]
    assert scores.values["all_pairs_psnr"] == pytest.approx(np.mean(values), abs=1e-9)
    assert scores.per_image["lag1_autocorrelation"].shape == (3,)
    [warning] = scores.warnings
    assert "look like noise" in warning
    assert score_generation(Samples(references.pixels), references, COMMON).warnings == ()


def test_the_scores_of_a_restoration_are_of_each_image_and_its_own_original(
    objects16: ImageSet,
) -> None:
    originals = take(objects16, 0, 5)
    degraded = ImageSet(originals.pixels + 0.3 * uniform(5, 3, 16, 16))
    samples = Samples((originals.pixels[:3] + 0.1 * uniform(3, 3, 16, 16, seed=1)).clamp(-1, 1))
    scores = score_restoration(samples, originals, degraded)
    for i in range(3):
        own = originals.pixels[i].double().numpy()
        restored, input_ = samples.images[i].double().numpy(), degraded.pixels[i].double().numpy()
        assert scores.per_image["paired_psnr"][i].item() == pytest.approx(
            peak_signal_noise_ratio(own, restored, data_range=2), abs=1e-9
        )
        assert scores.per_image["degraded_psnr"][i].item() == pytest.approx(
            peak_signal_noise_ratio(own, input_.clip(-1, 1), data_range=2), abs=1e-9
        )
        assert scores.per_image["paired_ssim"][i].item() == pytest.approx(
            skimage_ssim(samples.images[i], originals.pixels[i]), abs=1e-12
        )
    for name, values in scores.per_image.items():
        assert scores.values[name] == pytest.approx(values.mean().item(), abs=1e-12)
        assert len(values) == 3


def test_scores_of_features_are_those_of_the_metrics() -> None:
    # Three sets that any exchange would show.
    sets = [0.3 * i + uniform(100 + i, 6, seed=i) for i in range(3)]
    samples, training, held_out = sets
    scores = score_features(*map(Features, sets))
    expected = metrics.score_features(metrics.FeatureSets(samples, training, held_out))
    assert scores.values == {name: value.mean().item() for name, value in expected.items()}
    kid = metrics.kid(samples, held_out).item()
    assert scores.values["kid_efflite0"] == kid
    assert scores.values["kid_efflite0_low"] < kid < scores.values["kid_efflite0_high"]
    for name, references in (("training", training), ("held_out", held_out)):
        nearest = metrics.nearest_distance(samples, references[:51])
        assert torch.equal(scores.per_image[f"nearest_{name}_efflite0"], nearest)


def test_scores_of_priors_are_of_all_their_images(objects16: ImageSet) -> None:
    dip = DIPConfig(num_iter=3)
    fits = [fit_priors(take(objects16, *part), dip, Context()) for part in ((0, 2), (2, 5))]
    scores = score_priors(*fits, of="start")
    assert {name.removeprefix("start_prior_") for name in scores.values} == {
        *("psnr_peak", "psnr_stop", "psnr_last", "output_iteration", "iterations")
    }
    outputs = torch.cat([fit.outputs for fit in fits])
    for i, (output, image) in enumerate(zip(outputs, objects16.pixels, strict=False)):
        expected = peak_signal_noise_ratio(
            image.double().numpy(), output.double().numpy(), data_range=2
        )
        got = scores.per_image["start_prior_psnr_stop"][i].item()
        assert got == pytest.approx(expected, abs=1e-4)
    assert scores.values["start_prior_iterations"] == 3
    psnr = scores.per_image["start_prior_psnr_stop"]
    assert scores.values["start_prior_psnr_stop"] == pytest.approx(psnr.mean().item())
    assert (scores.per_image["start_prior_psnr_peak"] >= psnr).all()


def test_starts_that_are_training_images_are_counted(objects16: ImageSet) -> None:
    training = take(objects16, 0, 6)
    moved = take(objects16, 1, 2).pixels + 1e-6
    start = ImageSet(torch.cat((objects16.pixels[4:8], moved, objects16.pixels[4:5])))
    scores = score_start(start, training)
    assert scores.values == {"start_copies": 3}
    assert scores.warnings == ("3 of 6 start images are images of the training set",)
    clean = score_start(take(objects16, 6, 9), training)
    assert (clean.values, clean.warnings) == ({"start_copies": 0}, ())
