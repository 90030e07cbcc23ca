"""Contests: what is timed is what is told, and no gain is had by lost quality."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import pytest
import torch

from bench import cases, speed
from bench.__main__ import main
from bench.cases import digest, settings_of
from bench.contest import run_contest, scores
from bench.dryrun import book
from bench.engines import ForkserverEngine
from bench.errors import UserError
from bench.extents import bound
from bench.records import UNITS, Case, Record, StageRow, kind_of_work
from bench.run_folder import Run
from bench.speed import Entry, entries, gate_priors, gate_sampling, gate_training
from bench.suite import load
from bench.units import plan_units
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
from dipddpm.images import ImageSet, prepare, take
from dipddpm.metrics import psnr
from dipddpm.sampling import sample
from dipddpm.scoring import score_net
from dipddpm.sources import ImageSource
from dipddpm.training import TrainedNet, train_ddpm
from reports import page
from reports.load import load_run
from reports.sections.speed import _compiled, _table
from reports.words import seconds, times
from tests.test_report_figures import section, text
from tests.toy import BASE, PRIORS_CONTEST, new_run, run_all, toy_suite

README = Path(__file__).parents[1] / "README.md"
SEEDS = range(6)
TOY = f"""{BASE}{PRIORS_CONTEST}[[grid]]
contest = "priors"
num_images = 3
epochs = 1
prior_precision = "bf16"
warm_start = "learned"
warm_start_iter = 4
seed = [0, 1]
[[grid]]
contest = "train"
num_images = 6
epochs = 2
lr_schedule = "cosine"
ema_decay = 0.0
contender = ["dipddpm", "tutorial"]
seed = [0, 1]
[[grid]]
contest = "sample"
num_images = 4
epochs = 1
sampler = "ddpm"
timestep_spacing = "leading"
contender = ["dipddpm", "DDPMPipeline", "another seed"]
seed = [0, 1]
"""


class Measured:
    """Stages that are performed, each with a row of its own."""

    def __init__(self) -> None:
        self.rows: dict[int, StageRow] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.results: list[object] = []

    def __call__(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        self.calls.append((function.__name__, bound(function, args, kwargs)))
        self.results.append(result)
        self.rows[id(result)] = StageRow(
            key=f"k{len(self.calls)}", function=function.__name__, parents=(), unit="u",
            executed=True, seconds=float(10 ** len(self.calls)), step_seconds=(9.0, 1.0, 2.0),
        )  # fmt: skip
        return result

    def seconds(self, function: str) -> list[float]:
        return [row.seconds or 0 for row in self.rows.values() if row.function == function]


@pytest.fixture(scope="module")
def contested(objects: ImageSource) -> dict[tuple[str, ...], Any]:
    """Of seed 0: what was called, what it made, and its scores."""
    found = {}
    for case in toy_suite(TOY).cases:
        if case.seed == 0:
            names = ("contest", "contender", "prior_precision")
            found[tuple(str(case.settings[name]) for name in names)] = measured(case, objects)
    return found


def measured(case: Case, source: ImageSource) -> tuple[Measured, Any, dict[str, float]]:
    stages = Measured()
    made = run_contest(case, source, Context(), stages)
    return stages, made, scores(case, made, lambda result: stages.rows[id(result)])


def outputs_and_images(made: Any) -> tuple[torch.Tensor, torch.Tensor]:
    [images] = made["images"]
    return torch.cat([fit.outputs for fit in made["fits"]]).clamp(-1, 1), images.pixels


def test_the_seconds_of_a_prior_are_those_of_its_fit(contested: Any) -> None:
    for contender, function in (("dipddpm", "fit_priors"), ("paper loop", "fit_by_paper_loop")):
        stages, made, told = contested["priors", contender, "no"]
        [taken] = stages.seconds(function)
        assert told["seconds"] == told["mean_seconds"] == pytest.approx(taken / 3)
        reached = psnr(*outputs_and_images(made))
        assert told["psnr"] == pytest.approx(reached.mean().item())
        assert "censored" not in told


def test_a_learned_start_is_paid_by_all_its_fits(contested: Any) -> None:
    stages, _, told = contested["priors", "dipddpm", "bf16"]
    [learned], [fitted] = (stages.seconds(name) for name in ("learn_initialisation", "fit_priors"))
    assert told["mean_seconds"] == pytest.approx((learned + fitted) / 3)
    given = dict(stages.calls)["fit_priors"]
    assert given["initialisation"] is not None


def test_an_image_that_stops_early_takes_its_share(objects: ImageSource) -> None:
    grid = """[[grid]]
