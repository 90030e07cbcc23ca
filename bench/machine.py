"""The state of the machine, which changes while a run goes on; read here and never set.

Its identity is bench.environment's. None: the machine does not tell.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pynvml  # type: ignore[import-untyped]

from bench.records import GPUState, MachineState

T = TypeVar("T")

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
# Intel's and AMD's counters of the energy of CPU packages, in microjoules.
_RAPL = Path("/sys/class/powercap")
_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# More than any package takes.
_MAX_WATTS = 1000
# NVML's names of why a GPU runs below the clock it was asked for, without "GpuIdle", which is
# none, and "ApplicationsClocksSetting", which is somebody's wish.
_THROTTLES = {
    "SwPowerCap": "power limit",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "temperature",
    "HwThermalSlowdown": "temperature, by hardware",
    "HwPowerBrakeSlowdown": "power brake",
    "DisplayClockSetting": "display",
}


class Machine:
    """What can be read of this machine and of the one GPU that the process uses.

    gpu_uuid: as torch tells it, without "GPU-"; None without a GPU
    shared: workers on other GPUs of the machine have their part in what its CPUs take
    """

    def __init__(self, gpu_uuid: str | None = None, *, shared: bool = False) -> None:
        self._gpu = None if gpu_uuid is None else GPU.open(gpu_uuid)
        # Beside the packages there may be the whole platform ("psys"), which contains them.
        self._packages = [] if shared else [
            _Package(path) for path in sorted(_RAPL.glob("*-rapl:*"))
            if (_read(path / "name") or "").startswith("package") and _read(path / "energy_uj")
        ]  # fmt: skip

    def state(self) -> MachineState:
        """As it is now."""
        cpus, own = _cpu_times(), psutil.Process().cpu_times()
        names = ("user", "nice", "system", "irq", "softirq")  # where the system has them
        steal = [cpu.steal for cpu in cpus if hasattr(cpu, "steal")]
        return MachineState(
            monotonic_seconds=time.monotonic(),
            load_average=os.getloadavg()[0],
            busy_seconds=sum(getattr(cpu, name, 0.0) for cpu in cpus for name in names),
            own_seconds=own.user + own.system + own.children_user + own.children_system,
            steal_seconds=sum(steal) if steal else None,
            cpu_mhz=_cpu_mhz(),
            cpu_governor=_read(_CPUFREQ / "scaling_governor"),
            cpu_temperature_celsius=_cpu_temperature(),
            gpu=None if self._gpu is None else self._gpu.state(),
        )

    def energy(self) -> Energy:
        """A meter of its block's energy."""
        return Energy(self._packages, self._gpu)

    def gpu_process_bytes(self) -> int | None:
        """What the driver counts as this process's on the GPU: its context and libraries too."""
        return None if self._gpu is None else self._gpu.process_bytes()


class GPU:
    """One GPU, as NVIDIA's management library tells it; what it does not tell is None."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    @classmethod
    def open(cls, uuid: str) -> GPU | None:
        """None where the driver has no such library, or it knows no such GPU."""
        try:
            pynvml.nvmlInit()
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except pynvml.NVMLError:
            return None

    def state(self) -> GPUState:
        """As it is now."""
        nvml, handle = self._nvml, self._handle
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        limit = self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        pids = self._ask(lambda: {p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)})
        return GPUState(
            sm_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_mhz=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            temperature_celsius=self._ask(
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            power_watts=None if milliwatts is None else milliwatts / 1000,
            power_limit_watts=None if limit is None else limit / 1000,
            throttle_reasons=self._throttle_reasons(),
            other_processes=None if pids is None else self._others(pids),
        )

    @staticmethod
    def _others(pids: set[int]) -> int | None:
        """None in a container that hides this process's number from the driver: it may be any."""
        others = pids - {os.getpid()}
        return None if others == pids and pids else len(others)

    def joules(self) -> float | None:
        """Since its driver was loaded."""
        millijoules = self._ask(
            lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        )
        return None if millijoules is None else millijoules / 1000

    def process_bytes(self) -> int | None:
        """Of this process; None in a container that hides its number from the driver."""
        found = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        own = [process.usedGpuMemory for process in found or () if process.pid == os.getpid()]
        return own[0] if own else None

    def mig(self) -> bool | None:
        """Whether it is cut into several (MIG)."""
        modes = self._ask(lambda: self._nvml.nvmlDeviceGetMigMode(self._handle))
        return None if modes is None else bool(modes[0])

    def _throttle_reasons(self) -> tuple[str, ...] | None:
        nvml = self._nvml
        bits = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        if bits is None:
            return None
        flags = {text: getattr(nvml, f"nvmlClocksThrottleReason{name}")
                 for name, text in _THROTTLES.items()}  # fmt: skip
        return tuple(text for text, flag in flags.items() if bits & flag)

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self._nvml.NVMLError:  # not supported, or not allowed
            return None


