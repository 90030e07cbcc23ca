"""What is told to the user, in text that a terminal only shows."""

from __future__ import annotations

import re
from pathlib import Path

_SHOWN = 2_000
# Colours and cursor movements of a terminal, all other control characters but the line end, and
# those that turn the direction of writing round.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def plain_text(text: str) -> str:
    """Without what a terminal would act on."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def shortened(text: str) -> str:
    """A text that is too long to be read, without its middle."""
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]} [...] {text[-half:]}"


def without_home(text: str) -> str:
    """With ~ for the home folder, whose name is nobody's business."""
    home = str(Path.home())
    return re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", text) if home != "/" else text


class UserError(Exception):
    """Something the user can mend, in one line: told without a traceback, exit status 2."""

    def __init__(self, text: object) -> None:
        super().__init__(shortened(plain_text(str(text))))
