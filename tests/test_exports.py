"""What others read of a run is what is in it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from reports import exports, page
from reports.load import load_run
from tests.test_report_tables import arms_run, toy_run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Six pairs of equal seconds; on DIP outputs the loss is a tenth higher."""
    given = [
        ({"train_on": train_on, "seed": seed, "repeat": repeat}, 2.0 + seed, 0.5 * factor)
        for seed in range(6)
        for train_on, repeat, factor in (("images", 1, 1.0), ("images", 2, 1.0), ("dip", 1, 1.1))
    ]
    return arms_run(tmp_path / "run", *given)


def tables(files: dict[str, bytes]) -> dict[str, pd.DataFrame]:
    return {
        name: pd.read_parquet(io.BytesIO(content))
        for name, content in files.items()
        if name.endswith(".parquet")
    }


def test_every_row_and_every_step_is_there(run: Path) -> None:
    loaded = load_run(run)
    found = tables(page.build(loaded))
    stages, steps = found["stages.parquet"], found["steps.parquet"]
    assert list(stages.key) == [row.key for row in loaded.rows]
    assert stages.seconds.sum() == pytest.approx(sum(row.seconds or 0.0 for row in loaded.rows))
    assert stages.seconds.isna().sum() == sum(row.seconds is None for row in loaded.rows) > 0
    assert len(steps) == sum(len(row.step_seconds) for row in loaded.rows)
    by_key = steps.groupby(["unit", "key"]).seconds.sum()
    for row in loaded.rows:
        if row.step_seconds:
            assert by_key[row.unit, row.key] == pytest.approx(sum(row.step_seconds))
    trained = steps[steps.function == "train_ddpm"]
    assert (trained.data_wait_seconds > 0).all()
    assert trained.groupby(["unit", "key"]).step.max().unique().tolist() == [3]


def test_the_summary_tells_each_claim_as_the_page_does(run: Path) -> None:
    content = json.loads(page.build(load_run(run))["summary.json"])
    assert content["suite"] == "toy" and content["device"] == "cpu"
    claims = {(one["claim"], one["protocol"]): one for one in content["claims"]}
    assert len(claims) == 16
    time = claims[2, "corrected"]
    assert (time["verdict"], time["scope"]) == ("equal", "analogue")
    assert time["effect"]["mean"] == pytest.approx(1.0)
    assert time["effect"]["kind"] == "ratio" and time["effect"]["pairs"] == 6
    assert claims[2, "paper"]["verdict"] == "not measured"
    assert claims[2, "paper"]["effect"] is None
    assert claims[2, "corrected"]["contrast"] == "DIP outputs against images"


def test_the_text_for_a_pull_request_is_plain(run: Path, tmp_path: Path) -> None:
    said = page.build(load_run(run))["report.md"].decode()
    assert (
        "| 2. With DIP a DDPM trains in less time at equal settings. | corrected | equal |" in said
    )
    assert "**Verdicts on the claims.** Measured of the eight claims: " in said
    assert "Restoration" not in said  # of which there is none
    hostile = toy_run(tmp_path / "toy", title="<img src=x> | `a` [b](javascript:c)\n# d").finish()
    head = page.build(load_run(hostile))["report.md"].decode().splitlines()[0]
    assert head == r"# \<img src=x\> \| `a` \[b\](javascript:c) \# d"
    # Commands are code, and a name with underscores is as it is.
    assert exports.literal("`bench run x_y` a_name _b_ `|` *c*") == (
        r"`bench run x_y` a_name \_b\_ `\|` \*c\*"
    )
    assert exports.literal("one ` alone <b>") == r"one \` alone \<b\>"


def test_text_is_the_same_for_the_same_records(run: Path) -> None:
    first, second = page.build(load_run(run)), page.build(load_run(run))
    for name in ("report.html", "report.md", "summary.json", "results.csv"):
        assert first[name] == second[name]


def test_the_lines_of_the_readme_read_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page.write(run, page.build(load_run(run)))
    monkeypatch.chdir(run)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"`(pd\..*?)` \|$", readme, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        if "contests.parquet" not in line:  # of which this run has none
            assert len(eval(line, {"pd": pd, "json": json, "Path": Path}))
