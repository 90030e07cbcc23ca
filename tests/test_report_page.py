"""The page of a small run: what it says, what it asks of others (nothing), and when it refuses."""

from __future__ import annotations

import base64
import errno
import hashlib
import html.parser
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from PIL import Image

from bench import records, suite
from bench.records import Case, Record, Setting
from dipddpm.config import PAPER
from reports import __main__ as command
from reports import page, publication, words
from reports.figures import pictures, plots, svg
from reports.figures.plots import ForestRow
from reports.load import load_run, plain_text, without_home
from reports.sections.pictures import nearest
from reports.tables import Outcome
from tests.test_report_tables import Folder, case, images, record, row, toy_run

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert(1)</script>\x1b[31m{{ 7 * 7 }}</pre>\x1b]0;title\x07&amp;`"


@pytest.fixture(scope="module")
def toy_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(toy_run(tmp_path_factory.mktemp("page") / "toy").finish())


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "toy").finish()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read the text only: drawing takes most of a second."""
    monkeypatch.setattr(svg, "render", lambda *_, **__: Markup())


def build(path: Path) -> str:
    return page.build(load_run(path))["report.html"].decode()


def section(html_text: str, name: str) -> str:
    """The text of a section, without tags, its white space made single."""
    found = re.search(rf'<section id="{name}">.*?</section>', html_text, re.DOTALL)
    assert found is not None, name
    bare = re.sub(r"<svg.*?</svg>|<[^>]*>", " ", found.group(), flags=re.DOTALL)
    return " ".join(html.unescape(bare).split())


# What it says ----------------------------------------------------------------------------------


def test_the_findings_are_the_figures(toy_page: str) -> None:
    # 1.8 against 2.25 s, run once each; A-vs-A 2.7 against 2.25.
    said = "training seconds an image: −20.0 % (1 pair, no interval): no verdict, it takes 5 more"
    assert said in section(toy_page, "answer")
    assert "of a training image: +20.0 % (1 pair, no interval)" in section(toy_page, "noise")
    # Priors: 8.3 s of 13.47 s.
    assert "priors was 61.6 %, 1 seed, no interval (dip, memory)" in section(toy_page, "ledger")
    # Loss 0.2 against 0.25 after 10 epochs, in 12.4 s and 4.8 s.
    said = section(toy_page, "loss")
    assert "0.250 on images in 4.80 s and 0.200 on DIP outputs in 12.4 s (one seed)" in said
    assert "−20.0 % (1 pair of one seed, no interval): no verdict, it takes 5 more pairs" in said
    # All-pairs PSNR of 7.5 and 8.0 dB against a grey square of 7.86.
    assert "6 outcomes: 7.50 to 8.00 dB; 3 of them lie below a flat grey square" in section(
        toy_page, "quality"
    )
    assert "dip, ddim, 5 steps 23.0 dB in 2.11 s" in section(toy_page, "restoration")


def test_restoration_shares_no_table_with_generation(toy_page: str) -> None:
    tables = re.findall(r"<table.*?</table>", toy_page, re.DOTALL)
    assert [t for t in tables if "paired PSNR" in t]
    assert not [t for t in tables if "paired PSNR" in t and ">PSNR, dB<" in t]


def test_a_psnr_of_the_prior_is_computed_from_the_pictures(toy_page: str) -> None:
    # Outputs of 0.4 for pixels of 0.5: 10 log10(4 / 0.01) = 26.0 dB.
    assert "has a mean PSNR of 26.0 dB to its image" in section(toy_page, "pictures")


@pytest.mark.usefixtures("undrawn")
def test_pictures_come_before_quality_when_samples_are_noise(toy_page: str, toy: Path) -> None:
    assert toy_page.index('<section id="pictures">') < toy_page.index('<section id="quality">')
    for path in (toy / records.UNITS).glob(f"*/{records.RECORDS}"):
        path.write_text(
            path.read_text().replace('"lag1_autocorrelation":0.02', '"lag1_autocorrelation":0.9')
        )
    changed = build(toy)
    assert changed.index('<section id="quality">') < changed.index('<section id="pictures">')
    assert "look like noise" not in changed


def test_what_the_run_cannot_show_stands_at_the_top(toy_page: str) -> None:
    assert "What this run can and cannot show. Shows little." in section(toy_page, "answer")


def test_a_section_without_data_names_the_command(toy_page: str) -> None:
    said = "No case with more than one loader in this run. It is made by python -m bench run "
    assert f"{said}loaders-cpu" in section(toy_page, "loaders")


# What is missing or broken ---------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_partial_run_says_what_is_missing_and_its_command(tmp_path: Path) -> None:
    path = toy_run(tmp_path / "toy").finish()
    remove(path, "dip")
    found = build(path)
    resume = f"python -m bench resume {path}"
    assert f"2 outcomes of this run not measured yet; made by {resume}" in html.unescape(
        re.sub("<[^>]*>", "", found)
    )
    assert resume in section(found, "answer")
    assert "train_on = dip" in section(found, "troubles")
    assert "5 outcomes, 5 of them ok, 2 missing" in section(found, "results")


@pytest.mark.usefixtures("undrawn")
def test_priors_that_are_not_there_leave_their_cost_unknown(toy: Path) -> None:
    remove(toy, "priors-train")
    found = build(toy)
    assert "Costs that rest on priors-train are unknown" in found
    # Its arm is in neither figure, as what it took is not known.
    assert "0.250 on images in 4.80 s and 0.200 on DIP outputs in an unknown time" in section(
        found, "loss"
    )
    assert "dip, memory" not in section(found, "loss")
    assert f"It is made by python -m bench resume {toy}" in section(found, "ledger")
    table = load_table(toy).set_index("unit")
    assert table.loc["dip"]["total_seconds"].isna().all()
    assert table.loc["images"]["total_seconds"].notna().all()


def failed(unit: str, **settings: Setting) -> Record:
    of = case(0, 1, **settings)
    return Record(
        case_id=of.case_id,
        repeat=1,
        seed=0,
        unit=unit,
        status="error",
        error=f"broke: {HOSTILE}",
        settings=of.settings,
    )


@pytest.mark.usefixtures("undrawn")
def test_a_record_without_settings_is_a_failure_on_the_page(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    bare = Case(case_id="bare", repeat=1, seed=0, settings={})
    broken = failed("a").model_copy(update={"settings": {}, "case_id": "bare", "status": "ok"})
    folder.unit("a", [row("a", "x", "train_ddpm", 1.0)], [broken], cases=[bare])
    found = build(folder.finish())
    assert "1 failed outcome" in section(found, "troubles")


@pytest.mark.usefixtures("undrawn")
def test_warnings_are_told_once_with_the_range_of_their_numbers(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    rows, found = [], []
    for place, value in enumerate((0.12, -0.02, 0.05)):
        key, of = f"x{place}", case(place)
        rows.append(row("a", key, "train_ddpm", 1.0))
        warnings = (f"noise: autocorrelation is {value:.2f}, below 0.2", "16-bit 1e-3")
        found.append(record("a", [key], key, of).model_copy(update={"warnings": warnings}))
    folder.unit("a", rows, found)
    path = folder.finish()
    plan = path / records.PLAN
    plan.write_text(
        plan.read_text().replace('"images_skipped": []', '"images_skipped": ["a.gif: animated"]')
    )
    said = section(build(path), "troubles")
    assert "noise: autocorrelation is -0.02 to 0.12, below 0.2 (3 outcomes)" in said
    assert "16-bit 1e-3 (3 outcomes)" in said
    assert "Images left out: 1 a.gif: animated" in said


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_failures_is_a_page_of_failures(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    folder.unit("priors", [], status="oom", error="out of memory", log="the last \x1b[1mwords")
    folder.unit("a", [], [failed("a"), failed("a", epochs=10)], status="error", error="broke")
    path = folder.finish()
    found = build(path)
    assert "2 failed outcomes, 0 missing outcomes" in section(found, "troubles")
    assert "priors: oom: out of memory" in section(found, "troubles")
    assert "the last words" in section(found, "troubles")
    assert f"resume {path} --retry-failed" in section(found, "answer")
    table = load_table(path)
    assert table["total_seconds"].isna().all()
    assert table["status"].tolist() == ["error", "error"]


def load_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(page.build(load_run(path))["results.csv"]))


@pytest.mark.usefixtures("undrawn")
def test_an_artifact_that_is_not_what_was_written_is_not_shown(toy: Path) -> None:
    folder = toy / records.UNITS / "priors-train" / records.ARTIFACTS
    path = folder / "fit.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    (folder / "refs.safetensors").unlink()
    found = build(toy)
    said = section(found, "troubles")
    assert "priors-train/artifacts/fit.safetensors (fit_priors): its content is not what" in said
    assert "priors-train/artifacts/refs.safetensors (prepare): No such file" in said
    assert "pictures of the priors are missing or could not be read" in section(found, "pictures")


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_any_artifact_has_a_page(toy: Path) -> None:
    for path in (toy / records.UNITS).glob(f"*/{records.ARTIFACTS}/*"):
        path.unlink()
    found = build(toy)
    assert "<img" not in found
    assert "No such file" in section(found, "troubles")


def remove(path: Path, *units: str) -> None:
    for unit in units:
        shutil.rmtree(path / records.UNITS / unit)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("plan.json", None, "must be a run folder"),
        ("plan.json", "{", "plan.json"),
        ("environment.json", None, "environment.json"),
        ("units/dip/stages.jsonl", '{"key": 1}', "stages.jsonl, line 1: key"),
        ("units/dip/records.jsonl", "", "records.jsonl, line 1"),
        ("units/dip/unit.json", "{}", "unit.json: unit"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    name: str, content: str | None, said: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / name).unlink()
    if content is not None:
        (toy / name).write_text(content + "\n")
    assert_refused(toy, said, capsys)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["report.html", "results.parquet", "results.csv.part"])
def test_a_folder_in_the_place_of_a_file_is_refused_and_nothing_left(
    name: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / name).mkdir()
    assert command.main(["build", str(toy)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert str(toy) in err
    assert err.count("\n") == 1
    assert [path.name for path in toy.glob("re*")] == [name]


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_cannot_be_written_is_refused_and_nothing_left(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if path.name.startswith("results.csv"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert_refused(toy, "cannot be written: Permission denied", capsys)


def test_the_version_is_that_of_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for found, said in (({"dipddpm": "1.2.3"}, "dipddpm 1.2.3"), ({}, "dipddpm unknown")):
        monkeypatch.setattr(importlib.metadata, "version", _versions(found))
        with pytest.raises(SystemExit) as ended:
            command.main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.strip() == said


def _versions(found: dict[str, str]) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    return version


@pytest.mark.usefixtures("undrawn")
def test_the_home_folder_is_not_named(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    plan = toy / records.PLAN
    plan.write_text(
        plan.read_text()
        .replace('"images": "objects"', '"images": "/home/somebody/photos"')
        .replace("bench run toy", "bench run toy --images '/home/somebody/photos'")
    )
    found = section(build(toy), "environment")
    assert "somebody" not in found
    assert "~/photos, SHA-256" in found
    assert "--images '~/photos'" in found
    assert without_home("/home/somebody-else/x /data/home/somebody") == (
        "/home/somebody-else/x /data/home/somebody"
    )


def test_a_run_without_records_is_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = f"no record yet; make some with: python -m bench resume {toy}"
    remove(toy, "dip", "images", "images-again")
    assert_refused(toy, said, capsys)
    shutil.rmtree(toy / "units")
    assert_refused(toy, said, capsys)


def assert_refused(toy: Path, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["build", str(toy)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not list(toy.glob("re*"))


# What it is ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_the_page_last(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy.parent / "runs").mkdir()
    shutil.move(toy, toy.parent / "runs" / "named")
    monkeypatch.chdir(toy.parent)
    assert command.main(["build", "named"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "runs/named/report.html"
    written = {path.name for path in Path("runs/named").glob("*.*") if path.is_file()}
    written -= {records.PLAN, records.ENVIRONMENT}
    assert written == {
        "report.html", "report.md", "results.csv", "results.parquet", "stages.parquet",
        "steps.parquet", "summary.json",
    }  # fmt: skip


def test_the_same_records_give_the_same_bytes_without_torch(tmp_path: Path) -> None:
    toy_run(tmp_path / "toy").finish()
    code = (
        "import sys; from reports.__main__ import main; code = main(['build', 'toy']);"
        "sys.exit(code or 'torch' in sys.modules or 'dipddpm' in sys.modules)"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
        files = [tmp_path / "toy" / name for name in ("report.html", "results.csv")]
        digests.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files))
        for path in files:
            path.unlink()
    assert len(digests) == 1


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run", title=HOSTILE, about=HOSTILE)
    bad = failed("a", train_on=HOSTILE)
    fine = record("a", ["x"], "x", case(), eps_loss=0.5)
    fine = fine.model_copy(update={"warnings": (HOSTILE,)})
    rows = [row("a", "x", "train_ddpm", 1.0)]
    folder.unit("a", rows, [bad, fine], status="error", error=HOSTILE, log=HOSTILE)
    found = build(folder.finish())
    assert "alert(1)" in found
    assert "<script>alert" not in found
    assert "\x1b" not in found
    assert "49</pre>" not in found
    assert found.count("<script>") == 1


class _Links(html.parser.HTMLParser):
    """Every attribute that makes a browser fetch something, every id, every place pointed at."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            given = value or ""
            if name == "id":
                self.ids.append(given)
            if name in ("src", "srcset", "data", "poster", "action"):
                self.fetched.append(given)
            if name in ("href", "xlink:href"):
                self.targets.append(given)
            self.targets += re.findall(r"url\(([^)]*)\)", given)


def test_the_page_asks_no_host_for_anything(toy_page: str) -> None:
    links = _Links()
    links.feed(toy_page)
    assert links.fetched
    assert all(source.startswith("data:image/webp;base64,") for source in links.fetched)
    # All that is pointed at is in the page itself, once.
    assert {target[1:] for target in links.targets} <= set(links.ids)
    assert all(target.startswith("#") for target in links.targets)
    assert len(links.ids) == len(set(links.ids))
    assert not re.search(r"https?://|@import|<link|<iframe|<object", toy_page)
    assert len(toy_page) < 3_000_000


def test_the_policy_admits_the_one_script_by_its_digest(toy_page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", toy_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', toy_page)
    assert policy.startswith("default-src 'none'; img-src data:")
    assert f"script-src 'sha256-{digest}'" in policy


def test_figures_take_the_colours_of_the_page(toy_page: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", toy_page, re.DOTALL))
    assert "var(--ink)" in drawn
    assert "var(--arm-dip)" in drawn
    # Any colour of its own would stay as it is when the page turns dark.
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawn)
    assert "<title" in drawn


# Its parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (0.012345, "0.0123"),
        (1234.5, "1\u202f230"),
        (-2.5, "−2.50"),
        (0.00001234, "1.23e-05"),
        (float("inf"), "inf"),
        (999.9, "1\u202f000"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert words.three(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.00437, "4.37 ms"), (15.08, "15.1 s"), (754.0, "12.6 min"), (0.0, "0 s")],
)
def test_seconds_have_a_unit(value: float | None, text: str) -> None:
    assert words.seconds(value).replace("\xa0", " ") == text


def test_plain_text_keeps_lines_only() -> None:
    assert plain_text("a\x1b[1;31mb\x1b]0;title\x07c\r\nd\x00\x9be") == "abc\nde"


def test_the_published_table_is_whole() -> None:
    rows = publication.published_rows()
    pairs = publication.published_pairs(rows)
    assert (len(rows), len(pairs)) == (14, 6)
    effect = publication.published_effect(pairs)
    assert effect is not None
    # Without DIP over with DIP the publication's six pairs give 1.14, sign-flip p 0.031.
    assert 1 / effect.mean == pytest.approx(1.14, abs=0.005)
    assert effect.p == 2 / 64


def outcome_of(settings: dict[str, Setting]) -> Outcome:
    made = record("a", ["x"], "x", case(0, 1, **settings))
    return Outcome(made, (), frozenset(), frozenset())


def test_only_what_the_publication_had_is_a_replay() -> None:
    replays = [outcome_of(one.settings) for one in suite.load("paper").cases]
    assert len(replays) == 14
    assert all(publication.is_replay(one, "cuda") for one in replays)
    assert not any(publication.is_replay(one, "cpu") for one in replays)
    for name in publication.PUBLISHED_SETTINGS:
        other = outcome_of({**replays[0].settings, name: "another"})
        assert not publication.is_replay(other, "cuda"), name
    assert publication.PUBLISHED_SETTINGS.items() >= PAPER.items() - {("mixed_precision", "fp16")}
    assert not publication.is_replay(
        outcome_of({**replays[0].settings, "num_inference_steps": 20}), "cuda"
    )
    small = [outcome_of(one.settings) for one in suite.load("paper-cpu").cases]
    assert not any(publication.is_replay(one, "cuda") for one in small)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("replayed", "word"), [({"a", "b"}, "Replay:"), ({"a"}, "an analogue")])
def test_a_run_is_a_replay_if_every_row_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: set[str], word: str
) -> None:
    folder = Folder(tmp_path / "run")
    for unit, published in zip(("a", "b"), publication.published_rows()[2:4], strict=True):
        settings: dict[str, Any] = dict(published.settings)
        of = case(**settings, protocol="paper")
        folder.unit(unit, [row(unit, unit, "train_ddpm", 1.0)], [record(unit, [unit], "", of)])
    monkeypatch.setattr(
        "reports.sections.published.is_replay", lambda one, _: one.record.unit in replayed
    )
    assert word in section(build(folder.finish()), "published")


@pytest.mark.usefixtures("undrawn")
def test_a_published_setting_is_found_in_the_run(tmp_path: Path) -> None:
    wanted = publication.published_rows()[2]
    folder = Folder(tmp_path / "run")
    rows = [row("a", "x", "train_ddpm", 1.25)]
    folder.unit(
        "a", rows, [record("a", ["x"], "x", case(0, 1, **wanted.settings), all_pairs_psnr=7.25)]
    )
    found = build(folder.finish())
    assert "Of the 14 published settings this run has 1." in section(found, "published")
    assert "47.8 1.25 6.92 7.25" in section(found, "published")


def test_a_strip_holds_the_pixels_at_a_whole_zoom() -> None:
    made = pictures.strip("two", np.concatenate([images(1, -1.0), images(1, 2.0)]), 1)
    data = base64.b64decode(made.uri.removeprefix("data:image/webp;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (17, 8, 4)
    assert (pixels[:8] == [0, 0, 0, 255]).all()
    assert (pixels[8] == 0).all()
    assert (pixels[9:] == 255).all()
    assert (made.width, made.height, made.narrow) == (96, 17 * 12, 64)


def test_the_nearest_of_what_was_trained_on_is_found_mirrored_too() -> None:
    rng = np.random.default_rng(0)
    trained_on = rng.uniform(-1, 1, (20, 3, 8, 8)).astype(np.float32)
    wanted = np.stack([trained_on[3], trained_on[7][..., ::-1]])
    samples = wanted + rng.normal(0, 0.1, wanted.shape).astype(np.float32)
    assert np.array_equal(nearest(samples, trained_on), wanted)


def test_labels_are_spread_and_keep_their_order() -> None:
    places = [1.0, 1.1, 1.05, 5.0]
    moved = svg.spread(places, 1.0)
    assert sorted(moved) == [moved[0], moved[2], moved[1], moved[3]]
    assert np.diff(sorted(moved)).min() >= 1 - 1e-9
    assert sum(moved[:3]) == pytest.approx(sum(places[:3]))
    assert moved[3] == 5.0


def test_a_figure_is_the_same_each_time_and_its_text_is_escaped() -> None:
    rows = [ForestRow("<b>label</b>", [1.1, 0.9], None, "dip")]
    drawn = [
        svg.render("name", "A <title>", lambda width: plots.forest(rows, "ratio", width))
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert "A &lt;title&gt;" in drawn[0]
    assert "<b>" not in drawn[0]