contest = "priors"
contender = ["dipddpm", "paper loop"]
num_images = 4
epochs = 1
num_iter = 60
early_stopping = "psnr"
es_psnr = 14.0
"""
    for case in toy_suite(f"{BASE}{grid}").cases:
        stages, made, told = measured(case, objects)
        [fit] = made["fits"]
        spent = fit.spent_iters
        assert 0 < spent.min() < spent.max()
        row = stages.rows[id(fit)]
        each = [(row.seconds or 0) * one / spent.sum().item() for one in spent.tolist()]
        assert told["mean_seconds"] == pytest.approx(sum(each) / 4)
        assert told["seconds"] == pytest.approx(sorted(each)[1])  # the lower median
        reached = psnr(*outputs_and_images(made))
        assert told["censored"] == int((reached < 13.95).sum())


def test_a_training_step_is_the_median_one(contested: Any) -> None:
    for contender, function in (("dipddpm", "train_ddpm"), ("tutorial", "train_by_tutorial")):
        stages, made, told = contested["train", contender, "no"]
        assert told["seconds"] == 2.0
        assert [told["total_seconds"]] == stages.seconds(function)
        assert told["eps_loss"] == made["scored"][0].values["eps_loss"]
        assert [name for name, _ in stages.calls] == ["prepare", function, "prepare", "score_net"]


def test_samples_are_held_beside_those_of_the_plain_path(contested: Any) -> None:
    _, _, plain = contested["sample", "dipddpm", "no"]
    assert plain["psnr_to_plain"] == 100  # they are the same
    stages, made, told = contested["sample", "another seed", "no"]
    assert [name for name, _ in stages.calls].count("train_ddpm") == 2
    (first, of_another), (_, of_plain) = (
        (name, given["trained"]) for name, given in stages.calls if name == "sample"
    )
    assert first == "sample" and of_another is not of_plain
    expected = psnr(made["samples"][0].images, made["plain"][0].images).mean().item()
    assert told["psnr_to_plain"] == pytest.approx(expected) and expected < 60
    stages, _, told = contested["sample", "DDPMPipeline", "no"]
    [taken] = stages.seconds("sample_by_pipeline")
    assert told["seconds"] == taken / dict(stages.calls)["sample"]["sampling"].num_inference_steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('contest = "race"', "contest must be one of none, priors, train, sample, got 'race'"),
        ('contender = "tutorial"', "contender must be one of dipddpm with contest = none"),
        ('contest = "priors"\ncontender = "tutorial"', "one of dipddpm, paper loop with contest"),
        ('contender = "nobody"', "contender must be one of dipddpm, paper loop, tutorial"),
        ('contest = "train"\ntrain_on = "dip"', "train_on must be 'images' with contest = train"),
        ('contest = "train"\ntask = "restore"', "task must be 'generate' with contest = train"),
        (
            'contest = "priors"\ncontender = "paper loop"\nearly_stopping = "es_wmv"',
            "early_stopping must be 'none' or 'psnr' with contender = paper loop, got 'es_wmv'",
        ),
        (
            'contest = "priors"\ncontender = "paper loop"\nprior_precision = "bf16"',
            "prior_precision must be 'no' with contender = paper loop, got 'bf16'",
        ),
        (
            'contest = "train"\ncontender = "tutorial"\nprediction_type = "v_prediction"',
            "prediction_type must be 'epsilon' with contender = tutorial, got 'v_prediction'",
        ),
        (
            'contest = "sample"\ncontender = "DDPMPipeline"\nsampler = "ddim"',
            "sampler must be 'ddpm' with contender = DDPMPipeline, got 'ddim'",
        ),
    ],
)
def test_a_contest_that_there_is_not_or_that_a_baseline_cannot_follow_is_refused(
    text: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        toy_suite(f"{BASE}[[grid]]\nepochs = 1\nnum_images = 4\n{text}\n")


def test_contenders_take_turns() -> None:
    units = plan_units(toy_suite(TOY), seed=3, device="cpu")
    assert {unit.kind for unit in units} == {"contest"} and len(units) == 16
    rounds = [(unit.cases[0].settings["contest"], unit.cases[0].seed) for unit in units]
    # Each round is whole before the next begins ...
    assert len(set(rounds)) == 6
    assert [one for i, one in enumerate(rounds) if i == 0 or rounds[i - 1] != one] == list(
        dict.fromkeys(rounds)
    )
    # ... and in an order of its own.
    orders = {
        tuple(unit.cases[0].settings["contender"] for unit in units if unit.cases[0].seed == seed)
        for seed in (0, 1)
    }
    others = plan_units(toy_suite(TOY), seed=4, device="cpu")
    assert len(orders) == 2 or [one.unit for one in units] != [one.unit for one in others]


# What they come to --------------------------------------------------------------------------------


def record(case: Case, **told: float) -> Record:
    return Record(
        case_id=case.case_id, repeat=1, seed=case.seed, unit=f"u-{digest([case.case_id])}",
        status="ok", settings=case.settings, scores=told,
    )  # fmt: skip


def of_train(
    contender: str, seconds: list[float], losses: list[float], **levers: Any
) -> list[Record]:
    [case] = toy_suite(f'{BASE}[[grid]]\ncontest = "train"\nnum_images = 4\nepochs = 1\n').cases
    settings = {**case.settings, "contender": contender, **levers}
    return [
        record(
            case.model_copy(
                update={"settings": settings, "seed": seed, "case_id": f"{contender}{levers}{seed}"}
            ),
            seconds=second,
            eps_loss=loss,
        )
        for seed, (second, loss) in enumerate(zip(seconds, losses, strict=True))
    ]


LOSSES = [0.50, 0.52, 0.48, 0.51, 0.49, 0.53]
PACES = [1.00, 1.10, 0.90, 1.05, 0.95, 1.00]


def by_name(records: list[Record]) -> dict[str, Entry]:
    return {one.name: one for one in entries(records)}


def test_ratios_are_of_pairs_in_one_round() -> None:
    baseline = of_train("tutorial", [2 * pace for pace in PACES], LOSSES)
    plain = of_train("dipddpm", PACES, LOSSES)
    lever = of_train("dipddpm", [pace / 1.25 for pace in PACES], LOSSES, channels_last=True)
    found = by_name([*lever, *baseline, *plain])
    assert list(found) == [
        "dipddpm, channels_last = True",
        "dipddpm",
        "tutorial",
    ]  # the quickest first
    ours = found["dipddpm, channels_last = True"]
    assert ours.ratio is not None and ours.to_plain is not None
    # Each round slows all alike: the ratio has no spread.
    assert (ours.ratio.low, ours.ratio.mean, ours.ratio.high) == pytest.approx((2.5, 2.5, 2.5))
    assert ours.to_plain.mean == pytest.approx(1.25) and ours.to_plain.n == 6
    assert ours.ratios == pytest.approx([2.5] * 6)
    assert ours.is_gain and ours.gate.passed
    assert found["tutorial"].ratio is None and found["dipddpm"].to_plain is None
    assert not found["dipddpm"].is_gain  # there is no lever


def test_a_baseline_may_have_settings_too() -> None:
    lower = {"mixed_precision": "fp16"}
    found = by_name(
        [
            *of_train("tutorial", [3 * pace for pace in PACES], LOSSES, loader="decode", **lower),
            *of_train("tutorial", [2 * pace for pace in PACES], LOSSES, **lower),
            *of_train("dipddpm", PACES, LOSSES),
        ]
    )
    ratio = found["dipddpm"].ratio
    assert ratio is not None and ratio.mean == pytest.approx(2)


def test_of_too_few_rounds_or_of_lost_quality_is_no_gain() -> None:
    plain = of_train("dipddpm", PACES, LOSSES)
    quick = [pace / 2 for pace in PACES]
    few = of_train("dipddpm", quick[:5], LOSSES[:5], channels_last=True)
    worse = of_train("dipddpm", quick, [loss + 0.05 for loss in LOSSES], attention="eager")
    same = of_train("dipddpm", quick, [loss + 0.001 for loss in LOSSES], fused_adamw=False)
    uneven = [pace * factor for pace, factor in zip(PACES, (0.5, 2, 0.5, 2, 0.5, 2), strict=True)]
    unsure = of_train("dipddpm", uneven, LOSSES, tf32="all")
    lost = of_train("dipddpm", quick, LOSSES, tf32="no")
    lost.append(lost[-1].model_copy(update={"seed": 6, "status": "nan", "scores": {}}))
    found = by_name([*plain, *few, *worse, *same, *unsure, *lost])
    gains = {name: one.is_gain for name, one in found.items()}
    assert gains == {
        "dipddpm": False,
        "dipddpm, channels_last = True": False,
        "dipddpm, attention = eager": False,
        "dipddpm, fused_adamw = False": True,
        "dipddpm, tf32 = all": False,
        "dipddpm, tf32 = no": False,  # one of its rounds failed
    }
    assert found["dipddpm, attention = eager"].gate.passed is False
    assert found["dipddpm, attention = eager"].is_allowed is False


def test_what_compiling_took_is_told_once_and_again() -> None:
    plain = of_train("dipddpm", PACES, LOSSES)
    taken = (2.0, 30.0, 2.5, 2.0, 3.0, 2.0)
    lever = [
        one.model_copy(update={"scores": {**one.scores, "compile_seconds": second}})
        for one, second in zip(
            of_train("dipddpm", PACES, LOSSES, compile="model"), taken, strict=True
        )
    ]
    found = by_name([*plain, *lever])
    assert _compiled(found["dipddpm"]).text == "–"
    text = _compiled(found["dipddpm, compile = model"]).text
    assert text == f"{seconds(30.0)}, again {seconds(2.0)}"
    [alone] = entries(lever[1:2])
    assert _compiled(alone).text == seconds(30.0)
    table = _table("train", [found["dipddpm"], found["dipddpm, compile = model"]])
    assert table.columns[-1] == "to compile"
    assert [row[-1].value for row in table.rows] == [None, 30.0]
    assert _table("train", [found["dipddpm"]]).columns[-1] == "quality gate"


def test_no_lever_is_allowed_without_a_plain_contender() -> None:
    lever = of_train("dipddpm", PACES, LOSSES, channels_last=True)
    [one] = entries(lever)
    assert one.gate.passed is None and not one.is_allowed and not one.is_gain


def test_work_of_other_settings_stands_apart() -> None:
    plain = of_train("dipddpm", PACES, LOSSES)
    other = of_train("dipddpm", [2 * pace for pace in PACES], LOSSES, ema_decay=0.5)
    assert [(one.name, len(one.records)) for one in entries([*plain, *other])] == [
        ("dipddpm", 6),
        ("dipddpm", 6),
    ]


def test_a_baseline_has_no_lever_but_those_of_its_own() -> None:
    theirs = {"priors": "paper loop", "train": "tutorial", "sample": "DDPMPipeline"}
    follows = {"warm_start_iter", "loader", "mixed_precision"}
    for contest, contender in theirs.items():
        for name, default in speed._LEVERS[contest].items():
            if name not in follows:
                assert cases._FIXED[contender][name] == (default,)


@pytest.mark.parametrize("suite", ["speed", "speed-cpu", "gpu-check"])
def test_every_contest_that_ships_has_its_baseline_and_one_without_levers(suite: str) -> None:
    found: dict[str, set[str]] = {}
    for case in load(suite).cases:
        if case.settings["contest"] != "none":
            one = record(case, seconds=1.0, psnr=1.0, eps_loss=1.0, psnr_to_plain=1.0)
            found.setdefault(speed._work(one), set()).add(
                speed._name(str(case.settings["contest"]), one)
            )
    for names in found.values():
        assert "dipddpm" in names
        baselines = {one.split(", ")[0] for one in names}
        assert baselines & {"paper loop", "tutorial", "DDPMPipeline"}


def test_the_gate_of_training_is_a_standard_deviation_of_seeds() -> None:
    plain = dict(enumerate(LOSSES))
    band = torch.tensor(LOSSES, dtype=torch.float64).std().item()
    for rise, passed in ((-1.0, True), (0.0, True), (0.99 * band, True), (1.01 * band, False)):
        assert gate_training({s: loss + rise for s, loss in plain.items()}, plain).passed is passed
    # What is unsure neither passes nor fails: the whole interval has to.
    unsure = {seed: loss + band * (-1) ** seed * 3 for seed, loss in plain.items()}
    assert gate_training(unsure, plain).passed is None
    assert gate_training({0: 0.5}, plain).passed is None


def test_the_gate_of_priors_is_a_tenth_of_a_decibel() -> None:
    plain = {seed: 20.0 + seed for seed in SEEDS}
    unsure = {seed: value + 0.5 * (-1) ** seed for seed, value in plain.items()}
    assert gate_priors(unsure, plain).passed is None
    for loss, passed in ((0.0, True), (0.09, True), (0.11, False), (-1.0, True)):
        found = gate_priors({seed: value - loss for seed, value in plain.items()}, plain)
        assert found.passed is passed
    assert gate_priors({}, plain).passed is None


def test_the_gate_of_sampling_is_another_seed() -> None:
    another = {seed: 12.0 + 0.1 * seed for seed in SEEDS}
    assert gate_sampling({seed: 40.0 + seed for seed in SEEDS}, another).passed is True
    assert gate_sampling({seed: 11.0 + 0.1 * seed for seed in SEEDS}, another).passed is False
    assert gate_sampling(dict.fromkeys(SEEDS, 40.0), {}).passed is None


def test_levers_are_where_nobody_moves_them() -> None:
    configs = (DIPConfig(), LoaderConfig(), TrainingConfig(), SamplingConfig())
    defaults = {name: value for one in configs for name, value in settings_of(one).items()}
    told = {name: value for some in speed._LEVERS.values() for name, value in some.items()}
    assert told == {name: defaults[name] for name in told}
    # Whatever says how nets are run is among them.
    names = {"backend", "warm_start", "warm_start_iter", "prior_adam_beta1",
             "gradient_accumulation_steps",
             "fused_adamw", "foreach_ema", "samples_per_batch"}  # fmt: skip
    for prefix in ("", "prior_", "sampling_"):
        levers = ("mixed_precision", "precision", "channels_last", "tf32", "attention", "compile",
                  "cuda_graph", "num_threads")  # fmt: skip
        names |= {f"{prefix}{one}" for one in levers} & defaults.keys()
    assert told.keys() - {"loader"} == names


# The gates, on real nets ----------------------------------------------------------------------


UNET = UNetConfig(block_out_channels=(8, 16), attention_levels=(1,), norm_num_groups=4)
SCHEDULE = NoiseScheduleConfig()
TRAINING = TrainingConfig(batch_size=16, learning_rate=3e-3, ema_decay=0.0)


@pytest.fixture(scope="module")
def nets(objects: ImageSource) -> dict[int, TrainedNet]:
    images = prepare(objects.train[:32], 16)
    return {
        seed: train_ddpm(
            images, 16, UNET, SCHEDULE, TRAINING, Context(seed=seed),
            loading=LoaderConfig(), epochs=20,
        )
        for seed in range(7)
    }  # fmt: skip


def test_too_few_steps_and_a_wrong_dtype_are_rejected(nets: dict[int, TrainedNet]) -> None:
    def drawn(net: TrainedNet, seed: int, steps: int = 20) -> torch.Tensor:
        sampling = SamplingConfig(num_samples=4, num_inference_steps=steps)
        return sample(net, None, 16, UNET, SCHEDULE, sampling, Context(seed=seed)).images

    def alike(of: Any) -> dict[int, float]:
        return {
            seed: psnr(of(seed), drawn(nets[seed], seed)).clamp(max=100).mean().item()
            for seed in SEEDS
        }

    def rounded(net: TrainedNet, dtype: torch.dtype) -> TrainedNet:
        weights = {name: one.to(dtype).float() for name, one in net.ema_weights.items()}
        return replace(net, ema_weights=weights)

    another = alike(lambda seed: drawn(nets[seed + 1], seed))
    assert all(math.isfinite(value) for value in another.values())
    assert gate_sampling(alike(lambda seed: drawn(nets[seed], seed)), another).passed is True
    in_bf16 = alike(lambda seed: drawn(rounded(nets[seed], torch.bfloat16), seed))
    assert gate_sampling(in_bf16, another).passed is True
    in_fp8 = alike(lambda seed: drawn(rounded(nets[seed], torch.float8_e5m2), seed))
    assert max(in_fp8.values()) < min(in_bf16.values())
    assert gate_sampling(alike(lambda seed: drawn(nets[seed], seed, 1)), another).passed is False


def test_fewer_iterations_are_rejected(objects16: ImageSet) -> None:
    images = take(objects16, 0, 4)

    def reached(**settings: Any) -> dict[int, float]:
        dip = DIPConfig(**{"num_iter": 60, **settings})
        return {
            seed: fit_priors(images, dip, Context(seed=seed)).psnr_last.mean().item()
            for seed in SEEDS
        }

    plain = reached()
    assert gate_priors(reached(num_iter=50), plain).passed is False
    assert gate_priors(reached(num_iter=70), plain).passed is True
    assert gate_priors(reached(prior_channels_last=False), plain).passed is True


def test_a_shorter_training_is_rejected(objects: ImageSource) -> None:
    def losses(epochs: int) -> dict[int, float]:
        found = {}
        for seed in SEEDS:
            trained = train_ddpm(
                prepare(objects.train[:32], 16), 16, UNET, SCHEDULE, TRAINING, Context(seed=seed),
                loading=LoaderConfig(), epochs=epochs,
            )  # fmt: skip
            held_out = prepare(objects.held_out[:8], 16)
            scored = score_net(trained, held_out, 16, UNET, SCHEDULE, Context(seed=seed))
            found[seed] = scored.values["eps_loss"]
        return found

    plain = losses(10)
    assert gate_training(losses(10), plain).passed is True
    assert gate_training(losses(3), plain).passed is False


# The whole of it ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    engine = ForkserverEngine()
    return run_all(new_run(tmp_path_factory.mktemp("runs") / "run", engine, TOY), engine)


def test_a_run_of_contests_is_told_as_it_was_measured(run: Run) -> None:
    records = run.records()
    assert {record.status for record in records} == {"ok"} and len(records) == 16
    rows = {(row.unit, row.key): row for row in run.stage_rows()}
    for record in records:
        made = [rows[record.unit, key] for key in record.stages]
        assert all(row.executed for row in made)
        if record.settings["contest"] == "train":
            [row] = [row for row in made if row.function.startswith("train")]
            assert record.scores["seconds"] == median(row.step_seconds)
    for name, of in (("priors", "fit_by_paper_loop"), ("sample", "sample_by_pipeline")):
        [baseline, *_] = [
            r for r in records if r.settings["contest"] == name
            and r.settings["contender"] in ("paper loop", "DDPMPipeline")
        ]  # fmt: skip
        assert of in {rows[baseline.unit, key].function for key in baseline.stages}

    said = text(section(run.folder, "speed"))
    for one in entries(records):
        assert one.name in said
    for one in entries(records):
        if one.ratio is not None:
            mean = math.exp(sum(math.log(ratio) for ratio in one.ratios) / 2)
            assert one.ratio.mean == pytest.approx(mean) and times(mean) in said
    assert "too few rounds" in said and "What measuring costs" in said


def test_the_steps_of_a_contest_are_those_that_were_planned(run: Run) -> None:
    made: Counter[str] = Counter()
    for row in run.stage_rows():
        made[row.unit] += len(row.step_seconds)
    assert made == {spec.unit: spec.num_steps for spec in run.plan.units}
    assert min(made.values()) > 0


def test_units_of_one_kind_of_work_differ_in_their_seed_alone(run: Run) -> None:
    kinds: dict[str, set[int]] = {}
    for spec in run.plan.units:
        kinds.setdefault(kind_of_work(spec), set()).add(spec.cases[0].seed)
    assert len(kinds) == 8
    assert set(map(frozenset, kinds.values())) == {frozenset({0, 1})}


def test_two_rounds_are_no_headline(run: Run) -> None:
    said = text(section(run.folder, "speed"))
    assert "No pace is told from fewer than 6 rounds" in said
    assert "At equal quality" not in said


def test_contests_that_are_missing_and_their_warnings_are_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    assert main(["status", str(folder)]) == 0
    lost = run.plan.units[0]
    shutil.rmtree(folder / UNITS / lost.unit)
    capsys.readouterr()
    assert [case.case_id for case in Run.open(folder).missing()] == [lost.cases[0].case_id]
    assert main(["status", str(folder)]) == 1
    assert "15 ok; 1 still to come" in capsys.readouterr().out
    said = text(section(folder, "troubles"))
    assert "0 failed outcomes, 1 missing outcome, 1 warning." in said
    # Of those that train, and of no fit.
    assert "lr_warmup_steps = 1 is more than a tenth" in said and "(4 outcomes)" in said


def test_a_contest_that_is_missing_is_named_by_what_it_is(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    lost = next(
        spec for spec in run.plan.units if spec.cases[0].settings["contender"] == "tutorial"
    )
    shutil.rmtree(folder / UNITS / lost.unit)
    said = text(section(folder, "troubles"))
    assert "contest = train, contender = tutorial" in said
    assert f"seed = {lost.cases[0].seed}, repeat = 1" in said


def test_contests_are_told_to_others_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_run(run.folder)
    files = page.build(loaded)
    assert "results.csv" not in files
    table = pd.read_parquet(io.BytesIO(files["contests.parquet"])).set_index("case_id")
    assert len(table) == len(loaded.contests) == 16
    for record in loaded.contests:
        row = table.loc[record.case_id]
        assert row.contender == record.settings["contender"] and row.status == "ok"
        assert row.seconds == record.scores["seconds"]
    told = json.loads(files["summary.json"])["contests"]
    for one, found in zip(told, entries(loaded.contests), strict=True):
        assert (one["contest"], one["contender"]) == (found.contest, found.name)
        assert one["seconds"] == found.seconds and one["gain"] is found.is_gain
        assert (one["pace"] is None) == (found.ratio is None)
        if found.ratio is not None:
            assert one["pace"]["mean"] == found.ratio.mean
    [line] = [
        line
        for line in re.findall(r"`(pd\..*?)` \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
        if "contests.parquet" in line
    ]
    page.write(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    contenders = {(one.settings["contest"], one.settings["contender"]) for one in loaded.contests}
    assert set(eval(line, {"pd": pd}).index) == contenders


def test_the_terminal_tells_it_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert "toy: contests" in out and "DDPMPipeline" in out and "paper loop" in out
    assert "seconds and scores of each setting" not in out


def test_a_dry_run_books_the_stages_of_contests() -> None:
    booking = book(plan_units(toy_suite(TOY), seed=0, device="cpu"))
    counts = booking.by_stage(booking.shared)
    assert counts["fit_by_paper_loop"] == counts["train_by_tutorial"] == 2
    assert counts["learn_initialisation"] == counts["sample_by_pipeline"] == 2
    # Each sampling contest trains a net, that of another seed two; and draws by the plain path.
    assert counts["train_ddpm"] == 2 + 2 * (1 + 1 + 2)
    assert counts["sample"] == 2 * (1 + 2 + 2)
    of_tutorial, of_ours = (
        booking.flops(booking.shared, name) for name in ("train_by_tutorial", "train_ddpm")
    )
    assert of_tutorial is not None and of_ours is not None
    # 6 images for 2 epochs, twice; and in the sampling contests 4 for 1, eight times.
    assert of_tutorial * (2 * 12 + 8 * 4) == of_ours * 2 * 12
