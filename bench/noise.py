"""Which units of a run were measured while the machine was busy with something else.

Imports no torch. A unit is told by its probes and by the state of the machine, never by its own
times: to choose by what is measured would bias it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.records import MachineState, Probe, UnitSummary

# By how much a probe may be slower than usual. A copy of the host's memory differs by half in a
# quiet virtual machine, which shares the memory's bus with others, and trainings take no longer
# while it is slow (python -m scripts.a_vs_a shows it): it tells little.
PROBE_TOLERANCE = 0.10
HOST_COPY_TOLERANCE = 0.50
# The shares of the machine's CPU time that others may take during a unit: processes beside it, and
# other guests of the host.
FOREIGN_SHARE = 0.05
STEAL_SHARE = 0.01
# At full work a GPU is at its power limit, which is no disturbance.
POWER_LIMIT = "power limit"
# How strong is what has no measure.
_STRONG = 2.0

# The seconds of (matmul, copy) by host and GPU: others have another speed.
Usual = dict[tuple[str | None, str | None], tuple[float, float]]


@dataclass(frozen=True)
class _Sign:
    """Something that the machine may have been busy with; up to a strength of 1 it does not
    matter."""

    text: str
    strength: float


def is_watched(summary: UnitSummary) -> bool:
    """Whether the machine was looked at around a unit, as it is around what is measured."""
    return bool(summary.probes) or len(summary.machine) > 1


def usual_probes(summaries: Iterable[UnitSummary]) -> Usual:
    """What the probes of a run take on a quiet machine: their lower quartile, for what disturbs can
    only slow them, and may do so for most of the run."""
    probes: defaultdict[tuple[str | None, str | None], list[Probe]] = defaultdict(list)
    for summary in summaries:
        probes[summary.host, summary.gpu].extend(summary.probes)
    return {
        place: (
            _lower_quartile(probe.matmul_seconds for probe in found),
            _lower_quartile(probe.copy_seconds for probe in found),
        )
        for place, found in probes.items()
        if found
    }


def _lower_quartile(values: Iterable[float]) -> float:
    known = sorted(values)
    return known[(len(known) - 1) // 4]


def busy(summaries: Iterable[UnitSummary], cpu_count: int) -> dict[str, tuple[str, ...]]:
    """The units of a run that were disturbed, the most first, each with what shows it."""
    units = list(summaries)
    usual = usual_probes(units)
    units.sort(key=lambda one: -disturbance(one, usual, cpu_count))
    found = {one.unit: disturbances(one, usual, cpu_count) for one in units}
    return {unit: reasons for unit, reasons in found.items() if reasons}


def disturbances(summary: UnitSummary, usual: Usual, cpu_count: int) -> tuple[str, ...]:
    """What shows that the machine was busy during a unit; empty: it was quiet."""
    return tuple(one.text for one in _signs(summary, usual, cpu_count) if one.strength > 1)


def disturbance(summary: UnitSummary, usual: Usual, cpu_count: int) -> float:
    """How busy the machine was during a unit; up to 1 it was quiet."""
    return max((one.strength for one in _signs(summary, usual, cpu_count)), default=0.0)


def drift(summary: UnitSummary, usual: Usual) -> tuple[tuple[float, float], ...]:
    """Each probe of a unit over what is usual in the run: (matmul, copy), 1 on a quiet machine."""
    if (summary.host, summary.gpu) not in usual:
        return ()
    matmul, copy = usual[summary.host, summary.gpu]
    return tuple((one.matmul_seconds / matmul, one.copy_seconds / copy) for one in summary.probes)


def tolerances(summary: UnitSummary) -> dict[str, float]:
    """By how much each probe of a unit may be slower than usual."""
    on_gpu = summary.gpu is not None or any(state.gpu for state in summary.machine)
    copy = PROBE_TOLERANCE if on_gpu else HOST_COPY_TOLERANCE
    return {"matmul": PROBE_TOLERANCE, "copy": copy}


def _signs(summary: UnitSummary, usual: Usual, cpu_count: int) -> Iterator[_Sign]:
    for when, ratios in zip(("before", "after"), drift(summary, usual), strict=False):
        for (what, tolerance), ratio in zip(tolerances(summary).items(), ratios, strict=True):
            text = f"{what} {when} it took {ratio:.2f} times what is usual in the run"
            yield _Sign(text, (ratio - 1) / tolerance)
    yield from _taken(summary.machine, cpu_count)


def _taken(machine: tuple[MachineState, ...], cpu_count: int) -> Iterator[_Sign]:
    """By others, between the first state and the last."""
    if len(machine) < 2:
        return
    first, last = machine[0], machine[-1]
    available = (last.monotonic_seconds - first.monotonic_seconds) * cpu_count
    if not available > 0:
        return
    if first.gpu is None:
        # Beside a GPU's work there are workers of other GPUs, and it needs the CPUs little.
        foreign = (last.busy_seconds - first.busy_seconds) - (last.own_seconds - first.own_seconds)
        share = foreign / available
        yield _Sign(f"other processes took {share:.0%} of the CPUs", share / FOREIGN_SHARE)
    if first.steal_seconds is not None and last.steal_seconds is not None:
        share = (last.steal_seconds - first.steal_seconds) / available
        yield _Sign(f"other guests of the host took {share:.0%} of the CPUs", share / STEAL_SHARE)
    if any(state.gpu is not None and state.gpu.other_processes for state in machine):
        yield _Sign("other processes were on the GPU", _STRONG)
    throttled = {
        reason
        for state in machine
        if state.gpu is not None
        for reason in state.gpu.throttle_reasons or ()
        if reason != POWER_LIMIT
    }
    if throttled:
        yield _Sign(f"the GPU was throttled: {', '.join(sorted(throttled))}", _STRONG)
