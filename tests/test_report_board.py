"""The board: who is how fast, against sums done by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports.context import EPS_LOSS, KID, Report
from reports.load import load_run
from reports.pairs import Quantity
from reports.sections.board import Entry, _seeds_cell, board_of, entries_of
from reports.tables import Outcome
from tests.test_report_figures import section, tables_of, text
from tests.test_report_tables import Folder, case, generation, row

# An entry: its settings, seconds of each of two milestones, losses after each, KIDs after each.
Planted = tuple[dict[str, Any], float, tuple[float, float], tuple[float, float]]
PLAIN: Planted = ({}, 10.0, (0.20, 0.10), (0.30, 0.20))
DIP: Planted = ({"train_on": "dip"}, 10.0, (0.24, 0.12), (0.28, 0.16))
FAST: Planted = ({"batch_size": 8}, 4.0, (0.16, 0.08), (0.40, 0.35))
POOR: Planted = ({"learning_rate": 1e-6}, 4.0, (0.9, 0.8), (0.9, 0.8))
# Of seeds 0, 1 and 2; the geometric means are what is above.
SEEDS = (1 / 1.02, 1.0, 1.02)


def board_run(path: Path, *planted: Planted) -> Path:
    """Priors take 8 s."""
    folder = Folder(path)
    folder.unit("priors", [row("priors", "fit", "fit_priors", 8.0)])
    for place, (settings, train, losses, kids) in enumerate(planted):
        for seed, share in enumerate(SEEDS):
            unit = f"u{place}-{seed}"
            of = case(seed, **{"batch_size": 16, "learning_rate": 1e-3, **settings})
            dip = of.settings["train_on"] == "dip"
            data = "fit" if dip else "data"
            rows = [row(unit, data, "fit_priors" if dip else "prepare", None if dip else 0.0)]
            made, found = generation(unit, unit, (data,), of, train * share, 1.0, data)
            scores = [
                {"eps_loss": loss * share, "kid_efflite0": kid * share, "lag1_autocorrelation": 0.9}
                for loss, kid in zip(losses, kids, strict=True)
            ]
            kept = [
                one.model_copy(update={"scores": {**one.scores, **of_samples}})
                for one, of_samples in zip(found, scores, strict=True)
            ]
            folder.unit(unit, rows + made, kept, needs=("priors",) if dip else ())
    return folder.finish()


def outcomes(path: Path, *planted: Planted) -> list[Outcome]:
    return Report(load_run(board_run(path, *planted))).found


def entries(path: Path, score: Quantity, *planted: Planted) -> dict[str, Entry]:
    return {one.name: one for one in entries_of(outcomes(path, *planted), score)}


def test_an_entry_is_what_is_not_as_in_most(tmp_path: Path) -> None:
    for score in (EPS_LOSS, KID):
        found = entries(tmp_path / score.name, score, PLAIN, DIP, FAST, POOR)
        assert set(found) == {
            "as most", "train_on = dip", "batch_size = 8", "learning_rate = 1e-06",
        }  # fmt: skip
        assert all(len(group) == 3 for one in found.values() for group in one.milestones.values())


@pytest.mark.parametrize(
    ("planted", "loss", "kid"),
    [
        ((PLAIN, DIP, FAST, POOR), 0.10, 0.21),  # of 0.08 0.10 | 0.12 0.8; 0.16 0.20 | 0.35 0.8
        ((PLAIN, DIP, FAST), 0.10, 0.21),  # the middle one
        ((PLAIN, FAST), 0.10, 0.36),  # of two the other one: 0.08 0.10; 0.16 0.35
    ],
)
def test_the_target_is_a_round_score_that_the_better_half_reach(
    tmp_path: Path, planted: tuple[Planted, ...], loss: float, kid: float
) -> None:
    # Arithmetic means, as those of KID, lie a hair above what is planted.
    found = outcomes(tmp_path, *planted)
    for score, target in ((EPS_LOSS, loss), (KID, kid)):
        one = board_of(found, score)
        assert one is not None and one.target == pytest.approx(target, rel=1e-3)
        assert len(one.reach) == 2


def test_seconds_are_those_of_the_first_milestone_that_is_as_good(tmp_path: Path) -> None:
    found = entries(tmp_path, EPS_LOSS, PLAIN, DIP, FAST, POOR)

    def seconds_to(name: str, score: Quantity, target: float) -> float | None:
        effect = found[name].seconds_to(score, target)
        return None if effect is None else effect.mean

    assert seconds_to("as most", EPS_LOSS, 0.12) == pytest.approx(20.0, rel=1e-3)
    assert seconds_to("as most", EPS_LOSS, 0.20001) == pytest.approx(10.0)
    assert seconds_to("train_on = dip", EPS_LOSS, 0.12001) == pytest.approx(
        28.0, rel=1e-3
    )  # with priors
    assert seconds_to("batch_size = 8", EPS_LOSS, 0.12) == pytest.approx(8.0)
    assert seconds_to("batch_size = 8", KID, 0.3) is None
    assert seconds_to("learning_rate = 1e-06", EPS_LOSS, 0.12) is None
    effect = found["as most"].seconds_to(EPS_LOSS, 0.12)
    assert effect is not None
    assert effect.n == 3
    # t(2) of 95 % is 4.303; in logarithms the standard deviation is that of 1.02.
    assert effect.high == pytest.approx(20.0 * 1.02 ** (4.3027 / 3**0.5), rel=1e-4)


def test_compiling_is_part_of_the_seconds(tmp_path: Path) -> None:
    run = load_run(board_run(tmp_path, PLAIN, FAST))
    rows = [
        replace(row, warm_up_compile_seconds=30.0)
        if row.function == "train_ddpm" and row.key.endswith("t5")
        else row
        for row in run.rows
    ]
    found = Report(replace(run, rows=tuple(rows))).found
    taken = [one.seconds_to(EPS_LOSS, 1.0) for one in entries_of(found, EPS_LOSS)]
    assert sorted(one.mean for one in taken if one) == pytest.approx([34.0, 40.0], rel=1e-3)


def test_the_quickest_stands_first_and_what_never_comes_there_last(tmp_path: Path) -> None:
    said = section(board_run(tmp_path, PLAIN, DIP, FAST, POOR), "time-to-quality")
    loss, kid, *_ = tables_of(said, "entry")
    assert [line[0] for line in loss] == [
        "batch_size = 8", "as most", "train_on = dip", "learning_rate = 1e-06",
    ]  # fmt: skip
    assert [line[1] == "not reached" for line in loss] == [False, False, True, True]
    assert loss[1][1].startswith("20.0 s")
    assert [line[0] for line in kid[:2]] == ["as most", "train_on = dip"]
    assert "batch_size = 8 takes 8.00 s to a held-out loss of 0.100" in text(said)
    assert "which 2 of 4 entries reach; next is as most in 20.0 s" in text(said)
    assert all(line[-1] == "3 seeds" for line in loss)


def test_a_milestone_at_which_a_seed_failed_is_no_point(tmp_path: Path) -> None:
    """The mean of the others would be that of those that did not diverge."""
    found = outcomes(tmp_path, PLAIN, DIP, FAST)
    for one in found:
        if one.settings["batch_size"] == 8 and one.number("epochs") == 10 and one.record.seed:
            one.record.scores["eps_loss"] = math.inf
    fast = {one.name: one for one in entries_of(found, EPS_LOSS)}["batch_size = 8"]
    assert [round(reached.mean, 6) for _, reached in fast.points(EPS_LOSS)] == [0.16]
    failed = [
        replace(one, record=one.record.model_copy(update={"status": "nan"}))
        if one.settings["batch_size"] == 8 and one.record.seed == 2
        else one
        for one in found
    ]
    fast = {one.name: one for one in entries_of(failed, EPS_LOSS)}["batch_size = 8"]
    assert fast.milestones.keys() == {5, 10}
    assert _seeds_cell(fast, ()).text == "3 seeds, 2 failed"
    [unit, *_] = {one.record.unit for group in fast.milestones.values() for one in group}
    assert _seeds_cell(fast, {unit, "another"}).text == "3 seeds, 2 failed, 1 disturbed"


def test_a_loss_needs_no_kid_and_noise_has_none(tmp_path: Path) -> None:
    found = outcomes(tmp_path, PLAIN, FAST)
    for one in found:
        if one.number("epochs") == 5:
            one.record.scores.pop("kid_efflite0")
        elif one.settings["batch_size"] == 8:
            one.record.scores["lag1_autocorrelation"] = 0.1
    assert [len(one.points(EPS_LOSS)) for one in entries_of(found, EPS_LOSS)] == [2, 2]
    assert sorted(len(one.points(KID)) for one in entries_of(found, KID)) == [0, 1]
    assert board_of(found, KID) is None
    assert board_of(found, EPS_LOSS) is not None


def test_samples_made_otherwise_are_entries_of_kid_and_of_no_loss(tmp_path: Path) -> None:
    more: Planted = ({"num_inference_steps": 50}, 10.0, (0.20, 0.10), (0.25, 0.15))
    found = outcomes(tmp_path, PLAIN, more, FAST)
    assert {one.name for one in entries_of(found, KID)} == {
        "as most", "num_inference_steps = 50", "batch_size = 8",
    }  # fmt: skip
    assert len(entries_of(found, EPS_LOSS)) == 2


def test_other_work_is_another_board(tmp_path: Path) -> None:
    larger: Planted = ({"image_size": 64}, 40.0, (0.02, 0.01), (0.02, 0.01))
    found = entries(tmp_path, EPS_LOSS, PLAIN, FAST, larger, DIP)
    assert set(found) == {"as most", "batch_size = 8", "train_on = dip"}


def test_lone_entries_and_few_seeds_are_no_board(tmp_path: Path) -> None:
    alone = section(board_run(tmp_path / "a", PLAIN), "time-to-quality")
    assert "No two settings of a training with 3 seeds each in this run" in text(alone)
    few = [one for one in outcomes(tmp_path / "b", PLAIN, FAST) if one.record.seed < 2]
    assert board_of(few, EPS_LOSS) is None


def test_both_scores_are_drawn(tmp_path: Path) -> None:
    said = section(board_run(tmp_path, PLAIN, DIP, FAST), "time-to-quality")
    drawn = re.findall(r"<svg.*?</svg>", said, re.DOTALL)
    for score in ("held-out loss", "KID"):
        mine = [one for one in drawn if f"{score} against seconds" in one]
        assert mine
        for one in mine:
            assert all(name in one for name in ("as most", "train_on = dip", "batch_size = 8"))
