"""The page of runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from bench.verdicts import NOT_MEASURED, TOO_FEW
from reports import frames, page
from reports.blocks import Block, Cell, Listing, Section, Table
from reports.claims import judged_claims
from reports.comparison import ALL, Comparison, Line, differences
from reports.context import PER_IMAGE
from reports.effects import mean_cell
from reports.figures.rows import effect_row
from reports.load import Loaded, plain_text, without_home
from reports.words import effect_words, interval_words, plural, signed

# More rows stay in the file beside the page.
MAX_ROWS = 1500


def build(runs: Sequence[Loaded], command: str) -> dict[str, bytes]:
    """comparison.html and comparison.csv of two runs or more; the same runs give the same bytes."""
    found = Comparison(runs)
    sections = [_effects(found), _settings(found), _claims(found), _surroundings(found, command)]
    facts = [f"{name}: {run.plan.title}" for name, run in zip(found.names, runs, strict=True)]
    warned = [
        f"{found.names[0]} and {name} differ in {'; in '.join(why)}"
        for name, run in zip(found.names[1:], runs[1:], strict=True)
        if (why := differences(runs[0], run))
    ]
    title = f"{' and '.join(found.names[1:])} beside {found.names[0]}"
    warned += [
        f"The machine was busy with something else during {len(run.disturbed)} of "
        f"{plural(run.num_watched, 'unit')} of {name}, whose times are no measurement."
        for name, run in zip(found.names, runs, strict=True)
        if run.disturbed
    ]
    html = page.render(title, "runs side by side", facts, sections, incomplete=warned)
    csv = frames.to_csv(_frame(found))
    return {"comparison.html": html.encode(), "comparison.csv": csv}


def _frame(found: Comparison) -> pd.DataFrame:
    """A row a quantity, setting and other run; a ratio is other / first."""
    rows = []
    for line in found.lines:
        for place in line.pairs:
            effect = line.effect(place)
            assert effect is not None  # a line has pairs
            means = line.means(place)
            rows.append(
                [
                    found.names[0], found.names[place], line.setting, line.quantity,
                    "ratio" if effect.is_ratio else "difference", effect.mean, effect.low,
                    effect.high, effect.pairs, effect.n, *(one and one.mean for one in means),
                ]
            )  # fmt: skip
    columns = ["first", "other", "setting", "quantity", "kind", "effect", "low", "high", "pairs",
               "replicates", "mean_of_first", "mean_of_other"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _effects(found: Comparison) -> Section:
    """Each quantity, over all that both runs have."""
    lines = [line for line in found.lines if line.setting == ALL]
    said = [_counted(found, place) for place in range(1, len(found.runs))]
    main = next((line for line in lines if line.quantity == PER_IMAGE.name), None)
    finding = "; ".join(said) + "."
    effect = main and main.effect(1)
    if effect:
        finding = (
            f"{PER_IMAGE.name.capitalize()}, {found.names[1]} against {found.names[0]}: "
            f"{effect_words(effect)}. {finding}"
        )
    blocks: list[Block] = [_table(found, lines, _CAPTION)] if lines else []
    return Section("effects", "What changed", finding, blocks)


def _counted(found: Comparison, place: int) -> str:
    """What a run shares with the first, and what only one of them has."""
    first, name = found.names[0], found.names[place]
    contests = len({line.setting for line in found.contests if place in line.pairs})
    shared = [
        plural(len(found.matched[place]), "outcome of equal settings and seed",
               "outcomes of equal settings and seed"),
        *([plural(contests, "equal contender")] if contests else []),
    ]  # fmt: skip
    if not found.matched[place] and not contests:
        shared = ["nothing in common, neither outcomes of equal settings and seed nor contenders"]
    text = f"{name}: {' and '.join(shared)}"
    only = found.alone(place)
    if any(only):
        text += f"; {only[0]} only in {first}, {only[1]} only in {name}"
    lost = [
        f"{plural(count, 'outcome')} failed or missing in {of}"
        for of, run in ((first, found.runs[0]), (name, found.runs[place]))
        if (count := _lost(run))
    ]
    return "; ".join([text, *lost])


def _lost(run: Loaded) -> int:
    failed = sum(one.status != "ok" for one in (*run.records, *run.contests))
    return failed + len(run.missing)


_CAPTION = (
    "Change: the other run against the first, pair by pair of equal settings and seed; a ratio as "
    "a change in per cent, of scores the difference; the interval is over processes, of scores "
    "over seeds of training. It does not hold what differed between the two visits to the "
    "machine, which moves all pairs alike, so no word stands beside it. Grey band: what counts as "
    "equal."
)


def _settings(found: Comparison) -> Section:
    lines = [line for line in found.lines if line.setting != ALL]
    if not lines:
        return Section("settings", "By setting", "The runs have no setting in common.")
    drawn = lines[:MAX_ROWS]
    finding = f"{plural(len(lines), 'quantity of a setting', 'quantities of settings')}."
    if len(drawn) < len(lines):
        finding += f" The first {len(drawn)} are here, all in comparison.csv."
    return Section("settings", "By setting", finding, [_table(found, drawn, "", filterable=True)])


def _table(
    found: Comparison, lines: Sequence[Line], caption: str, *, filterable: bool = False
) -> Table:
    first, *others = found.names
    columns = ["setting", "quantity"]
    for name in others:
        suffix = f", {name}" if len(others) > 1 else ""
        columns += [first, name, f"effect{suffix}", f"change{suffix}", f"pairs{suffix}"]
    rows = [
        [
            Cell(line.setting, line.setting),
            Cell(line.quantity, line.quantity),
            *(cell for place in range(1, len(found.names)) for cell in _change(line, place)),
        ]
        for line in lines
    ]
    return Table(columns, rows, caption, filterable=filterable)


def _change(line: Line, place: int) -> list[Cell]:
    effect, unit = line.effect(place), line.unit or ""
    if effect is None:
        return [Cell("–", None)] * 5
    words = f"{signed(effect, effect.mean, unit)} ({interval_words(effect, unit)})"
    drawn = effect_row(effect, line.margin, None, unit, f"{line.quantity}: {words}")
    return [
        *(mean_cell(mean, line.form) for mean in line.means(place)),
        Cell("", effect.distance, svg=drawn),
        Cell(words, effect.mean),
        Cell(str(effect.pairs), effect.pairs),
    ]


def _claims(found: Comparison) -> Section:
    judged = [judged_claims(report) for report in found.reports]
    rows = [
        [
            Cell(f"{one.claim.number}. {one.claim.text}", one.claim.number),
            Cell(one.protocol, one.protocol),
            *(Cell(each.word, each.word) for each in of_claim),
        ]
        for of_claim in zip(*judged, strict=True)
        if any(each.measured is not None for each in of_claim)
        for one in of_claim[:1]
    ]
    title = "Verdicts of each run"
    if not rows:
        return Section("claims", title, "None of the eight claims was measured in these runs.")
    # Whether one was measured at all is no other word.
    other = sum(len({cell.text for cell in row[2:]} - {NOT_MEASURED, TOO_FEW}) > 1 for row in rows)
    finding = (
        f"Of {plural(len(rows), 'measured claim')} {other} "
        f"{'has' if other == 1 else 'have'} another word in another run."
    )
    return Section("claims", title, finding, [Table(["claim", "protocol", *found.names], rows)])


def _surroundings(found: Comparison, command: str) -> Section:
    """The facts of machine and code that differ."""
    facts = [_facts(run) for run in found.runs]
    names = list(dict.fromkeys(name for some in facts for name in some))
    rows = [
        [Cell(name, name), *(Cell(some.get(name, "–"), some.get(name)) for some in facts)]
        for name in names
        if len({some.get(name) for some in facts}) > 1
    ]
    verb = "differs" if len(rows) == 1 else "differ"
    finding = f"{plural(len(rows), 'fact')} of machine and code {verb}."
    blocks: list[Block] = [Table(["what", *found.names], rows)] if rows else []
    return Section(
        "surroundings", "Machine and code", finding, [*blocks, Listing([command], "Command")]
    )


def _facts(run: Loaded) -> dict[str, str]:
    told = run.environment.model_dump(mode="json", exclude={"peaks", "schema_version"})
    seeds = {one.seed for one in (*run.records, *run.contests)}
    found = {
        "begun": run.plan.created,
        "suite": run.plan.suite,
        "images": run.plan.images,
        "seeds": ", ".join(map(str, sorted(seeds))),
    }
    for name, value in told.items():
        some = value if isinstance(value, dict) else {"": value}
        found |= {
            f"{name} {inner}".strip(): one if isinstance(one, str) else json.dumps(one)
            for inner, one in some.items()
        }
    return {name: without_home(plain_text(value)) for name, value in found.items()}
