from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from bench import suite
from bench.records import UnitSpec, UserError
from dipddpm.config import (
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
    config = suite.pipeline_config((case,))
    sampling = SamplingConfig(task="restore", start_from="dip", t0=300, num_inference_steps=9)
    assert config == PipelineConfig(
        data=DataConfig(num_images=20),
        training=TrainingConfig(learning_rate=1.0),
        outcomes=(OutcomeConfig(epochs=7, sampling=sampling),),
    )
    assert set(case.settings) == {*suite.FIELDS, "images"}
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
        ("[[grid]]\nepochs = 1\nt0 = 1001\n", ["t0", "1001", "1000"]),
        ("[[grid]]\nepochs = 1\nstart_from = 'dip'\n", ["start_from", "dip", "restore"]),
        ("[[grid]]\nepochs = 1\nlearning_rate = nan\n", ["learning_rate", "nan"]),
        ("[[grid]]\nepochs = 1\nlearning_rate = inf\n", ["learning_rate", "inf"]),
        ("[[grid]]\nepochs = 1\nepochs = 2\n", ["my.toml"]),
        ("[[grid]]\nepochs = 1\nstart = 1979-05-27\n", ["start", "no such setting"]),
        ("[[grid]]\nepochs = 1\nbatch_size = 1979-05-27\n", ["batch_size", "1979"]),
        ("[[grid]]\nepochs = [1, 1]\n", ["grid 1", "already there", "repeat"]),
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
    # A folder is kept by its whole path: a worker or a `resume` may run elsewhere.
    replaced = suite.load(str(path), seed=9, images="elsewhere")
    assert replaced.cases[0].seed == 9
    assert replaced.cases[0].settings["images"] == str(Path.cwd() / "elsewhere")
    path.write_text(HEAD + "images = 'pictures'\n[[grid]]\nepochs = 1\n")
    assert suite.load(str(path)).images == str(tmp_path / "pictures")
    assert suite.load(str(path), images=OBJECTS).images == OBJECTS
    with pytest.raises(UserError, match="images must be 'objects' or a folder, got ''"):
        suite.load(str(path), images="")


def test_units_hold_every_case_once_and_share_nets_and_priors() -> None:
    units = toy_units()
    train = [unit for unit in units if unit.kind == "train"]
    asked = Counter((c.case_id, c.repeat) for unit in train for c in unit.cases)
    assert asked == Counter((c.case_id, c.repeat) for c in toy_suite().cases)
    assert len(asked) == NUM_CASES
    # Two targets x two sizes: milestones and starts need no training of their own.
    assert len(train) == 4
    for unit in train:
        assert len({suite.pipeline_config((case,)).data for case in unit.cases}) == 1
    # One unit makes the priors of both sizes, one those of the starts.
    priors = {unit.unit: unit for unit in units if unit.kind == "priors"}
    assert len(priors) == 2
    for unit in train:
        configs = [suite.pipeline_config((case,)) for case in unit.cases]
        needs_target = configs[0].train_on == "dip"
        needs_start = any(c.outcomes[0].sampling.start_from == "dip" for c in configs)
        assert len(unit.needs) == needs_target + needs_start
        assert set(unit.needs) <= set(priors)


def test_repeats_and_seeds_are_runs_of_their_own() -> None:
    units = toy_units(
        SUITE + "[[grid]]\nnum_images = 6\nepochs = [1, 2]\nrepeat = 2\n"
        "[[grid]]\nnum_images = 6\nepochs = [1, 2]\nseed = 1\n"
    )
    train = [unit for unit in units if unit.kind == "train"]
    assert len(train) == 6
    assert len({unit.unit for unit in units}) == len(units)


def test_the_order_is_random_priors_first_and_a_function_of_the_seed() -> None:
    found = suite.load("quick")
    source = open_source(OBJECTS)

    def order(seed: int) -> list[UnitSpec]:
        return suite.units(found, source, seed=seed, device="cpu")

    assert order(1) == order(1)
    assert [u.unit for u in order(1)] != [u.unit for u in order(2)]
    assert {u.unit for u in order(1)} == {u.unit for u in order(2)}
    kinds = [u.kind for u in order(1)]
    assert kinds == sorted(kinds)


def test_the_sides_of_a_comparison_follow_each_other_in_either_order() -> None:
    found, first = suite.load("quick"), set()
    for seed in range(8):
        units = suite.units(found, open_source(OBJECTS), seed=seed, device="cpu")
        runs = [suite.pipeline_config(u.cases) for u in units if u.kind == "train"]
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
    with pytest.raises(UserError, match=r"num_images must be at most 1000 .* got 1001"):
        toy_units(HEAD + "[[grid]]\nepochs = 1\nnum_images = 1001\n")
    with pytest.raises(UserError, match=r"num_held_out must be at most 274 .* got 275"):
        toy_units(HEAD + "[[grid]]\nepochs = 1\nnum_held_out = 275\n")


def test_the_report_knows_what_a_training_run_does_not_depend_on() -> None:
    # reports may not import bench.suite, so it keeps a list of its own.
    from reports.tables import OUTCOME_SETTINGS

    assert suite.OUTCOME_FIELDS.keys() == OUTCOME_SETTINGS


def test_a_context_is_not_a_setting() -> None:
    assert not {field for field in vars(Context()) if field != "seed"} & set(suite.FIELDS)
