from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipddpm.config import NETS, SAMPLERS, STARTS, TARGETS
from dipddpm.lookup import Table, look_in, source_file

TABLES = [TARGETS, STARTS, NETS, SAMPLERS]

MODULE = """
from __future__ import annotations

from somewhere_else import ImageSet  # which is not there: the check imports nothing


def halfway(degraded: ImageSet, *, priors: ImageSet) -> ImageSet:
    return degraded


def strong(degraded, strength=2, beta=3):
    return degraded


nothing = None
"""


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Path]:
    """A folder in which functions are looked for. Each test names its modules anew: what was found
    is remembered for as long as the process runs."""
    before = sys.path.copy()
    look_in(str(tmp_path))
    yield tmp_path
    sys.path[:] = before


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_names_read_from_the_source_are_the_keys_of_the_table(table: Table) -> None:
    entries = getattr(importlib.import_module(table.module), table.name)
    assert table.names() == tuple(entries)
    for name, entry in entries.items():
        assert table.function(name) is entry
        table.check("field", name)


@pytest.mark.parametrize("table", [TARGETS, STARTS], ids=lambda table: table.name)
def test_what_an_entry_asks_for_is_given(table: Table) -> None:
    for name in table.names():
        entry = table.function(name)
        asked = frozenset(inspect.signature(entry).parameters if entry else ())
        assert table.parameters(name) == asked
        assert table.given is not None and asked <= table.given


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("value", ["mine", "", None, 3, ["dip"]])
def test_another_name_is_refused_with_those_there_are(table: Table, value: object) -> None:
    with pytest.raises(
        ValueError, match=rf"^what must be one of .*{re.escape(repr(value))}$"
    ) as no:
        table.check("what", value)
    assert all(name in str(no.value) for name in table.names())
    assert ("module:function" in str(no.value)) == (table.given is not None)


@pytest.mark.parametrize("table", [NETS, SAMPLERS], ids=lambda table: table.name)
def test_a_function_of_ones_own_is_refused_where_there_can_be_none(table: Table) -> None:
    with pytest.raises(ValueError, match=r"^net must be one of .* 'mine:net'$"):
        table.check("net", "mine:net")


def test_a_function_of_ones_own_is_read_and_not_imported(beside: Path) -> None:
    path = beside / "read_only_module.py"
    path.write_text(MODULE)
    value = "read_only_module:halfway"
    STARTS.check("start_from", value)
    assert STARTS.parameters(value) == {"degraded", "priors"}
    assert source_file(value) == path
    assert "read_only_module" not in sys.modules
    with pytest.raises(ImportError, match=rf"^{value} .*ModuleNotFoundError.* 'somewhere_else'"):
        STARTS.function(value)


def test_a_module_that_raises_says_so_when_it_is_wanted(beside: Path) -> None:
    (beside / "raising_module.py").write_text("def f(images): ...\nraise RuntimeError('boom')\n")
    TARGETS.check("train_on", "raising_module:f")
    with pytest.raises(ImportError, match=r"raising_module:f .*RuntimeError: boom"):
        TARGETS.function("raising_module:f")


def test_the_function_itself(beside: Path) -> None:
    (beside / "plain_module.py").write_text("def f(images, priors):\n    return images, priors\n")
    function = TARGETS.function("plain_module:f")
    assert function is not None
    assert function(images=1, priors=2) == (1, 2)


def test_an_entry_of_ours_has_no_file_of_its_own() -> None:
    assert source_file("dip") is None


@pytest.mark.parametrize(
    ("content", "function", "words"),
    [
        (None, "f", ["no module of that name"]),
        (MODULE, "missing", ["must be a function defined in", "bad_module_1.py", "missing"]),
        (MODULE, "nothing", ["must be a function defined in", "nothing"]),
        (MODULE, "", ["must be a function defined in"]),
        (MODULE, "halfway:x", ["must be a function defined in"]),
        (MODULE, "strong", ["parameters of", "degraded", "training", "got beta, strength"]),
        ("def f(degraded:\n", "f", ["bad_module_6.py", "line 1"]),
        (b"\xff\xfe", "f", ["bad_module_7.py", "utf-8"]),
        # Of the other table.
        ("def f(images): ...\n", "f", ["parameters of", "got images"]),
        ("def f(degraded, /): ...\n", "f", ["parameters by name", "got degraded before a /"]),
        (f"x = {'(' * 5000}1{')' * 5000}\n", "f", ["bad_module_10.py"]),
        # Of none of the images that it should make its own of.
        ("def f(training, context): ...\n", "f", ["one of degraded, originals, priors", "got con"]),
        ("def f(*args, **kwargs): ...\n", "f", ["one of degraded, originals, priors", "got none"]),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(
    beside: Path,
    request: pytest.FixtureRequest,
    content: str | bytes | None,
    function: str,
    words: list[str],
) -> None:
    number = int(re.findall(r"words(\d+)", request.node.name)[0])
    name = f"bad_module_{number}"
    if content is not None:
        path = beside / f"{name}.py"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"^start_from: ") as no:
        STARTS.check("start_from", f"{name}:{function}")
    message = str(no.value)
    assert [word for word in [name, *words] if word not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize(
    "value",
    [":f", "..:f", ".relative:f", "a b:f", "sys:exit", "no_package.module:f", "dipddpm.nowhere:f"],
)
def test_what_is_no_module_of_python_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"^train_on: ") as no:
        TARGETS.check("train_on", value)
    assert value.partition(":")[0] in str(no.value)
    assert "\n" not in str(no.value)


def test_a_package_that_ends_the_process_is_refused(beside: Path) -> None:
    package = beside / "ending_package"
    package.mkdir()
    (package / "__init__.py").write_text("import sys\nsys.exit(5)\n")
    (package / "inside.py").write_text("def f(images): ...\n")
    with pytest.raises(ValueError, match=r"ending_package\.inside: .*SystemExit: 5"):
        TARGETS.check("train_on", "ending_package.inside:f")


def test_a_package_that_raises_is_refused(beside: Path) -> None:
    package = beside / "raising_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('boom')\n")
    (package / "inside.py").write_text("def f(images): ...\n")
    with pytest.raises(ValueError, match=r"raising_package\.inside: .*RuntimeError: boom"):
        TARGETS.check("train_on", "raising_package.inside:f")


def test_modules_found_elsewhere_come_first(beside: Path) -> None:
    # One of the standard library that nothing here has imported.
    assert "zipapp" not in sys.modules
    (beside / "zipapp.py").write_text("def create_archive(images): ...\n")
    with pytest.raises(ValueError, match=r"parameters of zipapp:create_archive must be of"):
        TARGETS.check("train_on", "zipapp:create_archive")
    look_in(str(beside))
    assert sys.path.count(str(beside)) == 1
