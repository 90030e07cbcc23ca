"""Real workers in real processes, in both forms."""

from __future__ import annotations

import dataclasses
import io
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

from bench import display, dryrun, environment, records, runner
from bench.engines import Engine, ForkserverEngine, Process, SubprocessEngine
from bench.integrity import damage
from bench.machine import Machine
from bench.meters import Device, Spans
from bench.records import Record, StageRow, UnitSpec, UnitSummary
from bench.run_folder import Run, read_progress, set_aside
from bench.worker import MAX_LEFT_OUT, _left_out, is_out_of_memory
from dipddpm.sources import bundled_objects
from tests.outcomes import untimed
from tests.processes import on_linux, wait_until
from tests.toy import BASE, NUM_CASES, SUITE, new_run, run_all, toy_units

# A smaller toy for what pays the import of torch in every process.
ONE_OF_EACH = (
    BASE
    + """
[[grid]]
train_on = "worker_mine:halves"
num_images = 4
epochs = [1, 2]

[[grid]]
task = "restore"
loader = "decode"
num_images = 4
epochs = 1
start_from = ["noise", "worker_mine:halfway", "worker_mine:broken"]
"""
)
# What the toy has not: conditions, the other loaders, the published protocol, v prediction.
WIDE = (
    BASE
    + """
[[grid]]
task = "restore"
num_images = 4
epochs = 1
condition_on = ["nothing", "dip"]
prediction_type = "v_prediction"
start_from = ["worker_mine:halfway", "nearest"]
num_samples = 3

[[grid]]
num_images = 6
epochs = 2
protocol = "paper"
train_on = ["images", "worker_mine:halves"]
loader = ["list", "decode"]

[[grid]]
num_images = 6
epochs = 1
loader = "decode"
num_workers = 2
sampler = ["ddpm", "dpmsolver++"]
"""
)
NUM_WIDE = 10
FUNCTIONS = """
import torch

from dipddpm import ImageSet


def halves(images: ImageSet, priors: ImageSet) -> ImageSet:
    return ImageSet((images.pixels + priors.pixels) / 2)


def halfway(degraded: ImageSet, priors: ImageSet) -> ImageSet:
    return ImageSet((degraded.pixels + priors.pixels) / 2)


def broken(degraded: ImageSet) -> ImageSet:
    raise RuntimeError("out of order")


def misshapen(degraded: ImageSet) -> ImageSet:
    return ImageSet(degraded.pixels[:1])


def undefined(degraded: ImageSet) -> ImageSet:
    return ImageSet(degraded.pixels.sqrt())


def elsewhere(degraded: ImageSet) -> ImageSet:
    return ImageSet(degraded.pixels.to("meta"))


def bare(degraded: ImageSet) -> torch.Tensor:
    return degraded.pixels


def meddling(degraded: ImageSet) -> ImageSet:
    degraded.pixels.zero_()
    return degraded


def hungry(degraded: ImageSet) -> ImageSet:
    return ImageSet(torch.empty(2**60))


def broken_target(images: ImageSet) -> ImageSet:
    return ImageSet(1 / 0 * images.pixels)

def ending(degraded):
    raise SystemExit(3)

def killing(degraded):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
FAILING = {
    "broken": "RuntimeError: out of order (in worker_mine:broken)",
    "misshapen": "ValueError: worker_mine:misshapen must return images of shape (4, 3, 16, 16), "
    "got (1, 3, 16, 16) (in worker_mine:misshapen)",
    "undefined": "ValueError: worker_mine:undefined must return finite pixels, got NaN or infinity "
    "(in worker_mine:undefined)",
    "elsewhere": "ValueError: worker_mine:elsewhere must return float32 pixels on the CPU, "
    "got torch.float32 on meta (in worker_mine:elsewhere)",
    "ending": "RuntimeError: worker_mine:ending would have ended the process with status 3 "
    "(in worker_mine:ending)",
    "bare": "TypeError: worker_mine:bare must return an ImageSet, got Tensor (in worker_mine:bare)",
}
BROKEN = (
    BASE
    + f"""
[[grid]]
task = "restore"
num_images = 4
epochs = 1
start_from = {
        [
            "noise",
            "worker_mine:hungry",
            "worker_mine:meddling",
            *(f"worker_mine:{name}" for name in FAILING),
            "degraded",
        ]
    }

