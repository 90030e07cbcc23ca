"""The pages of comparisons and histories, from what is stored of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.commits.records import Comparison, History, read
from reports import commits, history
from reports.__main__ import main

HOSTILE = "<script>alert(1)</script> | `x` \x1b[31m"


def effect(word: str, ratio: float, half: float = 0.02) -> dict[str, Any]:
    few = word == "too few rounds"
    return {
        "word": word, "rounds": 2, "ratio": ratio, "confidence": 0.999,
        "low": None if few else ratio * math.exp(-half),
        "high": None if few else ratio * math.exp(half),
        "visible": None if few else half, "more": 3 if word == "not distinguishable" else 0,
    }  # fmt: skip


def benchmark(name: str, word: str, ratio: float, **more: Any) -> dict[str, Any]:
    same = {"base": 100, "head": 100}
    sides = ["base", "head", "head", "base", "head", "base", "base", "head"]
    return {
        "name": f"bench/test_training.py::test_{name}", "effect": effect(word, ratio),
        "floor": effect("equal", 1.001), "withheld": False, "flops": same, "peak_bytes": same,
        "sides": sides, "seconds": [ratio if side == "head" else 1.0 for side in sides],
    } | more  # fmt: skip


def tree(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "commit": name[0] * 40, "subject": f"of {name} {HOSTILE}", "changes": [],
        "sha256": name, "versions": "torch 2",
    } | more  # fmt: skip


def comparison(**more: Any) -> Comparison:
    content = {
        "command": "python -m bench.commits compare main", "started": "2026-01-02T03:04:05",
        "seconds": 90.0, "base": tree("base"), "head": tree("head"), "harness_sha256": "h",
        "device": "some CPU", "environment": "this environment for both", "equal_within": 0.05,
        "least": 0.01, "new": [], "removed": [], "failing": [], "stopped": "", "regressions": [],
        "benchmarks": [
            benchmark("equal", "equal", 1.002),
            benchmark("slow", "slower", 1.25),
            benchmark("fast", "faster", 0.8),
            benchmark("unclear", "not distinguishable", 1.03),
        ],
    } | more  # fmt: skip
    return Comparison.model_validate_json(json.dumps(content))


def page_and_text(found: Comparison) -> tuple[str, str]:
    files = commits.build(found)
    assert files == commits.build(found)  # the same bytes
    return files["compare.html"].decode(), files["compare.md"].decode()


def test_the_answer_counts_words_and_tells_regressions() -> None:
    line = "bench/test_training.py::test_slow: slower by 25.0%"
    html, text = page_and_text(comparison(regressions=[line]))
    answer = (
        "1 regression: of 4 benchmarks 1 slower, 1 faster, 1 equal within 5%, 1 not distinguishable"
    )
    for document in (html, text):
        assert answer in document
        assert "training: slow: slower by 25.0%" in document
    assert "No regression: of 4 benchmarks" in page_and_text(comparison())[0]
    # In the text what changed stands open, the rest folded.
    before, folded = text.split("<details>")
    assert "| training: slow |" in before and "| training: fast |" in before
    assert "| training: equal |" in folded and "| training: unclear |" in folded


def test_a_benchmark_whose_head_differs_from_itself_has_no_word() -> None:
    floor = effect("slower", 1.2)
    one = benchmark("slow", "slower", 1.25, floor=floor, withheld=True)
    html, text = page_and_text(comparison(benchmarks=[one]))
    assert "of 1 benchmark 1 withheld" in text
    assert "No word stands on the times of training: slow." in html


def test_what_is_counted_is_told_exactly() -> None:
    more = benchmark("more", "equal", 1.0, peak_bytes={"base": 100, "head": 150})
    unknown = benchmark("unknown", "equal", 1.0, flops={"base": None, "head": 3})
    html, text = page_and_text(comparison(benchmarks=[more, unknown]))
    assert "1 benchmark with another number of operations or bytes." in html
    assert "Of 1 benchmark they differ from try to try" in html
    assert "+50.0" in text.split("<details>")[0]
    html, _ = page_and_text(comparison())
    assert "Operations and bytes are the same, benchmark by benchmark." in html


def test_what_bears_on_all_stands_at_the_top() -> None:
    found = comparison(
        head=tree("head", sha256="base", changes=["dipddpm/a.py"]), stopped="the time was up",
        new=[{"name": "bench/test_a.py", "why": HOSTILE}], removed=["bench/test_b.py::test_c"],
    )  # fmt: skip
    html, text = page_and_text(found)
    for line in (
        "Both sides are the same library, file by file",
        "Head has 1 file that no commit holds.",
        "1 benchmark of 4 not decided: the time was up.",
    ):
        assert line in html and line in text
    assert "1 new, 1 removed, 0 failing" in html
    assert "dipddpm/a.py" in html


def test_text_from_outside_is_text() -> None:
    for document in page_and_text(comparison()):
        assert "<script>alert" not in document
        assert "\x1b" not in document


def test_too_few_rounds_have_neither_interval_nor_word() -> None:
    one = benchmark("short", "too few rounds", 1.1)
    html, text = page_and_text(comparison(benchmarks=[one], stopped="the time was up"))
    assert "of 1 benchmark 1 too few rounds" in text
    assert "| training: short | +10.0 % | – | too few rounds | – |" in text.replace("\xa0", " ")
    assert "<svg" in html


def test_a_figure_of_many_says_that_it_has_not_all() -> None:
    many = [benchmark(f"number{i}", "equal", 1.0) for i in range(75)]
    html, _ = page_and_text(comparison(benchmarks=many))
    assert "Drawn are 60 of 75; the table below has all." in html
    assert "training: number74" in html


def line(name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": f"bench/test_training.py::test_{name}", "seconds": [0.1, None, 0.2],
        "errors": [0.01, 0, 0.01], "steps": steps,
    }  # fmt: skip


HISTORY = {
    "command": "python -m bench.commits history a..c", "device": "some CPU", "processes": 6,
    "commits": [
        {"commit": "a" * 40, "subject": "first"},
        {"commit": "b" * 40, "subject": "", "why": "commit bbbbbbbbb has no dipddpm"},
        {"commit": "c" * 40, "subject": f"third {HOSTILE}"},
    ],
    "lines": [line("flat", []), line("slow", [{"commit": "c" * 40, "ratio": 2.0}])],
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"commits": []}, "commits: Tuple should have at least 1 item"),
        ({"lines": [line("x", []) | {"seconds": [1.0]}]}, "must have a value for each commit"),
        ({"lines": [line("x", []) | {"seconds": [None] * 3}]}, "must have values"),
        (
            {"lines": [line("x", [{"commit": "d", "ratio": 2.0}])]},
            "steps at commits that are there",
        ),
    ],
)
def test_a_history_that_does_not_fit_is_told(
    more: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.json"
    path.write_text(json.dumps(HISTORY | more))
    assert main(["history", str(path)]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1


def test_a_history_names_steps_and_what_was_left_out() -> None:
    files = history.build(History.model_validate_json(json.dumps(HISTORY)))
    html = files["history.html"].decode()
    assert "1 step at 1 commit; the largest is +100" in html
    assert "bbbbbbbbb is not measured: commit bbbbbbbbb has no dipddpm" in html
    assert html.index("history-bench-test-training-py--test-slow") < html.index("test-flat-wide")
    assert "<script>alert" not in html
    without = HISTORY | {"lines": [line("flat", [])]}
    html = history.build(History.model_validate_json(json.dumps(without)))["history.html"].decode()
    assert "No step in 1 benchmark." in html


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        ("{", "content: Invalid JSON"),
        ('{"version": 2}', "version: Input should be 1"),
        (comparison().model_dump_json().replace('"ratio":1.25', '"ratio":-1'),
         "benchmarks.1.effect.ratio: Input should be greater than 0"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_told_in_a_line(
    content: str | None, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "compare.json"
    if content is not None:
        path.write_text(content)
    assert main(["commits", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"{path}: " in said and text in said
    assert len(said.splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ([] if content is None else ["compare.json"])


def test_the_command_writes_beside_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "compare.json"
    path.write_text(comparison().model_dump_json())
    assert read(path, Comparison) == comparison()
    assert main(["commits", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "compare.html")
    assert (tmp_path / "compare.md").read_text(encoding="utf-8").startswith("### hhhhhhhhh beside")
