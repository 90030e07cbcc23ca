"""Who works on a run: locks that go with the process that has them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError

_LOCK = "lock"


def locked(run: Path, *, shared: bool = False) -> contextlib.AbstractContextManager[None]:
    """This process alone works on the run, or with others that each work on a unit of it.

    Raises UserError if another process does.
    """
    return _locked(run / _LOCK, f"run {str(run)!r}", shared=shared)


@contextlib.contextmanager
def locked_unit(unit: Path) -> Iterator[None]:
    """This process alone works on the unit. Raises UserError if another process does."""
    path = unit.with_name(f"{unit.name}.{_LOCK}")
    with _locked(path, f"unit {unit.name!r}"):
        yield
        path.unlink()


def is_worked_on(run: Path) -> bool:
    """Whether any process works on the run, or on a unit of it."""
    try:
        with locked(run):
            return False
    except UserError:
        return True


@contextlib.contextmanager
def _locked(path: Path, what: str, *, shared: bool = False) -> Iterator[None]:
    try:
        lock = path.open("a")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} is being run by another process") from None
        yield
