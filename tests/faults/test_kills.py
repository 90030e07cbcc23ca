"""SIGKILL, SIGTERM and Ctrl-C at random points, and what is left of the run."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from bench import records
from bench.records import UnitSummary
from bench.run_folder import Run
from tests.faults.judge import MARKS, NO_RERUNS, Whole, done_units, go_on
from tests.processes import Background, Start, at_work, send, wait_until

NUM_WORKER_KILLS = 12
NUM_SPAWNED_KILLS = 3
NUM_SERVER_KILLS = 3
NUM_RUNNER_KILLS = 12
NUM_INTERRUPTS = 5
NUM_AGAIN_KILLS = 5
pytestmark = MARKS


def unit_at_work(run: Path) -> str | None:
    return next((path.stem for path in run.glob(f"units/*{records.UNFINISHED}")), None)


def num_killed(run: Path, unit: str) -> int:
    return len(list(run.glob(f"units/{unit}{records.KILLED}[0-9]*")))


def kill_one(
    background: Background,
    run: Path,
    seconds: float,
    victims: Callable[[], list[psutil.Process]],
) -> bool:
    """Kills a victim, so many seconds after it is at work on a unit that may still be killed."""
    running = background.process

    def may_be_killed() -> bool:
        unit = unit_at_work(run)
        return unit is not None and num_killed(run, unit) < 2 and bool(victims())

    wait_until(lambda: running.poll() is not None or may_be_killed())
    if running.poll() is not None:
        return False
    time.sleep(seconds)
    found = victims() if may_be_killed() else []
    before = len(list(run.glob(f"units/*{records.KILLED}[0-9]*")))
    for process in found:
        send(process, signal.SIGKILL)
    # What has ended in the meantime was not killed.
    wait_until(lambda: not any(process.is_running() for process in found))
    time.sleep(0.2)
    return len(list(run.glob(f"units/*{records.KILLED}[0-9]*"))) > before


def kill_often(
    fault: str,
    wanted: int,
    whole: Whole,
    tmp_path: Path,
    draw: random.Random,
    started: Start,
    *options: str,
    servers: bool = False,
) -> None:
    """Runs until so many were killed; each run is whole without anyone's help."""
    killed = number = 0
    while killed < wanted:
        run = tmp_path / str(number)
        number += 1
        background = started(*go_on(whole.suite, run), *options)

        def victims(background: Background = background) -> list[psutil.Process]:
            server = background.forkserver()
            return [server] if servers and server else background.workers()

        here = 0
        while killed + here < wanted:
            if kill_one(background, run, draw.uniform(0, 1.2), victims):
                here += 1
            elif background.process.poll() is not None:
                break
        code, said = background.end()
        assert code == 0, said
        assert "Traceback" not in said
        assert said.count("again: ") == here and said.count("SIGKILL") == here, said
        killed += here
        whole.tally(fault, background, times=here)
        whole.judge(fault, run, {})


def test_workers_killed(whole: Whole, tmp_path: Path, draw: random.Random, started: Start) -> None:
    kill_often("SIGKILL of a worker", NUM_WORKER_KILLS, whole, tmp_path, draw, started)


def test_spawned_workers_killed(
    whole: Whole, tmp_path: Path, draw: random.Random, started: Start
) -> None:
    fault = "SIGKILL of a worker, --engine subprocess"
    options = ("--engine", "subprocess")
    kill_often(fault, NUM_SPAWNED_KILLS, whole, tmp_path, draw, started, *options)


def test_the_server_of_the_workers_killed(
    whole: Whole, tmp_path: Path, draw: random.Random, started: Start
) -> None:
    fault = "SIGKILL of the forkserver"
    kill_often(fault, NUM_SERVER_KILLS, whole, tmp_path, draw, started, servers=True)


def test_a_unit_killed_three_times_is_a_failure_that_can_be_run_again(
    whole: Whole, tmp_path: Path, started: Start
) -> None:
    fault, run = "SIGKILL of a worker, thrice on one unit", tmp_path / "run"
    unit = Run.open(whole.folder).plan.units[-1].unit
    background = started(*go_on(whole.suite, run))
    for count in range(3):
        wait_until(lambda count=count: unit_at_work(run) == unit  # type: ignore[misc]
                   and num_killed(run, unit) == count and background.workers())  # fmt: skip
        for worker in background.workers():
            send(worker, signal.SIGKILL)
    code, said = background.end()
    assert code == 1 and " killed" in said, said
    whole.tally(fault, background, times=3)
    assert {record.status for record in Run.open(run).records_of(unit)} == {"killed"}
    done = done_units(run)
    del done[unit]
    again = started("resume", run, "--retry-failed", *NO_RERUNS)
    assert again.end()[0] == 0
    whole.tally(fault, again, times=0)
    whole.judge(fault, run, done)


