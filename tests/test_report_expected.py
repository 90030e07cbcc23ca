"""Operations, seconds at the peak and memory, as the report sets them beside what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import records
from bench.costs import peak_of
from bench.records import Environment, Peak, StageRow
from bench.run_folder import Run
from reports.context import Report
from reports.frames import results
from reports.load import load_run
from tests.test_report_figures import rows_of, section, tables_of, text
from tests.test_report_tables import toy_run

FLOPS = {"fit_priors": 3_000_000_000, "train_ddpm": 20_000_000_000, "sample": 1_000_000_000}
# A product of matrices is the larger, of float32; a convolution of the others.
PEAKS = tuple(
    Peak(precision=name, matmul_flops=matmul, conv_flops=conv)  # type: ignore[arg-type]
    for name, matmul, conv in (
        ("float32", 2e10, 1e10), ("tf32", 4e10, 5e10), ("float16", 7e10, 8e10)
    )
)  # fmt: skip


def counted_run(path: Path, *, settings: Any = None, **machine: Any) -> Path:
    """The toy run with operations in its rows, and peaks in its environment."""
    folder = toy_run(path).finish()
    run = Run.open(folder)
    if settings:
        units = [
            spec.model_copy(
                update={
                    "cases": tuple(
                        case.model_copy(update={"settings": {**case.settings, **settings}})
                        for case in spec.cases
                    )
                }
            )
            for spec in run.plan.units
        ]
        plan = run.plan.model_copy(update={"units": tuple(units)})
        records.write(folder / records.PLAN, plan)
    for spec in run.done():
        rows = [
            replace(
                row,
                flops=FLOPS.get(row.function),
                predicted_bytes=2**30 if machine and row.function in FLOPS else None,
                device_peak_allocated_bytes=2**29 if machine else None,
            )
            if row.executed
            else row
            for row in run.stage_rows_of(spec.unit)
        ]
        stages = folder / records.UNITS / spec.unit / records.STAGES
        stages.unlink()
        records.append(stages, rows)
    environment = run.environment.model_copy(update={"peaks": PEAKS, **machine})
    records.write(folder / records.ENVIRONMENT, environment)
    return folder


def executed(folder: Path, function: str) -> list[StageRow]:
    return [r for r in Run.open(folder).stage_rows() if r.function == function and r.executed]


def test_estimate_beside_outcome(tmp_path: Path) -> None:
    folder = counted_run(tmp_path / "run")
    found = section(folder, "expected")
    rows = {line[0]: line for line in rows_of(found, "stage")}
    assert rows.keys() == FLOPS.keys()
    for name, flops in FLOPS.items():
        calls = executed(folder, name)
        count, seconds = len(calls), sum(call.seconds or 0 for call in calls)
        assert rows[name][1] == str(count)
        number, unit = rows[name][2].split()
        assert (float(number) * 1e9, unit) == (count * flops, "GFLOP")
        at_peak = count * flops / 2e10
        share = 100 * at_peak / seconds
        assert float(rows[name][5].split()[0]) == pytest.approx(share, rel=0.01)
        shown = rows[name][3].split()
        factor = {"s": 1, "ms": 1e-3, "min": 60}[shown[1]]
        assert float(shown[0]) * factor == pytest.approx(at_peak, rel=0.01)
    assert "float32 20.0 GFLOP/s (a matrix product)" in text(found)
    # Without a CUDA device nothing is said of its memory.
    assert len(tables_of(found, "stage")) == 1


def test_what_was_shared_counts_once(tmp_path: Path) -> None:
    folder = counted_run(tmp_path / "run")
    run = Run.open(folder)
    made = {(row.unit, row.key): row.flops or 0 for row in run.stage_rows() if row.executed}
    needs = {spec.unit: spec.needs for spec in run.plan.units}
    alone = 0
    for record in run.records():
        owners = (record.unit, *needs[record.unit])
        alone += sum(
            made[unit, key] for key in record.stages for unit in owners if (unit, key) in made
        )
    did = sum(made.values())
    assert did < alone
    said = text(section(folder, "expected"))
    assert f"did {did / 1e9:.0f} GFLOP, {did / alone:.2f} of the {alone / 1e9:.0f} GFLOP" in said


@pytest.mark.parametrize(("tf32", "peak"), [("convolutions", 5e10), ("all", 5e10), ("no", 2e10)])
def test_on_cuda_the_peak_is_that_of_the_precision_and_memory_is_told(
    tmp_path: Path, tf32: str, peak: float
) -> None:
    folder = counted_run(tmp_path / "run", settings={"tf32": tf32}, device="cuda")
    of_stages, of_memory = tables_of(section(folder, "expected"), "stage")
    calls = executed(folder, "train_ddpm")
    seconds = sum(call.seconds or 0 for call in calls)
    share = 100 * len(calls) * FLOPS["train_ddpm"] / peak / seconds
    [trained] = [line for line in of_stages if line[0] == "train_ddpm"]
    assert float(trained[5].split()[0]) == pytest.approx(share, rel=0.01)
    assert {line[0] for line in of_memory} == FLOPS.keys()
    assert {tuple(line[1:]) for line in of_memory} == {("1.00 GiB", "512 MiB", "–")}


def test_the_table_of_results_has_shares(tmp_path: Path) -> None:
    report = Report(load_run(counted_run(tmp_path / "run")))
    table = results(report.run, report.found)
    for outcome, (_, line) in zip(report.found, table.iterrows(), strict=True):
        trained = outcome.train_rows
        assert line["train_ddpm_flops"] == len(trained) * FLOPS["train_ddpm"]
        seconds = sum(row.seconds or 0 for row in trained)
        share = len(trained) * FLOPS["train_ddpm"] / seconds / 2e10
        assert line["train_ddpm_share_of_peak"] == pytest.approx(share)


def test_a_run_of_an_earlier_version_says_that_it_does_not_tell(tmp_path: Path) -> None:
    folder = toy_run(tmp_path / "run").finish()
    assert "does not tell the operations" in text(section(folder, "expected"))
    table = results(load_run(folder), Report(load_run(folder)).found)
    assert table["train_ddpm_share_of_peak"].isna().all()


def test_precisions_of_stages() -> None:
    machine = Environment.model_construct(device="cuda", peaks=PEAKS)
    fp16 = {"mixed_precision": "fp16"}
    assert peak_of("train_ddpm", fp16, machine) == 8e10
    # Sampling has a precision of its own, whatever the training was in.
    assert peak_of("sample", fp16, machine) == peak_of("train_ddpm", {}, machine) == 5e10
    assert peak_of("sample", {"sampling_precision": "fp16"}, machine) == 8e10
    assert peak_of("fit_priors", {"prior_tf32": "no"}, machine) == 2e10
    on_cpu = machine.model_copy(update={"device": "cpu"})
    assert peak_of("train_ddpm", fp16, on_cpu) == 2e10
    assert peak_of("train_ddpm", {"mixed_precision": "bf16"}, on_cpu) is None
    assert peak_of("train_ddpm", {}, machine.model_copy(update={"peaks": ()})) is None
