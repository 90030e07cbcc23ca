"""The machine while a run went on, as the report tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import records
from bench.records import MachineState, Probe, UnitSummary
from bench.run_folder import sha256_of
from reports import page
from reports.context import Report
from reports.frames import results
from reports.load import load_run
from tests.test_report_figures import rows_of, section, tables_of, text
from tests.test_report_tables import toy_run


def probed(folder: Path, unit: str, *matmul: float, started: str, seconds: float = 20.0) -> None:
    """Gives the unit in that folder two probes, whose copies take 0.01 s."""
    path = folder / records.SUMMARY
    summary = records.read(path, UnitSummary)
    probes = tuple(Probe(matmul_seconds=value, copy_seconds=0.01) for value in matmul)
    given = {"unit": unit, "probes": probes, "started": started, "process_seconds": seconds}
    records.write(path, summary.model_copy(update=given))


@pytest.fixture
def busy_run(tmp_path: Path) -> Path:
    """Three of five units have probes; the last was measured again and is busy still."""
    path = toy_run(tmp_path / "toy").finish()
    units = path / records.UNITS
    names = sorted(folder.name for folder in units.iterdir())[:3]
    for place, (name, after) in enumerate(zip(names, (0.020, 0.021, 0.030), strict=True)):
        probed(units / name, name, 0.02, after, started=f"2026-01-01T00:0{9 - place}:00+00:00")
    again = units / f"{names[2]}{records.BUSY}1"
    again.mkdir()
    (again / records.SUMMARY).write_text((units / names[2] / records.SUMMARY).read_text())
    probed(again, names[2], 0.02, 0.04, started="2026-01-01T00:00:00+00:00", seconds=33.0)
    return path


def test_drift_and_what_was_busy(busy_run: Path) -> None:
    found = section(busy_run, "machine")
    said = text(found)
    assert "busy with something else during 1 of 3 units" in said
    assert "1 more attempt at them counts nowhere" in said
    assert "from 1.00 to 2.00 times what is usual" in said
    listed, drawn = sorted(tables_of(found, "unit"), key=len)
    last = sorted(load_run(busy_run).summaries, key=lambda one: one.unit)[2].unit
    # In the order of their start; usual is 0.02.
    assert [line[1:4] for line in drawn] == [
        ["1", "1", "1"], ["1", "2", "1"],
        ["2", "1", "1"], ["2", "1.5", "1"],
        ["3", "1", "1"], ["3", "1.05", "1"],
        ["4", "1", "1"], ["4", "1", "1"],
    ]  # fmt: skip
    assert [line[4] for line in drawn] == ["False", "False", *["True"] * 6]
    assert [line[5] for line in drawn] == [*["True"] * 4, *["False"] * 4]
    assert [line[:3] for line in listed] == [
        [last, "set aside", "33.0 s"],
        [last, "in the tables", "20.0 s"],
    ]
    assert "matmul after it took 2.00 times what is usual" in listed[0][3]
    assert "matmul after it took 1.50 times what is usual" in listed[1][3]


def test_what_was_disturbed_is_marked_where_its_figures_are(busy_run: Path) -> None:
    loaded = load_run(busy_run)
    [unit] = loaded.disturbed
    files = page.build(loaded)
    head = text(files["report.html"].decode().split("<header>")[1].split("</header>")[0])
    for said in (head, files["report.md"].decode()):
        assert "busy with something else during 1 of 3 units" in said
    found = results(loaded, Report(loaded).found)
    marked = found[found["disturbed"].notna()]
    assert set(marked["unit"]) == ({unit} if unit in set(found["unit"]) else set())
    assert set(found["status"]) == {"ok"}
    shown = text(section(busy_run, "results"))
    assert shown.count(", disturbed ") == len(marked) == 2


def test_rows_that_were_altered_are_told_at_the_top(busy_run: Path) -> None:
    folder = next((busy_run / records.UNITS).glob("*/records.jsonl")).parent
    summary = records.read(folder / records.SUMMARY, UnitSummary)
    rows = folder / records.RECORDS
    known = {records.RECORDS: sha256_of(rows)}
    records.write(folder / records.SUMMARY, summary.model_copy(update={"rows_sha256": known}))
    assert load_run(busy_run).altered == ()
    rows.write_text(rows.read_text().replace("0.", "1.", 1))
    said = text(section(busy_run, "answer"))
    assert "records.jsonl: its content is not what was written" in said
    assert "bench resume" in said


def test_a_run_without_probes_says_so(tmp_path: Path) -> None:
    found = section(toy_run(tmp_path / "toy").finish(), "machine")
    assert "has no probes" in text(found)


def test_the_state_of_the_machine_is_told_from_its_least_to_its_most(tmp_path: Path) -> None:
    path = toy_run(tmp_path / "toy").finish()
    for place, folder in enumerate(sorted((path / records.UNITS).iterdir())):
        summary = records.read(folder / records.SUMMARY, UnitSummary)
        state = MachineState(
            monotonic_seconds=1.0, load_average=0.5 + place, busy_seconds=1.0, own_seconds=1.0,
            steal_seconds=None, cpu_mhz=2000.0 + 100 * place, cpu_governor="performance",
            cpu_temperature_celsius=None, gpu=None,
        )  # fmt: skip
        records.write(folder / records.SUMMARY, summary.model_copy(update={"machine": (state,)}))
    assert len(load_run(path).summaries) == 5
    facts = {line[0]: line[1] for line in rows_of(section(path, "environment"), "what")}
    assert facts["load average"] == "0.500 to 4.50"
    assert facts["CPU clock, MHz"].split() == ["2", "000", "to", "2", "400"]
    assert facts["CPU frequency policy"] == "performance"
    assert facts["CPU temperature, °C"] == facts["GPU power, W"] == "–"


def test_energy_is_the_sum_over_the_bill_or_unknown(tmp_path: Path) -> None:
    path = toy_run(tmp_path / "toy").finish()
    stages = sorted((path / records.UNITS).glob(f"*/{records.STAGES}"))
    for file in stages:
        rows = records.read_lines(file, records.StageRow)
        file.write_text("")
        metered = [replace(row, cpu_joules=2.0) if row.executed else row for row in rows]
        records.append(file, metered)
    outcome = Report(load_run(path)).generated[0]
    assert outcome.joules("cpu_joules") == 2.0 * len(outcome.bill)
    assert outcome.joules("gpu_joules") is None
