"""One undisturbed run, and the table of all faults at the end."""

from __future__ import annotations

import random

import pytest

from tests.faults.judge import SEED, TALLIES, TOY, Whole


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
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole.made(TOY, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """Of the session's seed and the test's own name."""
    return random.Random(f"{SEED} {request.node.name}")
