"""How a run goes, told in a page and on a map."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from bench.course import Course
from bench.display import RunDisplay
from bench.live import LIVE, LivePage
from bench.records import Record, UnitSpec, UnitSummary, failure_of
from tests.toy import plan_of, toy_units


def ok(spec: UnitSpec) -> UnitSummary:
    return UnitSummary(unit=spec.unit, status="ok")


def text(page: str) -> str:
    body = re.sub(r"<(style|title|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", body)).split())


def states_of(page: str) -> list[str]:
    return re.findall(r'<li class="(\w+)"', page)


def test_a_map_shows_what_matters_most_of_the_units_that_share_a_place() -> None:
    units = toy_units()
    few = [units[0].model_copy(update={"unit": f"u{place}"}) for place in range(7)]
    course = Course(plan_of(few), few[:4])
    assert course.grid_map(7) == course.grid_map(100) == ["ok"] * 4 + ["waiting"] * 3
    course.started(few[4])
    assert course.grid_map(7) == ["ok"] * 4 + ["running", "waiting", "waiting"]
    # Two a place: (ok ok) (ok ok) (running waiting) (waiting).
    assert course.grid_map(4) == course.grid_map(5) == ["ok", "ok", "running", "waiting"]
    course.finished(few[4], UnitSummary(unit="u4", status="error", error="it broke"), [])
    assert course.grid_map(4) == ["ok", "ok", "failed", "waiting"]
    assert course.grid_map(1) == ["failed"]
    course.again(few[4])
    assert course.grid_map(1) == ["waiting"]
    assert course.failures == {}


def test_the_page_follows_the_run(tmp_path: Path) -> None:
    units = toy_units()
    first, second, *rest = units
    stream = io.StringIO()
    page = tmp_path / LIVE

    def written() -> str:
        return page.read_text(encoding="utf-8")

    plan = plan_of(units, "<script>alert(1)</script> {{ 7 }}")
    with RunDisplay(plan, (), Console(file=stream, width=100), LivePage(tmp_path)) as shown:
        assert set(states_of(written())) == {"waiting"}
        assert f"0 of {len(units)} units done." in text(written())
        assert "location.reload" in written()
        shown.started(first, "CPU")
        assert states_of(written()) == ["running"] + ["waiting"] * (len(units) - 1)
        assert f"At work {first.unit}" in text(written())
        shown.finished(first, ok(first), [])
        shown.started(second, "CPU")
        failures: list[Record] = [
            failure_of(one, second.unit, "error", "it <b>broke</b>") for one in second.cases
        ]
        wrong = UnitSummary(unit=second.unit, status="error", error="it <b>broke</b>")
        shown.finished(second, wrong, failures)
        assert states_of(written())[:3] == ["ok", "failed", "waiting"]
        said = text(written())
        assert f"2 of {len(units)} units done, 1 of them failed." in said
        assert f"Failed {second.unit}: it <b>broke</b>" in said
        shown.again(second, "its process ended")
        assert states_of(written())[1] == "waiting"
    said = text(written())
    assert "It has stopped." in said and "python -m reports build" in said
    assert "location.reload" not in written()
    assert "<script>alert(1)</script> {{ 7 }}" in said and "<script" not in written()
    assert [path.name for path in tmp_path.iterdir()] == [LIVE]
    assert "<svg" not in written() and "http:" not in written() and "https:" not in written()
    assert rest


def test_the_page_tells_when_it_should_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [
        one.model_copy(update={"unit": f"u{place}", "kind": "train", "num_steps": 10, "needs": ()})
        for place, one in enumerate([toy_units()[-1]] * 3)
    ]
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with RunDisplay(plan_of(units), (), Console(file=io.StringIO()), LivePage(tmp_path)) as shown:
        assert "as soon as a unit has shown its pace" in text((tmp_path / LIVE).read_text())
        shown.started(units[0], "CPU")
        now[0] += 7200
        shown.finished(units[0], ok(units[0]), [])
        assert shown.course.seconds_left({}) == pytest.approx(2 * 7200)
        assert re.search(r"It should end about \d\d:\d\d", text((tmp_path / LIVE).read_text()))
        for spec in units[1:]:
            shown.started(spec, "CPU")
            shown.finished(spec, ok(spec), [])
    assert "The run is over." in text((tmp_path / LIVE).read_text())


def test_a_page_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    units, stream = toy_units(), io.StringIO()
    with RunDisplay(
        plan_of(units), (), Console(file=stream, width=200), LivePage(tmp_path / "none")
    ) as shown:
        shown.started(units[0], "CPU")
        shown.finished(units[0], ok(units[0]), [])
    assert stream.getvalue().count("the page is no longer written") == 1


@pytest.mark.parametrize(("encoding", "signs"), [("utf-8", "■✗▶·"), ("ascii", "#x>.")])
def test_a_terminal_shows_the_map_in_letters_it_has(encoding: str, signs: str) -> None:
    units = [toy_units()[0].model_copy(update={"unit": f"u{place}"}) for place in range(4)]
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=stream, width=80, force_terminal=True, no_color=True)
    with RunDisplay(plan_of(units), units[:1], console) as shown:
        shown.started(units[1], "CPU")
        shown.finished(units[1], UnitSummary(unit="u1", status="error", error="x"), [])
        shown.started(units[2], "CPU")
    stream.flush()
    # Dim and bold are no colours, and stay.
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.getvalue().decode(encoding))
    assert signs in said


def test_in_a_pipe_there_is_no_map() -> None:
    units, stream = toy_units(), io.StringIO()
    with RunDisplay(plan_of(units), (), Console(file=stream, width=80)) as shown:
        shown.started(units[0], "CPU")
        shown.finished(units[0], ok(units[0]), [])
    assert stream.getvalue().count("\n") == 1 and "■" not in stream.getvalue()
