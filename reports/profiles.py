"""The profiled stages of a run with what their traces tell, and for a viewer of flames."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records import ProfileRow
from bench.traces import TraceError
from reports.calls import Call
from reports.load import Loaded, without_home
from reports.tables import LOADING_SETTINGS
from reports.traces import Tables, read_tables

_STAGES = {"fit_priors": "priors", "train_ddpm": "train", "sample": "sample"}
# The format of speedscope, which other viewers of flame graphs read as well.
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


@dataclass(frozen=True)
class Profile:
    """A profiled stage with what its trace tells."""

    arm: str
    row: ProfileRow
    tables: Tables

    @property
    def label(self) -> str:
        return f"{self.arm}, {self.stage}"

    @property
    def stage(self) -> str:
        return _STAGES.get(self.row.function, self.row.function)

    @property
    def step(self) -> float:
        """Its mean seconds; on a GPU until its last kernel has ended."""
        return sum(self.tables.step_seconds) / len(self.tables.step_seconds)

    @property
    def host_step(self) -> float:
        """The mean seconds that it takes on the host."""
        return sum(self.tables.phases.values())


@dataclass(frozen=True)
class Profiles:
    """broken: what is wrong with the traces that cannot be read, a line each"""

    read: Sequence[Profile]
    broken: Sequence[str]


def read_profiles(run: Loaded) -> Profiles:
    """Those of all profile units."""
    arms = _arms(run)
    found, broken = [], []
    for row in run.profiles:
        try:
            tables = read_tables(row, run.folder / "units" / row.unit)
        except TraceError as error:
            broken.append(f"A trace is left out: {without_home(str(error))}")
        else:
            found.append(Profile(arms[row.unit], row, tables))
    return Profiles(found, broken)


def _arms(run: Loaded) -> dict[str, str]:
    """What each profile unit is of, as short as tells them apart."""
    names = ("train_on", *LOADING_SETTINGS, "condition_on")
    settings = {
        spec.unit: [str(spec.cases[0].settings[name]) for name in names]
        for spec in run.plan.units
        if spec.kind == "profile"
    }
    varied = [
        place
        for place in range(len(names))
        if place == 0 or len({values[place] for values in settings.values()}) > 1
    ]
    return {unit: ", ".join(values[i] for i in varied) for unit, values in settings.items()}


def speedscope(found: Sequence[Profile], name: str) -> str:
    """JSON that speedscope opens: for each profile the calls on the host, over all traced steps.

    A sample is a stack of calls, its weight the seconds spent in the last of them itself.
    """
    frames: dict[str, int] = {}
    profiles = []
    for one in found:
        stacks = list(_stacks(one.tables.calls))
        weights = [own for _, own in stacks]
        profiles.append(
            {
                "type": "sampled",
                "name": one.label,
                "unit": "seconds",
                "startValue": 0,
                "endValue": sum(weights),
                "samples": [
                    [frames.setdefault(call, len(frames)) for call in stack] for stack, _ in stacks
                ],
                "weights": weights,
            }
        )
    content: dict[str, Any] = {
        "$schema": _SCHEMA,
        "name": name,
        "shared": {"frames": [{"name": call} for call in frames]},
        "profiles": profiles,
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _stacks(
    calls: Sequence[Call], above: tuple[str, ...] = ()
) -> Iterator[tuple[list[str], float]]:
    """Each stack of calls with the seconds in the last of them itself."""
    for call in calls:
        stack = (*above, call.name)
        own = call.seconds - sum(callee.seconds for callee in call.callees)
        if own > 0:  # rounded, or beside the steps' own thread
            yield [*stack], own
        yield from _stacks(call.callees, stack)
