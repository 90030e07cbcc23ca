"""Records to figures: what an outcome cost, by hand; and the small run folder that it is shown on.

The folder has two units of priors, a training run on images and its repeat, and one on DIP outputs.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from bench import records
from bench.cases import FIELDS, OUTCOME_FIELDS
from bench.records import (
    Case,
    Environment,
    Plan,
    Record,
    Setting,
    StageRow,
    Status,
    UnitSpec,
    UnitSummary,
)
from bench.stats import Effect
from dipddpm import arms, metrics
from reports.context import (
    EPS_LOSS,
    FIRST_RUN,
    ON_DIP,
    ON_IMAGES,
    PER_IMAGE,
    RUN_AGAIN,
    TOTAL_SECONDS,
    Report,
)
from reports.frames import results
from reports.load import load_run
from reports.pairs import distinct
from reports.tables import (
    GROUP_OF,
    GROUPS,
    NEEDED_SETTINGS,
    NOISE_AUTOCORRELATION,
    OUTCOME_SETTINGS,
    Ledger,
    Outcome,
    outcomes,
)

ROOT = Path(__file__).parents[1]

BASE: dict[str, Setting] = {
    "protocol": "corrected",
    "train_on": "images",
    "condition_on": "nothing",
    "loader": "memory",
    "num_workers": 0,
    "flip": "device",
    "files": "encoded",
    "image_size": 8,
    "num_images": 4,
    "num_held_out": 2,
    "num_iter": 100,
    "block_out_channels": (8, 16),
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "batch_size": 2,
    "max_grad_norm": 1.0,
    "epochs": 5,
    "task": "generate",
    "sampler": "ddim",
    "num_inference_steps": 20,
    "num_samples": 2,
    "start_from": "noise",
    "t0": None,
    "images": "objects",
}
ANCHORS = {"grey": 7.86, "white": 11.3, "held_out_real": 10.2}


def case(seed: int = 0, repeat: int = 1, **settings: Setting) -> Case:
    whole = {**BASE, **settings}
    identity = hashlib.sha256(json.dumps([whole, seed]).encode()).hexdigest()[:12]
    return Case(case_id=identity, repeat=repeat, seed=seed, settings=whole)


def row(
    unit: str, key: str, function: str, seconds: float | None, *parents: str, **more: Any
) -> StageRow:
    """A call; seconds None: loaded from a needed unit."""
    return StageRow(
        key=key,
        function=function,
        parents=parents,
        unit=unit,
        executed=seconds is not None,
        seconds=seconds,
        host_peak_bytes=None if seconds is None else int(1e6 * seconds),
        **more,
    )


def steps(unit: str, key: str, seconds: float, *parents: str, waiting: float = 0.1) -> StageRow:
    """Four steps of a training, a tenth of it waiting; the first takes half as long again."""
    step = seconds / 4.5
    return row(
        unit,
        key,
        "train_ddpm",
        seconds,
        *parents,
        step_seconds=(1.5 * step, step, step, step),
        data_wait_seconds=(waiting * seconds / 4,) * 4,
    )


class Folder:
    """Writes units with the models of the format itself."""

    def __init__(
        self, path: Path, *, title: str = "A small run", about: str = "Shows little."
    ) -> None:
        self.path, self.title, self.about = path, title, about
        self.specs: list[UnitSpec] = []
        (path / records.UNITS).mkdir(parents=True)

    def unit(
        self,
        name: str,
        rows: Iterable[StageRow],
        found: Iterable[Record] = (),
        *,
        cases: Iterable[Case] = (),
        needs: tuple[str, ...] = (),
        status: Status = "ok",
        error: str | None = None,
        log: str = "",
        artifacts: dict[str, dict[str, np.ndarray]] | None = None,
        done: bool = True,
    ) -> None:
        of_records = list(found)
        wanted = [
            *cases,
            *(
                Case(case_id=r.case_id, repeat=r.repeat, seed=r.seed, settings=r.settings)
                for r in of_records
            ),
        ]
        spec = UnitSpec(
            unit=name,
            kind="train" if wanted else "shared",
            images="objects",
            functions="",
            device="cpu",
            cases=tuple(wanted),
            needs=needs,
            num_steps=1,
        )
        self.specs.append(spec)
        if not done:
            return
        folder = self.path / records.UNITS / name
        (folder / records.ARTIFACTS).mkdir(parents=True)
        records.write(folder / records.SPEC, spec)
        kept = [self._keep(folder, one, (artifacts or {}).get(one.key)) for one in rows]
        records.append(folder / records.STAGES, kept)
        if wanted:
            records.append(folder / records.RECORDS, of_records)
        records.write(
            folder / records.SUMMARY,
            UnitSummary(
                unit=name,
                status=status,
                error=error,
                process_seconds=20.0,
                overhead_seconds={"warm_up": 1.5},
            ),
        )
        (folder / records.LOG).write_text(log, encoding="utf-8")

    def _keep(self, folder: Path, one: StageRow, tensors: dict[str, np.ndarray] | None) -> StageRow:
        if tensors is None or not one.executed:
            return one
        data = save(tensors)
        (folder / records.ARTIFACTS / f"{one.key}.safetensors").write_bytes(data)
        return replace(one, artifact_sha256=hashlib.sha256(data).hexdigest())

    def finish(self) -> Path:
        plan = Plan(
            suite="toy",
            title=self.title,
            about=self.about,
            command="python -m bench run toy",
            created="2026-01-02T03:04:05+00:00",
            seed=0,
            device="cpu",
            images="objects",
            images_sha256="0" * 64,
            units=tuple(self.specs),
        )
        records.write(self.path / records.PLAN, plan)
        machine = Environment(
            device="cpu",
            device_name="Toy",
            device_count=1,
            driver=None,
            cpu="Toy",
            cpu_count=2,
            memory_bytes=2**34,
            os="Linux",
            python="3.11",
            packages={"torch": "2.13.0"},
            num_threads=2,
            flags={},
            commit="a" * 40,
            subject="A commit",
            dirty=False,
            source_sha256="1" * 64,
            source_file="dipddpm/__init__.py",
        )
        records.write(self.path / records.ENVIRONMENT, machine)
        return self.path


def record(unit: str, stages: Iterable[str], sampled: str, of: Case, **scores: float) -> Record:
    anchors = {f"anchor_{name}_{s}": v for name, v in ANCHORS.items() for s in ("psnr", "ssim")}
    return Record(
        case_id=of.case_id,
        repeat=of.repeat,
        seed=of.seed,
        unit=unit,
        status="ok",
        settings=of.settings,
        scores={**scores, **anchors},
        samples=sampled,
        stages=tuple(stages),
        warnings=("terminal SNR is above 0.001",) if of.settings["train_on"] == "dip" else (),
    )


def images(count: int, value: float) -> np.ndarray:
    return np.full((count, 3, 8, 8), value, np.float32)


def generation(
    unit: str, name: str, base: tuple[str, ...], of: Case, train: float, loss: float, data: str
) -> tuple[list[StageRow], list[Record]]:
    """Both milestones of a training run, as the ledger would book them.

    A decode loader makes it wait for a fifth of the time.
    """
    waiting = 0.2 if of.settings["loader"] == "decode" else 0.1
    rows: list[StageRow] = []
    found: list[Record] = []
    trained: tuple[str, ...] = ()
    for epochs in (5, 10):
        t, n, s, g = (f"{name}-{letter}{epochs}" for letter in "tnsg")
        rows += [
            steps(unit, t, train, data, *trained[-1:], waiting=waiting),
            row(unit, n, "score_net", 0.1, t, "held"),
            row(unit, s, "sample", 0.4, t),
            row(unit, g, "score_generation", 0.05, s, "refs"),
        ]
        trained = (*trained, t)
        outcome = of.model_copy(update={"settings": {**of.settings, "epochs": epochs}})
        outcome = case(outcome.seed, outcome.repeat, **outcome.settings)
        scores = {
            "eps_loss": loss * 5 / epochs,
            "all_pairs_psnr": 7.0 + epochs / 10,
            "all_pairs_ssim": 0.01,
            "lag1_autocorrelation": 0.02,
        }
        found.append(record(unit, [*base, *trained, n, s, g], s, outcome, **scores))
    return rows, found


def restoration(
    unit: str, trained: tuple[str, ...], base: tuple[str, ...]
) -> tuple[list[StageRow], Record]:
    """From the DIP of the degraded images, by the net of the images run."""
    of = case(epochs=10, task="restore", start_from="dip", num_inference_steps=5)
    rows = [
        row(unit, "degraded", "degrade", None, "held"),
        row(unit, "fit-held", "fit_priors", None, "degraded"),
        row(unit, "join-held", "join", None, "fit-held"),
        row(unit, "restored", "sample", 0.2, trained[-1], "join-held"),
        row(unit, "paired", "score_restoration", 0.01, "restored", "held", "degraded"),
    ]
    keys = (*base, *trained, *(one.key for one in rows))
    scores = {"paired_psnr": 23.0, "paired_ssim": 0.7, "degraded_psnr": 21.0, "eps_loss": 0.4}
    return rows, record(unit, keys, "restored", of, **scores)


PRIORS = {
    "refs": {"pixels": images(4, 0.5)},
    "fit": {
        "outputs": images(4, 0.4),
        "losses": np.zeros((100, 4), np.float32),
        "snapshots": np.stack([images(4, 0.0), images(4, 0.4)]),
        "snapshot_iters": np.array([10, 100]),
    },
}
HELD_OUT = {
    "held": {"pixels": images(2, -0.5)},
    "degraded": {"pixels": images(2, -0.3)},
    "fit-held": {
        "outputs": images(2, -0.4),
        "losses": np.zeros((100, 2), np.float32),
        "snapshots": images(2, -0.4)[None],
        "snapshot_iters": np.array([100]),
    },
}


def toy_run(path: Path, **text: str) -> Folder:
    """The whole run, not yet finished; every figure in it is one that a test can add up."""
    folder = Folder(path, **text)
    folder.unit(
        "priors-train",
        [
            row("priors-train", "refs", "prepare", 0.5),
            row("priors-train", "fit", "fit_priors", 8.0, "refs"),
            row("priors-train", "join", "join", 0.25, "fit"),
        ],
        artifacts=PRIORS,
    )
    folder.unit(
        "priors-held",
        [
            row("priors-held", "held", "prepare", 0.1),
            row("priors-held", "degraded", "degrade", 0.01, "held"),
            row("priors-held", "fit-held", "fit_priors", 4.0, "degraded"),
            row("priors-held", "join-held", "join", 0.02, "fit-held"),
        ],
        artifacts=HELD_OUT,
    )
    _images_unit(folder, "images", repeat=1, train=2.25)
    _images_unit(folder, "images-again", repeat=2, train=2.7)
    _dip_unit(folder)
    return folder


def _images_unit(folder: Folder, unit: str, *, repeat: int, train: float) -> None:
    first = repeat == 1
    base = ("refs", "held", "anchors", "all")
    rows = [
        row(unit, "refs", "prepare", 0.4),
        row(unit, "held", "prepare", None if first else 0.3),
        row(unit, "anchors", "score_anchors", 0.2, "refs", "held"),
        row(unit, "all", "prepare", 0.3),
    ]
    made, found = generation(unit, "i", base, case(repeat=repeat), train, 0.5, "all")
    if first:
        restored, outcome = restoration(unit, ("i-t5", "i-t10"), base)
        made, found = made + restored, [*found, outcome]
    folder.unit(
        unit,
        rows + made,
        found,
        needs=("priors-held",) if first else (),
        artifacts={
            "i-s10": {"images": images(2, 0.9)},
            "restored": {"images": images(2, -0.6)},
            "paired": {"per_image/paired_psnr": np.array([22.0, 24.0])},
        },
    )


def _dip_unit(folder: Folder) -> None:
    unit, base = "dip", ("refs", "held", "anchors", "fit", "join", "rounded", "decoded")
    rows = [
        row(unit, "refs", "prepare", None),
        row(unit, "held", "prepare", 0.3),
        row(unit, "anchors", "score_anchors", 0.2, "refs", "held"),
        row(unit, "fit", "fit_priors", None, "refs"),
        row(unit, "join", "join", None, "fit"),
        row(unit, "rounded", "to_eight_bits", 0.05, "join"),
        row(unit, "decoded", "prepare", 0.02, "rounded"),
    ]
    made, found = generation(unit, "d", base, case(train_on="dip"), 1.8, 0.4, "decoded")
    folder.unit(unit, rows + made, found, needs=("priors-train",))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "toy").finish()


def table(path: Path) -> pd.DataFrame:
    run = load_run(path)
    return results(run, outcomes(run))


def one(path: Path, unit: str, epochs: int, task: str = "generate") -> Outcome:
    (found,) = [
        outcome
        for outcome in outcomes(load_run(path))
        if (outcome.record.unit, outcome.settings["epochs"], outcome.settings["task"])
        == (unit, epochs, task)
    ]
    return found


def test_reused_priors_are_charged_in_full(toy: Path) -> None:
    outcome = one(toy, "dip", 10)
    # fit 8.0 and join 0.25 of the priors' unit, rounding 0.05 of its own.
    assert outcome.group_seconds("priors") == pytest.approx(8.3)
    # refs 0.5 as the priors' unit made it, held 0.3 and decoded 0.02 of its own.
    assert outcome.group_seconds("prepare") == pytest.approx(0.82)
    assert outcome.group_seconds("train") == pytest.approx(3.6)
    # All of these, anchors 0.2, net 0.1, sample 0.4, generation 0.05.
    assert outcome.total_seconds == pytest.approx(8.3 + 0.82 + 3.6 + 0.2 + 0.1 + 0.4 + 0.05)
    # Held-out images and scores made no net: refs did, through the priors.
    assert outcome.net_seconds == pytest.approx(8.3 + 0.5 + 0.02 + 3.6)


def test_own_rows_come_before_those_of_others(toy: Path) -> None:
    # The key is also in priors-train (0.5 s) and in the repeat; images executed it in 0.4 s.
    outcome = one(toy, "images", 10)
    assert outcome.seconds(lambda charge: charge.key == "refs") == pytest.approx(0.4)
    # Its held-out images came from the unit that it needs.
    assert outcome.seconds(lambda charge: charge.key == "held") == pytest.approx(0.1)


def test_repeats_with_equal_keys_are_not_mixed(toy: Path) -> None:
    first, second = one(toy, "images", 10), one(toy, "images-again", 10)
    assert first.record.case_id == second.record.case_id
    assert first.group_seconds("train") == pytest.approx(4.5)
    assert second.group_seconds("train") == pytest.approx(5.4)


def test_what_nobody_known_executed_is_unknown_and_never_0(tmp_path: Path) -> None:
    folder = toy_run(tmp_path / "toy")
    # The repeat executed the same key, and it is not a unit that this one needs.
    spec = next(spec for spec in folder.specs if spec.unit == "images")
    folder.specs[folder.specs.index(spec)] = spec.model_copy(update={"needs": ()})
    found = table(folder.finish())
    here = found[found["unit"] == "images"]
    assert here["prepare_seconds"].isna().all()
    assert here["total_seconds"].isna().all()
    assert here["train_seconds"].tolist() == pytest.approx([2.25, 4.5, 4.5])
    assert (found[found["unit"] == "images-again"]["total_seconds"] > 0).all()


def test_the_groups_add_up_to_the_total(toy: Path) -> None:
    found = table(toy)
    groups = found[[f"{group}_seconds" for group in GROUPS]].sum(axis=1)
    stages = found[[name for name in map(str, found) if name.startswith("stage_")]].sum(axis=1)
    assert len(found) == 7
    assert groups.tolist() == pytest.approx(found["total_seconds"].tolist())
    assert stages.tolist() == pytest.approx(found["total_seconds"].tolist())


def test_a_function_of_the_users_stands_with_the_priors(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    of = case()
    folder.unit("a", [row("a", "x", "polish", 1.5)], [record("a", ["x"], "x", of)])
    (outcome,) = outcomes(load_run(folder.finish()))
    assert (outcome.group_seconds("priors"), outcome.total_seconds) == (1.5, 1.5)


def test_every_stage_of_the_pipeline_has_a_group() -> None:
    """By its syntax: whatever inputs, pipeline and arms hand to `stages`."""
    named = set()
    for module in ("inputs", "pipeline"):
        tree = ast.parse((ROOT / f"dipddpm/{module}.py").read_text())
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("stages"):
                named.add(ast.unparse(call.args[0]))
    made = {make.__name__ for make in (*arms.TARGETS.values(), *arms.STARTS.values()) if make}
    assert "train_ddpm" in named
    assert named - {"make"} | made == set(GROUP_OF)


def test_the_settings_of_an_outcome_are_those_of_the_suite() -> None:
    assert set(OUTCOME_FIELDS) == OUTCOME_SETTINGS
    assert set(FIELDS) >= NEEDED_SETTINGS


def test_a_record_without_settings_is_a_failure(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    bare = Case(case_id="bare", repeat=1, seed=0, settings={})
    broken = record("a", ["x"], "x", case()).model_copy(update={"settings": {}, "case_id": "bare"})
    folder.unit("a", [row("a", "x", "train_ddpm", 1.5)], [broken], cases=[bare])
    (outcome,) = outcomes(load_run(folder.finish()))
    assert not outcome.ok
    assert "has no setting" in str(outcome.failure)
    assert table(tmp_path / "run")["error"].str.contains("has no setting").all()


def test_steps_and_waiting(toy: Path) -> None:
    outcome = one(toy, "images", 10)
    # 4.5 s over 10 epochs of 4 images; steps of 0.5 s but for the first of a part, 0.75 s.
    assert outcome.train_seconds_per_image == pytest.approx(4.5 / 40)
    assert outcome.first_step_seconds == pytest.approx(0.75)
    assert outcome.median_step_seconds == pytest.approx(0.5)
    assert outcome.data_wait_seconds == pytest.approx(0.45)


def test_the_start_is_charged_without_its_input(toy: Path) -> None:
    outcome = one(toy, "images", 10, "restore")
    assert outcome.start_seconds == pytest.approx(4.02)
    assert outcome.group_seconds("sample") == pytest.approx(0.2)
    assert one(toy, "images", 10).start_seconds == 0


def test_memory_is_the_highest_reading_or_unknown(toy: Path) -> None:
    found = table(toy)
    assert found[found["unit"] == "dip"]["host_peak_bytes"].tolist() == [8_000_000] * 2
    assert found["device_peak_allocated_bytes"].isna().all()


def test_shuffled_lines_give_the_same_table(toy: Path) -> None:
    before = table(toy)
    generator = random.Random(0)
    for name in (records.RECORDS, records.STAGES):
        for path in (toy / records.UNITS).glob(f"*/{name}"):
            lines = path.read_text().splitlines(keepends=True)
            generator.shuffle(lines)
            path.write_text("".join(lines))
    pd.testing.assert_frame_equal(table(toy), before)


def test_parquet_and_csv_hold_the_same(toy: Path, tmp_path: Path) -> None:
    found = table(toy)
    found.to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), found)
    csv = pd.read_csv(io.StringIO(found.to_csv(index=False)))
    assert csv["total_seconds"].tolist() == found["total_seconds"].tolist()
    # One type a column: a setting that is a tuple is text, one that is never set is null.
    assert found["block_out_channels"].unique().tolist() == ["8,16"]
    assert found["t0"].isna().all()
    assert found["max_grad_norm"].dtype == "float64"


def mean(effect: Effect | None) -> float:
    assert effect is not None
    return effect.mean


def test_pairs_differ_in_one_factor_and_skip_repeats(toy: Path) -> None:
    report = Report(load_run(toy))
    (pair,) = report.groups(PER_IMAGE, ON_IMAGES, ON_DIP)
    assert [one.record.unit for one in pair] == ["images", "dip"]
    assert report.dip_time is not None
    assert report.dip_time.mean == pytest.approx(1.8 / 2.25)
    assert mean(report.again(PER_IMAGE)) == pytest.approx(2.7 / 2.25)
    assert report.dip_time.low is None


def test_outcomes_of_one_run_are_one_value(toy: Path) -> None:
    # Two milestones of two runs: one pair, of the last milestone.
    (pair,) = Report(load_run(toy)).groups(PER_IMAGE, ON_IMAGES, ON_DIP)
    assert [one.settings["epochs"] for one in pair] == [10, 10]
    assert pair[0].settings["task"] == "generate"


def cut_short(path: Path, unit: str, epochs: int = 10) -> None:
    """Turns what a unit made after `epochs` into a timeout, without scores, bill or samples."""
    file = path / records.UNITS / unit / records.RECORDS
    found = records.read_lines(file, Record)
    file.unlink()
    nothing: dict[str, Any] = {"scores": {}, "stages": (), "samples": None}
    for one in found:
        late = one.settings["epochs"] == epochs
        update = {"status": "timeout", "error": "slow", **nothing} if late else {}
        records.append(file, [one.model_copy(update=update)])


def test_runs_are_compared_at_the_last_milestone_that_both_have(toy: Path) -> None:
    cut_short(toy, "dip")
    report = Report(load_run(toy))
    assert report.reference is not None
    assert report.reference.words == "4 images, 1000 linear, 5 epochs"
    assert [str(arm) for arm in report.reference.arms] == ["images, memory", "dip, memory"]
    # After 5 epochs: 1.8 against 2.25 s, a loss of 0.4 against 0.5; after 10 epochs the images
    # alone have a loss of 0.25, against which 0.4 would be higher.
    assert mean(report.dip_time) == pytest.approx(1.8 / 2.25)
    assert mean(report.effect(EPS_LOSS, ON_IMAGES, ON_DIP)) == pytest.approx(0.4 / 0.5)
    # 8.3 + 0.82 + 1.8 + 0.2 + 0.55 against 0.8 + 2.25 + 0.2 + 0.55.
    assert mean(report.effect(TOTAL_SECONDS, ON_IMAGES, ON_DIP)) == pytest.approx(11.67 / 3.8)
    # The images run and its repeat are still compared after 10.
    (again,) = report.groups(PER_IMAGE, FIRST_RUN, RUN_AGAIN)
    assert again[0].settings["epochs"] == 10


def grid_run(path: Path) -> Path:
    """Three sizes, two arms, two loaders; every loss is told twice, every prior fitted once."""
    folder = Folder(path)
    folder.unit("priors", [row("priors", "fit", "fit_priors", 8.0)])
    for size in (4, 8, 16):
        for train_on in ("images", "dip"):
            for loader in ("memory", "decode"):
                unit = f"{train_on}-{loader}-{size}"
                dip = train_on == "dip"
                base = ("data", *(("fit",) if dip else ()))
                rows = [row(unit, "data", "prepare", 0.1)]
                rows += [row(unit, "fit", "fit_priors", None)] if dip else []
                of = case(train_on=train_on, loader=loader, num_images=size)
                speed = size * (1.0 if loader == "memory" else 1.2)
                loss = (2.0 if dip else 1.0) + size / 100
                made, found = generation(unit, unit, base, of, speed, loss, "data")
                folder.unit(unit, rows + made, found, needs=("priors",) if dip else ())
    return folder.finish()


Given = tuple[dict[str, Any], float, float]


def arms_run(path: Path, *given: Given) -> Path:
    """A training run for each of: its settings with seed and repeat, the seconds of each of its
    two parts, its loss after 5 epochs. Priors take 8 s, preparing 0.1 s. Named u0, u1, ...
    """
    folder = Folder(path)
    folder.unit("priors", [row("priors", "fit", "fit_priors", 8.0)])
    for place, (settings, train, loss) in enumerate(given):
        unit, of = f"u{place}", case(**settings)
        dip = of.settings["train_on"] == "dip"
        rows = [row(unit, "data", "prepare", 0.1)]
        rows += [row(unit, "fit", "fit_priors", None)] if dip else []
        base = ("data", "fit") if dip else ("data",)
        made, found = generation(unit, unit, base, of, train, loss, "data")
        folder.unit(unit, rows + made, found, needs=("priors",) if dip else ())
    return folder.finish()


def test_samples_look_like_noise_where_the_pipeline_says_so() -> None:
    """The report never loads torch, so it has a number of its own."""
    assert NOISE_AUTOCORRELATION == metrics.NOISE_AUTOCORRELATION


def test_settings_are_compared_by_blocks_and_arms_by_processes(tmp_path: Path) -> None:
    """Three arms of a setting and seed run back to back: two seeds are two replicates of what
    tells settings apart, and six of what tells arms apart."""
    given: list[Given] = [
        ({"seed": seed, "train_on": train_on, "num_train_timesteps": timesteps}, 1.0, 0.5)
        for seed in (0, 1)
        for timesteps in (500, 1000)
        for train_on in ("images", "dip", "blur")
    ]
    report = Report(load_run(arms_run(tmp_path / "run", *given)))
    timesteps = report.effect(PER_IMAGE, *report.idle_sides["1000 / 500 timesteps"])
    dip = report.effect(PER_IMAGE, ON_IMAGES, ON_DIP)
    assert timesteps is not None and dip is not None
    assert (timesteps.pairs, timesteps.n) == (6, 2)
    assert (dip.pairs, dip.n) == (4, 4)
    assert report.effect(EPS_LOSS, {"num_train_timesteps": 500}, {"num_train_timesteps": 1000})


def test_what_makes_no_difference_to_a_step_is_a_control_of_times(tmp_path: Path) -> None:
    given: list[Given] = []
    for seed in range(6):
        for timesteps, slower in ((500, 1.0), (1000, 1.3)):
            for settings, ratio in (({}, 1.0), ({"repeat": 2}, 1.0), ({"train_on": "dip"}, 1.2)):
                whole = {"seed": seed, "num_train_timesteps": timesteps, **settings}
                given.append((whole, slower * ratio, 0.5))
    report = Report(load_run(arms_run(tmp_path / "run", *given)))
    verdict = report.judge(PER_IMAGE, ON_IMAGES, ON_DIP)
    assert (verdict.word, verdict.alone) == ("withheld", "longer")
    assert verdict.control is not None and verdict.control.mean == pytest.approx(1.3)
    # It does not withhold itself, nor has it to do with a loss.
    sides = report.idle_sides["1000 / 500 timesteps"]
    assert report.judge(PER_IMAGE, *sides).word == "longer"
    assert report.judge(EPS_LOSS, ON_IMAGES, ON_DIP).word == "equal"


def test_frozen_and_fresh_flips_tell_two_losses(tmp_path: Path) -> None:
    for flip, count in (("device", 1), ("loader", 2)):
        given: list[Given] = [
            ({"loader": loader, "flip": flip}, 1.0, 0.5) for loader in ("memory", "decode")
        ]
        report = Report(load_run(arms_run(tmp_path / flip, *given)))
        losses = [one for one in distinct(report.generated, EPS_LOSS) if one.number("epochs") == 5]
        assert len(losses) == count


def test_what_two_loaders_tell_alike_counts_once(tmp_path: Path) -> None:
    report = Report(load_run(grid_run(tmp_path / "grid")))
    assert len(report.pairs(PER_IMAGE, ON_IMAGES, ON_DIP)) == 6
    assert len(report.pairs(EPS_LOSS, ON_IMAGES, ON_DIP)) == 3
    assert len(report.pairs(EPS_LOSS, {"epochs": 5}, {"epochs": 10})) == 6
    assert report.reference is not None
    assert (report.reference.words, len(report.reference.arms)) == (
        "16 images, 1000 linear, 10 epochs",
        4,
    )


def test_priors_that_were_fitted_once_are_one_measurement(tmp_path: Path) -> None:
    report = Report(load_run(grid_run(tmp_path / "grid")))
    pairs = report.pairs(TOTAL_SECONDS, ON_IMAGES, ON_DIP)
    assert all("priors" in pair.executions for pair in pairs)
    effect = report.effect(TOTAL_SECONDS, ON_IMAGES, ON_DIP)
    assert effect is not None
    assert (effect.pairs, effect.n, effect.low) == (6, 1, None)


def test_a_repeat_of_both_arms_is_no_further_pair(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    for train_on in ("images", "dip"):
        for repeat in (1, 2):
            unit = f"{train_on}-{repeat}"
            rows = [row(unit, "data", "prepare", 0.1)]
            of = case(repeat=repeat, train_on=train_on)
            made, found = generation(unit, unit, ("data",), of, 1.0, 0.5, "data")
            folder.unit(unit, rows + made, found)
    report = Report(load_run(folder.finish()))
    assert len(report.pairs(PER_IMAGE, ON_IMAGES, ON_DIP)) == 1
    assert len(report.pairs(PER_IMAGE, FIRST_RUN, RUN_AGAIN)) == 2


def test_a_key_is_charged_from_the_unit_itself_then_from_those_it_needs(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    for unit, needs in (
        ("other", ()),
        ("needed", ()),
        ("own", ("needed",)),
        ("loads", ("needed",)),
    ):
        seconds = None if unit == "loads" else {"other": 1.0, "needed": 2.0, "own": 3.0}[unit]
        of = case(repeat=len(folder.specs) + 1)
        folder.unit(
            unit, [row(unit, "x", "prepare", seconds)], [record(unit, ["x"], "x", of)], needs=needs
        )
    run = load_run(folder.finish())
    ledger = Ledger(run.plan, run.rows)
    charged = {unit: ledger.charged(unit, "x") for unit in ("own", "loads")}
    assert {unit: one and one.seconds for unit, one in charged.items()} == {
        "own": 3.0,
        "loads": 2.0,
    }
