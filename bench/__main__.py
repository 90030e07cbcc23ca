"""python -m bench: measure dipddpm over a grid, one fresh process a unit."""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from bench import display, records, runner, suite
from bench.cases import functions_of
from bench.engines import open_engine
from bench.records import Plan, Run, UnitSpec, UserError
from bench.units import plan_units
from dipddpm.checks import MAX_WHOLE
from dipddpm.config import VERSION
from dipddpm.lookup import look_in
from dipddpm.sources import HUGGING_FACE, ImageSource, open_source

RUNS = Path("runs")


def main(arguments: list[str] | None = None) -> int:
    """0: all asked was done; 1: some records are failures; 2: bad input; 130: interrupted."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except UserError as error:
        print(_one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before a unit was at work
        print(_one_line("stopped"), file=sys.stderr)
        return 130


def _one_line(error: object) -> str:
    return "bench: " + " ".join(str(error).split("\n"))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, _one_line(message) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"dipddpm {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[..., int], text: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            allow_abbrev=False,
            help=text,
            description=text,
            epilog=f"example: python -m bench {example}",
        )
        sub.set_defaults(command=command)
        return sub

    add("list", list_suites, "show the suites", "list")

    run = add("run", run_suite, "run a suite", "run quick --device cpu --out runs/first")
    run.add_argument("suite", metavar="SUITE", help="a name from `list`, or a .toml file")
    run.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                     help="auto: CUDA where there is one, else the CPU")  # fmt: skip
    run.add_argument(
        "--images",
        metavar="IMAGES",
        help="objects, photos, a folder, or hf:OWNER/NAME, instead of the suite's",
    )
    run.add_argument(
        "--seed", type=_seed, metavar="N", help="instead of the base seed of the suite"
    )
    run.add_argument("--out", type=Path, metavar="RUN", help="the run's folder, new")
    run.add_argument("--keep-checkpoints", action="store_true", help="keep the EMA weights")
    run.add_argument("--dry-run", action="store_true", help="show what would run, and run nothing")
    _add_how(run)

    resume = add("resume", resume_run, "run what a run has not done yet", "resume runs/first")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("--retry-failed", action="store_true", help="run failed units again")
    _add_how(resume)

    status = add("status", show_status, "show how far a run is", "status runs/first")
    status.add_argument("run", metavar="RUN")
    status.add_argument("--quiet", action="store_true", help="one line, no table")

    clean = add("clean", clean_run, "delete what a run can do without", "clean runs/first")
    clean.add_argument("run", metavar="RUN")
    clean.add_argument("--all", action="store_true", help="delete the whole run")
    return parser


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=["forkserver", "subprocess"], default="forkserver",
                        help="how workers are started")  # fmt: skip
    parser.add_argument("--timeout", type=_seconds, default=math.inf, metavar="SECONDS",
                        help="end a unit that runs for longer; no limit if not given")  # fmt: skip


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 19 or int(text) > MAX_WHOLE:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to 2**63 - 1, got {text!r}"
        )
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return seconds


def list_suites(options: argparse.Namespace) -> int:
    """`bench list`: each bundled suite, its size and what it costs."""
    screen = display.console()
    for name in suite.names():
        found = suite.load(name)
        units = plan_units(found, seed=0, device="cpu")
        screen.print(f"{name}: {found.title}", style="bold", markup=False)
        screen.print(f"  {len(found.cases)} cases in {len(units)} units", markup=False)
        screen.print(f"  {' '.join(found.about.split())}", markup=False)
    return 0


def run_suite(options: argparse.Namespace) -> int:
    """`bench run`: makes the run folder and works through its units."""
    found = suite.load(options.suite, seed=options.seed, images=options.images)
    seed = options.seed or 0
    units = plan_units(found, seed=seed, device="cpu", keep_checkpoints=options.keep_checkpoints)
    where = "--images" if options.images else options.suite
    if options.dry_run:
        return _show(found, units, where)
    source = _open(found.images, where)
    suite.check_enough(found, source)
    now = datetime.now().astimezone()
    folder = options.out or RUNS / f"{found.name}-{now:%Y%m%d-%H%M%S}"
    runner.check_new(folder)
    environment = _describe(options, options.device)
    now_known = {"device": environment.device, "images_sha256": source.digest}
    plan = Plan(
        suite=found.name,
        title=found.title,
        about=" ".join(found.about.split()),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        created=now.isoformat(timespec="seconds"),
        seed=seed,
        device=environment.device,
        images=found.images,
        images_sha256=source.digest,
        images_skipped=source.skipped,
        functions=found.functions(),
        units=tuple(spec.model_copy(update=now_known) for spec in units),
    )
    return _work(runner.create(folder, plan, environment, found.text), options)


def _show(found: suite.Suite, units: list[UnitSpec], where: str) -> int:
    """What a run would do. What a network or a package could still mend is said at the end."""
    from bench import dryrun  # needs torch, and no device

    screen = display.console()
    screen.print(display.cases(found.cases, found.name))
    problem: Exception | None = None
    source = None
    try:
        screen.print(dryrun.table(units))
        source = _open(found.images, where)
    except ImportError as error:
        problem = error
    except UserError as error:
        if not found.images.startswith(HUGGING_FACE):
            raise
        problem = error
    if source is not None:
        suite.check_enough(found, source)
    if problem is not None:
        text = f"this cannot run yet: {problem}"
        screen.print(text, style="yellow", markup=False, soft_wrap=True)
    return 0


def resume_run(options: argparse.Namespace) -> int:
    """`bench resume`: what a run has not finished, on the same images, code and device."""
    run = Run.open(_run_folder(options.run))
    _check_same(run, _describe(options, run.plan.device))
    if options.retry_failed:
        with runner.locked(run.folder):
            runner.forget_failures(run)
    return _work(run, options)


def _check_same(run: Run, now: records.Environment) -> None:
    """Raises UserError if what the figures depend on is not what it was when the run began."""
    then = run.environment
    for what, before, after in (
        ("sources of dipddpm and bench", then.source_sha256, now.source_sha256),
        ("device", then.device_name, now.device_name),
        ("packages", then.packages, now.packages),
        ("threads", then.num_threads, now.num_threads),
        ("images", run.plan.images_sha256, _open(run.plan.images, str(run.folder)).digest),
        ("functions", run.plan.functions, _functions(run)),
    ):
        if before != after:
            raise UserError(
                f"{run.folder}: {what}: {after}, but the run began with {before}; start a new run"
            )


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
    run = Run.open(_run_folder(options.run))
    screen = display.console()
    if not options.quiet:
        screen.print(display.summary(run))
    screen.print(_state(run), markup=False)
    return 0 if _is_ok(run) else 1


def clean_run(options: argparse.Namespace) -> int:
    """`bench clean`: deletes what no report needs, or with --all the run."""
    run = Run.open(_run_folder(options.run))
    with runner.locked(run.folder):
        if options.all:
            shutil.rmtree(run.folder.resolve())
            run.folder.unlink(missing_ok=True)  # a link to it
            print(f"deleted {run.folder}")
            return 0
        unwanted = [
            *(run.folder / records.UNITS).glob(f"*{records.UNFINISHED}"),
            *(run.folder / records.UNITS).glob("*.failed"),
            *(run.folder / records.UNITS).glob(f"*/{records.ARTIFACTS}/*.ema.safetensors"),
        ]
        for path in unwanted:
            if path.is_dir():
                shutil.rmtree(path)
            else:  # which an unfinished attempt may have taken with it
                path.unlink(missing_ok=True)
        print(f"deleted {len(unwanted)} unfinished or failed attempts and checkpoints")
    return 0


def _describe(options: argparse.Namespace, device: str) -> records.Environment:
    display.console().print("loading torch to look at the machine ...")
    return open_engine(options.engine).describe(device)


def _work(run: Run, options: argparse.Namespace) -> int:
    screen = display.console()
    environment = run.environment
    screen.print(
        f"{run.plan.suite}: {len(run.plan.units)} units on {environment.device} "
        f"({environment.device_name}) into {run.folder}",
        style="bold", markup=False,
    )  # fmt: skip
    screen.print(run.plan.about, markup=False)
    try:
        with display.RunDisplay(run.plan, run.done(), screen) as shown:
            runner.run_units(
                run, open_engine(options.engine), shown, timeout_seconds=options.timeout
            )
    except KeyboardInterrupt:
        screen.print(f"stopped; go on with: {_command('bench resume', run)}", markup=False)
        return 130
    screen.print(display.summary(run))
    screen.print(display.bill(run), markup=False)
    screen.print(_state(run), markup=False)
    screen.print(f"report: {_command('reports build', run)}", markup=False)
    return 0 if _is_ok(run) else 1


def _command(words: str, run: Run) -> str:
    """A line to paste here, with the Python that runs now."""
    python = Path(sys.prefix) / "bin" / "python"
    here = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else "python"
    return f"{here} -m {words} {shlex.quote(str(run.folder))}"


def _is_ok(run: Run) -> bool:
    return not run.missing() and all(record.status == "ok" for record in run.records())


def _state(run: Run) -> str:
    found = run.records()
    counts: dict[str, int] = {}
    for record in found:
        counts[record.status] = counts.get(record.status, 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none"
    missing = len(run.missing())
    return f"records: {said}" + (f"; {missing} still to come" if missing else "")


def _run_folder(run: str) -> Path:
    """A run by its path, or by its name under runs/."""
    return Path(run) if Path(run).exists() else RUNS / run


if __name__ == "__main__":
    sys.exit(main())
