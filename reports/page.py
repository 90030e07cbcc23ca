"""The page: its sections in order, one HTML file that asks no host for anything."""

from __future__ import annotations

import gc
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from bench import templating
from bench.errors import UserError
from reports import exports, frames
from reports.blocks import Section
from reports.claims import Judged, judged_claims
from reports.context import Report
from reports.load import Loaded, plain_text
from reports.profiles import Profiles, read_profiles, speedscope
from reports.sections import quality
from reports.sections import run as about_run
from reports.sections.answer import answer
from reports.sections.arms import arms
from reports.sections.board import board
from reports.sections.expected import expected
from reports.sections.ledger import ledger
from reports.sections.loaders import loaders
from reports.sections.loss import loss
from reports.sections.machine import machine
from reports.sections.noise import noise
from reports.sections.pictures import pictures
from reports.sections.planning import planning
from reports.sections.profile import profile
from reports.sections.published import published
from reports.sections.restoration import restoration
from reports.sections.scaling import scaling
from reports.sections.speed import speed
from reports.sections.verdicts import verdicts
from reports.words import plural, some_of

TEMPLATES = Path(__file__).parent / "templates"


def build(run: Loaded) -> dict[str, bytes]:
    """The files of a report by name. The same records give the same bytes of text."""
    # The collector of circles, which figures are, need not look at a million rows each time.
    gc.freeze()
    try:
        return _files(Report(run))
    finally:
        gc.unfreeze()


def _files(report: Report) -> dict[str, bytes]:
    run = report.run
    claims, profiles = judged_claims(report), read_profiles(run)
    tables = _tables(report)
    sections = _sections(report, claims, profiles, tables.get("results.csv", b""))
    files = {
        "report.html": _html(report, sections).encode(),
        "report.md": exports.markdown(run, sections, claims, _incomplete(report)).encode(),
        "summary.json": exports.summary(run, claims).encode(),
        **tables,
    }
    if profiles.read:
        files["profile.speedscope.json"] = speedscope(profiles.read, run.plan.suite).encode()
    return files


def _tables(report: Report) -> dict[str, bytes]:
    run = report.run
    files = {
        "stages.parquet": _parquet(frames.stages(run)),
        "steps.parquet": _parquet(frames.steps(run)),
    }
    if report.found:  # a run has outcomes or contests, seldom both
        files |= _table("results", frames.results(run, report.found))
    if run.contests:
        files |= _table("contests", frames.contests(run))
    return files


def _table(name: str, table: pd.DataFrame) -> dict[str, bytes]:
    return {f"{name}.csv": frames.to_csv(table), f"{name}.parquet": _parquet(table)}


def _parquet(table: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> None:
    """All files there whole or none; raises UserError, naming the folder, if it cannot be."""
    unfinished = {name: folder / f"{name}.part" for name in files}
    try:
        for name, content in files.items():
            if (folder / name).is_dir():
                raise UserError(f"{folder / name}: must be a file to write, is a folder")
            unfinished[name].write_bytes(content)
        for name, part in unfinished.items():
            part.replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error.strerror}") from error
    finally:
        for part in unfinished.values():
            if part.is_file():
                part.unlink()


def _sections(
    report: Report, claims: Sequence[Judged], profiles: Profiles, csv: bytes
) -> list[Section]:
    if not report.run.records:  # of `bench profile`, which measures nothing, or of contests alone
        ends = [about_run.troubles(report), about_run.environment(report)]
        if report.run.contests:
            return [speed(report), noise(report), machine(report), *ends]
        return [profile(report, profiles), *ends]
    shown, scored = pictures(report), quality.quality(report)
    # Noise is judged by looking at it, not by a score of it.
    near_noise = 2 * sum(one.looks_like_noise for one in report.generated) > len(report.generated)
    return [
        answer(report),
        verdicts(report, claims),
        published(report),
        arms(report),
        loss(report),
        loaders(report),
        ledger(report),
        expected(report),
        planning(report, claims),
        *((shown, scored) if near_noise else (scored, shown)),
        restoration(report),
        scaling(report),
        board(report),
        profile(report, profiles),
        speed(report),
        noise(report),
        machine(report),
        about_run.results(report, csv),
        # After all others: it tells which artifacts they could not read.
        about_run.troubles(report),
        about_run.environment(report),
    ]


def _html(report: Report, sections: Sequence[Section]) -> str:
    plan, machine = report.run.plan, report.run.environment
    changes = " with uncommitted changes" if machine.dirty else ""
    return render(
        plan.title,
        plan.suite,
        [
            f"{machine.device_name} ({machine.device})",
            f"commit {(machine.commit or 'unknown')[:12]}{changes}",
            f"{_what(report)} in {about_run.minutes(report)} of work",
            f"begun {plan.created[:10]}",
        ],
        sections,
        incomplete=_incomplete(report),
    )


def render(
    title: str,
    mark: str,
    facts: Sequence[str],
    sections: Sequence[Section],
    *,
    incomplete: Sequence[str] = (),
) -> str:
    """A page of sections; mark: a word or two above its title."""
    environment = templating.environment(TEMPLATES)
    environment.filters["words"] = _words
    html = environment.get_template("report.html").render(
        title=plain_text(title),
        mark=plain_text(mark),
        facts=facts,
        incomplete=incomplete,
        sections=sections,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        **templating.script(TEMPLATES / "script.js"),
    )
    return plain_text(html)


def _what(report: Report) -> str:
    counts = {"outcome": len(report.found), "contest": len(report.run.contests)}
    return " and ".join(plural(count, one) for one, count in counts.items() if count) or "nothing"


def _words(text: str) -> Markup:
    """Escaped text, with `commands` set as such."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _incomplete(report: Report) -> list[str]:
    """What the reader has to know before anything else."""
    failed = sum(not outcome.ok for outcome in report.found)
    failed += sum(one.status != "ok" for one in report.run.contests)
    lines = []
    if busy := len(report.run.disturbed):
        lines.append(
            f"The machine was busy with something else during {busy} of "
            f"{plural(report.run.num_watched, 'unit')}: their times are marked in the results, and "
            "the section on the machine tells with what."
        )
    profiles = {spec.unit for spec in report.run.plan.units if spec.kind == "profile"}
    unknown = [unit for unit in report.run.missing_units if unit not in profiles]
    if unknown and not report.run.missing:
        lines.append(
            f"Costs that rest on {', '.join(some_of(unknown))} are unknown: not done yet; "
            f"made by `{report.run.resume}`"
        )
    if report.run.missing:
        lines.append(
            f"{plural(len(report.run.missing), 'outcome')} of this run not measured yet; made by "
            f"`{report.run.resume}`"
        )
    if failed:
        lines.append(
            f"{plural(failed, 'outcome')} failed; run again by `{report.run.resume} --retry-failed`"
        )
    return lines