class Energy:
    """`cpu_joules` of all CPU packages and `gpu_joules` of the GPU, of its block."""

    def __init__(self, packages: list[_Package], gpu: GPU | None) -> None:
        self._packages, self._gpu = packages, gpu
        self.cpu_joules: float | None = None
        self.gpu_joules: float | None = None

    def __enter__(self) -> Energy:
        self._cpu_then = [package.read() for package in self._packages]
        self._gpu_then = None if self._gpu is None else self._gpu.joules()
        return self

    def __exit__(self, *_: object) -> None:
        taken = [
            package.joules_since(then)
            for package, then in zip(self._packages, self._cpu_then, strict=True)
        ]
        known = [joules for joules in taken if joules is not None]
        # Of some packages alone it would be too little.
        self.cpu_joules = sum(known) if known and len(known) == len(taken) else None
        gpu_now = None if self._gpu is None else self._gpu.joules()
        if gpu_now is not None and self._gpu_then is not None:
            self.gpu_joules = gpu_now - self._gpu_then


class _Package:
    """The energy counter of a CPU package, which starts again when it is full."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())

    def read(self) -> tuple[int, float]:
        """The counter, in microjoules, and when it was read."""
        return int(self._counter.read_text()), time.monotonic()

    def joules_since(self, then: tuple[int, float]) -> float | None:
        """None after so long that it may have been full more than once."""
        (before, began), (after, ended) = then, self.read()
        if (ended - began) * _MAX_WATTS * 1e6 >= self._range:
            return None
        return (after - before) % self._range / 1e6


def memory_limit() -> int | None:
    """The bytes that this process's control group may use; None: all that the machine has."""
    found = [int(text) for text in map(_read, _cgroup_limits()) if text and text.isdecimal()]
    # Version 1 has no word for "no limit", only a number that no machine reaches.
    known = [limit for limit in found if limit < psutil.virtual_memory().total]
    return min(known, default=None)


def _cgroup_limits() -> Iterator[Path]:
    """Where limits on this process may stand, in both versions: of its control group, and of each
    that this one is in."""
    for line in (_read(_OWN_CGROUP) or "").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, file = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(name.lstrip("/"))
        for above in (group, *group.parents):
            yield root / above / file


def _cpu_times() -> list[Any]:
    """Of the CPUs that this process may use: on others there may be whatever there is."""
    known = psutil.cpu_times(percpu=True)
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return known
    return [known[cpu] for cpu in os.sched_getaffinity(0) if cpu < len(known)]


def cpu_name() -> str:
    """The processor's own, or its kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _cpu_mhz() -> float | None:
    with contextlib.suppress(NotImplementedError, OSError):
        found = psutil.cpu_freq()
        return None if found is None else found.current
    return None


def _cpu_temperature() -> float | None:
    """The hottest sensor of the CPU."""
    if not hasattr(psutil, "sensors_temperatures"):  # not Linux
        return None
    found = psutil.sensors_temperatures()
    known = [
        one.current for name in ("coretemp", "k10temp", "zenpower") for one in found.get(name, ())
    ]
    return max(known, default=None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
