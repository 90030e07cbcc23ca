"""A worker that outlives its runner would measure beside the next one: it ends with it instead."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1


def end_with(sentinel: int) -> None:
    """Ends this process at once when the pipe `sentinel` is closed at its other end, or its parent
    is gone."""
    # A function that never gives up the interpreter's lock would keep the thread from running.
    be_killed_with_parent()

    def wait() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def be_killed_with_parent() -> None:
    """Where the kernel can see to it: on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore_interrupts() -> None:
    """Ctrl-C and a scheduler's SIGTERM reach whole groups: the runner decides for its workers."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM come when its block is over; what the block starts never gets them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
