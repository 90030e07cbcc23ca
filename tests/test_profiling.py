"""The profile pass: real traces of our own loops, from a worker's process to page and plugin."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from bench import records, traces
from bench.__main__ import main
from bench.cases import pipeline_config
from bench.engines import ForkserverEngine
from bench.integrity import damage
from bench.meters import Device
from bench.profiling import NUM_STEPS, ProfilingLedger, profile_unit, shortened, write_trace
from bench.records import ProfileRow, SyncCall
from bench.run_folder import Run, trace_file
from bench.sync_finder import synchronising_calls
from bench.units import plan_profiles
from dipddpm.config import (
    Context,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.dip import fit_priors
from dipddpm.images import ImageSet
from dipddpm.sampling import SAMPLERS, sample
from dipddpm.sources import ImageSource, open_source
from dipddpm.training import train_ddpm
from reports import load, page
from reports.calls import Call
from reports.traces import read_tables
from tests.test_report_figures import tables_of, text
from tests.test_traces import cuda_trace
from tests.toy import BASE, new_run, run_all, toy_suite, toy_units

SUITE = (
    BASE
    + """
[[grid]]
num_images = 6
epochs = 1

[profile]
train_on = "dip"
num_images = 6
epochs = [2]
"""
)
STAGES = ["fit_priors", "train_ddpm", "sample"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    engine = ForkserverEngine()
    return run_all(new_run(tmp_path_factory.mktemp("profile") / "run", engine, SUITE), engine)


def rows_of(run: Run) -> dict[str, ProfileRow]:
    return {row.function: row for row in run.profiles()}


def events_of(run: Run, stage: str) -> list[dict[str, Any]]:
    row = rows_of(run)[stage]
    folder = run.unit_folder(row.unit)
    found: list[dict[str, Any]] = traces.read(trace_file(folder, stage), folder)["traceEvents"]
    return found


def every(calls: Iterable[Call]) -> Iterator[Call]:
    """Of a tree."""
    for call in calls:
        yield call
        yield from every(call.callees)


# The unit --------------------------------------------------------------------------------------


def test_a_profile_comes_last_and_is_no_measurement(run: Run) -> None:
    train, last = run.plan.units
    assert (train.kind, last.kind) == ("train", "profile")
    assert {record.unit for record in run.records()} == {train.unit}
    assert {row.unit for row in run.stage_rows()} == {train.unit}
    summary = run.summary(last.unit)
    assert (summary.status, summary.probes, summary.machine) == ("ok", (), ())
    assert not run.missing()


def test_every_loop_is_profiled_and_little_else_is_done(run: Run) -> None:
    rows = rows_of(run)
    assert list(rows) == STAGES
    assert {row.num_steps for row in rows.values()} == {3}
    assert all(row.flops_per_step > 0 for row in rows.values())
    # There and back takes a training step about thrice what a sampling step takes.
    ratio = rows["train_ddpm"].flops_per_step / rows["sample"].flops_per_step
    assert 2.9 < ratio < 3


def test_the_shapes_of_a_step_are_those_of_the_case() -> None:
    [case] = toy_suite(SUITE).profiled
    config = pipeline_config((case,))
    short = shortened(config)
    assert (short.data.num_images, short.steps_per_epoch) == (config.training.batch_size, 1)
    [outcome] = short.outcomes
    assert (outcome.epochs, short.dip.num_iter) == (NUM_STEPS, NUM_STEPS)
    assert outcome.sampling.num_inference_steps == NUM_STEPS
    assert outcome.sampling.num_samples == config.outcomes[0].sampling.num_samples
    assert short.dip.images_per_fit == config.dip.images_per_fit
    assert (short.unet, short.training, short.loading) == (
        config.unet, config.training, config.loading,
    )  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_trace_has_steps_names_shapes_memory_and_stacks(run: Run, stage: str) -> None:
    events = events_of(run, stage)
    assert [event["name"] for event in traces.steps(events)] == [
        f"{traces.STEP}{number}" for number in (2, 3, 4)
    ]
    names = [event["name"] for event in events]
    assert names.count(f"dipddpm: {stage} step") == 3
    assert any(event.get("args", {}).get("Input Dims") for event in events)
    assert "[memory]" in names
    assert any(name.startswith("nn.Module: ") for name in names)
    assert list(traces.normalised(events)) == events
    path = trace_file(run.unit_folder(rows_of(run)[stage].unit), stage)
    assert {"host_name", "traceName"}.isdisjoint(json.loads(gzip.decompress(path.read_bytes())))


@pytest.mark.parametrize("stage", STAGES)
def test_the_steps_of_the_table_are_those_of_the_trace(run: Run, stage: str) -> None:
    row = rows_of(run)[stage]
    found = read_tables(row, run.unit_folder(row.unit))
    spans = [step["dur"] / 1e6 for step in traces.steps(events_of(run, stage))]
    assert found.step_seconds == pytest.approx(spans, rel=0.01)
    assert sum(found.phases.values()) == pytest.approx(sum(spans) / 3, rel=0.01)
    trained = stage != "sample"
    assert found.phases["forward"] > 0
    assert (found.phases["backward"] > 0, found.phases["optimizer"] > 0) == (trained, trained)
    assert found.phases["data loading"] > 0
    # The tree of calls, made another way, has whole steps too, and the same optimizer in them, but
    # for calls that take less than half a hundredth of a step each.
    assert sum(call.seconds for call in found.calls) == pytest.approx(sum(spans), rel=0.01)
    optimizer = [call for call in every(found.calls) if call.name.startswith("Optimizer.")]
    seconds = sum(call.seconds for call in optimizer) / 3
    assert seconds == pytest.approx(found.phases["optimizer"], abs=0.03 * sum(spans) / 3)
    assert (found.device, found.kernels) == ({}, ())
    assert "convolution" in " ".join(operator.name for operator in found.operators[:8])
    assert max(height for _, height in found.memory["CPU"]) > 0


def test_a_damaged_trace_is_noticed_and_made_again(run: Run, tmp_path: Path) -> None:
    copy = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    last = copy.plan.units[-1]
    assert damage(copy, last) is None
    path = trace_file(copy.unit_folder(last.unit), "sample")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{path}: its content is not what was written" == damage(copy, last)
    path.unlink()
    assert "No such file" in str(damage(copy, last))
    (copy.unit_folder(last.unit) / records.PROFILE).unlink()
    assert "no stage of a unit that is done" in str(damage(copy, last))


def test_a_loop_too_short_for_the_profiler_is_refused(tmp_path: Path, objects16: ImageSet,
                                                      tiny_unet: UNetConfig) -> None:  # fmt: skip
    ledger = ledger_in(tmp_path)
    context = Context(watch=ledger.watch)
    with pytest.raises(ValueError, match=r"train_ddpm must have at least 5 steps .* got 3"):
        ledger(
            train_ddpm, objects16, 16, tiny_unet, NoiseScheduleConfig(), TrainingConfig(), context,
            loading=LoaderConfig(), epochs=3,
        )  # fmt: skip


def ledger_in(folder: Path) -> ProfilingLedger:
    return ProfilingLedger(folder, toy_units(SUITE)[-1], Device("cpu"))


# The command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_images", "batch_size", "images_per_fit", "expected"),
    [(64, 16, 16, 16), (64, 8, 16, 16), (64, 16, 24, 32), (20, 16, 20, 16), (5, 16, 16, 5)],
)
def test_a_fit_and_a_batch_are_as_large_as_in_the_case(
    num_images: int, batch_size: int, images_per_fit: int, expected: int
) -> None:
    [case] = toy_suite(SUITE).profiled
    config = pipeline_config((case,))
    config = replace(
        config,
        data=replace(config.data, num_images=num_images),
        training=replace(config.training, batch_size=batch_size),
        dip=replace(config.dip, images_per_fit=images_per_fit),
    )
    assert shortened(config).data.num_images == expected


def test_a_profile_of_each_arm() -> None:
    found = toy_suite(BASE + """
