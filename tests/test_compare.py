"""What a comparison says of benchmarks that one side, or both, cannot run, and of counts."""

from __future__ import annotations

import pytest

from bench.commits.compare import Limit, Wish, _alone, _counted
from bench.commits.decide import Margins
from bench.commits.records import Counted, Missing, SideName
from bench.commits.rounds import Found, Series


def test_what_one_side_alone_cannot_run() -> None:
    """A file that cannot be imported stands for all that is in it."""
    found = Found(Margins())
    found.failed = {
        "base": {"a.py": "no module", "b.py::one": "too old", "c.py::both": "no device"},
        "head": {"a.py::two": "broken", "c.py::both": "no device", "d.py::three": "broken"},
    }
    assert _alone(found, "base") == (
        Missing(name="a.py", why="no module"),
        Missing(name="b.py::one", why="too old"),
    )
    # Of a.py::two base could not tell either.
    assert _alone(found, "head") == (Missing(name="d.py::three", why="broken"),)


@pytest.mark.parametrize(
    ("base", "head", "flops", "peak"),
    [
        ([(10, 20)], [(10, 30)], (10, 10), (20, 30)),
        ([(10, 20), (10, 21)], [(10, 30), (10, 30)], (10, 10), (None, 30)),
        ([], [], (None, None), (None, None)),
    ],
)
def test_counts_are_those_that_the_processes_of_a_side_agree_on(
    base: list[tuple[int, int]],
    head: list[tuple[int, int]],
    flops: tuple[int | None, int | None],
    peak: tuple[int | None, int | None],
) -> None:
    counted: dict[SideName, list[tuple[int | None, int | None]]] = {
        "base": list(base), "head": list(head),
    }  # fmt: skip
    assert _counted(Series(counted=counted)) == (
        Counted(base=flops[0], head=flops[1]),
        Counted(base=peak[0], head=peak[1]),
    )


def test_the_last_limit_that_fits_holds() -> None:
    wish = Wish(limits=[Limit(0.1), Limit(0.5, "loader"), Limit(0.2, "list")])
    assert [wish.limit(name) for name in ("step", "loader[memory]", "loader[list]")] == [
        0.1, 0.5, 0.2,
    ]  # fmt: skip
    assert Wish().limit("step") == 0
