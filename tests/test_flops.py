"""Exact, against counts by hand: from the shapes of layers, a multiply-add as two operations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import flops
from bench.baselines import fit_by_paper_loop
from bench.extents import bound
from dipddpm.config import (
    Context,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.dip import fit_priors, learn_initialisation
from dipddpm.features import extract_features
from dipddpm.images import ImageSet
from dipddpm.sampling import sample
from dipddpm.scoring import score_net, score_restoration
from dipddpm.training import train_ddpm

PIXELS = 8 * 8


def conv(c_in: int, c_out: int, kernel: int, pixels: int = PIXELS) -> int:
    return 2 * c_in * c_out * kernel**2 * pixels


def linear(n_in: int, n_out: int, rows: int = 1) -> int:
    return 2 * n_in * n_out * rows


def test_of_the_published_prior() -> None:
    first, middle, last = conv(3, 64, 3), conv(64, 64, 3), conv(64, 3, 3)
    forward = first + middle + last
    # Back: for the weights as much as forward, for the input as much again; the first layer's
    # input is no weight and asks for no gradient.
    there_and_back = 3 * forward - first
    assert flops.of_prior(DIPConfig(), 8) == (forward, there_and_back)
    assert flops.of_prior(DIPConfig(), 16) == (4 * forward, 4 * there_and_back)


def test_of_the_hourglass_its_shrinking_layers_included() -> None:
    dip = DIPConfig(net="skip", skip_levels=1, skip_channels=8)
    quarter = PIXELS // 4
    pass_by, down = conv(32, 4, 1), conv(32, 8, 3, quarter)
    rest = conv(8, 8, 3, quarter) + conv(12, 8, 3) + conv(8, 8, 1) + conv(8, 3, 1)
    both = 2 * (pass_by + down) + 3 * rest
    assert flops.of_prior(dip, 8) == (pass_by + down + rest, both)


def resnet(c_in: int, c_out: int, embedding: int) -> int:
    """Two convolutions, the projection of the time, and a shortcut where the channels differ."""
    shortcut = conv(c_in, c_out, 1) if c_in != c_out else 0
    return conv(c_in, c_out, 3) + linear(embedding, c_out) + conv(c_out, c_out, 3) + shortcut


def attention(channels: int, tokens: int) -> int:
    """Query, key, value and output; the scores of all pairs of tokens, and the sums by them."""
    return 4 * linear(channels, channels, tokens) + 2 * linear(channels, tokens, tokens)


def smallest_unet(in_channels: int = 3) -> tuple[int, int]:
    """One level of 8 channels at 8 px: forward, and of it the layers whose input (the image, the
    time) asks for no gradient."""
    c, embedding = 8, 4 * 8
    first = conv(in_channels, c, 3)
    time = linear(c, embedding)
    forward = (
        first + time + linear(embedding, embedding)
        + resnet(c, c, embedding)  # down
        + resnet(c, c, embedding) + attention(c, PIXELS) + resnet(c, c, embedding)  # middle
        # Up: joined with what left the down block, then with what entered it.
        + 2 * resnet(2 * c, c, embedding)
        + conv(c, 3, 3)
    )  # fmt: skip
    return forward, first + time


UNET = UNetConfig(block_out_channels=(8,), layers_per_block=1, attention_levels=())


def test_of_the_smallest_unet_and_of_its_way_back() -> None:
    for in_channels in (3, 6):
        forward, without_gradient = smallest_unet(in_channels)
        expected = forward, 3 * forward - without_gradient
        assert flops.of_unet(UNET, 8, in_channels) == expected


def test_nothing_is_computed() -> None:
    unet = UNetConfig(block_out_channels=(512, 512, 512))
    before = torch.get_rng_state()
    assert flops.of_unet(unet, 256)[1] > 1e12
    assert torch.equal(torch.get_rng_state(), before)


# Whole stages ----------------------------------------------------------------------------------


SIZE, SCHEDULE, CONTEXT = 16, NoiseScheduleConfig(), Context()
TWO_LEVELS = UNetConfig(block_out_channels=(8, 16), attention_levels=(1,))


def images(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(count)
    return ImageSet(torch.rand(count, 3, SIZE, SIZE, generator=generator) * 2 - 1)


def assert_counted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Compares with torch's counter around the call itself, with attention that it sees there."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = function(*args, **kwargs)
    assert counter.get_total_flops() > 0
    assert flops.of_stage(function, bound(function, args, kwargs)) == counter.get_total_flops()
    return result


@pytest.mark.parametrize("condition", [None, images(7)], ids=["3 channels", "6 channels"])
def test_of_a_training_and_of_what_asks_its_net(condition: ImageSet | None) -> None:
    # Batches of 4 and of 3; the second training goes on from the first.
    training, given = TrainingConfig(batch_size=4), {"condition": condition}
    shared = (SIZE, TWO_LEVELS, SCHEDULE)
    trained = None
    for epochs in (1, 3):
        trained = assert_counted(
            train_ddpm, images(7), *shared, training, CONTEXT, loading=LoaderConfig(),
            epochs=epochs, resume_from=trained, **given,
        )  # fmt: skip
    sampling = SamplingConfig(num_inference_steps=3, num_samples=5)
    for sampler in ("ddpm", "dpmsolver++"):
        assert_counted(
            sample, trained, None, *shared, replace(sampling, sampler=sampler), CONTEXT, **given
        )
    assert_counted(score_net, trained, images(7), *shared, CONTEXT, **given)
    without = bound(score_net, (trained, None, *shared, CONTEXT), given)
    assert flops.of_stage(score_net, without) == 0


@pytest.mark.parametrize(
    "dip",
    [
        DIPConfig(num_iter=3),
        DIPConfig(num_iter=2, reg_noise_std=0.1, net_input="shared", net="skip", skip_levels=2),
    ],
    ids=lambda dip: dip.net,
)
def test_of_a_fit(dip: DIPConfig) -> None:
    assert_counted(fit_priors, images(1), dip, CONTEXT)
    one, five = (
        flops.of_stage(fit_priors, bound(fit_priors, (images(n), dip, CONTEXT), {})) for n in (1, 5)
    )
    assert one is not None and five == 5 * one


# One net at a time: of grouped convolutions the counter sees too much on the way back.
@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize(
    "dip",
    [
        DIPConfig(num_iter=130, early_stopping="es_wmv", es_window=2, es_patience=1),
        DIPConfig(num_iter=130, early_stopping="es_wmv", es_window=2, es_patience=1000),
        DIPConfig(num_iter=60, early_stopping="psnr", es_psnr=10.0),
        DIPConfig(num_iter=60, early_stopping="psnr", es_psnr=99.0),
    ],
    ids=lambda dip: f"{dip.early_stopping} {dip.es_patience} {dip.es_psnr}",
)
def test_of_a_fit_that_its_criterion_may_stop(dip: DIPConfig, num_images: int) -> None:
    dip = replace(dip, backend="loop")
    with FlopCounterMode(display=False) as counter:
        made = fit_priors(images(num_images), dip, CONTEXT)
    given = bound(fit_priors, (images(num_images), dip, CONTEXT), {})
    known = flops.of_stage(fit_priors, given, result=made)
    assert known == counter.get_total_flops()
    at_most = flops.of_stage(fit_priors, given)
    assert at_most is not None and known is not None
    assert (at_most > known) is (dip.es_patience == 1 or dip.es_psnr == 10.0)


def test_of_a_learned_start() -> None:
    assert_counted(learn_initialisation, images(1), DIPConfig(warm_start_iter=3), CONTEXT)


@pytest.mark.parametrize("stop", ["none", "psnr"])
def test_of_the_loop_of_the_paper(stop: Any) -> None:
    dip = DIPConfig(num_iter=9, early_stopping=stop, es_psnr=10.0)
    with FlopCounterMode(display=False) as counter:
        made = fit_by_paper_loop(images(2), dip, CONTEXT)
    given = bound(fit_by_paper_loop, (images(2), dip, CONTEXT), {})
    assert flops.of_stage(fit_by_paper_loop, given, result=made) == counter.get_total_flops()
    assert (made.spent_iters < 9).any() == (stop == "psnr")


def test_what_one_process_counted_another_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = UNetConfig(block_out_channels=(8,), attention_levels=(), norm_num_groups=4)
    counted = flops.of_unet(unet, 16), flops.of_prior(DIPConfig(), 16)

    def of_another_process(file: str) -> tuple[tuple[int, int], tuple[int, int]]:
        monkeypatch.setattr(flops, "_kept", flops._Kept())
        flops.keep_in(tmp_path / file)
        return flops.of_unet(unet, 16), flops.of_prior(DIPConfig(num_iter=7), 16)

    assert of_another_process("counts.json") == counted
    kept = json.loads((tmp_path / "counts.json").read_text())
    assert sorted(map(tuple, kept.values())) == sorted(counted)
    (tmp_path / "told.json").write_text(json.dumps({name: [1, 2] for name in kept}))
    assert of_another_process("told.json") == ((1, 2), (1, 2))  # it was read, not counted
    for garbage in ("", "[]", '{"a": 1}', '{"a": ["x", 1]}', "\0"):
        (tmp_path / "broken.json").write_text(garbage)
        assert of_another_process("broken.json") == counted
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "broken.json", "counts.json", "told.json"
    ]  # fmt: skip


def test_of_features() -> None:
    assert_counted(extract_features, images(3), CONTEXT)


def test_of_a_stage_without_a_net_nothing_is_known() -> None:
    given = {"samples": images(2), "originals": images(2), "degraded": images(2)}
    assert flops.of_stage(score_restoration, given) is None
