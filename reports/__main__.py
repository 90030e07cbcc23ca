"""python -m reports: one HTML page from the records of a run, and one that lists runs."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import shlex
import sys
from pathlib import Path

from bench import command_line
from bench.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """0: the report is written; 2: bad input, nothing is written."""
    return command_line.run("reports", _parser().parse_args(arguments))


# Of an interval; whoever wants a narrower one waits for ever.
_LEAST_WIDTH = 0.001


def _parser() -> argparse.ArgumentParser:
    commands = command_line.Commands("reports", __doc__)
    commands.parser.add_argument("--version", action="version", version=f"dipddpm {_version()}")
    add = commands.add

    one = add(
        "build",
        build,
        "write report.html, and tables and verdicts for others to read, into a run's folder",
        "build runs/first",
    )
    one.add_argument("run", metavar="RUN", help="a path, or a name under runs/")

    several = add(
        "compare",
        build_comparison,
        "write comparison.html: the same cases in two runs or more, side by side",
        "compare runs/before runs/after",
    )
    several.add_argument("first", metavar="RUN", help="a path, or a name under runs/")
    several.add_argument("others", metavar="RUN", nargs="+", help="to hold against the first")
    several.add_argument("--across", action="store_true", help="although their devices, images or "
                         "protocols differ")  # fmt: skip
    several.add_argument("--out", metavar="FOLDER", help="for comparison.html and comparison.csv; "
                         "the last run's if not given")  # fmt: skip

    drawn = add(
        "figure",
        save_figure,
        "write a figure of a report as a file of its own, for a README or a paper",
        "figure runs/first loss-1 loss.svg",
    )
    drawn.add_argument("run", metavar="RUN", help="whose report.html is there")
    drawn.add_argument("figure", metavar="FIGURE", help="the last part of the link beside it")
    drawn.add_argument("out", metavar="FILE.svg")

    for name, of, example in (
        (
            "commits",
            "two commits held against each other, for a browser and a pull request",
            "commits runs/comparisons/NAME/compare.json",
        ),
        ("history", "the suite over a range of commits", "history runs/benchmarks/history.json"),
    ):
        found = add(name, build_of_commits, f"write the page of {of}, beside its file", example)
        found.add_argument("file", metavar=f"{'COMPARE' if name == 'commits' else 'HISTORY'}.JSON")
        found.set_defaults(kind=name)

    plan = add(
        "plan",
        show_plan,
        "tell how many pairs an interval would take, at which setting, and what they would cost",
        "plan runs/first --within 1",
    )
    plan.add_argument("run", metavar="RUN", help="whose spread it goes by")
    plan.add_argument("--within", type=_width, default=2.0, metavar="PERCENT", help="half of "
                      "the 95 %% interval of times and losses (default: %(default)g)")  # fmt: skip
    plan.add_argument("--within-db", type=_width, default=0.3, metavar="DB", help="of PSNRs "
                      "(default: %(default)g)")  # fmt: skip

    index = add(
        "index",
        build_index,
        "write index.html into a folder of runs: all of them, by suite, with their trend",
        "index runs",
    )
    index.add_argument("folder", metavar="FOLDER", nargs="?", default="runs", help="of runs")
    return commands.parser


def _version() -> str:
    try:
        return importlib.metadata.version("dipddpm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def build(options: argparse.Namespace) -> int:
    """Prints the path of the page as the last line."""
    from reports import load

    run = load.load_run(load.find_run(options.run))
    # pandas and matplotlib take a second to import; neither --help nor bad input waits for them.
    from reports import page

    page.write(run.folder, page.build(run))
    print(run.folder / "report.html")
    return 0


def _width(text: str) -> float:
    value = command_line.number(text)
    if not _LEAST_WIDTH <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"must be at least {_LEAST_WIDTH} and finite, got {text!r}"
        )
    return value


def show_plan(options: argparse.Namespace) -> int:
    """A row a claim."""
    from reports import load

    run = load.load_run(load.find_run(options.run))
    import rich.table

    from bench.terminal import console
    from reports.blocks import Table
    from reports.claims import judged_claims
    from reports.context import Report
    from reports.planning import Wanted
    from reports.sections.planning import planning

    report = Report(run)
    wanted = Wanted(options.within / 100, options.within_db)
    section = planning(report, judged_claims(report), wanted)
    screen = console()
    screen.print(section.finding, markup=False)
    for block in section.blocks:
        assert isinstance(block, Table)
        shown = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name in block.columns:
            shown.add_column(name, overflow="fold")
        for row in block.rows:
            shown.add_row(*(cell.text for cell in row))
        screen.print(shown)
    return 0


def build_comparison(options: argparse.Namespace) -> int:
    """Prints the path of the page as the last line."""
    from reports import load

    folders = [load.find_run(name) for name in (options.first, *options.others)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"RUN must be different runs, got {', '.join(map(str, folders))}")
    out = folders[-1] if options.out is None else Path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder, got {options.out!r}")
    from reports import compare, comparison, page

    runs = [load.load_run(folder) for folder in folders]
    if not options.across:
        comparison.check(runs)
    flags = ["--across"] if options.across else []
    command = shlex.join(["python", "-m", "reports", "compare", *map(str, folders), *flags])
    files = compare.build(runs, load.without_home(command))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out must be writable, got {options.out!r}: {error.strerror}") from error
    page.write(out, files)
    print(out / "comparison.html")
    return 0


def save_figure(options: argparse.Namespace) -> int:
    """Prints the path of the file as the last line."""
    from reports.load import find_run
    from reports.standalone import standalone

    html, out = find_run(options.run) / "report.html", Path(options.out)
    if not html.is_file():
        raise UserError(f"{html}: not there yet; made by: python -m reports build {options.run}")
    svg = standalone(html.read_text(encoding="utf-8"), options.figure)
    try:
        out.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}") from error
    print(out)
    return 0


def build_of_commits(options: argparse.Namespace) -> int:
    """Prints the path of the page as the last line."""
    from bench.commits import records

    file = Path(options.file)
    if options.kind == "commits":
        compared = records.read(file, records.Comparison)
        from reports import commits

        files = commits.build(compared)
    else:
        found = records.read(file, records.History)
        from reports import history

        files = history.build(found)
    from reports import page

    page.write(file.parent, files)
    print(file.parent / next(iter(files)))
    return 0


def build_index(options: argparse.Namespace) -> int:
    """Prints the path of the page as the last line."""
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"FOLDER must be a folder of runs, got {options.folder!r}")
    from reports import index, page

    page.write(folder, {"index.html": index.build(folder)})
    print(folder / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
