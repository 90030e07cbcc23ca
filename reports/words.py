"""Figures in words: three significant digits, a unit, and how much stands behind them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from bench.errors import plain_text
from bench.stats import Effect
from bench.verdicts import (
    EQUAL,
    MIN_PAIRS,
    MIN_SEEDS,
    NOT_DISTINGUISHABLE,
    TOO_FEW,
    WITHHELD,
    Verdict,
)

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
    """0.00437 -> 4.37 ms, 15.08 -> 15.1 s, 754 -> 12.6 min, 9000 -> 2.50 h, and from two days on in
    days; an unknown is a dash."""
    if value is None:
        return "–"
    if abs(value) >= 2 * 86_400:
        return f"{three(value / 86_400)}{NO_BREAK}days"
    if abs(value) >= 2 * 3600:
        return f"{three(value / 3600)}{NO_BREAK}h"
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
    """A ratio as a change: 1.12 -> +12.0 %; below a percent to a hundredth of one: +0.06 %."""
    change = 100 * (ratio - 1)
    text = three(change) if abs(change) >= 1 else f"{change:.2f}".replace("-", "\N{MINUS SIGN}")
    return f"{'+' if change > 0 else ''}{text}{NO_BREAK}%"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """1 pair, 2 pairs."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or f'{noun}s'}"


def listed(numbers: Iterable[float], last: str) -> str:
    """5, 10 or 20."""
    *before, end = [f"{value:g}" for value in numbers]
    return f"{', '.join(before)} {last} {end}" if before else end


def signed(effect: Effect, value: float, unit: str = "") -> str:
    """The mean or an end of the effect, as a change: +12.0 %, −0.210 dB; 2.30× of a large one."""
    if not effect.is_ratio:
        text = f"{'+' if value > 0 else ''}{three(value)}"
        return f"{text}{NO_BREAK}{unit}" if unit else text
    return signed_percent(value) if 0.5 < effect.mean < 2 else times(value)


def effect_words(
    effect: Effect, unit: str = "", *, of_seeds: bool = False, seeds: int | None = None
) -> str:
    """+12.0 % (7 pairs, 95 % interval +8.10 % to +16.0 %).

    seeds: the pairs are images, each with the mean over so many seeds
    """
    rests = plural(effect.pairs, "pair")
    if seeds is not None:
        rests = f"{plural(effect.pairs, 'image')}, mean over {plural(seeds, 'seed')}"
    elif of_seeds:
        rests += f" of {of_how_many_seeds(effect)}"
    elif effect.n < effect.pairs:
        # Pairs that share a process, such as one fit of the priors, count as one.
        rests += " that share one measurement" if effect.n == 1 else f", {effect.n} independent"
    return f"{signed(effect, effect.mean, unit)} ({rests}, {interval_words(effect, unit)})"


def interval_words(effect: Effect, unit: str = "") -> str:
    """95 % interval +8.10 % to +16.0 %; no interval."""
    if effect.low is None or effect.high is None:
        return "no interval"
    low, high = (signed(effect, end, unit) for end in (effect.low, effect.high))
    return f"95{NO_BREAK}% interval {low} to {high}"


def ratio_interval(effect: Effect) -> str:
    """95 % interval 1.71× to 2.09×; no interval."""
    if effect.low is None or effect.high is None:
        return "no interval"
    return f"95{NO_BREAK}% interval {times(effect.low)} to {times(effect.high)}"


def of_how_many_seeds(effect: Effect) -> str:
    """one seed; 3 seeds."""
    return "one seed" if effect.n == 1 else f"{effect.n} seeds"


