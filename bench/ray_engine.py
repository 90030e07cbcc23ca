"""Workers on a Ray cluster: each unit in a process of its own, on whichever node is free.

This checkout lies at the same path on all nodes. So does the run folder, on a file system that they
share; or folders travel through a storage that fsspec can reach. Imports no torch.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from bench import records
from bench.engines import CHECKOUT, Process, SubprocessEngine, ask_environment, environment_of
from bench.errors import UserError
from bench.records import Environment, UnitSpec
from bench.run_folder import put_in_place

_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 10
# How long a node is waited for that is to end its worker.
_KILL_SECONDS = 30
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",  # of the client here, while it tries to connect
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # what nodes have to tell; it stays in their logs
}
_THREADS = "OMP_NUM_THREADS"
# In the environment of all processes of a cluster that was started here.
_CLUSTER = "DIPDDPM_RAY_CLUSTER"


class RayEngine:
    """One unit at a time on each GPU of a cluster or, without, on each node.

    A unit whose worker or node is lost ends as by SIGKILL: who runs it decides what then.

    address: HOST:PORT of a running cluster, "auto": the one that this machine belongs to; None
        starts one here
    storage: an fsspec URL through which folders travel; None: the run folder is shared
    Raises UserError if there is no Ray, no cluster at that address, or no such storage.
    """

    def __init__(self, address: str | None = None, storage: str | None = None) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise UserError('--engine ray needs Ray: pip install "dipddpm[ray]"') from None
        if storage is not None:
            _check_storage(storage)
        self._ray, self._storage = ray, storage
        # As the other engines' workers have them: modules in the same order, and the threads that
        # torch takes unless told otherwise (Ray tells).
        paths = os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)])
        self._environment = {"PYTHONPATH": paths}
        if _THREADS in os.environ:
            self._environment[_THREADS] = os.environ[_THREADS]
        if not ray.is_initialized():
            self._connect(address)

    def _connect(self, address: str | None) -> None:
        before = signal.getsignal(signal.SIGTERM)
        os.environ[_CLUSTER] = cluster = uuid.uuid4().hex
        try:
            self._ray.init(
                address="local" if address is None else _answering(address),
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": self._environment["PYTHONPATH"]}},
            )
        except (
            OSError, OverflowError, RuntimeError, ValueError, self._ray.exceptions.RayError,
        ) as error:  # fmt: skip
            text = "no Ray cluster could be started here"
            if address is not None:
                text = f"--address must be HOST:PORT of a Ray cluster, or auto, got {address!r}"
            raise UserError(f"{text}: {error}") from error
        finally:
            signal.signal(signal.SIGTERM, before)
            del os.environ[_CLUSTER]
        if address is None:
            atexit.register(self._end, cluster)

    def _end(self, cluster: str) -> None:
        """Ends a cluster that was started here, and what of it would wait for a dead part."""
        if not self._is_lost():
            self._ray.shutdown()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # gone, or another user's
                if process.environ().get(_CLUSTER) == cluster:
                    process.kill()

    def slots(self, machine: Environment) -> dict[str, dict[str, str]]:
        """As many as there are GPUs in the cluster, or nodes with the most CPUs."""
        what, count = ("GPU", self._num_gpus()) if machine.device == "cuda" else (
            "node", len(self._largest()))  # fmt: skip
        return {f"Ray {what} {i}": {} for i in range(count)}

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        if self._is_lost():
            raise UserError(
                "the Ray cluster that was started here has ended; nothing that was done is lost, "
                "go on with `bench resume`"
            )
        device = records.read(unfinished / records.SPEC, UnitSpec).device
        folder = unfinished.resolve()
        luggage = None
        if self._storage is not None:
            with _told():
                luggage = _Luggage.packed(self._storage, folder)
        work = self._remote(_work, device, num_returns="streaming")
        given = {**self._environment, **environment}
        answers = work.remote(str(folder), given, luggage)
        return _Remote(self._ray, answers, folder, luggage, self._is_lost)

    def _is_lost(self) -> bool:
        """Whether a process has ended of a cluster that was started here.

        Some calls would wait for it for a minute, whereupon Ray ends this process.
        """
        node: Any = self._ray._private.worker._global_node
        return bool(node.dead_processes())

    def describe(self, device: str) -> Environment:
        if device == "auto":
            device = "cuda" if self._num_gpus() else "cpu"
        if device == "cuda" and not self._num_gpus():
            raise UserError("--device must be cpu here (the Ray cluster has no GPU), got 'cuda'")
        asked = self._remote(_describe, device).remote(device, self._environment)
        try:
            return environment_of(self._ray.get(asked))
        except self._ray.exceptions.RayError as error:
            raise UserError(f"a Ray node could not look at itself: {error}") from error

    def _num_gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _nodes(self) -> list[dict[str, Any]]:
        """Those that live and may work."""
        nodes = [node for node in self._ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]
        if not nodes:
            raise UserError("the Ray cluster has no node with a CPU for its workers")
        return nodes

    def _largest(self) -> list[dict[str, Any]]:
        """The nodes with the most CPUs: in smaller ones a unit would take another time."""
        nodes = self._nodes()
        most = max(node["Resources"]["CPU"] for node in nodes)
        return [node for node in nodes if node["Resources"]["CPU"] == most]

    def _remote(self, function: Any, device: str, **options: Any) -> Any:
        # On CPUs all of a node's: workers side by side would slow each other.
        cpus = 1 if device == "cuda" else self._largest()[0]["Resources"]["CPU"]
        gpus = 1 if device == "cuda" else 0
        return self._ray.remote(
            max_calls=1, max_retries=0, num_cpus=cpus, num_gpus=gpus, **options
        )(function)


def _answering(address: str) -> str:
    """HOST:PORT, where something answers: Ray itself would try for minutes."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        address = str(canonicalize_bootstrap_address(address))
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    return address


