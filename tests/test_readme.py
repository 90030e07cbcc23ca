"""What the README says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from bench import suite
from bench.__main__ import _parser
from bench.records import Status

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_test_command_is_the_one_that_continuous_integration_runs() -> None:
    (command,) = (line for line in blocks("sh") if line.rstrip().endswith("nox -s tests"))
    assert command in (ROOT / ".ci" / "run").read_text()
    assert blocks("sh")[0].strip().endswith("nox -s bench")


def test_its_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["2", "4"]
    assert all("torch.Size([16, 3, 32, 32])" in line for line in lines)


def test_its_suite_is_a_suite() -> None:
    (text,) = blocks("toml")
    cases = suite.parse(text, "README.md", "readme").cases
    assert len(cases) == 2 * 2 * 3 * 3 * 2 + 4 * 2


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
    assert {words[0] for words in bench} == {"run", "status", "resume", "clean"}
    for words in bench:
        _parser().parse_args(words)