[[grid]]
train_on = ["images", "dip"]
loader = ["memory", "decode"]
num_images = [4, 6]
epochs = [1, 2]
""")  # fmt: skip
    units = plan_profiles(found, device="cpu")
    arms = [tuple(unit.cases[0].settings[key] for key in ("train_on", "loader")) for unit in units]
    assert sorted(arms) == [("dip", "decode"), ("dip", "memory"), ("images", "decode"),
                            ("images", "memory")]  # fmt: skip
    assert all(unit.kind == "profile" and not unit.needs for unit in units)
    assert all(unit.cases[0].settings["num_images"] == 4 for unit in units)


def test_bench_profile_and_its_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    suite, folder = tmp_path / "toy.toml", tmp_path / "run"
    suite.write_text(BASE + "\n[[grid]]\nnum_images = 4\nepochs = 1\n", encoding="utf-8")
    arguments = ["profile", str(suite), "--device", "cpu", "--out", str(folder)]
    assert main([*arguments, "--nvtx"]) == 2
    assert "--nvtx and --memory-snapshot need a CUDA device, got cpu" in capfd.readouterr().err
    assert not folder.exists()
    assert main(arguments) == 0
    captured = capfd.readouterr()
    assert f"tensorboard --logdir {folder}" in captured.out
    assert "profiler" not in captured.err and "kineto" not in captured.err.lower()
    files = page.build(load.load_run(folder))
    html = files["report.html"].decode()
    assert 'id="profile"' in html and "images, train" in html
    assert "results.csv" not in files  # there is no outcome


# The page --------------------------------------------------------------------------------------


def test_the_page_says_first_what_its_times_are(run: Run) -> None:
    files = page.build(load.load_run(run.folder))
    section = (
        files["report.html"].decode().split('<section id="profile">')[1].split("</section>")[0]
    )
    assert section.index("hold the profiler&#39;s own cost") < section.index(
        "A step of dip, train:"
    )
    assert "None inside the traced steps" in section
    assert "aten::convolution_backward" in section
    assert "profile" not in files["results.csv"].decode()


def test_a_viewer_of_flames_gets_every_second_of_the_tree_once(run: Run) -> None:
    content = json.loads(page.build(load.load_run(run.folder))["profile.speedscope.json"])
    names = [frame["name"] for frame in content["shared"]["frames"]]
    assert len(names) == len(set(names)) > 20
    for one, stage in zip(content["profiles"], STAGES, strict=True):
        row = rows_of(run)[stage]
        calls = read_tables(row, run.unit_folder(row.unit)).calls
        assert one["type"] == "sampled" and one["unit"] == "seconds"
        assert len(one["samples"]) == len(one["weights"])
        assert all(weight > 0 for weight in one["weights"])
        # The seconds of each call that is at the top are those of all stacks that begin with it.
        by_first: dict[str, float] = {}
        for stack, weight in zip(one["samples"], one["weights"], strict=True):
            first = names[stack[0]]
            by_first[first] = by_first.get(first, 0.0) + weight
        assert by_first == pytest.approx({call.name: call.seconds for call in calls}, rel=1e-3)
        assert one["endValue"] == pytest.approx(sum(one["weights"]))


def with_trace(run: Run, stage: str, content: dict[str, Any], **update: Any) -> None:
    """Puts a trace in the place of that of a stage, with its row."""
    folder = run.unit_folder(run.plan.units[-1].unit)
    path = trace_file(folder, stage)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    update["trace_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = [
        row.model_copy(update=update if row.function == stage else {}) for row in run.profiles()
    ]
    (folder / records.PROFILE).unlink()
    records.append(folder / records.PROFILE, rows)


def section_of(run: Run) -> str:
    html = page.build(load.load_run(run.folder))["report.html"].decode()
    return html.split('<section id="profile">')[1].split("</section>")[0]


def test_a_broken_trace_and_hostile_names_are_text(run: Run, tmp_path: Path) -> None:
    copy = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    folder = copy.unit_folder(copy.plan.units[-1].unit)
    content = json.loads(gzip.decompress(trace_file(folder, "train_ddpm").read_bytes()))
    for event in content["traceEvents"]:
        if event["name"] == "aten::convolution_backward":
            event["name"] = "<script>alert(1)</script>\x1b[31m" + "x" * 10_000
    # Calls within calls, none of which stands for the other, deeper than a page should go.
    step = traces.steps(content["traceEvents"])[0]
    content["traceEvents"] += [
        {**step, "cat": "cpu_op", "name": f"deep{i}", "tid": 12345, "dur": step["dur"] * 0.98**i}
        for i in range(300)
    ]
    hostile = SyncCall(name="<b>", calls=3, seconds=1.0, stack=("<i>.py(1): f",))
    with_trace(copy, "train_ddpm", content, sync_calls=(hostile,))
    trace_file(folder, "sample").write_bytes(b"no trace")

    html = page.build(load.load_run(copy.folder))["report.html"].decode()
    section = html.split('<section id="profile">')[1].split("</section>")[0]
    assert "&lt;script&gt;alert(1)" in section and "<script>alert" not in html
    assert "\x1b" not in html and "x" * 200 not in html
    assert "&lt;i&gt;.py(1): f" in section and "<i>" not in section
    assert section.count("A trace is left out:") == 1
    assert "dip, sample" not in section
    # One stands for those that it takes almost all of, and what takes next to nothing is left out.
    assert "deep5" in section and "deep299" not in section
    assert "3 calls inside the traced steps read values for which the host would wait" in section


def test_the_page_of_a_cuda_trace(run: Run, tmp_path: Path) -> None:
    """Of the trace that is known by heart; its kernels outlast the host, and the last step's were
    not seen, so torch-tb-profiler leaves that step out."""
    copy = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    content = cuda_trace()
    content["traceEvents"] = [
        {**event, "dur": 2000} if event["name"] == "conv_back_kernel<float>" else event
        for event in content["traceEvents"]
        if not (event.get("tid") == 7 and event["ts"] > 2000)
    ]
    with_trace(copy, "train_ddpm", content, num_steps=2)
    section = section_of(copy)
    lines = [line for table in tables_of(section, "stage") for line in table]
    found = {(line[0], line[1]): line[2:] for line in lines if line[0] == "dip, train"}
    # Its last kernel ends 2.5 ms after the step began, and it had two, of 200 and 2000 us.
    assert found["dip, train", "2.50 ms"][0] == "88.0 %"
    # Both steps had their operators, of which the host tells.
    assert found["dip, train", "aten::conv2d"] == ["1", "0.190 ms", "0.100 ms", "100 %"]
    # One kernel in two steps.
    assert found["dip, train", "conv_kernel<float>"] == ["0.500", "0.100 ms", "100 %"]
    # The loop is the whole of a step of the host, whatever the GPU does.
    tree = text(section.split("dip, train</summary>")[1])
    assert tree.startswith("100.0 % dipddpm/training.py(90): train_ddpm")


# Waits -----------------------------------------------------------------------------------------


def test_our_own_loops_make_nothing_wait(run: Run) -> None:
    assert {stage: row.sync_calls for stage, row in rows_of(run).items()} == dict.fromkeys(
        STAGES, ()
    )
    # They would be found: the optimizer of the CPU reads its step counts so.
    names = [event["name"] for event in events_of(run, "train_ddpm")]
    assert "aten::_local_scalar_dense" in names


@pytest.mark.parametrize(
    ("sampler", "prediction_type", "num_workers"),
    [("ddpm", "epsilon", 0), ("ddim", "v_prediction", 1), ("dpmsolver++", "v_prediction", 0)],
)
def test_no_sampler_and_no_decoding_makes_anything_wait(
    tmp_path: Path,
    objects: ImageSource,
    tiny_unet: UNetConfig,
    sampler: Any,
    prediction_type: Any,
    num_workers: int,
) -> None:
    ledger = ledger_in(tmp_path)
    context = Context(watch=ledger.watch)
    schedule = NoiseScheduleConfig(prediction_type=prediction_type)
    trained = ledger(
        train_ddpm, objects.train[:8], 16, tiny_unet, schedule, TrainingConfig(batch_size=4),
        context, loading=LoaderConfig(loader="decode", flip="loader", num_workers=num_workers),
        epochs=3,
    )  # fmt: skip
    sampling = SamplingConfig(sampler=sampler, num_inference_steps=5, num_samples=2)
    ledger(sample, trained, None, 16, tiny_unet, schedule, sampling, context)
    rows = records.read_lines(tmp_path / records.PROFILE, ProfileRow)
    assert [row.sync_calls for row in rows] == [(), ()]


def strict(items: Any) -> Iterator[Any]:
    """Waiting is an error inside steps, from the second on: the first sets up libraries."""
    try:
        for number, item in enumerate(items):
            torch.cuda.set_sync_debug_mode("error" if number else "default")
            yield item
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trace_of(step: Callable[[], object], folder: Path) -> list[traces.Event]:
    found: list[traces.Event] = []
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=1, warmup=1, active=2, repeat=1),
        with_stack=True,
        on_trace_ready=lambda ready: found.extend(write_trace(ready, folder / "t.json.gz")),
    ) as profiler:
        for _ in range(4):
            step()
            profiler.step()
    return found


def test_a_planted_item_is_found_with_its_line(tmp_path: Path) -> None:
    x = torch.ones(3)

    def step() -> float:
        y = x + 1
        return y.sum().item()  # the planted one

    def branches() -> bool:
        return bool(x.sum() > 2)

    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    planted = 1 + next(i for i, line in enumerate(lines) if line.endswith("# the planted one"))
    [found] = synchronising_calls(trace_of(step, tmp_path))
    assert (found.name, found.calls) == ("aten::_local_scalar_dense", 2)
    assert found.seconds > 0
    assert found.stack[0] == f"tests/test_profiling.py({planted}): step"

    [found] = synchronising_calls(trace_of(branches, tmp_path))
    assert found.calls == 2
    assert "branches" in found.stack[0]
    assert synchronising_calls(trace_of(lambda: x + 1, tmp_path)) == ()


@pytest.mark.parametrize(
    "step",
    [lambda x: x[x > 0], torch.nonzero, lambda x: torch.equal(x, x), torch.unique,
     lambda x: x.masked_select(x > 0)],
    ids=["mask", "nonzero", "equal", "unique", "masked_select"],
)  # fmt: skip
def test_other_reads_of_values_are_found(
    tmp_path: Path, step: Callable[[torch.Tensor], object]
) -> None:
    x = torch.ones(3)
    assert synchronising_calls(trace_of(lambda: step(x), tmp_path)) != ()


def test_lines_of_libraries_are_none_of_ours(tmp_path: Path) -> None:
    def step() -> float:
        with contextlib.ExitStack() as stack:
            return stack.enter_context(contextlib.nullcontext(torch.ones(3))).sum().item()

    def called(*_: object) -> int:
        return int(step())

    reading = functools.partial(functools.reduce, called, [1, 2])
    [found] = synchronising_calls(trace_of(reading, tmp_path))
    assert found.stack and all(line.startswith("tests/") for line in found.stack)


def test_a_block_that_is_over_is_not_around_what_follows(tmp_path: Path) -> None:
    """The functions that open a record_function end within it, and were around what it holds."""

    def step() -> float:
        with torch.profiler.record_function("a block"):
            return torch.ones(3).sum().item()

    [found] = synchronising_calls(trace_of(step, tmp_path))
    assert found.stack[0].endswith(": step")
    assert not any("__enter__" in line for line in found.stack)


def test_what_is_planted_in_the_training_loop_is_found(
    tmp_path: Path, objects16: ImageSet, tiny_unet: UNetConfig, tiny_training: TrainingConfig
) -> None:
    ledger = ledger_in(tmp_path)

    def asking(items: Any) -> Iterator[Any]:
        for batch in ledger.watch(items):
            batch.mean().item()
            yield batch

    ledger(
        train_ddpm, objects16, 16, tiny_unet, NoiseScheduleConfig(), tiny_training,
        Context(watch=asking), loading=LoaderConfig(), epochs=2,
    )  # fmt: skip
    [row] = records.read_lines(tmp_path / records.PROFILE, ProfileRow)
    [found] = row.sync_calls
    assert (found.calls, row.num_steps) == (3, 3)
    assert found.stack[0].endswith(": asking")


def test_ranges_for_nsight_systems_are_opened_and_closed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the stage and of its steps."""
    depth, named = 0, []

    @contextlib.contextmanager
    def nvtx(name: str) -> Iterator[None]:
        nonlocal depth
        depth += 1
        named.append((depth, name))
        yield
        depth -= 1

    monkeypatch.setattr(torch.cuda.nvtx, "range", nvtx)
    spec = run.plan.units[-1].model_copy(update={"nvtx": True})
    profile_unit(tmp_path, spec, open_source("objects"), Device("cpu"))
    assert depth == 0
    for stage in STAGES:
        assert (1, f"dipddpm: {stage}") in named
        assert named.count((2, f"dipddpm: {stage} step")) >= NUM_STEPS


