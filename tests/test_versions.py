"""Runs that earlier versions wrote: tests/versions/VERSION.zip, without their artifacts.

Each is of a suite with two targets, two milestones and two starts; a new SCHEMA_VERSION leaves one
of its predecessor here.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from bench.cases import FIELDS
from bench.errors import UserError
from bench.records import SCHEMA_VERSION, Record, Row, StageRow, read
from bench.run_folder import Run
from reports.__main__ import main
from reports.load import load_run

VERSIONS = Path(__file__).parent / "versions"


@pytest.fixture(params=range(1, SCHEMA_VERSION))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with zipfile.ZipFile(VERSIONS / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path)
    assert version(tmp_path) == request.param
    return tmp_path


def version(folder: Path) -> int:
    return int(json.loads((folder / "plan.json").read_text())["schema_version"])


def test_a_run_of_an_earlier_version_is_read_whole(folder: Path) -> None:
    run = Run.open(folder)
    assert len(run.plan.units) == len(list(run.done())) == len(run.summaries()) == 4
    assert len(run.records()) == 6 and run.missing() == []
    assert {record.status for record in run.records()} == {"ok"}
    assert sum(row.executed for row in run.stage_rows()) > 20
    assert {spec.kind for spec in run.plan.units} == {"shared", "train"}
    rows: list[Row | StageRow] = [run.plan, run.environment, *run.records(), *run.stage_rows()]
    assert {row.schema_version for row in rows} == {SCHEMA_VERSION}


def test_its_settings_are_told_by_todays_names(folder: Path) -> None:
    # Nothing that was in force then is lost, and every setting in force is told; but the ones of
    # parts that there were none of.
    unused = {name for name in FIELDS if name.startswith(("es_", "skip_"))}
    for record in Run.open(folder).records():
        assert record.settings.keys() | unused >= FIELDS.keys() - {"seed", "repeat"}
        # From version 3 on it is a setting, and was told.
        assert record.settings["files"] == ("source" if version(folder) < 3 else "encoded")
        assert record.settings["protocol"] == "corrected"


def test_its_report_can_be_built(folder: Path) -> None:
    assert main(["build", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "6 outcomes" in page
    assert load_run(folder).missing == ()


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1", None, True])
def test_another_version_is_refused_by_its_name(tmp_path: Path, version: object) -> None:
    path = tmp_path / "record.json"
    row = {"case_id": "c", "repeat": 1, "seed": 0, "unit": "u", "status": "ok", "settings": {}}
    path.write_text(json.dumps({**row, "schema_version": version}))
    with pytest.raises(
        UserError, match=rf"record\.json.*schema_version.*got {version!r}"
    ) as caught:
        read(path, Record)
    assert ("newer" in str(caught.value)) is (version == SCHEMA_VERSION + 1)
