from __future__ import annotations

import hashlib
import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import dryrun, suite
from bench.cases import FIELDS, OUTCOME_FIELDS, pipeline_config
from bench.errors import UserError
from bench.records import UnitSpec
from bench.units import plan_units
from dipddpm.config import (
    ARMS,
    CORRECTED,
    PAPER,
    Context,
    DataConfig,
    OutcomeConfig,
    PipelineConfig,
    SamplingConfig,
    TrainingConfig,
)
from dipddpm.sources import OBJECTS, open_source
from tests.toy import NUM_CASES, SUITE, toy_suite, toy_units

HEAD = 'title = "t"\nabout = "a"\n'


def parse(body: str) -> suite.Suite:
    return suite.parse(HEAD + body, "my.toml", "my")


def units_of(body: str, seed: int = 0) -> list[UnitSpec]:
    return plan_units(parse(body), seed=seed, device="cpu")


def runs_of(body: str) -> list[UnitSpec]:
    return [unit for unit in units_of(body) if unit.kind == "train"]


def shared_of(body: str) -> list[UnitSpec]:
    """What runs share, after a look at whether it is what they need."""
    units = units_of(body)
    shared = [unit for unit in units if unit.kind == "shared"]
    assert {name for unit in units for name in unit.needs} == {unit.unit for unit in shared}
    # A run loads its priors and reference features: booked alone, what is shared has them all.
    whole, alone = (one.by_stage(one.shared) for one in map(dryrun.book, (units, shared)))
    assert whole["fit_priors"] == alone["fit_priors"]
    assert alone["sample"] == alone["train_ddpm"] == 0
    return shared


def test_a_contest_of_priors_trains_nothing_and_takes_no_epochs() -> None:
    [case] = parse("[[grid]]\ncontest = 'priors'\n").cases
    assert case.settings["epochs"] == 1


def test_a_grid_is_the_product_of_its_lists() -> None:
    found = parse(
        "[base]\nepochs = 3\n[[grid]]\nnum_images = [8, 16]\nseed = [0, 1, 2]\nepochs = 4\n"
        "[[grid]]\nblock_out_channels = [[8, 16], [16, 32]]\nattention_levels = [1]\n"
    )
    assert [(c.settings["num_images"], c.seed, c.settings["epochs"]) for c in found.cases[:6]] == [
        (n, s, 4) for n in (8, 16) for s in (0, 1, 2)
    ]
    assert [c.settings["block_out_channels"] for c in found.cases[6:]] == [(8, 16), (16, 32)]
    assert {c.settings["attention_levels"] for c in found.cases[6:]} == {(1,)}


def test_a_case_spells_out_every_setting_and_builds_its_config() -> None:
    case = parse(
        "[[grid]]\nepochs = 7\nt0 = 300\nstart_from = 'dip'\ntask = 'restore'\n"
        "num_inference_steps = 9\nlearning_rate = 1\nnum_images = 20\n"
    ).cases[0]
    config = pipeline_config((case,))
    sampling = SamplingConfig(task="restore", start_from="dip", t0=300, num_inference_steps=9)
    assert config == PipelineConfig(
        data=DataConfig(num_images=20),
        training=TrainingConfig(learning_rate=1.0),
        outcomes=(OutcomeConfig(epochs=7, sampling=sampling),),
    )
    assert set(case.settings) == {*FIELDS, "images", "protocol", "contest", "contender"}
    assert case.settings["images"] == OBJECTS


