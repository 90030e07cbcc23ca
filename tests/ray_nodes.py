"""Workers on Ray's nodes, as /proc shows them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from bench import records
from tests.processes import Background, wait_until

ON_RAY = ("--device", "cpu", "--engine", "ray", "--reruns", "0")


def workers(folder: Path) -> list[psutil.Process]:
    """The processes that work on units somewhere below a folder, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "bench.spawned" in words and words[-1].startswith(f"{folder}/"):
            found.append(process)
    return found


def unit_of(worker: psutil.Process) -> Path:
    return Path(worker.cmdline()[-1])


def in_the_middle(folder: Path) -> list[psutil.Process]:
    """At least one worker, each in the middle of its unit."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [one for one in workers(folder) if (unit_of(one) / records.PROGRESS).exists()]
        return bool(found)

    wait_until(look)
    return found


def held_in_the_middle(folder: Path, node: psutil.Process | None = None) -> psutil.Process:
    """One worker (of a node), stopped so that its unit cannot be done before its fault."""
    held: list[psutil.Process] = []

    def hold() -> bool:
        for worker in in_the_middle(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                if node is None or node in worker.parents():
                    worker.suspend()
                    if unit_of(worker).exists():
                        held.append(worker)
                        return True
                    worker.resume()
        return False

    wait_until(hold)
    return held[0]


def end_well(background: Background, run: Path) -> str:
    """What it said when it ended with status 0; no worker is left, and no unfinished unit."""
    code, said = background.end()
    assert code == 0, said
    assert list(run.glob(f"units/*{records.UNFINISHED}")) == []
    assert workers(run) == [] and background.orphans() == []
    # What Ray has to tell stays in its own logs.
    assert "raylet" not in said and "Ray" not in said.replace("Ray node", "")
    return said
