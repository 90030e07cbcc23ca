"""One undisturbed run, what is started and ended, and the table of all faults at the end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.judge import SEED, TALLIES, TOY, Whole, go_on
from tests.faults.processes import Background, Start, send


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TALLIES:
        return
    terminalreporter.section(f"faults (FAULTS_SEED={SEED})")
    terminalreporter.write_line(f"{'fault':58}{'times':>7}{'lost':>7}{'doubled':>9}{'orphans':>9}")
    for fault, one in TALLIES.items():
        terminalreporter.write_line(
            f"{fault:58}{one.times:7}{one.lost:7}{one.doubled:9}{one.orphans:9}"
        )


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "toy.toml"
    path.write_text(TOY)
    return path


@pytest.fixture(scope="session")
def whole(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole") / "run"
    began = time.monotonic()
    code, said = Background(*go_on(toy, folder)).end()
    assert code == 0, said
    return Whole(toy, folder, time.monotonic() - began)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """Of the session's seed and the test's own name."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def started() -> Iterator[Start]:
    running: list[Background] = []

    def start(*arguments: str | Path, **more: object) -> Background:
        running.append(Background(*arguments, **more))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for background in running:
        for process in background.living():
            send(process, signal.SIGKILL)
        background.process.communicate()
