"""Figures in words: three significant digits, a unit, and how much stands behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from bench.stats import Effect

NO_BREAK, NARROW_SPACE = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"


def three(value: float) -> str:
    """Three significant digits, without an exponent between 0.0001 and 10 million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(value)))
    # Rounding may carry into a new digit: 9.999 is 10.0, not 10.00.
    digits = 2 - math.floor(math.log10(abs(round(value, digits))))
    text = f"{round(value, digits):,.{max(0, digits)}f}"
    return text.replace(",", NARROW_SPACE).replace("-", "\N{MINUS SIGN}")


def seconds(value: float | None) -> str:
    """0.00437 -> 4.37 ms, 15.08 -> 15.1 s, 754 -> 12.6 min; an unknown is a dash."""
    if value is None:
        return "–"
    if abs(value) >= 600:
        return f"{three(value / 60)}{NO_BREAK}min"
    return (
        f"{three(value)}{NO_BREAK}s"
        if abs(value) >= 1 or value == 0
        else f"{three(value * 1000)}{NO_BREAK}ms"
    )


def number(value: float | None) -> str:
    """As `three`; an unknown is a dash."""
    return "–" if value is None else three(value)


def times(ratio: float) -> str:
    """1.14×; near 1, where the information is behind the point, with one digit more: 1.017×."""
    return f"{ratio:.3f}×" if 0.9 <= ratio < 1.1 else f"{three(ratio)}×"


def percent(share: float) -> str:
    """0.0689 -> 6.89 %."""
    return f"{three(100 * share)}{NO_BREAK}%"


def signed_percent(ratio: float) -> str:
    """A ratio as a change: 1.12 -> +12.0 %."""
    change = 100 * (ratio - 1)
    return f"{'+' if change > 0 else ''}{three(change)}{NO_BREAK}%"


def change(effect: Effect, more: str, less: str, *, of_seeds: bool = False) -> str:
    """A ratio as a change in words: 12.0 % longer (7 pairs, 95 % interval +8.10 % to +16.0 %).

    An interval on both sides of no change is said to be so.
    """
    said = f"{percent(abs(effect.mean - 1))} {more if effect.mean >= 1 else less}"
    said += f" ({_rests_on(effect, signed_percent, of_seeds=of_seeds)})"
    unclear = effect.low is not None and effect.high is not None and effect.low < 1 < effect.high
    return f"{said}, which this run cannot tell from no change" if unclear else said


def half_width(effect: Effect) -> str | None:
    """Half the interval of a ratio, on the logarithmic scale that it is symmetric on: ±3.70 %."""
    if effect.low is None or effect.high is None:
        return None
    return f"±{percent(math.sqrt(effect.high / effect.low) - 1)}"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """1 pair, 2 pairs."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or f'{noun}s'}"


def listed(numbers: Iterable[float], last: str) -> str:
    """5, 10 or 20."""
    *before, end = [f"{value:g}" for value in numbers]
    return f"{', '.join(before)} {last} {end}" if before else end


def ratio_effect(effect: Effect, of: str) -> str:
    """1.89× the seconds (6 pairs, 95 % interval 1.71× to 2.09×)."""
    return f"{times(effect.mean)} {of} ({_rests_on(effect, times)})"


def of_how_many_seeds(effect: Effect) -> str:
    """one seed; 3 seeds."""
    return "one seed" if effect.n == 1 else f"{effect.n} seeds"


def _rests_on(effect: Effect, form: Callable[[float], str], *, of_seeds: bool = False) -> str:
    pairs = plural(effect.pairs, "pair")
    if of_seeds:
        pairs += f" of {of_how_many_seeds(effect)}"
    elif effect.n < effect.pairs:
        # Pairs that share a process, such as one fit of the priors, count as one.
        pairs += " that share one measurement" if effect.n == 1 else f", {effect.n} independent"
    if effect.low is None or effect.high is None:
        return f"{pairs}, no interval"
    return f"{pairs}, 95{NO_BREAK}% interval {form(effect.low)} to {form(effect.high)}"


def bytes_of(count: int | None) -> str:
    """In MiB or GiB; an unknown is a dash."""
    if count is None:
        return "–"
    return f"{three(count / 2**30)} GiB" if count >= 2**30 else f"{three(count / 2**20)} MiB"


def schedule(timesteps: object, beta_schedule: object) -> str:
    """1000 linear, 500 squaredcos."""
    return f"{timesteps} {str(beta_schedule).split('_')[0]}"