def test_case_ids_are_the_settings() -> None:
    one = parse("[[grid]]\nepochs = 5\n").cases[0]
    spelled_out = parse("[base]\nlearning_rate = 1e-4\n[[grid]]\nepochs = [5]\nrepeat = 2\n").cases[
        0
    ]
    assert one.case_id == spelled_out.case_id
    assert (one.repeat, spelled_out.repeat) == (1, 2)
    others = [
        parse(f"[[grid]]\nepochs = 5\n{line}\n").cases[0].case_id
        for line in ("seed = 1", "learning_rate = 1e-3", "num_images = 65")
    ]
    assert len({one.case_id, *others}) == 4


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[[grid]]\nepochs = 0\n", ["grid 1", "epochs", "at least 1", "0"]),
        ("[[grid]]\nepochs = '5'\n", ["grid 1", "epochs", "integer", "'5'"]),
        ("[[grid]]\nepochs = [5, 2.5]\n", ["grid 1", "epochs", "2.5"]),
        ("[[grid]]\nepochs = true\n", ["grid 1", "epochs", "True"]),
        ("[[grid]]\nepochs = []\n", ["grid 1", "epochs", "[]"]),
        ("[[grid]]\nnum_images = 8\n", ["grid 1", "epochs", "missing"]),
        ("[[grid]]\nepochs = 1\nepoch = 3\n", ["grid 1", "epoch:", "no such setting", "3"]),
        ("[base]\ntrain_on = 'dop'\n[[grid]]\nepochs = 1\n", ["base", "train_on", "'dop'"]),
        ("[[grid]]\nepochs = 1\nnum_train_timesteps = 1\n", ["num_train_timesteps", "1"]),
        ("[[grid]]\nepochs = 1\nnum_inference_steps = 2000\n", ["num_inference_steps", "2000"]),
        (
            "[[grid]]\nepochs = 1\ntask = 'restore'\nstart_from = 'nlm'\nt0 = 1001\n",
            ["t0", "1001", "1000"],
        ),
        ("[[grid]]\nepochs = 1\nt0 = 300\n", ["t0", "start_from = noise", "got 300"]),
        ("[[grid]]\nepochs = 1\nstart_from = 'dip'\n", ["start_from", "dip", "restore"]),
        ("[[grid]]\nepochs = 1\nnum_workers = 2\n", ["num_workers", "loader = memory", "got 2"]),
        ("[[grid]]\nepochs = 1\nt0 = 't'\n", ["grid 1", "t0", "'t'"]),
        ("[[grid]]\nepochs = 1\nepochs = 'T'\n", ["my.toml"]),
        ("[[grid]]\nepochs = 'T'\n", ["grid 1", "epochs", "'T'"]),
        (
            "[[grid]]\nepochs = 1\nprotocol = 'papers'\n",
            ["protocol", "paper, corrected", "'papers'"],
        ),
        ("[base]\nprotocol = 3\n[[grid]]\nepochs = 1\n", ["base", "protocol", "got 3"]),
        ("[[grid]]\nepochs = 1\narm = ['none', 'dip']\n", ["grid 1", "arm", "blend", "'dip'"]),
        ("[[grid]]\nepochs = 1\narm = 0\n", ["grid 1", "arm", "none, data", "got 0"]),
        (
            "[[grid]]\nepochs = 1\narm = 'data'\ntrain_on = ['images', 'dip']\n",
            ["grid 1", "train_on", "left out with arm = 'data'", "'images'"],
        ),
        (
            "[base]\narm = 'xT'\nt0 = 5\n[[grid]]\nepochs = 1\n",
            ["base", "t0", "left out with arm = 'xT'", "got 5"],
        ),
        (
            "[[grid]]\nepochs = 1\ntrain_on = 'nowhere:f'\n",
            ["grid 1", "train_on", "nowhere", "no module of that name"],
        ),
        ("[[grid]]\nepochs = 1\nnet = 'mine:net'\n", ["net", "paper, skip", "'mine:net'"]),
        ("[[grid]]\nepochs = 1\ncondition_on = 'dip'\n", ["condition_on", "restore", "generate"]),
        (
            "[[grid]]\nepochs = 1\nnum_held_out = [16, 20]\n",
            ["num_held_out", "the same in all cases", "16, 20"],
        ),
        ("[[grid]]\nepochs = 1\nlearning_rate = nan\n", ["learning_rate", "nan"]),
        ("[[grid]]\nepochs = 1\nlearning_rate = inf\n", ["learning_rate", "inf"]),
        ("[[grid]]\nepochs = 1\nepochs = 2\n", ["my.toml"]),
        ("[[grid]]\nepochs = 1\nstart = 1979-05-27\n", ["start", "no such setting"]),
        ("[[grid]]\nepochs = 1\nbatch_size = 1979-05-27\n", ["batch_size", "1979"]),
        ("[[grid]]\nepochs = [1, 1]\n", ["grid 1", "already there", "repeat"]),
        (
            "[[grid]]\nepochs = 1\narm = 'none'\nseed = [4, 4]\n",
            ["grid 1", "already there: {'epochs': 1, 'seed': 4}"],
        ),
        ("[[grid]]\nepochs = 1\n[[grid]]\nepochs = [2, 1]\n", ["grid 2", "already there"]),
        ("[[grid]]\nepochs = 1\nseed = -1\n", ["seed", "-1"]),
        ("[[grid]]\nepochs = 1\nrepeat = 0\n", ["repeat", "0"]),
        ("", ["grid"]),
        ("grid = []\n", ["grid", "[]"]),
        (
            "[[grid]]\nepochs = [" + "1," * 200 + "]\nseed = [" + "1," * 200 + "]\n",
            ["grid 1", "20000", "40000"],
        ),
        ("grid = 3\n", ["grid", "3"]),
        ("colour = 'red'\n[[grid]]\nepochs = 1\n", ["colour", "'red'"]),
        ("[[grid]\n", ["my.toml"]),
        # Before it is asked for epochs, which no contest of priors has.
        *(
            (f"{base}[[grid]]\nepochs = 1\n[profile]\n{line}", ["profile: contest", f"'{what}'"])
            for base, line, what in (
                ("", "contest = 'train'\n", "train"),
                ("", "contest = ['none', 'priors']\nepochs = 1\n", "priors"),
                ("[base]\ncontest = 'priors'\n", "num_images = 8\n", "priors"),
            )
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(body: str, words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        parse(body)
    message = str(refused.value)
    assert message.startswith("my.toml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_no_more_images_are_booked_than_a_computer_holds() -> None:
    units = units_of("[[grid]]\nepochs = 1\nnum_images = 9999999\n")
    with pytest.raises(UserError, match="num_images must be at most 1000000 in a dry run, got 9"):
        dryrun.book(units)


def test_an_empty_or_foreign_file_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe", b"title = 1"):
        path = tmp_path / "x.toml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.toml"):
            suite.load(str(path))
    with pytest.raises(UserError, match=r"suite .*quick.* 'quack'"):
        suite.load("quack")


def test_seed_and_images_replace_what_the_suite_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + "[base]\nseed = 3\n[[grid]]\nepochs = 1\n")
    assert suite.load(str(path)).cases[0].seed == 3
    # The seeds of a grid move along, so that another --seed is another set of them.
    path.write_text(HEAD + "[[grid]]\nepochs = 1\nseed = [0, 2]\n[[grid]]\nepochs = 2\n")
    assert [case.seed for case in suite.load(str(path)).cases] == [0, 2, 0]
    assert [case.seed for case in suite.load(str(path), seed=5).cases] == [5, 7, 5]
    # A folder is kept by its whole path: a worker or a `resume` may run elsewhere.
    replaced = suite.load(str(path), seed=9, images="elsewhere")
    assert replaced.cases[0].seed == 9
    assert replaced.cases[0].settings["images"] == str(Path.cwd() / "elsewhere")
    path.write_text(HEAD + "images = 'pictures'\n[[grid]]\nepochs = 1\n")
    assert suite.load(str(path)).images == str(tmp_path / "pictures")
    assert suite.load(str(path), images=OBJECTS).images == OBJECTS
    with pytest.raises(UserError, match=r"images must name a source, .* got ''"):
        suite.load(str(path), images="")
    # Names that are no paths stay what they are.
    for name in ("photos", "hf:owner/name"):
        assert suite.load(str(path), images=name).images == name
        path.write_text(HEAD + f"images = '{name}'\n[[grid]]\nepochs = 1\n")
        assert suite.load(str(path)).cases[0].settings["images"] == name


# Settings by name ---------------------------------------------------------------------------------


def settings_of(body: str, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(case.settings[name] for name in names) for case in parse(body).cases]


def test_a_protocol_is_its_settings_and_those_beside_it_win() -> None:
    body = "[base]\nepochs = 1\n[[grid]]\nprotocol = ['paper', 'corrected']\nema_decay = 0.5\n"
    for case, protocol in zip(parse(body).cases, (PAPER, CORRECTED), strict=True):
        assert {name: case.settings[name] for name in protocol} == {**protocol, "ema_decay": 0.5}
    assert settings_of(body, "protocol") == [("paper",), ("corrected",)]
    # Of the base, a grid may take back a part; without a word it is the corrected one.
    body = "[base]\nprotocol = 'paper'\n[[grid]]\nepochs = 1\nflip = 'device'\n"
    assert settings_of(body, "protocol", "flip", "score_range") == [("paper", "device", "mixed")]
    assert settings_of("[[grid]]\nepochs = 1\n", "protocol") == [("corrected",)]
    # What is written out stays, wherever the protocol is named.
    body = "[base]\nlr_warmup_steps = 7\n[[grid]]\nepochs = 1\nprotocol = ['paper', 'corrected']\n"
    assert settings_of(body, "lr_warmup_steps", "flip") == [(7, "loader"), (7, "device")]


def test_an_arm_is_its_settings() -> None:
    body = f"[[grid]]\nepochs = 1\narm = {list(ARMS)}\nnum_train_timesteps = 600\n"
    for case, arm in zip(parse(body).cases, ARMS.values(), strict=True):
        wanted = {name: 600 if value == "T" else value for name, value in arm.items()}
        assert {name: case.settings[name] for name in wanted} == wanted
    # The arm of a grid takes the whole place of the base's, which would leave a task behind.
    body = "[base]\narm = 'start'\n[[grid]]\nepochs = 1\narm = 'none'\n"
    assert settings_of(body, "task", "start_from") == [("generate", "noise")]
    # What an arm leaves open may stand beside it.
    body = "[[grid]]\nepochs = 1\narm = 'start'\nt0 = 300\n"
    assert settings_of(body, "start_from", "t0") == [("dip", 300)]


def test_capital_t_is_the_number_of_timesteps() -> None:
    body = (
        "[base]\nepochs = 1\nnum_inference_steps = 'T'\n[[grid]]\nnum_train_timesteps = [50, 9]\n"
    )
    assert settings_of(body, "num_inference_steps") == [(50,), (9,)]
    start = "[base]\ntask = 'restore'\nstart_from = 'nlm'\n"
    body = f"{start}[[grid]]\nepochs = 1\nnum_inference_steps = [3, 'T']\nt0 = ['T', 20]\n"
    with pytest.raises(UserError, match=r"num_inference_steps .* t0 = 20 .* got 1000"):
        parse(body)
    body = f"{start}[[grid]]\nepochs = 1\nnum_inference_steps = [3, 'T']\nt0 = 'T'\n"
    assert settings_of(body, "num_inference_steps", "t0") == [(3, 1000), (1000, 1000)]


# What is trained, and what is shared --------------------------------------------------------------


def test_with_a_cosine_the_length_of_a_run_is_its_own() -> None:
    body = "[[grid]]\nepochs = [1, 2, 3]\nlr_schedule = "
    assert [len(unit.cases) for unit in runs_of(body + "'constant'\n")] == [3]
    assert [len(unit.cases) for unit in runs_of(body + "'cosine'\n")] == [1, 1, 1]
    # Nothing else that is asked of a net makes it another one.
    body = (
        "[[grid]]\nepochs = 1\nlr_schedule = 'cosine'\ntask = 'restore'\n"
        "start_from = ['noise', 'nlm']\nsampler = ['ddim', 'ddpm']\ndegradation_sigma = [10, 20]\n"
    )
    assert [len(unit.cases) for unit in runs_of(body)] == [8]


def test_a_condition_makes_nets_differ_by_the_noise_that_they_are_told_of() -> None:
    body = (
        "[[grid]]\nepochs = 1\narm = 'cond'\ndegradation_sigma = [10, 20]\n"
        "num_inference_steps = [3, 4]\n"
    )
    assert [len(unit.cases) for unit in runs_of(body)] == [2, 2]
    [first, second] = shared_of(body)
    assert (
        first.cases[0].settings["degradation_sigma"]
        != (second.cases[0].settings["degradation_sigma"])
    )


def test_targets_made_of_priors_share_their_fits_over_sizes_and_loaders() -> None:
    shared = shared_of(
        "[base]\nepochs = 1\n[[grid]]\narm = ['none', 'data', 'data-blur']\nnum_images = [40, 32]\n"
        "[[grid]]\ntrain_on = 'dip'\nnum_images = 40\nloader = ['list', 'decode']\n"
        "[[grid]]\ntrain_on = 'dip'\nnum_images = 40\nrepeat = 2\n"
    )
    [unit] = shared
    assert unit.unit.startswith("priors-train-40-")
    assert {case.settings["num_images"] for case in unit.cases} == {32, 40}
    # 16 + 16 + 8 images, of which 32 are a prefix.
    assert unit.num_steps == 3 * 100


def test_seeds_and_fits_that_differ_share_nothing() -> None:
    shared = shared_of("[[grid]]\nepochs = 1\narm = 'data'\nseed = [0, 1]\nnum_iter = [3, 4]\n")
    assert len(shared) == 4
    assert {(unit.cases[0].seed, unit.num_steps) for unit in shared} == {
        (0, 12), (0, 16), (1, 12), (1, 16),
    }  # fmt: skip


def test_a_condition_has_priors_of_its_own() -> None:
    shared = shared_of("[[grid]]\nepochs = 1\narm = ['data', 'cond', 'start', 'xT', 'blend']\n")
    assert sorted(unit.unit.rsplit("-", 1)[0] for unit in shared) == [
        "priors-condition-64",  # of degraded training images, and of all held-out ones
        "priors-held-out-16",
        "priors-train-64",
    ]
    steps = {unit.unit.split("-")[1]: unit.num_steps for unit in shared}
    assert steps == {"condition": 5 * 100, "held": 100, "train": 4 * 100}


def test_starts_share_what_does_not_tell_them_apart() -> None:
    body = "[[grid]]\nepochs = [1, 2]\ntask = 'restore'\nnum_images = [32, 64]\n"
    [unit] = shared_of(
        body + "start_from = ['noise', 'nlm', 'dip']\nnum_inference_steps = [3, 4]\n"
    )
    assert unit.unit.startswith("priors-held-out-16")
    assert shared_of(body + "start_from = ['nlm', 'degraded']\n") == []
    two = shared_of(body + "start_from = 'dip'\ndegradation_sigma = [10, 20]\n")
    assert len(two) == 2


@pytest.mark.parametrize(("num_samples", "num_held_out"), [(100, 100), (99, 100), (100, 99)])
def test_reference_features_are_one_unit_for_all_seeds(num_samples: int, num_held_out: int) -> None:
    body = (
        f"[base]\nepochs = 1\nnum_samples = {num_samples}\nnum_held_out = {num_held_out}\n"
        "[[grid]]\narm = 'none'\nseed = [0, 1, 2]\nnum_images = [164, 132]\n"
        "num_inference_steps = [3, 4]\n[[grid]]\ntask = 'restore'\nstart_from = 'nlm'\nseed = [3]\n"
        "num_samples = 16\n"
    )
    shared = shared_of(body)
    if min(num_samples, num_held_out) < 100:
        assert shared == []
        return
    [unit] = shared
    assert unit.unit.startswith("features-100-")
    needing = [run for run in runs_of(body) if run.needs]
    assert sorted(run.cases[0].seed for run in needing) == [0, 0, 1, 1, 2, 2]
    # Each run takes the features of its samples, and none those of the references.
    booking = dryrun.book(units_of(body))
    whole = booking.by_stage(booking.shared)["extract_features"]
    assert whole == 2 + sum(len(run.cases) for run in needing)


# Functions of the user's --------------------------------------------------------------------------


def test_functions_of_ones_own_lie_beside_the_suite_and_are_known_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "suite_arms.py").write_text(
        "def target(images): return images\ndef start(degraded, priors): return priors\n"
    )
    body = (
        "[base]\nepochs = 1\n[[grid]]\ntrain_on = ['images', 'suite_arms:target']\n"
        "[[grid]]\ntask = 'restore'\nstart_from = ['dip', 'suite_arms:start']\n"
    )
    found = suite.parse(HEAD + body, str(tmp_path / "my.toml"), "my")
    digest = hashlib.sha256((tmp_path / "suite_arms.py").read_bytes()).hexdigest()
    assert found.functions() == {"suite_arms:target": digest, "suite_arms:start": digest}
    assert found.folder == str(tmp_path)
    units = plan_units(found, seed=0, device="cpu")
    assert {unit.functions for unit in units} == {str(tmp_path)}
    # What asks for priors shares those of the start that is a prior.
    [priors] = [unit for unit in units if unit.kind == "shared"]
    assert priors.unit.startswith("priors-held-out")
    # A unit is a folder: no colon in its name.
    assert any("suite_arms.target" in unit.unit for unit in units)
    assert not any(":" in unit.unit for unit in units)
    # Read for all this, and not imported.
    assert "suite_arms" not in sys.modules
    # A slip in a name is told with file and grid.
    with pytest.raises(UserError, match=r"my\.toml: grid 1: train_on: .*suite_arms:goal .*none$"):
        suite.parse(HEAD + body.replace(":target", ":goal"), str(tmp_path / "my.toml"), "my")


