"""Suites and run folders from strangers: refused or shown as text, and nothing outside is touched.

What is refused is one line that a terminal only shows, and exit status 2.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from bench import display, records, runner, terminal
from bench.__main__ import main as bench
from bench.errors import UserError
from bench.records import ProfileRow, Record
from bench.run_folder import Run
from reports.__main__ import main as reports
from reports.figures import svg
from tests.test_report_tables import Folder, case, record, row, toy_run
from tests.toy import SUITE

UNIT = "images"
HOSTILE = (
    "<script>alert(1)</script>\x1b[31m[red]{{ 7 * 7 }}[/bold]</pre>$\\x$\x1b]0;title\x07\x9b:x:"
)
# For a column of a table.
SHORT = "[/a]\x1b[31m:x:"
TEN_MB = "x" * 10_000_000
DEEP = 100_000
SECRET = "the secret of somebody else"
READING = ((bench, "status"), (reports, "build"))
WORKING = (
    (bench, "resume"),
    (bench, "resume", "--retry-failed"),
    (bench, "unit", UNIT),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "run").finish()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is none of a run's business, with what `clean` would look for."""
    folder = tmp_path / "outside"
    (folder / "gone.part").mkdir(parents=True)
    for name in ("k.ema.safetensors", "records.jsonl", "log.txt", "gone.part/file"):
        (folder / name).write_text(SECRET)
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read the text only: drawing takes most of a second."""
    monkeypatch.setattr(svg, "render", lambda *_, **__: Markup())


def below(folder: Path) -> dict[str, bytes | None]:
    """Everything there, without what only says that someone works on it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != "lock"
    }


def one_line(said: str) -> str:
    assert said.count("\n") == 1 and said.endswith("\n"), said[:500]
    assert "Traceback" not in said and SECRET not in said
    assert said[:-1].isprintable() and len(said) < 3000
    return said


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> None:
    """By each command that reads a run; nothing beside it, nor in it, is other than before."""
    before = below(folder.parent)
    for main, command, *more in (*READING, *WORKING):
        assert main([command, str(folder), *more]) == 2
        printed = capsys.readouterr()
        line = one_line(printed.err)
        for word in words:
            assert word in line
        assert SECRET not in printed.out
        assert below(folder.parent) == before