def _check_storage(storage: str) -> None:
    """A path would be another one in each node's working directory."""
    import fsspec  # type: ignore[import-untyped]

    problem: object = "no ://"
    if "://" in storage:
        try:
            fsspec.url_to_fs(storage)
            return
        except (ImportError, ValueError) as error:
            problem = error
    raise UserError(f"--storage must be a URL that fsspec knows, got {storage!r}: {problem}")


class _Remote:
    """A unit that waits for a node, or is at work on one."""

    def __init__(
        self,
        ray: Any,
        answers: Any,
        unfinished: Path,
        luggage: _Luggage | None,
        is_lost: Callable[[], bool],
    ) -> None:
        self._ray, self._answers, self._is_lost = ray, answers, is_lost
        self._unfinished, self._luggage = unfinished, luggage
        self.begun = False
        self._code: int | None = None

    def exit_code(self) -> int | None:
        if self._code is None and self._is_lost():
            self._code = -signal.SIGKILL
        while self._code is None and self._ray.wait([self._answers], timeout=0)[0]:
            self._code = self._next()
            self.begun = True
            if self._code is not None and self._luggage is not None:
                with _told():
                    self._luggage.bring_home(self._unfinished, done=self._code == 0)
        return self._code

    def _next(self) -> int | None:
        """What the worker answers next: None as it begins, then the exit status of the unit."""
        errors = self._ray.exceptions
        try:
            answer: int | None = self._ray.get(next(self._answers))
            return answer
        except (
            errors.LocalRayletDiedError, errors.NodeDiedError, errors.OutOfMemoryError,
            errors.WorkerCrashedError,
        ):  # fmt: skip
            return -signal.SIGKILL
        except errors.RayTaskError as error:
            if isinstance(error.cause, OSError):  # of folders, which the user can mend
                raise UserError(error.cause) from error
            raise

    def kill(self) -> None:
        """Asks its node to, which ends the process of the unit before its own; then makes it."""
        errors = self._ray.exceptions
        for force in () if self._is_lost() else (False, True):
            self._ray.cancel(self._answers, force=force)
            try:
                while True:
                    self._ray.get(next(self._answers), timeout=_KILL_SECONDS)
            except errors.GetTimeoutError:
                continue
            except (StopIteration, errors.RayError):
                break
        if self._luggage is not None:
            with _told():
                self._luggage.throw_away()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What a storage refuses."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--storage: {error}") from error


