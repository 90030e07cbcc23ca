"""Operations from settings alone, against those that are counted."""

from __future__ import annotations

import pytest

from bench import dryrun, effort, flops, suite
from bench.units import plan_units
from dipddpm.config import DIPConfig, UNetConfig


@pytest.mark.parametrize(
    ("unet", "image_size"),
    [
        (UNetConfig(), 32),
        (UNetConfig(block_out_channels=(8, 16), attention_levels=(), norm_num_groups=4), 16),
        (
            UNetConfig(
                block_out_channels=(32, 32, 64, 128),
                layers_per_block=2,
                attention_levels=(1, 3),
                norm_num_groups=32,
            ),
            64,
        ),
    ],
)
def test_a_unet(unet: UNetConfig, image_size: int) -> None:
    counted, _ = flops.of_unet(unet, image_size)
    assert effort.of_unet(unet, image_size) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
    ("dip", "image_size", "within"),
    [
        (DIPConfig(), 32, 1e-9),
        (DIPConfig(net="skip", skip_levels=3, skip_channels=32), 32, 0.3),
        (DIPConfig(net="skip"), 128, 0.3),
    ],
)
def test_a_prior(dip: DIPConfig, image_size: int, within: float) -> None:
    counted, _ = flops.of_prior(dip, image_size)
    assert effort.of_prior(dip, image_size) == pytest.approx(counted, rel=within)


@pytest.mark.parametrize(("name", "factor"), [("quick", 1.2), ("speed-cpu", 2.5)])
def test_units(name: str, factor: float) -> None:
    """To a fifth; of contests, whose plain paths and second nets it leaves out, about."""
    units = plan_units(suite.load(name), seed=0, device="cpu")
    booked = dryrun.book(units)
    seen = 0
    for spec in units:
        if spec.num_steps:
            counted = booked.flops(booked.by_unit[spec.unit])
            assert counted
            assert 1 / factor < effort.of_unit(spec) / counted < factor
            seen += 1
    assert seen > 5


def test_what_has_no_steps_takes_nothing_and_unknown_settings_neither() -> None:
    units = plan_units(suite.load("quick"), seed=0, device="cpu")
    [profile] = [spec for spec in units if spec.kind == "profile"]
    assert effort.of_unit(profile) == 0.0
    [case, *_] = units[0].cases
    for settings in ({}, {**case.settings, "num_iter": 0}):
        changed = units[0].model_copy(
            update={"cases": (case.model_copy(update={"settings": settings}),)}
        )
        assert effort.of_unit(changed) == 0.0
