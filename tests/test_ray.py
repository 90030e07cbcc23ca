"""Workers on a real Ray cluster: two nodes on this machine, and real kills."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import records
from bench.__main__ import main
from bench.engines import ForkserverEngine, Process
from bench.records import Run
from tests.faults.processes import Background, send, wait_until
from tests.outcomes import NUM_SMALL, SMALL, run_here, untimed
from tests.toy import BASE, new_run, run_all

# Its units take long enough to be met at work.
LONG = SMALL.replace("num_iter = 4", "num_iter = 400")

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="processes are looked for in /proc, which is Linux"
)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and a node beside it, each with one CPU."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # What they unpack, they unpack here; Ray's own files need a shorter path.
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@pytest.fixture
def suite(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "toy.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def started() -> Iterator[Callable[..., Background]]:
    running: list[Background] = []

    def start(*arguments: str | Path, threads: int = 1) -> Background:
        given = ("--device", "cpu", "--engine", "ray", "--reruns", "0")
        running.append(Background("run", *arguments, *given, OMP_NUM_THREADS=str(threads)))
        return running[-1]

    yield start
    for background in running:
        for process in background.living():
            send(process, signal.SIGKILL)
        background.process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_here(tmp_path_factory.mktemp("here"), LONG)


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


def assert_whole(background: Background, run: Path, whole: Run) -> str:
    """Ended well, with all records of the undisturbed run, and nobody is left; what it said."""
    code, said = background.end()
    assert code == 0, said
    assert untimed(Run.open(run)) == untimed(whole)
    assert list(run.glob(f"units/*{records.UNFINISHED}")) == []
    assert workers(run) == [] and background.orphans() == []
    # What Ray has to tell stays in its own logs.
    assert "raylet" not in said and "Ray" not in said.replace("Ray node", "")
    return said


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("travels", [False, True])
def test_two_nodes_give_the_records_of_this_machine_alone(
    cluster: Any,
    suite: Callable[[str], Path],
    tmp_path: Path,
    started: Callable[..., Background],
    travels: bool,
) -> None:
    run, storage = tmp_path / "run", tmp_path / "storage"
    through = ("--storage", f"file://{storage}") if travels else ()
    background = started(suite(SMALL), "--out", run, "--address", cluster.address, *through)
    said = assert_whole(background, run, run_here(tmp_path / "here", SMALL))
    assert f"records: {NUM_SMALL} ok" in said
    # Nothing is left on the way.
    assert storage.exists() is travels
    assert list(storage.glob("*")) == []


@pytest.mark.faults
@on_linux
def test_a_lost_node_s_unit_is_run_again_on_another(
    cluster: Any,
    suite: Callable[[str], Path],
    tmp_path: Path,
    whole: Run,
    started: Callable[..., Background],
) -> None:
    run = tmp_path / "run"
    (node,) = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid
    background = started(suite(LONG), "--out", run, "--address", cluster.address)
    # Priors keep the other node busy, or nobody: wait until this one has its own to do.
    wait_until(
        lambda: any(raylet == above.pid for one in in_the_middle(run) for above in one.parents())
    )
    cluster.remove_node(node, allow_graceful=False)
    said = assert_whole(background, run, whole)
    assert "again: " in said and "SIGKILL" in said
    assert len(list(run.glob(f"units/*{records.KILLED}1"))) == 1


@pytest.mark.faults
@on_linux
@pytest.mark.parametrize(("whose", "travels"), [("Ray", False), ("ours", False), ("ours", True)])
def test_a_killed_worker_is_run_again(
    cluster: Any,
    suite: Callable[[str], Path],
    tmp_path: Path,
    whole: Run,
    started: Callable[..., Background],
    whose: str,
    travels: bool,
) -> None:
    run, storage = tmp_path / "run", tmp_path / "storage"
    through = ("--storage", f"file://{storage}") if travels else ()
    background = started(suite(LONG), "--out", run, "--address", cluster.address, *through)
    worker = in_the_middle(tmp_path)[0]
    assert unit_of(worker).is_relative_to(run) is not travels
    unit = unit_of(worker).stem
    ray = worker.parent()
    assert ray is not None
    send(ray if whose == "Ray" else worker, signal.SIGKILL)
    said = assert_whole(background, run, whole)
    assert f"again: {unit}: the process was ended by SIGKILL" in said
    assert list(storage.glob("*")) == list(tmp_path.glob("dipddpm-*")) == []


@pytest.mark.slow
@on_linux
def test_a_unit_past_its_time_is_ended_on_its_node(
    cluster: Any, suite: Callable[[str], Path], tmp_path: Path, started: Callable[..., Background]
) -> None:
    # More than there are nodes: the third waits for one to be free again.
    text = BASE + "[[grid]]\nnum_images = 4\nepochs = 100000\nseed = [0, 1, 2]\n"
    run = tmp_path / "run"
    address = ("--address", cluster.address)
    background = started(suite(text), "--out", run, *address, "--timeout", "8", threads=2)
    code, said = background.end()
    assert code == 1, said
    # What was asked for here, and not what Ray sets for a worker with one CPU.
    assert Run.open(run).environment.num_threads == 2
    assert [record.status for record in Run.open(run).records()] == ["timeout"] * 3
    assert workers(tmp_path) == [] and background.orphans() == []


@pytest.mark.faults
@on_linux
@pytest.mark.parametrize("how", ["end", "once", "twice", "SIGTERM", "SIGKILL"])
def test_of_a_cluster_of_its_own_nobody_is_left(
    suite: Callable[[str], Path],
    tmp_path: Path,
    whole: Run,
    started: Callable[..., Background],
    how: str,
) -> None:
    run = tmp_path / "run"
    background = started(suite(LONG), "--out", run)
    in_the_middle(run)
    (raylet,) = (one for one in background.living() if one.name() == "raylet")
    assert raylet.environ()["RAY_USAGE_STATS_ENABLED"] == "0"
    # The port of its dashboard.
    ports = {one.laddr[1] for one in psutil.net_connections("tcp") if one.laddr}
    assert ports and 8265 not in ports
    if how == "end":
        assert_whole(background, run, whole)
        return
    number = {"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}.get(how, signal.SIGINT)
    if how == "SIGKILL":
        background.kill()
    else:
        # As a terminal does it; Slurm's SIGTERM reaches the cluster too.
        background.signal_all(number)
        if how == "twice":
            background.signal_all(number)
        code, said = background.end()
        assert code == 130 and "Traceback" not in said, said
        assert f"python -m bench resume {run}" in said
    assert background.orphans() == [] and workers(tmp_path) == []
    assert main(["resume", str(run), "--reruns", "0"]) == 0
    assert untimed(Run.open(run)) == untimed(whole)


class _Waiting:
    """A real worker that never says that it has begun."""

    begun = False

    def __init__(self, worker: Process) -> None:
        self.exit_code, self.kill = worker.exit_code, worker.kill


class _Queue(ForkserverEngine):
    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        return _Waiting(super().start(unfinished, environment))


def test_the_time_that_a_unit_waits_is_not_its_own(tmp_path: Path) -> None:
    text = BASE + "[[grid]]\nnum_images = 4\nepochs = 1\n"
    for engine, status in ((_Queue(), "ok"), (ForkserverEngine(), "timeout")):
        run = new_run(tmp_path / status, engine, text)
        [record] = run_all(run, engine, timeout_seconds=0.01).records()
        assert record.status == status


def refuse(
    capsys: pytest.CaptureFixture[str], suite: Path, *options: str, words: tuple[str, ...]
) -> None:
    """Exit status 2, one line, no run folder."""
    out = suite.parent / "run"
    assert main(["run", str(suite), "--device", "cpu", "--out", str(out), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--address", "127.0.0.1:1"), ("--address", "127.0.0.1:1", "refused")),
        (("--address", "auto"), ("--address", "'auto'", "refused")),
        (("--address", "nonsense"), ("--address", "HOST:PORT", "'nonsense'")),
        (("--address", ""), ("--address", "HOST:PORT", "''")),
        (("--storage", "a/path"), ("--storage", "URL", "'a/path'")),
        (("--storage", "nobody://a"), ("--storage", "URL", "'nobody://a'")),
    ],
)
def test_what_ray_cannot_reach_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    suite: Callable[[str], Path],
    options: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    # What "auto" stands for.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    refuse(capsys, suite(SMALL), "--engine", "ray", *options, words=words)


def test_without_ray_its_engine_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    suite: Callable[[str], Path],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    refuse(capsys, suite(SMALL), "--engine", "ray", words=("needs Ray", "pip install"))


@pytest.mark.parametrize("option", ["--address", "--storage"])
def test_an_option_of_rays_with_another_engine_is_refused(
    capsys: pytest.CaptureFixture[str], suite: Callable[[str], Path], option: str
) -> None:
    words = (option, "--engine ray", "forkserver")
    refuse(capsys, suite(SMALL), option, "file:///x", words=words)
