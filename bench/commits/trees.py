"""Commits as folders: the library of one, the suite that measures it, and what tells them apart.

Nothing of the user's checkout is touched: files are taken out by `git archive`, or copied.
"""

from __future__ import annotations

import ast
import hashlib
import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench.commits.records import label_of
from bench.errors import UserError

LIBRARY = "dipddpm"
# What measures: the same on both sides. pyproject.toml holds how pytest is set up.
HARNESS = ("bench", "reports", "pyproject.toml")
CONSTRAINTS = "constraints.txt"
# The working tree, with whatever is not committed.
WORKING_TREE = "working tree"


@dataclass(frozen=True)
class Tree:
    """A state of the library.

    commit: the full hash; of the working tree that of HEAD
    changes: files of the library and the harness that differ from it, of the working tree alone
    """

    name: str
    commit: str
    subject: str
    changes: tuple[str, ...] = ()
    is_working_tree: bool = False

    @property
    def label(self) -> str:
        """As `label_of` has it."""
        return label_of(self.commit, self.changes)


@dataclass(frozen=True)
class Repository:
    """A checkout of this project."""

    folder: Path

    def git(self, *arguments: str) -> str:
        """Raises UserError with git's first line if it refuses."""
        return self._git(*arguments).decode(errors="replace").strip()

    def _git(self, *arguments: str) -> bytes:
        # Not even the index is written to.
        command = ["git", "--no-optional-locks", "-C", str(self.folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            raise UserError("git must be installed to compare commits") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"git {arguments[0]}: {said[0] if said else done.returncode}")
        return done.stdout

    def commit(self, name: str) -> Tree:
        """Raises UserError if there is no such commit, or it holds no library."""
        self.git("rev-parse", "--git-dir")  # there is a repository at all
        try:
            commit = self.git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        except UserError:
            raise UserError(f"commit must be one of this repository, got {name!r}") from None
        if not self.git("ls-tree", commit, f"{LIBRARY}/__init__.py"):
            raise UserError(f"{name}: commit {commit[:9]} has no {LIBRARY}: nothing to measure")
        return replace(self.named(commit), name=name)

    def named(self, commit: str) -> Tree:
        """A commit by its whole hash, whether it can be measured or not."""
        return Tree(commit[:9], commit, self.git("log", "-1", "--format=%s", commit))

    def working_tree(self) -> Tree:
        """HEAD and whatever is not committed of the library and of what measures it."""
        head = self.commit("HEAD")
        which = ("--porcelain", "-z", "--no-renames", "--untracked-files=all")
        status = self._git("status", *which, "--", LIBRARY, *HARNESS).decode(errors="replace")
        changes = tuple(line[3:] for line in status.split("\0") if line)  # behind "XY "
        return Tree(WORKING_TREE, head.commit, head.subject, changes, is_working_tree=True)

    def between(self, first: Tree, last: Tree) -> list[str]:
        """The commits from `first` to `last`, both included, oldest first; of merges the main line.

        Raises UserError if `last` does not come after `first`.
        """
        names = self.git("rev-list", "--reverse", "--first-parent", "--ancestry-path",
                         f"{first.commit}..{last.commit}").split()  # fmt: skip
        if not names:
            raise UserError(f"{last.name} must come after {first.name}, and does not")
        return [first.commit, *names]

    def file_of(self, tree: Tree, path: str) -> bytes | None:
        """The content of a file; None: it has none."""
        if tree.is_working_tree:
            found = self.folder / path
            return found.read_bytes() if found.is_file() else None
        try:
            return self._git("show", f"{tree.commit}:{path}")
        except UserError:
            return None

    def take_library(self, tree: Tree, into: Path) -> Path:
        """The library as `into`/dipddpm."""
        into.mkdir(parents=True)
        if tree.is_working_tree:
            self._copy(into, LIBRARY)
        else:
            self._extract(tree, into, LIBRARY)
        return into / LIBRARY

    def take_harness(self, into: Path) -> None:
        """The suite and all it takes, as it is in the working tree now: edits that follow change
        nothing of what is under way."""
        into.mkdir(parents=True)
        self._copy(into, *HARNESS)

    def take_all(self, tree: Tree, into: Path) -> None:
        """The whole of a commit, to install it."""
        into.mkdir(parents=True)
        if tree.is_working_tree:
            self._copy(into, ".")
        else:
            self._extract(tree, into)

    def benchmarks_of(self, tree: Tree) -> set[str]:
        """Of a commit's own suite: file::function, without parameters. Files that are no Python
        have none."""
        listed = self.git("ls-tree", "--name-only", tree.commit, "bench/").splitlines()
        paths = [path for path in listed if Path(path).match("test_*.py")]
        return {name for path in paths for name in functions_in(path, self.file_of(tree, path))}

    def _extract(self, tree: Tree, into: Path, *paths: str) -> None:
        content = self._git("archive", "--format=tar", tree.commit, *paths)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(into, filter="data")

    def _copy(self, into: Path, *paths: str) -> None:
        """Files that git has or would take, committed or not."""
        names = self.git(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths
        )
        for name in dict.fromkeys(filter(None, names.split("\0"))):
            if (self.folder / name).is_file():  # one that was deleted is still listed
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, into / name)


def functions_in(path: str, content: bytes | None) -> set[str]:
    """path::test_name of the tests in a file."""
    try:
        tree = ast.parse(content or b"")
    except (SyntaxError, ValueError):
        return set()
    return {
        f"{path}::{node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def tree_sha256(folder: Path) -> str:
    """Of the names and contents of all its files, but what Python compiled of them."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
