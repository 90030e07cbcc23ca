"""Disk and memory that give out, nets that diverge, workers that hang, clocks that jump."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import records
from bench.run_folder import Run
from tests.faults.judge import MARKS, NO_RERUNS, TOY, Table, Whole, done_units, go_on
from tests.processes import Background, Start, wait_until
from tests.toy import BASE, NUM_CASES

NUM_FULL = 3
MEMORY_LIMIT = 8 * 2**30
pytestmark = MARKS


def make(whole: Whole, run: Path, started: Start) -> None:
    """The run's folder alone: what it needs itself has its place."""
    code, said = started("units", whole.suite, "--device", "cpu", "--out", run).end()
    assert code == 0, said


def assert_full(background: Background, word: str) -> None:
    code, said = background.end()
    assert code == 2, said
    [line] = [line for line in said.splitlines() if line.startswith("bench:")]
    assert word in line and "nothing that was done is lost" in line
    assert "Traceback" not in said


def test_files_may_not_grow(
    whole: Whole, tmp_path: Path, draw: random.Random, started: Start
) -> None:
    """Of artifacts some are too large; some are not."""
    fault, run = "disk full (RLIMIT_FSIZE)", tmp_path / "run"
    sizes = sorted(path.stat().st_size for path in whole.folder.rglob("*.safetensors"))
    make(whole, run, started)
    for limit in sorted(draw.choices(range(sizes[0], sizes[-1]), k=NUM_FULL)):

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        background = started(*go_on(whole.suite, run), before=limited)
        assert_full(background, "")
        whole.tally(fault, background)
        done = done_units(run)
    assert started(*go_on(whole.suite, run)).end()[0] == 0
    whole.judge(fault, run, done)


def mount(*arguments: str | Path) -> None:
    """Skips the test where it may not."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "none", folder)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def size_of_missing(whole: Path, run: Path) -> int:
    """Bytes of those units of the whole run that this run has yet to make."""
    missing = {spec.unit for spec in Run.open(whole).done()} - set(done_units(run))
    files = [file for unit in missing for file in Run.open(whole).unit_folder(unit).rglob("*.*")]
    return sum(file.stat().st_size for file in files)


def test_the_disk_is_full(
    whole: Whole, small_disk: Path, draw: random.Random, started: Start
) -> None:
    fault, run, filler = "disk full (a small tmpfs)", small_disk / "run", small_disk / "filler"
    make(whole, run, started)
    for _ in range(NUM_FULL):
        wanted = size_of_missing(whole.folder, run)
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, int(free - draw.random() * 0.7 * wanted))))
        background = started(*go_on(whole.suite, run))
        assert_full(background, "No space left on device")
        whole.tally(fault, background)
        done = done_units(run)
        filler.unlink()
    assert started(*go_on(whole.suite, run)).end()[0] == 0
    whole.judge(fault, run, done)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Root is refused by no permissions, but by a file system that is mounted so."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("part", [".", records.UNITS])
def test_a_read_only_folder(part: str, whole: Whole, tmp_path: Path, started: Start) -> None:
    fault, run = "a read-only run folder", tmp_path / "run"
    make(whole, run, started)
    with read_only(run / part):
        background = started("resume", run)
        code, said = background.end()
        assert code == 2 and "Traceback" not in said, said
        assert "Read-only file system" in said or "Permission denied" in said
        whole.tally(fault, background)
        assert f"{NUM_CASES + 1} still to come" in started("status", "--quiet", run).end()[1]
    assert started(*go_on(whole.suite, run)).end()[0] == 0
    whole.judge(fault, run, {})


# Cases that fail ----------------------------------------------------------------------------------

FUNCTIONS = """
import pathlib
import re
import time

import torch


def hungry(degraded):
    torch.zeros(3 * 2**30)  # 12 GiB


def hungry_on_the_gpu(degraded):
    torch.zeros(2**38, device="cuda")  # 1 TiB


def sleeping(degraded):
    time.sleep(3600)


def hogging(degraded):
    pathlib.Path(__file__).with_name("hogging").touch()
    re.match("(a+)+$", "a" * 60 + "b")  # for years, and nobody else may run
