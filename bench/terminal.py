"""The terminal, for text that may come from outside. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bench.errors import plain_text

WIDTH_IN_A_PIPE = 160


def console(*, stderr: bool = False) -> Console:
    """For the terminal, or as wide as the tables where there is none."""
    found = PlainConsole(highlight=False, stderr=stderr)
    if found.is_terminal:
        return found
    return PlainConsole(highlight=False, stderr=stderr, width=WIDTH_IN_A_PIPE)


class PlainConsole(Console):
    """Shows a text from outside as it is: no markup, no sequences that a terminal acts on."""

    def on_broken_pipe(self) -> None:
        """Nobody reads any more (`| head`): the run goes on all the same."""
        self.file = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of the bare text."""
        return super().render_str(plain_text(text), **{**options, "markup": False, "emoji": False})
