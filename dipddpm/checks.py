"""What a config class checks of its fields. Each raises ValueError with the field and its value."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Hashable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

# What tables and files hold of a whole number.
MAX_WHOLE = 2**63 - 1


@functools.cache
def field_types(config: Hashable) -> dict[str, Any]:
    """The type of each field of a config class, and what a name in it must be an entry of."""
    return get_type_hints(config, include_extras=True)


def check_types(config: Any) -> None:
    """A setting by another name or of another type would silently measure something else."""
    for name, optional, check in _checks(config.__class__):
        value = getattr(config, name)
        if value is not None or not optional:
            check(name, value)


_Check = Callable[[str, Any], None]


@functools.cache
def _checks(config: Hashable) -> list[tuple[str, bool, _Check]]:
    """Of each field its name, whether it may be None, and what else it must be."""
    found = []
    for name, hint in field_types(config).items():
        options = set(get_args(hint)) if get_origin(hint) is types.UnionType else {hint}
        found.append((name, type(None) in options, _check_of(hint, options)))
    return found


def _check_of(hint: Any, options: set[Any]) -> _Check:
    if get_origin(hint) is Annotated:
        check: _Check = get_args(hint)[1].check
        return check
    if get_origin(hint) is Literal:
        return functools.partial(_is_one_of, get_args(hint))
    kinds = {bool: _is_bool, float: _is_number, int: _is_whole, tuple[int, ...]: _is_tuple}
    return next((check for kind, check in kinds.items() if kind in options), lambda *_: None)


def _is_one_of(names: tuple[Any, ...], name: str, value: Any) -> None:
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(map(str, names))}, got {value!r}")


def _is_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def _is_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")


def _is_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if not -MAX_WHOLE <= value <= MAX_WHOLE:
        raise ValueError(f"{name} must be below 2**63, got {value}")


def _is_tuple(name: str, value: Any) -> None:
    if not (isinstance(value, tuple) and all(type(item) is int for item in value)):
        raise ValueError(f"{name} must be a tuple of whole numbers, got {value!r}")


def at_most(config: object, maximum: float, *names: str) -> None:
    """Each of the named fields."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value > maximum:
            raise ValueError(f"{name} must be at most {maximum}, got {value}")


def at_least(config: object, minimum: float, *names: str) -> None:
    """Each of the named fields, and finite; None passes."""
    for name in names:
        value = getattr(config, name)
        # `not >=` also refuses NaN.
        if value is not None and not minimum <= value < math.inf:
            finite = "" if isinstance(value, int) else " and finite"
            raise ValueError(f"{name} must be at least {minimum}{finite}, got {value}")


def above_zero(config: object, *names: str) -> None:
    """Each of the named fields, and finite."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")


def a_decay(config: object, *names: str) -> None:
    """Each of the named fields is in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")
