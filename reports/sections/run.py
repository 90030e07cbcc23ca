"""The sections on the run itself: all outcomes, what went wrong or is missing, where it ran."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

from bench.apart import telling, value_words
from bench.records import Case, MachineState, Plan, Setting, is_contest
from bench.stats import CONFIDENCE, MIN_EXECUTIONS
from bench.verdicts import MIN_PAIRS, MIN_SEEDS
from reports.blocks import Block, Cell, Code, Listing, Section, Table, Text
from reports.context import (
    ALL_PAIRS_PSNR,
    EPS_LOSS,
    PAIRED_PSNR,
    PER_IMAGE,
    TOTAL_SECONDS,
    Report,
)
from reports.effects import mean_by_seed, mean_cell
from reports.load import log_tail, plain_text, without_home
from reports.pairs import Quantity
from reports.tables import MAIN_SETTINGS, Outcome
from reports.words import (
    MAX_LISTED,
    by_text,
    bytes_of,
    number,
    plural,
    schedule,
    seconds,
    some_of,
    three,
)

# The raw table inside the page; above this many bytes it stays a file beside it.
MAX_RAW = 600_000
# Of outcomes; of more each setting has one.
MAX_ROWS = 1_000


# Results ---------------------------------------------------------------------------------------


def _score(name: str) -> Callable[[Outcome], Cell]:
    def cell(outcome: Outcome) -> Cell:
        value = outcome.score(name)
        return Cell(number(value), value)

    return cell


def _setting(name: str) -> Callable[[Outcome], Cell]:
    def cell(outcome: Outcome) -> Cell:
        value = outcome.settings.get(name)
        shown = value if isinstance(value, str | int | float) else None
        return Cell("–" if value is None else _plain(value), shown)

    return cell


def _group(group: str) -> Callable[[Outcome], Cell]:
    return lambda outcome: _taken(outcome.group_seconds(group))


def _taken(value: float | None, *, factor: float = 1.0) -> Cell:
    return Cell("–" if value is None else three(factor * value), value)


def _status(outcome: Outcome) -> Cell:
    record = outcome.record
    status = record.status if outcome.ok or record.status != "ok" else "incomplete"
    text = status if record.repeat == 1 else f"{status}, repeat {record.repeat}"
    return Cell(text, text)


def _marked(cell: Cell) -> Cell:
    """The status of an outcome during whose unit the machine was busy."""
    return Cell(f"{cell.text}, disturbed", f"{cell.text}, disturbed")


def _loader(outcome: Outcome) -> Cell:
    settings = outcome.settings
    text = str(settings.get("loader"))
    if settings.get("num_workers"):
        text += f", {settings['num_workers']} workers"
    return Cell(text, text)


def _schedule(outcome: Outcome) -> Cell:
    settings = outcome.settings
    text = schedule(settings.get("num_train_timesteps"), settings.get("beta_schedule"))
    return Cell(text, text)


_Columns = Sequence[tuple[str, Callable[[Outcome], Cell]]]
_COMMON: _Columns = (
    ("train on", _setting("train_on")),
    ("loader", lambda outcome: _loader(outcome)),
    ("images", _setting("num_images")),
    ("schedule", _schedule),
    ("epochs", _setting("epochs")),
    ("seed", lambda outcome: Cell(str(outcome.record.seed), outcome.record.seed)),
    ("status", lambda outcome: _status(outcome)),
)
_GENERATION = (
    *_COMMON,
    ("ms an image", lambda outcome: _taken(outcome.train_seconds_per_image, factor=1000)),
    ("waiting, s", lambda outcome: _taken(outcome.data_wait_seconds)),
    ("step, ms", lambda outcome: _taken(outcome.median_step_seconds, factor=1000)),
    ("first step, ms", lambda outcome: _taken(outcome.first_step_seconds, factor=1000)),
    ("priors, s", _group("priors")),
    ("train, s", _group("train")),
    ("sample, s", _group("sample")),
    ("total, s", lambda outcome: _taken(outcome.total_seconds)),
    ("eps loss", _score("eps_loss")),
    ("PSNR, dB", _score("all_pairs_psnr")),
    ("SSIM", _score("all_pairs_ssim")),
    ("lag-1", _score("lag1_autocorrelation")),
    ("peak memory of its bill", lambda outcome: _memory(outcome)),
    ("CPU energy, J", lambda outcome: _taken(outcome.joules("cpu_joules"))),
    ("GPU energy, J", lambda outcome: _taken(outcome.joules("gpu_joules"))),
)
_RESTORATION = (
    *_COMMON,
    ("condition", _setting("condition_on")),
    ("start", _setting("start_from")),
    ("t0", _setting("t0")),
    ("sampler", _setting("sampler")),
    ("steps", _setting("num_inference_steps")),
    ("start, s", lambda outcome: _taken(outcome.start_seconds)),
    ("sample, s", _group("sample")),
    ("total, s", lambda outcome: _taken(outcome.total_seconds)),
    ("paired PSNR, dB", _score("paired_psnr")),
    ("paired SSIM", _score("paired_ssim")),
    ("degraded, dB", _score("degraded_psnr")),
)


# What paper has no room for, and a reader of it the least use.
_SCREEN_ONLY = (
    "waiting, s", "step, ms", "first step, ms", "SSIM", "lag-1", "peak memory of its bill",
    "CPU energy, J", "GPU energy, J", "sampler", "start, s", "paired SSIM",
)  # fmt: skip
# The settings that these columns show.
_SHOWN = (
    "train_on", "loader", "num_workers", "num_images", "num_train_timesteps", "beta_schedule",
    "epochs",
)  # fmt: skip
_SHOWN_OF_RESTORATIONS = (
    *_SHOWN, "condition_on", "start_from", "t0", "sampler", "num_inference_steps",
)  # fmt: skip


def _memory(outcome: Outcome) -> Cell:
    """The device's where it tells, else the process's."""
    peak = outcome.peak("device_peak_allocated_bytes")
    peak = outcome.peak("host_peak_bytes") if peak is None else peak
    return Cell(bytes_of(peak), peak)


def _results_table(
    own: Sequence[Outcome],
    caption: str,
    columns: _Columns,
    shown: Sequence[str],
    disturbed: Container[str],
) -> Table:
    """A row an outcome; a seed that all have stands in the caption.

    shown: the settings that `columns` tell; others have one where it takes them to tell rows apart
    """
    if len(own) > MAX_ROWS:
        return _settings_table(own, caption, disturbed)
    told = telling([one.settings for one in own], shown, first=MAIN_SETTINGS)
    more = [(name, _setting(name)) for name in told]
    columns = [*more, *columns]
    seeds = {outcome.record.seed for outcome in own}
    if len(seeds) == 1:
        caption = f"{caption}, seed {seeds.pop()}"
        columns = [column for column in columns if column[0] != "seed"]
    cells = {name: [cell(outcome) for outcome in own] for name, cell in columns}
    cells["status"] = [
        _marked(cell) if outcome.record.unit in disturbed else cell
        for outcome, cell in zip(own, cells["status"], strict=True)
    ]
    # No column for what this machine does not meter.
    told = [name for name in cells if "energy" not in name
            or any(cell.value is not None for cell in cells[name])]  # fmt: skip
    rows = [list(row) for row in zip(*(cells[name] for name in told), strict=True)]
    screen_only = [name for name in _SCREEN_ONLY if name in told]
    return Table(told, rows, caption, filterable=True, screen_only=screen_only)


def _settings_table(own: Sequence[Outcome], caption: str, disturbed: Container[str]) -> Table:
    """A row a setting, with the means over its outcomes: of too many for a row each."""
    told = telling([one.settings for one in own], (), first=MAIN_SETTINGS)
    groups: dict[tuple[Setting, ...], list[Outcome]] = {}
    for one in own:
        groups.setdefault(tuple(one.settings.get(name) for name in told), []).append(one)
    rows = []
    for values, some in list(groups.items())[:MAX_ROWS]:
        ok = [one for one in some if one.ok]
        busy = sum(one.record.unit in disturbed for one in some)
        rows.append(
            [
                *(Cell(_plain(value), _plain(value)) for value in values),
                Cell(str(len(some)), len(some)),
                Cell(str(len(some) - len(ok)), len(some) - len(ok)),
                Cell(str(busy), busy),
                *(mean_cell(mean_by_seed(ok, quantity), form) for quantity, form in _MEANS),
            ]
        )
    left = len(groups) - len(rows)
    return Table(
        [*told, "outcomes", "failed", "disturbed", *(quantity.name for quantity, _ in _MEANS)],
        rows,
        f"{caption}: means over seeds with 95 % intervals, as {len(own)} outcomes are too many for "
        "a row each" + (f"; {left} more settings are in results.csv" if left else ""),
        filterable=True,
    )


_MEANS: Sequence[tuple[Quantity, Callable[[float | None], str]]] = (
    (PER_IMAGE, seconds),
    (TOTAL_SECONDS, seconds),
    (EPS_LOSS, number),
    (ALL_PAIRS_PSNR, number),
    (PAIRED_PSNR, number),
)


def results(report: Report, csv: bytes) -> Section:
    """All outcomes, generation and restoration apart; the raw values folded below."""
    found = report.found
    ok = sum(outcome.ok for outcome in found)
    finding = (
        f"{plural(len(found), 'outcome')}, {ok} of them ok, {len(report.run.missing)} missing."
    )
    blocks: list[Block] = []
    kinds = (
        ("generate", "Samples from noise", _GENERATION, _SHOWN),
        ("restore", "Restorations", _RESTORATION, _SHOWN_OF_RESTORATIONS),
    )
    for task, caption, columns, shown in kinds:
        own = [outcome for outcome in found if outcome.settings.get("task") == task]
        if own:
            blocks.append(_results_table(own, caption, columns, shown, report.run.disturbed))
    blocks.append(
        Code(csv.decode(), "data: results.csv, all columns, unrounded")
        if len(csv) <= MAX_RAW
        else Text(
            "All columns, unrounded, are in results.csv and results.parquet beside this page."
        )
    )
    return Section("results", "Results", finding, blocks)


# What went wrong -------------------------------------------------------------------------------


def troubles(report: Report) -> Section:
    """Failures and warnings with their text, missing cases, attempts kept aside."""
    run = report.run
    failed = [outcome for outcome in report.found if not outcome.ok]
    units = [summary for summary in run.summaries if summary.status != "ok"]
    lost = [one for one in run.contests if one.status != "ok"]
    records = (*(one.record for one in report.found), *run.contests)
    warnings = by_text(text for one in records for text in one.warnings)
    finding = (
        f"{plural(len(failed) + len(lost), 'failed outcome')}, "
        f"{plural(len(run.missing), 'missing outcome')}, "
        f"{plural(len(warnings) + len(report.artifacts.warnings), 'warning')}."
    )
    blocks: list[Block] = []
    if failed:
        said = by_text(one.failure or "" for one in failed)
        blocks.append(Listing(said, f"Failures; run again by `{run.resume} --retry-failed`"))
    if lost:
        said = by_text(one.error or one.status for one in lost)
        blocks.append(Listing(said, f"Failed contests; run again by `{run.resume} --retry-failed`"))
    for summary in units[:MAX_LISTED]:
        text = plain_text(summary.error or summary.status)
        tail = log_tail(run, summary.unit)
        blocks.append(Listing([f"{summary.unit}: {summary.status}: {text}"], "Failed unit"))
        if tail:
            blocks.append(Code(tail, f"the last lines of {summary.unit}/log.txt"))
    if more := units[MAX_LISTED:]:
        said = by_text((f"{one.status}: {one.error or one.status}" for one in more), "unit")
        blocks.append(Listing(said, "More failed units"))
    if run.missing:
        named = _case_words(run.plan, run.missing[:MAX_LISTED])
        left = len(run.missing) - len(named)
        named += [f"and {left} more"] if left else []
        blocks.append(Listing(named, f"Missing; made by `{run.resume}`"))
    if warnings:
        blocks.append(Listing(warnings, "Warnings"))
    skipped = [plain_text(text) for text in run.plan.images_skipped]
    if skipped:
        blocks.append(Listing(some_of(skipped), f"Images left out: {len(skipped)}"))
    if report.artifacts.warnings:
        blocks.append(Listing(report.artifacts.warnings, "Artifacts that were not shown"))
    if run.attempts:
        blocks.append(Listing(some_of(run.attempts), "Attempts kept aside, counted nowhere"))
    return Section("troubles", "Warnings, failures, missing", finding, blocks)


def _case_words(plan: Plan, cases: Iterable[Case]) -> list[str]:
    """Each by what tells it from the others of its kind in the plan."""
    planned = [case for spec in plan.units if spec.gives_records for case in spec.cases]
    names: dict[bool, list[str]] = {}
    for contested, main in ((False, MAIN_SETTINGS), (True, ("contest", "contender"))):
        of_kind = [case.settings for case in planned if is_contest(case) == contested]
        names[contested] = [*main, *telling(of_kind, main)]
    return [
        ", ".join(
            [
                *(f"{n} = {_plain(case.settings.get(n))}" for n in names[is_contest(case)]),
                f"seed = {case.seed}, repeat = {case.repeat}",
            ]
        )
        for case in cases
    ]


# Environment -----------------------------------------------------------------------------------


def environment(report: Report) -> Section:
    """Machine, code, settings common to all outcomes, commands."""
    run = report.run
    machine, plan = run.environment, run.plan
    state = {True: ", with uncommitted changes", False: "", None: ", state unknown"}[machine.dirty]
    facts: list[tuple[str, str]] = [
        ("device", f"{machine.device}: {machine.device_name} × {machine.device_count}"),
        ("driver", machine.driver or "–"),
        (
            "processor",
            f"{machine.cpu}, {machine.cpu_count} logical, {machine.num_threads} threads used",
        ),
        ("memory", bytes_of(machine.memory_bytes)),
        ("memory that the control group may use", bytes_of(machine.memory_limit_bytes)),
        ("GPU cut into several (MIG)", {True: "yes", False: "no", None: "–"}[machine.mig]),
        ("system", f"{machine.os}, Python {machine.python}"),
        ("packages", ", ".join(f"{name} {v}" for name, v in sorted(machine.packages.items()))),
        ("flags", ", ".join(f"{name} = {value}" for name, value in sorted(machine.flags.items()))),
        ("commit", f"{machine.commit or 'unknown'}{state}"),
        ("subject", machine.subject or "–"),
        ("sources, SHA-256", machine.source_sha256),
        ("images", f"{without_home(plan.images)}, SHA-256 {plan.images_sha256}"),
        ("begun", plan.created),
        *_states([state for summary in run.summaries for state in summary.machine]),
    ]
    finding = (
        f"{machine.device_name}, torch {machine.packages.get('torch', 'unknown')}, commit "
        f"{(machine.commit or 'unknown')[:12]}{state}."
    )
    blocks: list[Block] = [
        _facts(facts, "Machine and code"),
        Text(
            "; ".join(f"{name} = {value}" for name, value in _common_settings(report)) + ".",
            "Settings that all outcomes share",
        ),
        _overhead(report),
        Text("", "Commands"),
        Code(without_home(f"{plan.command}\npython -m reports build {run.folder}")),
        Listing(_METHOD, "How the figures were computed"),
    ]
    return Section("environment", "Environment and method", finding, blocks)


def _range(values: list[float]) -> str:
    return f"{three(min(values))} to {three(max(values))}" if values else "–"


def _states(states: Sequence[MachineState]) -> list[tuple[str, str]]:
    """From the least to the most at the ends of units; what was never told is a dash."""
    gpus = [state.gpu for state in states if state.gpu]

    def known(values: Iterable[float | None]) -> str:
        return _range([value for value in values if value is not None])

    throttles = {reason for gpu in gpus for reason in gpu.throttle_reasons or ()}
    governors = {state.cpu_governor for state in states if state.cpu_governor}
    return [
        ("load average", known(state.load_average for state in states)),
        ("CPU clock, MHz", known(state.cpu_mhz for state in states)),
        ("CPU frequency policy", ", ".join(sorted(governors)) or "–"),
        ("CPU temperature, °C", known(state.cpu_temperature_celsius for state in states)),
        ("GPU clock, MHz", known(gpu.sm_mhz for gpu in gpus)),
        ("GPU temperature, °C", known(gpu.temperature_celsius for gpu in gpus)),
        ("GPU power, W", known(gpu.power_watts for gpu in gpus)),
        ("GPU power limit, W", known(gpu.power_limit_watts for gpu in gpus)),
        ("GPU throttled by", ", ".join(sorted(throttles)) or "–"),
    ]


def _facts(facts: Iterable[tuple[str, str]], caption: str) -> Table:
    return Table(["what", "value"], [[Cell(n, n), Cell(v, v)] for n, v in facts], caption)


def _common_settings(report: Report) -> list[tuple[str, str]]:
    # A record without settings shares none.
    # One object, which many may have, is looked at once.
    found = {id(one.settings): one.settings for one in report.found if one.settings}
    first, *rest = found.values() or [{}]
    return [
        (name, _plain(value))
        for name, value in sorted(first.items())
        if all(name in other and other[name] == value for other in rest)
    ]


def _plain(value: Setting) -> str:
    return without_home(value_words(value))


def _overhead(report: Report) -> Table:
    """Where the processes' time went beside the stages; figures only for units that told."""
    told = [summary for summary in report.run.summaries if summary.process_seconds is not None]
    process = sum(summary.process_seconds or 0.0 for summary in told)
    units = {summary.unit for summary in told}
    stages = sum(
        row.seconds or 0.0 for row in report.run.rows if row.executed and row.unit in units
    )
    names = sorted({name for summary in told for name in summary.overhead_seconds})
    parts = [(name, sum(s.overhead_seconds.get(name, 0.0) for s in told)) for name in names]
    parts.sort(key=lambda part: -part[1])
    rows = [("all stages", stages), *parts, ("processes, in all", process)]
    return Table(
        ["part", "time"],
        [[Cell(name, name), Cell(seconds(value), value)] for name, value in rows],
        f"Where the time of {plural(len(told), 'process', 'processes')} went. What is no stage is "
        "in no bill.",
    )


