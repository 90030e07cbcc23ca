"""A worker that outlives its runner would measure beside the next one: it ends with it instead."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import connection


def end_with(sentinel: int) -> None:
    """Ends this process at once when the pipe `sentinel` is closed at its other end."""

    def wait() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def ignore_interrupts() -> None:
    """Ctrl-C and a scheduler's SIGTERM reach whole groups: the runner decides for its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
