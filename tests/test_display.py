"""The time left, by a clock of the test's own; and the bill at the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.costs import Costs
from bench.display import RunDisplay
from bench.records import StageRow, UnitSpec, UnitSummary, failure_of
from bench.units import plan_units
from tests.toy import BASE, PRIORS_CONTEST, plan_of, toy_suite

CONTESTS = f"""{BASE}{PRIORS_CONTEST}[[grid]]
contest = "train"
num_images = 6
epochs = 2
seed = [0, 1]
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def display_of(units: list[UnitSpec]) -> RunDisplay:
    return RunDisplay(plan_of(units), (), Console(file=io.StringIO(), width=100))


def test_of_contests_the_time_left_goes_by_those_that_are_done(clock: Clock) -> None:
    units = plan_units(toy_suite(CONTESTS), seed=0, device="cpu")
    priors = [unit for unit in units if unit.cases[0].settings["contest"] == "priors"]
    ours = [unit for unit in priors if unit.cases[0].settings["contender"] == "dipddpm"]
    theirs = [unit for unit in priors if unit not in ours]
    assert len(units) == 6 and len(ours) == len(theirs) == 2
    with display_of(units) as shown:
        shown.started(ours[0], "cpu")
        assert shown.course.seconds_left({ours[0].unit: 0}) is None
        clock.now += 10
        shown.finished(ours[0], UnitSummary(unit=ours[0].unit, status="ok"), [])
        # One more of its kind; four of kinds that nobody knows, each as long as a contest took.
        assert shown.course.seconds_left({}) == pytest.approx(10 + 4 * 10)
        shown.started(theirs[0], "cpu")
        clock.now += 40
        shown.finished(theirs[0], UnitSummary(unit=theirs[0].unit, status="ok"), [])
        assert shown.course.seconds_left({}) == pytest.approx(10 + 40 + 2 * 25)
        shown.started(ours[1], "cpu")
        clock.now += 5
        half = ours[1].num_steps // 2
        done = (10 + 5) / (ours[0].num_steps + half)
        assert shown.course.seconds_left({ours[1].unit: half}) == pytest.approx(
            (ours[1].num_steps - half) * done + 40 + 2 * 25
        )


def test_what_failed_makes_no_sharing_look_dear() -> None:
    """Priors that two cases share, of which one failed, and a fit of the failed one alone."""
    units = plan_units(toy_suite(CONTESTS), seed=0, device="cpu")[:2]
    plan = plan_of(units)
    [case] = units[0].cases

    def row(key: str, unit: str, seconds: float) -> StageRow:
        return StageRow(
            key=key, function="fit_priors", parents=(), unit=unit, executed=True, seconds=seconds
        )

    first, second = (unit.unit for unit in units)
    costs = Costs(plan, [row("a", first, 5.0), row("b", second, 90.0)])
    ok = failure_of(case, first, "ok", "").model_copy(update={"stages": ("a",)})
    failed = failure_of(case, second, "error", "it broke")
    assert costs.totals([ok, ok, failed], lambda one: one.seconds) == (5.0, 10.0)
