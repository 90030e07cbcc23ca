"""python -m bench: measure dipddpm over a grid, one fresh process a unit."""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from bench import command_line, display, noise, records, runner, suite, terminal
from bench.cases import functions_of
from bench.engines import Engine, ForkserverEngine, SubprocessEngine
from bench.errors import UserError
from bench.lifeline import ignore_interrupts
from bench.live import LIVE, LivePage
from bench.locks import locked
from bench.records import Plan, UnitSpec, is_contest
from bench.run_folder import RUNS, Run, find_run
from bench.suite import Suite
from bench.units import plan_profiles, plan_units
from dipddpm.checks import MAX_WHOLE
from dipddpm.config import VERSION
from dipddpm.lookup import look_in
from dipddpm.sources import HUGGING_FACE, ImageSource, open_source

_MAX_GPUS = 100_000
_LOCAL_ENGINES: dict[str, Callable[[], Engine]] = {
    "forkserver": ForkserverEngine,
    "subprocess": SubprocessEngine,
}


def main(arguments: list[str] | None = None) -> int:
    """0: all asked was done; 1: some records are failures; 2: bad input; 130: interrupted."""
    return command_line.run("bench", _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    commands = command_line.Commands("bench", __doc__)
    commands.parser.add_argument("--version", action="version", version=f"dipddpm {VERSION}")
    add = commands.add

    add("list", list_suites, "show the suites", "list")

    run = add("run", run_suite, "run a suite", "run quick --device cpu --out runs/first")
    _add_what(run)
    _add_kept(run)
    run.add_argument("--dry-run", action="store_true", help="show what would run, and run nothing")
    _add_untimed(run)
    _add_how(run)
    _add_reruns(run)
    _add_live(run)

    plan = add(
        "plan",
        plan_suite,
        "show the stages of a suite, and what they will take here or on another device",
        "plan paper --device h100",
    )
    plan.add_argument("suite", metavar="SUITE", help="a name from `list`, or a .toml file")
    plan.add_argument("--device", choices=["this", "cpu", "cuda", "h100"], default="this",
                      help="this: CUDA where there is one, else the CPU; h100: an estimate from "
                      "its published peak")  # fmt: skip
    plan.add_argument("--gpus", type=_num_gpus, nargs="+", default=(), metavar="N",
                      help="tell when it ends on so many of these devices")  # fmt: skip
    _add_images(plan)
    _add_untimed(plan)

    profile = add(
        "profile",
        profile_suite,
        "profile a shortened run of each arm of a suite: traces and their report",
        "profile quick --out runs/profile",
    )
    _add_what(profile)
    for flag, text in (
        ("--nvtx", "on CUDA: name the steps for nsys, and leave the device's own calls to it"),
        ("--memory-snapshot", "on CUDA: keep every allocation, for PyTorch's memory viewer"),
    ):
        profile.add_argument(flag, action="store_true", help=text)
    _add_how(profile)
    _add_live(profile)
    profile.set_defaults(reruns=0.0)

    resume = add("resume", resume_run, "run what a run has not done yet", "resume runs/first")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("--retry-failed", action="store_true", help="run failed units again")
    _add_force(resume)
    _add_how(resume)
    _add_reruns(resume)
    _add_live(resume)

    units = add(
        "units",
        write_units,
        "make a run's folder and print a command for each unit, for Slurm, xargs and the like",
        "units paper --device cuda --out runs/paper",
    )
    _add_what(units)
    _add_kept(units)
    units.set_defaults(engine="forkserver", address=None, storage=None)

    unit = add("unit", run_unit, "run one unit of a run", "unit runs/paper UNIT")
    unit.add_argument("run", metavar="RUN")
    unit.add_argument("unit", metavar="UNIT")
    _add_force(unit)
    _add_how(unit)

    status = add("status", show_status, "show how far a run is", "status runs/first")
    status.add_argument("run", metavar="RUN")
    status.add_argument("--quiet", action="store_true", help="one line, no table")
    status.add_argument("--watch", action="store_true", help="until the run is done or Ctrl-C")

    clean = add("clean", clean_run, "delete what a run can do without", "clean runs/first")
    clean.add_argument("run", metavar="RUN")
    clean.add_argument("--all", action="store_true", help="delete the whole run")
    return commands.parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", metavar="SUITE", help="a name from `list`, or a .toml file")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                        help="auto: CUDA where there is one, else the CPU")  # fmt: skip
    _add_images(parser)
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run's folder, new")


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        metavar="IMAGES",
        help="objects, photos, a folder, or hf:OWNER/NAME, instead of the suite's",
    )
    parser.add_argument(
        "--seed", type=_seed, metavar="N", help="instead of the base seed of the suite"
    )


