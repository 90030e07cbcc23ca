"""Effects in the cells of a table lie where they belong."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from bench.stats import Effect, Pair, paired_difference, paired_ratio
from reports.figures.rows import effect_row

MIDDLE = 66.0


def ratio(*others: float) -> Effect:
    effect = paired_ratio(
        Pair(1.0, other, frozenset({f"{place}"})) for place, other in enumerate(others)
    )
    assert effect is not None
    return effect


def drawn(svg: str) -> dict[str, list[float]]:
    """x of the dot, of the hollow mark, of the ends of the interval and of the band."""
    root = ET.fromstring(svg)
    found: dict[str, list[float]] = {"dot": [], "hollow": [], "interval": [], "band": []}
    for one in root.iter():
        if one.tag == "circle":
            name = "hollow" if one.get("fill") == "none" else "dot"
            found[name].append(float(one.get("cx", "nan")))
        elif one.tag == "rect":
            left, width = float(one.get("x", "nan")), float(one.get("width", "nan"))
            found["band"] += [left, left + width]
        elif one.tag == "path" and "H" in one.get("d", ""):
            match = re.fullmatch(r"M([\d.]+) 10H([\d.]+)", one.get("d", ""))
            assert match is not None
            found["interval"] += map(float, match.groups())
    return found


@pytest.mark.parametrize("others", [(1.1, 1.2, 1.15), (0.9, 0.8, 0.85), (1.01, 0.99, 1.0)])
def test_everything_lies_on_one_axis_around_no_effect(others: tuple[float, ...]) -> None:
    effect, published = ratio(*others), ratio(0.7)
    found = drawn(effect_row(effect, 0.02, published, "", "some"))
    assert effect.low is not None and effect.high is not None
    [hollow], [dot] = found["hollow"], found["dot"]
    # The scale, from the hollow mark, which only the interval of the first lies beyond.
    per_unit = (hollow - MIDDLE) / math.log(0.7)
    assert per_unit > 0
    expected = {
        "dot": [effect.mean],
        "interval": [effect.low, effect.high],
        "band": [1 / 1.02, 1.02],
    }
    for name, values in expected.items():
        places = [MIDDLE + per_unit * math.log(value) for value in values]
        assert found[name] == pytest.approx(places, abs=0.16)
    assert dot != hollow
    everything = [x for some in found.values() for x in some]
    assert min(everything) > 0 and max(everything) < 2 * MIDDLE


def test_a_difference_has_its_unit_and_what_is_not_known_is_not_drawn() -> None:
    effect = paired_difference([Pair(20.0, 20.5, frozenset({"a"}))])
    assert effect is not None
    svg = effect_row(effect, None, None, "dB", "a <title>")
    found = drawn(svg)
    assert found["interval"] == found["hollow"] == []
    assert found["band"] == []
    assert found["dot"] == [pytest.approx(MIDDLE + 0.9 * MIDDLE, abs=0.1)]
    assert "0.556\N{NO-BREAK SPACE}dB" in svg  # the end of the axis, of which it lies at 0.9
    assert "a &lt;title&gt;" in svg


def test_no_effect_at_all_lies_in_the_middle() -> None:
    found = drawn(effect_row(ratio(1.0, 1.0, 1.0), None, None, "", ""))
    assert found["dot"] == [MIDDLE]
    assert found["interval"] == [MIDDLE, MIDDLE]