def verdict_word(verdict: Verdict, unit: str = "", *, of_seeds: bool = False) -> str:
    """The word, with what it needs beside it: equal within 2.00 %; no verdict, 3 more pairs."""
    effect, word = verdict.effect, verdict.word
    if effect is None:
        return word
    margin, margin_unit = verdict.margin or 0.0, unit
    if effect.is_ratio:
        margin, margin_unit = 100 * margin, "%"
    within = f"within {margin:g}{NO_BREAK}{margin_unit}"
    if word == TOO_FEW:
        return f"no verdict, it takes {_lacking(effect, verdict.seeds, of_seeds=of_seeds)}"
    if word == NOT_DISTINGUISHABLE:
        if effect.standard_error == 0:
            return "the same in every pair"
        half = _size(effect, effect.half_width or 0.0, unit)
        needed, enough = verdict.pairs_needed, ""
        if needed is not None and abs(effect.mean - effect.is_ratio) < (verdict.margin or 0.0):
            noun = "pair" if verdict.seeds is None else "image"
            enough = (
                f"; if there is none, some {plural(needed, noun)} in all would show equality "
                f"{within}"
            )
        return f"{word} from no effect (half-width {half}{enough})"
    alone = f"equal {within}" if verdict.alone == EQUAL else verdict.alone
    if word != WITHHELD:
        return alone
    if verdict.control is None:
        return f"withheld (alone: {alone}), no case ran twice"
    ends = verdict.control.interval(0.9)
    reach = "a control has no interval"
    if ends is not None:
        low, high = (signed(verdict.control, end, unit) for end in ends)
        reach = f"a control reaches from {low} to {high}"
    return f"withheld (alone: {alone}), {reach}"


def _size(effect: Effect, value: float, unit: str) -> str:
    if effect.is_ratio:
        return percent(value)
    return f"{three(value)}{NO_BREAK}{unit}" if unit else three(value)


def _lacking(effect: Effect, over: int | None, *, of_seeds: bool) -> str:
    """What a verdict takes beyond what is there: 3 more pairs."""
    pairs = MIN_PAIRS - (effect.pairs if of_seeds else min(effect.pairs, effect.n))
    trained = effect.n if of_seeds else over
    seeds = 0 if trained is None else MIN_SEEDS - trained
    parts = [
        f"{count} more {noun}{'' if count == 1 else 's'}"
        for count, noun in ((pairs, "pair"), (seeds, "seed"))
        if count > 0
    ]
    return " and ".join(parts) or "values that are finite"


def judged(verdict: Verdict, unit: str = "", *, of_seeds: bool = False) -> str:
    """+12.0 % (7 pairs, 95 % interval +8.10 % to +16.0 %): longer."""
    word = verdict_word(verdict, unit, of_seeds=of_seeds)
    if verdict.effect is None:
        return word
    said = effect_words(verdict.effect, unit, of_seeds=of_seeds, seeds=verdict.seeds)
    return f"{said}: {word}"


def bytes_of(count: int | None) -> str:
    """In MiB or GiB; an unknown is a dash."""
    if count is None:
        return "–"
    return f"{three(count / 2**30)} GiB" if count >= 2**30 else f"{three(count / 2**20)} MiB"


_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def operations(count: float | None) -> str:
    """1.23 TFLOP; an unknown is a dash."""
    if count is None:
        return "–"
    size, prefix = next(((s, p) for s, p in _PREFIXES if count >= s), (1, ""))
    return f"{three(count / size)}{NO_BREAK}{prefix}FLOP"


def schedule(timesteps: object, beta_schedule: object) -> str:
    """1000 linear, 500 squaredcos."""
    return f"{timesteps} {str(beta_schedule).split('_')[0]}"


# A decimal number that is no part of a name; a fraction is what texts of one kind differ in.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)")


def by_text(texts: Iterable[str], noun: str = "outcome") -> list[str]:
    """Each text once, with the number of those that have it; of texts that differ in a number
    alone, the range of the number."""
    counts: Counter[str] = Counter()
    found: dict[str, list[list[str]]] = {}
    for text, count in Counter(texts).items():
        plain = plain_text(text)
        form = _NUMBER.sub("\0", plain)
        found.setdefault(form, []).append(_NUMBER.findall(plain))
        counts[form] += count
    return [
        f"{_filled(form, numbers)} ({plural(counts[form], noun)})"
        for form, numbers in found.items()
    ]


def _filled(form: str, numbers: Sequence[Sequence[str]]) -> str:
    first, *rest = form.split("\0")
    ranges = [sorted(set(column), key=float) for column in zip(*numbers, strict=True)]
    told = [" to ".join(dict.fromkeys((values[0], values[-1]))) for values in ranges]
    return first + "".join(number + text for number, text in zip(told, rest, strict=True))


MAX_LISTED = 20


def some_of(names: Sequence[str]) -> list[str]:
    """The first of them, and how many more there are."""
    more = len(names) - MAX_LISTED
    return [*names[:MAX_LISTED], *([f"and {more} more"] if more > 0 else [])]
