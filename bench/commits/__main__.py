"""python -m bench.commits: is the library slower at one commit than at another, and since when?"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import command_line, records, terminal
from bench.commits import history
from bench.commits.bisect import bisect
from bench.commits.compare import COMPARISONS, Limit, Wish, compare, scratch
from bench.commits.decide import Margins
from bench.commits.history import MIN_PROCESSES, PROCESSES, STORE
from bench.commits.records import COMPARE, HISTORY, Comparison, Counted
from bench.commits.rounds import Found
from bench.commits.trees import Repository, Tree
from bench.errors import UserError

CHECKOUT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> int:
    """0: no regression; 1: a regression; 2: it cannot be told; 130: interrupted."""
    options = _parser().parse_args(arguments)
    # A scheduler's end is one like Ctrl-C, and what a shell starts in the background is deaf to it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    return command_line.run("bench.commits", options)


def _parser() -> argparse.ArgumentParser:
    commands = command_line.Commands("bench.commits", __doc__)

    def add(
        name: str, command: command_line.Command, text: str, description: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add(name, _with_files(command), text, example, description)
        sub.add_argument("-k", dest="keyword", default="", metavar="EXPRESSION", help="of the "
                         "benchmarks those that it fits, as pytest's -k")  # fmt: skip
        return sub

    two = add(
        "compare", compare_two, "hold a commit against another, in turn, on this machine",
        "Times the library of two commits in turn, in fresh processes, by the suite of this "
        "checkout, until each benchmark is decided or the time is up.",
        "compare main -k training",
    )  # fmt: skip
    two.add_argument("base", metavar="BASE", help="a commit, branch or tag")
    two.add_argument("head", metavar="HEAD", nargs="?", help="another; the working tree, with what "
                     "is not committed, if not given")  # fmt: skip
    two.add_argument("--minutes", type=_minutes, default=5.0, help="for the rounds; the copies "
                     "beside them take seconds (default: %(default)g)")  # fmt: skip
    two.add_argument("--equal-within", type=_percent, default=0.05, metavar="PERCENT", help="what "
                     "counts as equal (default: 5%%)")  # fmt: skip
    two.add_argument("--fail-above", type=_limit, action="append", default=[],
                     metavar="[NAME=]PERCENT", help="a smaller regression does not end with "
                     "status 1; NAME: of benchmarks with that in their name")  # fmt: skip
    two.add_argument("--own-environments", action="store_true", help="each commit with the "
                     "packages that its own constraints.txt asks for")  # fmt: skip
    two.add_argument("--out", type=Path, metavar="FOLDER", help=f"for {COMPARE}; a new one under "
                     f"{COMPARISONS} if not given")  # fmt: skip

    many = add(
        "history", show_history, "measure a range of commits, and find the steps in it",
        "Times the library of each commit of a range, in turn, in fresh processes. What was "
        "measured is kept and not measured again.",
        "history v0.1..main --every 5",
    )  # fmt: skip
    many.add_argument("commits", metavar="A..B", help="both included; B: HEAD if not given")
    many.add_argument("--every", type=_count, default=1, metavar="N", help="each N-th and the last")
    many.add_argument("--processes", type=_processes, default=PROCESSES, metavar="N",
                      help="of each commit (default: %(default)d)")  # fmt: skip
    many.add_argument("--store", type=Path, default=STORE, metavar="FILE",
                      help=f"where they are kept; {HISTORY} is written beside it "
                      "(default: %(default)s)")  # fmt: skip

    search = add(
        "bisect", find_step, "find the commit that made a benchmark slower",
        "Halves the range between two commits, the second of them slower, by comparisons with the "
        "first.",
        "bisect v0.1 main -k training",
    )  # fmt: skip
    search.add_argument("good", metavar="GOOD", help="a commit before")
    search.add_argument("bad", metavar="BAD", nargs="?", default="HEAD", help="a commit that is "
                        "slower; HEAD if not given")  # fmt: skip
    search.add_argument("--minutes", type=_minutes, default=2.0, help="for each comparison "
                        "(default: %(default)g)")  # fmt: skip
    return commands.parser


def _with_files(command: command_line.Command) -> command_line.Command:
    """A disk that is full, or a folder that is not ours, can be mended by the user."""

    def told(options: argparse.Namespace) -> int:
        try:
            return command(options)
        except OSError as error:
            raise UserError(f"{error.filename or 'files'}: {error.strerror}") from error

    return told


def _percent(text: str) -> float:
    """5 or 5% -> 0.05"""
    value = command_line.number(text.removesuffix("%"))
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"must be a percentage above 0, as in 5%, got {text!r}")
    return value / 100


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return value


def _processes(text: str) -> int:
    """As many as a spread takes."""
    if (value := _count(text)) < MIN_PROCESSES:
        raise argparse.ArgumentTypeError(f"must be at least {MIN_PROCESSES}, got {text!r}")
    return value


def _minutes(text: str) -> float:
    value = command_line.number(text)
    if not 0 < value <= 10_000:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return value


def _limit(text: str) -> Limit:
    name, _, share = text.rpartition("=")
    return Limit(_percent(share), name)


def compare_two(options: argparse.Namespace) -> int:
    """Prints the path of compare.json as the last line."""
    repository, screen = Repository(CHECKOUT), terminal.console()
    base = repository.commit(options.base)
    head = repository.working_tree() if options.head is None else repository.commit(options.head)
    wish = Wish(
        keyword=options.keyword,
        seconds=options.minutes * 60,
        margins=Margins(options.equal_within),
        limits=options.fail_above,
        own=options.own_environments,
        command=_command(),
    )
    out: Path = options.out or COMPARISONS / (
        f"{base.commit[:9]}-{head.commit[:9]}-{datetime.now():%Y%m%d-%H%M%S}"
    )
    if (out / COMPARE).exists():
        raise UserError(f"--out must be new, got {str(out)!r}")
    out.mkdir(parents=True, exist_ok=True)  # now, not when all is measured
    for name, tree in (("base", base), ("head", head)):
        screen.print(f"{name}: {_described(tree)}")

    def tell(number: int, found: Found) -> None:
        decided = sum(one.is_decided for one in found.decisions.values())
        screen.print(f"round {number}: {decided} of {len(found.series)} decided")

    try:
        with scratch(COMPARISONS) as folder:
            found = compare(repository, base, head, wish, folder, tell)
    except BaseException:
        with contextlib.suppress(OSError):
            out.rmdir()  # if it is empty
        raise
    records.write(out / COMPARE, found)
    _show(found, screen)
    print(out / COMPARE)
    return 1 if found.regressions else 0


def show_history(options: argparse.Namespace) -> int:
    """Prints the path of history.json as the last line."""
    repository, screen = Repository(CHECKOUT), terminal.console()
    first, dots, last = options.commits.partition("..")
    if not dots or not first:
        raise UserError(f"commits must be given as A..B, got {options.commits!r}")
    commits = repository.between(repository.commit(first), repository.commit(last or "HEAD"))
    chosen = commits[:: options.every]
    if chosen[-1] != commits[-1]:
        chosen.append(commits[-1])
    wish = history.Wish(chosen, options.keyword, options.processes, _command())

    def tell(number: int, count: int, tree: Tree) -> None:
        screen.print(f"process {number} of {count}: {_described(tree)}")

    with scratch(COMPARISONS) as folder:
        found = history.record_history(repository, wish, history.Store(options.store), folder, tell)
    out = options.store.with_name(HISTORY)
    records.write(out, found)
    subjects = {one.commit: one.subject for one in found.commits}
    for one in found.commits:
        if one.why:
            screen.print(f"{one.commit[:9]} is not measured: {one.why}")
    for line in found.lines:
        for step in line.steps:
            screen.print(
                f"{line.name}: {step.ratio - 1:+.1%} at {step.commit[:9]}: {subjects[step.commit]}"
            )
    print(out)
    return 0


def find_step(options: argparse.Namespace) -> int:
    """Prints the commit that made the step as the last line."""
    repository, screen = Repository(CHECKOUT), terminal.console()
    good, bad = repository.commit(options.good), repository.commit(options.bad)
    wish = Wish(keyword=options.keyword, seconds=options.minutes * 60, command=_command())

    def tell(tree: Tree, state: str, why: str) -> None:
        screen.print(f"{_described(tree)}: {state} ({why})")

    with scratch(COMPARISONS) as folder:
        step = bisect(repository, good, bad, wish, folder, tell)
    if len(step.suspects) > 1:
        screen.print("One of these, of which those before the last could not be told:")
    for tree in step.suspects:
        screen.print(f"{step.benchmark}, {step.ratio - 1:+.1%}: {_described(tree)}")
    return 0


def _command() -> str:
    return shlex.join(["python", "-m", "bench.commits", *sys.argv[1:]])


def _described(tree: Tree) -> str:
    return f"{tree.label}: {tree.subject}"


def _show(found: Comparison, screen: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("benchmark", "change", "verdict", "could see", "head itself", "operations",
                   "peak"):  # fmt: skip
        table.add_column(column, overflow="fold")
    for one in found.benchmarks:
        effect = one.effect
        low, high = effect.low, effect.high
        ends = "" if low is None or high is None else f" [{low - 1:+.1%}, {high - 1:+.1%}]"
        table.add_row(
            one.name, f"{effect.ratio - 1:+.1%}{ends}",
            "withheld" if one.withheld else effect.word,
            "–" if effect.visible is None else f"{effect.visible:.1%}",
            f"{one.floor.ratio - 1:+.1%}", _change(one.flops), _change(one.peak_bytes),
        )  # fmt: skip
    screen.print(table)
    for kind, lines in (
        ("new", [f"{one.name}: {one.why}" for one in found.new]),
        ("removed", found.removed),
        ("failing", [f"{one.name}: {one.why}" for one in found.failing]),
        ("regression", found.regressions),
    ):
        for line in lines:
            screen.print(f"{kind}: {line}")
    screen.print(f"Run in {found.environment}.")
    if found.is_a_vs_a:
        screen.print("Both sides are the same library: what differs here is noise.")
    if found.stopped:
        screen.print(f"Not every benchmark is decided: {found.stopped}.")


def _change(counted: Counted) -> str:
    if counted.base is None or counted.head is None:
        return "–"
    change = counted.change
    return "same" if change is None else f"{change:+.2%}"


if __name__ == "__main__":
    sys.exit(main())
