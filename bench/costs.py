"""Who pays for what: the rows of stages by the units that rest on them."""

from __future__ import annotations

from collections.abc import Iterable

from bench.records import Plan, StageRow


class Costs:
    """The rows of stages by unit and key: who pays for what."""

    def __init__(self, plan: Plan, rows: Iterable[StageRow]) -> None:
        self._rows = {(row.unit, row.key): row for row in rows}
        self._needs = {spec.unit: spec.needs for spec in plan.units}

    def row(self, unit: str, key: str) -> StageRow | None:
        """The call of a stage as the unit saw it."""
        return self._rows.get((unit, key))

    def charged(self, unit: str, key: str) -> StageRow | None:
        """The row with the figures: of the unit itself, else of a unit whose results it loads.

        Repeats of a case have equal keys in other units, and those are not its cost.
        """
        for owner in (unit, *self._needs.get(unit, ())):
            row = self._rows.get((owner, key))
            if row is not None and row.executed:
                return row
        return None
