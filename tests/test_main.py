"""The command line as a user meets it: real processes, bad input first."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import dryrun
from bench.__main__ import main
from dipddpm.config import VERSION
from dipddpm.sources import bundled_objects, open_source
from tests.toy import NUM_CASES, SUITE, toy_units

ROOT = Path(__file__).parents[1]


def bench(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


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
    ],
)
def test_a_bad_suite(
    capsys: pytest.CaptureFixture[str], toy: Path, content: str, words: list[str]
) -> None:
    toy.write_text(content)
    out = toy.parent / "out"
    refuse(capsys, toy.parent, ["run", str(toy), "--out", str(out)], "toy", *words)


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
    assert "38 cases in 17 units" in done.stdout


def test_a_run_from_start_to_clean(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    dry = bench("run", toy, "--dry-run")
    assert dry.returncode == 0
    assert "fit_priors" in dry.stdout
    assert not out.exists()

    done = bench("run", toy, "--out", out, "--seed", "5")
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
    resumed = bench("resume", out)
    assert resumed.returncode == 0, resumed.stderr
    after = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {one.name}

    checkpoint = units / "left.part" / "artifacts" / "k.ema.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    assert bench("clean", out).returncode == 0
    assert not (units / "left.part").exists()
    assert bench("status", "--quiet", out).returncode == 0
    assert bench("clean", "--all", out).returncode == 0
    assert not out.exists()


def test_resume_refuses_what_is_not_what_it_began_with(tmp_path: Path) -> None:
    """Other images or other sources, and nothing is set aside before the refusal."""
    source = bundled_objects()
    pictures, out = tmp_path / "my pictures", tmp_path / "my run"
    pictures.mkdir()
    for i in range(6):
        (pictures / f"{i}.webp").write_bytes(source.train.read(i))
    toy = tmp_path / "toy.toml"
    grid = "[[grid]]\nnum_images = 4\nnum_held_out = 1\nepochs = 1\n"
    toy.write_text(SUITE[: SUITE.index("[[grid]]")] + grid)
    arguments = ("run", toy, "--images", pictures, "--out", out, "--timeout", "0.01")
    done = bench(*arguments)
    assert done.returncode == 1, done.stderr
    before = everything_below(out)

    (pictures / "0.webp").write_bytes(source.train.read(7))
    refused = bench("resume", "--retry-failed", out)
    assert refused.returncode == 2
    assert "images" in refused.stderr and refused.stderr.count("\n") == 1
    assert everything_below(out) == before

    (pictures / "0.webp").write_bytes(source.train.read(0))
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

    resumed = bench("resume", "--retry-failed", out)
    assert resumed.returncode == 0, resumed.stderr
    assert f"reports build '{out}'" in resumed.stdout


def test_the_stages_of_a_dry_run() -> None:
    units = toy_units()
    alone, shared = dryrun.book(units, open_source("objects"))
    # 6 and 4 images in chunks of 4: one whole and a rest of 2, which is no chunk of the other.
    assert shared["fit_priors"] == 2 + 1
    # Each of the 4 nets has two milestones; alone, the second rests on the first.
    assert (shared["train_ddpm"], alone["train_ddpm"]) == (8, 4 * (1 + 2) + 4 * 2)
    assert shared["sample"] == alone["sample"] == NUM_CASES
    assert alone["fit_priors"] == 2 * (1 + 2) + 1