"""
FAILING = {
    "oom": 'num_images = 5\ntask = "restore"\nstart_from = "faulty:hungry"',
    "nan": "num_images = 5\nlearning_rate = 1e30",
    "timeout": 'num_images = 3\ntask = "restore"\nstart_from = "faulty:sleeping"',
}


def test_failures_are_told_apart_and_leave_the_others_alone(
    whole: Whole, tmp_path: Path, started: Start
) -> None:
    (tmp_path / "faulty.py").write_text(FUNCTIONS)
    suite, run = tmp_path / "toy.toml", tmp_path / "run"
    suite.write_text(TOY + "".join(f"[[grid]]\nepochs = 1\n{one}\n" for one in FAILING.values()))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))

    background = started(*go_on(suite, run), "--timeout", "30", before=limited)
    code, said = background.end()
    assert code == 1 and "Traceback" not in said, said
    found = Table.of(run)
    others = found.records - whole.table.records
    assert found.records - others == whole.table.records
    assert sorted(r.status for r in Run.open(run).records() if r.status != "ok") == sorted(FAILING)
    assert others.total() == len(FAILING)
    assert whole.table.artifacts.items() <= found.artifacts.items()
    for fault in ("out of memory (RLIMIT_AS)", "NaN loss", "a worker that hangs"):
        whole.tally(fault, background)


@pytest.mark.cuda
def test_the_memory_of_a_gpu_does_not_suffice(tmp_path: Path, started: Start) -> None:
    (tmp_path / "faulty.py").write_text(FUNCTIONS)
    suite, run = tmp_path / "toy.toml", tmp_path / "run"
    grid = 'num_images = 4\nepochs = 1\ntask = "restore"\n'
    starts = 'start_from = ["faulty:hungry_on_the_gpu", "degraded"]\n'
    suite.write_text(f"{BASE}[[grid]]\n{grid}{starts}")
    background = started("run", suite, "--device", "cuda", "--out", run, *NO_RERUNS)
    code, said = background.end()
    assert code == 1 and "Traceback" not in said, said
    assert sorted(record.status for record in Run.open(run).records()) == ["ok", "oom"]


@pytest.mark.parametrize("engine", ["forkserver", "subprocess"])
def test_no_worker_outlives_its_runner_though_it_cannot_look(
    engine: str, whole: Whole, tmp_path: Path, started: Start
) -> None:
    (tmp_path / "faulty.py").write_text(FUNCTIONS)
    suite, run = tmp_path / "hog.toml", tmp_path / "run"
    grid = 'num_images = 3\nepochs = 1\ntask = "restore"\nstart_from = "faulty:hogging"'
    suite.write_text(f"{BASE}[[grid]]\n{grid}\n")
    background = started(*go_on(suite, run), "--engine", engine)

    wait_until((tmp_path / "hogging").exists)
    time.sleep(1)
    background.kill()
    whole.tally("SIGKILL of the runner, its worker in a C call", background)
    again = started("resume", run, "--timeout", "15", "--engine", engine, *NO_RERUNS)
    assert again.end()[0] == 1
    assert [record.status for record in Run.open(run).records()] == ["timeout"]
    whole.tally("a worker that hangs", again)


# The clock ----------------------------------------------------------------------------------------

# Python runs it when it starts: every other reading is of an hour ago.
JUMPING = """
import itertools, os, time

_time, _time_ns, _calls = time.time, time.time_ns, itertools.count()
time.time = lambda: _time() - 3600 * (next(_calls) % 2)
time.time_ns = lambda: _time_ns() - 3600 * 10**9 * (next(_calls) % 2)
with open(os.environ["JUMPED"], "a") as file:
    file.write("jumped\\n")
"""


@pytest.mark.parametrize("engine", ["forkserver", "subprocess"])
def test_the_wall_clock_is_set_back_all_the_time(
    engine: str, whole: Whole, tmp_path: Path, started: Start
) -> None:
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    run, jumped = tmp_path / "run", tmp_path / "jumped"
    background = started(
        *go_on(whole.suite, run), "--engine", engine, PYTHONPATH=str(tmp_path), JUMPED=str(jumped)
    )
    code, said = background.end()
    assert code == 0, said
    # The runner and what it starts.
    assert len(jumped.read_text().splitlines()) >= 2
    whole.tally("the wall clock set back", background)
    whole.judge("the wall clock set back", run, {})
    seconds = [summary.process_seconds or 0.0 for summary in Run.open(run).summaries()]
    assert all(0 < one < 600 for one in seconds)
    rows = Run.open(run).stage_rows()
    assert all(0 <= (row.seconds or 0.0) < 600 for row in rows)
