"""Sessions: nox -s bench -- SUITE --device cuda, nox -s tests, ... (`nox -l` lists them)."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

FOLDERS = ["dipddpm", "bench", "reports", "scripts", "tests", "noxfile.py"]
RUNS = Path("runs")


def install(session: nox.Session, extra: str) -> None:
    """This checkout with one of its extras, at the exact versions of constraints.txt."""
    session.install("-c", "constraints.txt", "-e", f".[{extra}]")


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
    # Read here as `bench run` reads it, which names the folder in its last line only.
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    default = RUNS / f"{Path(arguments[0]).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    reader.add_argument("--out", default=str(default))
    known, arguments = reader.parse_known_args(arguments)
    run = known.out
    arguments = [*arguments, "--out", run]
    # Status 1 is a run with failures in it: they are in the report, and end this session below.
    session.run("python", "-m", "bench", "run", *arguments, success_codes=[0, 1])
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
