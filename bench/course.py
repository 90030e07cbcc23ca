"""How a run goes: the state of each unit, and the time that is left. Imports no torch."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from bench.records import Plan, Record, UnitSpec, UnitSummary, kind_of_work

State = Literal["ok", "failed", "running", "waiting"]
# Of several units that share a place on a map, the first of these is shown.
_SHOWN_FIRST: Sequence[State] = ("failed", "running", "waiting", "ok")


class Course:
    """Of a run in this process; seconds are those of its clock.

    states: of each unit, in the plan's order
    failures: what went wrong with units that failed
    warnings: what they warned of, each text once
    is_stopping: no unit is begun any more
    """

    def __init__(
        self, plan: Plan, done: Iterable[UnitSpec], failures: Mapping[str, str] | None = None
    ) -> None:
        self.plan = plan
        self.states: dict[str, State] = {spec.unit: "waiting" for spec in plan.units}
        self.failures = dict(failures or {})
        self.warnings: dict[str, None] = {}
        self.is_stopping = False
        self._specs = {spec.unit: spec for spec in plan.units}
        self._kinds = {spec.unit: kind_of_work(spec) for spec in plan.units}
        self._contests = {spec.unit for spec in plan.units if spec.kind == "contest"}
        # Steps and seconds so far in this process, by kind of work: what the time left rests on.
        self._steps_done: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._contest_seconds: list[float] = []
        self._started: dict[str, float] = {}
        for spec in done:
            self.states[spec.unit] = "failed" if spec.unit in self.failures else "ok"

    def count(self, *states: State) -> int:
        return sum(state in states for state in self.states.values())

    @property
    def num_done(self) -> int:
        return self.count("ok", "failed")

    def is_running(self, unit: str) -> bool:
        return unit in self._started

    def started(self, spec: UnitSpec) -> None:
        self.states[spec.unit] = "running"
        self._started[spec.unit] = time.monotonic()

    def again(self, spec: UnitSpec) -> None:
        """It was started, or was done, and waits once more."""
        self._started.pop(spec.unit, None)
        self.failures.pop(spec.unit, None)
        self.states[spec.unit] = "waiting"

    def finished(self, spec: UnitSpec, summary: UnitSummary, outcomes: Sequence[Record]) -> float:
        """Returns the seconds that it took."""
        unit, seconds = spec.unit, time.monotonic() - self._started.pop(spec.unit)
        errors = (summary.error, *(one.error for one in outcomes))
        wrong = dict.fromkeys(error for error in errors if error)
        self.states[unit] = "failed" if summary.status != "ok" or wrong else "ok"
        if wrong:
            self.failures[unit] = "; ".join(wrong)
        if summary.status == "ok":  # what failed at once says nothing of the pace of others
            self._steps_done[self._kinds[unit]] += spec.num_steps
            self._seconds[self._kinds[unit]] += seconds
            if unit in self._contests:
                self._contest_seconds.append(seconds)
        self.warnings |= dict.fromkeys(text for one in outcomes for text in one.warnings)
        return seconds

    def seconds_left(self, steps: Mapping[str, int]) -> float | None:
        """None until every kind of work that is still to do has shown its pace, but for contests:
        one of a new kind counts as long as those that are done took. Of profiles, which are short,
        nothing is told.

        steps: of the units at work, those made so far
        """
        now = time.monotonic()
        total = 0.0
        waiting: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for unit, state in self.states.items():
            count = self._specs[unit].num_steps
            if count and state in ("waiting", "running"):
                waiting[self._kinds[unit]][unit] = count
        for kind, units in waiting.items():
            working = {unit: steps[unit] for unit in units if unit in steps}
            done = self._steps_done[kind] + sum(working.values())
            if done:
                seconds = self._seconds[kind] + sum(now - self._started[unit] for unit in working)
                total += (sum(units.values()) - sum(working.values())) * seconds / done
            elif units.keys() <= self._contests and self._contest_seconds:
                total += len(units) * statistics.mean(self._contest_seconds)
            else:
                return None
        return max(0.0, total)

    def grid_map(self, cells: int) -> list[State]:
        """The states of all units on at most so many places, several a place where it takes it."""
        states = list(self.states.values())
        share = -(-len(states) // cells)
        places = [states[first : first + share] for first in range(0, len(states), share)]
        return [next(state for state in _SHOWN_FIRST if state in place) for place in places]
