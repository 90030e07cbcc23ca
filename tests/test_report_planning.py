"""What more pairs would tell, against planted spreads."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench import records
from bench.stats import pairs_for
from reports.__main__ import main
from reports.blocks import Table
from reports.claims import judged_claims
from reports.context import Report
from reports.load import load_run
from reports.planning import Foreseen, Wanted, foreseen
from reports.sections.planning import planning
from tests.test_report_tables import arms_run

SEEDS = range(12)
# Of the training seconds on DIP outputs against those on images, at each of two sizes.
_RNG = np.random.default_rng(5)
LOGS = {4: _RNG.normal(0.1, 0.02, len(SEEDS)), 8: _RNG.normal(0.1, 0.08, len(SEEDS))}
# Seconds of a part of the training on images; priors take 8 s at either size.
SECONDS = {4: 3.0, 8: 2.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return arms_run(
        tmp_path / "run",
        *[
            (
                {"train_on": arm, "num_images": count, "seed": seed, "repeat": 1},
                SECONDS[count] * (math.exp(LOGS[count][seed]) if arm == "dip" else 1.0),
                0.5,
            )
            for count in LOGS
            for seed in SEEDS
            for arm in ("images", "dip")
        ],
    )


def of_claim_2(folder: Path, wanted: Wanted) -> Foreseen:
    report = Report(load_run(folder))
    [found] = [
        one
        for one in foreseen(report, judged_claims(report), wanted)
        if (one.judged.claim.number, one.judged.protocol) == (2, "corrected")
    ]
    return found


def test_a_wanted_interval_takes_what_the_spread_of_a_setting_says(folder: Path) -> None:
    wanted = Wanted(0.01)
    found = of_claim_2(folder, wanted)
    assert len(found.places) == 2 and found.effect.n == 24
    by_size = {int(place.words.split()[0]): place for place in found.places}
    for count, place in by_size.items():
        assert place.pairs == len(SEEDS)
        assert place.spread == pytest.approx(float(np.std(LOGS[count], ddof=1)), rel=1e-6)
        n = place.needed(math.log(1.01))

        def half(n: int, spread: float = place.spread) -> float:
            return float(scipy_stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)

        assert half(n) <= math.log(1.01) < half(n - 1)
        # Two parts on both sides, the priors, and what is the same for both.
        trained = 2 * SECONDS[count] * (1 + float(np.mean(np.exp(LOGS[count]))))
        assert 8 + trained < place.seconds < 8 + trained + 10
    # Sixteen times as many pairs are dearer, though each takes less.
    assert by_size[8].seconds < by_size[4].seconds
    assert found.places[0] is by_size[4]
    costs = [place.cost(math.log(1.01)) for place in found.places]
    assert costs == sorted(costs)


def test_the_first_half_foresees_the_whole(folder: Path) -> None:
    found = of_claim_2(folder, Wanted())
    logs = np.concatenate([LOGS[4], LOGS[8]])
    t = float(scipy_stats.t.ppf(0.975, 23)) / math.sqrt(24)
    assert found.half == pytest.approx(t * float(np.std(logs, ddof=1)), rel=1e-6)
    # The plan begins with the twelve pairs of 4 images.
    assert found.promised == pytest.approx(t * float(np.std(LOGS[4], ddof=1)), rel=1e-6)
    plan = records.read(folder / records.PLAN, records.Plan)
    first, *units = plan.units
    turned = plan.model_copy(update={"units": (first, *reversed(units))})
    records.write(folder / records.PLAN, turned)
    again = of_claim_2(folder, Wanted())
    assert again.promised == pytest.approx(t * float(np.std(LOGS[8], ddof=1)), rel=1e-6)
    assert again.half == found.half


def test_what_both_sides_rest_on_is_paid_once(tmp_path: Path) -> None:
    """Claim 1 holds two milestones of one run against each other."""
    given = [
        ({"train_on": arm, "seed": seed, "repeat": 1}, 2.0, 0.5 + 0.01 * seed)
        for seed in range(4)
        for arm in ("images", "dip")
    ]
    report = Report(load_run(arms_run(tmp_path / "run", *given)))
    [found] = [
        one
        for one in foreseen(report, judged_claims(report), Wanted())
        if (one.judged.claim.number, one.judged.protocol) == (1, "corrected")
    ]
    by_arm = {place.words.split(", ")[-2]: place for place in found.places}
    assert set(by_arm) == {"images", "dip"}
    last = {
        arm: max(
            one.total_seconds or 0.0
            for one in report.generated
            if one.settings["train_on"] == arm and one.record.seed == 0
        )
        for arm in by_arm
    }
    sampled = report.generated[0].group_seconds("sample") or 0.0
    scored = report.generated[0].group_seconds("score") or 0.0
    for arm, place in by_arm.items():
        assert place.pairs == 4
        # The longer run, and what was made of the shorter one.
        assert place.seconds == pytest.approx(last[arm] + sampled + scored)


def test_with_as_many_pairs_as_told_the_interval_is_about_as_wanted() -> None:
    """Of 400 tries the half of them within a tenth: a spread is never known for sure."""
    rng, spread, half = np.random.default_rng(1), 0.03, 0.01
    n = pairs_for(spread, half)
    t = float(scipy_stats.t.ppf(0.975, n - 1)) / math.sqrt(n)
    widths = [t * statistics.stdev(rng.normal(0, spread, n)) for _ in range(400)]
    assert np.median(widths) == pytest.approx(half, rel=0.03)
    assert np.mean(np.abs(np.array(widths) / half - 1) < 0.25) > 0.9


def test_the_terminal_tells_the_same_as_the_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(load_run(folder))
    section = planning(report, judged_claims(report), Wanted(0.01))
    [block] = section.blocks
    assert isinstance(block, Table)
    assert main(["plan", str(folder), "--within", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join(section.finding.split()) in said
    for row in block.rows:
        for cell in row[3:8]:
            assert " ".join(cell.text.split()) in said
    assert main(["plan", str(folder), "--within", "1000"]) == 0
    assert "intervals are as narrow as" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["0", "1e-200", "-1", "nan", "inf", "x"])
def test_a_width_that_cannot_be_is_refused(
    folder: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(folder), f"--within={value}"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "--within" in err and repr(value) in err and err.count("\n") == 1