@pytest.mark.cuda
def test_a_memory_snapshot_is_kept(run: Run, tmp_path: Path) -> None:
    spec = run.plan.units[-1].model_copy(update={"memory_snapshot": True})
    profile_unit(tmp_path, spec, open_source("objects"), Device("cuda"))
    for stage in STAGES:
        snapshot = trace_file(tmp_path, stage).with_name("memory_snapshot.pickle")
        assert snapshot.stat().st_size > 1000


@pytest.mark.cuda
@pytest.mark.parametrize("net", ["paper", "skip"])
def test_no_fit_of_ours_waits_for_the_gpu(objects16: ImageSet, net: Any) -> None:
    """ES-WMV does, at its window's ends; the fit of the published protocol does not stop early."""
    fit_priors(objects16, DIPConfig(net=net, num_iter=5), Context(device="cuda", watch=strict))


@pytest.mark.cuda
def test_no_step_of_ours_waits_for_the_gpu(
    objects16: ImageSet, tiny_unet: UNetConfig, tiny_training: TrainingConfig
) -> None:
    context = Context(device="cuda", watch=strict)
    schedule = NoiseScheduleConfig()
    trained = train_ddpm(
        objects16, 16, tiny_unet, schedule, tiny_training, context, loading=LoaderConfig(), epochs=3
    )
    for sampler in SAMPLERS:
        settings: Any = {"sampler": sampler}
        sampling = SamplingConfig(num_inference_steps=5, num_samples=4, **settings)
        sample(trained, None, 16, tiny_unet, schedule, sampling, context)


