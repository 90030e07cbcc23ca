"""The runner's rule, by hand, by its bounds, and by what `bench plan` says."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench import dryrun
from bench.errors import UserError
from bench.records import UnitSpec
from bench.schedule import schedule
from tests.toy import toy_units

ROOT = Path(__file__).parents[1]


def unit(name: str, *needs: str) -> UnitSpec:
    return toy_units()[0].model_copy(update={"unit": name, "needs": needs})


def test_by_hand() -> None:
    units = [unit("a"), unit("c", "a"), unit("b"), unit("d", "a", "b"), unit("e")]
    seconds = {"a": 2.0, "b": 5.0, "c": 4.0, "d": 1.0, "e": 3.0}
    # First a and b; then c for a; b is over at 5, when d may run; e comes last.
    two = schedule(units, seconds, 2)
    assert two.wall_seconds == 9.0
    assert two.idle_share == pytest.approx(1 - 15 / 18)
    assert schedule(units, seconds, 1).wall_seconds == 15.0
    assert schedule(units, seconds, 1).idle_share == 0.0
    # Without end of devices: b, and what needs it.
    assert schedule(units, seconds, 100).wall_seconds == 6.0


def test_it_keeps_to_the_bounds_of_list_scheduling() -> None:
    """Graham 1966: at most the work of all shared by all, and the longest chain."""
    draw = random.Random(0)
    for _ in range(200):
        names = [f"u{i}" for i in range(draw.randint(1, 20))]
        first = names[: draw.randint(0, 3)]
        units = [
            unit(name, *(() if name in first else draw.sample(first, draw.randint(0, len(first)))))
            for name in names
        ]
        draw.shuffle(units)
        seconds = {name: draw.choice([1.0, 2.5, draw.random()]) for name in names}
        chain = max(
            seconds[one.unit] + max((seconds[need] for need in one.needs), default=0.0)
            for one in units
        )
        count = draw.randint(1, 6)
        found, work = schedule(units, seconds, count), sum(seconds.values())
        assert found.busy_seconds == pytest.approx(work)
        assert found.wall_seconds >= max(chain, work / count) - 1e-9
        assert found.wall_seconds <= work / count + (1 - 1 / count) * chain + 1e-9


def test_a_plan_tells_it() -> None:
    screen = Console(width=200, record=True, file=io.StringIO())
    dryrun.show(toy_units(), "h100", None, screen, timed=False, num_gpus=(1, 50))
    found = re.findall(
        r"On (\d+) GPUs? it ends after .*, for (\d+)% of which", screen.export_text()
    )
    assert [int(count) for count, _ in found] == [1, 50]
    assert int(found[0][1]) == 0 < int(found[1][1]) < 100


@pytest.mark.parametrize(("device", "timed"), [("cpu", False), ("cuda", True), ("cuda", False)])
def test_gpus_without_seconds_of_one_are_refused(device: str, timed: bool) -> None:
    if device == "cuda" and torch.cuda.is_available() and timed:
        pytest.skip("there is one, whose seconds are told")
    with pytest.raises(UserError, match="--gpus must come with a GPU"):
        dryrun.show(toy_units(), device, None, Console(), timed=timed, num_gpus=(2,))


def test_the_document_on_scale_says_what_the_plan_says() -> None:
    document = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    [command] = re.findall(r"python -m bench (plan .*)", document)
    said = subprocess.run(
        [sys.executable, "-m", "bench", *command.split()],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [units] = re.findall(r"^(\d+) units", said, re.MULTILINE)
    [total] = [line for line in said.splitlines() if "in all" in line]
    found = [units, *re.findall(r"[\d.]+ .FLOP", total)]
    for _, time, idle in re.findall(r"On (\d+) GPUs? .* after (.*), for (\d+)% of", said):
        found += [time, *([f"idle for {idle} %"] if idle != "0" else [])]
    assert len(found) == 3 + 5
    for one in found:
        assert one in document
