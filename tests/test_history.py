"""Steps in a history, its file, and the search by halves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bench.commits.bisect import first_slower
from bench.commits.history import PROCESSES, Row, Store, lines_of, steps_in
from bench.commits.replicate import Measured
from bench.errors import UserError


def series(draw: np.random.Generator, commits: int, spread: float) -> list[list[float]]:
    return [draw.normal(0, spread, PROCESSES).tolist() for _ in range(commits)]


@pytest.mark.parametrize("commits", [5, 12, 40])
def test_few_series_without_a_step_have_one(commits: int) -> None:
    """At most 5 of 100; of 200 more than 20 would then be one chance in five hundred."""
    assert stats.binom.sf(20, 200, 0.05) < 1 / 500
    draw = np.random.default_rng(0)
    found = sum(bool(steps_in(series(draw, commits, 0.03))) for _ in range(200))
    assert found <= 20


def test_a_step_is_found_where_it_is() -> None:
    draw, right = np.random.default_rng(1), 0
    for _ in range(100):
        logs = series(draw, 12, 0.03)
        place = int(draw.integers(2, 11))
        logs = [[v + math.log(1.1) * (i >= place) for v in some] for i, some in enumerate(logs)]
        steps = steps_in(logs)
        right += len(steps) == 1 and steps[0][0] == place
    assert right >= 90


def test_two_steps_are_two() -> None:
    draw = np.random.default_rng(2)
    logs = series(draw, 12, 0.01)
    moved = [[v + 0.2 * (4 <= i < 9) for v in some] for i, some in enumerate(logs)]
    steps = steps_in(moved)
    assert [place for place, _ in steps] == [4, 9]
    assert [ratio for _, ratio in steps] == pytest.approx([1.22, 1 / 1.22], rel=0.02)


def test_commits_without_values_are_passed_over() -> None:
    logs = [[0.0] * 4, [], [0.0] * 4, [], [1.0] * 4, [1.0] * 4]
    ((place, ratio),) = steps_in(logs)
    assert place == 4 and ratio == pytest.approx(math.e)
    assert steps_in([[], [0.0] * 4, []]) == []
    assert steps_in([[0.0], [1.0], [1.0]]) == []  # one process tells no spread


def row(seconds: float, **more: object) -> Row:
    content = {
        "library": "a", "harness": "h", "device": "cpu", "failed": {},
        "measured": {"bench/test_x.py::test_y": Measured(seconds=seconds, rounds=1)},
    }  # fmt: skip
    return Row.model_validate(content | more)


def test_means_are_geometric_and_errors_are_of_the_spread_within_commits() -> None:
    rows = [[row(1.0), row(4.0)], [], [row(9.0), row(9.0)]]
    (line,) = lines_of(["a", "b", "c"], rows)
    assert line.seconds[1] is None
    assert line.seconds[::2] == pytest.approx((2, 9))
    # Variances ln(2)^2 * 2 and 0 within two commits of two values.
    spread = math.sqrt((2 * math.log(2) ** 2 + 0) / 2)
    error = spread / math.sqrt(2)
    assert line.errors == pytest.approx((error, 0, error))


def test_a_store_keeps_rows_and_drops_what_a_killed_process_left(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "history.jsonl")
    assert store.rows() == []
    store.add(row(1.0))
    with store.path.open("a") as stream:
        stream.write('{"version": 1, "libr')
    assert store.rows() == [row(1.0)]
    store.add(row(2.0))
    assert store.rows() == [row(1.0), row(2.0)]


def test_a_broken_line_of_a_store_is_told(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(row(1.0).model_dump_json() + "\n" + '{"version": 2}\n')
    with pytest.raises(UserError, match=r"history\.jsonl, line 2: version: "):
        Store(path).rows()


@pytest.mark.parametrize("count", [2, 3, 4, 9, 40])
@pytest.mark.parametrize("share_skipped", [0.0, 0.3, 1.0])
def test_the_search_by_halves_finds_what_looking_at_all_finds(
    count: int, share_skipped: float
) -> None:
    draw = np.random.default_rng(count)
    commits = [f"c{i}" for i in range(count)]
    for first in range(1, count):
        skipped = {c for c in commits[1:-1] if draw.random() < share_skipped}
        asked: list[str] = []

        def state(
            commit: str, first: int = first, skipped: set[str] = skipped, asked: list[str] = asked
        ) -> str:
            asked.append(commit)
            if commit in skipped:
                return "skipped"
            return "slower" if int(commit[1:]) >= first else "as before"

        suspects = first_slower(commits, state)  # type: ignore[arg-type]
        # The first that is known to be slower, and before it those of which nothing is known.
        known = [c for c in commits if c not in skipped]
        last = next(c for c in known if int(c[1:]) >= first)
        before = [c for c in known if int(c[1:]) < first][-1]
        assert list(suspects) == commits[int(before[1:]) + 1 : int(last[1:]) + 1]
        assert f"c{first}" in suspects
        assert len(asked) == len(set(asked))
        if not skipped:
            assert len(asked) <= math.ceil(math.log2(count))
