"""Settings that tell cases apart, against looking at all of them."""

from __future__ import annotations

import itertools
import random

from bench.apart import telling
from bench.records import Setting


def test_it_tells_what_takes_to_tell_apart_and_no_more() -> None:
    draw = random.Random(3)
    for _ in range(200):
        names = "abcdef"
        found = [{name: draw.choice((0, 1, None)) for name in names} for _ in range(5)]
        told = telling(found, ["a"])
        for one, other in itertools.combinations(found, 2):
            alike = all(one[name] == other[name] for name in ("a", *told))
            assert alike == (one == other)
        # Each was needed when it was its turn.
        for place, name in enumerate(told):
            before = ("a", *told[:place])
            assert any(
                one[name] != other[name] and all(one[n] == other[n] for n in before)
                for one, other in itertools.combinations(found, 2)
            )


def test_of_settings_that_differ_together_one_is_told() -> None:
    found: list[dict[str, Setting]] = [
        {"a": 1, "b": 2, "c": (3,)},
        {"a": 1, "b": 3, "c": (4, 5)},
    ]
    assert telling(found, ["a"]) == ["b"]
    assert telling(found, ["b"]) == []
    assert telling(found, ["a"], {"b"}) == ["c"]
    assert telling(found, ["a"], first=["c"]) == ["c"]
    assert telling([], ["a"]) == []
