"""Effects small enough for the cell of a table."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from bench.stats import CONFIDENCE, Effect
from reports.words import NO_BREAK, three, times

# CSS pixels: of the axis, from one end to the other, and of the words for its end.
_AXIS, _WORDS, _HEIGHT = 132, 46, 20
# The farthest that is drawn lies so far from the middle of the half axis that it has.
_REACH = 0.9


def effect_row(
    effect: Effect, margin: float | None, published: Effect | None, unit: str, title: str
) -> Markup:
    """A dot with its 95 % interval on an axis of its own, no effect in the middle.

    margin: in the unit of the effect, of a ratio 0.02 is 2 %; a grey band
    published: a hollow mark
    unit: of a difference
    """
    middle, height = _AXIS / 2, _HEIGHT / 2
    ends = effect.distances(CONFIDENCE)
    band = 0.0 if margin is None else math.log1p(margin) if effect.is_ratio else margin
    theirs = None if published is None else published.distance
    farthest = max(map(abs, [effect.distance, *(ends or ()), 1.5 * band, theirs or 0.0])) or 1.0
    per_unit = _REACH * middle / farthest

    def x(distance: float) -> str:
        return f"{middle + distance * per_unit:.1f}"

    last = farthest / _REACH
    end = times(math.exp(last)) if effect.is_ratio else f"{three(last)}{NO_BREAK}{unit}"
    parts = []
    if band:
        parts.append(
            f'<rect x="{x(-band)}" y="2" width="{2 * band * per_unit:.1f}" '
            f'height="{_HEIGHT - 4}" fill="var(--hair)"/>'
        )
    parts += [
        f'<path d="M{middle:g} 1V{_HEIGHT - 1}" stroke="var(--muted)"/>',
    ]
    if ends is not None:
        parts.append(
            f'<path d="M{x(ends[0])} {height:g}H{x(ends[1])}" stroke="currentColor" '
            'stroke-width="2"/>'
        )
    if theirs is not None:
        parts.append(
            f'<circle cx="{x(theirs)}" cy="{height:g}" r="4" fill="none" '
            'stroke="var(--arm-dip)" stroke-width="1.5"/>'
        )
    parts += [
        f'<circle cx="{x(effect.distance)}" cy="{height:g}" r="3.5" fill="currentColor"/>',
        f'<text x="{_AXIS + 2}" y="{height + 3.5:g}" font-size="10" fill="var(--muted)">'
        f"{escape(end)}</text>",
    ]
    return Markup(
        f'<svg class="row" viewBox="0 0 {_AXIS + _WORDS} {_HEIGHT}" width="{_AXIS + _WORDS}" '
        f'height="{_HEIGHT}" role="img"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