def test_ours_have_no_content_of_their_own() -> None:
    assert parse("[[grid]]\nepochs = 1\narm = 'data'\n").functions() == {}


def test_units_hold_every_case_once_and_share_nets_and_priors() -> None:
    units = toy_units()
    train = [unit for unit in units if unit.kind == "train"]
    asked = Counter((c.case_id, c.repeat) for unit in train for c in unit.cases)
    assert asked == Counter((c.case_id, c.repeat) for c in toy_suite().cases)
    assert len(asked) == NUM_CASES
    # Two targets x two sizes, and a third target: milestones and starts need no training of their
    # own.
    assert len(train) == 5
    for unit in train:
        assert len({pipeline_config((case,)).data for case in unit.cases}) == 1
    # One unit makes the priors of both sizes, one those of the starts.
    priors = {unit.unit: unit for unit in units if unit.kind == "shared"}
    assert len(priors) == 2
    for unit in train:
        configs = [pipeline_config((case,)) for case in unit.cases]
        needs_target = configs[0].train_on in ("dip", "blur")
        needs_start = any(c.outcomes[0].sampling.start_from == "dip" for c in configs)
        assert len(unit.needs) == needs_target + needs_start
        assert set(unit.needs) <= set(priors)


def test_repeats_and_seeds_are_runs_of_their_own() -> None:
    units = toy_units(
        SUITE + "[[grid]]\nnum_images = 6\nepochs = [1, 2]\nrepeat = 2\n"
        "[[grid]]\nnum_images = 6\nepochs = [1, 2]\nseed = 1\n"
    )
    train = [unit for unit in units if unit.kind == "train"]
    assert len(train) == 7
    assert len({unit.unit for unit in units}) == len(units)


