"""A run as tables for pandas: of outcomes, contests, stages and steps. Unknown is null."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence

import pandas as pd

from bench.records import Environment, Record, Setting, StageRow
from reports.load import Loaded, plain_text
from reports.tables import FIT, GROUPS, SAMPLE, TRAIN, Outcome

# Of a stage; what a step has is in a table of its own.
_STAGE_COLUMNS = [
    name for name in StageRow.model_fields
    if name not in ("schema_version", "parents", "step_seconds", "data_wait_seconds", "chosen")
]  # fmt: skip
_STEP_COLUMNS = ["unit", "key", "function", "step", "seconds", "data_wait_seconds"]


def results(run: Loaded, found: Sequence[Outcome]) -> pd.DataFrame:
    """One row an outcome: identity, settings, status, scores, costs."""
    functions = sorted({charge.function for one in found for charge in one.bill if charge.function})
    return _frame(
        {
            **_told(one.record, one.failure),
            **_costs(one, functions),
            **_computed(one, run.environment),
            **_circumstances(run, one.record),
        }
        for one in found
    )


def contests(run: Loaded) -> pd.DataFrame:
    """One row a contender of a contest and round: identity, settings, status, scores.

    seconds: of an image (priors), or of a step
    """
    return _frame(
        {**_told(one, one.error), **_circumstances(run, one)}
        for one in sorted(run.contests, key=lambda one: (one.settings["contest"], one.case_id))
    )


def _frame(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    found = list(rows)
    # They differ in the scores they have, so the first row alone does not name all columns.
    names = dict.fromkeys(name for row in found for name in row)
    return pd.DataFrame({name: _column([row.get(name) for row in found]) for name in names})


def _column(cells: list[object]) -> pd.Series:
    """A column of one type, whatever the cells hold: the type does not hang on which are null."""
    known = [value for value in cells if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pd.Series(cells, dtype="boolean")
    if known and all(isinstance(value, int) for value in known):
        return pd.Series(cells, dtype="Int64")
    if all(isinstance(value, int | float) for value in known):
        return pd.Series(cells, dtype="float64")
    return pd.Series([None if value is None else str(value) for value in cells], dtype="string")


def _told(record: Record, failure: str | None) -> dict[str, object]:
    return {
        "case_id": record.case_id,
        "repeat": record.repeat,
        "seed": record.seed,
        "unit": record.unit,
        "status": record.status,
        "error": None if failure is None else plain_text(failure),
        **{name: _cell(value) for name, value in record.settings.items()},
        **record.scores,
        "warnings": "; ".join(map(plain_text, record.warnings)) or None,
    }


def _circumstances(run: Loaded, record: Record) -> dict[str, object]:
    environment = run.environment
    return {
        "disturbed": "; ".join(run.disturbed.get(record.unit, ())) or None,
        "suite": run.plan.suite,
        "commit": environment.commit,
        "dirty": environment.dirty,
        "device": environment.device,
        "device_name": environment.device_name,
    }


def _costs(outcome: Outcome, functions: Iterable[str]) -> dict[str, object]:
    return {
        **{f"{group}_seconds": outcome.group_seconds(group) for group in GROUPS},
        "total_seconds": outcome.total_seconds,
        "net_seconds": outcome.net_seconds,
        "start_seconds": outcome.start_seconds,
        "train_seconds_per_image": outcome.train_seconds_per_image if outcome.ok else None,
        "data_wait_seconds": outcome.data_wait_seconds,
        "first_step_seconds": outcome.first_step_seconds,
        "median_step_seconds": outcome.median_step_seconds,
        "compile_seconds": outcome.compile_seconds,
        **{f"chosen_{name}": _cell(value) for name, value in outcome.chosen.items()},
        "host_peak_bytes": outcome.peak("host_peak_bytes"),
        "device_peak_allocated_bytes": outcome.peak("device_peak_allocated_bytes"),
        "device_peak_reserved_bytes": outcome.peak("device_peak_reserved_bytes"),
        "device_process_bytes": outcome.peak("device_process_bytes"),
        "cpu_joules": outcome.joules("cpu_joules"),
        "gpu_joules": outcome.joules("gpu_joules"),
        **{f"stage_{name}_seconds": _stage_seconds(outcome, name) for name in functions},
    }


def _computed(outcome: Outcome, machine: Environment) -> dict[str, object]:
    """Of the stages that compute the most."""
    names = (FIT, TRAIN, SAMPLE)
    return {f"{name}_flops": outcome.flops(name) for name in names} | {
        f"{name}_share_of_peak": outcome.share_of_peak(name, machine) for name in names
    }


def _stage_seconds(outcome: Outcome, function: str) -> float | None:
    return outcome.seconds(lambda charge: charge.function == function)


def _cell(value: Setting) -> str | int | float | bool | None:
    """A setting that is a tuple as text, so that the column has one type."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def stages(run: Loaded) -> pd.DataFrame:
    """One row a call of a stage, in the order of the units."""
    rows = [
        {
            **{name: getattr(row, name) for name in _STAGE_COLUMNS},
            "parents": " ".join(row.parents),
            "num_steps": len(row.step_seconds),
            "chosen": json.dumps(row.chosen, sort_keys=True) if row.chosen else None,
        }
        for row in run.rows
    ]
    return pd.DataFrame(rows, columns=[*_STAGE_COLUMNS, "parents", "num_steps", "chosen"])


def steps(run: Loaded) -> pd.DataFrame:
    """One row a step of a loop, with the part of it spent waiting for its item."""
    rows = [
        (row.unit, row.key, row.function, step, seconds, waited)
        for row in run.rows
        for step, (seconds, waited) in enumerate(
            itertools.zip_longest(row.step_seconds, row.data_wait_seconds)
        )
    ]
    return pd.DataFrame(rows, columns=_STEP_COLUMNS)


def to_csv(table: pd.DataFrame) -> str:
    """With an apostrophe before text that a spreadsheet would take for a formula."""
    texts = table.select_dtypes(["object", "string"]).columns
    safe = {
        name: table[name].str.replace(r"^([=@\t]|[+-](?![\d.]))", r"'\1", regex=True)
        for name in texts
    }
    return table.assign(**safe).to_csv(index=False, lineterminator="\n")
