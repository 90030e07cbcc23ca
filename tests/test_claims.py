"""The word for each claim, where it is known what it should be."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.records import Setting
from bench.verdicts import EQUAL, NOT_DISTINGUISHABLE, NOT_MEASURED, TOO_FEW, WITHHELD
from reports.claims import CLAIMS, Judged, judged_claims
from reports.context import ON_DIP, ON_IMAGES, PER_IMAGE, Report
from reports.load import Loaded, load_run
from reports.publication import PUBLISHED_SETTINGS
from tests.test_report_figures import section, tables_of, text
from tests.test_report_tables import Given, arms_run

PAPER: dict[str, Setting] = {
    **PUBLISHED_SETTINGS, "protocol": "paper", "num_inference_steps": 1000
}  # fmt: skip
LOADERS = {"paper": ("decode", "memory"), "corrected": ("memory", "memory")}
NOISE = 0.05
# What is trained on, and which time: the second of images is a control.
ARMS = (("images", 1), ("images", 2), ("dip", 1))


def planted(
    ratio: float, pairs: int, *, protocol: str = "corrected", control: float = 1.0
) -> Iterator[Given]:
    """Training times with DIP `ratio` times as long, and a control `control` times, each with
    noise of NOISE; the losses are the same."""
    draw = np.random.default_rng(7)
    of_images, of_dip = LOADERS[protocol]
    common: dict[str, Any] = PAPER if protocol == "paper" else {"protocol": protocol}
    for seed in range(pairs):
        level = math.exp(draw.normal(0, 0.2))
        for train_on, loader, repeat, factor in (
            ("images", of_images, 1, 1.0),
            ("images", of_images, 2, control),
            ("dip", of_dip, 1, ratio),
        ):
            settings = {**common, "train_on": train_on, "loader": loader, "seed": seed}
            yield (
                {**settings, "repeat": repeat},
                level * factor * math.exp(draw.normal(0, NOISE)),
                0.5,
            )


def judged(run: Loaded, number: int, protocol: str = "corrected") -> Judged:
    [one] = [
        one
        for one in judged_claims(Report(run))
        if (one.claim.number, one.protocol) == (number, protocol)
    ]
    return one


def on_cuda(run: Loaded) -> Loaded:
    return replace(run, environment=run.environment.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize(
    ("ratio", "replayed", "analogue"),
    [(0.8, "reproduced", "agrees"), (1.0, EQUAL, EQUAL), (1.2, "contradicted", "disagrees")],
)
def test_two_hundred_pairs_tell_faster_equal_and_slower(
    tmp_path: Path, ratio: float, replayed: str, analogue: str
) -> None:
    run = load_run(arms_run(tmp_path / "paper", *planted(ratio, 200, protocol="paper")))
    assert judged(on_cuda(run), 2, "paper").word == replayed
    assert judged(run, 2, "paper").word == analogue  # on another class of device
    assert judged(run, 2, "corrected").word == NOT_MEASURED
    other = load_run(arms_run(tmp_path / "corrected", *planted(ratio, 200)))
    assert judged(on_cuda(other), 2).word == analogue
    assert judged(other, 2, "paper").word == NOT_MEASURED


def test_few_pairs_show_no_equality(tmp_path: Path) -> None:
    six = judged(load_run(arms_run(tmp_path / "six", *planted(1.0, 6))), 2)
    assert six.word == NOT_DISTINGUISHABLE
    assert six.verdict.pairs_needed is not None and six.verdict.pairs_needed > 6
    # Each number of pairs says what it is for.
    said = text(section(tmp_path / "six", "verdicts"))
    in_all = six.verdict.pairs_needed
    assert f"{in_all - 6} more pairs would decide between equality and an effect" in said
    assert "pairs for that interval" in text(section(tmp_path / "six", "planning"))
    assert judged(load_run(arms_run(tmp_path / "five", *planted(1.0, 5))), 2).word == TOO_FEW


def test_what_a_control_shows_too_is_withheld(tmp_path: Path) -> None:
    for control, word in ((1.0, "agrees"), (1.3, WITHHELD), (0.75, WITHHELD)):
        run = load_run(arms_run(tmp_path / f"{control}", *planted(0.8, 50, control=control)))
        assert judged(run, 2).word == word
    said = section(tmp_path / "1.3", "verdicts")
    assert "Withheld Claim 2 under the corrected protocol" in text(said)


def quality_run(path: Path, few: float, many: float, *, more: tuple[Given, ...] = ()) -> Loaded:
    """Six seeds; the loss on DIP outputs is `few` times that on images with 4 of them, and `many`
    times with 8; with twice the epochs it is half."""
    given: list[Given] = []
    for seed in range(6):
        for count, ratio in ((4, few), (8, many)):
            for train_on, repeat in ARMS:
                settings: dict[str, Any] = {
                    "train_on": train_on, "num_images": count, "seed": seed, "repeat": repeat
                }  # fmt: skip
                loss = (0.5 + 0.01 * seed) * (ratio if train_on == "dip" else 1.0)
                given.append((settings, 2.0, loss))
    return load_run(arms_run(path, *given, *more))


def test_claims_of_quality_go_by_the_held_out_loss(tmp_path: Path) -> None:
    as_claimed = quality_run(tmp_path / "as", 0.8, 1.2)
    assert [judged(as_claimed, number).word for number in (1, 3, 4)] == ["agrees"] * 3
    reverse = quality_run(tmp_path / "reverse", 1.2, 0.8)
    assert [judged(reverse, number).word for number in (3, 4)] == ["disagrees"] * 2
    same = quality_run(tmp_path / "same", 1.0, 1.001)
    assert [judged(same, number).word for number in (3, 4)] == [EQUAL] * 2
    measured = judged(as_claimed, 3).measured
    assert measured is not None
    assert measured.contrast == "DIP outputs against images, of 4"
    assert [pair.other / pair.base for pair in measured.pairs] == pytest.approx([0.8] * 6)
    assert judged(as_claimed, 5).word == judged(as_claimed, 6).word == NOT_MEASURED
    assert judged(as_claimed, 7).word == NOT_MEASURED


def test_timesteps_and_schedules(tmp_path: Path) -> None:
    more: list[Given] = []
    for seed in range(6):
        for settings, factor in (
            ({"num_train_timesteps": 500}, 1.3),
            ({"beta_schedule": "squaredcos_cap_v2"}, 0.7),
        ):
            loss = (0.5 + 0.01 * seed) * factor
            more.append(({**settings, "num_images": 4, "seed": seed, "repeat": 1}, 2.0, loss))
    run = quality_run(tmp_path, 1.0, 1.0, more=tuple(more))
    assert [judged(run, number).word for number in (5, 6)] == ["agrees"] * 2
    said = text(section(tmp_path, "verdicts"))
    assert "time halves of claims 5 and 6" in said and "1000 / 500 timesteps" in said


def test_the_priors_share_is_of_all_seconds(tmp_path: Path) -> None:
    """8 s of priors, beside two parts of training, and 0.65 s of all else."""
    for train, share, word in ((2.0, 8 / 12.65, "agrees"), (60.0, 8 / 128.65, "disagrees")):
        given = [
            ({"train_on": "dip", "seed": seed, "repeat": 1}, train + 0.001 * seed, 0.5)
            for seed in range(6)
        ]
        one = judged(load_run(arms_run(tmp_path / word, *given)), 8)
        assert one.word == word
        assert one.measured is not None
        assert one.measured.pairs[0].other == pytest.approx(share, rel=0.01)


def test_the_interval_of_the_priors_share_holds_no_share_below_nothing(tmp_path: Path) -> None:
    """Of three seeds it may be wide: as a difference from 10 % it would end below no seconds."""
    given = [
        ({"train_on": "dip", "seed": seed, "repeat": 1}, train, 0.5)
        for seed, train in enumerate((2.0, 60.0, 3.0))
    ]
    measured = judged(load_run(arms_run(tmp_path, *given)), 8).measured
    assert measured is not None and measured.effect is not None
    shares = np.array([pair.other for pair in measured.pairs])
    differences = scipy_stats.t.interval(0.95, 2, np.mean(shares), scipy_stats.sem(shares))
    assert differences[0] < 0
    logs = np.log(shares / 0.1)
    ends = np.exp(scipy_stats.t.interval(0.95, 2, np.mean(logs), scipy_stats.sem(logs)))
    assert [measured.effect.low, measured.effect.high] == pytest.approx(list(ends))
    said = section(tmp_path, "verdicts")
    [line] = [
        line for line in tables_of(said, "claim")[0] if line[0][0] == "8" and "–" not in line[3]
    ]
    assert "seconds of the priors, against 10.0 % of all: " in line[4]
    # Of each axis the unit of its end.
    drawn = re.findall(r'<svg class="row".*?</svg>', said, flags=re.DOTALL)
    assert drawn
    for one in drawn:
        [end] = re.findall(r"<text[^>]*>([^<]*)</text>", one)
        assert re.fullmatch(r"[\d.]+(×|\xa0dB)", end)


def test_claims_of_one_protocol_are_corrected_together(tmp_path: Path) -> None:
    """p = 0.034 alone decides, and not as one of five."""
    logs = [0.05 + 0.0685 * sign for sign in (1, -1, 1, -1, 1, -1)]
    given: list[Given] = []
    for seed, log in enumerate(logs):
        for count in (4, 8):
            for train_on, repeat in ARMS:
                factor = math.exp(log) if train_on == "dip" else 1.0
                settings: dict[str, Any] = {
                    "train_on": train_on, "num_images": count, "seed": seed, "repeat": repeat
                }  # fmt: skip
                # Losses that differ by chance alone.
                loss = 0.5 * (math.exp(0.2 * logs[seed - 1] / 0.05) if train_on == "dip" else 1.0)
                given.append((settings, 2.0 * factor, loss))
    run = load_run(arms_run(tmp_path, *given))
    report = Report(run)
    one = judged(run, 2)
    assert one.measured is not None and one.measured.p == pytest.approx(0.034, abs=0.003)
    assert report.judge(PER_IMAGE, ON_IMAGES, ON_DIP).word == "longer"
    assert one.word == NOT_DISTINGUISHABLE


def test_what_the_publication_had_is_from_its_table() -> None:
    said = {
        claim.number: claim.published_words.replace("\N{NO-BREAK SPACE}", " ") for claim in CLAIMS
    }
    assert said[1] == "+0.197 dB (1 pair, no interval)"
    assert said[2].startswith("−12.4 % (6 pairs, 95 % interval")
    assert said[3] == "+0.744 dB (2 pairs, no interval)"
    assert said[4] == "−0.514 dB (2 pairs, no interval)"
    assert said[5] == "−0.0952 dB (4 pairs, no interval)"
    assert said[6] == "+0.186 dB (2 pairs, no interval)"
    assert [claim.number for claim in CLAIMS] == list(range(1, 9))


def test_the_table_has_every_claim_twice_and_the_command_for_what_is_missing(
    tmp_path: Path,
) -> None:
    quality_run(tmp_path, 0.8, 1.2)
    said = section(tmp_path, "verdicts")
    rows = tables_of(said, "claim")[0]
    assert len(rows) == 16
    by_claim = {(line[0][0], line[2].split(",")[0]): line for line in rows}
    assert by_claim["3", "corrected"][1] == "✓ agrees"
    assert by_claim["3", "corrected"][2] == "corrected, analogue"
    assert "of 4: −20.0 %" in by_claim["3", "corrected"][4]
    assert by_claim["7", "paper"][6] == "python -m bench run restoration-cpu measures it"
    assert "Measured of the eight claims: 5; under" in text(said)
