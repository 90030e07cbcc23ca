"""The one fixture of the pytest-benchmark suite: it synchronises the device and warms up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.environment import collect
from bench.meters import Device, Memory

WARMUP_ROUNDS = 3


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def pytest_benchmark_update_json(config: object, output_json: dict[str, Any]) -> None:
    """The machine and the code under test beside pytest-benchmark's own machine_info."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    output_json["dipddpm"] = collect(found).model_dump(mode="json")


@pytest.fixture
def measure(benchmark: BenchmarkFixture, device: str) -> Callable[..., None]:
    """measure(function, rounds=..., images=...): times calls, the device idle at both ends.

    images: how many images a call works on; extra_info then has images a second. The peak memory
    comes from one call of its own.
    """

    def run(function: Callable[[], object], *, rounds: int = 10, images: int | None = None) -> None:
        timed = Device(device)

        def synchronised() -> object:
            result = function()
            timed.synchronize()
            return result

        benchmark.pedantic(
            synchronised, rounds=rounds, iterations=1, warmup_rounds=min(WARMUP_ROUNDS, rounds)
        )
        with Memory(timed) as memory:
            synchronised()
        benchmark.extra_info["device"] = device
        benchmark.extra_info["host_peak_bytes"] = memory.host_peak_bytes
        benchmark.extra_info["device_peak_bytes"] = memory.device_peak_allocated_bytes
        # No statistics where --benchmark-disable ran the call once, untimed.
        if images is not None and benchmark.stats is not None:
            median = benchmark.stats.stats.median
            benchmark.extra_info["images_per_second"] = images / median

    return run