def test_a_name_tells_what_differs() -> None:
    body = """[[grid]]
epochs = 1
learning_rate = [1e-4, 1e-3]
block_out_channels = [[16, 32, 64], [8, 16]]
attention_levels = [1]
seed = [0, 3]
[[grid]]
train_on = "dip"
epochs = 1
reg_noise_std = [0.0, 0.03]
[[grid]]
contest = "train"
num_images = 4
epochs = 2
mixed_precision = ["no", "bf16"]
"""
    units = units_of(body)
    names = Counter(unit.unit.rsplit("-", 1)[0] for unit in units)
    least = DataConfig().num_images
    assert names == Counter(
        [
            *(
                f"train-images-memory-{least}-1000-linear{channels}{rate}{seed}"
                for channels in ("", "-block_out_channels.8.16")
                for rate in ("", "-learning_rate.0.001")
                for seed in ("", "-seed3")
            ),
            *(
                f"{name}{noise}"
                for name in (f"priors-train-{least}", f"train-dip-memory-{least}-1000-linear")
                for noise in ("", "-reg_noise_std.0.03")
            ),
            *(f"contest-train-dipddpm{precision}" for precision in ("", "-mixed_precision.bf16")),
        ]
    )
    # What is needed goes by its new name.
    for unit in units:
        for need in unit.needs:
            [priors] = [one for one in units if one.unit == need]
            settings = ("reg_noise_std", "num_images")
            assert all(
                priors.cases[0].settings[name] == unit.cases[0].settings[name] for name in settings
            )
    assert sum(len(unit.needs) for unit in units) == 2


