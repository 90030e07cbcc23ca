"""A run for others to read: tables for pandas, verdicts for programs, a text for a pull request."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.records import StageRow
from bench.stats import Effect
from reports.blocks import Section
from reports.claims import Judged
from reports.load import Loaded, plain_text, without_home

# Of a stage; what a step has is in a table of its own.
_STAGE_COLUMNS = [
    name for name in StageRow.model_fields
    if name not in ("schema_version", "parents", "step_seconds", "data_wait_seconds", "chosen")
]  # fmt: skip
_STEP_COLUMNS = ["unit", "key", "function", "step", "seconds", "data_wait_seconds"]
# Sections whose finding stands in the text for a pull request.
_TOLD = ("answer", "verdicts", "loss", "restoration", "speed", "time-to-quality")


def stages(run: Loaded) -> pd.DataFrame:
    """One row a call of a stage, in the order of the units; unknown is null."""
    rows = [
        {
            **{name: getattr(row, name) for name in _STAGE_COLUMNS},
            "parents": " ".join(row.parents),
            "num_steps": len(row.step_seconds),
            "chosen": json.dumps(row.chosen, sort_keys=True) if row.chosen else None,
        }
        for row in run.rows
    ]
    return pd.DataFrame(rows, columns=[*_STAGE_COLUMNS, "parents", "num_steps", "chosen"])


def steps(run: Loaded) -> pd.DataFrame:
    """One row a step of a loop, with the part of it spent waiting for its item."""
    rows = [
        (row.unit, row.key, row.function, step, seconds, waited)
        for row in run.rows
        for step, (seconds, waited) in enumerate(
            itertools.zip_longest(row.step_seconds, row.data_wait_seconds)
        )
    ]
    return pd.DataFrame(rows, columns=_STEP_COLUMNS)


def summary(run: Loaded, found: Sequence[Judged]) -> str:
    """JSON: the run, and each claim under each protocol with its effect and word."""
    environment = run.environment
    content = {
        "suite": plain_text(run.plan.suite),
        "created": run.plan.created,
        "device": environment.device,
        "device_name": plain_text(environment.device_name),
        "commit": environment.commit,
        "dirty": environment.dirty,
        "missing": len(run.missing),
        "claims": [
            {
                "claim": one.claim.number,
                "text": one.claim.text,
                "published": one.claim.published,
                "protocol": one.protocol,
                "scope": None if one.measured is None else "replay" if one.replay else "analogue",
                "verdict": one.word,
                "quantity": None if one.measured is None else one.measured.quantity.name,
                "contrast": None if one.measured is None else one.measured.contrast,
                "effect": None if one.measured is None else _effect(one.measured.effect),
            }
            for one in found
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _effect(effect: Effect | None) -> dict[str, Any] | None:
    """mean, and the 95 % interval; a ratio is other / base, else it is in the score's unit."""
    if effect is None:
        return None
    return {
        "kind": "ratio" if effect.is_ratio else "difference",
        "mean": effect.mean,
        "low": effect.low,
        "high": effect.high,
        "pairs": effect.pairs,
        "replicates": effect.n,
        "sign_flip_p": effect.p,
    }


def markdown(run: Loaded, sections: Sequence[Section], found: Sequence[Judged]) -> str:
    """What a pull request needs to know of a run."""
    environment = run.environment
    by_id = {section.id: section for section in sections}
    lines = [
        f"# {_cell(run.plan.title)}",
        "",
        f"{_cell(environment.device_name)} ({environment.device}), commit "
        f"`{(environment.commit or 'unknown')[:12]}`"
        f"{' with uncommitted changes' if environment.dirty else ''}.",
        "",
        *(
            f"- **{one.title}.** {_cell(one.finding)}"
            for name in _TOLD
            if (one := by_id.get(name)) and one.blocks  # else it tells what is missing
        ),
    ]
    measured = [one for one in found if one.measured is not None]
    if measured:
        lines += ["", "| claim | protocol | verdict |", "|---|---|---|"]
        lines += [
            f"| {one.claim.number}. {_cell(one.claim.text)} | {one.protocol} | {one.word} |"
            for one in measured
        ]
    lines += ["", f"From `{without_home(str(run.folder))}`; all of it in `report.html`."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """In one line, with nothing that Markdown or HTML would take for its own."""
    words = " ".join(plain_text(text).split())
    for letter in "\\`*_[]<>|#":
        words = words.replace(letter, f"\\{letter}")
    return words
