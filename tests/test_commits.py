"""`python -m bench.commits` on commits of a checkout: real processes, real timings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.commits.compare import COMPARISONS
from bench.commits.records import Comparison, read
from tests.checkouts import IN_SCHEDULE, IN_STEP, SCHEDULE, TRAINING, Checkout

pytestmark = pytest.mark.slow

# The quickest benchmark.
NOISE = "bench/test_inputs.py::test_noise_schedule[linear]"
FEW = ("-k", "noise_schedule and linear", "--minutes", "1")
BUSY = IN_SCHEDULE + "    torch.ones(700, 700) @ torch.ones(700, 700)\n"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.of_this(tmp_path_factory.mktemp("pristine") / "checkout")


@pytest.fixture
def checkout(pristine: Checkout, tmp_path: Path) -> Checkout:
    """One commit, nothing changed."""
    shutil.copytree(pristine.folder, tmp_path / "checkout", symlinks=True)
    return Checkout(tmp_path / "checkout")


def compared(checkout: Checkout, *arguments: str) -> tuple[int, Comparison]:
    status, out, err = checkout.run("compare", *arguments)
    assert status in (0, 1), err
    return status, read(checkout.folder / out.splitlines()[-1], Comparison)


def slow_down(checkout: Checkout) -> None:
    checkout.change(SCHEDULE, IN_SCHEDULE, BUSY)


def test_the_library_that_is_measured_is_the_one_of_the_commit(checkout: Checkout) -> None:
    """What is many times slower is called so, in either direction, and nothing of the checkout is
    touched."""
    slow_down(checkout)
    checkout.commit("more work")
    before = checkout.state()
    status, found = compared(checkout, "main~1", "main", *FEW)
    assert checkout.state() == before
    (one,) = found.benchmarks
    assert (one.name, one.effect.word) == (NOISE, "slower"), one
    assert (one.flops.base, one.flops.head) == (0, 2 * 700**3)
    assert status == 1
    assert any(line.startswith(f"{NOISE}: slower by ") for line in found.regressions)
    assert found.base.sha256 != found.head.sha256

    status, found = compared(checkout, "main", "main~1", *FEW)
    assert [one.effect.word for one in found.benchmarks] == ["faster"]
    assert (status, found.regressions) == (0, ())


def test_a_base_that_lacks_a_module_does_not_get_the_one_that_is_installed(
    checkout: Checkout,
) -> None:
    """The packages of these tests hold this very project, installed for editing."""
    checkout.git("rm", "--quiet", "dipddpm/loaders.py")
    base = checkout.commit("without a module")
    checkout.git("revert", "--no-edit", base)
    _, found = compared(checkout, base, "main", "-k", "skip_net", *FEW[2:])
    new = {one.name: one.why for one in found.new}
    assert "dipddpm.loaders" in new["bench/test_inputs.py"]
    assert [one.name for one in found.benchmarks] == ["bench/test_priors.py::test_skip_net"]


def test_a_regression_below_the_limit_is_none(checkout: Checkout) -> None:
    """Time, operations and bytes of what is many times slower, with a limit beyond that."""
    slow_down(checkout)
    # From no operations to some is above any limit, so that both have some.
    checkout.commit("busy")
    checkout.change(SCHEDULE, "torch.ones(700, 700) @", "torch.ones(1400, 700) @")
    limits = ("--fail-above", "1%", "--fail-above", "noise_schedule=1000%")
    status, found = compared(checkout, "HEAD", *FEW, *limits)
    assert (status, found.regressions) == (0, ())
    (one,) = found.benchmarks
    assert one.flops.change == 1.0
    # What no commit holds is measured, and told.
    assert found.head.changes == ("dipddpm/diffusion.py",)
    status, found = compared(checkout, "HEAD", *FEW, "--fail-above", "50%")
    assert status == 1
    assert all(line.startswith(NOISE) for line in found.regressions)


def test_equal_commits_are_told_to_be_equal(checkout: Checkout) -> None:
    checkout.commit("nothing")
    status, out, err = checkout.run("compare", "main~1", "main", *FEW)
    assert status in (0, 1), err
    assert "Both sides are the same library" in out
    found = read(checkout.folder / out.splitlines()[-1], Comparison)
    assert found.is_a_vs_a
    # A false alarm is rare, not impossible: `nox -s truth` counts them.
    assert bool(found.regressions) == (status == 1)
    assert all(one.floor.rounds == one.effect.rounds > 2 for one in found.benchmarks)
    assert all(one.flops.change is one.peak_bytes.change is None for one in found.benchmarks)


def test_bytes_and_operations_that_are_more_are_found_without_noise(checkout: Checkout) -> None:
    kept = "        self._kept = torch.empty(2**20, dtype=torch.uint8)\n"
    convolved = "        nn.functional.conv2d(net_input, net_input.new_ones(3, 3, 1, 1))\n"
    checkout.change(TRAINING, IN_STEP, kept + convolved + IN_STEP)
    status, found = compared(
        checkout, "HEAD", "-k", "test_training_steps and float32", "--minutes", "1"
    )
    (one,) = found.benchmarks
    assert one.flops.base and one.flops.head and one.peak_bytes.base and one.peak_bytes.head
    # Two steps of four images of 32 x 32 pixels, three channels to three.
    assert one.flops.head - one.flops.base == 2 * 2 * 4 * 32 * 32 * 3 * 3
    # What the convolution makes is gone before the step needs the most.
    assert one.peak_bytes.head - one.peak_bytes.base == 2**20
    assert status == 1
    assert len(found.regressions) >= 2


def test_benchmarks_that_one_side_lacks_are_listed(checkout: Checkout) -> None:
    """By name: what the base cannot import, what was taken out of the suite, what fails now."""
    (checkout.folder / "dipddpm" / "added.py").write_text("")
    test = checkout.folder / "bench" / "test_inputs.py"
    text = test.read_text(encoding="utf-8")
    test.write_text(
        text.replace("def test_prepare(", "def test_prepared(")
        + "\n\ndef test_added(measure: Measure) -> None:\n"
        "    import dipddpm.added\n\n    measure(lambda: None)\n"
    )
    checkout.change("dipddpm/images.py", "def encode(", "def encode(images, source):\n"
                    "    raise RuntimeError('broken')\n\n\ndef _encode(")  # fmt: skip
    expression = "noise_schedule or added or prepared or encode"
    status, found = compared(checkout, "HEAD", "-k", expression, "--minutes", "1")
    assert [one.name for one in found.new] == ["bench/test_inputs.py::test_added"]
    assert "dipddpm.added" in found.new[0].why
    assert [one.name for one in found.failing] == ["bench/test_inputs.py::test_encode_a_batch"]
    assert found.failing[0].why == "RuntimeError: broken"
    assert status == 1
    assert "fails: RuntimeError: broken" in " ".join(found.regressions)
    assert {one.name.split("::")[1].split("[")[0] for one in found.benchmarks} == {
        "test_noise_schedule", "test_prepared",
    }  # fmt: skip
    assert found.removed == ()  # where some are chosen nobody knows of which the base would be one


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "commit must be one of this repository, got 'nowhere'"),
        (["HEAD", "-k", "nothing_has_this_name"], "no benchmark is called 'nothing_has_this_name'"),
        (["HEAD", "--minutes", "0"], "must be above 0"),
        (["HEAD", "--fail-above", "much"], "must be a percentage above 0, as in 5%, got 'much'"),
        (["HEAD", "-k", "and and"], "cannot compare"),
        (["HEAD", *FEW[:2], "--minutes", "0.001"], "fewer than 3 rounds were run"),
        (["HEAD", *FEW, "--out", "README.md"], "README.md: "),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_line(
    checkout: Checkout, arguments: list[str], text: str
) -> None:
    before = checkout.state()
    status, _, err = checkout.run("compare", *arguments)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert text in err
    assert checkout.state() == before
    assert not list((checkout.folder / COMPARISONS).glob("[!.]*/"))


def test_a_library_that_cannot_be_imported_is_told(checkout: Checkout) -> None:
    first = "from __future__ import annotations\n"
    checkout.change("dipddpm/config.py", first, f"{first}import no_such_module\n")
    status, _, err = checkout.run("compare", "HEAD", *FEW)
    assert status == 2
    assert "no_such_module" in err
    assert len(err.splitlines()) == 1


def test_a_commit_without_the_library_is_told(checkout: Checkout) -> None:
    checkout.git("rm", "-r", "--quiet", "dipddpm")
    checkout.commit("gone")
    status, _, err = checkout.run("compare", "HEAD", "HEAD~1")
    assert status == 2
    assert "has no dipddpm: nothing to measure" in err


def test_a_commit_that_cannot_be_installed_is_told(checkout: Checkout) -> None:
    constraints = checkout.folder / "constraints.txt"
    constraints.write_text("torch==0.0.0\n")
    checkout.commit("no such torch")
    status, _, err = checkout.run("compare", "HEAD", *FEW, "--own-environments")
    assert status == 2
    assert err.startswith("bench.commits: HEAD: its environment cannot be installed: ERROR: ")
    assert len(err.splitlines()) == 1


@pytest.fixture
def under_way(checkout: Checkout) -> Iterator[subprocess.Popen[str]]:
    """A comparison that measures."""
    process = checkout.start("compare", "HEAD", "--minutes", "5")
    scratch = checkout.folder / COMPARISONS / ".scratch"
    while not list(scratch.glob("*/1.log")):
        assert process.poll() is None
        time.sleep(0.05)
    yield process
    for child in (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ()
    ):
        child.kill()
    process.kill()
    process.communicate()


def test_two_at_once_are_refused(checkout: Checkout, under_way: subprocess.Popen[str]) -> None:
    status, _, err = checkout.run("compare", "HEAD", *FEW)
    assert status == 2
    assert "a comparison in runs/comparisons is being run by another process" in err
    assert under_way.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_ended_leaves_nothing(
    checkout: Checkout, under_way: subprocess.Popen[str], number: signal.Signals
) -> None:
    """No process, and no folder; of a killed one it goes with the next."""
    before = checkout.state()
    family = psutil.Process(under_way.pid).children(recursive=True)
    assert len(family) >= 2  # the server, and what it forked
    os.kill(under_way.pid, number)
    _, err = under_way.communicate(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=30)
    # Whom nobody asks for its status is over all the same.
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    scratch = checkout.folder / COMPARISONS / ".scratch"
    if number == signal.SIGKILL:
        assert under_way.returncode == -signal.SIGKILL
        assert scratch.exists()
        status, _, err = checkout.run("compare", "HEAD", *FEW)
        assert status in (0, 1), err
    else:
        assert under_way.returncode == 130
        assert err.splitlines() == ["bench.commits: stopped"]
    assert not scratch.exists()
    assert checkout.state() == before


def test_a_history_names_the_commit_of_a_step_and_so_does_a_search(checkout: Checkout) -> None:
    """Of twelve commits the eighth has more to do; one has no library, two have the same."""
    first = checkout.git("rev-parse", "HEAD")
    note = checkout.folder / "dipddpm" / "note.py"
    planted = ""
    for number in range(2, 13):
        if number == 5:
            checkout.git("mv", "dipddpm", "away")
        elif number == 6:
            checkout.git("mv", "away", "dipddpm")
        if number not in (5, 10):
            note.write_text(f"NUMBER = {number}\n")
        if number == 8:
            slow_down(checkout)
        commit = checkout.commit(f"number {number}")
        planted = commit if number == 8 else planted
    few = FEW[:2]
    status, out, err = checkout.run("history", f"{first}..main", *few)
    assert status == 0, err
    assert f"at {planted[:9]}: number 8" in out
    steps = [line for line in out.splitlines() if " at " in line]
    assert len(steps) >= 1  # a false one is rare, not impossible
    history = json.loads((checkout.folder / out.splitlines()[-1]).read_text())
    assert [one["subject"] for one in history["commits"] if one["why"]] == [""]
    store = checkout.folder / "runs" / "benchmarks" / "history.jsonl"
    rows = store.read_text().splitlines()
    assert len(rows) == 6 * 10  # of twelve commits one has nothing and one what another has
    # What is there is not measured again; what was lost is.
    store.write_text("\n".join(rows[:-3]) + "\n")
    status, out, _ = checkout.run("history", f"{first}..main", *few)
    assert "process 3 of 3" in out
    assert len(store.read_text().splitlines()) == 60
    # Rows of another machine are not held against those of this one.
    store.write_text(rows[0].replace('"device":"', '"device":"another, ') + "\n")
    status, _, err = checkout.run("history", f"{first}..main", *few)
    assert status == 2
    assert "it is of another device (another, " in err

    status, out, err = checkout.run("bisect", first, "main", *few, "--minutes", "1")
    assert status == 0, err
    assert out.splitlines()[-1].endswith(f"{planted[:9]}: number 8")


def test_a_search_passes_over_what_cannot_be_measured(checkout: Checkout) -> None:
    first = checkout.git("rev-parse", "HEAD")
    checkout.git("mv", "dipddpm", "away")
    gone = checkout.commit("gone")
    checkout.git("mv", "away", "dipddpm")
    slow_down(checkout)
    last = checkout.commit("back, and slower")
    status, out, err = checkout.run("bisect", first, "main", *FEW)
    assert status == 0, err
    assert f"{gone[:9]}: gone: skipped ({gone}: commit {gone[:9]} has no dipddpm" in out
    assert "One of these" in out
    assert gone[:9] in out.splitlines()[-2]
    assert last[:9] in out.splitlines()[-1]


def test_a_search_needs_a_difference(checkout: Checkout) -> None:
    checkout.commit("nothing")
    status, _, err = checkout.run("bisect", "main~1", "main", *FEW)
    assert status == 2
    assert "is not told to be slower than" in err
    assert len(err.splitlines()) == 1


def test_the_storage_of_pytest_benchmark_is_its_own(checkout: Checkout) -> None:
    """Its own commands read it, and fail on a regression."""
    few = ["bench", "-k", "noise_schedule", "--benchmark-only", "--benchmark-max-time=0.1"]
    storage = "--benchmark-storage=file://./runs/benchmarks"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=checkout.folder, capture_output=True, text=True
        )

    first = run("pytest", *few, storage, "--benchmark-autosave")
    assert first.returncode == 0, first.stdout
    slow_down(checkout)
    fail = ("--benchmark-compare", "--benchmark-compare-fail=median:100%")
    second = run("pytest", *few, storage, "--benchmark-autosave", *fail)
    assert second.returncode == 1
    assert "Performance has regressed" in second.stderr + second.stdout
    (saved, _) = sorted((checkout.folder / "runs" / "benchmarks").rglob("*.json"))
    content = json.loads(saved.read_text())
    assert content["dipddpm"]["commit"] == checkout.git("rev-parse", "HEAD")
    (info, _) = [one["extra_info"] for one in content["benchmarks"]]
    assert {
        "device", "case_id", "flops", "share_of_peak", "peak_bytes", "host_peak_bytes",
        "images_per_second", "environment", "probe_matmul_seconds",
    } <= set(info)  # fmt: skip
    table = subprocess.run(
        [Path(sys.executable).parent / "pytest-benchmark", "--storage=file://./runs/benchmarks",
         "compare", "--group-by=fullname"],
        cwd=checkout.folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert table.count("test_noise_schedule[linear]") >= 2
