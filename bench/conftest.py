"""The one fixture of the pytest-benchmark suite: it warms up, synchronises, and counts.

    measure(function, images=..., setup=...)

times calls of `function`, the device idle at both ends, after so many untimed ones that its time is
stable. --benchmark-max-time and --benchmark-min-rounds say for how long. After the timed calls one
more is made under instruments that would slow it: what it counts is exact, the same on each try.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.exact import count
from bench.meters import Device, Memory
from bench.probe import probe

if TYPE_CHECKING:
    from dipddpm.config import Context
    from dipddpm.images import ImageSet
    from dipddpm.sources import ImageSource

# Two calls in a row that differ by less are warm.
STABLE = 0.1
MAX_ROUNDS = 1000
# What `measure` found, as a property of the test, for whoever runs it.
MEASURED = "measured"

# What the benchmarks work on: so many pixels a side, so many images.
SIZE, COUNT = 32, 16

Function = Callable[[], object]
Measure = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is measured beside the times."""
    parser.addoption(
        "--measure",
        choices=["all", "exact", "times"],
        default="all",
        help="all: times, what can be counted, and the machine; exact: times and what can be "
        "counted; times: these alone",
    )


@pytest.fixture(scope="session")
def device() -> str:
    """CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


# Of the library only what a fixture needs, where it needs it: a comparison runs this suite on
# libraries that may lack some of it, and the benchmarks that do without are to run all the same.


@pytest.fixture(scope="session")
def context(device: str) -> Context:
    """Of seed 0."""
    from dipddpm.config import Context

    return Context(device=device)


@pytest.fixture(scope="session")
def source() -> ImageSource:
    """The bundled objects."""
    from dipddpm.sources import bundled_objects

    return bundled_objects()


@pytest.fixture(scope="session")
def images(source: ImageSource) -> ImageSet:
    """(16, 3, 32, 32)"""
    from dipddpm.images import prepare

    return prepare(source.train[:COUNT], SIZE)


@pytest.fixture(scope="session")
def surroundings(device: str) -> dict[str, Any]:
    """The machine that is measured on, as it is now."""
    from bench.environment import collect

    machine = collect(device)
    of_code = {"commit", "subject", "dirty", "source_sha256", "source_file"}
    identity = machine.model_dump_json(exclude=of_code | {"peaks"})
    return {
        "environment": hashlib.sha256(identity.encode()).hexdigest()[:12],
        "probe_matmul_seconds": probe(Device(device)).matmul_seconds,
        "peak_flops": max(peak.flops for peak in machine.peaks if peak.precision == "float32"),
    }


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """The machine and the code under test beside pytest-benchmark's own machine_info."""
    if config.getoption("--measure") == "all":
        from bench.environment import collect

        found = "cuda" if torch.cuda.is_available() else "cpu"
        output_json["dipddpm"] = collect(found).model_dump(mode="json")


@pytest.fixture
def measure(benchmark: BenchmarkFixture, device: str, request: pytest.FixtureRequest) -> Measure:
    """See above. images: how many a call works on; setup: called before each call, untimed."""
    option = request.config.getoption

    def run(
        function: Function, *, images: int | None = None, setup: Function | None = None
    ) -> None:
        timed = Device(device)

        def synchronised() -> None:
            function()
            timed.synchronize()

        def prepare() -> None:
            if setup is not None:
                setup()
                timed.synchronize()

        longest = float(option("--benchmark-max-time"))
        taken = _warm_up(synchronised, prepare, longest)
        rounds = min(MAX_ROUNDS, max(option("--benchmark-min-rounds"), int(longest / taken)))
        benchmark.pedantic(synchronised, setup=prepare, rounds=rounds, iterations=1)
        # No statistics where --benchmark-disable ran the call once, untimed.
        seconds = benchmark.stats.stats.median if benchmark.stats else math.nan
        info: dict[str, Any] = {"device": device, "case_id": _case_id(request)}
        if images is not None:
            info["images_per_second"] = images / seconds
        if option("--measure") != "times":
            prepare()
            exact = count(synchronised)
            info |= {"flops": exact.flops, "peak_bytes": exact.peak_bytes}
        if option("--measure") == "all":
            info |= _machine(request, timed, prepare, synchronised)
            info["share_of_peak"] = info["flops"] / seconds / info.pop("peak_flops")
        benchmark.extra_info.update(info)
        found = {"seconds": seconds, "rounds": rounds, **info}
        request.node.user_properties.append((MEASURED, found))

    return run


def _warm_up(call: Function, prepare: Function, longest: float) -> float:
    """The seconds of a call once two in a row take as long, or after `longest` seconds of two."""
    spent, before = 0.0, math.inf
    for number in itertools.count(1):
        prepare()
        started = time.perf_counter()
        call()
        taken = time.perf_counter() - started
        spent += taken
        if (number > 1 and spent > longest) or abs(taken / before - 1) < STABLE:
            break
        before = taken
    return taken


def _machine(
    request: pytest.FixtureRequest, timed: Device, prepare: Function, call: Function
) -> dict[str, Any]:
    prepare()
    with Memory(timed) as memory:
        call()
    found: dict[str, Any] = dict(request.getfixturevalue("surroundings"))
    found["host_peak_bytes"] = memory.host_peak_bytes
    found["device_peak_bytes"] = memory.device_peak_allocated_bytes
    return found


def _case_id(request: pytest.FixtureRequest) -> str:
    """What is measured: the name, and a digest of how, so that a benchmark that was changed is not
    taken for the one it was."""
    source = inspect.getsource(request.function)
    return f"{request.node.name}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"
