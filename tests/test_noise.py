from __future__ import annotations

from typing import Any

import pytest

from bench.noise import busy, disturbance, drift, usual_probes
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
    # Faster than most is not busy, and most of a run may be slow.
    quick = [unit(f"quick{i}", (0.01, 0.005), (0.01, 0.005)) for i in range(3)]
    assert list(busy([*QUIET, *quick], CPUS)) == [one.unit for one in QUIET]
    # A process that was killed has no probe, and no machine.
    assert busy([unit("killed")], CPUS) == {}


@pytest.mark.parametrize(
    ("probes", "words"),
    [
        (
            ((0.0225, 0.01), (0.02, 0.01)),
            "matmul before it took 1.12 times what is usual in the run",
        ),
        (((0.02, 0.01), (0.02, 0.016)), "copy after it took 1.60 times what is usual in the run"),
    ],
)
def test_a_slow_probe_tells(probes: Any, words: str) -> None:
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


def test_copies_on_a_gpu_are_judged_as_products_are() -> None:
    """On the host they differ by half on a quiet machine."""
    gpus = [one.model_copy(update={"gpu": "1"}) for one in QUIET]
    slow = unit("slow", (0.02, 0.012))
    assert busy([*QUIET, slow], CPUS) == {}
    found = busy([*gpus, slow.model_copy(update={"gpu": "1"})], CPUS)
    assert found == {"slow": ("copy before it took 1.20 times what is usual in the run",)}


def test_the_most_disturbed_comes_first() -> None:
    some = unit("some", (0.024, 0.01), machine=(state(10.0), state(20.0)))
    more = unit("more", (0.02, 0.01), machine=(state(10.0), state(20.0, own_seconds=60.0)))
    assert list(busy([*QUIET, some, more], CPUS)) == ["more", "some"]
    usual = usual_probes(QUIET)
    assert disturbance(some, usual, CPUS) == pytest.approx(2)
    assert disturbance(more, usual, CPUS) == pytest.approx(20 / 40 / 0.05)
    assert disturbance(QUIET[0], usual, CPUS) == 0


def test_drift_is_over_the_lower_quartile_of_the_run() -> None:
    one = unit("one", (1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (4.0, 1.0), (8.0, 1.0))
    found = drift(one, usual_probes([one]))
    assert found == ((0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 1.0), (4.0, 1.0))
    assert drift(unit("none"), usual_probes([unit("none")])) == ()


def test_each_host_and_each_gpu_has_a_speed_of_its_own() -> None:
    slow = [
        unit(f"slow{i}", (0.04, 0.02)).model_copy(update={"host": "b", "gpu": "1"})
        for i in range(3)
    ]
    assert busy([*QUIET, *slow], CPUS) == {}
    other = unit("other", (0.06, 0.02)).model_copy(update={"host": "b", "gpu": "1"})
    assert list(busy([*QUIET, *slow, other], CPUS)) == ["other"]
