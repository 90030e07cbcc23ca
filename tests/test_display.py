"""The time left, by a clock of the test's own; and the bill at the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench import dryrun
from bench.costs import Costs
from bench.course import Course
from bench.display import RunDisplay, duration, left_words
from bench.records import StageRow, UnitSpec, UnitSummary, failure_of, kind_of_work
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


def test_before_a_kind_of_work_has_shown_its_pace_the_time_left_goes_by_operations(
    clock: Clock,
) -> None:
    units = plan_units(toy_suite(), seed=0, device="cpu")
    first, *_ = shared = [unit for unit in units if unit.kind == "shared" and unit.num_steps]
    runs = [unit for unit in units if unit.kind == "train"]
    booked = dryrun.book(units)
    counted = {unit: booked.flops(calls) or 0 for unit, calls in booked.by_unit.items()}
    with display_of(units) as shown:
        assert left_words(shown.course, {}) == ""
        shown.started(first, "cpu")
        clock.now += 1000
        shown.finished(first, UnitSummary(unit=first.unit, status="ok"), [])
        assert shown.course.seconds_left({}) is None
        word, seconds = shown.course.expected({}) or ("", 0.0)
        others = sum(unit.num_steps for unit in shared[1:]) / first.num_steps
        by_count = sum(counted[unit.unit] for unit in runs) / counted[first.unit]
        assert word == "~"
        # What is scored, and not known from the settings alone, is a part of so small runs.
        assert 0.5 * by_count < seconds / 1000 - others < 1.1 * by_count
        assert left_words(shown.course, {}) == f"~{duration(seconds)} left"
        shown.started(runs[0], "cpu")
        clock.now += 10
        shown.finished(runs[0], UnitSummary(unit=runs[0].unit, status="ok"), [])
        word, seconds = shown.course.expected({}) or ("", 0.0)
        steps = sum(unit.num_steps for unit in runs[1:]) / runs[0].num_steps
        assert word == "about "
        assert seconds == pytest.approx(1000 * others + 10 * steps)
        # Two at a time.
        shown.started(runs[1], "cuda 0")
        shown.started(runs[2], "cuda 1")
        assert shown.course.seconds_left({}) == pytest.approx(seconds / 2)


def test_a_run_that_goes_on_knows_the_pace_of_what_was_done(clock: Clock) -> None:
    units = plan_units(toy_suite(CONTESTS), seed=0, device="cpu")
    same = [unit for unit in units if kind_of_work(unit) == kind_of_work(units[0])]
    assert len(same) == 2
    course = Course(plan_of(same), same[:1], taken={same[0].unit: 7.0})
    assert course.seconds_left({}) == pytest.approx(7.0)
    course.started(same[1], seconds_ago=5.0)
    half = same[1].num_steps // 2
    left = (7.0 + 5.0) / (same[0].num_steps + half) * (same[1].num_steps - half)
    assert course.seconds_left({same[1].unit: half}) == pytest.approx(left)


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
