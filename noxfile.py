"""Sessions: nox -s bench -- SUITE --device cuda, nox -s tests, ... (`nox -l` lists them)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

FOLDERS = ["dipddpm", "bench", "reports", "scripts", "tests", "noxfile.py"]
RUNS = Path("runs")


def install(session: nox.Session, extra: str) -> None:
    """This checkout with one of its extras, at the exact versions of constraints.txt."""
    session.install("-c", "constraints.txt", "-e", f".[{extra}]")


def option(arguments: Sequence[str], flag: str, default: Path) -> tuple[str, list[str]]:
    """The value of a flag, and the other arguments: read here as the command reads it, which names
    the path in its last line only."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument(flag, dest="value", default=str(default))
    known, others = reader.parse_known_args(arguments)
    return known.value, others


@nox.session
def bench(session: nox.Session) -> None:
    """Run a suite (quick) and write its report: nox -s bench -- SUITE --device cuda ..."""
    install(session, "bench")
    arguments = session.posargs or ["quick"]
    if arguments[0].startswith("-"):
        arguments = ["quick", *arguments]
    if {"--dry-run", "--help", "-h"} & set(arguments):
        session.run("python", "-m", "bench", "run", *arguments)
        return
    default = RUNS / f"{Path(arguments[0]).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    run, arguments = option(arguments, "--out", default)
    # Status 1 is a run with failures in it: they are in the report, and end this session below.
    session.run("python", "-m", "bench", "run", *arguments, "--out", run, success_codes=[0, 1])
    session.run("python", "-m", "reports", "build", run)
    session.run("python", "-m", "bench", "status", "--quiet", run)


@nox.session
def report(session: nox.Session) -> None:
    """Write the report of a run again: nox -s report -- RUN"""
    install(session, "bench")
    session.run("python", "-m", "reports", "build", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Time every part with pytest-benchmark, saved under runs/benchmarks with the commit."""
    install(session, "bench")
    session.run(
        "pytest", "bench", "--benchmark-only", "--benchmark-autosave",
        "--benchmark-storage=file://./runs/benchmarks", *session.posargs,
    )  # fmt: skip


@nox.session
def compare(session: nox.Session) -> None:
    """Is this checkout slower than a commit? nox -s compare -- BASE [HEAD] -k training

    Status 0: no regression; 1: a regression; 2: it cannot be told.
    """
    install(session, "bench")
    default = RUNS / "comparisons" / f"{datetime.now():%Y%m%d-%H%M%S}"
    out, arguments = option(session.posargs, "--out", default)
    command = ("python", "-m", "bench.commits", "compare", *arguments, "--out", out)
    if {"--help", "-h"} & set(arguments):
        session.run(*command)
        return
    try:
        session.run(*command, success_codes=[0, 1])
    except CommandFailed:
        raise SystemExit(2) from None  # of itself nox ends with 1 whatever went wrong
    session.run("python", "-m", "reports", "commits", f"{out}/compare.json")
    regressions = json.loads(Path(out, "compare.json").read_text(encoding="utf-8"))["regressions"]
    if regressions:
        session.error(f"regressions: {'; '.join(regressions)}")


@nox.session
def history(session: nox.Session) -> None:
    """Time the commits of a range, and find the steps in it: nox -s history -- A..B --every 5"""
    install(session, "bench")
    session.run("python", "-m", "bench.commits", "history", *session.posargs)
    if not {"--help", "-h"} & set(session.posargs):
        default = RUNS / "benchmarks" / "history.jsonl"
        store, _ = option(session.posargs, "--store", default)
        session.run(
            "python", "-m", "reports", "history", str(Path(store).with_name("history.json"))
        )


@nox.session
def bisect(session: nox.Session) -> None:
    """Find the commit that made a benchmark slower: nox -s bisect -- GOOD BAD -k training"""
    install(session, "bench")
    session.run("python", "-m", "bench.commits", "bisect", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The quick tests, some five minutes on two cores."""
    install(session, "dev")
    # A file to each core: with more threads they would wait for each other.
    session.run(
        "pytest", "-n", "auto", "--dist", "loadfile",
        "-m", "not slow and not cuda and not truth and not faults", *session.posargs,
        env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take longer."""
    install(session, "dev")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, tear and fill up runs for ten minutes; ends with a table. FAULTS_SEED: of the draws."""
    install(session, "dev")
    session.run("pytest", "-m", "faults", "-rs", "tests", *session.posargs)


@nox.session
def truth(session: nox.Session) -> None:
    """The checks of timing, on a quiet machine."""
    install(session, "dev")
    session.run("pytest", "-m", "truth", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff over everything."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", *FOLDERS)
    session.run("ruff", "format", "--check", *FOLDERS)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over everything."""
    install(session, "dev")
    session.run("mypy", "--strict", *FOLDERS)
