"""Real workers in real processes, in both forms."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench import display, records
from bench.engines import Engine, ForkserverEngine, Process, SubprocessEngine
from bench.records import Record, Run, StageRow, UnitSpec
from bench.worker import is_out_of_memory
from dipddpm.sources import bundled_objects, image_folder
from tests.toy import NUM_CASES, SUITE, new_run, run_all, toy_units

# A smaller toy for what pays the import of torch in every process.
ONE_OF_EACH = SUITE.replace("num_images = [4, 6]", "num_images = 4").replace(
    "num_images = 6", "num_images = 4"
)


class Timed(ForkserverEngine):
    """Notes from outside when each worker was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, float] = {}

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        self.asked[unfinished.stem] = time.time()
        return super().start(unfinished, environment)


@pytest.fixture(scope="module")
def engine() -> Timed:
    return Timed()


@pytest.fixture(scope="module")
def run(engine: Timed, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return run_all(new_run(folder, engine), engine)


def rows_of(run: Run) -> dict[tuple[str, str], StageRow]:
    return {(row.unit, row.key): row for row in run.stage_rows()}


def test_every_case_has_its_record(run: Run) -> None:
    found = run.records()
    assert len(found) == NUM_CASES
    assert {record.status for record in found} == {"ok"}
    asked = {case.case_id: case for spec in run.plan.units if spec.kind == "train"
             for case in spec.cases}  # fmt: skip
    for record in found:
        assert record.settings == asked[record.case_id].settings
        expected = "paired_psnr" if record.settings["task"] == "restore" else "all_pairs_psnr"
        assert expected in record.scores
    assert run.missing() == []


def test_every_executed_row_is_in_a_bill_and_a_bill_is_whole(run: Run) -> None:
    rows = rows_of(run)
    billed = {key for record in run.records() for key in record.stages}
    assert {row.key for row in rows.values() if row.executed} == billed
    for record in run.records():
        bill = [rows[record.unit, key] for key in record.stages]
        assert {parent for row in bill for parent in row.parents} <= set(record.stages)
        assert len(set(record.stages)) == len(record.stages)


def test_rows_and_overhead_sum_to_the_life_of_the_process(run: Run) -> None:
    rows = run.stage_rows()
    for summary in run.summaries():
        stages = sum(row.seconds or 0 for row in rows if row.unit == summary.unit)
        assert summary.process_seconds is not None
        named = stages + sum(summary.overhead_seconds.values())
        # The slack in seconds is for a process that is put aside between two spans.
        assert named == pytest.approx(summary.process_seconds, rel=0.02, abs=0.05)


@pytest.mark.truth
def test_the_life_of_the_process_is_what_is_seen_from_outside(run: Run, engine: Timed) -> None:
    for summary in run.summaries():
        # The last file a worker writes before it renames its folder.
        written = (run.unit_folder(summary.unit) / records.SUMMARY).stat().st_mtime
        assert summary.process_seconds is not None
        outside = written - engine.asked[summary.unit]
        assert summary.process_seconds == pytest.approx(outside, rel=0.02, abs=0.05)


def test_a_case_trained_on_priors_carries_their_seconds(run: Run) -> None:
    rows = rows_of(run)
    makers = {spec.unit for spec in run.plan.units if spec.kind == "priors"}
    executed = {row.key: row for row in rows.values() if row.executed}
    carried = 0
    for record in run.records():
        s = record.settings
        wants = s["train_on"] == "dip" or s["start_from"] == "dip"
        fits = [rows[record.unit, key] for key in record.stages
                if rows[record.unit, key].function == "fit_priors"]  # fmt: skip
        assert bool(fits) == wants
        for row in fits:
            # Loaded here, made by a unit of its own, and there is what it cost.
            assert not row.executed
            assert executed[row.key].unit in makers
            assert (executed[row.key].seconds or 0) > 0
            carried += 1
    # Sizes 4 and 6 at two milestones have 1 + 2 chunks each; one start.
    assert carried == 2 * (1 + 2) + 1


def test_the_steps_counted_are_the_steps_planned(run: Run) -> None:
    rows = run.stage_rows()
    for spec in run.plan.units:
        counted = sum(len(row.step_seconds) for row in rows if row.unit == spec.unit)
        assert counted == spec.num_steps, spec.unit


def test_both_forms_of_the_worker_give_the_same_records(run: Run, tmp_path: Path) -> None:
    def outcome(engine: Engine, name: str) -> tuple[list[Record], list[object]]:
        done = run_all(new_run(tmp_path / name, engine, ONE_OF_EACH), engine)
        shape: list[object] = [
            (row.unit, row.key, row.function, row.parents, row.executed, row.artifact_sha256,
             len(row.step_seconds))
            for row in done.stage_rows()
        ]  # fmt: skip
        return done.records(), shape

    assert outcome(ForkserverEngine(), "forked") == outcome(SubprocessEngine(), "spawned")


def test_checkpoints_are_kept_when_asked(engine: Timed, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    text = SUITE[: SUITE.index("[[grid]]")] + "[[grid]]\nnum_images = 4\nepochs = [1, 2]\n"
    run = new_run(tmp_path / "run", engine, text)
    keeping = [spec.model_copy(update={"keep_checkpoints": True}) for spec in run.plan.units]
    records.write(run.folder / records.PLAN, run.plan.model_copy(update={"units": tuple(keeping)}))
    done = run_all(Run.open(run.folder), engine)
    kept = sorted(done.folder.glob("units/*/artifacts/*.ema.safetensors"))
    assert len(kept) == 2
    first, second = (load_file(path) for path in kept)
    assert first.keys() == second.keys()
    assert any((first[name] != second[name]).any() for name in first)


@pytest.fixture
def broken_folder(tmp_path: Path) -> Path:
    """Images of which one is no image: whoever trains on it fails."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i}.webp").write_bytes(bundled_objects().train.read(i))
    sixth = image_folder(folder).train.files[5]
    assert isinstance(sixth, Path)
    sixth.write_bytes(b"no image")
    return folder


def test_a_failure_is_a_record_and_the_grid_goes_on(
    engine: Timed, tmp_path: Path, broken_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SUITE.replace("[base]", f'images = "{broken_folder}"\n[base]')
    run = run_all(new_run(tmp_path / "run", engine, text), engine)
    assert run.missing() == []
    for record in run.records():
        if record.settings["num_images"] == 6 or record.settings["train_on"] == "dip":
            # One unit makes the priors of both sizes: its dependents fail with it.
            assert record.status == "error"
            assert record.error is not None
            named = "is no image" in record.error and ".webp" in record.error
            assert named or "which failed" in record.error
            assert record.scores == {}
        else:
            assert record.status == "ok"
    assert {record.status for record in run.records()} == {"ok", "error"}
    assert "warning: " in capsys.readouterr().out
    failed = {summary.unit for summary in run.summaries() if summary.status == "error"}
    log = (run.unit_folder(next(iter(failed & priors_of(run)))) / records.LOG).read_text()
    assert "Traceback" in log
    assert display.summary(run).row_count == NUM_CASES


def priors_of(run: Run) -> set[str]:
    return {spec.unit for spec in run.plan.units if spec.kind == "priors"}


def test_a_spec_is_what_the_worker_ran(run: Run) -> None:
    for spec in run.plan.units:
        assert records.read(run.unit_folder(spec.unit) / records.SPEC, UnitSpec) == spec


def test_a_unit_past_its_time_is_ended(engine: Timed, tmp_path: Path) -> None:
    text = SUITE[: SUITE.index("[[grid]]")] + "[[grid]]\nnum_images = 4\nepochs = [1, 100000]\n"
    run = new_run(tmp_path / "run", engine, text)
    run_all(run, engine, timeout_seconds=0.01)
    assert [record.status for record in run.records()] == ["timeout", "timeout"]
    (summary,) = run.summaries()
    assert summary.status == "timeout"
    assert summary.error is not None and "0.01 s" in summary.error
    assert run.missing() == []


def test_a_score_that_is_no_number_has_a_status(tmp_path: Path) -> None:
    from bench.artifacts import Artifacts
    from bench.ledger import MeasuringLedger
    from bench.meters import Spans
    from bench.suite import pipeline_config
    from bench.worker import _record
    from dipddpm.config import Context
    from dipddpm.pipeline import run_pipeline
    from dipddpm.scoring import Scores

    spec = next(unit for unit in toy_units() if unit.kind == "train" and not unit.needs)
    artifacts = Artifacts(tmp_path, {}, keep_all=False, keep_checkpoints=False)
    ledger = MeasuringLedger("unit", "cpu", artifacts, Spans())
    config = pipeline_config(spec.cases)
    outcome = next(run_pipeline(config, bundled_objects(), Context(), stages=ledger))
    assert _record(spec.cases[0], outcome, spec, ledger, ()).status == "ok"
    outcome.scores[0].values["eps_loss"] = float("nan")
    record = _record(spec.cases[0], outcome, spec, ledger, ("careful",))
    assert (record.status, record.error) == ("nan", "not a number: eps_loss")
    assert record.warnings == ("careful",)
    assert isinstance(outcome.scores[0], Scores)


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_the_bill_of_a_run_counts_what_was_shared_once(run: Run) -> None:
    executed = {(row.unit, row.key): row.seconds or 0 for row in run.stage_rows() if row.executed}
    did = sum(executed.values())
    needs = {spec.unit: spec.needs for spec in run.plan.units}
    alone = 0.0
    for record in run.records():
        for key in record.stages:
            # Its own, or what the one unit that made it for this one took; no other unit's.
            owners = [record.unit, *needs[record.unit]]
            (cost,) = (executed[unit, key] for unit in owners if (unit, key) in executed)
            alone += cost
    assert alone > did
    assert f"({did / alone:.2f} of it)" in display.bill(run)


def test_a_failed_unit_of_priors_is_not_called_ok(
    engine: Timed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_all(new_run(tmp_path / "run", engine), engine, timeout_seconds=0.01)
    lines = [line for line in capsys.readouterr().out.splitlines() if "] priors-" in line]
    assert len(lines) == len(priors_of(run)) == 2
    assert all(line.endswith("timeout") for line in lines)


def test_the_summary_has_the_settings_that_differ(run: Run) -> None:
    screen = Console(width=120, record=True, file=io.StringIO())
    screen.print(display.summary(run))
    head, *rows = screen.export_text().splitlines()[1:]
    # One loader and one schedule: neither needs a column.
    assert head.split()[:4] == ["on", "images", "epochs", "from"]
    assert len(rows) == NUM_CASES
    assert "…" not in "".join((head, *rows))
    scores = {tuple(row.split()[:4]): row.split()[4:] for row in rows}
    for record in run.records():
        s = record.settings
        key = (str(s["train_on"]), str(s["num_images"]), str(s["epochs"]), str(s["start_from"]))
        if s["task"] == "restore" and s["start_from"] != "noise":
            assert f"{record.scores['paired_psnr']:.3f}" in scores[key]
