"""What the README says is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from bench import suite
from bench.__main__ import _parser
from bench.records import Status
from bench.run_folder import Run
from tests.toy import SUITE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, *, below: str = "") -> list[str]:
    """The blocks of code in that language, of the whole or below one heading."""
    text = README
    if below:
        text = README.split(f"# {below}\n")[1].split("\n#")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_its_test_command_is_the_one_that_continuous_integration_runs() -> None:
    (command,) = (line for line in blocks("sh") if line.rstrip().endswith("nox -s tests"))
    assert command in (ROOT / ".ci" / "run").read_text()
    assert blocks("sh")[0].strip().endswith("nox -s bench")


def test_its_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python", below="Use the library without the harness")
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["2", "4"]
    assert all("torch.Size([16, 3, 32, 32])" in line for line in lines)


def test_its_example_for_several_gpus_runs_in_two_processes(tmp_path: Path) -> None:
    (example,) = blocks("python", below="Several GPUs")
    script = tmp_path / "train.py"
    script.write_text(example)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
    losses = [
        subprocess.run(
            [sys.executable, *launch, str(count), script],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
            text=True,
            timeout=300,
        ).stdout.split()
        for count in (1, 2)
    ]
    assert losses[0] == losses[1]
    assert float(*losses[0]) > 0


def test_its_suite_is_a_suite() -> None:
    (text,) = blocks("toml", below="A suite of your own")
    cases = suite.parse(text, "README.md", "readme").cases
    assert len(cases) == 2 * 2 * 3 * 3 * 2 + 8 * 3


def test_it_explains_every_status_and_flag() -> None:
    for status in get_args(Status):
        assert f"| `{status}` |" in README
    run = _parser()._subparsers._group_actions[0].choices["run"]  # type: ignore[union-attr,index]
    flags = {flag for action in run._actions for flag in action.option_strings}
    for flag in flags - {"-h", "--help"}:
        assert f"`{flag}" in README, flag


def test_its_commands_are_commands() -> None:
    commands = {line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()}
    bench = [shlex.split(line)[3:] for line in commands if line.startswith("python -m bench")]
    names = {words[0] for words in bench}
    assert names == {"run", "status", "resume", "clean", "units", "profile", "plan"}
    for words in bench:
        _parser().parse_args(words)


def run_functions_of_ones_own(folder: Path, *, module: str = "", suite: str = "") -> Run:
    """The README's two files, completed by the settings of a toy and by what is given here."""
    (code,) = blocks("python", below="Functions of your own")
    (grid,) = blocks("toml", below="Functions of your own")
    (folder / "my_module.py").write_text(code + module)
    base = SUITE[: SUITE.index("[[grid]]")]
    (folder / "suite.toml").write_text(base + grid + suite)
    paths = (str(folder / "suite.toml"), "--out", str(folder / "run"))
    command = [sys.executable, "-m", "bench", "run", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if suite else 0), done.stderr
    return Run.open(folder / "run")


def test_its_functions_of_ones_own_run(tmp_path: Path) -> None:
    (code,) = blocks("python", below="Functions of your own")
    (grid,) = blocks("toml", below="Functions of your own")
    assert len([line for line in (code + grid).splitlines() if line]) <= 10
    run = run_functions_of_ones_own(tmp_path)
    [record] = run.records()
    assert record.status == "ok"
    assert record.settings["train_on"] == "my_module:my_target"
    assert record.settings["start_from"] == "my_module:my_start"
    # What they cost is in the bill.
    made = {row.function for row in run.stage_rows() if row.key in record.stages}
    assert {"my_target", "my_start"} <= made


def test_a_function_of_ones_own_that_raises_is_a_record_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    suite = (
        "[[grid]]\ntask = 'restore'\nepochs = 1\n"
        "start_from = ['nlm', 'my_module:too_few', 'my_module:raises_start']\n"
        "[[grid]]\nepochs = 1\ntrain_on = 'my_module:raises_target'\n"
    )
    module = (
        "def raises_start(degraded):\n    raise OSError('not today')\n"
        "def raises_target(images):\n    raise OSError('never')\n"
        "def too_few(degraded):\n    return ImageSet(degraded.pixels[1:])\n"
    )
    found = {
        (record.settings["train_on"], record.settings["start_from"]): record
        for record in run_functions_of_ones_own(tmp_path, module=module, suite=suite).records()
    }
    assert {key: record.status for key, record in found.items()} == {
        ("my_module:my_target", "my_module:my_start"): "ok",
        ("images", "nlm"): "ok",
        ("images", "my_module:too_few"): "error",
        ("images", "my_module:raises_start"): "error",
        ("my_module:raises_target", "noise"): "error",
    }
    for key, text in (
        (("images", "my_module:too_few"), "ValueError: my_module:too_few must return images of"),
        (("images", "my_module:raises_start"), "OSError: not today"),
        (("my_module:raises_target", "noise"), "OSError: never"),
    ):
        assert (found[key].error or "").startswith(text)
