"""Functions by name, found without importing the modules that hold them.

A setting may name a function: a net, a sampler, what is trained on. Those need torch, which
takes seconds to load, so their tables are read from the source of their modules: a suite with a
mistyped name is refused at once. Adding an entry touches no other file.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """A dict literal of functions by their names, at the top of a module.

    given: what an entry may ask for by the names of its parameters; also says that users may write
        entries of their own, named "module:function". None: entries all have one signature.
    needed: of these a user's function must ask for one at least
    """

    module: str
    name: str
    given: frozenset[str] | None = None
    needed: frozenset[str] = frozenset()

    def names(self) -> tuple[str, ...]:
        """The names of the entries, in their order."""
        return tuple(_entries(self.module, self.name))

    def check(self, field: str, value: object) -> None:
        """Raises ValueError, with field and value, if there is no such entry."""
        if isinstance(value, str) and value in self.names():
            return
        if self.given is None or not isinstance(value, str) or ":" not in value:
            own = " or a function of yours as module:function" if self.given is not None else ""
            raise ValueError(
                f"{field} must be one of {', '.join(self.names())}{own}, got {value!r}"
            )
        try:
            asked = self.parameters(value)
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error
        if unknown := asked - self.given:
            raise ValueError(
                f"{field}: the parameters of {value} must be of {', '.join(sorted(self.given))}, "
                f"got {', '.join(sorted(unknown))}"
            )
        if self.needed and not asked & self.needed:
            raise ValueError(
                f"{field}: the parameters of {value} must have one of "
                f"{', '.join(sorted(self.needed))}, got {', '.join(sorted(asked)) or 'none'}"
            )

    def parameters(self, value: str) -> frozenset[str]:
        """What an entry, or a function of the user's, asks for.

        Raises ValueError if there is no such function.
        """
        if value in self.names():
            function = _entries(self.module, self.name)[value]
            return frozenset() if function is None else _parameters(self.module, function)
        module, _, function = value.partition(":")
        return _parameters(module, function)

    def function(self, value: str) -> Callable[..., Any] | None:
        """The entry itself; this imports its module. Raises ImportError if a user's cannot be."""
        if value in self.names():
            entries: Mapping[str, Callable[..., Any] | None]
            entries = getattr(import_module(self.module), self.name)
            return entries[value]
        module, _, name = value.partition(":")
        try:
            found: Callable[..., Any] = getattr(import_module(module), name)
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            text = f"{value} cannot be imported: {type(error).__name__}: {error}"
            raise ImportError(text) from error
        return found


def source_file(value: str) -> Path | None:
    """The file of a user's "module:function"; None for an entry of ours."""
    return _file(value.partition(":")[0]) if ":" in value else None


def look_in(folder: str) -> None:
    """Lets "module:function" name modules of that folder too; those found elsewhere come first."""
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()


@functools.cache
def _entries(module: str, table: str) -> dict[str, str | None]:
    """Name -> name of the function, None for the entry None."""
    for node in _tree(_file(module)).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.AnnAssign):
            target = node.target
        if isinstance(target, ast.Name) and target.id == table:
            assert isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict)
            return {
                ast.literal_eval(key): value.id if isinstance(value, ast.Name) else None
                for key, value in zip(node.value.keys, node.value.values, strict=True)
                if key is not None
            }
    raise AssertionError(f"{module} has no table {table}")


@functools.cache
def _parameters(module: str, function: str) -> frozenset[str]:
    path = _file(module)
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            if node.args.posonlyargs:
                raise ValueError(
                    f"{module}:{function} must take its parameters by name, got "
                    f"{node.args.posonlyargs[0].arg} before a /"
                )
            arguments = [*node.args.args, *node.args.kwonlyargs]
            return frozenset(argument.arg for argument in arguments)
    raise ValueError(f"{module}:{function} must be a function defined in {path}, there is none")


def _file(module: str) -> Path:
    """The source of a module. Raises ValueError if there is none."""
    try:
        found = importlib.util.find_spec(module)
    except (Exception, SystemExit) as error:  # finding a.b imports a, which may raise anything
        text = f"{module}: no such module ({type(error).__name__}: {error})"
        raise ValueError(text) from error
    if found is None:
        raise ValueError(
            f"{module}: no module of that name lies beside the suite or can be imported"
        )
    if found.origin is None or not found.origin.endswith(".py"):
        raise ValueError(f"{module}: its functions must be written in a .py file, it has none")
    return Path(found.origin)


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    # Of nesting without end: MemoryError and RecursionError.
    except (SyntaxError, UnicodeDecodeError, MemoryError, RecursionError) as error:
        text = str(error) or type(error).__name__
        raise ValueError(f"{path}: {text}") from error
