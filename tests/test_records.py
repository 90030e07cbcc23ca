from __future__ import annotations

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
    records.append(unfinished / "stages.jsonl", [StageRow.model_construct(key="k")])
    finish_unit(unfinished, UnitSummary(unit="unit", status="ok"))
    assert [path.name for path in tmp_path.iterdir()] == ["unit"]
