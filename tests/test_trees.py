"""Commits as folders: what is taken of them, and that nothing of the checkout is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.commits.trees import Repository, functions_in, tree_sha256
from bench.errors import UserError


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two commits of a library, and changes that are in none."""
    folder = tmp_path / "checkout"
    library = folder / "dipddpm"
    library.mkdir(parents=True)
    (folder / "bench").mkdir()
    (folder / ".gitignore").write_text("ignored.py\n__pycache__/\n")
    git(folder, "init", "--quiet")
    (folder / "README").write_text("no library yet\n")
    commit(folder, "empty", "README", ".gitignore")
    (library / "__init__.py").write_text("a = 1\n")
    (library / "old.py").write_text("")
    (folder / "bench" / "test_a.py").write_text("def test_one(): ...\ndef test_two(): ...\n")
    commit(folder, "first", "dipddpm", "bench")
    (library / "__init__.py").write_text("a = 2\n")
    (folder / "bench" / "test_a.py").write_text("def test_two(): ...\ndef helper(): ...\n")
    commit(folder, "second", "dipddpm", "bench")
    (library / "__init__.py").write_text("a = 3\n")
    (library / "old.py").unlink()
    (library / "new.py").write_text("")
    (library / "ignored.py").write_text("")
    return Repository(folder)


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, message: str, *paths: str) -> None:
    git(folder, "add", *paths)
    git(folder, "commit", "--quiet", "-m", message)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_commit_is_taken_as_it_was(repository: Repository, tmp_path: Path) -> None:
    tree = repository.commit("HEAD~1")
    assert (tree.subject, tree.changes, len(tree.commit)) == ("first", (), 40)
    library = repository.take_library(tree, tmp_path / "first")
    assert names(tmp_path / "first") == {"__init__.py", "old.py"}
    assert (library / "__init__.py").read_text() == "a = 1\n"


def test_the_working_tree_is_taken_with_what_no_commit_holds(
    repository: Repository, tmp_path: Path
) -> None:
    tree = repository.working_tree()
    assert set(tree.changes) == {"dipddpm/__init__.py", "dipddpm/new.py", "dipddpm/old.py"}
    assert tree.label.endswith(" with uncommitted changes")
    library = repository.take_library(tree, tmp_path / "now")
    assert names(library) == {"__init__.py", "new.py"}
    assert (library / "__init__.py").read_text() == "a = 3\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no-such-branch", "commit must be one of this repository, got 'no-such-branch'"),
        ("--output=x", "commit must be one of this repository, got '--output=x'"),
        ("HEAD~2", "HEAD~2: commit .* has no dipddpm: nothing to measure"),
    ],
)
def test_a_commit_that_cannot_be_measured_is_told(
    repository: Repository, name: str, text: str
) -> None:
    with pytest.raises(UserError, match=f"^{text}$"):
        repository.commit(name)


def test_a_folder_without_git_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="not a git repository"):
        Repository(tmp_path).working_tree()


def test_benchmarks_of_a_commit_are_those_of_its_own_suite(repository: Repository) -> None:
    first = repository.benchmarks_of(repository.commit("HEAD~1"))
    assert first == {"bench/test_a.py::test_one", "bench/test_a.py::test_two"}
    assert repository.benchmarks_of(repository.commit("HEAD")) == {"bench/test_a.py::test_two"}


def test_a_suite_that_is_no_python_has_no_benchmarks() -> None:
    assert functions_in("a.py", b"def test_one(): ...") == {"a.py::test_one"}
    assert functions_in("a.py", b"def test_one(:") == set()
    assert functions_in("a.py", None) == set()


def test_commits_between_two_are_in_order(repository: Repository) -> None:
    first, second = repository.commit("HEAD~1"), repository.commit("HEAD")
    assert repository.between(first, second) == [first.commit, second.commit]
    with pytest.raises(UserError, match=r"^HEAD~1 must come after HEAD, and does not$"):
        repository.between(second, first)


def test_a_digest_is_of_names_and_contents_but_not_of_what_was_compiled(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = tree_sha256(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert tree_sha256(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    second = tree_sha256(tmp_path)
    (tmp_path / "b.py").write_text("2")
    assert len({first, second, tree_sha256(tmp_path)}) == 3


def test_nothing_of_the_checkout_is_touched(repository: Repository, tmp_path: Path) -> None:
    index = repository.folder / ".git" / "index"
    before = index.read_bytes(), tree_sha256(repository.folder / "dipddpm")
    # A file that git would look at again, and then note in its index that it did.
    (repository.folder / "README").touch()
    tree = repository.working_tree()
    repository.take_library(tree, tmp_path / "library")
    repository.take_harness(tmp_path / "harness")
    assert (index.read_bytes(), tree_sha256(repository.folder / "dipddpm")) == before
