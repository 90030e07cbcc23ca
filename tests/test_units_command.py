"""`bench units` and `bench unit`, by the lines of docs/elsewhere.md."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.run_folder import Run
from tests.outcomes import NUM_SMALL, SMALL, run_here, untimed
from tests.test_readme import blocks
from tests.toy import BASE

ROOT = Path(__file__).parents[1]
# Runs each index of an array in turn, and notes what it was given.
SBATCH = """#!{python}
import argparse, os, subprocess, sys
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--parsable", action="store_true")
for option in ("array", "dependency", "export", "gres", "time", "wrap"):
    parser.add_argument(f"--{{option}}")
given = parser.parse_args()
first, last = map(int, given.array.split("-"))
if not 1 <= first <= last:
    sys.exit("sbatch: error: Invalid job array specification")
with open("{log}", "a") as log:
    print(given.array, given.dependency, file=log)
for index in range(first, last + 1):
    environment = {{**os.environ, "SLURM_ARRAY_TASK_ID": str(index)}}
    subprocess.run(["sh", "-c", given.wrap], env=environment, stdout=sys.stderr, check=True)
print(17 if given.parsable else "Submitted batch job 17")
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_here(tmp_path_factory.mktemp("here"), SMALL)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(SMALL)
    return path


def lines_to_copy(word: str, suite: Path, run: Path) -> str:
    """The block with that word, with this suite and folder in the place of its own."""
    found = blocks("sh", below="Any scheduler", document="elsewhere.md")
    (block,) = (block for block in found if word in block)
    assert "runs/paper" in block
    block = block.replace("units paper --device cuda", f"units {shlex.quote(str(suite))}")
    return block.replace("runs/paper", shlex.quote(str(run)))


def shell(lines: str, *path: Path) -> str:
    """Runs lines in the checkout with the Python of these tests; what they printed."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join(map(str, (*path, Path(sys.executable).parent, os.environ["PATH"]))),
    }
    done = subprocess.run(
        ["sh", "-e", "-c", lines],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_lines_for_xargs_give_the_records_of_one_run(
    suite: Path, tmp_path: Path, here: Run
) -> None:
    run = tmp_path / "a run"
    said = shell(lines_to_copy("xargs", suite, run))
    assert f"records: {NUM_SMALL} ok" in said
    assert untimed(Run.open(run)) == untimed(here)


@pytest.mark.slow
def test_the_lines_for_slurm_give_the_records_of_one_run(
    suite: Path, tmp_path: Path, here: Run
) -> None:
    run, log, sbatch = tmp_path / "a run", tmp_path / "log", tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH.format(python=sys.executable, log=log))
    sbatch.chmod(0o755)
    units, *_ = lines_to_copy("xargs", suite, run).splitlines()
    shell(f"{units}\n{lines_to_copy('sbatch', suite, run)}", sbatch.parent)
    assert log.read_text().splitlines() == ["1-1 None", "1-2 afterany:17"]
    assert untimed(Run.open(run)) == untimed(here)


def test_standard_output_is_the_commands_alone(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["units", str(suite), "--device", "cpu", "--out", str(run)]) == 0
    commands = capsys.readouterr().out
    waves = [(run / f"wave{number}.txt").read_text() for number in (1, 2)]
    assert commands == "".join(waves)
    units = [[shlex.split(line)[-1] for line in wave.splitlines()] for wave in waves]
    plan = Run.open(run).plan.units
    assert units == [[spec.unit for spec in plan if (spec.kind == "shared") is first]
                     for first in (True, False)]  # fmt: skip
    assert all(not spec.needs or set(spec.needs) <= set(units[0]) for spec in plan)


def test_a_wave_of_nothing_is_a_command_that_does_nothing(
    tmp_path: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_text(BASE + "[[grid]]\nnum_images = 4\nepochs = 1\n")
    run = tmp_path / "run"
    assert main(["units", str(suite), "--device", "cpu", "--out", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    _, first, *_ = lines_to_copy("xargs", suite, run).splitlines()
    assert shell(first) == ""


def test_a_unit_that_is_done_is_done_at_once(here: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for spec in here.plan.units:
        assert main(["unit", str(here.folder), spec.unit]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_unit_whose_needs_are_missing_is_refused_at_once(
    tmp_path: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main(["units", str(suite), "--device", "cpu", "--out", str(run)])
    train = next(spec for spec in Run.open(run).plan.units if spec.needs)
    capsys.readouterr()
    assert main(["unit", str(run), train.unit]) == 2
    out, error = capsys.readouterr()
    assert out == "" and len(error.splitlines()) == 1
    assert f"needs {train.needs[0]!r}, and it is not done" in error
    assert main(["unit", str(run), "nobody"]) == 2
    assert "unit must be one of the run" in capsys.readouterr().err
