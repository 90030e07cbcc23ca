"""The page of two commits held against each other, and the text of it for a pull request."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.commits.decide import LEVEL, effects_of
from bench.commits.records import Benchmark, Comparison, Counted, Decision
from bench.stats import Effect
from reports import page
from reports.blocks import Block, Cell, Figure, Listing, Section, Table, Text, raw_table
from reports.exports import literal
from reports.figures import plots, svg
from reports.figures.plots import ForestRow
from reports.load import plain_text
from reports.words import plural, seconds, signed_percent

WITHHELD = "withheld"
# In the order in which they are told.
WORDS = ("slower", "faster", "equal", "not distinguishable", "too few rounds", WITHHELD)
_MAX_ROWS_OF_FIGURE = 60


def build(found: Comparison) -> dict[str, bytes]:
    """compare.html and compare.md; the same comparison gives the same bytes."""
    sections = [_answer(found), _times(found), _counts(found), _floor(found), _others(found),
                _how(found)]  # fmt: skip
    html = page.render(
        f"{found.head.label} beside {found.base.label}",
        "two commits",
        [found.device, f"{found.seconds / 60:.1f} min", f"begun {found.started[:10]}"],
        [section for section in sections if section is not None],
        incomplete=_warnings(found),
    )
    return {"compare.html": html.encode(), "compare.md": _markdown(found).encode()}


def word(one: Benchmark) -> str:
    """Of its times."""
    return WITHHELD if one.withheld else one.effect.word


def _in_order(found: Comparison) -> list[Benchmark]:
    """By their words, the slowest first."""
    return sorted(found.benchmarks, key=lambda one: (WORDS.index(word(one)), -one.effect.ratio))


def short(name: str) -> str:
    """bench/test_training.py::test_forward[memory] -> training: forward[memory]"""
    file, _, test = name.partition("::")
    stem = file.rpartition("/")[2].removeprefix("test_").removesuffix(".py")
    return f"{stem}: {test.removeprefix('test_').replace('_', ' ')}" if test else stem


def _warnings(found: Comparison) -> list[str]:
    lines = []
    if found.is_a_vs_a:
        lines.append("Both sides are the same library, file by file: what differs here is noise.")
    if "although" in found.environment:
        lines.append(f"Run in {found.environment}.")
    if found.head.changes:
        lines.append(f"Head has {plural(len(found.head.changes), 'file')} that no commit holds.")
    if found.stopped:
        undecided = sum(not one.effect.is_decided for one in found.benchmarks)
        lines.append(
            f"{plural(undecided, 'benchmark')} of {len(found.benchmarks)} not decided: "
            f"{found.stopped}. `--minutes` gives more time."
        )
    return lines


def counted_words(found: Comparison) -> str:
    """2 slower, 1 faster, 30 equal within 5 %."""
    counts = {name: sum(word(one) == name for one in found.benchmarks) for name in WORDS}
    equal = f"equal within {100 * found.equal_within:g}%"
    return ", ".join(
        f"{count} {equal if name == 'equal' else name}" for name, count in counts.items() if count
    )


def _answer(found: Comparison) -> Section:
    regressions = list(found.regressions)
    verdict = f"{plural(len(regressions), 'regression')}" if regressions else "No regression"
    blocks: list[Block] = []
    if regressions:
        blocks.append(Listing([_told(line) for line in regressions], "Regressions"))
    finding = f"{verdict}: of {plural(len(found.benchmarks), 'benchmark')} {counted_words(found)}."
    return Section("answer", "Is it slower?", finding, blocks)


def _told(line: str) -> str:
    name, _, rest = line.partition(": ")
    return f"{short(name)}: {rest}"


def _times(found: Comparison) -> Section:
    order = _in_order(found)
    shown = order[:_MAX_ROWS_OF_FIGURE]
    rows = [
        ForestRow(
            short(one.name),
            [math.exp(log) for log in effects_of(one.sides, one.seconds)],
            _as_measured(one.effect),
        )
        for one in shown
    ]
    data = raw_table(
        ["benchmark", "ratio", "low", "high", "rounds", "verdict"],
        [
            (one.name, one.effect.ratio, one.effect.low, one.effect.high, one.effect.rounds,
             word(one))
            for one in order
        ],
    )  # fmt: skip
    caption = (
        "Time of head over time of base. A dot is a round of four fresh processes, two of each "
        f"side; the line is the interval by which the word was decided. Of all "
        f"{len(found.benchmarks)} benchmarks and all looks together the chance that any one that "
        f"is equal is called different is at most {LEVEL:.0%}."
    )
    if len(order) > len(shown):
        caption += f" Drawn are {len(shown)} of {len(order)}; the table below has all."
    title = f"Ratios of times of {len(shown)} benchmarks: {counted_words(found)}"
    figure = Figure(
        svg.render("times", title, lambda width: plots.forest(rows, "head / base", width)),
        caption, data,
    )  # fmt: skip
    columns = ["benchmark", "base", "head", "change", "interval", "verdict", "could see",
               "rounds", "rounds more"]  # fmt: skip
    table = Table(
        columns,
        [_row(one) for one in order],
        "Could see: the smallest change that would have been called. Rounds more: how many would "
        "decide it, if mean and spread stay as they are.",
        filterable=True,
    )
    return Section("times", "Times", f"{counted_words(found).capitalize()}.", [figure, table])


def _as_measured(effect: Decision) -> Effect:
    return Effect(effect.ratio, effect.low, effect.high, effect.rounds, None, effect.rounds,
                    is_ratio=True)  # fmt: skip


def _row(one: Benchmark) -> list[Cell]:
    effect = one.effect
    ends = (
        "–" if effect.low is None or effect.high is None
        else f"{signed_percent(effect.low)} to {signed_percent(effect.high)}"
    )  # fmt: skip
    base, head = (_typical(one, side) for side in ("base", "head"))
    return [
        Cell(short(one.name), one.name),
        Cell(seconds(base), base),
        Cell(seconds(head), head),
        Cell(signed_percent(effect.ratio), effect.ratio),
        Cell(ends, effect.low),
        Cell(word(one), WORDS.index(word(one))),
        Cell("–", None) if effect.visible is None
        else Cell(signed_percent(1 + effect.visible), effect.visible),
        Cell(str(effect.rounds), effect.rounds),
        Cell(str(effect.more) if effect.more else "–", effect.more),
    ]  # fmt: skip


def _typical(one: Benchmark, side: str) -> float:
    """The geometric mean of its processes."""
    logs = [math.log(s) for name, s in zip(one.sides, one.seconds, strict=True) if name == side]
    return math.exp(math.fsum(logs) / len(logs))


def _counts(found: Comparison) -> Section:
    changed = [one for one in found.benchmarks if _changes(one)]
    text = (
        f"{plural(len(changed), 'benchmark')} with another number of operations or bytes."
        if changed
        else "Operations and bytes are the same, benchmark by benchmark."
    )
    unknown = sum(None in (one.flops.base, one.flops.head, one.peak_bytes.base,
                           one.peak_bytes.head) for one in found.benchmarks)  # fmt: skip
    if unknown:
        text += f" Of {plural(unknown, 'benchmark')} they differ from try to try, and tell nothing."
    note = Text(
        "Counted under instruments, beside what is timed: operations of "
        "convolutions, products of matrices and attention, and the most bytes that tensors took at "
        "one moment. There is no noise in them: a rise is a rise."
    )
    blocks: list[Block] = [note]
    if changed:
        blocks.append(
            Table(
                ["benchmark", "operations, base", "operations, head", "operations, change",
                 "bytes, base", "bytes, head", "bytes, change"],
                [
                    [Cell(short(one.name), one.name), *_cells(one.flops), *_cells(one.peak_bytes)]
                    for one in changed
                ],
            )
        )  # fmt: skip
    return Section("counts", "What is counted", text, blocks)


def _changes(one: Benchmark) -> bool:
    return one.flops.change is not None or one.peak_bytes.change is not None


def _cells(counted: Counted) -> list[Cell]:
    change = counted.change
    return [
        *(Cell("–" if value is None else f"{value:,}", value)
          for value in (counted.base, counted.head)),
        Cell("same" if change is None else signed_percent(1 + change), change or 0.0),
    ]  # fmt: skip


def _floor(found: Comparison) -> Section:
    called = [one for one in found.benchmarks if one.withheld]
    widest = max(found.benchmarks, key=lambda one: abs(math.log(one.floor.ratio)))
    text = (
        f"Head against itself: {plural(len(called), 'benchmark')} of {len(found.benchmarks)} "
        f"called different; the farthest is {short(widest.name)} with "
        f"{signed_percent(widest.floor.ratio)}."
    )
    if called:
        names = ", ".join(short(one.name) for one in called)
        text += f" No word stands on the times of {names}."
    order = sorted(found.benchmarks, key=lambda one: -abs(math.log(one.floor.ratio)))
    table = Table(
        ["benchmark", "head / head", "interval", "verdict"],
        [
            [
                Cell(short(one.name), one.name),
                Cell(signed_percent(one.floor.ratio), one.floor.ratio),
                Cell("–", None) if one.floor.low is None or one.floor.high is None
                else Cell(f"{signed_percent(one.floor.low)} to {signed_percent(one.floor.high)}",
                          one.floor.low),
                Cell(one.floor.word, one.floor.word),
            ]
            for one in order
        ],
        "The two processes of head in each round, one against the other.",
        filterable=True,
    )  # fmt: skip
    return Section("floor", "The floor of noise", text, [table])


def _others(found: Comparison) -> Section | None:
    blocks: list[Block] = [
        Listing(lines, heading)
        for heading, lines in (
            ("New: base cannot run them", [f"{short(one.name)}: {one.why}" for one in found.new]),
            ("Removed: in base's own suite alone", list(map(short, found.removed))),
            ("Failing: head cannot run them",
             [f"{short(one.name)}: {one.why}" for one in found.failing]),
        )
        if lines
    ]  # fmt: skip
    if not blocks:
        return None
    text = (
        f"{len(found.new)} new, {len(found.removed)} removed, {len(found.failing)} failing. What "
        "base can run and head cannot is a regression; of the others nothing is said."
    )
    return Section("others", "Not compared", text, blocks)


def _how(found: Comparison) -> Section:
    rows = [
        ("command", found.command),
        *((side, f"{tree.label}: {tree.subject}")
          for side, tree in (("base", found.base), ("head", found.head))),
        *((f"library of {side}, sha256", tree.sha256)
          for side, tree in (("base", found.base), ("head", found.head))),
        ("suite, sha256", found.harness_sha256),
        ("environment", found.environment),
        ("device", found.device),
        ("versions", found.head.versions),
        *([("versions of base", found.base.versions)]
          if found.base.versions != found.head.versions else []),
        ("begun", found.started),
    ]  # fmt: skip
    cells = [[Cell(name, name), Cell(plain_text(text), text)] for name, text in rows]
    text = (
        "One suite measured both libraries, in turn, in fresh processes; each of these told the "
        "digest of the library that it had imported."
    )
    changes = [Listing(list(found.head.changes), "Not committed")] if found.head.changes else []
    return Section("how", "How it was measured", text, [Table(["what", "value"], cells), *changes])


def _markdown(found: Comparison) -> str:
    """For a pull request: the answer, what changed, and the rest folded."""
    order = _in_order(found)
    told = [one for one in order if word(one) in ("slower", "faster") or _changes(one)]
    rest = [one for one in order if one not in told]
    lines = [
        f"### {found.head.label} beside {found.base.label}",
        "",
        literal(_answer(found).finding),
        "",
        *(f"- {literal(_told(line))}" for line in found.regressions),
        *([""] if found.regressions else []),
        *(f"> {literal(line)}" for line in _warnings(found)),
        "",
        *_markdown_table(told),
    ]
    if rest:
        lines += [
            "<details><summary>The others</summary>",
            "",
            *_markdown_table(rest),
            "</details>",
            "",
        ]
    lines += [f"{literal(found.device)}; `{found.command.replace('`', '')}`"]
    return plain_text("\n".join(lines)) + "\n"


def _markdown_table(some: Sequence[Benchmark]) -> list[str]:
    if not some:
        return []
    rows = ["| benchmark | change | interval | verdict | could see | operations | bytes |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in some:
        _, _, _, change, ends, verdict, visible, *_ = _row(one)
        counted = [_cells(what)[-1].text for what in (one.flops, one.peak_bytes)]
        cells = [
            short(one.name),
            *(cell.text for cell in (change, ends, verdict, visible)),
            *counted,
        ]
        rows.append(f"| {' | '.join(map(literal, cells))} |")
    return [*rows, ""]
