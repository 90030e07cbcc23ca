"""Where fresh processes come from: a server of `bench.commits.replicate` for each environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bench.commits.replicate import READY, Replicate, Request
from bench.commits.trees import CONSTRAINTS, LIBRARY, Repository, Tree, tree_sha256
from bench.errors import UserError
from bench.lifeline import interrupts_held

THIS_PYTHON = Path(sys.executable)


class ReplicateError(Exception):
    """A process that measures died, or ran for too long."""


@dataclass(frozen=True)
class Side:
    """A library to measure: where it lies, what it is, and by which interpreter it is run."""

    tree: Tree
    folder: Path
    sha256: str
    python: Path

    @classmethod
    def taken(cls, repository: Repository, tree: Tree, folder: Path, python: Path) -> Side:
        library = repository.take_library(tree, folder)
        # Else the first process to import it would compile it.
        subprocess.run([python, "-m", "compileall", "-q", library], check=False)
        return cls(tree, folder, tree_sha256(library), python)


class Servers:
    """One server for each interpreter, and the processes that it forks."""

    def __init__(self, harness: Path, scratch: Path, timeout: int) -> None:
        self._harness, self._scratch, self._timeout = harness, scratch, timeout
        self._servers: dict[Path, subprocess.Popen[str]] = {}
        self._log = scratch / "server.log"
        self._count = 0

    def measure(
        self,
        side: Side,
        *,
        benchmarks: tuple[str, ...] = (),
        keyword: str = "",
        seconds: float,
        exact: bool,
    ) -> Replicate:
        """What one fresh process finds. Raises ReplicateError if it gave no answer."""
        self._count += 1
        out = self._scratch / f"{self._count}.json"
        log = out.with_suffix(".log")
        request = Request(
            side=side.folder, sha256=side.sha256, benchmarks=benchmarks, keyword=keyword,
            seconds=seconds, exact=exact, timeout=self._timeout, out=out, log=log,
        )  # fmt: skip
        server = self.start(side)
        assert server.stdin is not None and server.stdout is not None
        try:
            server.stdin.write(request.model_dump_json() + "\n")
            server.stdin.flush()
            answer = server.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        if answer != "0":
            why = _why(answer, log if answer else self._log, self._timeout)
            raise ReplicateError(f"{side.tree.name}: {why}")
        try:
            return Replicate.model_validate_json(out.read_bytes())
        except (OSError, ValidationError) as error:
            raise ReplicateError(f"{side.tree.name}: no answer that can be read") from error

    def start(self, side: Side) -> subprocess.Popen[str]:
        """The server for a side, when it has loaded what it loads: at once if there is one.

        Raises ReplicateError if it cannot be started.
        """
        known = self._servers.get(side.python)
        if known is not None and known.poll() is None:
            return known
        environment = {
            **os.environ,
            # Without the checkout, which would be found first and measure itself.
            "PYTHONPATH": str(self._harness),
            "PYTHONSAFEPATH": "1",
            # pytest-benchmark asks git for a tag, which then writes into the checkout's index.
            "GIT_CEILING_DIRECTORIES": str(self._scratch),
        }
        environment.pop("PYTEST_ADDOPTS", None)
        with self._log.open("ab") as log, interrupts_held():
            started = subprocess.Popen(
                [side.python, "-m", "bench.commits.replicate"],
                cwd=self._harness,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._servers[side.python] = started
        assert started.stdout is not None
        if started.stdout.readline().strip() != READY:
            raise ReplicateError(f"{side.tree.name}: {_why('', self._log, self._timeout)}")
        return started

    def close(self) -> None:
        """Ends the servers, and with them what they forked. The next to be asked is a new one: what
        a process has by chance, such as where its memory lies, is drawn again."""
        for server in self._servers.values():
            server.kill()
            server.communicate()
        self._servers.clear()


def _why(answer: str, log: Path, timeout: int) -> str:
    """What the process's exit status, or nothing of it, means."""
    if answer == str(-signal.SIGALRM):
        return f"a process ran for longer than {timeout} s"
    if answer.startswith("-"):
        return f"a process that measured was ended by {signal.Signals(-int(answer)).name}"
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines:
            return f"a process that measured failed: {lines[-1]}"
    return "a process that measured failed"


def same_environment(repository: Repository, base: Tree, head: Tree) -> bool:
    """Whether both commits ask for the same versions of all packages."""
    first, second = (repository.file_of(tree, CONSTRAINTS) for tree in (base, head))
    return first == second


def own_python(repository: Repository, tree: Tree, into: Path) -> Path:
    """The interpreter of an environment that has what the commit itself asks for.

    Raises UserError with pip's own words if it cannot be installed.
    """
    source = into / "source"
    repository.take_all(tree, source)
    venv.create(into / "environment", with_pip=True)
    python = into / "environment" / "bin" / "python"
    constraints = ["-c", CONSTRAINTS] if (source / CONSTRAINTS).is_file() else []

    def pip(*arguments: str) -> None:
        command = [str(python), "-m", "pip", "--quiet", *arguments]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise UserError(
                f"{tree.name}: its environment cannot be installed: {(said or ['?'])[-1]}"
            )

    pip("install", *constraints, ".[bench]")
    # What is measured is the folder that is swapped in.
    pip("uninstall", "--yes", LIBRARY)
    return python


@contextlib.contextmanager
def serving(harness: Path, scratch: Path, timeout: int) -> Iterator[Servers]:
    """Servers that end with the block."""
    servers = Servers(harness, scratch, timeout)
    try:
        yield servers
    finally:
        servers.close()
