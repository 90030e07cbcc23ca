"""The board: who is how fast, against sums done by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from reports.context import EPS_LOSS, KID, Report
from reports.load import load_run
from reports.pairs import Quantity
from reports.sections.board import Entry, entries_of, target_of
from tests.test_report_figures import section, tables_of, text
from tests.test_report_tables import Folder, case, generation, row

# An entry: its settings, seconds of each of two milestones, losses after each, KIDs after each.
Planted = tuple[dict[str, Any], float, tuple[float, float], tuple[float, float]]
PLAIN: Planted = ({}, 10.0, (0.20, 0.10), (0.30, 0.20))
DIP: Planted = ({"train_on": "dip"}, 10.0, (0.24, 0.12), (0.28, 0.16))
FAST: Planted = ({"batch_size": 8}, 4.0, (0.16, 0.08), (0.40, 0.35))
POOR: Planted = ({"learning_rate": 1e-6}, 4.0, (0.9, 0.8), (0.9, 0.8))
# Of seeds 0, 1 and 2; the means are what is above.
SEEDS = (0.98, 1.0, 1.02)


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
                {"eps_loss": loss * share, "kid_efflite0": kid * share}
                for loss, kid in zip(losses, kids, strict=True)
            ]
            kept = [
                one.model_copy(update={"scores": {**one.scores, **of_samples}})
                for one, of_samples in zip(found, scores, strict=True)
            ]
            folder.unit(unit, rows + made, kept, needs=("priors",) if dip else ())
    return folder.finish()


def entries(path: Path) -> dict[str, Entry]:
    return {one.name: one for one in entries_of(Report(load_run(path)).generated)}


def test_an_entry_is_what_is_not_as_in_most(tmp_path: Path) -> None:
    found = entries(board_run(tmp_path, PLAIN, DIP, FAST, POOR))
    assert set(found) == {
        "as most", "train_on = dip", "batch_size = 8", "learning_rate = 1e-06",
    }  # fmt: skip
    assert all(len(group) == 3 for one in found.values() for group in one.milestones.values())


def test_targets_are_what_half_reach(tmp_path: Path) -> None:
    found = list(entries(board_run(tmp_path, PLAIN, DIP, FAST, POOR)).values())
    assert target_of(found, EPS_LOSS) == pytest.approx(0.12)  # of 0.08, 0.10, 0.12, 0.8
    assert target_of(found, KID) == pytest.approx(0.35)  # of 0.16, 0.20, 0.35, 0.8


def test_seconds_are_those_of_the_first_milestone_that_is_as_good(tmp_path: Path) -> None:
    found = entries(board_run(tmp_path, PLAIN, DIP, FAST, POOR))

    def seconds_to(name: str, score: Quantity, target: float) -> float | None:
        effect = found[name].seconds_to(score, target)
        return None if effect is None else effect.mean

    assert seconds_to("as most", EPS_LOSS, 0.12) == pytest.approx(20.0)
    assert seconds_to("as most", EPS_LOSS, 0.2000001) == pytest.approx(10.0)
    assert seconds_to("train_on = dip", EPS_LOSS, 0.1200001) == pytest.approx(28.0)  # with priors
    assert seconds_to("batch_size = 8", EPS_LOSS, 0.12) == pytest.approx(8.0)
    assert seconds_to("batch_size = 8", KID, 0.3) is None
    assert seconds_to("learning_rate = 1e-06", EPS_LOSS, 0.12) is None
    effect = found["as most"].seconds_to(EPS_LOSS, 0.12)
    assert effect is not None
    assert effect.n == 3
    # t(2) of 95 % is 4.303; the standard deviation 20 * 0.02.
    assert effect.high == pytest.approx(20.0 + 4.3027 * 0.4 / 3**0.5, rel=1e-4)


def test_the_quickest_stands_first_and_what_never_comes_there_last(tmp_path: Path) -> None:
    said = section(board_run(tmp_path, PLAIN, DIP, FAST, POOR), "time-to-quality")
    found = tables_of(said, "entry")[0]
    assert [line[0] for line in found] == [
        "batch_size = 8", "as most", "train_on = dip", "learning_rate = 1e-06",
    ]  # fmt: skip
    assert found[-1][1] == found[-1][3] == "not reached"
    assert found[1][1].startswith("20.0 s")
    assert "batch_size = 8 takes 8.00 s to a held-out loss of 0.120" in text(said)
    assert "next is as most in 20.0 s" in text(said)
    assert all(line[-1] == "3 seeds" for line in found)


def test_outcomes_without_a_score_and_lone_entries_are_no_board(tmp_path: Path) -> None:
    alone = section(board_run(tmp_path / "a", PLAIN), "time-to-quality")
    assert "No settings of a training" in text(alone)
    outcomes = Report(load_run(board_run(tmp_path / "b", PLAIN, FAST))).generated
    for one in outcomes:
        if one.settings["batch_size"] == 8:
            one.record.scores.pop("kid_efflite0")
    assert [one.name for one in entries_of(outcomes)] == ["as most"]


def test_both_scores_are_drawn(tmp_path: Path) -> None:
    said = section(board_run(tmp_path, PLAIN, DIP, FAST), "time-to-quality")
    drawn = re.findall(r"<svg.*?</svg>", said, re.DOTALL)
    for score in ("held-out loss", "KID"):
        mine = [one for one in drawn if f"{score} against seconds" in one]
        assert mine
        for one in mine:
            assert all(name in one for name in ("as most", "train_on = dip", "batch_size = 8"))
