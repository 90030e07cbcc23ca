"""How a run goes: the state of each unit, and the time that is left. Imports no torch."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from bench import effort
from bench.records import Plan, Record, UnitSpec, UnitSummary, kind_of_work

State = Literal["ok", "failed", "running", "waiting"]
# Of several units that share a place on a map, the first of these is shown.
_SHOWN_FIRST: Sequence[State] = ("failed", "running", "waiting", "ok")


class Course:
    """Of a run in this process; seconds are those of its clock.

    taken: those that units took before, in a process that is over
    states: of each unit, in the plan's order
    failures: what went wrong with units that failed
    warnings: what they warned of, each text once
    is_stopping: no unit is begun any more
    """

    def __init__(
        self,
        plan: Plan,
        done: Iterable[UnitSpec],
        failures: Mapping[str, str] | None = None,
        taken: Mapping[str, float] | None = None,
    ) -> None:
        self.plan = plan
        self.states: dict[str, State] = {spec.unit: "waiting" for spec in plan.units}
        self.failures = dict(failures or {})
        self.warnings: dict[str, None] = {}
        self.is_stopping = False
        self._specs = {spec.unit: spec for spec in plan.units}
        self._kinds = {spec.unit: kind_of_work(spec) for spec in plan.units}
        self._contests = {spec.unit for spec in plan.units if spec.kind == "contest"}
        # Steps and seconds so far, by kind of work: what the time left rests on.
        self._steps_done: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._contest_seconds: list[float] = []
        # About the operations of each unit; those that were done, and in how many seconds.
        self._operations = {spec.unit: effort.of_unit(spec) for spec in plan.units}
        self._operations_done = self._operation_seconds = 0.0
        self._started: dict[str, float] = {}
        for spec in done:
            self.states[spec.unit] = "failed" if spec.unit in self.failures else "ok"
        for unit, seconds in (taken or {}).items():
            self._count(unit, seconds)

    def count(self, *states: State) -> int:
        return sum(state in states for state in self.states.values())

    @property
    def num_done(self) -> int:
        return self.count("ok", "failed")

    def is_running(self, unit: str) -> bool:
        return unit in self._started

    def started(self, spec: UnitSpec, seconds_ago: float = 0.0) -> None:
        self.states[spec.unit] = "running"
        self._started[spec.unit] = time.monotonic() - seconds_ago

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
            self._count(unit, seconds)
        self.warnings |= dict.fromkeys(text for one in outcomes for text in one.warnings)
        return seconds

    def _count(self, unit: str, seconds: float) -> None:
        """A unit was done in so many."""
        self._steps_done[self._kinds[unit]] += self._specs[unit].num_steps
        self._seconds[self._kinds[unit]] += seconds
        if unit in self._contests:
            self._contest_seconds.append(seconds)
        if self._operations[unit]:
            self._operations_done += self._operations[unit]
            self._operation_seconds += seconds

    def seconds_left(self, steps: Mapping[str, int], *, rough: bool = False) -> float | None:
        """None until every kind of work that is still to do has shown its pace, but for contests:
        one of a new kind counts as long as those that are done took. Of profiles, which are short,
        nothing is told. Units are taken to go on side by side as they do now.

        steps: of the units at work, those made so far
        rough: a kind that has not shown its pace counts by its operations, at the pace of those
            that were done in other units; None as long as there are none
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
            elif rough and self._operations_done and all(self._operations[u] for u in units):
                operations = sum(self._operations[unit] for unit in units)
                total += operations * self._operation_seconds / self._operations_done
            else:
                return None
        return max(0.0, total) / max(1, self.count("running"))

    def expected(self, steps: Mapping[str, int]) -> tuple[str, float] | None:
        """The seconds left, behind the word for how well they are known: "about ", or "~" as long
        as not each kind of work has shown its pace. None: nothing is known.

        steps: as in `seconds_left`
        """
        for word, rough in (("about ", False), ("~", True)):
            if (seconds := self.seconds_left(steps, rough=rough)) is not None:
                return word, seconds
        return None

    def grid_map(self, cells: int) -> list[State]:
        """The states of all units on at most so many places, several a place where it takes it."""
        states = list(self.states.values())
        share = -(-len(states) // cells)
        places = [states[first : first + share] for first in range(0, len(states), share)]
        return [next(state for state in _SHOWN_FIRST if state in place) for place in places]
