from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench import records
from bench.errors import UserError
from bench.records import Record, StageRow, UnitSpec, UnitSummary
from bench.run_folder import Run, finish_unit, record_failure
from tests.toy import toy_units

RECORD = Record(
    case_id="c",
    repeat=1,
    seed=0,
    unit="u",
    status="ok",
    settings={"block_out_channels": (8, 16), "t0": None, "learning_rate": 1e-4, "loader": "memory"},
    scores={"a": 0.1 + 0.2, "b": float("nan"), "c": float("inf"), "d": -float("inf")},
)


CALL = StageRow(
    key="k",
    function="train_ddpm",
    parents=("a", "b"),
    unit="u",
    executed=True,
    seconds=0.1 + 0.2,
    device_seconds=float("inf"),
    step_seconds=(0.1, 1 / 3),
    chosen={"tf32": True, "samples_per_batch": 4, "sizes": (1, 2)},
)


def line_of(row: Record | StageRow, **changes: object) -> str:
    """As it is stored, with other values or other fields."""
    if isinstance(row, StageRow):
        # JSON has no infinity.
        return json.dumps({**asdict(row), "device_seconds": None, **changes})
    return json.dumps({**row.model_dump(), "scores": {}, **changes})


def test_rows_come_back_as_they_were_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records.append(path, [RECORD])
    records.append(path, [RECORD.model_copy(update={"repeat": 2})])
    first, second = records.read_lines(path, Record)
    assert (first.repeat, second.repeat) == (1, 2)
    assert repr(first.scores) == repr(RECORD.scores)
    assert first.settings == RECORD.settings
    assert isinstance(first.settings["block_out_channels"], tuple)
    assert "NaN" in path.read_text() and ": NaN" not in path.read_text()


def test_calls_come_back_as_they_were_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "stages.jsonl"
    records.append(path, [CALL])
    records.append(path, [replace(CALL, key="other")])
    assert records.read_lines(path, StageRow) == [CALL, replace(CALL, key="other")]
    assert "Infinity" in path.read_text() and ": Infinity" not in path.read_text()


@pytest.mark.parametrize("row", [RECORD, CALL], ids=["record", "call"])
def test_a_file_may_hold_rows_of_several_versions(row: Record | StageRow, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    versions = (4, 1, 3, 4, 2)
    path.write_text("".join(f"{line_of(row, schema_version=one)}\n" for one in versions))
    found = records.read_lines(path, type(row))
    assert [one.schema_version for one in found] == [records.SCHEMA_VERSION] * 5
    assert found[0] == found[3]
    if isinstance(row, Record):
        # What was in force before there was a setting for it.
        flips = [one.settings.get("flip") for one in found if isinstance(one, Record)]
        assert flips == [None, "device", None, None, None]


@pytest.mark.parametrize("row", [RECORD, CALL], ids=["record", "call"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (lambda row: line_of(row) + line_of(row), "content: Invalid JSON: trailing characters"),
        (lambda row: f"{line_of(row)},{line_of(row)}", "content: Invalid JSON: trailing"),
        (lambda row: f"[{line_of(row)}]", "content: Input should be"),
        (lambda row: line_of(row)[:-1], "content: Invalid JSON: EOF"),
        (lambda row: line_of(row)[:9] + "\n" + line_of(row)[9:], "content: Invalid JSON: EOF"),
        (lambda row: "", "content: Invalid JSON: EOF"),
        (lambda row: line_of(row, unit="../elsewhere"), "unit: String should match"),
        (lambda row: line_of(row, unit=None), "unit: Input should be a valid string"),
        (lambda row: line_of(row, colour="red"), "colour: "),
        (lambda row: line_of(row, schema_version=5), "content: Value error, schema_version"),
        (lambda row: line_of(row, schema_version=1, unit=3), "unit: Input should be a valid str"),
    ],
)
def test_a_line_is_one_row_and_what_is_wrong_is_named(
    line: Callable[[Record | StageRow], str], words: str, row: Record | StageRow, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line_of(row)}\n{line(row)}\n{line_of(row)}\n")
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 2: {re.escape(words)}") as caught:
        records.read_lines(path, type(row))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2"),
        ("{}", "case_id"),
        (RECORD.model_dump_json().replace('"ok"', '"fine"'), "status"),
        (RECORD.model_dump_json().replace('_version":4', '_version":5'), "a newer dipddpm"),
        (RECORD.model_dump_json().replace('"seed":0', '"seed":0,"colour":"red"'), "colour"),
    ],
)
def test_a_line_that_is_none_of_ours_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "records.jsonl"
    records.append(path, [RECORD])
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UserError, match=rf"records\.jsonl, line 2.*{words}|{words}"):
        records.read_lines(path, Record)


def test_a_missing_file_or_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such"):
        records.read(tmp_path / "no-such.json", UnitSpec)
    with pytest.raises(UserError, match=r"run must be a run folder.*plan\.json"):
        Run.open(tmp_path)


def test_failures_are_recorded_for_cases_without_a_record(tmp_path: Path) -> None:
    spec = max(toy_units(), key=lambda unit: len(unit.cases))
    first = spec.cases[0]
    done = RECORD.model_copy(update={"case_id": first.case_id, "settings": first.settings})
    records.append(tmp_path / records.RECORDS, [done])
    record_failure(tmp_path, spec, "oom", "no memory")
    found = records.read_lines(tmp_path / records.RECORDS, Record)
    assert [record.case_id for record in found] == [case.case_id for case in spec.cases]
    assert [record.status for record in found] == ["ok", *["oom"] * (len(spec.cases) - 1)]


@pytest.mark.parametrize(("kind", "count"), [("contest", 1), ("profile", 0), ("shared", 0)])
def test_a_contest_that_fails_has_a_record_and_what_scores_nothing_has_none(
    tmp_path: Path, kind: str, count: int
) -> None:
    [case, *_] = max(toy_units(), key=lambda unit: len(unit.cases)).cases
    some = toy_units()[-1].model_copy(update={"kind": kind, "cases": (case,)})
    record_failure(tmp_path, some, "killed", "SIGKILL")
    path = tmp_path / records.RECORDS
    found = records.read_lines(path, Record) if path.exists() else []
    assert [record.status for record in found] == ["killed"] * count


def test_a_torn_line_is_a_case_without_a_record(tmp_path: Path) -> None:
    spec = max(toy_units(), key=lambda unit: len(unit.cases))
    path = tmp_path / records.RECORDS
    for case in spec.cases[:2]:
        records.append(path, [RECORD.model_copy(update={"case_id": case.case_id})])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    record_failure(tmp_path, spec, "killed", "SIGKILL")
    found = records.read_lines(path, Record)
    assert [record.case_id for record in found] == [case.case_id for case in spec.cases]
    assert [record.status for record in found] == ["ok", *["killed"] * (len(spec.cases) - 1)]


def test_a_unit_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    unfinished = tmp_path / "unit.part"
    unfinished.mkdir()
    records.append(unfinished / "stages.jsonl", [CALL])
    finish_unit(unfinished, UnitSummary(unit="unit", status="ok"))
    assert [path.name for path in tmp_path.iterdir()] == ["unit"]
