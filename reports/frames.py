"""A run as tables for pandas: of outcomes, contests, stages and steps. Unknown is null."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter

import pandas as pd

from bench.records import Record, Setting, StageRow
from reports.load import Loaded, plain_text
from reports.tables import FIT, GROUPS, SAMPLE, TRAIN, Outcome

# Of a stage; what a step has is in a table of its own.
_STAGE_COLUMNS = [
    one.name for one in fields(StageRow)
    if one.name not in ("schema_version", "parents", "step_seconds", "data_wait_seconds", "chosen")
]  # fmt: skip
_MEMORY = (
    "host_peak_bytes",
    "device_peak_allocated_bytes",
    "device_peak_reserved_bytes",
    "device_process_bytes",
)
_ENERGY = ("cpu_joules", "gpu_joules")

# Each column by its name, with its cells; of many rows no more than one column is held twice.
_Cells = Iterator[tuple[str, Sequence[object]]]


def results(run: Loaded, found: Sequence[Outcome]) -> pd.DataFrame:
    """One row an outcome: identity, settings, status, scores, costs."""
    records = [one.record for one in found]
    columns = _columns(
        itertools.chain(
            _told(records, [one.failure for one in found]),
            _costs(run, found),
            _computed(run, found),
            _circumstances(run, records),
        )
    )
    is_told = _is_told(run, "chosen")
    chosen: list[dict[str, Setting]] = [one.chosen if is_told else {} for one in found]
    return _frame({name: columns[name] for name in _in_turn(found, chosen, list(columns))})


def contests(run: Loaded) -> pd.DataFrame:
    """One row a contender of a contest and round: identity, settings, status, scores.

    seconds: of an image (priors), or of a step
    """
    found = sorted(run.contests, key=lambda one: (one.settings["contest"], one.case_id))
    errors = [one.error for one in found]
    return _frame(_columns(itertools.chain(_told(found, errors), _circumstances(run, found))))


def _frame(columns: Mapping[str, pd.Series]) -> pd.DataFrame:
    return pd.DataFrame(columns, copy=False)  # which would hold all of it twice for a while


def _columns(columns: _Cells) -> dict[str, pd.Series]:
    return {name: _column(cells) for name, cells in columns}


def _column(cells: Sequence[object]) -> pd.Series:
    """A column of one type, whatever the cells hold: the type does not hang on which are null.

    A setting that is a tuple becomes text.
    """
    kinds = set(map(type, cells)) - {type(None)}
    if kinds == {bool}:
        return pd.Series(cells, dtype="boolean")
    if kinds and kinds <= {bool, int}:
        return pd.Series(cells, dtype="Int64")
    if kinds <= {bool, int, float}:
        return pd.Series(cells, dtype="float64")
    texts = [",".join(map(str, one)) if isinstance(one, tuple) else one for one in cells]
    return pd.Series([None if one is None else str(one) for one in texts], dtype="string")


def _told(found: Sequence[Record], errors: Iterable[str | None]) -> _Cells:
    yield "case_id", [one.case_id for one in found]
    yield "repeat", [one.repeat for one in found]
    yield "seed", [one.seed for one in found]
    yield "unit", [one.unit for one in found]
    yield "status", [one.status for one in found]
    yield "error", [None if text is None else plain_text(text) for text in errors]
    for name in _names(one.settings for one in found):
        yield name, [one.settings.get(name) for one in found]
    for name in _names(one.scores for one in found):
        yield name, [one.scores.get(name) for one in found]
    yield "warnings", ["; ".join(map(plain_text, one.warnings)) or None for one in found]


def _names(found: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for one in found for name in one))


def _circumstances(run: Loaded, found: Sequence[Record]) -> _Cells:
    environment = run.environment
    yield "disturbed", ["; ".join(run.disturbed.get(one.unit, ())) or None for one in found]
    for name, value in (
        ("suite", run.plan.suite),
        ("commit", environment.commit),
        ("dirty", environment.dirty),
        ("device", environment.device),
        ("device_name", environment.device_name),
    ):
        yield name, [value] * len(found)


def _costs(run: Loaded, found: Sequence[Outcome]) -> _Cells:
    for group in GROUPS:
        yield f"{group}_seconds", [one.group_seconds(group) for one in found]
    yield "total_seconds", [one.total_seconds for one in found]
    yield "net_seconds", [one.net_seconds for one in found]
    yield "start_seconds", [one.start_seconds for one in found]
    per_image = [one.train_seconds_per_image if one.ok else None for one in found]
    yield "train_seconds_per_image", per_image
    yield "data_wait_seconds", [one.data_wait_seconds for one in found]
    yield "first_step_seconds", [one.first_step_seconds for one in found]
    yield "median_step_seconds", [one.median_step_seconds for one in found]
    compiled = _is_told(run, "compile_seconds") or _is_told(run, "warm_up_compile_seconds")
    yield "compile_seconds", [one.compile_seconds if compiled else None for one in found]
    chosen = [one.chosen for one in found] if _is_told(run, "chosen") else []
    for name in _names(chosen):
        yield f"chosen_{name}", [one.get(name) for one in chosen]
    for name in _MEMORY:
        is_told = _is_told(run, name)
        yield name, [one.peak(name) if is_told else None for one in found]
    for name in _ENERGY:
        is_told = _is_told(run, name)
        yield name, [one.joules(name) if is_told else None for one in found]
    seconds = [one.seconds_by_function for one in found]
    for name in sorted({c.function for one in found for c in one.bill if c.function}):
        yield (
            f"stage_{name}_seconds",
            [None if known is None else known.get(name, 0) for known in seconds],
        )


def _is_told(run: Loaded, name: str) -> bool:
    """Whether any stage tells it. What none does is looked for in no bill."""
    return any(getattr(row, name) not in (None, {}) for row in run.rows)


def _computed(run: Loaded, found: Sequence[Outcome]) -> _Cells:
    """Of the stages that compute the most."""
    is_told = _is_told(run, "flops")
    for name in (FIT, TRAIN, SAMPLE):
        yield f"{name}_flops", [one.flops(name) if is_told else None for one in found]
    for name in (FIT, TRAIN, SAMPLE):
        shares = [one.share_of_peak(name, run.environment) if is_told else None for one in found]
        yield f"{name}_share_of_peak", shares


def _in_turn(
    found: Sequence[Outcome], chosen: Sequence[Mapping[str, Setting]], columns: list[str]
) -> list[str]:
    """Those columns first that the first outcome has, then what the next ones have beside."""
    kinds = dict.fromkeys(
        (*one.settings, *one.record.scores, *(f"chosen_{name}" for name in of_stages))
        for one, of_stages in zip(found, chosen, strict=True)
    )
    own, *others = kinds or [()]
    late = [name for name in dict.fromkeys(itertools.chain(*others)) if name not in own]
    return [*(name for name in columns if name not in late), *late]


def stages(run: Loaded) -> pd.DataFrame:
    """One row a call of a stage, in the order of the units."""
    rows = run.rows
    columns = {name: pd.Series(list(map(attrgetter(name), rows))) for name in _STAGE_COLUMNS}
    columns["parents"] = pd.Series([" ".join(row.parents) for row in rows])
    columns["num_steps"] = pd.Series([len(row.step_seconds) for row in rows])
    columns["chosen"] = pd.Series(
        [json.dumps(row.chosen, sort_keys=True) if row.chosen else None for row in rows]
    )
    return _frame(columns)


def steps(run: Loaded) -> pd.DataFrame:
    """One row a step of a loop, with the part of it spent waiting for its item."""
    rows = [row for row in run.rows if row.step_seconds or row.data_wait_seconds]
    counts = [max(len(row.step_seconds), len(row.data_wait_seconds)) for row in rows]
    of_steps = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    pairs = [
        pair for row in rows
        for pair in itertools.zip_longest(row.step_seconds, row.data_wait_seconds)
    ]  # fmt: skip
    columns: dict[str, list[object]] = {
        **{name: list(map(attrgetter(name), of_steps)) for name in ("unit", "key", "function")},
        "step": [step for count in counts for step in range(count)],
        "seconds": [seconds for seconds, _ in pairs],
        "data_wait_seconds": [waited for _, waited in pairs],
    }
    return pd.DataFrame(columns)


_ROWS_AT_ONCE = 10_000
# What a spreadsheet would take for a formula.
_FORMULA = re.compile(r"^([=@\t]|[+-](?![\d.]))")


def to_csv(table: pd.DataFrame) -> bytes:
    """With an apostrophe before text that a spreadsheet would take for a formula."""
    safe = {}
    for name in table.select_dtypes(["object", "string"]).columns:
        texts = [text for text in table[name].unique() if isinstance(text, str)]
        if any(map(_FORMULA.match, texts)):
            safe[name] = table[name].str.replace(_FORMULA, r"'\1", regex=True)
    table = table.assign(**safe)
    stream = io.BytesIO()
    with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.columns)
        # By columns, in half the time that pandas takes, and some rows at a time: as objects they
        # take much memory.
        for start in range(0, len(table), _ROWS_AT_ONCE):
            some = table.iloc[start : start + _ROWS_AT_ONCE]
            cells = [
                column.astype(object).where(column.notna(), None).tolist()
                for _, column in some.items()
            ]
            writer.writerows(zip(*cells, strict=True))
        text.flush()
        return stream.getvalue()
