from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml  # type: ignore[import-untyped]
import pytest

from bench import machine
from bench.machine import GPU, Energy, Machine, memory_limit


def burn(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def test_own_seconds_are_this_process_and_part_of_the_busy_ones() -> None:
    first = Machine().state()
    burn(0.5)
    last = Machine().state()
    own = last.own_seconds - first.own_seconds
    # The kernel counts in hundredths of a second.
    assert own == pytest.approx(0.5, abs=0.05)
    assert last.busy_seconds - first.busy_seconds >= own - 0.05
    assert last.monotonic_seconds - first.monotonic_seconds >= own - 0.05
    assert last.gpu is None


@pytest.mark.skipif(sys.platform != "linux", reason="the figures of /proc are of Linux")
def test_busy_seconds_are_those_of_proc_stat() -> None:
    before = os.sched_getaffinity(0)
    hertz = os.sysconf("SC_CLK_TCK")
    try:
        for allowed in (before, {min(before)}):
            os.sched_setaffinity(0, allowed)
            busy = stolen = 0
            for line in Path("/proc/stat").read_text().splitlines():
                name, *words = line.split()
                if name in {f"cpu{number}" for number in allowed}:
                    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[:8])
                    busy, stolen = busy + user + nice + system + irq + softirq, stolen + steal
            found = Machine().state()
            assert found.busy_seconds == pytest.approx(busy / hertz, abs=1)
            assert found.steal_seconds == pytest.approx(stolen / hertz, abs=1)
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two CPU packages, the second with a part that is counted within it, and the platform, within
    which all are."""
    monkeypatch.setattr(machine, "_RAPL", tmp_path)
    found = []
    for name, what in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:1:0", "core"),
        ("intel-rapl:2", "psys"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("262143328850\n")
        (folder / "energy_uj").write_text("1000000\n")
        (folder / "name").write_text(f"{what}\n")
        found.append(folder / "energy_uj")
    return found


def test_energy_is_that_of_all_packages(packages: list[Path]) -> None:
    with Machine().energy() as energy:
        packages[0].write_text("3500000\n")
        packages[1].write_text("1250000\n")
        packages[2].write_text("9000000\n")
        packages[3].write_text("9000000\n")
    assert energy.cpu_joules == pytest.approx(2.75)
    assert energy.gpu_joules is None
    # Workers on other GPUs take their part of it: whose it is, nobody knows.
    with Machine(shared=True).energy() as energy:
        packages[0].write_text("5000000\n")
    assert energy.cpu_joules is None


def test_a_counter_that_began_again_is_followed(packages: list[Path]) -> None:
    packages[0].write_text("262143000000\n")
    with Machine().energy() as energy:
        packages[0].write_text("171150\n")
    assert energy.cpu_joules == pytest.approx(0.5)


def test_after_too_long_the_energy_is_not_known(
    packages: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Machine().energy() as energy:
        now += 300  # in which 262 kJ may have been taken, and the counter be where it was
    assert energy.cpu_joules is None


def test_where_no_counter_can_be_read_the_energy_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_RAPL", tmp_path / "none")
    with Machine().energy() as energy:
        pass
    assert (energy.cpu_joules, energy.gpu_joules) == (None, None)


class NVML:
    """NVIDIA's library as far as it is asked, of a GPU that answers some questions only."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        known = getattr(pynvml, name)
        if not callable(known) or isinstance(known, type):
            return known
        return lambda *arguments: self._answer(name, arguments[1:])

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name not in self._answers:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        answer = self._answers[name]
        return answer(*arguments) if callable(answer) else answer


def processes(*pids: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=1000 + pid) for pid in pids]


def test_a_gpu_is_told_in_watts_and_by_words() -> None:
    nvml = NVML(
        nvmlDeviceGetPowerUsage=312_500,
        nvmlDeviceGetEnforcedPowerLimit=700_000,
        nvmlDeviceGetClockInfo={
            pynvml.NVML_CLOCK_SM: 1980,
            pynvml.NVML_CLOCK_MEM: 2619,
        }.__getitem__,
        nvmlDeviceGetTemperature=41,
        nvmlDeviceGetCurrentClocksThrottleReasons=pynvml.nvmlClocksThrottleReasonGpuIdle
        | pynvml.nvmlClocksThrottleReasonSwPowerCap
        | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        nvmlDeviceGetComputeRunningProcesses=processes(os.getpid(), 1, 2),
        nvmlDeviceGetTotalEnergyConsumption=5_250,
        nvmlDeviceGetMigMode=[1, 1],
    )
    gpu = GPU(nvml, "handle")
    found = gpu.state()
    assert (found.sm_mhz, found.memory_mhz, found.temperature_celsius) == (1980, 2619, 41)
    assert (found.power_watts, found.power_limit_watts) == (312.5, 700.0)
    assert found.throttle_reasons == ("power limit", "temperature, by hardware")
    assert found.other_processes == 2
    assert gpu.process_bytes() == 1000 + os.getpid()
    assert gpu.joules() == 5.25
    assert gpu.mig() is True


def test_what_a_gpu_does_not_tell_is_unknown_and_never_0() -> None:
    gpu = GPU(NVML(), "handle")
    assert set(gpu.state().model_dump(exclude={"schema_version"}).values()) == {None}
    assert (gpu.joules(), gpu.process_bytes(), gpu.mig()) == (None, None, None)
    # In a container the driver has other numbers for its processes.
    hidden = GPU(NVML(nvmlDeviceGetComputeRunningProcesses=processes(1)), "handle")
    assert hidden.process_bytes() is None
    assert hidden.state().other_processes is None
    alone = GPU(NVML(nvmlDeviceGetComputeRunningProcesses=[]), "handle")
    assert alone.state().other_processes == 0


def test_the_energy_of_a_gpu_is_the_difference() -> None:
    answers = iter([5_000, 7_500])
    gpu = GPU(NVML(nvmlDeviceGetTotalEnergyConsumption=lambda: next(answers)), "handle")
    with Energy([], gpu) as energy:
        pass
    assert energy.gpu_joules == 2.5


def test_without_the_driver_there_is_no_gpu() -> None:
    assert GPU.open("00000000-0000-0000-0000-000000000000") is None


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"job/step/memory.max": "1073741824"}, 2**30),
        # A scheduler may limit the job, and not the step in it.
        ({"job/step/memory.max": "max", "job/memory.max": "1073741824"}, 2**30),
        ({"job/step/memory.max": "2073741824", "memory.max": "1073741824"}, 2**30),
        ({"job/step/memory.max": "max"}, None),
        ({}, None),
        # More than the machine has is no limit.
        ({"job/step/memory.max": str(2**60)}, None),
        ({"memory/job/memory.limit_in_bytes": "1073741824"}, 2**30),
        # Of another job.
        ({"other/memory.max": "1073741824"}, None),
    ],
)
def test_the_limit_of_the_control_group(
    files: dict[str, str], limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    own = tmp_path / "own"
    own.write_text("12:pids:/elsewhere\n5:cpu,memory:/job/step\n0::/job/step\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUP", own)
    assert memory_limit() == limit
