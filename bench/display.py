"""What a run shows in the terminal: redrawn at most once a second, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from bench.apart import telling
from bench.costs import Costs
from bench.course import Course, State
from bench.errors import UserError
from bench.live import LivePage
from bench.locks import is_worked_on
from bench.records import (
    SPEC,
    Case,
    Plan,
    Record,
    Setting,
    StageRow,
    UnitSpec,
    UnitSummary,
    is_contest,
)
from bench.run_folder import Run, read_progress

_WATCH_SECONDS = 1.0
# So many looks in a row nobody may be at work, as between two commands of `bench units`.
_PATIENCE = 10
# How a map of the units shows their states: without colours, and where a terminal has letters only.
_MAP: Mapping[State, tuple[str, str]] = {
    "ok": ("■", "green"), "failed": ("✗", "red"), "running": ("▶", "cyan"), "waiting": ("·", "dim"),
}  # fmt: skip
_PLAIN_MAP: Mapping[State, tuple[str, str]] = {
    "ok": ("#", "green"), "failed": ("x", "red"), "running": (">", "cyan"), "waiting": (".", "dim"),
}  # fmt: skip
_MAP_LINES = 3
# Columns of a terminal that has room for bars; and that counts, times and bars take.
_WITH_BARS, _BESIDE_NAMES = 100, 52

One = TypeVar("One", Case, Record)


class _ProgressWithMap(Progress):
    """Bars under a map of all units."""

    course: Course | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.course is not None:  # rich asks for the first time before it is told
            signs = _MAP if self.console.encoding.startswith("utf") else _PLAIN_MAP
            states = self.course.grid_map(_MAP_LINES * self.console.width)
            yield Text.assemble(*(signs[state] for state in states))
        yield from super().get_renderables()


class RunDisplay:
    """A map of the units, one bar for the run with the time left, one for each unit at work,
    warnings above them; the same in a page if there is one."""

    def __init__(
        self,
        plan: Plan,
        done: Iterable[UnitSpec],
        console: Console,
        live: LivePage | None = None,
        *,
        failures: Mapping[str, str] | None = None,
        taken: Mapping[str, float] | None = None,
    ) -> None:
        """failures: what went wrong with those of `done` that failed; taken: seconds of the others,
        as far as they are known"""
        self._console, self._live = console, live
        self.course = Course(plan, done, failures, taken)
        name = max(12, min(44, console.width - _BESIDE_NAMES))
        self._progress = _ProgressWithMap(
            # What is too long for the line is the name, never the counts.
            TextColumn("{task.description}", table_column=Column(max_width=name, no_wrap=True)),
            *([BarColumn(bar_width=12)] if console.width >= _WITH_BARS else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit_of]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            # Redrawn here, not by a thread of its own: the processor belongs to the workers.
            auto_refresh=False,
            transient=True,
        )
        self._progress.course = self.course
        self._run_task = self._progress.add_task(
            "run", total=len(plan.units), completed=self.course.num_done, unit_of="units", left=""
        )
        self._unit_tasks: dict[str, TaskID] = {}
        self._steps: dict[str, int] = {}

    @classmethod
    def of(cls, run: Run, console: Console, live: LivePage | None = None) -> RunDisplay:
        """Of a run as it is now."""
        failures = run.failures()
        taken = {spec.unit: _taken(run, spec.unit) for spec in run.done()}
        known = {unit: s for unit, s in taken.items() if s is not None and unit not in failures}
        return cls(run.plan, run.done(), console, live, failures=failures, taken=known)

    def __enter__(self) -> RunDisplay:
        if self._console.is_terminal:
            self._progress.start()
        self._boundary()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()
        self._write_page(going=False)

    def started(self, spec: UnitSpec, slot: str, seconds_ago: float = 0.0) -> None:
        self.course.started(spec, seconds_ago)
        self._unit_tasks[spec.unit] = self._progress.add_task(
            f"{slot}: {spec.unit}", total=spec.num_steps, unit_of="steps", left=""
        )
        self._boundary()

    def stopping(self) -> None:
        """No unit is begun any more."""
        text = "stopping when the units under way are done; again to stop now"
        self._console.print(text, style="yellow")
        self.course.is_stopping = True
        self._boundary()

    def again(self, spec: UnitSpec, why: str) -> None:
        """The unit that was started, or was done, is run once more."""
        if self.course.is_running(spec.unit):
            self._progress.remove_task(self._unit_tasks.pop(spec.unit))
        self.course.again(spec)
        self._console.print(f"  again: {spec.unit}: {why}", style="yellow", markup=False)
        self._boundary()

    def progressed(self, steps: dict[str, int]) -> None:
        self._steps = steps
        for unit, count in steps.items():
            self._progress.update(self._unit_tasks[unit], completed=count)
        self._progress.update(self._run_task, left=left_words(self.course, steps))
        self._refresh()

    def finished(self, spec: UnitSpec, summary: UnitSummary, outcomes: list[Record]) -> None:
        told = {*self.course.failures.values(), *self.course.warnings}
        seconds = self.course.finished(spec, summary, outcomes)
        done = self.course.num_done
        self._progress.remove_task(self._unit_tasks.pop(spec.unit))
        self._progress.update(self._run_task, completed=done)
        statuses = sorted({record.status for record in outcomes} or {summary.status})
        self._console.print(
            f"[{done}/{len(self.course.states)}] {spec.unit}  {seconds:.1f} s  "
            f"{', '.join(statuses)}",
            markup=False,
        )
        failure = self.course.failures.get(spec.unit)
        said = {"failed": [failure] if failure else [], "warning": [*self.course.warnings]}
        for what, texts in said.items():
            for text in texts:
                if text not in told:
                    line = f"  {what}: {' '.join(text.split())}"
                    self._console.print(line, style="yellow", markup=False)
        self._boundary()

    def _boundary(self) -> None:
        """A unit has begun or ended."""
        self._write_page(going=True)
        self._refresh()

    def _write_page(self, *, going: bool) -> None:
        if self._live is None:
            return
        at_work = {u: n for u, n in self._steps.items() if self.course.is_running(u)}
        try:
            self._live.write(self.course, at_work, going=going)
        except (OSError, ValueError) as error:  # a run of hours does not end for want of a page
            self._live = None
            text = f"  warning: the page is no longer written: {error}"
            self._console.print(text, style="yellow", markup=False)

    def _refresh(self) -> None:
        if self._console.is_terminal:
            self._progress.refresh()


def watch(run: Run, console: Console) -> None:
    """Shows what other processes do on a run, until every unit of it is done and none measured
    again, or nobody does anything any more."""
    idle = 0
    told = ""
    with RunDisplay.of(run, console) as shown:
        over = {spec.unit for spec in run.done()}
        under_way: set[str] = set()
        while True:
            for spec in run.plan.units:
                _look(run, spec, shown, over, under_way)
            told = _tell(run, shown.course, console, under_way, told)
            worked_on = is_worked_on(run.folder)
            idle = idle + 1 if worked_on is False else 0
            if idle > _PATIENCE or (len(over) == len(run.plan.units) and not worked_on):
                break
            shown.progressed(_steps(run, under_way))
            time.sleep(_WATCH_SECONDS)
    if len(over) < len(run.plan.units):
        console.print("nobody works on this run; `bench resume` goes on with it", style="yellow")


def _tell(run: Run, course: Course, console: Console, at_work: set[str], told: str) -> str:
    """In a pipe, which has no bars, a line whenever a unit begins or ends; told: the last one.

    Returns what was told of the units.
    """
    if console.is_terminal:
        return told
    units = ", ".join(spec.unit for spec in course.plan.units if spec.unit in at_work)
    now = f"{course.num_done} of {len(course.states)} units done; at work: {units or 'none'}"
    if now != told:
        left = left_words(course, _steps(run, at_work))
        console.print(f"{now}; {left}" if left else now, markup=False, soft_wrap=True)
    return now


def _steps(run: Run, at_work: Iterable[str]) -> dict[str, int]:
    return {unit: read_progress(run.unfinished(unit)) for unit in at_work}


def _look(run: Run, spec: UnitSpec, shown: RunDisplay, over: set[str], under_way: set[str]) -> None:
    """Tells the display what has happened to a unit since the last look."""
    unit = spec.unit
    at_work = run.unfinished(unit).exists()
    if at_work and unit not in under_way:
        if unit in over:
            over.remove(unit)
            shown.again(spec, "it is measured again")
        under_way.add(unit)
        shown.started(spec, "at work", _since_begun(run.unfinished(unit)))
    elif not at_work and run.is_done(spec) and unit not in over:
        if unit not in under_way:  # it was shorter than the time between two looks
            shown.started(spec, "at work", _taken(run, unit) or 0.0)
        under_way.discard(unit)
        over.add(unit)
        shown.finished(spec, run.summary(unit), run.records_of(unit))
    elif not at_work and unit in under_way and unit not in over:
        under_way.remove(unit)
        shown.again(spec, "its process ended")


def _since_begun(unfinished: Path) -> float:
    """Seconds since a unit was begun, which writes what it is to do; 0.0 if it is over by now."""
    with contextlib.suppress(FileNotFoundError):
        return max(0.0, time.time() - (unfinished / SPEC).stat().st_mtime)
    return 0.0


def _taken(run: Run, unit: str) -> float | None:
    """Seconds of the process that did a unit; None: it did not live to say, or what it said can no
    longer be read."""
    with contextlib.suppress(UserError):
        return run.summary(unit).process_seconds
    return None


def left_words(course: Course, steps: Mapping[str, int]) -> str:
    """about 3 min 20 s left, as `Course.expected` has it; empty, where nothing is known."""
    expected = course.expected(steps)
    return "" if expected is None else f"{expected[0]}{duration(expected[1])} left"


def duration(seconds: float) -> str:
    """2 h 5 min, 3 min 20 s, 12 s; < 1 s of what is little and not nothing."""
    whole = round(seconds)
    if not whole and seconds > 0:
        return "< 1 s"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def operations(count: float | None) -> str:
    """1.23 TFLOP; of none that is known a dash."""
    return "–" if count is None else f"{_with_prefix(count, 1000, ' kMGTPE')}FLOP"


def bytes_words(count: float | None) -> str:
    """1.23 GiB; an unknown is a dash."""
    return "–" if count is None else f"{_with_prefix(count, 1024, ' KMGT')}iB"


def _with_prefix(value: float, base: int, prefixes: str) -> str:
    """Three digits, and the prefix of the unit that follows."""
    place = 0
    while value >= 999.5 and place < len(prefixes) - 1:
        value, place = value / base, place + 1
    digits = 0 if value >= 99.95 or not place else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefixes[place].strip()}"


# The settings that a reader tells most outcomes apart by, with the heads of their columns.
_SETTINGS = {
    "protocol": "protocol",
    "train_on": "on",
    "condition_on": "condition",
    "loader": "loader",
    "num_workers": "workers",
    "flip": "flip",
    "files": "files",
    "num_images": "images",
    "epochs": "epochs",
    "num_train_timesteps": "T",
    "beta_schedule": "schedule",
    "prediction_type": "predicts",
    "net": "prior net",
    "num_iter": "iterations",
    "start_from": "from",
    "t0": "t0",
    "start_image_weight": "a",
    "start_noise_weight": "b",
    "num_samples": "samples",
    "sampler": "sampler",
    "num_inference_steps": "steps",
}


def summary(run: Run) -> Table:
    """A row for each setting: what tells it from the others, what it cost, how it scored.

    Of several seeds and repeats the mean is shown, and how many they are.
    """
    costs = Costs(run.plan, run.stage_rows())
    records = [record for record in run.records() if not is_contest(record)]
    varied = _varied(records)
    table = _table(f"{run.plan.suite}: seconds and scores of each setting", varied, records)
    for name in ("runs", "train s", "total s", "eps loss", "all-pairs dB", "paired dB"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("status")
    for group in _same_settings(records):
        bills = [_bill(record, costs) for record in group]
        scores = ("eps_loss", "all_pairs_psnr", "paired_psnr")
        table.add_row(
            *_cells(group[0], varied),
            str(len(group)),
            _mean([_total(bill, "train_ddpm") for bill in bills], 2) or "–",
            _mean([_total(bill) for bill in bills], 2) or "–",
            *(_mean([record.scores.get(name) for record in group], 3) for name in scores),
            statuses(group),
        )
    return table


def contests(run: Run) -> Table:
    """A row for each contender of a contest: its pace beside what a user would pick instead."""
    from bench import speed  # and with it scipy, which no other command here needs

    table = Table(title=f"{run.plan.suite}: contests", title_justify="left")
    for name in ("of", "contender", "quality"):
        table.add_column(name, overflow="fold")
    for name in ("median s", "mean pace beside baseline", "rounds"):
        table.add_column(name, justify="right")
    for one in speed.entries(run.records()):
        ratio = one.ratio
        pace = "–" if ratio is None else f"{ratio.mean:.2f}x"
        if ratio is not None and ratio.low is not None and ratio.high is not None:
            pace += f" [{ratio.low:.2f}, {ratio.high:.2f}]"
        equal = {None: "", True: ", equal", False: ", other"}[one.gate.passed]
        quality = f"{one.quality:.4g}{equal}"
        table.add_row(
            one.contest, one.name, quality, f"{one.seconds:.3g}", pace, str(len(one.records))
        )
    return table


def statuses(records: Iterable[Record]) -> str:
    """ok; 5 ok, 1 error."""
    counts = Counter(record.status for record in records)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def cases(found: Sequence[Case], suite: str) -> Table:
    """A row for each setting of a suite: what tells it from the others, and how often it runs."""
    varied = _varied(found)
    same = {name: str(found[0].settings[name]) for name in _SETTINGS if name not in varied}
    title = f"{suite}: {len(found)} cases, all with " + ", ".join(
        f"{_SETTINGS[name]} {value}" for name, value in same.items()
    )
    table = _table(title, varied, found)
    for name in ("seeds", "repeats"):
        table.add_column(name)
    for group in _same_settings(found):
        seeds, repeats = ({getattr(case, of) for case in group} for of in ("seed", "repeat"))
        table.add_row(*_cells(group[0], varied), _listed(seeds), _listed(repeats))
    return table


def _same_settings(found: Iterable[One]) -> list[list[One]]:
    """Those that differ in seed and repeat alone, together."""
    groups: dict[str, list[One]] = {}
    for one in sorted(found, key=_order):
        groups.setdefault(repr(sorted(one.settings.items())), []).append(one)
    return list(groups.values())


def _listed(numbers: Iterable[int]) -> str:
    """0 to 5; 0, 2."""
    found = sorted(numbers)
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{found[0]} to {found[-1]}"
    return ", ".join(map(str, found))


def _varied(found: Iterable[Case | Record]) -> list[str]:
    """The settings in which outcomes differ: those that always have a column, and of the others
    as many as it takes to tell all rows apart."""
    settings = [one.settings for one in found]
    varied = [name for name in _SETTINGS if len({one.get(name) for one in settings}) > 1]
    return [*varied, *telling(settings, varied, first=("contest", "contender", "task"))]


def _table(title: str, varied: Iterable[str], found: Sequence[Case | Record]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in varied:
        number = all(isinstance(one.settings.get(name), int) for one in found)
        # Broken where there is no room: of a number that is cut, nothing is left.
        head = _SETTINGS.get(name, name)
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    return table


def _cells(one: Case | Record, varied: Iterable[str]) -> list[str]:
    return [str(one.settings.get(name)).removesuffix("_cap_v2") for name in varied]


def bill(run: Run) -> str:
    """What the stages cost, and what they would have cost had no case shared any."""
    costs, found = Costs(run.plan, run.stage_rows()), run.records()
    did, alone = costs.totals(found, lambda row: row.seconds)
    if not alone:
        return "No outcome was scored."
    text = (
        f"The stages took {duration(did)}; had no case shared any, {duration(alone)} "
        f"({did / alone:.2f} of it)."
    )
    counted, all_counted = costs.totals(found, lambda row: row.flops)
    if all_counted:
        text += (
            f" Their nets did {operations(counted)}; had no case shared any, "
            f"{operations(all_counted)} ({counted / all_counted:.2f} of it)."
        )
    return text


def _bill(record: Record, costs: Costs) -> list[StageRow | None]:
    """The rows with the figures of everything that a record rests on; None: they are not there."""
    return [costs.charged(record.unit, key) for key in record.stages]


def _order(one: Case | Record) -> tuple[object, ...]:
    names = ("task", *_SETTINGS)
    # Of a setting that may be left out, None comes first.
    values = (_sortable(one.settings.get(name)) for name in names)
    return (*values, one.seed, one.repeat)


def _sortable(value: Setting) -> tuple[bool, bool, float | str]:
    if isinstance(value, int | float):
        return True, False, value
    return value is not None, True, str(value)


def _total(bill: Iterable[StageRow | None], function: str | None = None) -> float | None:
    """The seconds of a bill, or of one function's part of it; None if they are not known."""
    rows = list(bill)
    wanted = [row for row in rows if row is None or function in (None, row.function)]
    known = [row.seconds for row in wanted if row is not None and row.seconds is not None]
    return sum(known) if known and len(known) == len(wanted) else None


def _mean(values: Iterable[float | None], digits: int) -> str:
    """The mean of those that are known; empty if none is."""
    known = [value for value in values if value is not None]
    return f"{fmean(known):.{digits}f}" if known else ""