def change(path: Path, what: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    what(content)
    path.write_text(json.dumps(content))


def change_line(path: Path, what: Callable[[Any], None]) -> None:
    """Of a file with a row a line, the first."""
    first, *rest = path.read_text().splitlines()
    content = json.loads(first)
    what(content)
    path.write_text("\n".join([json.dumps(content), *rest]) + "\n")


# Names that lead elsewhere ------------------------------------------------------------------------

NAMES = [
    "../../outside",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "-rf",
    "~",
    "a\n",
    "a\x00b",
    "\x1b[2Jgone",
    "n" * 300,
    TEN_MB,
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_a_unit_is_named_as_ours_are(
    name: str, run: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(plan: Any) -> None:
        plan["units"][0]["unit"] = name

    change(run / records.PLAN, rename)
    refused(capsys, run, "plan.json: units.0.unit")

    def need(plan: Any) -> None:
        plan["units"][0]["unit"] = "priors-train"
        plan["units"][-1]["needs"] = [name]

    change(run / records.PLAN, need)
    refused(capsys, run, "plan.json: units.", "needs.0")


def test_a_unit_is_there_once_and_behind_those_that_it_needs(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else it would be counted twice, or waited for without end."""
    before = (run / records.PLAN).read_text()
    wrong: list[Callable[[Any], None]] = [
        lambda plan: plan["units"].append(plan["units"][0]),
        lambda plan: plan["units"].reverse(),
        lambda plan: plan["units"][0].update(needs=["nobody"]),
        lambda plan: plan["units"][0].update(needs=[plan["units"][0]["unit"]]),
    ]
    for what in wrong:
        change(run / records.PLAN, what)
        refused(capsys, run, "plan.json", "must be there once")
        (run / records.PLAN).write_text(before)


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (records.RECORDS, "unit"),
        (records.STAGES, "unit"),
        (records.STAGES, "key"),
        (records.SUMMARY, "unit"),
    ],
)
def test_rows_name_nothing_elsewhere(
    file: str, field: str, run: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / records.UNITS / UNIT / file
    text = path.read_text()
    content = json.loads(text if file == records.SUMMARY else text.splitlines()[0])
    if "status" in content:
        content["status"] = "error"  # which --retry-failed would set aside
    before = below(outside)
    for name in ("../../../outside", str(outside)):
        path.write_text(json.dumps({**content, field: name}) + "\n")
        if file != records.STAGES:
            with pytest.raises(UserError, match=file):
                runner.forget_failures(Run.open(run))
        for main, command in READING:
            assert main([command, str(run)]) == 2
            assert file in one_line(capsys.readouterr().err)
    assert below(outside) == before


def test_digests_are_of_no_files_elsewhere(
    run: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / records.UNITS / UNIT / records.SUMMARY
    content = json.loads(path.read_text())
    for name in ("../../../outside", str(outside)):
        path.write_text(json.dumps({**content, "rows_sha256": {name: "0"}}))
        for main, command in READING:
            assert main([command, str(run)]) == 2
            line = one_line(capsys.readouterr().err)
            assert records.SUMMARY in line and "rows_sha256" in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps", 0),
        ("flops_per_step", 10**400),
        ("flops_per_step", -1),
        ("sync_calls", [{"name": "c", "calls": 1, "seconds": "Infinity", "stack": []}]),
        ("sync_calls", [{"name": "c", "calls": 0, "seconds": 1, "stack": []}]),
        ("function", "../../outside"),
    ],
)
def test_a_profile_of_impossible_numbers_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    row = {"unit": UNIT, "function": "sample", "trace_sha256": "0", "num_steps": 1,
           "sync_calls": [], "flops_per_step": 1}  # fmt: skip
    path = tmp_path / records.PROFILE
    path.write_text(json.dumps(row) + "\n")
    assert len(records.read_lines(path, ProfileRow)) == 1
    path.write_text(json.dumps({**row, field: value}) + "\n")
    with pytest.raises(UserError, match=f"line 1: {field}"):
        records.read_lines(path, ProfileRow)


def test_rows_of_another_unit_are_not_counted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (records.RECORDS, records.STAGES):
        path = run / records.UNITS / UNIT / file
        before = path.read_text()
        change_line(path, lambda content: content.update(unit="images-again"))
        assert bench(["status", str(run)]) == 2
        assert "must be of unit 'images', got 'images-again'" in one_line(capsys.readouterr().err)
        path.write_text(before)


# Links --------------------------------------------------------------------------------------------


def replaced(path: Path, *, by: Path) -> None:
    if path.exists():
        path.rename(path.with_name("before"))
    path.symlink_to(by)


@pytest.mark.parametrize(
    ("name", "to"),
    [
        (f"units/{UNIT}/log.txt", "log.txt"),
        (f"units/{UNIT}/records.jsonl", "records.jsonl"),
        (f"units/{UNIT}/artifacts", "."),
        (f"units/{UNIT}/artifacts/k.ema.safetensors", "k.ema.safetensors"),
        (f"units/{UNIT}", "."),
        ("units/gone.part", "gone.part"),
        ("units/gone.busy1", "gone.part"),
        ("units", "."),
        ("traces", "."),
        ("report.html", "log.txt"),
        ("report.html.part", "log.txt"),
        ("lock", "log.txt"),
        (f"units/{UNIT}/log.txt", "not there"),
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_links_are_not_followed(
    name: str,
    to: str,
    absolute: bool,
    run: Path,
    outside: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = outside / to
    path = run / name
    replaced(path, by=there if absolute else Path(os.path.relpath(there, path.parent)))
    refused(capsys, run, str(path), "this is a link")
    before = below(run.parent)
    for arguments in (["clean", str(run)], ["clean", "--all", str(run)]):
        assert bench(arguments) == 2
        assert "this is a link" in one_line(capsys.readouterr().err)
        assert below(run.parent) == before


def test_nobody_waits_for_a_pipe(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / records.UNITS / UNIT / records.RECORDS
    path.unlink()
    os.mkfifo(path)
    refused(capsys, run, str(path), "files and folders only")


def test_a_run_may_be_reached_by_a_link(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = run.parent / "link"
    link.symlink_to(run)
    assert bench(["status", "--quiet", str(link)]) in (0, 1)
    assert "records: " in capsys.readouterr().out


# Too much -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [records.RECORDS, records.STAGES])
def test_ten_megabytes_in_a_line(file: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field = {records.RECORDS: "error", records.STAGES: "function"}[file]
    change_line(run / records.UNITS / UNIT / file, lambda content: content.update({field: TEN_MB}))
    for main, command in READING:
        assert main([command, str(run)]) == 2
        line = one_line(capsys.readouterr().err)
        assert f"{file}, line 1: {field}" in line and "at most 100000 characters" in line


@pytest.mark.parametrize("file", [records.PLAN, records.ENVIRONMENT])
def test_ten_megabytes_in_a_file_of_the_run(
    file: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    field = {records.PLAN: "title", records.ENVIRONMENT: "cpu"}[file]
    change(run / file, lambda content: content.update({field: TEN_MB}))
    assert reports(["build", str(run)]) == 2
    assert f"{file}: {field}: String should have at most" in one_line(capsys.readouterr().err)


def test_a_file_without_end(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (run / records.UNITS / UNIT / records.RECORDS).open("r+b") as stream:
        stream.truncate(2**40)
    assert bench(["status", str(run)]) == 2
    assert "records.jsonl: must be of at most" in one_line(capsys.readouterr().err)


@pytest.mark.usefixtures("undrawn")
def test_of_a_long_log_the_end_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder(tmp_path / "run")
    rows = [row("a", "x", "train_ddpm", 1.0)]
    found = [record("a", ["x"], "x", case(), eps_loss=0.5)]
    folder.unit("a", rows, found, status="error", error="it broke", log=TEN_MB + "the end")
    run = folder.finish()
    assert reports(["build", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "xxxthe end" in page and len(page) < 500_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"about = '{TEN_MB}'", "at most 100000 bytes"),
        (f"title = {'[' * DEEP}", "bytes"),
        (f"title = {'[' * (DEEP // 10)}", "nested too deeply"),
        (f"title = {'{a = ' * (DEEP // 10)}", "nested too deeply"),
        (f"base.{'.'.join('a' * 2000)} = 1", "nested too deeply"),
        ('base."\\u001b[31mred" = 1', "no such setting"),
        (f"base.{'a' * 50_000} = 1", "no such setting"),
        (f'base.train_on = "{"a" * 50_000}"', "train_on must be one of"),
        ('base.train_on = "../../outside/log:f"', "train_on"),
        ('base.train_on = "/etc/passwd:f"', "train_on"),
        ('images = "\\u001b[2Jgone"', "images must be"),
        ("images = '" + "a/" * 20_000 + "'", "images"),
        (f"grid.num_images = {'9' * 4000}", "num_images must be below 2**63"),
        ("grid.num_images = 1_000_000_000_000", "num_images must be at most 1000"),
        (f"grid.num_images = {'9' * 5000}", "toml"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_suite_is_refused(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "toy.toml"
    suite.write_text(_with(text))
    before = below(tmp_path)
    assert bench(["run", str(suite), "--out", str(tmp_path / "run")]) == 2
    assert words in one_line(capsys.readouterr().err)
    assert below(tmp_path) == before


def _with(line: str) -> str:
    """The toy suite with one line more, or another."""
    if line.startswith("base."):
        return SUITE.replace("[base]\n", f"[base]\n{line.removeprefix('base.')}\n")
    if line.startswith("grid."):
        return f"{SUITE}[[grid]]\nepochs = 1\n{line.removeprefix('grid.')}\n"
    key = line.split(" ")[0]
    kept = [other for other in SUITE.splitlines() if not other.startswith(f"{key} ")]
    return "\n".join([line, *kept])


@pytest.mark.parametrize("nest", ["[", '{"a":'])
def test_deep_rows(nest: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f'{{"settings": {nest * DEEP}'
    for file in (records.RECORDS, records.STAGES, records.SUMMARY):
        path = run / records.UNITS / UNIT / file
        before = path.read_bytes()
        path.write_text(line + "\n")
        assert reports(["build", str(run)]) == 2
        assert file in one_line(capsys.readouterr().err)
        path.write_bytes(before)
    (run / records.PLAN).write_text(line)
    refused(capsys, run, records.PLAN)


# Shown as text ------------------------------------------------------------------------------------


def hostile_run(path: Path) -> Path:
    folder = Folder(path, title=HOSTILE, about=HOSTILE)
    found = [
        record("a", ["x"], "x", case(train_on=value), eps_loss=0.5).model_copy(
            update={"case_id": str(number), "warnings": (HOSTILE,)}
        )
        for number, value in enumerate((HOSTILE, SHORT, "images", 3, None, (1, 2), 1e300))
    ]
    found.append(Record(case_id="bare", repeat=1, seed=0, unit="a", status="ok", settings={}))
    rows = [row("a", "x", "train_ddpm", 1.0)]
    folder.unit("a", rows, found, status="error", error=HOSTILE, log=HOSTILE)
    return folder.finish()


def test_the_terminal_shows_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = hostile_run(tmp_path / "run")
    assert bench(["status", str(run)]) in (0, 1)
    said = capsys.readouterr().out
    assert "[/a]:" in said
    assert all(line.isprintable() for line in said.splitlines())


def test_what_a_run_tells_on_its_way_is_text(tmp_path: Path) -> None:
    run = Run.open(hostile_run(tmp_path / "run"))
    [spec] = run.plan.units
    stream = io.StringIO()
    # As in a terminal, where colours are its own.
    console = terminal.PlainConsole(file=stream, width=400, force_terminal=True, color_system=None)
    with display.RunDisplay(run.plan, [], console) as shown:
        shown.started(spec, "CPU")
        shown.again(spec, HOSTILE)
        shown.started(spec, "CPU")
        shown.finished(spec, run.summary("a"), run.records_of("a"))
    said = stream.getvalue()
    assert "alert(1)</script>[red]{{ 7 * 7 }}[/bold]" in said
    assert "\x1b[31m" not in said and "\x1b]0" not in said and "\x9b" not in said


def test_the_page_shows_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = hostile_run(tmp_path / "run")
    assert reports(["build", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "<script>alert" not in page and page.count("<script>") == 1
    assert "<script>alert(1)</script>[red]{{ 7 * 7 }}[/bold]</pre>" in html.unescape(page)
    assert "49" not in html.unescape(page).split("alert(1)</script>")[1][:20]
    assert not set(page) & {"\x1b", "\x07", "\x9b"}


# Artifacts ----------------------------------------------------------------------------------------


def tensors(header: object, data: bytes = b"") -> bytes:
    """A safetensors file, whatever its header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of(dtype: str, shape: list[int], end: int) -> dict[str, object]:
    return {"pixels": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


LIES = {
    "nothing": b"",
    "a header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header that goes beyond the file": struct.pack("<Q", 1000) + b"{}",
    "no JSON": tensors(b"{{{{"),
    "deep JSON": tensors(b'{"a":' * DEEP),
    "data that is not there": tensors(of("F32", [10], 40)),
    "more data than fits in a number": tensors(of("F32", [2**40, 2**40], 4), b"0000"),
    "a size below zero": tensors(of("F32", [-1], 4), b"0000"),
    "a format that NumPy has not": tensors(of("BF16", [2], 4), b"0000"),
    "a shape without data beyond all memory": tensors(of("F32", [0, 2**62], 0)),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("lie", LIES)
def test_an_artifact_that_lies_is_told_and_not_shown(
    lie: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the digest of just this content."""
    path = run / "units" / "priors-train" / "artifacts" / "refs.safetensors"
    path.write_bytes(LIES[lie])
    stages = run / "units" / "priors-train" / records.STAGES
    digest = hashlib.sha256(LIES[lie]).hexdigest()
    change_line(stages, lambda content: content.update(artifact_sha256=digest))
    assert reports(["build", str(run)]) == 0
    page = html.unescape((run / "report.html").read_text())
    assert "refs.safetensors (prepare): cannot be read as tensors" in page
