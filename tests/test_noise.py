from __future__ import annotations

from typing import Any

import pytest

from bench.noise import busy, drift
from bench.records import GPUState, MachineState, Probe, UnitSummary

CPUS = 4
GPU = GPUState(
    sm_mhz=1980.0,
    memory_mhz=2619.0,
    temperature_celsius=40.0,
    power_watts=300.0,
    power_limit_watts=700.0,
    throttle_reasons=(),
    other_processes=0,
)


def state(at: float, **known: Any) -> MachineState:
    """Of a machine on which this process alone works, on all CPUs."""
    return MachineState(
        monotonic_seconds=at,
        load_average=4.0,
        **{
            "busy_seconds": at * CPUS,
            "own_seconds": at * CPUS,
            "steal_seconds": 0.0,
            "cpu_mhz": None,
            "cpu_governor": None,
            "cpu_temperature_celsius": None,
            "gpu": None,
            **known,
        },
    )


def unit(
    name: str, *probes: tuple[float, float], machine: tuple[MachineState, ...] = ()
) -> UnitSummary:
    return UnitSummary(
        unit=name,
        status="ok",
        probes=tuple(Probe(matmul_seconds=a, copy_seconds=b) for a, b in probes),
        machine=machine,
    )


QUIET = [unit(f"quiet{i}", (0.02, 0.01), (0.02, 0.01)) for i in range(5)]


def test_a_quiet_run_has_no_busy_unit() -> None:
    machine = (state(10.0), state(20.0))
    assert (
        busy([*QUIET, unit("one", (0.0209, 0.0105), (0.0191, 0.0095), machine=machine)], CPUS) == {}
    )
    assert busy([], CPUS) == {}
    # A process that was killed has no probe, and no machine.
    assert busy([unit("killed")], CPUS) == {}


@pytest.mark.parametrize(
    ("probes", "words"),
    [
        (((0.0225, 0.01), (0.02, 0.01)), "matmul before it took 1.12 times the run's median"),
        (((0.02, 0.01), (0.02, 0.012)), "copy after it took 1.20 times the run's median"),
        (((0.02, 0.0085), (0.02, 0.01)), "copy before it took 0.85 times the run's median"),
    ],
)
def test_a_probe_off_the_median_tells(probes: Any, words: str) -> None:
    assert busy([*QUIET, unit("one", *probes)], CPUS) == {"one": (words,)}


@pytest.mark.parametrize(
    ("last", "words"),
    [
        # 10 s on 4 CPUs are 40 s, of which another process took 3.
        ({"busy_seconds": 79.0, "own_seconds": 76.0}, "other processes took 8% of the CPUs"),
        ({"steal_seconds": 2.0}, "other guests of the host took 5% of the CPUs"),
    ],
)
def test_what_others_took_tells(last: dict[str, float], words: str) -> None:
    machine = (state(10.0), state(20.0, **last))
    assert busy([unit("one", machine=machine)], CPUS) == {"one": (words,)}


def test_a_little_beside_is_no_matter() -> None:
    machine = (state(10.0), state(20.0, busy_seconds=79.0, own_seconds=77.5, steal_seconds=0.3))
    assert busy([unit("one", machine=machine)], CPUS) == {}


def test_on_a_gpu_its_other_processes_and_its_throttling_tell() -> None:
    def told(**known: Any) -> tuple[str, ...]:
        gpu = GPU.model_copy(update=known)
        # The workers of other GPUs take the CPUs.
        machine = (state(10.0, gpu=GPU), state(20.0, gpu=gpu, own_seconds=50.0))
        return busy([unit("one", machine=machine)], CPUS).get("one", ())

    assert told() == ()
    assert told(other_processes=1) == ("other processes were on the GPU",)
    assert told(other_processes=None, throttle_reasons=None) == ()
    # At full work that is the usual state.
    assert told(throttle_reasons=("power limit",)) == ()
    assert told(throttle_reasons=("temperature", "power limit")) == (
        "the GPU was throttled: temperature",
    )


def test_drift_is_over_the_median_of_the_run() -> None:
    probes = [Probe(matmul_seconds=a, copy_seconds=1.0) for a in (1.0, 2.0, 4.0)]
    assert drift(probes, probes) == ((0.5, 1.0), (1.0, 1.0), (2.0, 1.0))
    assert drift([], []) == ()
