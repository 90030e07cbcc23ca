"""Where workers run: each unit in a process of its own, on this machine. Imports no torch.

The forkserver has torch and diffusers loaded once and gives each unit a fresh process in
milliseconds; the subprocess form pays the import every time. Both run the same `worker.main`, and
both die with this process, however it dies.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from bench import records
from bench.errors import UserError
from bench.lifeline import end_with, ignore_interrupts, interrupts_held
from bench.records import Environment

CHECKOUT = Path(__file__).parents[1]
# What multiprocessing says of a worker whose forkserver is gone.
_NOBODY_KNOWS = 255
# What it raises if the forkserver goes while a worker is started.
_SERVER_GONE = (EOFError, ConnectionError)


class Process(Protocol):
    """A worker at work."""

    @property
    def begun(self) -> bool:
        """Whether it is at work, and does not wait for a place where it can be."""

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""

    def kill(self) -> None:
        """Ends it and waits until it is gone."""


class Engine(Protocol):
    """A way to start fresh processes; each gives the same records."""

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        """A worker on the unit in that folder, with these environment variables beside its own."""

    def describe(self, device: str) -> Environment:
        """The machine, of a device "cpu", "cuda" or "auto" (CUDA where there is one).

        Raises UserError if there is no such device.
        """

    def slots(self, machine: Environment) -> dict[str, dict[str, str]]:
        """Where one worker at a time may work: a name for each, and its environment variables."""


def local_slots(machine: Environment) -> dict[str, dict[str, str]]:
    """One for each GPU that this process may use, by the names it has for them; one for the CPU."""
    if machine.device != "cuda":
        return {"CPU": {}}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(machine.device_count)]
    return {f"GPU {name}": {"CUDA_VISIBLE_DEVICES": name} for name in names[: machine.device_count]}


class ForkserverEngine:
    """Workers forked from a server that has loaded torch and touched no device."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # Loading torch touches no device and starts no thread: both are the worker's own.
        self._context.set_forkserver_preload(["bench.preload"])
        # Before, for it lets go what is held.
        resource_tracker.ensure_running()
        with interrupts_held():
            forkserver.ensure_running()

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        worker = self._context.Process(
            target=_work, args=(unfinished, dict(environment), time.monotonic()), daemon=True
        )
        try:
            with interrupts_held():
                worker.start()  # and a server, should that have been killed
        except _SERVER_GONE:
            return _Unborn()
        return _Forked(worker)

    def describe(self, device: str) -> Environment:
        here, there = self._context.Pipe(duplex=False)
        worker = self._context.Process(target=_describe, args=(there, device), daemon=True)
        try:
            with interrupts_held():
                worker.start()
            there.close()
            answer = here.recv()
        except _SERVER_GONE:
            raise UserError("the process that looks at the machine gave no answer") from None
        finally:
            if worker.pid is not None:  # it was started; nobody waits for more of it
                worker.kill()
                worker.join()
        return environment_of(answer)

    def slots(self, machine: Environment) -> dict[str, dict[str, str]]:
        return local_slots(machine)


class SubprocessEngine:
    """Workers that are new interpreters; each loads torch anew."""

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        # The worker holds one end of a pipe; when this process is gone it sees the other end close.
        reading, writing = os.pipe()
        started = {"DIPDDPM_STARTED": repr(time.monotonic()), "DIPDDPM_PARENT": str(reading)}
        with (unfinished / records.LOG).open("ab") as log, interrupts_held():
            worker = subprocess.Popen(
                [sys.executable, "-m", "bench.spawned", str(unfinished.resolve())],
                cwd=CHECKOUT,
                # Functions of the user's are found in the same order as here.
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    **environment,
                    **started,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(reading,),
            )
        os.close(reading)
        return _Spawned(worker, writing)

    def describe(self, device: str) -> Environment:
        return environment_of(ask_environment(device))

    def slots(self, machine: Environment) -> dict[str, dict[str, str]]:
        return local_slots(machine)


def ask_environment(device: str) -> dict[str, Any]:
    """The answer of bench.environment, in a process of its own."""
    command = [sys.executable, "-m", "bench.environment", device]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"python -m bench.environment failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def environment_of(answer: Mapping[str, Any]) -> Environment:
    """What bench.environment answered. Raises UserError if it refused."""
    if "refused" in answer:
        raise UserError(answer["refused"])
    return Environment.model_validate(answer)


class _Forked:
    begun = True

    def __init__(self, worker: BaseProcess) -> None:
        self._worker = worker
        assert worker.pid is not None
        self.pid = worker.pid

    def exit_code(self) -> int | None:
        if self._worker.exitcode != _NOBODY_KNOWS:
            return self._worker.exitcode
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return -signal.SIGKILL

    def kill(self) -> None:
        self._worker.kill()
        self._worker.join()


class _Unborn:
    """A worker whose forkserver was killed at that moment: nobody knows how far it came."""

    begun = True

    def exit_code(self) -> int:
        return -signal.SIGKILL

    def kill(self) -> None:
        pass


class _Spawned:
    begun = True

    def __init__(self, worker: subprocess.Popen[bytes], pipe: int) -> None:
        self._worker = worker
        self._pipe: int | None = pipe
        self.pid = worker.pid

    def exit_code(self) -> int | None:
        code = self._worker.poll()
        if code is not None and self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        return code

    def kill(self) -> None:
        self._worker.kill()
        self._worker.wait()
        self.exit_code()


# Inside the forked processes ----------------------------------------------------------------------


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.sentinel)


def _work(unfinished: Path, environment: dict[str, str], started: float) -> None:
    from bench import worker

    _end_with_parent()
    ignore_interrupts()
    os.environ.update(environment)
    with (unfinished / records.LOG).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    worker.main(unfinished, started)


def _describe(there: Connection, device: str) -> None:
    from bench import environment

    _end_with_parent()
    with contextlib.suppress(BrokenPipeError):  # who asked is gone
        there.send(environment.answer(device))
