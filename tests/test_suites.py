"""The suites that ship: what each promises is in it, and nothing that it does not say."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import dryrun, suite
from bench.cases import pipeline_config
from bench.records import Case
from bench.units import plan_units
from dipddpm.config import ARMS, CORRECTED, PAPER, STARTS, starts_from_priors, takes_features
from dipddpm.guard_rails import guard_rails
from dipddpm.sources import open_source

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "reports" / "published.csv"
TWINS = ["corrected", "loaders", "paper", "restoration"]
PAPERS = ["paper", "paper-cpu"]


def cases_of(name: str, *, repeat: int = 1) -> list[Case]:
    return [case for case in suite.load(name).cases if case.repeat == repeat]


def grids_of(name: str) -> list[dict[str, Any]]:
    """The grids of a suite that are no second repeat of others."""
    content = tomllib.loads((suite.SUITES / f"{name}.toml").read_text(encoding="utf-8"))
    return [grid for grid in content["grid"] if "repeat" not in grid]


def settings_in(found: list[Case], *names: str) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(case.settings[name] for name in names) for case in found)


@pytest.mark.parametrize("name", suite.names())
def test_a_suite_that_ships_can_run(name: str) -> None:
    found = suite.load(name)
    units = plan_units(found, seed=0, device="cpu")
    there = [
        (case.case_id, case.repeat) for unit in units if unit.gives_records for case in unit.cases
    ]
    assert sorted(there) == sorted((case.case_id, case.repeat) for case in found.cases)
    # Each run finds its priors and reference features made; a contest is of making them.
    units = [unit for unit in units if unit.kind != "contest"]
    shared = [unit for unit in units if unit.kind == "shared"]
    whole, alone = (one.by_stage(one.shared) for one in map(dryrun.book, (units, shared)))
    assert whole["fit_priors"] == alone["fit_priors"]
    assert alone["train_ddpm"] == alone["sample"] == 0
    # What the others take from a network is not here; there are as many of the bundled images.
    suite.check_enough(suite.load(name, images="objects"), open_source("objects"))
    assert "two cores" in found.title + found.about


@pytest.mark.parametrize("name", suite.names())
def test_units_have_names_of_which_nobody_needs_the_digest(name: str) -> None:
    units = plan_units(suite.load(name), seed=0, device="cpu")
    assert len({unit.unit.rsplit("-", 1)[0] for unit in units}) == len(units)


def test_each_suite_has_its_twin_for_two_cores() -> None:
    twins = {*TWINS, *(f"{name}-cpu" for name in TWINS)}
    assert set(suite.names()) == {
        "quick", "speed", "speed-cpu", "gpu-check", "time-to-quality", *twins
    }  # fmt: skip
    assert all(
        re.search(r"Cost: \D*\d", suite.load(name).about)
        for name in suite.names()
        if name != "quick"
    )


@pytest.mark.parametrize("name", TWINS)
def test_twins_differ_in_size_alone(name: str) -> None:
    whole, small = grids_of(name), grids_of(f"{name}-cpu")
    assert [list(grid) for grid in small] == [list(grid) for grid in whole]

    def words(grid: dict[str, Any]) -> dict[str, Any]:
        """Its axes of names: what is trained on, arms, starts, samplers, schedules, loaders."""
        lists = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
        return {key: value for key, value in lists.items() if isinstance(value[0], str)}

    assert [words(grid) for grid in small] == [words(grid) for grid in whole]
    sizes = [{case.settings["image_size"] for case in suite.load(one).cases}
             for one in (name, f"{name}-cpu")]  # fmt: skip
    assert sizes == [{128}, {32}]


def test_quick_is_the_table_of_the_design() -> None:
    cases = suite.load("quick").cases
    tasks = Counter(case.settings["task"] for case in cases)
    assert tasks == {"generate": 30, "restore": 8}
    grid = [c for c in cases if c.settings["loader"] == "memory" and c.repeat == 1]
    assert Counter(c.settings["train_on"] for c in grid if c.settings["task"] == "generate") == {
        "images": 12,
        "dip": 12,
    }
    assert {(c.settings["num_train_timesteps"], c.settings["beta_schedule"]) for c in grid} == {
        (1000, "linear"),
        (500, "linear"),
        (500, "squaredcos_cap_v2"),
    }
    controls = [c for c in cases if c not in grid]
    assert Counter((c.settings["train_on"], c.settings["loader"]) for c in controls) == {
        ("images", "decode"): 2,
        ("dip", "decode"): 2,
        ("images", "memory"): 2,
    }
    starts = {(c.settings["start_from"], c.settings["num_inference_steps"]) for c in cases
              if c.settings["task"] == "restore"}  # fmt: skip
    assert starts == {(s, n) for s in ("noise", "degraded", "dip", "blur") for n in (5, 10)}


# paper --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPERS)
def test_paper_has_the_published_rows_one_to_one(name: str) -> None:
    with PUBLISHED.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14
    published = Counter(
        (
            {"yes": "dip", "no": "images"}[row["dip"]],
            {"yes": "list", "no": "decode"}[row["dip"]],
            int(row["data_size"]),
            int(row["epochs"]),
            int(row["timesteps"]),
            row["schedule"],
            int(row["timesteps"]),  # a step for each
        )
        for row in rows
    )
    assert published == settings_in(
        cases_of(name), "train_on", "loader", "num_images", "epochs", "num_train_timesteps",
        "beta_schedule", "num_inference_steps",
    )  # fmt: skip


@pytest.mark.parametrize("name", PAPERS)
def test_paper_is_the_published_protocol(name: str) -> None:
    for case in suite.load(name).cases:
        assert case.settings["protocol"] == "paper"
        in_force = {field: case.settings[field] for field in PAPER}
        assert in_force == PAPER
        wanted = {
            "net": "paper",
            "num_iter": 200,
            "prior_learning_rate": 0.01,
            "reg_noise_std": 0.0,
            "early_stopping": "none",
            "num_workers": 0,
            "batch_size": 16,
            "learning_rate": 1e-4,
            "max_grad_norm": 1.0,
            "prediction_type": "epsilon",
            "rescale_betas_zero_snr": False,
            "task": "generate",
            "sampler": "ddpm",
            "num_samples": 16,
            "start_from": "noise",
            "condition_on": "nothing",
        }
        assert {field: case.settings[field] for field in wanted} == wanted


def test_paper_has_the_published_images_and_net() -> None:
    found = suite.load("paper")
    assert found.images == "hf:huggan/smithsonian_butterflies_subset"
    wanted = {
        "image_size": 128,
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "layers_per_block": 2,
        "attention_levels": (4,),
        "norm_num_groups": 32,  # the default of UNet2DModel
        "num_held_out": 0,
    }
    for case in found.cases:
        assert {field: case.settings[field] for field in wanted} == wanted


# corrected ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["corrected", "corrected-cpu"])
def test_corrected_has_every_arm_in_six_paired_seeds_at_least(name: str) -> None:
    found = cases_of(name)
    for case in found:
        in_force = {
            field: case.settings[field] for field in CORRECTED if field != "lr_warmup_steps"
        }
        assert in_force == {field: CORRECTED[field] for field in in_force}
        assert case.settings["protocol"] == "corrected"
    # Of each arm at each point, as many seeds: the same ones.
    seeds: dict[str, set[int]] = {}
    for case in found:
        seeds.setdefault(str(case.settings), set()).add(case.seed)
    assert len(set(map(frozenset, seeds.values()))) == 1
    assert min(map(len, seeds.values())) >= 6
    asked = [case.settings for case in found]
    for arm, settings in ARMS.items():
        wanted = {"train_on": "images", "condition_on": "nothing", **settings}
        there = [
            one
            for one in asked
            if all(one[key] == (one["num_train_timesteps"] if value == "T" else value)
                   for key, value in wanted.items())
        ]  # fmt: skip
        assert there, arm
    # A-vs-A: as many seeds of the plain arm once more.
    again = cases_of(name, repeat=2)
    assert len({case.seed for case in again}) >= 6
    assert {case.case_id for case in again} <= {case.case_id for case in found}


@pytest.mark.parametrize("name", ["corrected", "corrected-cpu"])
def test_corrected_has_the_published_axes_for_each_arm_that_generates(name: str) -> None:
    generating = [case for case in cases_of(name) if case.settings["task"] == "generate"]
    for train_on in ("images", "dip", "blur"):
        arm = [case for case in generating if case.settings["train_on"] == train_on]
        assert len(settings_in(arm, "num_images")) == 3
        assert len(settings_in(arm, "epochs")) >= 2
        assert settings_in(arm, "num_train_timesteps", "beta_schedule").keys() == {
            (1000, "linear"), (500, "linear"), (500, "squaredcos_cap_v2"),
        }  # fmt: skip
        # KID is taken of each seed.
        configs = {case.seed: pipeline_config((case,)) for case in arm
                   if int(str(case.settings["num_samples"])) >= 100}  # fmt: skip
        assert len(configs) >= 6
        assert all(takes_features(one.data, one.outcomes[0].sampling) for one in configs.values())


@pytest.mark.parametrize("name", ["corrected", "corrected-cpu", "restoration", "restoration-cpu"])
def test_what_is_corrected_sets_off_no_rail_but_those_it_is_there_to_show(name: str) -> None:
    expected = re.compile(
        r"terminal SNR|num_samples = 16|start_from = (dip|blur|nlm|tv) with weights"
    )
    for case in suite.load(name).cases:
        for warning in guard_rails(pipeline_config((case,)), "cpu"):
            assert expected.match(warning), warning


# restoration --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["restoration", "restoration-cpu"])
def test_restoration_has_every_start_beside_itself(name: str) -> None:
    found = cases_of(name)
    assert settings_in(found, "task", "degradation_sigma").keys() == {("restore", 25)}
    for start in STARTS.names():
        there = [case for case in found if case.settings["start_from"] == start]
        steps = {case.settings["num_inference_steps"] for case in there}
        # Itself, without a net; pure noise is no image.
        assert (0 in steps) == (start != "noise")
        sampled = [case for case in there if case.settings["num_inference_steps"] != 0]
        assert settings_in(sampled, "sampler").keys() == {("ddim",), ("dpmsolver++",)}
        assert len(settings_in(sampled, "num_inference_steps")) >= 2
        if start not in ("noise", "degraded"):  # which have a level of their own
            assert len(settings_in(sampled, "t0")) >= 2
        assert len({case.seed for case in there}) >= 6
    # One net a seed serves them all.
    runs = [unit for unit in plan_units(suite.load(name), seed=0, device="cpu")
            if unit.kind == "train"]  # fmt: skip
    assert len(runs) == len({case.seed for case in found})
    assert any(starts_from_priors(str(case.settings["start_from"])) for case in found)


# loaders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loaders", "loaders-cpu"])
def test_loaders_has_the_two_by_two_and_what_explains_it(name: str) -> None:
    cells = settings_in(cases_of(name), "train_on", "loader", "num_workers", "flip")
    assert cells.keys() == {
        *((target, loader, 0, "loader") for target in ("images", "dip")
          for loader in ("decode", "list")),
        *(("images", "decode", workers, "loader") for workers in (2, 4)),
        ("images", "memory", 0, "device"),
    }  # fmt: skip
    assert min(cells.values()) >= 6
    # Or each target would be decoded in a time of its own.
    assert settings_in(cases_of(name), "files").keys() == {("encoded",)}
    # A-vs-A of the two sides of the published speed-up.
    assert settings_in(cases_of(name, repeat=2), "train_on", "loader").keys() == {
        ("images", "decode"), ("images", "list"),
    }  # fmt: skip


# From end to end --------------------------------------------------------------------------------

# Of the suite that people run first: its grids, at the sizes of a toy.
AT_TOY_SIZE = {
    "image_size = 32": "image_size = 16",
    "num_held_out = 16": "num_held_out = 4\nnorm_num_groups = 4\nimages_per_fit = 4",
    "block_out_channels = [16, 32, 64]": "block_out_channels = [8, 16]",
    "attention_levels = [2]": "attention_levels = [1]",
    "batch_size = 16": "batch_size = 4",
    "num_iter = 100": "num_iter = 4",
    "num_samples = 16": "num_samples = 4",
    "num_images = [32, 64]": "num_images = [4, 6]",
    "num_images = 64": "num_images = 6",
    "epochs = [5, 10]": "epochs = [1, 2]",
    "epochs = 10": "epochs = 2",
}


@pytest.mark.slow
def test_quick_runs_and_its_report_is_written(tmp_path: Path) -> None:
    text = (suite.SUITES / "quick.toml").read_text(encoding="utf-8")
    for before, after in AT_TOY_SIZE.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "quick.toml").write_text(text)
    run = str(tmp_path / "run")
    for command in (
        ["bench", "run", str(tmp_path / "quick.toml"), "--out", run, "--reruns", "0"],
        ["reports", "build", run],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{len(suite.load('quick').cases)} outcomes" in page
