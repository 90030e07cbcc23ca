"""A figure of a report as a file of its own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from reports import page
from reports.__main__ import main
from reports.blocks import Figure, Section
from reports.figures import svg
from reports.figures.svg import new_figure


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a page of two figures."""

    def draw(width: float) -> object:
        figure, (ax,) = new_figure(width, 2)
        ax.plot([1, 2], [3, 4], color=svg.arm_colour("dip"))
        ax.set_xlabel("a < b")
        return figure

    figures = [
        Figure(svg.render(name, f"title of {name}", draw), "caption")  # type: ignore[arg-type]
        for name in ("one", "two")
    ]
    html = page.render("t", "m", [], [Section("loss", "Loss", "found", figures)])
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    return tmp_path


def test_it_is_whole_by_itself(run: Path) -> None:
    assert main(["figure", str(run), "loss-2", str(run / "two.svg")]) == 0
    text = (run / "two.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("width") == f"{svg.WIDE * 96:.0f}"
    assert "title of two" in text and "title of one" not in text
    assert "a &lt; b" in text
    # Every colour that it is drawn with is told, in the light and in the dark.
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    light, dark = text.split("<style>")[1].split("@media")
    told = set(re.findall(r"(--[\w-]+):", light))
    assert {"--arm-dip", "--ink", "--page"} <= used <= told
    assert "--arm-dip: " in dark.split("</style>")[0]
    # What it refers to is in it.
    names = {one.get("id") for one in root.iter()}
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) or names
    for first, second in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text):
        assert (first or second) in names


@pytest.mark.parametrize(
    ("figure", "out", "text"),
    [
        ("loss-3", "x.svg", "FIGURE must be one of loss-1, loss-2, got 'loss-3'"),
        ("loss-1", "missing/x.svg", "No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_told(
    run: Path, figure: str, out: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure", str(run), figure, str(run / out)]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1


def test_a_run_without_a_page_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", str(tmp_path), "loss-1", "x.svg"]) == 2
    assert "not there yet; made by: python -m reports build" in capsys.readouterr().err
