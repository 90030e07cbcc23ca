"""Runs that are killed, for real, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.records import Record, Run
from tests.toy import NUM_CASES, SUITE

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="processes are looked for in /proc, which is Linux"
)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A toy whose run is long enough to be interrupted."""
    path = tmp_path / "toy.toml"
    path.write_text(SUITE.replace("num_iter = 4", "num_iter = 40"))
    return path


class Background:
    """`python -m bench` in a process group of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench", *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell starts what it puts in the background deaf to Ctrl-C, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def group(self) -> list[int]:
        """The living processes of the group: the runner, its forkserver and its workers."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == self.process.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def end(self) -> str:
        return self.process.communicate(timeout=300)[0]


@pytest.fixture
def started() -> Iterator[Callable[..., Background]]:
    running: list[Background] = []

    def start(*arguments: str | Path) -> Background:
        running.append(Background(*arguments))
        return running[-1]

    yield start
    for background in running:
        for pid in background.group():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        background.process.communicate()


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def wait_until_gone(background: Background) -> None:
    wait_until(lambda: background.group() == [], seconds=10)


def worker_at_work(run: Path) -> bool:
    return any((path / "progress").exists() for path in run.glob("units/*.part"))


def untimed(records: list[Record]) -> dict[tuple[str, int], object]:
    return {(record.case_id, record.repeat): record for record in records}


@pytest.mark.slow
def test_killed_three_times_and_resumed_gives_the_undisturbed_run(
    toy: Path, tmp_path: Path, started: Callable[..., Background]
) -> None:
    undisturbed = started("run", toy, "--out", tmp_path / "whole")
    assert f"records: {NUM_CASES} ok" in undisturbed.end()

    run, draw = tmp_path / "killed", random.Random(0)
    command: tuple[str | Path, ...] = ("run", toy, "--out", run)
    for _ in range(3):
        background = started(*command)
        wait_until(lambda: worker_at_work(run))
        time.sleep(draw.uniform(0, 1.0))
        background.process.kill()
        background.process.wait()
        # Everyone goes with the runner: the forkserver, the worker in the middle of its unit.
        wait_until_gone(background)
        command = ("resume", run)
    assert f"records: {NUM_CASES} ok" in started("resume", run).end()

    whole, killed = (Run.open(tmp_path / name).records() for name in ("whole", "killed"))
    assert len(killed) == NUM_CASES
    assert untimed(killed) == untimed(whole)
    assert list(run.glob("units/*.part")) == []


def the_worker(background: Background, unit: str) -> int:
    """Of the runner's company, the one that has the progress of such a unit mapped."""
    for pid in set(background.group()) - {background.process.pid}:
        if f"/units/{unit}" in Path(f"/proc/{pid}/maps").read_text():
            return pid
    raise AssertionError(f"no worker on {unit}")


@pytest.mark.slow
def test_a_killed_worker_is_run_again(
    toy: Path, tmp_path: Path, started: Callable[..., Background]
) -> None:
    run = tmp_path / "run"
    background = started("run", toy, "--out", run, "--reruns", "0")
    units = run / "units"
    wait_until(lambda: any(path.name.startswith("train") for path in units.glob("*.part"))
               and worker_at_work(run))  # fmt: skip
    os.kill(the_worker(background, "train"), signal.SIGKILL)
    out = background.end()
    assert background.process.returncode == 0
    assert f"records: {NUM_CASES} ok" in out
    assert "again: train" in out and "SIGKILL" in out
    assert [path.suffix for path in units.iterdir() if path.suffix] == [".killed1"]


@pytest.mark.slow
def test_ctrl_c_lets_the_unit_under_way_end_and_says_how_to_resume(
    toy: Path, tmp_path: Path, started: Callable[..., Background]
) -> None:
    run = tmp_path / "run"
    background = started("run", toy, "--out", run)
    wait_until(lambda: worker_at_work(run))
    # As a terminal does it: to the whole group.
    os.killpg(background.process.pid, signal.SIGINT)
    out = background.end()
    assert background.process.returncode == 130
    assert "stopping when the units under way are done" in out
    assert f"python -m bench resume {run}" in out
    assert "Traceback" not in out
    wait_until_gone(background)
    assert list(run.glob("units/*.part")) == []
    assert len(list(Run.open(run).done())) == 1
    assert f"records: {NUM_CASES} ok" in started("resume", run).end()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_twice_it_stops_at_once(
    toy: Path, tmp_path: Path, started: Callable[..., Background], number: signal.Signals
) -> None:
    run = tmp_path / "run"
    background = started("run", toy, "--out", run)
    wait_until(lambda: worker_at_work(run))
    for _ in range(2):
        os.killpg(background.process.pid, number)
        time.sleep(0.1)
    out = background.end()
    assert background.process.returncode == 130
    assert f"python -m bench resume {run}" in out and "Traceback" not in out
    wait_until_gone(background)
    assert f"records: {NUM_CASES} ok" in started("resume", run).end()


@pytest.mark.slow
def test_a_second_runner_is_refused(
    toy: Path, tmp_path: Path, started: Callable[..., Background]
) -> None:
    run = tmp_path / "run"
    first = started("run", toy, "--out", run)
    wait_until(lambda: worker_at_work(run))
    second = started("resume", run)
    assert "is being run by another process" in second.end()
    assert second.process.returncode == 2
    assert f"records: {NUM_CASES} ok" in first.end()


@pytest.mark.slow
def test_a_worker_of_its_own_process_dies_with_its_runner(
    toy: Path, tmp_path: Path, started: Callable[..., Background]
) -> None:
    run = tmp_path / "run"
    background = started("run", toy, "--out", run, "--engine", "subprocess")
    wait_until(lambda: worker_at_work(run))
    assert len(background.group()) >= 2
    background.process.kill()
    background.process.wait()
    wait_until_gone(background)
