"""A page that tells how a run goes, for a browser: a file, without a server. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from bench import templating
from bench.course import Course
from bench.errors import plain_text, without_home

LIVE = "live.html"
_TEMPLATES = Path(__file__).parent / "templates"
_SIGNS = {"ok": "✓", "failed": "✗", "running": "▸", "waiting": ""}


class LivePage:
    """Rewritten whenever a unit begins or ends, whole or not at all; a browser that shows it asks
    for it again every few seconds until the run is over."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LIVE
        self._template = templating.environment(_TEMPLATES).get_template("live.html")
        self._script = templating.script(_TEMPLATES / "live.js")

    def write(self, course: Course, steps: Mapping[str, int], *, going: bool) -> None:
        """steps: of the units at work, those made so far; going: whether units are still begun"""
        now = datetime.now().astimezone()
        page = self._template.render(
            suite=plain_text(course.plan.suite),
            title=plain_text(course.plan.title),
            done=course.num_done,
            total=len(course.states),
            failed=course.count("failed"),
            state=_state(course, steps, now, going=going),
            units=course.states,
            signs=_SIGNS,
            lists=(
                ("At work", _of(course, "running")),
                ("Failed", [plain_text(f"{u}: {text}") for u, text in course.failures.items()]),
                ("Warnings", [plain_text(text) for text in course.warnings]),
            ),
            going=going,
            written=f"{now:%Y-%m-%d %H:%M:%S}",
            run=without_home(shlex.quote(str(self.path.parent))),
            whole=not course.count("waiting", "running"),
            **self._script,
        )
        unfinished = self.path.with_name(f"{LIVE}.part")
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(self.path)


def _of(course: Course, state: str) -> Sequence[str]:
    return [unit for unit, found in course.states.items() if found == state]


def _state(course: Course, steps: Mapping[str, int], now: datetime, *, going: bool) -> str:
    if not going:
        return "The run is over." if not course.count("waiting", "running") else "It has stopped."
    if course.is_stopping:
        return "It stops when the units at work are done."
    expected = course.expected(steps)
    if expected is None:
        return "When it ends is told as soon as a unit has shown its pace."
    word, left = expected
    end = now + timedelta(seconds=left)
    day = f" on {end:%Y-%m-%d}" if end.date() > now.date() else ""
    return f"It should end {word}{end:%H:%M}{day}."
