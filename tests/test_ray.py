"""Workers on a real Ray cluster: two nodes on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.engines import ForkserverEngine, Process
from bench.run_folder import Run
from tests.outcomes import NUM_SMALL, SMALL, run_here, untimed
from tests.processes import Start, on_linux
from tests.ray_nodes import ON_RAY, end_well, workers
from tests.toy import BASE, new_run, run_all


@pytest.fixture
def suite(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "toy.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("travels", [False, True])
def test_two_nodes_give_the_records_of_this_machine_alone(
    cluster: Any, suite: Callable[[str], Path], tmp_path: Path, started: Start, travels: bool
) -> None:
    run, storage = tmp_path / "run", tmp_path / "storage"
    options: tuple[str, ...] = ("--address", cluster.address)
    if travels:
        options += ("--storage", f"file://{storage}")
    background = started("run", suite(SMALL), "--out", run, *ON_RAY, *options)
    assert f"records: {NUM_SMALL} ok" in end_well(background, run)
    assert untimed(Run.open(run)) == untimed(run_here(tmp_path / "here", SMALL))
    # Nothing is left on the way.
    assert storage.exists() is travels
    assert list(storage.glob("*")) == []


@pytest.mark.slow
@on_linux
def test_a_unit_past_its_time_is_ended_on_its_node(
    cluster: Any, suite: Callable[[str], Path], tmp_path: Path, started: Start
) -> None:
    # More than there are nodes: the third waits for one to be free again.
    text = BASE + "[[grid]]\nnum_images = 4\nepochs = 100000\nseed = [0, 1, 2]\n"
    run = tmp_path / "run"
    options = ("--address", cluster.address, "--timeout", "8")
    background = started("run", suite(text), "--out", run, *ON_RAY, *options, OMP_NUM_THREADS="2")
    code, said = background.end()
    assert code == 1, said
    # What was asked for here, and not what Ray sets for a worker with one CPU.
    assert Run.open(run).environment.num_threads == 2
    assert [record.status for record in Run.open(run).records()] == ["timeout"] * 3
    assert workers(tmp_path) == [] and background.orphans() == []


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
