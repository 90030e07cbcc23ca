"""python -m reports: one HTML page from the records of a run."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from typing import NoReturn

from bench.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """0: the report is written; 2: bad input, nothing is written."""
    options = _parser().parse_args(arguments)
    try:
        return build(options.run)
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
    command = commands.add_parser(
        "build", help=text, description=text, epilog="example: python -m reports build runs/first"
    )
    command.add_argument("run", metavar="RUN", help="a path, or a name under runs/")
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("dipddpm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def build(name: str) -> int:
    """Prints the path of the page as the last line."""
    from reports import load

    run = load.load_run(load.find_run(name))
    # pandas and matplotlib take a second to import; neither --help nor bad input waits for them.
    from reports import page

    page.write(run.folder, page.build(run))
    print(run.folder / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
