"""One page that lists the runs of a folder, by suite, the latest first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench.errors import UserError
from bench.records import PLAN
from reports import page
from reports.blocks import Block, Cell, Listing, Section, Table
from reports.context import Report
from reports.load import NoRecordError, load_run, without_home
from reports.sections import run as about_run
from reports.words import plural, seconds, times

REPORT = "report.html"


@dataclass(frozen=True)
class _Listed:
    """A run in the list. per_image: median training seconds an image, of its plain outcomes"""

    folder: Path
    report: Report
    per_image: float | None

    @property
    def place(self) -> str:
        return self.report.run.plan.created

    @property
    def machine(self) -> tuple[str, str]:
        environment = self.report.run.environment
        return environment.device, environment.device_name


def build(folder: Path) -> bytes:
    """Runs that cannot be read are listed with what is wrong with them."""
    found: dict[str, list[_Listed]] = {}
    unreadable: list[str] = []
    waiting: list[str] = []
    for plan in sorted(folder.glob(f"*/{PLAN}")):
        try:
            one = _listed(plan.parent)
        except NoRecordError as error:
            waiting.append(without_home(str(error)))
        except UserError as error:
            unreadable.append(f"{plan.parent.name}: {without_home(str(error))}")
        else:
            found.setdefault(one.report.run.plan.suite, []).append(one)
    count = sum(map(len, found.values()))
    sections = [
        _section(place, suite, sorted(runs, key=lambda one: one.place, reverse=True))
        for place, (suite, runs) in enumerate(sorted(found.items()))
    ]
    if waiting:
        finding = f"{plural(len(waiting), 'run')} in which nothing is done yet."
        sections.append(Section("waiting", "Begun", finding, [Listing(waiting)]))
    if unreadable:
        finding = f"{plural(len(unreadable), 'folder')} could not be read."
        sections.append(Section("unreadable", "Unreadable", finding, [Listing(unreadable)]))
    if not sections:
        text = "No run here; make one with `python -m bench run quick`."
        sections.append(Section("none", "Runs", text))
    facts = [plural(count, "run"), plural(len(found), "suite")]
    return page.render("Runs", without_home(str(folder)), facts, sections).encode()


def _listed(folder: Path) -> _Listed:
    report = Report(load_run(folder))
    per_image = [
        taken
        for one in report.generated
        if one.record.repeat == 1 and (taken := one.train_seconds_per_image) is not None
    ]
    return _Listed(folder, report, statistics.median(per_image) if per_image else None)


def _section(place: int, suite: str, runs: Sequence[_Listed]) -> Section:
    latest = runs[0].report.run
    blocks: list[Block] = [_table(runs)]
    finding = f"{plural(len(runs), 'run')}, the latest begun {latest.plan.created[:10]}."
    return Section(f"suite-{place}", suite, finding, blocks)


def _table(runs: Sequence[_Listed]) -> Table:
    rows = []
    for place, one in enumerate(runs):
        run, report = one.report.run, one.report
        before = next((older for older in runs[place + 1 :] if older.machine == one.machine), None)
        change = None
        if before is not None and one.per_image and before.per_image:
            change = one.per_image / before.per_image
        failed = sum(not outcome.ok for outcome in report.found)
        failed += sum(contest.status != "ok" for contest in run.contests)
        href = f"{quote(one.folder.name)}/{REPORT}" if (one.folder / REPORT).is_file() else ""
        rows.append(
            [
                Cell(one.folder.name, one.folder.name, href),
                Cell(run.plan.created[:16].replace("T", " "), run.plan.created),
                Cell((run.environment.commit or "unknown")[:12], run.environment.commit),
                Cell(run.environment.device_name, run.environment.device_name),
                Cell(str(len(report.found) + len(run.contests)), len(report.found)),
                Cell(str(failed), failed),
                Cell(str(len(run.missing)), len(run.missing)),
                Cell(about_run.minutes(report), None),
                Cell(seconds(one.per_image), one.per_image),
                Cell("–" if change is None else times(change), change),
            ]
        )
    return Table(
        ["run", "begun", "commit", "device", "outcomes", "failed", "missing", "work",
         "training an image", "beside the run before"],
        rows,
        "A run without a link has no page yet: `python -m reports build RUN`. Training seconds an "
        "image are the median over all outcomes, beside those of the run before on the same "
        "device; single runs, so no verdict.",
        filterable=True,
    )  # fmt: skip
