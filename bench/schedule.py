"""When the units of a run end that several devices share, by the runner's own rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.records import UnitSpec


@dataclass(frozen=True)
class Schedule:
    """wall_seconds: until the last unit ends; busy_seconds: of all devices together"""

    num_devices: int
    wall_seconds: float
    busy_seconds: float

    @property
    def idle_share(self) -> float:
        """Of the devices' time, until the last unit ends."""
        return 1 - self.busy_seconds / (self.num_devices * self.wall_seconds)


def schedule(units: Sequence[UnitSpec], seconds: Mapping[str, float], num_devices: int) -> Schedule:
    """A free device takes the first unit, in their order, of which all that it needs is done.

    seconds: of each unit, by its name, above 0
    """
    waiting = list(units)
    ends: dict[str, float] = {}  # of what is done or under way
    now = 0.0
    while waiting:
        done = {unit for unit, end in ends.items() if end <= now}
        ready = next((spec for spec in waiting if done.issuperset(spec.needs)), None)
        if ready is not None and len(ends) - len(done) < num_devices:
            waiting.remove(ready)
            ends[ready.unit] = now + seconds[ready.unit]
        else:
            now = min(end for end in ends.values() if end > now)
    return Schedule(num_devices, max(ends.values()), sum(seconds[unit] for unit in ends))
