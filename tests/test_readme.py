"""What the README says is so."""

from __future__ import annotations

import json
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
from bench.commits.__main__ import _parser as commits_parser
from bench.records import Status
from bench.run_folder import Run
from reports.__main__ import _parser as reports_parser
from tests.checkouts import Checkout
from tests.toy import SUITE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


def blocks(language: str, *, below: str = "", document: str = "README.md") -> list[str]:
    """The blocks of code in that language, of the whole or below one heading."""
    text = DOCS[document]
    if below:
        text = text.split(f"# {below}\n")[1].split("\n#")[0]
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
        assert any(f"`{flag}" in text for text in DOCS.values()), flag


def test_its_commands_are_commands() -> None:
    lines = [
        line.split("#")[0].strip()
        for document in DOCS
        for block in blocks("sh", document=document)
        for line in block.splitlines()
    ]
    names = set()
    for line in lines:
        for start, parser, before in (
            ("python -m bench ", _parser(), []),
            ("python -m reports ", reports_parser(), []),
            (".venv/bin/nox -s bench -- ", _parser(), ["run"]),
            (".venv/bin/nox -s compare -- ", commits_parser(), ["compare"]),
            (".venv/bin/nox -s history -- ", commits_parser(), ["history"]),
            (".venv/bin/nox -s bisect -- ", commits_parser(), ["bisect"]),
        ):
            if line.startswith(start):
                words = [*before, *shlex.split(line.removeprefix(start))]
                parser.parse_args(words)
                names.add((start, words[0]))
    assert {word for start, word in names if start == "python -m bench "} == {
        "run", "status", "resume", "clean", "units", "profile", "plan",
    }  # fmt: skip
    assert {word for start, word in names if "reports" in start} >= {"build", "compare", "plan"}
    assert {word for start, word in names if "nox" in start} == {
        "run", "compare", "history", "bisect",
    }  # fmt: skip


def test_links_of_documents_lead_somewhere() -> None:
    for name, text in DOCS.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (folder / target).exists(), (name, target)


def test_the_workflow_for_github_fits_its_schema() -> None:
    workflow = ROOT / "docs" / "github-workflow.yml"
    command = [str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema",
               "vendor.github-workflows", str(workflow)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    # And what it runs are sessions, with flags that they have.
    text = workflow.read_text(encoding="utf-8")
    assert set(re.findall(r"nox -s (\w+)", text)) == {"tests", "compare"}
    (arguments,) = re.findall(r"nox -s compare -- (.*\n.*)", text)
    commits_parser().parse_args(["compare", *shlex.split(arguments)])


@pytest.mark.slow
@pytest.mark.parametrize("use", ["Run it", "Compare two commits"])
def test_its_commands_run(use: str, tmp_path: Path) -> None:
    """In a checkout, with the packages of these tests in the place of environments of their own."""
    checkout = Checkout.of_this(tmp_path / "checkout")
    here = Path(sys.executable).parent
    first, *_ = blocks("sh", below=use)
    lines = [line.split("#")[0].split("&&")[-1].strip() for line in first.splitlines()]
    assert len(lines) == {"Run it": 1, "Compare two commits": 3}[use]
    for line in lines:
        words = shlex.split(line)
        program = Path(words[0]).name
        assert program in ("nox", "pytest-benchmark")
        more = ["--no-venv", "--no-install"] if program == "nox" else []
        session = words[words.index("-s") + 1] if "-s" in words else ""
        # Some of the benchmarks, for time.
        few = {"compare": ["-k", "noise_schedule"], "benchmarks": ["--", "-k", "noise_schedule"]}
        done = subprocess.run(
            [here / program, *more, *words[1:], *few.get(session, [])], cwd=checkout.folder,
            capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"},
        )  # fmt: skip
        expected_status = 0
        if session == "compare":  # a false alarm is rare, not impossible
            (compared,) = (checkout.folder / "runs" / "comparisons").glob("*/compare.json")
            expected_status = int(bool(json.loads(compared.read_text())["regressions"]))
        told = f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == expected_status, told
    made = {path.name for path in (checkout.folder / "runs").rglob("*") if path.is_file()}
    files = {
        "Run it": {"report.html", "results.csv", "summary.json"},
        "Compare two commits": {"compare.json", "compare.html", "compare.md"},
    }
    assert files[use] <= made


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
