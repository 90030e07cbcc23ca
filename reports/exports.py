"""A run for others to read: verdicts for programs, a text for a pull request."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from bench.speed import BASELINES, Entry, entries
from bench.stats import Effect
from reports.blocks import Section
from reports.claims import Judged
from reports.load import Loaded, plain_text, without_home

# Within a word an underscore is one.
_SPECIAL = re.compile(r"[\\`*\[\]<>|#]|(?<!\w)_|_(?!\w)")
# Sections whose finding stands in the text for a pull request.
_TOLD = ("answer", "verdicts", "loss", "restoration", "speed", "time-to-quality")


def summary(run: Loaded, found: Sequence[Judged]) -> str:
    """JSON: the run, each claim under each protocol with its effect and word, and each contender
    of each contest with its pace beside what a user would pick instead."""
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
                "published": one.claim.published_words,
                "protocol": one.protocol,
                "scope": None if one.measured is None else "replay" if one.replay else "analogue",
                "verdict": one.word,
                "quantity": None if one.measured is None else one.measured.quantity.name,
                "contrast": None if one.measured is None else one.measured.contrast,
                "effect": None if one.measured is None else _effect(one.measured.effect),
            }
            for one in found
        ],
        "contests": [_contest(one) for one in entries(run.contests)],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _contest(entry: Entry) -> dict[str, Any]:
    return {
        "contest": entry.contest,
        "work": plain_text(entry.work),
        "contender": plain_text(entry.name),
        "seconds": entry.seconds,
        "rounds": len(entry.records),
        "failed": entry.failed,
        "baseline": BASELINES[entry.contest],
        "pace": _effect(entry.ratio),
        "pace_beside_no_lever": _effect(entry.to_plain),
        "quality": entry.quality,
        "equal_quality": entry.gate.passed,
        "gain": entry.is_gain,
    }


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


def markdown(
    run: Loaded, sections: Sequence[Section], found: Sequence[Judged], incomplete: Sequence[str]
) -> str:
    """What a pull request needs to know of a run; incomplete: before all else."""
    environment = run.environment
    by_id = {section.id: section for section in sections}
    lines = [
        f"# {literal(run.plan.title)}",
        "",
        f"{literal(environment.device_name)} ({environment.device}), commit "
        f"`{(environment.commit or 'unknown')[:12]}`"
        f"{' with uncommitted changes' if environment.dirty else ''}.",
        "",
        *(f"> {literal(text)}\n" for text in incomplete),
        *(
            f"- **{one.title}.** {literal(one.finding)}"
            for name in _TOLD
            if (one := by_id.get(name)) and one.blocks  # else it tells what is missing
        ),
    ]
    measured = [one for one in found if one.measured is not None]
    if measured:
        lines += ["", "| claim | protocol | verdict |", "|---|---|---|"]
        lines += [
            f"| {one.claim.number}. {literal(one.claim.text)} | {one.protocol} | {one.word} |"
            for one in measured
        ]
    lines += ["", f"From `{without_home(str(run.folder))}`; all of it in `report.html`."]
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    """In one line, with nothing that Markdown or HTML would take for its own but `code`."""
    words = " ".join(plain_text(text).split())
    parts = re.split(r"(`[^`]+`)", words)
    return "".join(
        # Code is literal, but in a table a bar ends its cell all the same.
        part.replace("|", "\\|") if place % 2 else _SPECIAL.sub(r"\\\g<0>", part)
        for place, part in enumerate(parts)
    )
