"""The command line as a user meets it: real processes, bad input first."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import dryrun, records, runner
from bench.__main__ import main
from bench.display import duration
from bench.errors import UserError
from bench.records import UnitSummary
from bench.run_folder import Run
from dipddpm.config import VERSION
from dipddpm.sources import bundled_objects
from tests.toy import BASE, NUM_CASES, NUM_SAMPLED, SUITE, toy_units

ROOT = Path(__file__).parents[1]
NO_RERUNS = ("--reruns", "0")


def bench(
    *arguments: str | Path, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(SUITE)
    return path


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def refuse(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], *words: str
) -> None:
    """Exit status 2, one line with all the words, nothing written."""
    before = everything_below(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    printed = capsys.readouterr()
    assert status == 2
    # Told first: no table before it.
    assert printed.out in ("", "loading torch to look at the machine ...\n")
    line = printed.err.strip().splitlines()[-1]
    assert "Traceback" not in printed.err
    for word in words:
        assert word in line
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["title"]),
        ("[[grid", ["toml"]),
        (SUITE + "[[grid]]\nepoch = 3\n", ["epoch", "no such setting", "3"]),
        (SUITE.replace("image_size = 16", "image_size = '16'"), ["base", "image_size", "'16'"]),
        (SUITE.replace("num_iter = 4", "num_iter = 0"), ["num_iter", "at least 1", "0"]),
        (SUITE.replace("[4, 6]", "[4, 2000]"), ["num_images", "1000", "2000"]),
        (SUITE.replace("num_held_out = 4", "num_held_out = 275"), ["num_held_out", "274", "275"]),
    ],
)
def test_a_bad_suite(
    capsys: pytest.CaptureFixture[str], toy: Path, content: str, words: list[str]
) -> None:
    toy.write_text(content)
    out = toy.parent / "out"
    refuse(capsys, toy.parent, ["run", str(toy), "--out", str(out)], "toy", *words)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("epochs = 0", ["epochs", "got 0"]),
        ("epochs = 1\nnum_images = 0", ["num_images", "got 0"]),
        ("epochs = 1\nnum_train_timesteps = 1", ["num_train_timesteps", "got 1"]),
        (
            "epochs = 1\ntask = 'restore'\nstart_from = 'nlm'\nnum_train_timesteps = 50\nt0 = 51",
            ["t0", "50", "got 51"],
        ),
        (
            "epochs = 1\nnum_train_timesteps = 50\nnum_inference_steps = 51",
            ["num_inference_steps", "num_train_timesteps = 50", "got 51"],
        ),
        (
            "epochs = 1\narm = 'start'\nt0 = 2",
            ["num_inference_steps", "t0 = 2", "start_from = dip", "got 3"],
        ),
        ("epochs = 1\nnum_inference_steps = 0", ["num_inference_steps", "from noise", "got 0"]),
        ("epochs = 1\ntask = 'restore'\nnum_samples = 5", ["num_samples", "= 4", "got 5"]),
        ("epochs = 1\nnum_workers = 2", ["num_workers", "loader = memory", "got 2"]),
        ("epochs = 1\narm = 'date'", ["arm", "data", "got 'date'"]),
        ("epochs = 1\nprotocol = 'published'", ["protocol", "paper", "got 'published'"]),
        ("epochs = 1\nsampler = 'dpm'", ["sampler", "dpmsolver++", "got 'dpm'"]),
        ("epochs = 1\nnet = 'unet'", ["net", "skip", "got 'unet'"]),
        ("epochs = 1\nnet = 'skip'", ["image_size", "skip_levels = 5", "got 16"]),
        ("epochs = 1\ntrain_on = 'beside:nothing'", ["train_on", "beside:nothing", "beside.py"]),
        ("epochs = 1\ntrain_on = 'absent:f'", ["train_on", "absent"]),
        ("epochs = 1\ntrain_on = 'torn:f'", ["train_on", "torn.py", "line 1"]),
        ("epochs = 1\ntrain_on = 'beside:f'", ["train_on", "beside:f", "images", "got pictures"]),
        ("epochs = 1\nnum_held_out = 5", ["num_held_out", "same in all cases", "4, 5"]),
        ("epochs = 1\ntrain_on = 'images'\narm = 'data'", ["train_on", "arm = 'data'"]),
        ("epochs = 1\nlr_warmup_steps = -1", ["lr_warmup_steps", "got -1"]),
        ("epochs = 1\nrescale_betas_zero_snr = true", ["prediction_type", "got 'epsilon'"]),
    ],
)
def test_a_bad_value(
    capsys: pytest.CaptureFixture[str], toy: Path, lines: str, words: list[str]
) -> None:
    (toy.parent / "beside.py").write_text("def f(pictures): ...\n")
    (toy.parent / "torn.py").write_text("def f(pictures: ...\n")
    toy.write_text(f"{SUITE}\n[[grid]]\n{lines}\n")
    out = toy.parent / "out"
    for more in ([], ["--dry-run"]):
        refuse(capsys, toy.parent, ["run", str(toy), "--out", str(out), *more], f"{toy}: ", *words)


def test_bad_arguments(capsys: pytest.CaptureFixture[str], toy: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    refuse(capsys, tmp_path, ["run", "quack", *out], "suite", "'quack'", "quick")
    refuse(capsys, tmp_path, ["run", str(tmp_path / "no.toml"), *out], "suite", "no.toml")
    refuse(capsys, tmp_path, ["run", str(toy), "--device", "tpu", *out], "--device", "'tpu'")
    refuse(capsys, tmp_path, ["run", str(toy), "--seed", "one", *out], "--seed", "'one'")
    refuse(capsys, tmp_path, ["run", str(toy), "--seed", "-1", *out], "seed", "-1")
    missing = ["run", str(toy), "--images", str(tmp_path / "pictures"), *out]
    refuse(capsys, tmp_path, missing, "--images", "pictures")
    refuse(capsys, tmp_path, ["status", str(tmp_path / "run")], "run", "'" + str(tmp_path / "run"))
    refuse(capsys, tmp_path, ["resume", str(tmp_path)], "run", "plan.json")
    refuse(capsys, tmp_path, ["clean", "--all", str(tmp_path)], "run", "plan.json")
    refuse(capsys, tmp_path, ["run", str(toy), "--out", str(tmp_path)], "--out", str(tmp_path))
    file = toy / "run"
    refuse(capsys, tmp_path, ["run", str(toy), "--out", str(file)], "--out", str(file))


def test_a_folder_without_enough_images(
    capsys: pytest.CaptureFixture[str], toy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    arguments = ["run", str(toy), "--images", str(folder), "--out", str(tmp_path / "out")]
    refuse(capsys, tmp_path, arguments, "--images", "pictures")
    from PIL import Image

    for i in range(4):
        Image.new("RGB", (20, 20), (i, i, i)).save(folder / f"{i}.png")
    refuse(capsys, tmp_path, arguments, "num_images must be at most 3", "got 4")


def test_a_name_too_long_and_a_time_that_is_none(
    capsys: pytest.CaptureFixture[str], toy: Path, tmp_path: Path
) -> None:
    refuse(
        capsys, tmp_path, ["run", str(toy), "--out", str(tmp_path / ("x" * 300))], "--out", "xxx"
    )
    for seconds in ("-1", "0", "nan", "soon"):
        arguments = ["run", str(toy), "--out", str(tmp_path / "run"), "--timeout", seconds]
        refuse(capsys, tmp_path, arguments, "--timeout", f"'{seconds}'")
    refuse(capsys, tmp_path, ["run", str(toy), "--images", ""], "images", "''")
    refuse(capsys, tmp_path, ["run", str(toy), "--see", "3"], "--see")


def test_what_is_said_of_bad_input_is_one_line(toy: Path) -> None:
    for arguments in (["run", "quick", "--device", "tpu"], ["run"], ["walk"]):
        done = bench(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    toy.write_text(SUITE + '[[grid]]\n"a\\nb" = 3\n')
    assert bench("run", toy).stderr.count("\n") == 1


def test_a_report_of_nothing_is_one_line() -> None:
    for arguments in ([], ["build"], ["build", "a", "b"]):
        command = [sys.executable, "-m", "reports", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_ctrl_c_before_a_unit_is_at_work_is_one_line(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", str(toy), "--out", str(tmp_path / "run")]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a shell puts in the background is deaf to Ctrl-C, and that is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        assert b"loading torch" in run.stdout.readline()
        run.send_signal(signal.SIGINT)
        run.stdout.read()
        said = run.stderr.read().decode()
    assert run.returncode == 130
    assert said.count("\n") == 1 and "stopped" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [str(2**63), "1" + "0" * 4400], ids=["2**63", "long"])
def test_a_seed_that_no_table_holds_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: str
) -> None:
    arguments = ["run", "quick", "--seed", seed, "--out", str(tmp_path / "run")]
    refuse(capsys, tmp_path, arguments, "--seed", "whole number")


def test_a_dry_run_refuses_what_no_network_mends(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    toy = tmp_path / "toy.toml"
    for line, words in (
        ("num_images = 1001", ["num_images must be at most 1000 with objects", "got 1001"]),
        ("num_held_out = 275", ["num_held_out must be at most 274 with objects", "got 275"]),
    ):
        toy.write_text(f"{SUITE[: SUITE.index('[[grid]]')]}[[grid]]\nepochs = 1\n{line}\n")
        refuse(capsys, tmp_path, ["run", str(toy), "--dry-run"], *words)
    toy.write_text(SUITE)
    nowhere = ["run", str(toy), "--dry-run", "--images", str(tmp_path / "nowhere")]
    refuse(capsys, tmp_path, nowhere, "images must be one of", "nowhere")


def test_a_plan_for_a_device_that_is_not_here(toy: Path) -> None:
    before = everything_below(toy.parent)
    done = bench("plan", toy, "--device", "h100")
    assert (done.returncode, done.stderr) == (0, "")
    [head] = [line for line in done.stdout.splitlines() if "stage" in line and "calls" in line]
    assert "seconds" in head and "peak memory" in head
    assert "published peak of h100" in done.stdout
    assert everything_below(toy.parent) == before
    ends = bench("plan", toy, "--device", "h100", "--gpus", "1", "2").stdout
    assert [line for line in ends.splitlines() if "it ends after < 1 s" in line] == [
        line for line in ends.splitlines() if line.startswith("On ")
    ]
    assert ends.count("it ends after") == 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0 s"), (1e-4, "< 1 s"), (0.49, "< 1 s"), (0.51, "1 s"), (61.0, "1 min 1 s"),
     (7260.0, "2 h 1 min")],
)  # fmt: skip
def test_a_duration_is_nothing_only_if_there_is_none(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_dry_run_tells_seconds_unless_it_is_not_to_time(
    capsys: pytest.CaptureFixture[str], toy: Path
) -> None:
    shown = []
    for more in ([], ["--untimed"]):
        assert main(["run", str(toy), "--dry-run", "--device", "cpu", *more]) == 0
        shown.append(capsys.readouterr().out)
    assert ["seconds" in text for text in shown] == [True, False]
    assert "timed here" in shown[0]
    [shares, same] = ([line for line in text.splitlines() if "In operations" in line]
                      for text in shown)  # fmt: skip
    assert shares == same
    refuse(capsys, toy.parent, ["run", str(toy), "--untimed"], "--untimed", "--dry-run")


def test_two_runs_into_one_folder_leave_one(tmp_path: Path) -> None:
    plan = records.Plan.model_construct()
    environment = records.Environment.model_construct()
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "there").touch()
    with pytest.raises(UserError, match="--out must be a new folder"):
        runner.create(folder, plan, environment, "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_an_unwritable_output_folder(toy: Path) -> None:
    # Not even root writes below /proc.
    done = bench("run", toy, "--out", "/proc/dipddpm/run")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--out" in done.stderr and "/proc/dipddpm/run" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(toy: Path) -> None:
    out = toy.parent / "out"
    for engine in ("forkserver", "subprocess"):
        done = bench("run", toy, "--device", "cuda", "--out", out, "--engine", engine)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "--device" in done.stderr and "'cuda'" in done.stderr
        assert not out.exists()


def test_version_and_help_have_examples() -> None:
    assert bench("--version").stdout == f"dipddpm {VERSION}\n"
    for command in ("list", "run", "resume", "status", "clean"):
        assert f"example: python -m bench {command}" in bench(command, "--help").stdout


def test_list_names_every_suite() -> None:
    done = bench("list")
    assert done.returncode == 0
    assert "quick" in done.stdout
    assert "38 cases in 18 units" in done.stdout


@pytest.mark.parametrize("arguments", [["list"], ["run", "nowhere"], ["run", "TOY"]])
def test_what_needs_no_torch_does_not_load_it(toy: Path, arguments: list[str]) -> None:
    toy.write_text(SUITE + "[[grid]]\nepochs = 1\narm = 'date'\n")
    words = [str(toy) if word == "TOY" else word for word in arguments]
    code = (
        f"import sys; from bench.__main__ import main; print(main({words}), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{0 if arguments == ['list'] else 2} False"


def test_a_dry_run_of_paper_shows_its_rows_also_without_its_images(tmp_path: Path) -> None:
    done = bench("run", "paper", "--dry-run", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    [head] = [line.split() for line in lines if line.startswith("on ")]
    shown = [
        dict(zip(head, line.split(), strict=True))
        for line in lines
        if line.startswith(("images ", "dip "))
    ]
    columns = ("on", "loader", "images", "epochs", "T", "schedule", "steps")
    with (ROOT / "reports" / "published.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14
    assert Counter(tuple(row[name] for name in columns) for row in shown) == Counter(
        (
            *(("dip", "list") if row["dip"] == "yes" else ("images", "decode")),
            *(row[name] for name in ("data_size", "epochs", "timesteps")),
            row["schedule"].removesuffix("_cap_v2"),
            row["timesteps"],
        )
        for row in rows
    )
    [line] = [line for line in lines if "cannot run yet" in line]
    assert "huggan/smithsonian_butterflies_subset" in line
    assert "--images objects" in line
    assert line == lines[-1]

    # With images that are here there is nothing to add.
    objects = bench("run", "paper", "--dry-run", "--images", "objects")
    assert objects.returncode == 0
    assert "cannot run yet" not in objects.stdout


def test_a_dry_run_says_what_its_functions_raise_when_they_are_imported(toy: Path) -> None:
    (toy.parent / "raising.py").write_text("def f(images): ...\nraise OSError('no key')\n")
    toy.write_text(SUITE + "[[grid]]\nepochs = 1\ntrain_on = 'raising:f'\n")
    done = bench("run", toy, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [line for line in done.stdout.splitlines() if "cannot run yet" in line]
    assert "raising:f" in line and "OSError: no key" in line


def test_a_run_from_start_to_clean(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    dry = bench("run", toy, "--dry-run")
    assert dry.returncode == 0
    assert "fit_priors" in dry.stdout
    assert not out.exists()

    done = bench("run", toy, "--out", out, "--seed", "5", *NO_RERUNS)
    assert done.returncode == 0, done.stderr
    # Plain lines in a pipe: no cursor moves, no colours.
    assert "\x1b" not in done.stdout
    assert f"records: {NUM_CASES} ok" in done.stdout
    assert f"python -m reports build {out}" in done.stdout

    again = bench("run", toy, "--out", out)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "bench resume" in again.stderr

    status = bench("status", out)
    assert status.returncode == 0
    assert f"records: {NUM_CASES} ok" in status.stdout

    # What is missing is run again, and nothing else.
    units = out / "units"
    one = next(path for path in units.iterdir() if path.name.startswith("train-images"))
    before = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    shutil.rmtree(one)
    assert bench("status", "--quiet", out).returncode == 1
    resumed = bench("resume", out, *NO_RERUNS)
    assert resumed.returncode == 0, resumed.stderr
    after = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {one.name}

    # What is disturbed or altered is told beside the figures.
    summary = records.read(one / records.SUMMARY, UnitSummary)
    slow = summary.probes[0].model_copy(update={"matmul_seconds": 60.0})
    records.write(one / records.SUMMARY, summary.model_copy(update={"probes": (slow,)}))
    assert "busy with something else during" in bench("status", "--quiet", out).stdout
    rows = one / records.RECORDS
    rows.write_text(rows.read_text().replace('"repeat":1', '"repeat":9', 1))
    altered = bench("status", out)
    told = " ".join(altered.stdout.split())
    assert f"{rows}: its content is not what was written" in told
    assert bench("resume", out, *NO_RERUNS).returncode == 0
    assert "not what was written" not in bench("status", "--quiet", out).stdout
    assert (units / f"{one.name}.damaged1").is_dir()

    checkpoint = units / "left.part" / "artifacts" / "k.ema.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    cleaned = bench("clean", out)
    assert cleaned.stdout == (
        "deleted 2 attempts that were unfinished or set aside, and 1 checkpoints\n"
    )
    assert not (units / "left.part").exists()
    assert not (units / f"{one.name}.damaged1").exists()
    assert bench("status", "--quiet", out).returncode == 0
    assert bench("clean", "--all", out).returncode == 0
    assert not out.exists()


def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """As `| head -1` does it."""
    toy, out = tmp_path / "toy.toml", tmp_path / "run"
    toy.write_text(BASE + "[[grid]]\nnum_images = 4\nepochs = [1, 2]\n")
    command = [sys.executable, "-m", "bench", "run", str(toy), "--out", str(out), *NO_RERUNS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (0, b"")
    assert len(Run.open(out).records()) == 2


@pytest.mark.slow
def test_resume_refuses_what_is_not_what_it_began_with(tmp_path: Path) -> None:
    """Other images, functions or sources, and nothing is set aside before the refusal."""
    source = bundled_objects()
    pictures, out = tmp_path / "my pictures", tmp_path / "my run"
    pictures.mkdir()
    for i in range(6):
        (pictures / f"{i}.webp").write_bytes(source.train.read(i))
    toy = tmp_path / "toy.toml"
    grid = "[[grid]]\nnum_images = 4\nnum_held_out = 1\nepochs = 1\n"
    (tmp_path / "resumed.py").write_text("def f(images):\n    return images\n")
    grid += "train_on = 'resumed:f'\n"
    toy.write_text(SUITE[: SUITE.index("[[grid]]")] + grid)
    arguments = ("run", toy, "--images", pictures, "--out", out, "--timeout", "0.01")
    done = bench(*arguments)
    assert done.returncode == 1, done.stderr
    before = everything_below(out)

    (pictures / "0.webp").write_bytes(source.train.read(7))
    # Which no --force makes comparable.
    refused = bench("resume", "--retry-failed", "--force", out)
    assert refused.returncode == 2
    assert "images" in refused.stderr and refused.stderr.count("\n") == 1
    assert everything_below(out) == before

    (pictures / "0.webp").write_bytes(source.train.read(0))
    for content in ("def f(images):\n    return images  # or not\n", "def g(images): ...\n"):
        (tmp_path / "resumed.py").write_text(content)
        refused = bench("resume", "--retry-failed", out)
        assert refused.returncode == 2
        assert "functions" in refused.stderr and refused.stderr.count("\n") == 1
        assert everything_below(out) == before

    (tmp_path / "resumed.py").write_text("def f(images):\n    return images\n")
    # The checkout with one more line in it, in the place of the one that began the run.
    other = tmp_path / "other"
    other.mkdir()
    for package in ("dipddpm", "bench"):
        shutil.copytree(ROOT / package, other / package)
    with (other / "dipddpm" / "arms.py").open("a") as arms:
        arms.write("# changed\n")
    refused = bench("resume", "--retry-failed", out, cwd=other)
    assert refused.returncode == 2
    assert "sources" in refused.stderr
    assert everything_below(out) == before

    forced = bench("resume", "--retry-failed", "--force", out, cwd=other)
    assert forced.returncode == 0, forced.stderr
    assert f"reports build '{out}'" in forced.stdout
    (record,) = Run.open(out).records()
    assert any(text.startswith("sources of dipddpm and bench: ") for text in record.warnings)


def test_the_stages_of_a_dry_run() -> None:
    booking = dryrun.book(toy_units())
    alone, shared = map(booking.by_stage, (booking.alone, booking.shared))
    # 6 and 4 images in chunks of 4: one whole and a rest of 2, which is no chunk of the other; and
    # of the starts.
    assert shared["fit_priors"] == 2 + 1
    # Four nets have two milestones, alone the second rests on the first; five starts are sampled
    # from one of those; the blurred images have one milestone.
    assert shared["train_ddpm"] == 4 * 2 + 1
    assert alone["train_ddpm"] == 4 * (1 + 2) + 5 * 2 + 1
    assert shared["sample"] == alone["sample"] == NUM_SAMPLED
    assert shared["as_samples"] == NUM_CASES - NUM_SAMPLED
    # Two milestones at two sizes; two starts; the blurred images.
    assert alone["fit_priors"] == 2 * (1 + 2) + 2 + 2
