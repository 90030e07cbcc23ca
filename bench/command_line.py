"""What the commands share: what is wrong is told in one line, with exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from bench.errors import UserError

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Of `python -m MODULE`, or of one of its commands. Flags are written in full."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """In one line, without the usage."""
        self.exit(2, _one_line(self.prog.split()[2], message) + "\n")


class Commands:
    """The commands of `python -m MODULE`."""

    def __init__(self, module: str, about: str | None) -> None:
        self._module = module
        self.parser = Parser(prog=f"python -m {module}", description=about)
        self._commands = self.parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self, name: str, command: Command, text: str, example: str, description: str = ""
    ) -> argparse.ArgumentParser:
        """text: for the list of all; description: for the command's own help, where it has more to
        say."""
        sub = self._commands.add_parser(
            name,
            help=text,
            description=description or text,
            epilog=f"example: python -m {self._module} {example}",
        )
        sub.set_defaults(command=command)
        return sub


def run(module: str, options: argparse.Namespace) -> int:
    """The status of the command that was asked for; 2: bad input; 130: interrupted."""
    try:
        command: Command = options.command
        return command(options)
    except UserError as error:
        print(_one_line(module, error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(_one_line(module, "stopped"), file=sys.stderr)
        return 130


def number(text: str) -> float:
    """NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _one_line(module: str, error: object) -> str:
    return f"{module}: {' '.join(str(error).splitlines())}"
