"""The list of runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import records
from reports.__main__ import main
from tests.test_report_figures import rows_of, text
from tests.test_report_tables import arms_run


def made(folder: Path, created: str, train: float, **changes: str) -> None:
    """A run of two seeds on images, begun then."""
    arms_run(
        folder,
        *[({"train_on": "images", "seed": seed, "repeat": 1}, train, 0.5) for seed in range(2)],
    )
    plan = records.read(folder / records.PLAN, records.Plan)
    records.write(folder / records.PLAN, plan.model_copy(update={"created": created, **changes}))


@pytest.fixture
def runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    folder = tmp_path / "runs"
    folder.mkdir()
    made(folder / "first", "2026-01-02T03:04:05+00:00", 2.0)
    made(folder / "sec ond", "2026-02-02T03:04:05+00:00", 3.0)
    made(folder / "other", "2026-03-02T03:04:05+00:00", 2.0, suite="<b>")
    broken = folder / "broken"
    broken.mkdir()
    (broken / records.PLAN).write_text("{}")
    (folder / "no run").mkdir()
    (folder / "sec ond" / "report.html").write_text("a page")
    assert main(["index", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "index.html")
    return (folder / "index.html").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    [found] = [
        one
        for one in re.findall(r"<section.*?</section>", page, re.DOTALL)
        if f"<h2>{title}</h2>" in one
    ]
    return str(found)


def test_runs_stand_by_suite_the_latest_first(runs: str) -> None:
    lines = rows_of(section(runs, "toy"), "run")
    assert [line[0] for line in lines] == ["sec ond", "first"]
    assert [line[1] for line in lines] == ["2026-02-02 03:04", "2026-01-02 03:04"]
    # Two milestones of each seed, of 4 images: 2 s each, of 5 epochs.
    assert [line[4] for line in lines] == ["4", "4"]
    assert lines[1][8:] == ["100 ms", "–"]
    assert lines[0][8:] == ["150 ms", "1.50×"]
    assert len(rows_of(section(runs, "&lt;b&gt;"), "run")) == 1


def test_only_pages_that_are_there_are_linked(runs: str) -> None:
    assert re.findall(r'<a href="([^#"][^"]*)"', runs) == ["sec%20ond/report.html"]


def test_what_cannot_be_read_is_told_and_nothing_else_is_lost(runs: str) -> None:
    said = text(section(runs, "Unreadable"))
    assert "1 folder could not be read" in said and "broken: " in said
    assert "no run" not in runs


def test_a_folder_without_runs_and_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(tmp_path)]) == 0
    assert "No run here" in (tmp_path / "index.html").read_text()
    capsys.readouterr()
    assert main(["index", str(tmp_path / "nowhere")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("reports: FOLDER must be a folder of runs, got ")
