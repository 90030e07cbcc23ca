"""Which units of a run were measured while the machine was busy with something else.

Imports no torch. A unit is told by its probes and by the state of the machine, never by its own
times: to choose by what is measured would bias it.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from bench.records import MachineState, Probe, UnitSummary

# How far a probe may be off the run's median.
PROBE_TOLERANCE = 0.10
# The shares of the machine's CPU time that others may take during a unit: processes beside it, and
# other guests of the host.
FOREIGN_SHARE = 0.05
STEAL_SHARE = 0.01
# At full work a GPU is at its power limit, which is no disturbance.
POWER_LIMIT = "power limit"


def busy(summaries: Iterable[UnitSummary], cpu_count: int) -> dict[str, tuple[str, ...]]:
    """The units that were disturbed, each with what shows it."""
    units = list(summaries)
    probes = [probe for summary in units for probe in summary.probes]
    found = {}
    for summary in units:
        reasons = (*_off(summary.probes, probes), *_taken(summary.machine, cpu_count))
        if reasons:
            found[summary.unit] = reasons
    return found


def drift(probes: Iterable[Probe], all_probes: Iterable[Probe]) -> tuple[tuple[float, float], ...]:
    """Each probe over the run's median: (matmul, copy), 1 for as fast as most."""
    known = list(all_probes)
    if not known:
        return ()
    matmul = median(probe.matmul_seconds for probe in known)
    copy = median(probe.copy_seconds for probe in known)
    return tuple((one.matmul_seconds / matmul, one.copy_seconds / copy) for one in probes)


def _off(probes: tuple[Probe, ...], all_probes: list[Probe]) -> Iterable[str]:
    for when, ratios in zip(("before", "after"), drift(probes, all_probes), strict=False):
        for what, ratio in zip(("matmul", "copy"), ratios, strict=True):
            if abs(ratio - 1) > PROBE_TOLERANCE:
                yield f"{what} {when} it took {ratio:.2f} times the run's median"


def _taken(machine: tuple[MachineState, ...], cpu_count: int) -> Iterable[str]:
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
        if foreign / available > FOREIGN_SHARE:
            yield f"other processes took {foreign / available:.0%} of the CPUs"
    if first.steal_seconds is not None and last.steal_seconds is not None:
        stolen = (last.steal_seconds - first.steal_seconds) / available
        if stolen > STEAL_SHARE:
            yield f"other guests of the host took {stolen:.0%} of the CPUs"
    if any(state.gpu is not None and state.gpu.other_processes for state in machine):
        yield "other processes were on the GPU"
    throttled = {
        reason
        for state in machine
        if state.gpu is not None
        for reason in state.gpu.throttle_reasons or ()
        if reason != POWER_LIMIT
    }
    if throttled:
        yield f"the GPU was throttled: {', '.join(sorted(throttled))}"