# TensorBoard -----------------------------------------------------------------------------------


@pytest.fixture
def board(run: Run) -> Iterator[str]:
    """The address of a TensorBoard on the run's folder."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run.folder.parent),
               "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield f"http://127.0.0.1:{port}/data/plugin/pytorch_profiler"
        finally:
            server.terminate()


def ask(url: str, **arguments: str) -> Any:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(arguments)}") as answer:
        content = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
    return json.loads(content)


def wait_for_runs(board: str, count: int) -> list[str]:
    """Once all are loaded. Raises AssertionError if that takes two minutes."""
    for _ in range(240):
        time.sleep(0.5)
        try:
            found = ask(f"{board}/runs")
        except urllib.error.URLError:  # it does not listen yet
            continue
        if len(found["runs"]) == count:
            names: list[str] = found["runs"]
            return names
    raise AssertionError("TensorBoard has not loaded the traces")


@pytest.mark.slow
def test_tensorboard_shows_the_traces(run: Run, board: str) -> None:
    unit = run.plan.units[-1].unit
    names = wait_for_runs(board, 3)
    assert names == sorted(f"run/units/{unit}/traces/{stage}" for stage in STAGES)
    for name in names:
        stage = Path(name).name
        views = ask(f"{board}/views", run=name)
        assert {"Overview", "Operator", "Trace", "Memory", "Module"} <= set(views)
        [worker] = ask(f"{board}/workers", run=name, view="Overview")
        where = {"run": name, "worker": worker, "span": "default"}
        overview = ask(f"{board}/overview", **where)
        assert [row[0] for row in overview["steps"]["rows"]] == ["2", "3", "4"]
        spans = [step["dur"] for step in traces.steps(events_of(run, stage))]
        [performance] = overview["performance"]
        assert performance["value"] == pytest.approx(sum(spans) / 3, rel=0.01)
        parts = {part["name"]: part["value"] for part in performance["children"]}
        assert parts["CPU Exec"] > 0 and parts["DataLoader"] > 0
        operators = ask(f"{board}/operation/table", **where, group_by="Operation")["data"]
        assert any("convolution" in row["name"] for row in operators)
        events = ask(f"{board}/trace", **where)["traceEvents"]
        assert len(events) == len(events_of(run, stage))