def test_a_name_has_an_end() -> None:
    """Whatever differs: what the digest alone tells apart then are still units of their own."""
    grid = "[[grid]]\nepochs = 1\ncontest = 'train'\n"
    levers = {
        "channels_last": "[true, false]", "mixed_precision": "['no', 'bf16']",
        "fused_adamw": "[true, false]", "foreach_ema": "[true, false]",
        "gradient_accumulation_steps": "[1, 2]", "learning_rate": "[1e-4, 2e-4]",
        "max_grad_norm": "[1.0, 2.0]",
    }  # fmt: skip
    units = units_of(grid + "".join(f"{name} = {some}\n" for name, some in levers.items()))
    names = [unit.unit for unit in units]
    assert len(set(names)) == 2 ** len(levers)
    assert 100 < max(map(len, names)) < 200


def test_the_order_is_random_priors_first_and_a_function_of_the_seed() -> None:
    found = suite.load("quick")

    def order(seed: int) -> list[UnitSpec]:
        return plan_units(found, seed=seed, device="cpu")

    assert order(1) == order(1)
    assert [u.unit for u in order(1)] != [u.unit for u in order(2)]
    assert {u.unit for u in order(1)} == {u.unit for u in order(2)}
    kinds = [u.kind for u in order(1)]
    assert kinds == sorted(kinds, key=["shared", "train", "profile"].index)


