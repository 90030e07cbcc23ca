"""Workers, nodes and runners killed that work through Ray."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import records
from tests.faults.judge import MARKS, NO_RERUNS, Whole, done_units
from tests.outcomes import SMALL
from tests.processes import Start, send
from tests.ray_nodes import ON_RAY, end_well, held_in_the_middle, in_the_middle, unit_of, workers

# Its units take long enough to be met at work.
LONG = SMALL.replace("num_iter = 4", "num_iter = 400")
pytestmark = MARKS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Undisturbed, on this machine alone."""
    return Whole.made(LONG, tmp_path_factory.mktemp("whole"))


def test_a_lost_node_s_unit_is_run_again_on_another(
    cluster: Any, whole: Whole, tmp_path: Path, started: Start
) -> None:
    fault, run = "SIGKILL of a Ray node", tmp_path / "run"
    (node,) = cluster.worker_nodes
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    address = ("--address", cluster.address)
    background = started("run", whole.suite, "--out", run, *ON_RAY, *address)
    # Priors keep the other node busy, or nobody: wait until this one has its own to do.
    worker = held_in_the_middle(run, raylet)
    unit = unit_of(worker).stem
    cluster.remove_node(node, allow_graceful=False)
    said = end_well(background, run)
    assert f"again: {unit}: the process was ended by SIGKILL" in said
    assert len(list(run.glob(f"units/*{records.KILLED}1"))) == 1
    whole.tally(fault, background)
    whole.judge(fault, run, {})


@pytest.mark.parametrize(("whose", "travels"), [("Ray", False), ("ours", False), ("ours", True)])
def test_a_killed_worker_is_run_again(
    cluster: Any, whole: Whole, tmp_path: Path, started: Start, whose: str, travels: bool
) -> None:
    fault = {"Ray": "SIGKILL of a Ray worker", "ours": "SIGKILL of a worker on a Ray node"}[whose]
    run, storage = tmp_path / "run", tmp_path / "storage"
    options: tuple[str, ...] = ("--address", cluster.address)
    if travels:
        options += ("--storage", f"file://{storage}")
    background = started("run", whole.suite, "--out", run, *ON_RAY, *options)
    worker = held_in_the_middle(tmp_path)
    assert unit_of(worker).is_relative_to(run) is not travels
    unit = unit_of(worker).stem
    ray = worker.parent()
    assert ray is not None
    send(ray if whose == "Ray" else worker, signal.SIGKILL)
    said = end_well(background, run)
    assert f"again: {unit}: the process was ended by SIGKILL" in said
    assert list(storage.glob("*")) == list(tmp_path.glob("dipddpm-*")) == []
    whole.tally(fault, background)
    whole.judge(fault, run, {})


@pytest.mark.parametrize("how", ["end", "once", "twice", "SIGTERM", "SIGKILL"])
def test_of_a_cluster_of_its_own_nobody_is_left(
    whole: Whole, tmp_path: Path, started: Start, how: str
) -> None:
    fault, run = f"a Ray cluster of its own, ended by {how}", tmp_path / "run"
    background = started("run", whole.suite, "--out", run, *ON_RAY)
    in_the_middle(run)
    (raylet,) = (one for one in background.living() if one.name() == "raylet")
    assert raylet.environ()["RAY_USAGE_STATS_ENABLED"] == "0"
    # The port of its dashboard.
    ports = {one.laddr[1] for one in psutil.net_connections("tcp") if one.laddr}
    assert ports and 8265 not in ports
    if how == "end":
        end_well(background, run)
    elif how == "SIGKILL":
        background.kill()
    else:
        # As a terminal does it; Slurm's SIGTERM reaches the cluster too.
        number = signal.SIGTERM if how == "SIGTERM" else signal.SIGINT
        background.signal_all(number)
        if how == "twice":
            background.signal_all(number)
        code, said = background.end()
        assert code == 130 and "Traceback" not in said, said
        assert f"python -m bench resume {run}" in said
    whole.tally(fault, background)
    assert workers(tmp_path) == []
    done = done_units(run)
    code, said = started("resume", run, *NO_RERUNS).end()
    assert code == 0, said
    whole.judge(fault, run, done)


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_cluster_of_its_own_that_dies_is_told(
    part: str, whole: Whole, tmp_path: Path, started: Start
) -> None:
    fault, run = f"SIGKILL of the {part} of a Ray cluster of its own", tmp_path / "run"
    background = started("run", whole.suite, "--out", run, *ON_RAY)
    in_the_middle(run)
    (process,) = (one for one in background.living() if one.name() == part)
    # As if it waited for what is dead: it can see no end.
    (agent,) = (one for one in background.living() if "runtime_env/agent" in str(one.cmdline()))
    send(agent, signal.SIGSTOP)
    send(process, signal.SIGKILL)
    code, said = background.end()
    assert code == 2 and "Traceback" not in said, said
    [line] = [line for line in said.splitlines() if line.startswith("bench:")]
    assert "has ended" in line and "nothing that was done is lost" in line
    whole.tally(fault, background)
    assert workers(tmp_path) == []
    done = done_units(run)
    code, said = started("resume", run, *NO_RERUNS).end()
    assert code == 0, said
    whole.judge(fault, run, done)