def _add_untimed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--untimed", action="store_true", help="of what would run: time no steps "
                        "here, and tell no seconds")  # fmt: skip


def _add_kept(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep-checkpoints", action="store_true", help="keep the EMA weights")
    parser.add_argument("--cold", action="store_true",
                        help="warm nothing up: a first call's cost is measured too")  # fmt: skip


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=[*_LOCAL_ENGINES, "ray"], default="forkserver",
                        help="how workers are started")  # fmt: skip
    parser.add_argument("--address", help="of a Ray cluster; a new one here if not given")
    parser.add_argument("--storage", metavar="URL",
                        help="by which folders reach Ray's nodes; if not given they share RUN's "
                        "file system")  # fmt: skip
    parser.add_argument("--timeout", type=_seconds, default=math.inf, metavar="SECONDS",
                        help="end a unit that runs for longer; no limit if not given")  # fmt: skip


def _add_live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--live", action="store_true", help=f"keep {LIVE} in the run's folder: how "
                        "it goes, for a browser")  # fmt: skip


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="on other sources, packages "
                        "or device than the run began with; its records say so")  # fmt: skip


def _add_reruns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reruns", type=_percent, default=100 * runner.RERUN_SHARE,
                        metavar="PERCENT", help="of the run's time, for measuring again the units "
                        "during which the machine was busy (default: %(default)g)")  # fmt: skip


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 19 or int(text) > MAX_WHOLE:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to 2**63 - 1, got {text!r}"
        )
    return int(text)


def _num_gpus(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_GPUS:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers from 1 to {_MAX_GPUS}, got {text!r}"
        )
    return int(text)


