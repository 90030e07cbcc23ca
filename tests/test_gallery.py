"""The gallery: what its pages say is what their records say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest

from reports import load, page
from reports.standalone import standalone
from scripts import gallery
from tests.test_readme import README, ROOT

ENTRIES = sorted(path.parent for path in gallery.GALLERY.glob("*/records.zip"))
MAX_BYTES = 10 * 2**20


def test_there_are_entries_and_they_are_small() -> None:
    assert {entry.name for entry in ENTRIES} == {"corrected-cpu", "restoration-cpu"}
    files = [path for path in gallery.GALLERY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_its_records_give_its_verdicts_and_results(entry: Path, tmp_path: Path) -> None:
    with ZipFile(entry / "records.zip") as archive:
        archive.extractall(tmp_path)
    run = load.load_run(tmp_path / entry.name)
    assert not run.missing and not run.altered
    files = page.build(run)
    ours, theirs = (json.loads(one)["claims"] for one in (
        files["summary.json"], (entry / "summary.json").read_bytes()
    ))  # fmt: skip
    for one, other in zip(ours, theirs, strict=True):
        # What is told image by image needs the images, which are artifacts.
        assert one["verdict"] in (other["verdict"], "not measured")
    assert {one["verdict"] for one in theirs} - {"not measured"}
    made, kept = (
        pd.read_csv(io.BytesIO(one))
        for one in (files["results.csv"], (entry / "results.csv").read_bytes())
    )
    columns = [name for name in kept.columns if name in made.columns]
    assert {"seconds", "eps_loss"} & set(columns)
    pd.testing.assert_frame_equal(made[columns], kept[columns])
    # The page holds no secret of where it was made.
    html = (entry / "report.html").read_text(encoding="utf-8")
    assert "/root/" not in html and "/tmp/" not in html
    commit = json.loads((entry / "summary.json").read_text())["commit"]
    assert commit[:12] in html


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_readme_tells_the_commands_that_made_it(entry: Path) -> None:
    assert f"python -m bench run {entry.name} --out runs/{entry.name}" in README
    for figure in (ROOT / "docs" / "figures").glob(f"{entry.name}-*.svg"):
        name = figure.stem.removeprefix(f"{entry.name}-")
        assert f"docs/figures/{figure.name}" in README
        command = f"python -m reports figure runs/{entry.name} {name} docs/figures/{figure.name}"
        assert command in README
        html = (entry / "report.html").read_text(encoding="utf-8")
        assert standalone(html, name) == figure.read_text(encoding="utf-8")
