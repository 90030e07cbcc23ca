"""Runs of very many outcomes: what is found by columns is what one by one would find, and what is
too much to be shown one by one is told over all, and said to be.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from bench import records
from bench.errors import UserError
from bench.records import Setting, UnitSummary
from bench.run_folder import Run
from reports import page, words
from reports.columns import Columns, _numbers_of
from reports.context import PER_IMAGE, Report
from reports.figures import svg
from reports.load import load_run
from reports.pairs import Group, Side
from reports.sections import arms, board, machine, quality, run
from reports.tables import Outcome
from tests.many import MILESTONES, OUTCOMES, many_run
from tests.test_report_figures import rows_of, section, tables_of, text
from tests.test_report_machine import probed
from tests.test_report_tables import Folder, case, record, row, toy_run

UNITS = 40


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_run(tmp_path_factory.mktemp("many") / "run", UNITS)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "render", lambda *_, **__: Markup())


# Reading ----------------------------------------------------------------------------------------


def test_each_file_is_read_as_by_itself(many: Path) -> None:
    folder = Run.open(many)
    units = list(folder.units())
    assert [unit.summary for unit in units] == folder.summaries()
    assert [one for unit in units for one in unit.records] == folder.records()
    assert [one for unit in units for one in unit.rows] == folder.stage_rows()
    assert not any(unit.altered or unit.profiles for unit in units)
    assert folder.missing(folder.records()) == folder.missing() == []
    assert len(folder.missing([])) == UNITS * OUTCOMES


def test_what_was_altered_is_told(tmp_path: Path) -> None:
    path = many_run(tmp_path / "run", 2)
    unit = path / records.UNITS / "train-00000"
    summary = records.read(unit / records.SUMMARY, UnitSummary)
    told = {**summary.rows_sha256, records.LOG: "0" * 64, "gone": "0" * 64}
    records.write(unit / records.SUMMARY, summary.model_copy(update={"rows_sha256": told}))
    with (unit / records.STAGES).open("a") as stream:
        stream.write((unit / records.STAGES).read_text().splitlines()[0] + "\n")
    assert [line.split(":")[0] for line in load_run(path).altered] == [
        str(unit / name) for name in (records.STAGES, records.LOG)
    ]


def test_a_broken_line_of_many_is_named(tmp_path: Path) -> None:
    path = many_run(tmp_path / "run", 2)
    file = path / records.UNITS / "train-00001" / records.STAGES
    lines = file.read_text().splitlines()
    lines[7] = lines[7].replace('"seconds":', '"seconds":"soon","x":')
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"{re.escape(str(file))}, line 8: seconds: Input should"):
        load_run(path)


def test_settings_that_are_alike_are_one_object(many: Path, tmp_path: Path) -> None:
    found = load_run(many)
    cases = [one.settings for spec in found.plan.units for one in spec.cases]
    objects = {id(one) for one in (*cases, *(record.settings for record in found.records))}
    assert len(objects) == len({repr(one.settings) for one in found.records}) < len(cases)
    # Nor does that make a 1 of a 1.0.
    folder = Folder(tmp_path / "run")
    values: tuple[Setting, ...] = (1, 1.0, True, "1", "\x1b[31m1")
    some = [record("a", ["x"], "x", case(t0=value)) for value in values]
    folder.unit("a", [row("a", "x", "train_ddpm", 1.0)], some)
    told = [one.settings["t0"] for one in load_run(folder.finish()).records]
    assert [repr(value) for value in told] == ["1", "1.0", "True", "'1'", "'1'"]


# Matching ---------------------------------------------------------------------------------------


def one_by_one(found: list[Outcome], *sides: Side) -> list[Group]:
    """As `Columns.matched`, from its description."""
    factors = {name for side in sides for name in side}
    cells: dict[str, dict[int, Outcome]] = {}
    for one in found:
        if one.record.repeat > 1 and "repeat" not in factors:
            continue
        told = {**one.settings, "seed": one.record.seed, "repeat": one.record.repeat}
        cell = repr([(name, told[name]) for name in sorted(told) if name not in factors])
        for place, side in enumerate(sides):
            if all(told[name] == value for name, value in side.items()):
                cells.setdefault(cell, {}).setdefault(place, one)
    last: dict[tuple[str, ...], Group] = {}
    for of_side in cells.values():
        if len(of_side) == len(sides):
            group = tuple(of_side[place] for place in range(len(sides)))
            units = tuple(one.record.unit for one in group)
            epochs = group[0].number("epochs")
            if units not in last or epochs > last[units][0].number("epochs"):
                last[units] = group
    return list(last.values())


def test_matches_by_columns_are_those_one_by_one(many: Path) -> None:
    found = Report(load_run(many)).generated
    columns = Columns(found)
    sides: list[tuple[Side, ...]] = [
        ({"train_on": "images"}, {"train_on": "dip"}),
        ({"train_on": "dip"}, {"train_on": "images"}),
        ({"repeat": 1}, {"repeat": 2}),
        ({"epochs": 5}, {"epochs": 40}),
        ({"train_on": "images", "num_inference_steps": 20}, {"train_on": "blur"}),
        ({"train_on": "images"}, {"train_on": "dip"}, {"train_on": "blur"}),
        ({"train_on": "images"}, {"train_on": "nothing"}),
    ]
    draw = random.Random(0)
    some = [one for one in found if draw.random() < 0.8]
    counts = []
    for asked in sides:
        for known in (found, some):
            made = columns.matched(columns.where(known), *asked)
            expected = one_by_one(known, *asked)
            assert [list(map(id, group)) for group in made] == [
                list(map(id, group)) for group in expected
            ]
            counts.append(len(made))
    assert counts.count(0) == 2 and max(counts) > 10
    assert Columns([]).matched(np.zeros(0, bool), *sides[0]) == []


def test_numbers_of_lines_never_overflow() -> None:
    draw = np.random.default_rng(0)
    columns = [draw.integers(0, 2**31, 50)[draw.integers(0, 50, 200)] for _ in range(3)]
    columns += [draw.integers(0, 2, 200) for _ in range(40)]
    columns = [np.concatenate([one, one[:60]]) for one in columns]
    numbers = _numbers_of(columns, 260)
    lines = list(zip(*(one.tolist() for one in columns), strict=True))
    assert len(set(zip(lines, numbers.tolist(), strict=True))) == len(set(lines))
    assert len(set(numbers.tolist())) == len(set(lines)) < 260


def test_a_part_of_a_run_is_matched_as_if_there_were_no_more(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    for protocol in ("paper", "corrected"):
        for train_on in ("images", "dip"):
            unit = f"{protocol}-{train_on}"
            of = case(train_on=train_on, protocol=protocol)
            calls = [row(unit, f"{unit}-x", "train_ddpm", 2.0 if train_on == "dip" else 1.0)]
            folder.unit(unit, calls, [record(unit, [f"{unit}-x"], "x", of)])
    report = Report(load_run(folder.finish()))
    sides = {"train_on": "images"}, {"train_on": "dip"}
    assert [len(report.under(name).found) for name in ("paper", "corrected", "none")] == [2, 2, 0]
    assert len(report.groups(PER_IMAGE, *sides)) == 2
    [[images, dip]] = report.under("paper").groups(PER_IMAGE, *sides)
    assert [images.record.unit, dip.record.unit] == ["paper-images", "paper-dip"]
    # A run of one protocol is that part.
    alone = Report(load_run(toy_run(tmp_path / "toy").finish()))
    assert alone.under("corrected") is alone and not alone.under("paper").found


# What is too much to be shown one by one ----------------------------------------------------------


def lowered(monkeypatch: pytest.MonkeyPatch, *limits: tuple[ModuleType, str, int]) -> None:
    for module, name, value in limits:
        monkeypatch.setattr(module, name, value)


def test_tables_of_too_many_settings_are_over_all(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "are too many for a row each" not in section(many, "arms")
    lowered(monkeypatch, (arms, "MAX_ROWS", 5), (quality, "MAX_ROWS", 5), (run, "MAX_ROWS", 5))
    found = section(many, "arms")
    assert "are too many for a row each: the median of all outcomes" in text(found)
    rows = rows_of(found, "settings")
    assert list(dict.fromkeys(one[1] for one in rows)) == list(map(str, MILESTONES))
    # Every outcome is in one of them, but those that ran again.
    again = sum(one.repeat > 1 for one in load_run(many).records)
    assert sum(int(one[-1]) for one in rows) == UNITS * OUTCOMES - again
    values = [one.score("kid_efflite0") or 0.0 for one in Report(load_run(many)).generated
              if one.settings["train_on"] == "dip" and one.number("epochs") == 80
              and one.record.repeat == 1]  # fmt: skip
    told = [one[6] for one in rows if one[1:3] == ["80", "data"]]
    assert [one.split()[0] for one in told] == [words.three(float(np.median(values)))]
    features = section(many, "quality")
    assert "these are too many for a row each (5): the median" in text(features)
    assert "outcomes are too many for a row each" in text(section(many, "results"))


def test_a_board_of_too_many_entries_tells_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = many_run(tmp_path / "run", 66)
    whole = tables_of(section(path, "time-to-quality"), "entry")[0]
    lowered(monkeypatch, (board, "MAX_ROWS", 3))
    found = section(path, "time-to-quality")
    assert tables_of(found, "entry")[0] == whole[:3] and len(whole) > 3
    assert f"The quickest 3 of {len(whole)}; the best held-out loss of the others is" in text(found)


def test_probes_of_too_many_units_are_told_by_stretches(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [line[2] for line in tables_of(section(many, "machine"), "unit")[-1]]
    assert len(points) == 2 * UNITS
    lowered(monkeypatch, (machine, "MAX_POINTS", 10), (machine, "STRETCHES", 4))
    found = section(many, "machine")
    assert f"Of {2 * UNITS} probes the medians and the slowest of 4 stretches." in text(found)
    drawn = tables_of(found, "unit")[-1]
    assert len(drawn) == 2 * 4
    # The slowest of all is among them, and ringed.
    slowest = max(drawn, key=lambda line: float(line[2]))
    assert float(slowest[2]) == max(map(float, points))
    assert slowest[5] == "True"


def test_too_many_busy_units_are_told_by_what_showed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy_run(tmp_path / "toy").finish()
    for place, folder in enumerate(sorted((path / records.UNITS).iterdir())):
        after = 0.02 if place < 2 else 0.03 + place / 1000
        probed(folder, folder.name, 0.02, after, started=f"2026-01-0{place + 1}")
    lowered(monkeypatch, (machine, "MAX_ROWS", 2))
    said = text(section(path, "machine"))
    assert "measured again. There are 3." in said
    assert "matmul after it took 1.60 to 1.70 times what is usual in the run (3 units)" in said


def test_lists_of_very_many_are_cut_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered(monkeypatch, (words, "MAX_LISTED", 2), (run, "MAX_LISTED", 2))
    path = toy_run(tmp_path / "toy").finish()
    for place, folder in enumerate(sorted((path / records.UNITS).iterdir())):
        summary = records.read(folder / records.SUMMARY, UnitSummary)
        wrong: dict[str, Any] = {"status": "error", "error": f"it broke at {place}"}
        told = {**wrong, "rows_sha256": {records.STAGES: "0"}}
        records.write(folder / records.SUMMARY, summary.model_copy(update=told))
    said = text(section(path, "troubles"))
    assert said.count("Failed unit") == 2
    assert "More failed units error: it broke at 0 to 2 (3 units)" in said
    answer = text(section(path, "answer"))
    assert answer.count("its content is not what was written") == 2 and "and 3 more" in answer


def test_texts_that_differ_in_a_number_are_one() -> None:
    texts = ["a 1 of 7", "b", "a 10 of 7", "b", "a 9 of 7", "a 9 of 7"]
    assert words.by_text(texts, "unit") == ["a 1 to 10 of 7 (4 units)", "b (2 units)"]


def test_texts_of_the_same_records_are_the_same(many: Path) -> None:
    first, second = (
        {name: text for name, text in page.build(load_run(many)).items() if "parquet" not in name}
        for _ in range(2)
    )
    assert first.keys() == {"report.html", "report.md", "summary.json", "results.csv"}
    assert first == second
    assert len(first["results.csv"].splitlines()) == UNITS * OUTCOMES + 1
