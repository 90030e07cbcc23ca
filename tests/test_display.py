"""The time left, by a clock of the test's own."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.display import RunDisplay
from bench.records import Plan, UnitSpec, UnitSummary
from bench.units import plan_units
from tests.toy import BASE, PRIORS_CONTEST, toy_suite

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
    plan = Plan(
        suite="toy", title="", about="", command="", created="2026-01-02T03:04:05+00:00", seed=0,
        device="cpu", images="objects", images_sha256="0" * 64, units=tuple(units),
    )  # fmt: skip
    return RunDisplay(plan, (), Console(file=io.StringIO(), width=100))


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
