"""python -m reports: one HTML page from the records of a run, and one that lists runs."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from bench.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """0: the report is written; 2: bad input, nothing is written."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except UserError as error:
        print(f"reports: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"reports: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m reports", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dipddpm {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "write report.html, and tables and verdicts for others to read, into a run's folder"
    one = commands.add_parser(
        "build", help=text, description=text, epilog="example: python -m reports build runs/first"
    )
    one.add_argument("run", metavar="RUN", help="a path, or a name under runs/")
    one.set_defaults(command=build)
    text = "write index.html into a folder of runs: all of them, by suite, with their trend"
    index = commands.add_parser(
        "index", help=text, description=text, epilog="example: python -m reports index runs"
    )
    index.add_argument("folder", metavar="FOLDER", nargs="?", default="runs", help="of runs")
    index.set_defaults(command=build_index)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("dipddpm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def build(options: argparse.Namespace) -> int:
    """Prints the path of the page as the last line."""
    from reports import load

    run = load.load_run(load.find_run(options.run))
    # pandas and matplotlib take a second to import; neither --help nor bad input waits for them.
    from reports import page

    page.write(run.folder, page.build(run))
    print(run.folder / "report.html")
    return 0


def build_index(options: argparse.Namespace) -> int:
    """Prints the path of the page as the last line."""
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"FOLDER must be a folder of runs, got {options.folder!r}")
    from reports import index, page

    page.write(folder, {"index.html": index.build(folder)})
    print(folder / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