def test_the_sides_of_a_comparison_follow_each_other_in_either_order() -> None:
    found, first = suite.load("quick"), set()
    for seed in range(8):
        units = plan_units(found, seed=seed, device="cpu")
        runs = [pipeline_config(u.cases) for u in units if u.kind == "train"]
        blocks = [
            (key, [config.train_on for config in block])
            for key, block in itertools.groupby(runs, key=lambda c: (c.data, c.schedule))
        ]
        # Three schedules at two sizes, each a block in one piece: the arms, and for one of them
        # the other loader and the repeat.
        assert len(blocks) == len({key for key, _ in blocks}) == 6
        assert sorted(len(arms) for _, arms in blocks) == [2, 2, 2, 2, 2, 5]
        assert all(set(arms) == {"images", "dip"} for _, arms in blocks)
        first |= {arms[0] for _, arms in blocks}
    assert first == {"images", "dip"}


def test_too_few_images_are_refused() -> None:
    source = open_source(OBJECTS)
    suite.check_enough(
        parse("[[grid]]\nepochs = 1\nnum_images = 1000\nnum_held_out = 274\n"), source
    )
    for setting, most in (("num_images", 1000), ("num_held_out", 274)):
        words = rf"^my\.toml: {setting} must be at most {most} .* got {most + 1}$"
        with pytest.raises(UserError, match=words):
            suite.check_enough(parse(f"[[grid]]\nepochs = 1\n{setting} = {most + 1}\n"), source)


def test_the_report_knows_what_a_training_run_does_not_depend_on() -> None:
    # reports may not import bench.suite, so it keeps a list of its own.
    from reports.tables import OUTCOME_SETTINGS

    assert OUTCOME_FIELDS.keys() == OUTCOME_SETTINGS


def test_a_context_is_not_a_setting() -> None:
    assert not {field for field in vars(Context()) if field != "seed"} & set(FIELDS)