[[grid]]
num_images = 4
epochs = [1, 2]
train_on = ["worker_mine:broken_target", "dip"]
"""
)


class Timed(ForkserverEngine):
    """Notes from outside when each worker was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[Path, float] = {}

    def start(self, unfinished: Path, environment: Mapping[str, str]) -> Process:
        self.asked[unfinished] = time.time()
        return super().start(unfinished, environment)


@pytest.fixture(scope="module")
def engine() -> Timed:
    return Timed()


@pytest.fixture(scope="module")
def run(engine: Timed, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return run_all(new_run(folder, engine), engine)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A suite file beside which functions of the user's lie."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "worker_mine.py").write_text(FUNCTIONS)
    return str(folder / "toy.toml")


@pytest.fixture(scope="module")
def wide(engine: Timed, mine: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of files in a folder, one of which is no image."""
    pictures = tmp_path_factory.mktemp("pictures")
    for i in range(20):
        (pictures / f"{i}.webp").write_bytes(bundled_objects().train.read(i))
    (pictures / "none.webp").write_bytes(b"no image")
    text = WIDE.replace("[base]", f'images = "{pictures}"\n[base]')
    folder = tmp_path_factory.mktemp("runs") / "wide"
    return run_all(new_run(folder, engine, text, file=mine), engine)


@pytest.fixture(scope="module")
def failed(engine: Timed, mine: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "failed"
    return run_all(new_run(folder, engine, BROKEN, file=mine), engine)


@pytest.fixture(params=["run", "wide"])
def whole(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def rows_of(run: Run) -> dict[tuple[str, str], StageRow]:
    return {(row.unit, row.key): row for row in run.stage_rows()}


def test_every_case_has_its_record(whole: Run) -> None:
    found = whole.records()
    assert len(found) == (NUM_CASES if whole.plan.images == "objects" else NUM_WIDE)
    assert {record.status for record in found} == {"ok"}, [record.error for record in found]
    asked = {case.case_id: case for spec in whole.plan.units if spec.kind == "train"
             for case in spec.cases}  # fmt: skip
    for record in found:
        s = record.settings
        assert s == asked[record.case_id].settings
        expected = {"paired_psnr" if s["task"] == "restore" else "all_pairs_psnr"}
        if s["num_inference_steps"]:
            expected |= {"eps_loss", "train_loss_last_epoch"}
        if s["train_on"] != "images":
            expected |= {"training_prior_psnr_stop"}
        if s["start_from"] in ("dip", "worker_mine:halfway"):
            expected |= {"start_prior_psnr_stop"}
        assert expected <= record.scores.keys()
    assert whole.missing() == []


def test_every_executed_row_is_in_a_bill_and_a_bill_is_whole(whole: Run) -> None:
    rows = rows_of(whole)
    billed = {key for record in whole.records() for key in record.stages}
    assert {row.key for row in rows.values() if row.executed} == billed
    for record in whole.records():
        bill = [rows[record.unit, key] for key in record.stages]
        assert {parent for row in bill for parent in row.parents} <= set(record.stages)
        assert len(set(record.stages)) == len(record.stages)
        stages = {row.function for row in bill}
        assert ("train_ddpm" in stages) == (record.settings["num_inference_steps"] != 0)


def test_all_kinds_of_stages_are_in_these_runs(run: Run, wide: Run) -> None:
    found = {row.function for one in (run, wide) for row in one.stage_rows()}
    assert found >= {
        *("prepare", "degrade", "take", "fit_priors", "join", "encode", "train_ddpm", "sample"),
        *("blur_targets", "dip_targets", "halves", "start_nlm", "start_nearest", "halfway"),
        *("as_samples", "score_anchors", "score_priors", "score_net", "score_generation"),
        *("score_restoration", "score_start"),
    }


@pytest.mark.parametrize("name", ["run", "wide", "failed"])
def test_rows_and_overhead_sum_to_the_life_of_the_process(
    request: pytest.FixtureRequest, name: str
) -> None:
    run: Run = request.getfixturevalue(name)
    rows = run.stage_rows()
    for summary in run.summaries():
        stages = sum(row.seconds or 0 for row in rows if row.unit == summary.unit)
        assert summary.process_seconds is not None
        named = stages + sum(summary.overhead_seconds.values())
        # The slack in seconds is for a process that is put aside between two spans.
        assert named == pytest.approx(summary.process_seconds, rel=0.02, abs=0.05)


def test_the_time_of_a_stage_that_failed_has_a_name(run: Run, failed: Run) -> None:
    stages = {record.unit for record in failed.records() if record.status != "ok"}
    for summary in failed.summaries():
        assert ("failed_stage" in summary.overhead_seconds) == (summary.unit in stages)
    assert not any("failed_stage" in summary.overhead_seconds for summary in run.summaries())


@pytest.mark.truth
def test_the_life_of_the_process_is_what_is_seen_from_outside(run: Run, engine: Timed) -> None:
    for summary in run.summaries():
        # The last file a worker writes before it renames its folder.
        written = (run.unit_folder(summary.unit) / records.SUMMARY).stat().st_mtime
        assert summary.process_seconds is not None
        outside = written - engine.asked[run.unit_folder(summary.unit + records.UNFINISHED)]
        assert summary.process_seconds == pytest.approx(outside, rel=0.02, abs=0.05)


def test_a_case_trained_on_priors_carries_their_seconds(run: Run) -> None:
    rows = rows_of(run)
    makers = shared_of(run)
    executed = {row.key: row for row in rows.values() if row.executed}
    carried = 0
    for record in run.records():
        s = record.settings
        wants = s["train_on"] != "images" or s["start_from"] == "dip"
        fits = [rows[record.unit, key] for key in record.stages
                if rows[record.unit, key].function == "fit_priors"]  # fmt: skip
        assert bool(fits) == wants
        for row in fits:
            # Loaded here, made by a unit of its own, and there is what it cost.
            assert not row.executed
            assert executed[row.key].unit in makers
            assert (executed[row.key].seconds or 0) > 0
            carried += 1
    # Sizes 4 and 6 at two milestones have 1 + 2 chunks each, the blur 2; two of the start.
    assert carried == 2 * (1 + 2) + 2 + 2


def test_the_steps_counted_are_the_steps_planned(whole: Run) -> None:
    rows = whole.stage_rows()
    for spec in whole.plan.units:
        counted = sum(len(row.step_seconds) for row in rows if row.unit == spec.unit)
        assert counted == spec.num_steps, spec.unit


def test_every_unit_tells_of_the_machine_before_and_after(run: Run) -> None:
    for summary in run.summaries():
        assert len(summary.probes) == len(summary.machine) == 2
        assert all(min(one.matmul_seconds, one.copy_seconds) > 0 for one in summary.probes)
        first, last = summary.machine
        assert last.own_seconds - first.own_seconds > 0
        assert last.monotonic_seconds - first.monotonic_seconds > 0
        # Beside the stages, like all that is not theirs.
        assert summary.overhead_seconds["probe"] > 0
    # Told from others, by no name of theirs.
    assert {summary.host for summary in run.summaries()} == {environment.host()}
    assert platform.node() not in str(run.summaries())
    assert {summary.gpu for summary in run.summaries()} == {None}
    # Reading no energy is not reading that there was none.
    assert {row.gpu_joules for row in run.stage_rows()} == {None}


def test_a_cold_unit_gives_the_same_and_is_not_warmed_up(engine: Timed, tmp_path: Path) -> None:
    text = BASE + "[[grid]]\nnum_images = 4\nepochs = 1\n"

    def outcome(name: str, *, cold: bool) -> tuple[list[Record], UnitSummary]:
        run = new_run(tmp_path / name, engine, text)
        units = tuple(spec.model_copy(update={"cold": cold}) for spec in run.plan.units)
        records.write(run.folder / records.PLAN, run.plan.model_copy(update={"units": units}))
        done = run_all(Run.open(run.folder), engine)
        (summary,) = done.summaries()
        return done.records(), summary

    (cold, summary), (warm, warmed) = outcome("cold", cold=True), outcome("warm", cold=False)
    assert cold == warm
    assert len(summary.probes) == 0 and len(summary.machine) == 2
    assert "warm_up" in warmed.overhead_seconds and "warm_up" not in summary.overhead_seconds


def test_both_forms_of_the_worker_give_the_same_records(tmp_path: Path, mine: str) -> None:
    def outcome(engine: Engine, name: str) -> tuple[list[Record], list[object]]:
        done = run_all(new_run(tmp_path / name, engine, ONE_OF_EACH, file=mine), engine)
        imports = {bool(one.overhead_seconds["import"]) for one in done.summaries()}
        assert imports == {name == "spawned"}
        return untimed(done)

    forked = outcome(ForkserverEngine(), "forked")
    assert [record.status for record in forked[0]].count("ok") == 4
    assert forked == outcome(SubprocessEngine(), "spawned")


def test_checkpoints_are_kept_when_asked(engine: Timed, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    text = BASE + "[[grid]]\nnum_images = 4\nepochs = [1, 2]\n"
    run = new_run(tmp_path / "run", engine, text)
    keeping = [spec.model_copy(update={"keep_checkpoints": True}) for spec in run.plan.units]
    records.write(run.folder / records.PLAN, run.plan.model_copy(update={"units": tuple(keeping)}))
    done = run_all(Run.open(run.folder), engine)
    kept = sorted(done.folder.glob("units/*/artifacts/*.ema.safetensors"))
    assert len(kept) == 2
    first, second = (load_file(path) for path in kept)
    assert first.keys() == second.keys()
    assert any((first[name] != second[name]).any() for name in first)
    [spec] = done.plan.units
    assert damage(done, spec) is None
    content = kept[0].read_bytes()
    kept[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert damage(done, spec) == f"{kept[0]}: its content is not what was written"
    kept[0].unlink()  # as `bench clean` does
    assert damage(done, spec) is None


def test_a_start_that_fails_is_a_record_and_the_others_go_on(failed: Run) -> None:
    found = {
        str(record.settings["start_from"]).removeprefix("worker_mine:"): record
        for record in failed.records()
        if record.settings["task"] == "restore"
    }
    assert {record.unit for record in found.values()} == {found["noise"].unit}
    for name, record in found.items():
        if name in FAILING:
            assert (record.status, record.error) == ("error", FAILING[name])
            assert record.scores == {} and record.samples is None and record.stages == ()
        elif name == "hungry":
            assert record.status == "oom"
            assert record.error is not None and "(in worker_mine:hungry)" in record.error
        else:
            assert (record.status, record.error) == ("ok", None)
    assert failed.summary(found["noise"].unit).status == "ok"
    log = (failed.unit_folder(found["noise"].unit) / records.LOG).read_text()
    assert log.count("Traceback") >= len(FAILING) + 1
    # What a function does to what it is given is of no consequence for the others.
    start = rows_of(failed)
    degraded = found["degraded"]
    assert degraded.scores["degraded_psnr"] == found["noise"].scores["degraded_psnr"] > 15
    assert {start[degraded.unit, key].function for key in degraded.stages} >= {"start_degraded"}


def test_what_was_done_before_a_process_is_killed_keeps_its_bill(
    engine: Timed, mine: str, tmp_path: Path
) -> None:
    starts = ["degraded", "worker_mine:killing", "noise"]
    grid = f"[[grid]]\ntask = 'restore'\nnum_images = 4\nepochs = 1\nstart_from = {starts}\n"
    run = run_all(new_run(tmp_path / "run", engine, BASE + grid, file=mine), engine)
    found = {record.settings["start_from"]: record for record in run.records()}
    assert [found[start].status for start in starts] == ["ok", "killed", "killed"]
    there = {row.key for row in run.stage_rows()}
    assert found["degraded"].stages and there >= set(found["degraded"].stages)


def test_a_function_of_another_file_than_at_the_beginning_is_refused(
    engine: Timed, tmp_path: Path
) -> None:
    path = tmp_path / "worker_changed.py"
    path.write_text("def same(degraded):\n    return degraded\n")
    grid = "[[grid]]\ntask = 'restore'\nepochs = 1\nnum_images = 4\n"
    grid += "start_from = 'worker_changed:same'\n"
    run = new_run(tmp_path / "run", engine, BASE + grid, file=str(tmp_path / "toy.toml"))
    path.write_text("def same(degraded):\n    return degraded  # or not\n")
    (record,) = run_all(run, engine).records()
    assert record.status == "error"
    assert record.error is not None and "is of another file than when the run began" in record.error


def test_a_target_that_fails_fails_its_own_cases(failed: Run) -> None:
    targets = [record for record in failed.records() if record.settings["task"] == "generate"]
    assert len(targets) == 4
    for record in targets:
        if record.settings["train_on"] == "dip":
            assert record.status == "ok"
        else:
            assert record.status == "error"
            assert record.error == (
                "ZeroDivisionError: division by zero (in worker_mine:broken_target)"
            )
    assert failed.missing() == []
    assert display.summary(failed).row_count == len(failed.records())


def test_warnings_are_in_the_records(run: Run, wide: Run) -> None:
    def some(record: Record, *words: str) -> bool:
        return all(any(word in text for text in record.warnings) for word in words)

    for record in wide.records():
        s = record.settings
        # Of files, of settings, of scores.
        assert some(record, "'none.webp': must be a whole file")
        assert some(record, "score_range = mixed", "ran in float32") == (s["protocol"] == "paper")
        assert some(record, "start images are images of") == (s["start_from"] == "nearest")
        assert len(set(record.warnings)) == len(record.warnings)
    noisy = {
        record.case_id: some(record, "like noise")
        for record in run.records()
        if record.scores["lag1_autocorrelation"] < 0.2
    }
    # A UNet of two epochs gives noise, also of a start halfway.
    assert len(noisy) > 2 and all(noisy.values())
    assert sum(some(record, "like noise") for record in run.records()) == len(noisy)


def test_what_depends_on_a_failed_unit_fails_with_it(engine: Timed, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(8):
        (pictures / f"{i}.webp").write_bytes(bundled_objects().train.read(i))
    text = SUITE.replace("[base]", f'images = "{pictures}"\n[base]')
    text = text.replace("num_held_out = 4", "num_held_out = 1").replace(
        "num_samples = 4", "num_samples = 1"
    )
    run = new_run(tmp_path / "run", engine, text)
    for i in range(2):  # five of six to train on are left
        (pictures / f"{i}.webp").unlink()
    run_all(run, engine)
    assert run.missing() == []
    makers = [unit for unit in shared_of(run) if run.summary(unit).status == "error"]
    assert len(makers) == 1
    for record in run.records():
        s = record.settings
        if s["train_on"] != "images":
            # One unit makes the priors of both sizes: its dependents fail with it.
            assert (record.status, record.error) == ("error", f"needs {makers[0]}, which failed")
        elif s["num_images"] == 6:
            assert record.status == "error"
            assert record.error is not None and "num_images must be at most 5" in record.error
        else:
            assert record.status == "ok"
    assert {record.status for record in run.records()} == {"ok", "error"}
    assert "Traceback" in (run.unit_folder(makers[0]) / records.LOG).read_text()


def test_other_images_than_the_runs_are_refused(engine: Timed, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", engine, BASE + "[[grid]]\nnum_images = 4\nepochs = 1\n")
    [spec] = run.plan.units
    ours = bundled_objects().digest
    for digest, status in ((ours, "ok"), (ours[::-1], "error")):
        units = (spec.model_copy(update={"unit": status, "images_sha256": digest}),)
        records.write(run.folder / records.PLAN, run.plan.model_copy(update={"units": units}))
        [record] = run_all(Run.open(run.folder), engine).records()
        assert record.status == status
    assert record.error is not None
    assert "images of objects have changed since the run began" in record.error


def test_of_many_files_that_are_left_out_the_first_are_named() -> None:
    source = bundled_objects()

    def told(count: int) -> tuple[str, ...]:
        skipped = tuple(f"{i}.png: must not be empty" for i in range(count))
        return _left_out(dataclasses.replace(source, skipped=skipped))

    assert told(1) == ("image left out: 0.png: must not be empty",)
    assert len(told(MAX_LEFT_OUT)) == MAX_LEFT_OUT
    assert told(MAX_LEFT_OUT + 30)[-1] == "30 more images left out"


def shared_of(run: Run) -> list[str]:
    return [spec.unit for spec in run.plan.units if spec.kind == "shared"]


@pytest.mark.slow
def test_features_of_references_are_made_once_for_all_seeds(engine: Timed, tmp_path: Path) -> None:
    text = BASE.replace("num_held_out = 4", "num_held_out = 100").replace(
        "num_samples = 4", "num_samples = 100"
    )
    text += "[[grid]]\nnum_images = 100\nepochs = 1\nseed = [0, 1]\n"
    run = run_all(new_run(tmp_path / "run", engine, text), engine)
    [maker] = shared_of(run)
    executed: dict[str, int] = {}
    loaded: dict[str, int] = {}
    for row in run.stage_rows():
        if row.function == "extract_features":
            found = executed if row.executed else loaded
            found[row.unit] = found.get(row.unit, 0) + 1
    trained = [spec.unit for spec in run.plan.units if spec.kind == "train"]
    assert len(trained) == 2
    # Of the samples in each run; of training and held-out images once.
    assert executed == {maker: 2, **dict.fromkeys(trained, 1)}
    assert loaded == dict.fromkeys(trained, 2)
    billed = {key for record in run.records() for key in record.stages}
    assert {row.key for row in run.stage_rows() if row.executed} == billed
    one, other = run.records()
    assert one.scores["nearest_real_efflite0"] == other.scores["nearest_real_efflite0"] > 0
    for record in (one, other):
        low, kid, high = (record.scores[f"kid_efflite0{end}"] for end in ("_low", "", "_high"))
        assert low < kid < high
    assert one.scores["kid_efflite0"] != other.scores["kid_efflite0"]
    for summary in run.summaries():
        stages = sum(row.seconds or 0 for row in run.stage_rows() if row.unit == summary.unit)
        assert summary.process_seconds is not None
        named = stages + sum(summary.overhead_seconds.values())
        assert named == pytest.approx(summary.process_seconds, rel=0.02, abs=0.05)


def test_other_sources_than_the_runs_are_refused_unless_forced(
    engine: Timed, tmp_path: Path
) -> None:
    """They may differ on another node, or may have been changed while the run went on."""
    run = new_run(tmp_path / "run", engine, BASE + "[[grid]]\nnum_images = 4\nepochs = 1\n")
    known = run.environment.model_copy(update={"source_sha256": "0" * 64})
    records.write(run.folder / records.ENVIRONMENT, known)
    [record] = run_all(Run.open(run.folder), engine).records()
    assert record.status == "error" and record.error is not None
    assert "the sources of dipddpm and bench are not those that the run began with" in record.error
    runner.forget_failures(run)
    [record] = run_all(Run.open(run.folder), engine, forced=("sources",)).records()
    assert (record.status, record.warnings[0]) == ("ok", "sources")


@on_linux
@pytest.mark.parametrize("kept", [True, False])
def test_a_worker_that_was_given_up_leaves_its_successor_alone(
    engine: Timed, tmp_path: Path, kept: bool
) -> None:
    """On a cluster, of a node that seemed lost: it writes to the same place, if it lives."""
    run = new_run(tmp_path / "run", engine, BASE + "[[grid]]\nnum_images = 4\nepochs = [1, 30]\n")
    [spec] = run.plan.units
    unfinished = run.unfinished(spec.unit)
    unfinished.mkdir()
    records.write(unfinished / records.SPEC, spec)
    worker = SubprocessEngine().start(unfinished, {})
    process = psutil.Process(worker.pid)  # type: ignore[attr-defined]
    wait_until(lambda: read_progress(unfinished) > 0)
    process.suspend()
    if kept:
        set_aside(unfinished, records.KILLED)
    else:  # by a runner that goes on where another was killed
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    records.write(unfinished / records.SPEC, spec)
    process.resume()
    wait_until(lambda: worker.exit_code() is not None)
    assert worker.exit_code() == 1
    # Results of equal keys are equal bytes, whoever writes them; rows would be doubled.
    left = {path.name for path in unfinished.iterdir()} - {records.ARTIFACTS}
    assert left == {records.SPEC}
    assert not run.is_done(spec)
    for aside in run.aside(records.KILLED):
        assert "is another worker's now" in (aside / records.LOG).read_text()


def test_a_spec_is_what_the_worker_ran(run: Run) -> None:
    for spec in run.plan.units:
        assert records.read(run.unit_folder(spec.unit) / records.SPEC, UnitSpec) == spec


def test_a_unit_past_its_time_is_ended(engine: Timed, tmp_path: Path) -> None:
    text = BASE + "[[grid]]\nnum_images = 4\nepochs = [1, 100000]\n"
    run = new_run(tmp_path / "run", engine, text)
    run_all(run, engine, timeout_seconds=0.01)
    assert [record.status for record in run.records()] == ["timeout", "timeout"]
    (summary,) = run.summaries()
    assert summary.status == "timeout"
    assert summary.error is not None and "0.01 s" in summary.error
    assert run.missing() == []


def test_a_score_that_is_no_number_has_a_status(tmp_path: Path) -> None:
    from bench.artifacts import Artifacts
    from bench.cases import pipeline_config
    from bench.ledger import MeasuringLedger
    from bench.worker import _record_of
    from dipddpm.config import Context
    from dipddpm.pipeline import run_pipeline

    spec = next(unit for unit in toy_units() if unit.kind == "train" and not unit.needs)
    artifacts = Artifacts(tmp_path, {}, keep_all=False, keep_checkpoints=False)
    ledger = MeasuringLedger("unit", Device("cpu"), Machine(), artifacts, Spans())
    config = pipeline_config(spec.cases)
    outcome = next(run_pipeline(config, bundled_objects(), Context(), stages=ledger))
    assert _record_of(spec.cases[0], outcome, spec, ledger, ()).status == "ok"
    of_net = next(scores for scores in outcome.scores if "eps_loss" in scores.values)
    of_net.values["eps_loss"] = float("nan")
    record = _record_of(spec.cases[0], outcome, spec, ledger, ("careful",))
    assert (record.status, record.error) == ("nan", "not a number: eps_loss")
    assert record.warnings[-2:] == (
        "careful",
        "samples look like noise: mean lag-1 autocorrelation below 0.2",
    )


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
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


def test_the_operations_of_a_run_are_those_of_its_dry_run(run: Run) -> None:
    booking = dryrun.book(run.plan.units)
    rows = run.stage_rows()
    # Each stage of each unit, whichever was loaded.
    for stage in {row.function for row in rows}:
        made = [row for row in rows if row.function == stage and row.executed]
        assert len(made) == booking.by_stage(booking.shared)[stage]
        counts = [row.flops for row in made]
        if booking.flops(booking.shared, stage) is None:
            assert set(counts) <= {None}
        else:
            assert booking.flops(booking.shared, stage) == sum(filter(None, counts))
    # On a CPU there is no memory of a device to tell of.
    assert {row.predicted_bytes for row in rows} == {None}
    did, alone = (booking.flops(one) for one in (booking.shared, booking.alone))
    assert did is not None and alone is not None
    words = f"{display.operations(did)}; had no case shared any, {display.operations(alone)}"
    assert f"{words} ({did / alone:.2f} of it)" in display.bill(run)
    assert sum(summary.overhead_seconds["flops"] for summary in run.summaries()) > 0


def test_a_failed_unit_of_priors_is_not_called_ok(
    engine: Timed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_all(new_run(tmp_path / "run", engine), engine, timeout_seconds=0.01)
    lines = [line for line in capsys.readouterr().out.splitlines() if "] priors-" in line]
    assert len(lines) == len(shared_of(run)) == 2
    assert all(line.endswith("timeout") for line in lines)


def test_the_summary_is_the_mean_over_seeds(engine: Timed, tmp_path: Path) -> None:
    grid = '[[grid]]\ntask = "restore"\nstart_from = ["nlm", "tv"]\nnum_inference_steps = 0\n'
    text = f"{BASE}{grid}num_images = 4\nepochs = 1\nseed = [0, 1]\n"
    run = run_all(new_run(tmp_path / "run", engine, text), engine)
    screen = Console(width=120, record=True, file=io.StringIO())
    screen.print(display.summary(run))
    rows = [row.split() for row in screen.export_text().splitlines()[2:]]
    assert [row[0] for row in rows] == ["nlm", "tv"]
    for start, runs, *_, psnr, status in rows:
        found = [one for one in run.records() if one.settings["start_from"] == start]
        assert (runs, len(found), status) == ("2", 2, "ok")
        scores = [one.scores["paired_psnr"] for one in found]
        assert scores[0] != scores[1]
        assert psnr == f"{sum(scores) / 2:.3f}"


def test_the_summary_has_the_settings_that_differ(run: Run) -> None:
    screen = Console(width=120, record=True, file=io.StringIO())
    screen.print(display.summary(run))
    head, *rows = screen.export_text().splitlines()[1:]
    # One loader and one schedule: neither needs a column. What starts from noise is told apart by
    # its task.
    names = ["train_on", "num_images", "epochs", "start_from", "num_inference_steps", "task"]
    assert head.split()[:7] == ["on", "images", "epochs", "from", "steps", "task", "runs"]
    assert len(rows) == NUM_CASES
    assert "…" not in "".join((head, *rows))
    scores = {tuple(row.split()[:6]): row.split()[7:] for row in rows}
    assert len(scores) == NUM_CASES
    for record in run.records():
        s = record.settings
        key = tuple(str(s[name]) for name in names)
        if s["task"] == "restore" and s["start_from"] != "noise":
            assert f"{record.scores['paired_psnr']:.3f}" in scores[key]