_METHOD = (
    "A bill: the seconds of every stage that the scores of an outcome rest on, found by key from "
    "the outcome back to the files. What was reused is charged in full from the unit that made "
    "it.",
    "Groups: prepare (decode, resize, degrade); priors (fit, join, write as files, make targets "
    "and starts, functions of the user's among them); train; sample; score.",
    "Training seconds an image: the train stages' seconds over epochs × images; priors not in it.",
    "A pair: two outcomes equal in every setting and the seed but the one factor. Effect: mean of "
    f"the log-ratios, of scores in dB or KID of the differences; interval: paired t, "
    f"{CONFIDENCE:.0%}; p: exact sign flips.",
    "Words: equal, where the 90 % interval lies within the margin (2 % of times and losses, 0.3 dB "
    "of PSNR); else a direction, where the 95 % interval leaves out no effect; else not "
    "distinguishable. Both stand only beside controls that are smaller, else they are withheld: "
    "A-vs-A, and for times what makes no difference to a step. On a CPU scores are the same in "
    "every run of a case: their A-vs-A is 0 and holds nothing back. "
    f"A verdict takes {MIN_PAIRS} pairs, one on quality {MIN_SEEDS} seeds as well; all words are "
    "descriptive, without correction for their number.",
    "Replicates are fresh processes: pairs that share one are averaged first, and below "
    f"{MIN_EXECUTIONS} there is no interval. The arms of a setting and seed run back to back; "
    "between settings these blocks are the replicates. Of a score the replicate is the seed of "
    "training, of a restoration the image, each the mean over the nets of all seeds.",
    "A mean over seeds: of times and losses the geometric one, whose interval is that of the "
    "logarithms, unless one of them is 0; of scores in dB, KID and the like the arithmetic one, "
    "and of the parts of a bill, which add up.",
    "Arms and levels are compared after equally many epochs: the last milestone that both runs "
    "have.",
    "A dash is a value that is not known; it is never 0.",
)


def minutes(report: Report) -> str:
    """How long the processes worked, one after the other."""
    told = [s.process_seconds for s in report.run.summaries if s.process_seconds is not None]
    return seconds(sum(told)) if told else "unknown"
