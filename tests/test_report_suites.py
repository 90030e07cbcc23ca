"""What the report says of each suite: its effects and words, against sums done by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from bench import suite
from bench.records import Record, Setting, StageRow, UnitSpec
from bench.stats import Effect, Pair, paired_difference, paired_ratio
from bench.units import plan_units
from bench.verdicts import judge
from reports import publication, words
from reports.context import EPS_LOSS, KID, ON_DIP, ON_IMAGES, PER_IMAGE, TOTAL_SECONDS, Report
from reports.figures import svg
from reports.figures.restoration import Restored, pareto
from reports.load import load_run
from reports.sections.loaders import waiting
from reports.sections.loss import _curve, _settings
from reports.ways import OF_ALL, OF_DEGRADED, best_pairs, compared, ways
from tests.test_report_figures import rows_of, section, text
from tests.test_report_tables import Folder, Given, arms_run, case, generation, record, row

SEEDS = range(6)
# Of a seed, on all sides alike.
DRIFT = (1.0, 1.1, 0.9, 1.05, 0.95, 1.02)
# Of a run, on one side alone: its mean logarithm is 0.
NOISE = (1.001, 0.999, 1.002, 0.998, 1.001, 1 / (1.001 * 0.999 * 1.002 * 0.998 * 1.001))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "render", lambda *_, **__: Markup())


# Words -------------------------------------------------------------------------------------------


def ratio(*ratios: float) -> Effect:
    effect = paired_ratio(Pair(1.0, r, frozenset({str(i)})) for i, r in enumerate(ratios))
    assert effect is not None
    return effect


def difference(*differences: float) -> Effect:
    effect = paired_difference(
        Pair(20.0, 20.0 + d, frozenset({str(i)})) for i, d in enumerate(differences)
    )
    assert effect is not None
    return effect


def told(effect: Effect | None, controls: Iterable[Effect | None] = (), **given: Any) -> str:
    seeds = given.pop("of_seeds", False)
    unit, margin = ("", 0.02) if effect is None or effect.is_ratio else ("dB", 0.3)
    verdict = judge(
        effect, margin=margin, more="longer", less="shorter", controls=controls, of_seeds=seeds
    )
    return words.judged(verdict, unit, of_seeds=seeds).replace("\N{NO-BREAK SPACE}", " ")


def test_each_word_stands_beside_its_interval_and_its_number() -> None:
    quiet, loud = ratio(*NOISE), ratio(0.8, 1.3, 0.7, 1.4, 0.9, 1.2)
    up, down = ratio(*(1.2 * n for n in NOISE)), ratio(*(0.8 * n for n in NOISE))
    assert told(up, [quiet]).startswith("+20.0 % (6 pairs, 95 % interval +19.8 % to +20.2 %): lon")
    assert told(down, [quiet]).endswith(": shorter")
    assert told(quiet, [quiet]).endswith(": equal within 2 %")
    assert (
        "not distinguishable from no effect (half-width 34.7 %; if there is none, some 1757 pairs "
        "in all would show equality within 2 %)" in told(loud, [quiet])
    )
    assert ": withheld (alone: longer), a control reaches from −" in told(up, [loud])
    assert told(quiet, [None]).endswith("withheld (alone: equal within 2 %), no case ran twice")
    assert told(up, [ratio(1.1, 1.2)]).endswith(
        "withheld (alone: longer), a control has no interval"
    )
    assert told(None) == "not measured"


def test_what_is_the_same_in_every_pair_says_so() -> None:
    """Of a score that has no margin, as KID."""
    same = difference(*[0.0] * 6)
    verdict = judge(same, margin=None, more="higher", less="lower")
    assert words.judged(verdict).endswith(": the same in every pair")


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.000601, "+0.06 %"), (0.99846, "−0.15 %"), (1.0, "0.00 %"), (1.01691, "+1.69 %")],
)
def test_a_change_below_a_percent_is_told_to_a_hundredth_of_one(ratio: float, text: str) -> None:
    assert words.signed_percent(ratio).replace("\N{NO-BREAK SPACE}", " ") == text


def test_an_effect_of_too_few_pairs_has_no_direction() -> None:
    assert told(ratio(1.2)) == "+20.0 % (1 pair, no interval): no verdict, it takes 5 more pairs"
    four = told(ratio(*[1.2] * 4), of_seeds=True)
    assert four.endswith("(4 pairs of 4 seeds, 95 % interval +20.0 % to +20.0 %): no verdict, "
                         "it takes 2 more pairs")  # fmt: skip


def test_a_difference_has_its_unit() -> None:
    assert told(difference(0.5, 0.6, 0.7, 0.5, 0.6, 0.7)).startswith("+0.600 dB (6 pairs, 95 % int")
    assert told(difference(0.1, -0.1, 0.1, -0.1, 0.1, -0.1)).endswith("equal within 0.3 dB")
    assert "half-width 1." in told(difference(1.0, -1.0, 1.0, -1.0, 1.0, -1.0))
    assert told(ratio(*[2.5] * 6)).startswith("2.50× (6 pairs, 95 % interval 2.50× to 2.50×)")


# Loaders -----------------------------------------------------------------------------------------


def loaders_run(
    path: Path,
    *,
    decode: float,
    dip: float,
    again: float = 1.0,
    jitter: float = 0.0,
    files: str = "encoded",
) -> Path:
    """Seconds relative to (images, list); a list waits for 10 % of its time, decode for 20 %."""
    given: list[Given] = []
    for seed in SEEDS:
        for train_on, loader, repeat in (
            ("images", "list", 1),
            ("images", "list", 2),
            ("images", "decode", 1),
            ("dip", "list", 1),
            ("dip", "decode", 1),
        ):
            slower = decode * (1 + jitter * (-1) ** seed)
            taken = DRIFT[seed] * (slower if loader == "decode" else 1.0)
            taken *= (dip if train_on == "dip" else 1.0) * (again if repeat == 2 else 1.0)
            # The repeat and DIP have the noise of their own.
            taken *= NOISE[seed] if repeat == 2 or train_on == "dip" else 1.0
            settings = {"train_on": train_on, "loader": loader, "flip": "loader", "files": files}
            given.append(({**settings, "seed": seed, "repeat": repeat}, taken, 0.5))
        for workers in (2, 4):
            workers_settings = {"loader": "decode", "flip": "loader", "num_workers": workers}
            given.append(({**workers_settings, "seed": seed}, DRIFT[seed] * decode / workers, 0.5))
        given.append(({"loader": "memory", "seed": seed}, 0.9 * DRIFT[seed], 0.5))
    return arms_run(path, *given)


def test_the_loader_is_longer_and_dip_is_equal(tmp_path: Path) -> None:
    path = loaders_run(tmp_path / "run", decode=1.25, dip=1.0)
    said = text(section(path, "loaders"))
    assert "list of tensors: +25.0 % (6 pairs, 95 % interval +25.0 % to +25.0 %): longer." in said
    assert "DIP outputs against images, both as a list of tensors: 0.00 % (6 pairs" in said
    effects = rows_of(section(path, "loaders"), "on training seconds an image")
    assert [line[-1] for line in effects] == ["longer", *["equal within 2 %"] * 3]
    # (2.5 - 2) s of 40 images, of which 0.2 * 2.5 - 0.1 * 2 were waiting.
    assert "is 1.25× (6 pairs, 95 % interval 1.25× to 1.25×); the publication's" in said
    assert "was 1.14×" in said


def test_the_loader_is_equal_and_dip_is_shorter(tmp_path: Path) -> None:
    path = loaders_run(tmp_path / "run", decode=1.0, dip=0.8)
    said = text(section(path, "loaders"))
    assert (
        "list of tensors: 0.00 % (6 pairs, 95 % interval 0.00 % to 0.00 %): equal within 2 %"
        in said
    )
    effects = rows_of(section(path, "loaders"), "on training seconds an image")
    assert [line[1] for line in effects] == ["0.00 %", "−20.0 %", "0.00 %", "0.00 %"]
    assert effects[1][-1] == "shorter"


@pytest.mark.parametrize(
    ("files", "words"),
    [("source", "images' own files are others"), ("encoded", "files of both are of one encoder")],
)
def test_what_the_interaction_holds_is_told(tmp_path: Path, files: str, words: str) -> None:
    path = loaders_run(tmp_path / "run", decode=1.25, dip=1.0, files=files)
    assert words in text(section(path, "loaders"))


def test_a_noisy_control_withholds_what_it_hides(tmp_path: Path) -> None:
    path = loaders_run(tmp_path / "run", decode=1.25, dip=1.0, again=1.5)
    effects = rows_of(section(path, "loaders"), "on training seconds an image")
    assert effects[0][-1].startswith("withheld (alone: longer), a control reaches from +49.")


def test_other_loaders_are_told_against_decode(tmp_path: Path) -> None:
    path = loaders_run(tmp_path / "run", decode=1.2, dip=1.0)
    found = rows_of(section(path, "loaders"), "images, loaded by")
    assert {line[0]: line[1] for line in found} == {
        "memory / decode, flip on the device / in the loader": "−25.0 %",
        "list / decode": "−16.7 %",
        "decode, 2 workers / decode": "0.500×",
        "decode, 4 workers / decode": "0.250×",
    }


@pytest.mark.parametrize(("decode", "explains"), [(1.125, True), (1.25, False)])
def test_whether_waiting_is_the_effect(tmp_path: Path, decode: float, explains: bool) -> None:
    # 0.2 d - 0.1 = d - 1 at d = 1.125; at 1.25 a part of 0.2 * 2 / 40 s an image is left.
    path = loaders_run(tmp_path / "run", decode=decode, dip=1.0, jitter=1e-3)
    report = Report(load_run(path))
    found = waiting(report, "list")
    assert found is not None
    left = 2 * (decode - 1 - (0.2 * decode - 0.1)) / 40
    mean = sum(DRIFT) / 6
    assert found.taken.mean == pytest.approx(2 * (decode - 1) / 40 * mean, rel=0.01)
    assert found.unexplained.mean == pytest.approx(left * mean, abs=1e-4)
    assert found.explains is explains
    said = text(section(path, "loaders"))
    sentence = said.split("longer waiting for data as measured; the rest, ")[1].split(". ")[0]
    # Of all targets, then of images alone.
    assert [word in part for part in sentence.split(";") for word in ("cannot be", "is not 0")] == [
        explains, not explains, explains, not explains,
    ]  # fmt: skip


def test_what_a_bill_shares_with_both_sides_joins_no_pairs(tmp_path: Path) -> None:
    """The same reference features in all bills, priors of a seed in half of them."""
    folder = Folder(tmp_path / "run")
    folder.unit("features", [row("features", "f", "extract_features", 5.0)])
    for seed in range(3):
        priors = f"priors-{seed}"
        folder.unit(priors, [row(priors, f"fit-{seed}", "fit_priors", 8.0)])
        for train_on in ("images", "dip"):
            unit = f"{train_on}-{seed}"
            rows = [row(unit, "f", "extract_features", None)]
            base = ["f"]
            if train_on == "dip":
                rows.append(row(unit, f"fit-{seed}", "fit_priors", None))
                base.append(f"fit-{seed}")
            of = case(seed, train_on=train_on)
            made, found = generation(unit, unit, tuple(base), of, 2.0, 0.5, "f")
            folder.unit(unit, rows + made, found, needs=("features", priors))
    report = Report(load_run(folder.finish()))
    pairs = report.pairs(TOTAL_SECONDS, ON_IMAGES, ON_DIP)
    assert [set(pair.executions) for pair in pairs] == [
        {f"images-{seed}", f"dip-{seed}", f"priors-{seed}"} for seed in range(3)
    ]
    # 5 of features, 4 of training, 0.55 of sampling and scores; 8 more with priors.
    assert pairs[0].other - pairs[0].base == pytest.approx(8.0)


# Arms --------------------------------------------------------------------------------------------


def corrected_run(path: Path, dip: float, blur: float, *, correlation: float = 0.9) -> Path:
    """Losses relative to those on images; KID 0.1 on images, more by a hundredth of the ratio."""
    folder = Folder(path)
    for seed in SEEDS:
        for train_on, factor, repeat in (
            ("images", 1.0, 1),
            ("images", 1.0, 2),
            ("dip", dip * NOISE[seed], 1),
            ("blur", blur * NOISE[seed], 1),
        ):
            unit = f"{train_on}-{seed}-{repeat}"
            of = case(seed, repeat, train_on=train_on)
            rows = [row(unit, "data", "prepare", 0.1)]
            made, found = generation(unit, unit, ("data",), of, 1.0, factor * DRIFT[seed], "data")
            of_samples = {
                "kid_efflite0": 0.1 + (factor - 1) / 10,
                "nearest_real_efflite0": 8.9,
                "lag1_autocorrelation": correlation,
            }
            priors = {"training_prior_psnr_last": 30.0 + seed} if train_on != "images" else {}
            kept = [
                one.model_copy(update={"scores": {**one.scores, **of_samples, **priors}})
                for one in found
            ]
            folder.unit(unit, rows + made, kept)
    return folder.finish()


def test_the_arms_in_both_directions(tmp_path: Path) -> None:
    said = text(section(corrected_run(tmp_path / "a", 1.3, 0.8), "arms"))
    assert "data against none +30.0 % (6 pairs of 6 seeds, 95 % interval" in said
    finding = said.split("KID:")[0]
    assert "higher" in finding.split("data against none")[1].split(";")[0]
    assert "lower" in finding.split("data-blur against none")[1].split(";")[0]
    assert "data against data-blur +62.5 %" in finding
    other = text(section(corrected_run(tmp_path / "b", 0.7, 1.0), "arms")).split("KID:")[0]
    assert "data against none −30.0 %" in other
    assert "equal within 2 %" in other.split("data-blur against none")[1].split(";")[0]


def test_kid_is_a_difference(tmp_path: Path) -> None:
    report = Report(load_run(corrected_run(tmp_path / "run", 1.3, 0.8)))
    effect = report.effect(KID, ON_IMAGES, ON_DIP)
    assert effect is not None
    mean = sum(0.13 * n for n in NOISE) / 6 - 0.13
    assert effect.mean == pytest.approx(0.03 + mean)
    assert (effect.n, effect.is_ratio) == (6, False)
    found = rows_of(section(report.run.folder, "arms"), "of")
    (line,) = [cells for cells in found if cells[:2] == ["KID", "data against none"]]
    assert line[2] == "+0.0300"
    assert line[-1] == "higher"
    features = rows_of(section(report.run.folder, "quality"), "setting")
    assert {cells[1]: cells[8] for cells in features}["dip"] == "8.90 (8.90 to 8.90)"


def test_no_word_rests_on_samples_that_look_like_noise(tmp_path: Path) -> None:
    report = Report(load_run(corrected_run(tmp_path / "run", 1.3, 0.8, correlation=0.19)))
    assert report.judge(KID, ON_IMAGES, ON_DIP).word == "not measured"
    assert report.judge(EPS_LOSS, ON_IMAGES, ON_DIP).word == "higher"
    said = text(section(report.run.folder, "quality"))
    count = len(report.generated)
    assert f"Of {count} outcomes the samples of {count} look like noise" in said
    # One of a setting is enough: the others would be chosen by what they gave.
    lines = report.run.folder / "units" / "dip-0-1" / "records.jsonl"
    for path in report.run.folder.glob("units/*/records.jsonl"):
        if path != lines:
            path.write_text(path.read_text().replace("0.19", "0.9"))
    assert sum(one.looks_like_noise for one in Report(load_run(report.run.folder)).generated) == 2
    assert Report(load_run(report.run.folder)).judge(KID, ON_IMAGES, ON_DIP).word == "not measured"
    clear = corrected_run(tmp_path / "clear", 1.3, 0.8, correlation=0.21)
    assert "look like noise" not in text(section(clear, "quality"))


def test_an_arm_at_a_setting_is_the_mean_over_seeds(tmp_path: Path) -> None:
    path = corrected_run(tmp_path / "run", 1.3, 0.8)
    found = rows_of(section(path, "arms"), "setting")
    (line,) = [cells for cells in found if cells[1:3] == ["5", "none"]]
    mean = sum(DRIFT) / 6
    half = 2.5705818 * math.sqrt(sum((d - mean) ** 2 for d in DRIFT) / 5 / 6)
    assert line[4] == " ".join(
        (words.three(mean), f"({words.three(mean - half)}", "to", f"{words.three(mean + half)})")
    )
    assert line[-1] == "6"
    priors = {cells[0]: cells[4] for cells in rows_of(section(path, "arms"), "arm")}
    # 30 .. 35: 32.5 -+ 2.5706 * 1.8708 / sqrt(6)
    assert priors == {"data": "32.5 (30.5 to 34.5)", "data-blur": "32.5 (30.5 to 34.5)"}


def test_runs_of_their_own_are_not_joined(tmp_path: Path) -> None:
    """Under a cosine each number of epochs is a run by itself."""
    folder = Folder(tmp_path / "run")
    for epochs in (5, 10):
        unit = f"u{epochs}"
        rows = [row(unit, f"t{epochs}", "train_ddpm", 0.5 * epochs)]
        of = case(epochs=epochs, lr_schedule="cosine")
        folder.unit(unit, rows, [record(unit, [f"t{epochs}"], "", of, eps_loss=5.0 / epochs)])
    report = Report(load_run(folder.finish()))
    (arms,) = _settings(report).values()
    (runs,) = arms.values()
    assert {epochs: [one.record.unit for one in group] for epochs, group in runs.items()} == {
        5: ["u5"],
        10: ["u10"],
    }
    assert not _curve("images", runs).joined
    (pair,) = report.pairs(EPS_LOSS, {"epochs": 5}, {"epochs": 10})
    assert (pair.base, pair.other) == (1.0, 0.5)
    (seconds,) = report.pairs(PER_IMAGE, {"epochs": 5}, {"epochs": 10})
    assert seconds.executions == {"u5", "u10"}


# Restoration -------------------------------------------------------------------------------------

# Of a start: its steps, t0, what it took to make and to sample an image, its PSNR: the mean over
# images, or one an image.
_Way = tuple[str, int, int | None, float, float, float | tuple[float, ...]]

IMAGES = 6
# Of an image, whatever the start; the mean is 0.
OF_IMAGE = (-0.5, -0.3, -0.1, 0.1, 0.3, 0.5)


def restoration_run(
    path: Path, *given: _Way, seeds: Iterable[int] = SEEDS, kept: bool = True
) -> Path:
    """0.1 dB more a seed for every start; kept: with the scores of each image."""
    folder = Folder(path)
    for seed in seeds:
        unit = f"net-{seed}"
        rows, found, artifacts = [row(unit, "net", "train_ddpm", 1.0)], [], {}
        for place, (start, steps, t0, made, sampled, psnr) in enumerate(given):
            keys = [f"{name}-{place}-{seed}" for name in ("fit", "start", "sampled", "scored")]
            fit, begun, drawn, scored = keys
            settings: dict[str, Any] = {"start_from": start, "t0": t0, "num_inference_steps": steps}
            settings |= {"num_held_out": 2 * IMAGES, "num_samples": IMAGES}
            if start == "cond":
                settings |= {"start_from": "noise", "condition_on": "dip"}
            if start == "dip, b = 0":
                settings |= {"start_from": "dip", "start_noise_weight": 0.0}
            dip = settings["start_from"] == "dip" or start == "cond"
            rows += [
                row(unit, fit, "fit_priors" if dip else "take", made * IMAGES),
                row(unit, begun, f"start_{start}", 0.0, fit),
                row(unit, drawn, "sample", sampled * IMAGES, "net", begun),
                row(unit, scored, "score_restoration", 0.1, drawn),
            ]
            # A start alone asks no net.
            if not steps:
                rows[-2] = row(unit, drawn, "as_samples", sampled * IMAGES, begun)
            of = case(seed, epochs=10, task="restore", **settings)
            bill = [*(["net"] if steps else []), *keys]
            of_images = psnr if isinstance(psnr, tuple) else [psnr + one for one in OF_IMAGE]
            scores = np.array(of_images) + seed / 10
            mean = float(scores.mean())
            found.append(record(unit, bill, drawn, of, paired_psnr=mean, degraded_psnr=20.0))
            if kept:
                named = {"per_image/paired_psnr": scores, "per_image/paired_ssim": scores / 40}
                artifacts[scored] = named
        folder.unit(unit, rows, found, artifacts=artifacts)
    return folder.finish()


def both_ways(path: Path, dip: float, fast: float, slow: float) -> Path:
    """A DIP start of 1 s, degraded starts of 0.4, 0.5 and 1.5 s, non-local means of 0.05 s and the
    original."""
    return restoration_run(
        path,
        ("dip", 5, 250, 0.75, 0.25, dip),
        ("degraded", 10, None, 0.0, 0.4, fast + 1),
        ("degraded", 20, None, 0.0, 0.5, fast),
        ("degraded", 40, None, 0.0, 1.5, slow),
        ("nlm", 0, None, 0.05, 0.0, 24.5),
        ("original", 5, 250, 0.0, 0.05, 40.0),
    )


def test_a_start_is_compared_with_what_takes_no_more_seconds(tmp_path: Path) -> None:
    report = Report(load_run(both_ways(tmp_path / "run", 24.0, 25.0, 30.0)))
    found = {one.rule: one for one in compared(ways(report))}
    # 40 steps have the highest score, and take 1.5 s.
    assert found[OF_DEGRADED].other.words == "degraded, ddim, 10 steps"
    assert found[OF_ALL].other.words == "degraded, ddim, 10 steps"
    (way,) = [way for way in ways(report) if way.from_dip]
    assert way.seconds.mean == pytest.approx(1.0)
    worse = Report(load_run(both_ways(tmp_path / "worse", 24.0, 23.0, 30.0)))
    found = {one.rule: one for one in compared(ways(worse))}
    assert found[OF_DEGRADED].other.words == "degraded, ddim, 10 steps"
    assert found[OF_ALL].other.words == "nlm alone"


def test_the_best_settings_are_chosen_on_the_other_half_of_the_images(tmp_path: Path) -> None:
    path = restoration_run(
        tmp_path / "run",
        ("dip", 5, 250, 0.75, 0.25, (30.0, 20.0, 30.0, 20.0, 30.0, 20.0)),
        ("dip", 10, 250, 0.75, 0.25, (22.0, 23.0, 22.0, 23.0, 22.0, 23.0)),
        ("degraded", 10, None, 0.0, 0.4, (21.0, 24.0, 21.0, 24.0, 21.0, 24.0)),
        ("degraded", 20, None, 0.0, 0.5, (24.0, 20.0, 24.0, 20.0, 24.0, 20.0)),
        ("degraded", 40, None, 0.0, 1.5, 40.0),
        seeds=range(3),
    )
    pairs = best_pairs(ways(Report(load_run(path))), OF_DEGRADED)
    # Images 0, 2 and 4 by what is best on 1, 3 and 5, and the reverse; seeds add 0.1 on average.
    found = sorted((min(pair.executions), pair.base - 0.1, pair.other - 0.1) for pair in pairs)
    assert [name for name, _, _ in found] == [f"image {i}" for i in range(IMAGES)]
    assert [one for _, *one in found] == pytest.approx(np.array([(21.0, 22.0), (20.0, 20.0)] * 3))


def test_a_dip_start_with_weights_of_its_own_is_one_of_them(tmp_path: Path) -> None:
    path = restoration_run(
        tmp_path / "run",
        ("dip", 5, 250, 0.75, 0.25, 24.0),
        ("dip, b = 0", 5, 30, 0.75, 0.25, 28.0),
        ("degraded", 10, None, 0.0, 0.4, 25.0),
    )
    finding = text(section(path, "restoration"))
    assert "chosen on the other half of the images: +3.00 dB" in finding
    assert "dip, b = 0, t0 30, ddim, 5 steps: 28.2 dB in 1.00 s an image, of 2 DIP" in finding


@pytest.mark.parametrize(
    ("dip", "said"),
    [
        (25.0, "−1.00 dB (6 images, mean over 6 seeds, 95 % interval −1.00 dB to −1.00 dB): worse"),
        (27.0, "+1.00 dB (6 images, mean over 6 seeds, 95 % interval +1.00 dB to +1.00 dB): bett"),
        (26.1, "equal within 0.3 dB"),
    ],
)
def test_whether_the_dip_start_beats_the_degraded_start(
    tmp_path: Path, dip: float, said: str
) -> None:
    path = both_ways(tmp_path / "run", dip, 25.0, 30.0)
    finding = text(section(path, "restoration")).split("Over all images")[0]
    assert said in finding
    assert said in text(section(path, "answer"))


def test_the_interval_is_that_of_the_images(tmp_path: Path) -> None:
    """Six seeds that agree to a bit are no six replicates of what differs from image to image."""
    gains = (1.0, 2.0, 0.0, -1.0, 3.0, 1.0)
    path = restoration_run(
        tmp_path / "run",
        ("dip", 5, 250, 0.75, 0.25, tuple(25.0 + gain for gain in gains)),
        ("degraded", 10, None, 0.0, 0.4, tuple([25.0] * IMAGES)),
    )
    (one,) = [one for one in compared(ways(Report(load_run(path)))) if one.rule == OF_DEGRADED]
    effect = one.verdict.effect
    assert effect is not None and effect.low is not None and effect.n == IMAGES
    mean = sum(gains) / 6
    half = 2.5705818 * math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 5 / 6)
    assert (effect.mean, effect.low) == pytest.approx((mean, mean - half))


def test_it_says_how_many_images_would_do(tmp_path: Path) -> None:
    gains = (2.0, -2.0, 1.0, -1.0, 0.5, 0.0)
    path = restoration_run(
        tmp_path / "run",
        ("dip", 5, 250, 0.75, 0.25, tuple(25.0 + gain for gain in gains)),
        ("degraded", 10, None, 0.0, 0.4, tuple([25.0] * IMAGES)),
    )
    (line, _) = rows_of(section(path, "restoration"), "DIP start")
    assert re.search(
        r"if there is none, some \d+ images in all would show equality within 0.3", line[-1]
    )


def test_fewer_seeds_give_no_verdict(tmp_path: Path) -> None:
    path = restoration_run(
        tmp_path / "run",
        ("dip", 5, 250, 0.75, 0.25, 24.0),
        ("degraded", 10, None, 0.0, 0.4, 25.0),
        seeds=range(2),
    )
    assert (
        "−1.00 dB (6 images, mean over 2 seeds, 95 % interval −1.00 dB to −1.00 dB): no verdict, "
        "it takes 1 more seed" in text(section(path, "restoration"))
    )


def test_a_way_without_all_seeds_takes_no_part(tmp_path: Path) -> None:
    path = restoration_run(
        tmp_path / "run",
        ("dip", 5, 250, 0.75, 0.25, 24.0),
        ("dip, b = 0", 5, 30, 0.75, 0.25, 28.0),
        ("degraded", 10, None, 0.0, 0.4, 25.0),
    )
    lines = (path / "units" / "net-5" / "records.jsonl").read_text().splitlines(keepends=True)
    (path / "units" / "net-5" / "records.jsonl").write_text("".join((lines[0], *lines[2:])))
    finding = text(section(path, "restoration")).split("Against")[0]
    assert "chosen on the other half of the images: −1.00 dB" in finding
    assert "Over all images the best are dip, t0 250, ddim, 5 steps" in finding


def test_without_the_scores_of_each_image_there_is_a_mean_and_no_word(tmp_path: Path) -> None:
    path = restoration_run(
        tmp_path / "run",
        ("dip", 5, 250, 0.75, 0.25, 24.0),
        ("degraded", 10, None, 0.0, 0.4, 25.0),
        kept=False,
    )
    shown = section(path, "restoration")
    assert "The best of each start, by PSNR: degraded" in text(shown)
    assert [line[4] for line in rows_of(shown, "start")] == ["25.2", "24.2"]


def test_the_table_of_restorations(tmp_path: Path) -> None:
    path = restoration_run(
        tmp_path / "run",
        ("dip", 0, None, 0.75, 0.0, 27.0),
        ("cond", 5, None, 2.0, 0.25, 22.0),
        ("original", 5, 250, 0.0, 0.25, 30.0),
    )
    found = rows_of(section(path, "restoration"), "start")
    # Over images, of which seeds add 0.25 on average: -+ 2.5706 * 0.3742 / sqrt(6).
    assert [line[:5] for line in found] == [
        ["original (bound, no method)", "250", "ddim", "5", "30.2 (29.9 to 30.6)"],
        ["dip", "–", "–", "0", "27.2 (26.9 to 27.6)"],
        ["cond", "default", "ddim", "5", "22.2 (21.9 to 22.6)"],
    ]
    # A condition is fitted to all twelve held-out images, six of which are restored.
    assert [line[6] for line in found] == ["0 s", "750 ms", "1.00 s"]
    assert [line[-1] for line in found] == ["6", "6", "6"]


def test_the_front_is_what_no_other_beats() -> None:
    points = [
        Restored("a", "a", True, oracle, seconds, Effect(psnr, None, None, 1, None, 1))
        for seconds, psnr, oracle in (
            (1.0, 20.0, False),
            (2.0, 19.0, False),
            (2.0, 22.0, False),
            (3.0, 22.0, False),
            (4.0, 30.0, True),
            (5.0, 25.0, False),
        )
    ]
    brute = [
        p
        for p in points
        if not p.oracle
        and not any(
            o.seconds <= p.seconds and o.psnr.mean >= p.psnr.mean and o is not p and not o.oracle
            for o in points
        )
    ]
    assert pareto(points) == brute
    assert [p.psnr.mean for p in brute] == [20.0, 22.0, 25.0]


# Paper -------------------------------------------------------------------------------------------


def test_a_published_row_is_met_under_its_own_protocol_and_loader(tmp_path: Path) -> None:
    wanted = publication.published_rows()[2]
    assert wanted.dip == "yes"
    folder = Folder(tmp_path / "run")
    under: dict[str, dict[str, Setting]] = {
        "memory": {"protocol": "paper", "loader": "memory"},
        "corrected": {"protocol": "corrected", "loader": "list"},
        "paper": {"protocol": "paper", "loader": "list", "score_range": "mixed"},
    }
    for unit, settings in under.items():
        of = case(0, 1, **{**wanted.settings, **settings})
        found = record(unit, ["x"], "x", of, all_pairs_psnr=7.0, anchor_copies_psnr=13.05)
        folder.unit(unit, [row(unit, "x", "train_ddpm", 1.0)], [found])
    report = Report(load_run(folder.finish()))
    [met] = publication.ours([wanted], report.found)
    assert met is not None
    assert met.record.unit == "paper"
    said = text(section(report.run.folder, "published"))
    assert "this run has 1." in said
    assert "(score_range = mixed): a pixel-perfect copy of the references gets 13.0 dB" in said or (
        "gets 13.1 dB" in said
    )
    for unit in ("paper", "corrected"):
        rest = [one for one in report.found if one.record.unit not in (unit, "paper")]
        assert publication.ours([wanted], rest) != [None]


def test_the_contrast_of_the_publication_is_of_its_loaders(tmp_path: Path) -> None:
    given: list[Given] = []
    for seed in SEEDS:
        settings = {"seed": seed, "flip": "loader"}
        given.append(({**settings, "loader": "decode"}, 1.25 * DRIFT[seed], 0.5))
        given.append(({**settings, "loader": "list", "train_on": "dip"}, DRIFT[seed], 0.5))
        given.append(({**settings, "loader": "decode", "repeat": 2}, 1.25 * DRIFT[seed], 0.5))
    said = text(section(arms_run(tmp_path / "run", *given), "published"))
    assert "loaders as published: −20.0 % (6 pairs, 95 % interval −20.0 % to −20.0 %): sho" in said
    assert "with the same loader on both sides: not measured" in said
    assert "A-vs-A, the same case run again: 0.00 % (6 pairs" in said
    # No pair at equal loaders: the answer tells that of the publication, and what it mixes.
    answer = text(section(tmp_path / "run", "answer"))
    assert "This mixes the loader with DIP." in answer


# The suites themselves ---------------------------------------------------------------------------


def made_up(spec: UnitSpec) -> tuple[list[StageRow], list[Record]]:
    """A unit's rows and records as a run might have them, each outcome with all its scores."""
    rows = [
        row(spec.unit, "net", "train_ddpm", 1.0, "data"),
        row(spec.unit, "data", "prepare", 0.1),
    ]
    found = []
    for place, one in enumerate(spec.cases):
        settings, key = one.settings, f"s{place}"
        dip = settings["start_from"] == "dip" or settings["condition_on"] == "dip"
        rows += [
            row(spec.unit, f"p{place}", "fit_priors" if dip else "take", 0.5 if dip else 0.01),
            row(spec.unit, key, "sample", 0.1 + place / 100, "net", f"p{place}"),
        ]
        restored = settings["task"] == "restore"
        score = 10.0 + (one.seed + place % 7) / 10
        scores = (
            {"paired_psnr": score, "paired_ssim": 0.5, "degraded_psnr": 20.0}
            if restored
            else {"all_pairs_psnr": score, "all_pairs_ssim": 0.1, "kid_efflite0": 0.01 * score}
        )
        bill = ["data", "net", f"p{place}", key]
        found.append(record(spec.unit, bill, key, one, eps_loss=1 / score, **scores))
    return rows, found


@pytest.mark.parametrize("name", suite.names())
def test_the_page_of_each_suite_has_what_the_suite_is_for(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path / "run")
    for spec in plan_units(suite.load(name), seed=0, device="cpu"):
        if spec.kind == "train":
            rows, found = made_up(spec)
            folder.unit(spec.unit, rows, found)
    path = folder.finish()
    wanted = {
        "paper": ["published"],
        "corrected": ["arms", "loss", "quality", "restoration", "scaling"],
        "restoration": ["restoration"],
        "loaders": ["loaders", "arms", "noise"],
        "quick": ["arms", "loaders", "loss", "restoration", "scaling", "noise"],
    }
    for part in wanted.get(name.removesuffix("-cpu"), []):
        said = text(section(path, part))
        assert not re.search(r"^[^.]*\. No ", said[:200]), said[:200]
        assert " It is made by " not in said[:250], said[:250]
    if name.startswith("paper"):
        assert "this run has 14." in text(section(path, "published"))
