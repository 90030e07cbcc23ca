"""Which settings tell cases apart, and their values in words. Imports no torch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from bench.records import Setting


def telling(
    found: Iterable[Mapping[str, Setting]],
    shown: Sequence[str],
    without: Container[str] = (),
    *,
    first: Sequence[str] = (),
) -> list[str]:
    """Of the settings that are not in `shown`, those that it takes to tell apart what is alike
    there: one after another, so that of several that always differ together one is told.

    without: settings in which alike ones may differ
    first: those that are tried before all others, which come by name
    """
    # One object, which many may have, is one of them.
    objects = {id(one): one for one in found}.values()
    distinct = list({tuple(one.items()): one for one in objects}.values())
    names = {name for one in distinct for name in one} - {*shown}
    ordered = [name for name in first if name in names]
    keys = [tuple(one.get(name) for name in shown) for one in distinct]
    told = []
    for name in (*ordered, *sorted(names - {*ordered})):
        if name in without or len({one.get(name) for one in distinct}) == 1:
            continue
        values: dict[tuple[Setting, ...], set[Setting]] = {}
        for key, one in zip(keys, distinct, strict=True):
            values.setdefault(key, set()).add(one.get(name))
        if any(len(some) > 1 for some in values.values()):
            told.append(name)
            keys = [(*key, one.get(name)) for key, one in zip(keys, distinct, strict=True)]
    return told


def value_words(value: Setting) -> str:
    """16/32/64; default, where it is left open."""
    if value is None:
        return "default"
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