def _seconds(text: str) -> float:
    seconds = command_line.number(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return seconds


def _percent(text: str) -> float:
    percent = command_line.number(text)
    if not 0 <= percent <= 100:
        raise argparse.ArgumentTypeError(f"must be from 0 to 100, got {text!r}")
    return percent


def list_suites(options: argparse.Namespace) -> int:
    """`bench list`: each bundled suite, its size and what it costs."""
    screen = terminal.console()
    for name in suite.names():
        found = suite.load(name)
        units = plan_units(found, seed=0, device="cpu")
        screen.print(f"{name}: {found.title}", style="bold", markup=False)
        screen.print(f"  {len(found.cases)} cases in {len(units)} units", markup=False)
        screen.print(f"  {' '.join(found.about.split())}", markup=False)
    return 0


def run_suite(options: argparse.Namespace) -> int:
    """`bench run`: makes the run folder and works through its units."""
    if options.dry_run:
        return _show(options, {"auto": "this"}.get(options.device, options.device))
    if options.untimed:
        raise UserError("--untimed must come with --dry-run")
    return _work(_new_run(options, _units_of, terminal.console()), options)


def plan_suite(options: argparse.Namespace) -> int:
    """`bench plan`: what a suite would take on a device."""
    return _show(options, options.device, options.gpus)


def profile_suite(options: argparse.Namespace) -> int:
    """`bench profile`: makes a run folder for profiles alone, and works through them."""

    def units_of(found: Suite, options: argparse.Namespace) -> list[UnitSpec]:
        return plan_profiles(
            found, device="cpu", nvtx=options.nvtx, memory_snapshot=options.memory_snapshot
        )

    return _work(_new_run(options, units_of, terminal.console()), options)


def write_units(options: argparse.Namespace) -> int:
    """`bench units`: makes the run folder and prints the commands that work through it."""
    # Standard output is for the commands alone.
    run = _new_run(options, _units_of, terminal.console(stderr=True))
    waves = {1: [spec for spec in run.plan.units if spec.kind == "shared"],
             2: [spec for spec in run.plan.units if spec.kind != "shared"]}  # fmt: skip
    for wave, specs in waves.items():
        path = run.folder / f"wave{wave}.txt"
        lines = [f"{_command('bench unit', run)} {shlex.quote(spec.unit)}\n" for spec in specs]
        # Schedulers and xargs trip over a wave of nothing.
        path.write_text("".join(lines) or ":\n", encoding="utf-8")
        print("".join(lines), end="")
        text = f"wave {wave}: {len(lines)} commands, also in {path}"
        print(text if wave == 1 else f"{text}; begin when wave 1 is done", file=sys.stderr)
    return 0


def run_unit(options: argparse.Namespace) -> int:
    """`bench unit`: one unit of a run, beside others that run elsewhere."""
    run = Run.open(find_run(options.run))
    if not run.is_done(runner.ready(run, options.unit)):
        forced = _forced(run, options)
        with display.RunDisplay.of(run, terminal.console()) as shown:
            runner.run_unit(
                run, options.unit, _engine(options), shown,
                timeout_seconds=options.timeout, forced=forced,
            )  # fmt: skip
    done = run.summary(options.unit).status == "ok"
    return 0 if done and all(one.status == "ok" for one in run.records_of(options.unit)) else 1


def _units_of(found: Suite, options: argparse.Namespace) -> list[UnitSpec]:
    return plan_units(
        found,
        seed=options.seed or 0,
        device="cpu",
        keep_checkpoints=options.keep_checkpoints,
        cold=options.cold,
    )


def _new_run(
    options: argparse.Namespace,
    units_of: Callable[[Suite, argparse.Namespace], list[UnitSpec]],
    screen: Console,
) -> Run:
    found = suite.load(options.suite, seed=options.seed, images=options.images)
    units = units_of(found, options)
    source = _open(found.images, _where(options))
    suite.check_enough(found, source)
    now = datetime.now().astimezone()
    folder = options.out or RUNS / f"{found.name}-{now:%Y%m%d-%H%M%S}"
    runner.check_new(folder)
    environment = _describe(options, options.device, screen)
    if environment.device != "cuda" and any(one.nvtx or one.memory_snapshot for one in units):
        raise UserError(
            f"--nvtx and --memory-snapshot need a CUDA device, got {environment.device}"
        )
    now_known = {"device": environment.device, "images_sha256": source.digest}
    plan = Plan(
        suite=found.name,
        title=found.title,
        about=" ".join(found.about.split()),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        created=now.isoformat(timespec="seconds"),
        seed=options.seed or 0,
        device=environment.device,
        images=found.images,
        images_sha256=source.digest,
        images_skipped=source.skipped,
        functions=found.functions(),
        units=tuple(spec.model_copy(update=now_known) for spec in units),
    )
    return runner.create(folder, plan, environment, found.text)


def _where(options: argparse.Namespace) -> str:
    """What named the images."""
    return "--images" if options.images else str(options.suite)


def _show(options: argparse.Namespace, device: str, num_gpus: Sequence[int] | None = None) -> int:
    """What a suite would do on a device; num_gpus: None for a run, whose cases are shown too.

    What a network or a package could still mend is said at the end.
    """
    found = suite.load(options.suite, seed=options.seed, images=options.images)
    units = plan_units(found, seed=options.seed or 0, device="cpu")
    problem: Exception | None = None
    source = None
    try:
        source = _open(found.images, _where(options))
    except ImportError as error:
        problem = error
    except UserError as error:
        if not found.images.startswith(HUGGING_FACE):
            raise
        problem = error
    if source is not None:
        suite.check_enough(found, source)
    from bench import dryrun  # needs torch, and no device

    screen = terminal.console()
    if num_gpus is None:
        screen.print(display.cases(found.cases, found.name))
    try:
        dryrun.show(
            units, device, source, screen, timed=not options.untimed, num_gpus=num_gpus or ()
        )
    except ImportError as error:
        problem = error
    if problem is not None:
        text = f"this cannot run yet: {problem}"
        screen.print(text, style="yellow", markup=False, soft_wrap=True)
    return 0


def resume_run(options: argparse.Namespace) -> int:
    """`bench resume`: what a run has not finished, on the same images, code and device."""
    run = Run.open(find_run(options.run))
    forced = _forced(run, options)
    if options.retry_failed:
        with locked(run.folder):
            runner.forget_failures(run)
    return _work(run, options, forced)


def _forced(run: Run, options: argparse.Namespace) -> tuple[str, ...]:
    """What is not as it was when the run began and may be forced.

    Raises UserError without --force, and for what would change the results themselves.
    """
    then, now = run.environment, _describe(options, run.plan.device, terminal.console())
    differing = [
        f"{what}: {after}, but the run began with {before}"
        for what, before, after in (
            ("sources of dipddpm and bench", then.source_sha256, now.source_sha256),
            ("device", then.device_name, now.device_name),
            ("packages", then.packages, now.packages),
            ("threads", then.num_threads, now.num_threads),
        )
        if before != after
    ]
    if differing and not options.force:
        raise UserError(f"{run.folder}: {differing[0]}; start a new run, or mark it with --force")
    for what, then_known, now_known in (
        ("images", run.plan.images_sha256, _open(run.plan.images, str(run.folder)).digest),
        ("functions", run.plan.functions, _functions(run)),
    ):
        if then_known != now_known:
            raise UserError(
                f"{run.folder}: {what}: {now_known}, but the run began with {then_known}; start a "
                "new run"
            )
    return tuple(differing)


def _functions(run: Run) -> dict[str, str]:
    for spec in run.plan.units:
        look_in(spec.functions)
    try:
        return functions_of(case for spec in run.plan.units for case in spec.cases)
    except ValueError as error:
        raise UserError(f"{run.folder}: {error}") from error


def _open(images: str, where: str) -> ImageSource:
    try:
        return open_source(images)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def show_status(options: argparse.Namespace) -> int:
    """`bench status`: 0 if every unit is done and every outcome ok, else 1."""
    run = Run.open(find_run(options.run))
    screen = terminal.console()
    if options.watch:
        display.watch(run, screen)
    if not options.quiet and run.records():
        _print_results(run, screen)
    screen.print(_state(run), markup=False)
    return 0 if _is_ok(run) else 1


def clean_run(options: argparse.Namespace) -> int:
    """`bench clean`: deletes what no report needs, or with --all the run."""
    run = Run.open(find_run(options.run))
    with locked(run.folder):
        if options.all:
            shutil.rmtree(run.folder.resolve())
            run.folder.unlink(missing_ok=True)  # a link to it
            print(f"deleted {run.folder}")
            return 0
        runner.tidy(run)
        unwanted = [
            *run.all_unfinished(),
            *run.aside(*records.ASIDE),
            *(run.folder / records.UNITS).glob(f"*/{records.ARTIFACTS}/*.ema.safetensors"),
        ]
        for path in unwanted:
            if path.is_dir():
                shutil.rmtree(path)
            else:  # which an unfinished attempt may have taken with it
                path.unlink(missing_ok=True)
        checkpoints = sum(path.suffix == ".safetensors" for path in unwanted)
        print(
            f"deleted {len(unwanted) - checkpoints} attempts that were unfinished or set aside, "
            f"and {checkpoints} checkpoints"
        )
    return 0


def _engine(options: argparse.Namespace) -> Engine:
    """The engine that was asked for. Raises UserError for an option that is not of it."""
    if options.engine == "ray":
        from bench.ray_engine import RayEngine

        return RayEngine(options.address, options.storage)
    for option in ("address", "storage"):
        if (value := getattr(options, option)) is not None:
            raise UserError(f"--{option} is of --engine ray, got {value!r} with {options.engine}")
    return _LOCAL_ENGINES[options.engine]()


def _describe(options: argparse.Namespace, device: str, screen: Console) -> records.Environment:
    screen.print("loading torch to look at the machine ...")
    return _engine(options).describe(device)


def _print_results(run: Run, screen: Console) -> None:
    records = run.records()
    if not all(map(is_contest, records)):
        screen.print(display.summary(run))
    if any(map(is_contest, records)):
        screen.print(display.contests(run))


def _work(run: Run, options: argparse.Namespace, forced: tuple[str, ...] = ()) -> int:
    screen = terminal.console()
    environment = run.environment
    screen.print(
        f"{run.plan.suite}: {len(run.plan.units)} units on {environment.device} "
        f"({environment.device_name}) into {run.folder}",
        style="bold", markup=False,
    )  # fmt: skip
    screen.print(run.plan.about, markup=False)
    try:
        live = LivePage(run.folder) if options.live else None
        with display.RunDisplay.of(run, screen, live) as shown:
            runner.run_units(
                run,
                _engine(options),
                shown,
                timeout_seconds=options.timeout,
                rerun_share=options.reruns / 100,
                forced=forced,
            )
    except KeyboardInterrupt:
        screen.print(
            f"stopped; go on with: {_command('bench resume', run)}", markup=False, soft_wrap=True
        )
        return 130
    if run.records():
        _print_results(run, screen)
        screen.print(display.bill(run), markup=False)
        screen.print(_state(run), markup=False)
    if run.profiles():
        hint = f"traces: tensorboard --logdir {shlex.quote(str(run.folder))}"
        screen.print(hint, markup=False, soft_wrap=True)
    if not _is_ok(run):
        again = f"{_command('bench resume', run)} --retry-failed"
        screen.print(f"failures are run again by: {again}", markup=False, soft_wrap=True)
    screen.print(f"report: {_command('reports build', run)}", markup=False, soft_wrap=True)
    return 0 if _is_ok(run) else 1


def _command(words: str, run: Run) -> str:
    """A line to paste here, with the Python that runs now."""
    python = Path(sys.prefix) / "bin" / "python"
    here = str(python)
    if python.is_relative_to(Path.cwd()):
        here = str(python.relative_to(Path.cwd()))
    elif shutil.which("python") == here:
        here = "python"
    return f"{shlex.quote(here)} -m {words} {shlex.quote(str(run.folder))}"


def _is_ok(run: Run) -> bool:
    statuses = {record.status for record in run.records()}
    statuses |= {summary.status for summary in run.summaries()}
    return not run.missing() and statuses == {"ok"}


def _state(run: Run) -> str:
    found = run.records()
    counts: dict[str, int] = {}
    for record in found:
        counts[record.status] = counts.get(record.status, 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none"
    if profiles := run.profiles():
        said += f"; {len(profiles)} profiled stages"
    if missing := len(run.missing()):
        said += f"; {missing} still to come"
    summaries = run.summaries()
    if busy := noise.busy(summaries, run.environment.cpu_count):
        said += (
            f"\nthe machine was busy with something else during {len(busy)} of "
            f"{sum(map(noise.is_watched, summaries))} units, whose times are no measurement; the "
            "report names them"
        )
    return "\n".join([f"records: {said}", *run.altered()])


if __name__ == "__main__":
    # A scheduler's way to say Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = main()
    ignore_interrupts()  # there is nothing left to stop
    sys.exit(status)
