"""Runs side by side: planted changes come out, and what is of something else is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import records
from reports.__main__ import main
from reports.compare import build
from reports.load import load_run
from tests.test_report_figures import text
from tests.test_report_tables import arms_run


def made(folder: Path, *, dip: float = 1.0, loss: float = 1.0, seeds: int = 4) -> Path:
    """Both arms, a seed a second slower than the one before; dip, loss: factors."""
    return arms_run(
        folder,
        *[
            (
                {"train_on": arm, "seed": seed, "repeat": 1},
                (2.0 + seed) * (dip if arm == "dip" else 1.0),
                0.5 * loss,
            )
            for seed in range(seeds)
            for arm in ("images", "dip")
        ],
    )


def changed(folder: Path, name: str, kind: Any, **changes: Any) -> None:
    path = folder / name
    records.write(path, records.read(path, kind).model_copy(update=changes))


def table_of(*folders: Path) -> Any:  # pandas-stubs know no cell of it
    files = build([load_run(folder) for folder in folders], "some command")
    return pd.read_csv(io.BytesIO(files["comparison.csv"]))


def test_a_planted_change_comes_out_where_it_was_planted(tmp_path: Path) -> None:
    first, other = made(tmp_path / "a"), made(tmp_path / "b", dip=1.25, loss=1.1)
    found = table_of(first, other)
    assert set(found["first"]) == {"a"} and set(found["other"]) == {"b"}
    whole = found[found.setting == "all that both have"].set_index("quantity")
    time = whole.loc["training seconds an image"]
    # Of eight training runs, the half of them a quarter slower: in logarithms the half of that.
    assert time.effect == pytest.approx(1.25**0.5) and time.kind == "ratio"
    assert time.replicates == 8 and time.low < time.effect < time.high
    loss = whole.loc["held-out loss"]
    assert loss.effect == pytest.approx(1.1) and loss.replicates == 4
    assert whole.loc["total seconds"].mean_of_other > whole.loc["total seconds"].mean_of_first
    apart = found[found.quantity == "training seconds an image"]
    by_arm = {
        row.setting: row.effect for row in apart.itertuples() if "train_on" in str(row.setting)
    }
    assert len(by_arm) == 4  # two arms after each of two milestones
    for setting, effect in by_arm.items():
        assert effect == pytest.approx(1.25 if "train_on = dip" in str(setting) else 1.0)


def test_only_what_both_have_is_compared_and_the_rest_is_counted(tmp_path: Path) -> None:
    first, other = made(tmp_path / "a", seeds=4), made(tmp_path / "b", seeds=3)
    page = build([load_run(first), load_run(other)], "c")["comparison.html"].decode()
    assert "12 outcomes of equal settings and seed; 4 only in a, 0 only in b" in text(page)
    found = table_of(first, other)
    whole = found[found.setting == "all that both have"].set_index("quantity")
    assert (whole.effect == 1.0).sum() == len(whole[whole.kind == "ratio"])
    assert (whole[whole.kind == "difference"].effect == 0.0).all()
    # Images have no priors.
    assert whole.pairs["priors' seconds"] == 6
    assert (whole.pairs.drop("priors' seconds") == 12).all()


def test_what_outcomes_share_is_one_measurement(tmp_path: Path) -> None:
    """All fits come from one process: a change of theirs has been seen once."""
    found = table_of(made(tmp_path / "a"), made(tmp_path / "b"))
    whole = found[found.setting == "all that both have"].set_index("quantity")
    assert whole.replicates["priors' seconds"] == 1
    assert pd.isna(whole.low["priors' seconds"])
    # The total rests on them for DIP outputs, and on a process of its own for images.
    assert whole.replicates["total seconds"] == 4 + 1
    assert whole.replicates["training seconds an image"] == 8


def test_means_are_over_what_both_have(tmp_path: Path) -> None:
    """Seeds take 2, 3, 4, ... seconds: the first run beside fewer of them is quicker."""
    folders = [made(tmp_path / name, seeds=seeds) for name, seeds in (("a", 4), ("b", 1), ("c", 4))]
    found = table_of(*folders)
    apart = found[found.setting == "all that both have"].set_index(["other", "quantity"])
    few, many = (
        apart.loc[(name, "training seconds an image")].mean_of_first for name in ("b", "c")
    )
    assert few < many
    for name in ("b", "c"):
        row = apart.loc[(name, "training seconds an image")]
        assert row.mean_of_other / row.mean_of_first == pytest.approx(row.effect)


def test_runs_of_different_versions_are_matched_by_what_both_know(tmp_path: Path) -> None:
    first, other = made(tmp_path / "a"), made(tmp_path / "b")
    for path in other.glob("units/*/records.jsonl"):
        known = records.read_lines(path, records.Record)
        path.unlink()
        records.append(
            path,
            [
                one.model_copy(update={"settings": {**one.settings, "a_new_one": 3}})
                for one in known
            ],
        )
    assert (table_of(first, other).pairs > 0).all()


def test_three_runs_stand_beside_the_first(tmp_path: Path) -> None:
    folders = [made(tmp_path / name, dip=dip) for name, dip in (("a", 1.0), ("b", 1.5), ("c", 0.5))]
    found = table_of(*folders)
    whole = found[(found.setting == "all that both have")].set_index(["other", "quantity"])
    assert whole.loc[("b", "training seconds an image")].effect == pytest.approx(1.5**0.5)
    assert whole.loc[("c", "training seconds an image")].effect == pytest.approx(0.5**0.5)
    page = build([load_run(folder) for folder in folders], "c")["comparison.html"].decode()
    assert "change, b" in page and "change, c" in page


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ((records.ENVIRONMENT, records.Environment, {"device_name": "another"}), "devices"),
        ((records.PLAN, records.Plan, {"images_sha256": "f" * 64}), "images"),
        (None, "protocols"),
    ],
)
def test_runs_of_something_else_are_refused_unless_asked_for(
    tmp_path: Path, change: Any, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = made(tmp_path / "a"), made(tmp_path / "b")
    if change is None:
        other = arms_run(
            tmp_path / "paper", ({"train_on": "images", "protocol": "paper"}, 1.0, 0.5)
        )
    else:
        name, kind, changes = change
        changed(other, name, kind, **changes)
    assert main(["compare", str(first), str(other)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert f"differ in their {word}: " in said.err and "--across" in said.err
    assert not (other / "comparison.html").exists()
    assert main(["compare", str(first), str(other), "--across"]) == 0
    assert capsys.readouterr().out.strip() == str(other / "comparison.html")
    page = (other / "comparison.html").read_text(encoding="utf-8")
    assert f"differ in their {word}" in text(page)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = made(tmp_path / "a")
    for arguments, said in (
        ([str(first), str(tmp_path / "none")], "none"),
        ([str(first), str(first)], "different runs"),
        ([str(first), str(made(tmp_path / "b")), "--out", str(first / records.PLAN)], "--out"),
    ):
        assert main(["compare", *arguments]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_the_same_runs_give_the_same_bytes_and_facts_that_differ_are_told(tmp_path: Path) -> None:
    runs = [load_run(made(tmp_path / name)) for name in "ab"]
    assert build(runs, "c") == build(runs, "c")
    changed(tmp_path / "b", records.ENVIRONMENT, records.Environment, python="3.99.0")
    page = build([load_run(tmp_path / name) for name in "ab"], "c")["comparison.html"].decode()
    assert "3.99.0" in page