@pytest.mark.parametrize("engine", ["forkserver", "subprocess"])
def test_runners_killed(
    engine: str, whole: Whole, tmp_path: Path, draw: random.Random, started: Start
) -> None:
    """At any moment: while torch loads, between units, in the middle of one."""
    fault = f"SIGKILL of the runner, --engine {engine}"
    left = NUM_RUNNER_KILLS if engine == "forkserver" else NUM_SPAWNED_KILLS
    number, run, done = 0, tmp_path / "0", dict[str, int]()
    while left:
        background = started(*go_on(whole.suite, run), "--engine", engine)
        time.sleep(draw.uniform(0, 0.8 * whole.seconds))
        ended = background.process.poll() is not None
        background.kill()
        whole.tally(fault, background, times=not ended)
        left -= not ended
        assert done.items() <= done_units(run).items()
        done = done_units(run)
        if ended or not left:
            code, said = started(*go_on(whole.suite, run), "--engine", engine).end()
            assert code == 0, said
            whole.judge(fault, run, done)
            number, run, done = number + 1, tmp_path / str(number + 1), {}


def test_runners_killed_while_measuring_again(
    whole: Whole, tmp_path: Path, draw: random.Random, started: Start
) -> None:
    """What was done stays done, by one attempt or the other, at any moment."""
    fault = "SIGKILL of the runner, measuring again"
    units = [spec.unit for spec in Run.open(whole.folder).plan.units]
    for unit in draw.sample(units, NUM_AGAIN_KILLS):
        run = tmp_path / unit
        shutil.copytree(whole.folder, run)
        # As if its probe had found a busy machine.
        path = run / records.UNITS / unit / records.SUMMARY
        summary = records.read(path, UnitSummary)
        probes = tuple(
            probe.model_copy(update={"matmul_seconds": 3 * probe.matmul_seconds})
            for probe in summary.probes
        )
        records.write(path, summary.model_copy(update={"probes": probes}))
        background = started("resume", run, "--reruns", "100")
        wait_until(partial(unit_at_work, run))
        time.sleep(draw.uniform(0, 1.2))
        background.kill()
        whole.tally(fault, background)
        # Every attempt that was whole.
        there = {path.stat().st_ino for path in (run / records.UNITS).iterdir()
                 if (path / records.SUMMARY).exists()}  # fmt: skip
        assert started(*go_on(whole.suite, run)).end()[0] == 0
        whole.judge(fault, run, {})
        assert list(done_units(run)) == units
        assert set(done_units(run).values()) <= there


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(
    number: signal.Signals, whole: Whole, tmp_path: Path, draw: random.Random, started: Start
) -> None:
    """Once or twice, at any moment; the unit under way is finished, if it was asked once."""
    fault, run = f"{number.name}, once or twice", tmp_path / "run"
    for place in range(NUM_INTERRUPTS):
        background = started(*go_on(whole.suite, run))
        time.sleep(draw.uniform(0.1, 0.6 * whole.seconds))
        twice = place % 2 == 1
        background.signal_all(number)
        if twice:
            time.sleep(draw.uniform(0, 0.5))
            background.signal_all(number)
        code, said = background.end()
        # 0: it was over before; a signal: before Python could hear of it.
        assert code in (0, 130, -number), said
        if code == 130:
            assert "Traceback" not in said and "stopped" in said, said
        if "stopping when" in said and not twice:
            assert list(run.glob(f"units/*{records.UNFINISHED}")) == []
            assert f"python -m bench resume {run}" in said
        # That it was over before is no fault.
        whole.tally(fault, background, times=int(code != 0))
        done = done_units(run)
    assert started(*go_on(whole.suite, run)).end()[0] == 0
    whole.judge(fault, run, done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("often", [1, 2])
def test_asked_to_stop_in_the_middle_of_a_unit(
    often: int, number: signal.Signals, whole: Whole, tmp_path: Path, started: Start
) -> None:
    """Once: the unit ends, and no other begins. Twice: nothing is waited for."""
    fault, run = f"{number.name} in the middle of a unit", tmp_path / "run"
    background = started(*go_on(whole.suite, run))
    wait_until(lambda: at_work(run))
    for _ in range(often):
        background.signal_all(number)
        time.sleep(0.1)
    code, said = background.end()
    assert code == 130 and "stopping when the units under way are done" in said, said
    assert f"python -m bench resume {run}" in said and "Traceback" not in said
    whole.tally(fault, background)
    done = done_units(run)
    assert len(done) == 1 or (often == 2 and not done)
    assert started(*go_on(whole.suite, run)).end()[0] == 0
    whole.judge(fault, run, done)
