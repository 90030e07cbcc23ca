"""Who works on a run: locks that go with the process that has them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError

_LOCK = "lock"
# Who only looks whether it is taken has it for a moment.
_TRIES, _SECONDS_BETWEEN = 5, 0.1


def locked(run: Path, *, shared: bool = False) -> contextlib.AbstractContextManager[None]:
    """This process alone works on the run, or with others that each work on a unit of it.

    Raises UserError if another process does.
    """
    return _locked(run / _LOCK, f"run {str(run)!r}", shared=shared)


def locked_for(folder: Path, what: str) -> contextlib.AbstractContextManager[None]:
    """This process alone does `what` in the folder. Raises UserError if another process does."""
    return _locked(folder / _LOCK, what)


@contextlib.contextmanager
def locked_unit(unit: Path) -> Iterator[None]:
    """This process alone works on the unit. Raises UserError if another process does."""
    path = unit.with_name(f"{unit.name}.{_LOCK}")
    with _locked(path, f"unit {unit.name!r}"):
        yield
        path.unlink()


def is_worked_on(run: Path) -> bool | None:
    """Whether any process works on the run, or on a unit of it. None: not known, as the folder
    cannot be written to."""
    try:
        with _locked(run / _LOCK, "run", tries=1):
            return False
    except _LockedError:
        return True
    except UserError:
        return None


class _LockedError(UserError):
    """Another process has it."""


@contextlib.contextmanager
def _locked(path: Path, what: str, *, shared: bool = False, tries: int = _TRIES) -> Iterator[None]:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        lock = path.open("a")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    with lock:
        for left in reversed(range(tries)):
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise _LockedError(f"{what} is being run by another process") from None
                time.sleep(_SECONDS_BETWEEN)
        yield
