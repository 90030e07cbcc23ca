"""python -m bench: measure dipddpm over a grid, one fresh process a unit."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from bench import display, records, runner, suite
from bench.engines import open_engine
from bench.records import Plan, Run, UserError
from dipddpm.config import VERSION
from dipddpm.sources import open_source

RUNS = Path("runs")


def main(arguments: list[str] | None = None) -> int:
    """0: all asked was done; 1: some records are failures; 2: bad input; 130: interrupted."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dipddpm {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[..., int], text: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=f"example: python -m bench {example}"
        )
        sub.set_defaults(command=command)
        return sub

    add("list", list_suites, "show the suites", "list")

    run = add("run", run_suite, "run a suite", "run quick --device cpu --out runs/first")
    run.add_argument("suite", metavar="SUITE", help="a name from `list`, or a .toml file")
    run.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                     help="auto: CUDA where there is one, else the CPU")  # fmt: skip
    run.add_argument("--images", metavar="objects|FOLDER", help="instead of what the suite names")
    run.add_argument("--seed", type=int, help="instead of the base seed of the suite")
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
    parser.add_argument("--timeout", type=float, default=math.inf, metavar="SECONDS",
                        help="end a unit that runs for longer; no limit if not given")  # fmt: skip


def list_suites(options: argparse.Namespace) -> int:
    screen = display.console()
    for name in suite.names():
        found = suite.load(name)
        units = suite.units(found, open_source(found.images), seed=0, device="cpu")
        screen.print(f"{name}: {found.title}", style="bold", markup=False)
        screen.print(f"  {len(found.cases)} cases in {len(units)} units", markup=False)
        screen.print(f"  {' '.join(found.about.split())}", markup=False)
    return 0


def run_suite(options: argparse.Namespace) -> int:
    found = suite.load(options.suite, seed=options.seed, images=options.images)
    try:
        source = open_source(found.images)
    except ValueError as error:
        raise UserError(f"{'--images' if options.images else options.suite}: {error}") from error
    seed = options.seed or 0
    units = suite.units(
        found, source, seed=seed, device="cpu", keep_checkpoints=options.keep_checkpoints
    )
    if options.dry_run:
        from bench import dryrun  # needs torch, and no device

        display.console().print(dryrun.table(units, source))
        return 0
    now = datetime.now().astimezone()
    folder = options.out or RUNS / f"{found.name}-{now:%Y%m%d-%H%M%S}"
    runner.check_new(folder)
    environment = _describe(options, options.device)
    plan = Plan(
        suite=found.name,
        title=found.title,
        about=" ".join(found.about.split()),
        command=" ".join(["python -m bench", *sys.argv[1:]]),
        created=now.isoformat(timespec="seconds"),
        seed=seed,
        device=environment.device,
        images=found.images,
        images_sha256=source.digest,
        units=tuple(spec.model_copy(update={"device": environment.device}) for spec in units),
    )
    return _work(runner.create(folder, plan, environment, found.text), options)


def resume_run(options: argparse.Namespace) -> int:
    run = Run.open(_run_folder(options.run))
    if options.retry_failed:
        with runner.locked(run.folder):
            runner.forget_failures(run)
    environment = _describe(options, run.plan.device)
    if environment.source_sha256 != run.environment.source_sha256:
        raise UserError(
            f"{run.folder}: the sources of dipddpm are not those it began with; start a new run"
        )
    if environment.device_name != run.environment.device_name:
        raise UserError(
            f"{run.folder}: began on {run.environment.device_name}, this is "
            f"{environment.device_name}; start a new run"
        )
    return _work(run, options)


def show_status(options: argparse.Namespace) -> int:
    run = Run.open(_run_folder(options.run))
    screen = display.console()
    if not options.quiet:
        screen.print(display.summary(run))
    screen.print(_state(run), markup=False)
    return 0 if _is_ok(run) else 1


def clean_run(options: argparse.Namespace) -> int:
    run = Run.open(_run_folder(options.run))
    with runner.locked(run.folder):
        if options.all:
            shutil.rmtree(run.folder)
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
            else:
                path.unlink()
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
        screen.print(f"stopped; go on with: python -m bench resume {run.folder}", markup=False)
        return 130
    screen.print(display.summary(run))
    screen.print(display.bill(run), markup=False)
    screen.print(_state(run), markup=False)
    screen.print(f"report: python -m reports build {run.folder}", markup=False)
    return 0 if _is_ok(run) else 1


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
