"""Outcomes as columns of numbers: among a hundred thousand of them those that match are found by
whole columns, not one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np

from bench.records import Setting
from reports.pairs import Group, Side
from reports.tables import Outcome


class Columns:
    """What tells outcomes apart: a column of numbers a setting, equal where its values are."""

    def __init__(self, found: Sequence[Outcome]) -> None:
        self._found = found
        self._first_runs = np.array([one.record.repeat <= 1 for one in found], bool)
        self._epochs = np.array([one.number("epochs") for one in found], float)
        # Of a setting, seed or repeat: the number of its value, by outcome; and by value.
        self._columns: dict[str, tuple[np.ndarray, dict[Setting, int]]] = {}
        self._cells: dict[frozenset[str], np.ndarray] = {}
        self._units, _ = self._column("unit")

    def where(self, some: Iterable[Outcome]) -> np.ndarray:
        """Whether each of the outcomes is among some."""
        wanted = set(map(id, some))
        return np.array([id(one) in wanted for one in self._found], bool)

    def matched(self, known: np.ndarray, *sides: Side) -> list[Group]:
        """Of those that are known, of one `cell`, one of each side, in the order of the outcomes.

        A side names settings with their values; `repeat` too, else only the first runs are taken.
        There is one group for the same runs: of the last milestone that all of them have. So a
        measured row counts once, however many outcomes it is charged to.
        """
        groups = self._matched(known, *sides)
        groups = groups[self._last(groups)]
        return [tuple(self._found[place] for place in group) for group in groups.tolist()]

    def _matched(self, known: np.ndarray, *sides: Side) -> np.ndarray:
        """Places of outcomes: a line a group, a column a side."""
        factors = frozenset(name for side in sides for name in side)
        known = known if "repeat" in factors else known & self._first_runs
        cells = self._cells_without(factors)
        # Of each side the cells that have it, and of each of these its first outcome.
        firsts = []
        for side in sides:
            there = known.copy()
            for name, value in side.items():
                column, numbers = self._column(name)
                there &= column == numbers.get(value, -1)
            places = np.flatnonzero(there)
            of_side, first = np.unique(cells[places], return_index=True)
            firsts.append((of_side, places[first]))
        common = reduce(np.intersect1d, (of_side for of_side, _ in firsts))
        groups = np.stack([at[np.searchsorted(there, common)] for there, at in firsts], axis=1)
        return groups[np.argsort(groups.min(axis=1))]

    def _last(self, groups: np.ndarray) -> np.ndarray:
        """Which of the groups are the last milestone of their runs, of equal ones the first; in the
        order in which the runs come."""
        runs = _numbers_of(self._units[groups].T, len(groups))
        epochs = self._epochs[groups[:, 0]]
        _, first, runs = np.unique(runs, return_index=True, return_inverse=True)
        in_order = np.lexsort((-epochs, runs))  # the sort is stable
        _, last = np.unique(runs[in_order], return_index=True)
        return in_order[last][np.argsort(first)]

    def _cells_without(self, factors: frozenset[str]) -> np.ndarray:
        """Numbers that are equal where `cell` is."""
        if factors not in self._cells:
            telling = self._found[0].telling if self._found else ()
            names = [name for name in (*telling, "seed", "repeat") if name not in factors]
            columns = [self._column(name)[0] for name in names]
            self._cells[factors] = _numbers_of(columns, len(self._found))
        return self._cells[factors]

    def _column(self, name: str) -> tuple[np.ndarray, dict[Setting, int]]:
        if name not in self._columns:
            numbers: dict[Setting, int] = {}
            column = [
                numbers.setdefault(_factor_value(one, name), len(numbers)) for one in self._found
            ]
            self._columns[name] = np.array(column, np.int64), numbers
        return self._columns[name]


def _factor_value(outcome: Outcome, factor: str) -> Setting:
    """A setting of an outcome; or its seed, repeat or unit."""
    record = outcome.record
    if factor in ("seed", "repeat", "unit"):
        value: str | int = getattr(record, factor)
        return value
    return record.settings.get(factor)


def _numbers_of(columns: Iterable[np.ndarray], length: int) -> np.ndarray:
    """For lines of whole numbers from 0 on one number each, equal where the lines are."""
    numbers, count = np.zeros(length, np.int64), 1
    for column in columns:
        size = int(column.max(initial=0)) + 1
        if count * size >= 2**63:
            # One by one from 0 on, of which there are no more than lines.
            _, numbers = np.unique(numbers, return_inverse=True)
            count = length
        numbers, count = numbers * size + column, count * size
    return numbers
