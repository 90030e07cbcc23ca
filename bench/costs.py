"""Who pays for what: the rows of stages by the units that rest on them, and what they reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bench.records import Environment, Plan, Record, StageRow


class Costs:
    """The rows of stages by unit and key: who pays for what."""

    def __init__(self, plan: Plan, rows: Iterable[StageRow]) -> None:
        self._rows: dict[str, dict[str, StageRow]] = {}
        for row in rows:
            self._rows.setdefault(row.unit, {})[row.key] = row
        self._needs = {spec.unit: spec.needs for spec in plan.units}

    def row(self, unit: str, key: str) -> StageRow | None:
        """The call of a stage as the unit saw it."""
        return self._rows.get(unit, {}).get(key)

    def charged(self, unit: str, key: str) -> StageRow | None:
        """The row with the figures: of the unit itself, else of a unit whose results it loads.

        Repeats of a case have equal keys in other units, and those are not its cost.
        """
        for owner in (unit, *self._needs.get(unit, ())):
            row = self.row(owner, key)
            if row is not None and row.executed:
                return row
        return None

    def totals(
        self, found: Iterable[Record], of: Callable[[StageRow], float | None]
    ) -> tuple[float, float]:
        """Over all rows that a record is charged with, each once, and over the bill of each record,
        had none shared any of it. What rests on no bill, as of a case that failed, is in neither.
        """
        charged = [
            row
            for one in found
            for key in one.stages
            if (row := self.charged(one.unit, key)) is not None
        ]
        distinct = {(row.unit, row.key): row for row in charged}
        did, alone = (sum(of(row) or 0 for row in rows) for rows in (distinct.values(), charged))
        return did, alone


# The settings of a stage's precision, and of the TF32 that it allows.
_PRECISION_SETTINGS = {
    "learn_initialisation": ("prior_precision", "prior_tf32"),
    "fit_priors": ("prior_precision", "prior_tf32"),
    "train_ddpm": ("mixed_precision", "tf32"),
    "train_by_tutorial": ("mixed_precision", "tf32"),
    "sample": ("sampling_precision", "sampling_tf32"),
}
_PRECISIONS = {"fp16": "float16", "bf16": "bfloat16"}


def precision_of(function: str, settings: Mapping[str, object], device: str) -> str:
    """In which a stage's net computes most of what it computes.

    settings: by their field; what is missing is as if nobody had set it
    """
    names = _PRECISION_SETTINGS.get(function, ("", ""))
    precision, tf32 = (settings.get(name) for name in names)
    if precision == "bf16" or (precision == "fp16" and device == "cuda"):
        return _PRECISIONS[precision]
    return "float32" if device != "cuda" or tf32 == "no" else "tf32"


def peak_of(function: str, settings: Mapping[str, object], machine: Environment) -> float | None:
    """The most operations a second that the device was seen to do in the precision of a stage."""
    wanted = precision_of(function, settings, machine.device)
    return next((one.flops for one in machine.peaks if one.precision == wanted), None)
