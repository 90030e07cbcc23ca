"""Rounds of two sides until each benchmark is decided, or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from bench.commits.decide import (
    LOOKS,
    MAX_ROUNDS,
    ORDERS,
    Deciding,
    Margins,
    effects_of,
    floors_of,
)
from bench.commits.records import Decision, SideName
from bench.commits.replicate import Measured, Replicate
from bench.commits.servers import ReplicateError, Servers, Side

# Of a benchmark in one process. The process is the replicate: more calls in it tell little more.
SECONDS = 0.15

# The places in a round of processes that count, which takes longer than to time: one of each side.
_COUNTED = (0, 1)

# The answers of a round, in the order in which its processes ran, each with its side.
Answers = list[tuple[SideName, Replicate]]


@dataclass
class Series:
    """The processes of one benchmark, in the order in which they ran."""

    sides: list[SideName] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    # Operations and bytes, of the processes that counted them.
    counted: dict[SideName, list[tuple[int | None, int | None]]] = field(
        default_factory=lambda: {"base": [], "head": []}
    )

    def add(self, side: SideName, measured: Measured) -> None:
        self.sides.append(side)
        self.seconds.append(measured.seconds)
        if measured.flops is not None:
            self.counted[side].append((measured.flops, measured.peak_bytes))

    @property
    def differs(self) -> bool:
        """Whether what is counted is another at the one side than at the other."""
        return set(self.counted["base"]) != set(self.counted["head"])


@dataclass
class Found:
    """What is known of two sides so far.

    series, decisions, floors: of the benchmarks that both ran, by node id
    device, versions: of all its processes, and of those of each side
    failed: by side and node id what went wrong
    stopped: why it ended before each was decided; empty: each is
    """

    margins: Margins
    device: str = ""
    versions: dict[SideName, str] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    failed: dict[SideName, dict[str, str]] = field(default_factory=lambda: {"base": {}, "head": {}})
    decisions: dict[str, Decision] = field(default_factory=dict)
    floors: dict[str, Decision] = field(default_factory=dict)
    stopped: str = ""

    def add(self, answers: Answers) -> None:
        """A round. What one of its processes did not measure has none.

        Raises ReplicateError if they ran on different devices.
        """
        for side, answer in answers:
            self.failed[side] |= answer.failed
            self.versions[side] = answer.versions
            self.device = self.device or answer.device
            if answer.device != self.device:
                raise ReplicateError(f"{side} ran on {answer.device}, others on {self.device}")
        first, *others = (answer.measured for _, answer in answers)
        if not self.series:
            self.series = {name: Series() for name in first if all(name in one for one in others)}
        for name, one in self.series.items():
            if all(name in answer.measured for _, answer in answers):
                for side, answer in answers:
                    one.add(side, answer.measured[name])

    def must_count(self, number: int) -> bool:
        """In the first round; in the second, if anything differs between the sides, to see whether
        it differs between two tries of one side."""
        return number == 1 or (number == 2 and any(one.differs for one in self.series.values()))

    @property
    def undecided(self) -> tuple[str, ...]:
        return tuple(name for name in self.series if name not in self.decisions)


def run_rounds(
    servers: Servers,
    sides: Mapping[SideName, Side],
    margins: Margins,
    *,
    benchmarks: tuple[str, ...] = (),
    keyword: str = "",
    seconds: float,
    tell: Callable[[int, Found], None] = lambda *_: None,
) -> Found:
    """Rounds for so many seconds, or fewer.

    benchmarks, keyword: see `Request`; tell: called with the number of each round that is done

    Raises ReplicateError if a process gives no answer in the first round.
    """
    found, deciding = Found(margins), Deciding(0, margins)
    for side in sides.values():
        servers.start(side)
    deadline = time.monotonic() + seconds
    for number, order in enumerate(cycle(ORDERS), 1):
        started = time.monotonic()
        try:
            found.add(
                [
                    (side, servers.measure(
                        sides[side], benchmarks=found.undecided or benchmarks, keyword=keyword,
                        seconds=SECONDS, exact=place in _COUNTED and found.must_count(number),
                    ))
                    for place, side in enumerate(order)
                ]
            )  # fmt: skip
        except ReplicateError as error:
            if number == 1:
                raise
            found.stopped = str(error)
        deciding.count = len(found.series)
        now = time.monotonic()
        found.stopped = found.stopped or _why_stop(number, deadline - now - (now - started))
        if found.stopped or number in LOOKS:
            deciding.look(
                _logs(found.series, found.undecided, effects_of), last=bool(found.stopped)
            )
            found.decisions = deciding.decided
            servers.close()
        tell(number, found)
        if found.stopped or not found.undecided:
            break
    floors = Deciding(deciding.count, margins)
    floors.look(_logs(found.series, found.series, floors_of), last=True)
    found.floors = floors.decided
    if all(one.is_decided for one in found.decisions.values()):
        found.stopped = ""
    return found


def _logs(
    series: Mapping[str, Series],
    names: Iterable[str],
    of: Callable[[Sequence[SideName], Sequence[float]], list[float]],
) -> dict[str, list[float]]:
    return {name: of(series[name].sides, series[name].seconds) for name in names}


def _why_stop(number: int, left: float) -> str:
    if left < 0:
        return "the time was up"
    return f"{number} rounds were run" if number >= MAX_ROUNDS else ""
