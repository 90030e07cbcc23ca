"""Runs in real processes: started, watched and ended from outside. Linux, for /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench import records

ROOT = Path(__file__).parents[1]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
# Stands in the environment of a command and of all that it starts, whoever becomes their parent.
_TAG = "DIPDDPM_FAULTS"
# A worker that loads images in processes of its own (torch's DataLoader) leaves them for so long:
# they look for their parent every five seconds.
ORPHAN_SECONDS = 12.0


class Background:
    """`python -m bench` at work, in a process group of its own."""

    def __init__(
        self,
        *arguments: str | Path,
        before: Callable[[], None] = lambda: None,
        **environment: str,
    ) -> None:
        self._tag = uuid.uuid4().hex

        def prepare() -> None:
            # A shell starts what it puts in the background deaf to Ctrl-C, and that is inherited.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()

        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment, _TAG: self._tag},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=prepare,
        )

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said, when it is over."""
        said = self.process.communicate(timeout=300)[0]
        return self.process.returncode, said

    def kill(self) -> None:
        """SIGKILL of the runner alone."""
        self.process.kill()
        self.end()

    def signal_all(self, number: signal.Signals) -> None:
        """As a terminal and a scheduler do it: to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def workers(self) -> list[psutil.Process]:
        """The processes that work on units, in both forms."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return [
                *(
                    one
                    for child in children
                    if _is(child, "forkserver")
                    for one in child.children()
                ),
                *(child for child in children if _is(child, "bench.spawned")),
            ]
        return []

    def forkserver(self) -> psutil.Process | None:
        """The server that forks the workers; None if it is not there yet."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return next((child for child in children if _is(child, "forkserver")), None)
        return None

    def living(self) -> list[psutil.Process]:
        """The runner and all that came of it."""
        return [one for one in psutil.process_iter() if self._is_of_this(one)]

    def _is_of_this(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_TAG) == self._tag
        except (psutil.Error, OSError):  # gone, or of the kernel
            return False

    def orphans(self) -> list[psutil.Process]:
        """What still lives when there was time to end; the runner itself is over."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (found := self.living()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found


Start = Callable[..., Background]


def _is(process: psutil.Process, word: str) -> bool:
    try:
        return word in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def send(process: psutil.Process, number: signal.Signals) -> None:
    """If it is still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def at_work(run: Path) -> bool:
    """Whether a worker has begun to count its steps."""
    return any(run.glob(f"units/*{records.UNFINISHED}/{records.PROGRESS}"))
