"""What a run's figures depend on besides the settings: the machine and the code."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dipddpm
from bench.machine import GPU, cpu_name, memory_limit
from bench.meters import Device
from bench.peaks import measure_peaks
from bench.records import Environment

_PACKAGES = ("torch", "diffusers", "numpy", "pillow", "safetensors")


def answer(device: str) -> dict[str, Any]:
    """`collect` as JSON types, or {"refused": the one line that says why not}."""
    if device == "cuda" and not torch.cuda.is_available():
        return {"refused": "--device must be cpu here (torch finds no CUDA device), got 'cuda'"}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return collect(device).model_dump(mode="json")


def collect(device: str) -> Environment:
    """The identity of machine and code. `device`: "cpu" or "cuda"."""
    package = Path(dipddpm.__file__).parent
    commit, subject, dirty = _git(package)
    cuda = device == "cuda"
    return Environment(
        device=device,
        device_name=device_name(device),
        device_count=torch.cuda.device_count() if cuda else 1,
        driver=_nvidia_driver() if cuda else None,
        cpu=cpu_name(),
        cpu_count=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        os=platform.platform(),
        python=platform.python_version(),
        packages={name: metadata.version(name) for name in _PACKAGES},
        num_threads=torch.get_num_threads(),
        flags={
            "cuda.matmul.fp32_precision": torch.backends.cuda.matmul.fp32_precision,
            "cudnn.conv.fp32_precision": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
            "cudnn.benchmark": torch.backends.cudnn.benchmark,
            "cudnn.deterministic": torch.backends.cudnn.deterministic,
        },
        commit=commit,
        subject=subject,
        dirty=dirty,
        source_sha256=LOADED_SHA256,
        source_file=_portable(Path(dipddpm.__file__)),
        memory_limit_bytes=memory_limit(),
        mig=_mig() if cuda else None,
        peaks=measure_peaks(Device("cuda:0" if cuda else device)),
    )


def device_name(device: str) -> str:
    """The GPU's, or the processor's, for "cuda" or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def source_sha256(*packages: Path) -> str:
    """One digest over the names and contents of the Python files of packages."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


# Of the sources as they were when this process, or the server that it was forked from, loaded them.
LOADED_SHA256 = source_sha256(Path(dipddpm.__file__).parent, Path(__file__).parent)


def host() -> str:
    """Tells this machine from others, and does not name it."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _git(package: Path) -> tuple[str | None, str | None, bool | None]:
    """Commit, its subject, and whether dipddpm or bench differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A package installed into someone else's checkout is not of that checkout.
        git("ls-files", "--error-unmatch", str(package / "__init__.py"))
        commit, subject = git("log", "-1", "--format=%H%n%s").split("\n", 1)
        return commit, subject, bool(git("status", "--porcelain", "--", "dipddpm", "bench"))
    except (OSError, subprocess.CalledProcessError):
        return None, None, None


def _mig() -> bool | None:
    """Whether the first GPU is cut into several."""
    gpu = GPU.open(str(torch.cuda.get_device_properties(0).uuid))
    return None if gpu is None else gpu.mig()


def _nvidia_driver() -> str | None:
    try:
        line = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return None
    return next((word for word in line.split() if word[0].isdigit() and "." in word), None)


def _portable(path: Path) -> str:
    """The path below the home folder, if it is, so that a report names no user."""
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    print(json.dumps(answer(sys.argv[1])))