class _Luggage:
    """What an attempt at a unit takes along to a node, and brings back.

    It lies in the storage in a folder of its own, so that nothing is mistaken for it: neither
    another run's, nor what comes late from a node that was given up.
    """

    def __init__(self, storage: str) -> None:
        self._url = f"{storage.rstrip('/')}/dipddpm-{uuid.uuid4().hex}"

    @classmethod
    def packed(cls, storage: str, unfinished: Path) -> _Luggage:
        """What a worker reads: of the run, of the unit, and of those it needs."""
        luggage, run = cls(storage), unfinished.parent.parent
        spec = records.read(unfinished / records.SPEC, UnitSpec)
        for name in (
            records.PLAN,
            records.ENVIRONMENT,
            *(f"{records.UNITS}/{unit}" for unit in (unfinished.name, *spec.needs)),
        ):
            luggage._put(run / name, f"run/{name}")
        return luggage

    def unpack(self, run: Path) -> None:
        """Makes the run folder that was packed."""
        self._get("run", run)

    def put_result(self, unit: Path) -> None:
        """The folder of a unit as its worker left it."""
        self._put(unit, "result")

    def bring_home(self, unfinished: Path, *, done: bool) -> None:
        """Puts the result, if there is any, in the place of the unfinished unit."""
        files, root = self._open()
        if files.exists(f"{root}/result"):
            arriving = unfinished.with_suffix(".arriving")
            shutil.rmtree(arriving, ignore_errors=True)
            self._get("result", arriving)
            shutil.rmtree(unfinished)
            arriving.rename(unfinished)
        if done:
            put_in_place(unfinished)
        self.throw_away()

    def throw_away(self) -> None:
        files, root = self._open()
        if files.exists(root):
            files.rm(root, recursive=True)

    def _open(self) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.url_to_fs(self._url)
        return files, root

    def _put(self, here: Path, name: str) -> None:
        files, root = self._open()
        for path in (here, *here.rglob("*")):
            if path.is_file():
                there = f"{root}/{name}{path.as_posix().removeprefix(here.as_posix())}"
                files.makedirs(there.rpartition("/")[0], exist_ok=True)
                files.put_file(str(path), there)

    def _get(self, name: str, here: Path) -> None:
        files, root = self._open()
        found = files.find(f"{root}/{name}")
        if not found:
            raise FileNotFoundError(
                f"{self._url} is not there for {platform.node()}: --storage must be one that all "
                "nodes reach"
            )
        for there in found:
            path = here / there.partition(f"{root}/{name}/")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(there, str(path))


# On the nodes -------------------------------------------------------------------------------------


def _work(
    folder: str, environment: Mapping[str, str], luggage: _Luggage | None
) -> Iterator[int | None]:
    """Runs the unit of an unfinished folder: yields None as it begins, then its exit status."""
    yield None
    unfinished = Path(folder)
    if luggage is None:
        if not unfinished.is_dir():
            raise FileNotFoundError(
                f"{folder} is not on the Ray node {platform.node()}: its file system must be "
                "shared, or --storage given"
            )
        yield _exit_code(unfinished, environment)
        return
    with tempfile.TemporaryDirectory(prefix="dipddpm-") as run:
        luggage.unpack(Path(run))
        unfinished = Path(run, records.UNITS, unfinished.name)
        code = _exit_code(unfinished, environment)
        done = unfinished.with_suffix("")
        luggage.put_result(done if done.exists() else unfinished)
        yield code


def _exit_code(unfinished: Path, environment: Mapping[str, str]) -> int:
    os.environ.pop(_THREADS, None)
    worker = SubprocessEngine().start(unfinished, environment)
    try:
        while (code := worker.exit_code()) is None:
            time.sleep(_POLL_SECONDS)
        return code
    finally:
        if worker.exit_code() is None:
            worker.kill()


def _describe(device: str, environment: Mapping[str, str]) -> dict[str, Any]:
    os.environ.pop(_THREADS, None)
    os.environ.update(environment)
    return ask_environment(device)
