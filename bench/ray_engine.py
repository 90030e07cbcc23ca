"""Workers on a Ray cluster: each unit in a process of its own, on whichever node is free.

This checkout lies at the same path on all nodes. So does the run folder, on a file system that they
share; or folders travel through a storage that fsspec can reach. Imports no torch.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import records
from bench.engines import CHECKOUT, Process, SubprocessEngine, environment_of
from bench.records import Environment, UnitSpec, UserError

_POLL_SECONDS = 0.2


class RayEngine:
    """One unit at a time on each GPU of a cluster or, without, on each node.

    address: of a running cluster ("auto": the one that this machine belongs to); None starts one
        here
    storage: an fsspec URL through which folders travel; None: the run folder is shared
    Raises UserError if there is no Ray, or no cluster at that address.
    """

    def __init__(self, address: str | None = None, storage: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UserError('--engine ray needs Ray: pip install "dipddpm[ray]"') from None
        self._ray, self._storage = ray, storage
        # Where a worker of Ray's finds this module, and functions of the user's.
        paths = os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)])
        try:
            ray.init(
                address=address,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                ignore_reinit_error=True,
                runtime_env={"env_vars": {"PYTHONPATH": paths}},
            )
        except ConnectionError as error:
            raise UserError(f"--address must be that of a Ray cluster, got {address!r}") from error

    def slots(self, machine: Environment) -> dict[str, dict[str, str]]:
        """As many as there are GPUs in the cluster, or nodes."""
        if machine.device == "cuda":
            return {f"Ray GPU {i}": {} for i in range(int(self._ray.cluster_resources()["GPU"]))}
        return {f"Ray node {i}": {} for i in range(len(self._nodes()))}

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        device = records.read(unfinished / records.SPEC, UnitSpec).device
        folder = unfinished.resolve()
        work = self._remote(_work, device)
        if self._storage is None:
            return _Remote(self._ray, work.remote(str(folder), dict(environment)))
        travel = _Travel(self._storage, folder)
        travel.put_unit()
        reference = work.remote(str(folder), dict(environment), storage=self._storage)
        return _Remote(self._ray, reference, travel)

    def describe(self, device: str) -> Environment:
        if device == "auto":
            device = "cuda" if self._ray.cluster_resources().get("GPU") else "cpu"
        answer = self._ray.get(self._remote(_describe, device).remote(device))
        return environment_of(json.loads(answer))

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]

    def _remote(self, function: Any, device: str) -> Any:
        # All CPUs of a node: workers side by side would slow each other.
        cpus = min(node["Resources"]["CPU"] for node in self._nodes())
        needs = {"num_gpus": 1, "num_cpus": 1} if device == "cuda" else {"num_cpus": cpus}
        # A lost node's unit is begun again on another.
        return self._ray.remote(max_calls=1, max_retries=2, **needs)(function)


class _Remote:
    """A unit at work somewhere."""

    pid = 0

    def __init__(self, ray: Any, reference: Any, travel: _Travel | None = None) -> None:
        self._ray, self._reference, self._travel = ray, reference, travel
        self._code: int | None = None

    def exit_code(self) -> int | None:
        if self._code is None and self._ray.wait([self._reference], timeout=0)[0]:
            self._code = self._ask()
            if self._code == 0 and self._travel is not None:
                self._travel.get_unit()
        return self._code

    def _ask(self) -> int:
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(self._reference))
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            return -9  # for the third time, by Ray's count

    def kill(self) -> None:
        self._ray.cancel(self._reference, force=True)
        self._ray.wait([self._reference], timeout=30)


class _Travel:
    """The folders of one unit on their way to a node and back."""

    def __init__(self, storage: str, unfinished: Path) -> None:
        import fsspec  # type: ignore[import-untyped]

        self._unfinished, self._run = unfinished, unfinished.parent.parent
        self._files, root = fsspec.url_to_fs(storage)
        self._root = f"{root.rstrip('/')}/{self._run.name}"

    def _there(self, path: Path) -> str:
        return f"{self._root}/{path.relative_to(self._run).as_posix()}"

    def put_unit(self) -> None:
        """What a worker reads: of the run, of the unit, and of those it needs."""
        spec = records.read(self._unfinished / records.SPEC, UnitSpec)
        for path in (self._run / records.PLAN, self._run / records.ENVIRONMENT):
            self._files.put_file(str(path), self._there(path))
        self._replace(self._unfinished)
        for unit in spec.needs:
            folder = self._run / records.UNITS / unit
            if not self._files.exists(self._there(folder)):
                self._replace(folder)

    def put_result(self) -> None:
        """The unit as it is now."""
        self._replace(self._unfinished.with_suffix(""))

    def _replace(self, folder: Path) -> None:
        there = self._there(folder)
        if self._files.exists(there):
            self._files.rm(there, recursive=True)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._files.makedirs(self._there(path.parent), exist_ok=True)
                self._files.put_file(str(path), self._there(path))

    def get_all(self) -> None:
        """All that was put, below the run folder here."""
        spec_file = self._unfinished / records.SPEC
        self._get(self._run / records.PLAN, self._run / records.ENVIRONMENT, spec_file)
        spec = records.read(spec_file, UnitSpec)
        for unit in spec.needs:
            self._get_folder(self._run / records.UNITS / unit)

    def get_unit(self) -> None:
        """The unit that was done, in the place of the unfinished one."""
        folder = self._unfinished.with_suffix("")
        arriving = folder.with_name(f"{folder.name}.arriving")
        shutil.rmtree(arriving, ignore_errors=True)
        self._get_folder(folder, arriving)
        shutil.rmtree(self._unfinished)
        arriving.rename(self._unfinished)
        failed = records.read(self._unfinished / records.SUMMARY, records.UnitSummary).status
        records.finish_unit(self._unfinished, failed=failed != "ok")

    def _get_folder(self, folder: Path, into: Path | None = None) -> None:
        there = self._there(folder)
        for path in self._files.find(there):
            here = (into or folder) / path[path.index(there) + len(there) :].lstrip("/")
            here.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(path, str(here))

    def _get(self, *paths: Path) -> None:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(self._there(path), str(path))


# On the nodes -------------------------------------------------------------------------------------


def _work(folder: str, environment: dict[str, str], storage: str | None = None) -> int:
    """Runs the unit of an unfinished folder; the exit status of its process."""
    unfinished = Path(folder)
    if storage is None:
        return _work_in(unfinished, environment)
    with tempfile.TemporaryDirectory() as here:
        unfinished = Path(here, *unfinished.parts[-3:])
        travel = _Travel(storage, unfinished)
        travel.get_all()
        code = _work_in(unfinished, environment)
        if code == 0:
            travel.put_result()
        return code


def _work_in(unfinished: Path, environment: dict[str, str]) -> int:
    if not unfinished.exists():  # a node was lost when it had just finished
        return 0
    # A node that was lost may have left a part of it.
    for path in unfinished.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != records.SPEC:
            path.unlink()
    worker = SubprocessEngine().start(unfinished, environment)
    while (code := worker.exit_code()) is None:
        time.sleep(_POLL_SECONDS)
    return code


def _describe(device: str) -> str:
    command = [sys.executable, "-m", "bench.environment", device]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
