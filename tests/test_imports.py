"""The arrows of the design: who may import whom, and what must load without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import those of its own row's level or below, but no circle may arise.
LEVELS = [
    {"dipddpm.checks", "dipddpm.encoded", "dipddpm.lookup", "dipddpm.parallel"},
    {"dipddpm.config", "dipddpm.sources"},
    {"dipddpm.guard_rails"},
    {"dipddpm.images", "dipddpm.levers", "dipddpm.nets", "dipddpm.diffusion"},
    {"dipddpm.degradation", "dipddpm.dip", "dipddpm.features", "dipddpm.loaders"},
    {"dipddpm.arms", "dipddpm.metrics"},
    {"dipddpm.training", "dipddpm.sampling"},
    {"dipddpm.scoring"},
    {"dipddpm.inputs"},
    {"dipddpm.pipeline"},
    {"dipddpm"},
]
TORCH_FREE = [
    "dipddpm",
    "dipddpm.checks",
    "dipddpm.config",
    "dipddpm.encoded",
    "dipddpm.guard_rails",
    "dipddpm.lookup",
    "dipddpm.sources",
    "bench.__main__",
    "bench.apart",
    "bench.cases",
    "bench.commits.__main__",
    "bench.commits.records",
    "bench.course",
    "bench.display",
    "bench.effort",
    "bench.engines",
    "bench.integrity",
    "bench.live",
    "bench.noise",
    "bench.ray_engine",
    "bench.records",
    "bench.run_folder",
    "bench.runner",
    "bench.stats",
    "bench.suite",
    "bench.sync_finder",
    "bench.templating",
    "bench.terminal",
    "bench.traces",
    "bench.units",
    "bench.verdicts",
    "reports.__main__",
    "reports.commits",
    "reports.compare",
    "reports.history",
    "reports.index",
    "reports.page",
    "reports.traces",
]


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        words = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


def imports(path: Path) -> set[str]:
    """Our modules that a file imports, at any depth of its code, typing-only ones included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in submodules if name in KNOWN}
            found |= known or {node.module}
    return {name for name in found if name.split(".")[0] in ("dipddpm", "bench", "reports")}


KNOWN = {**modules("dipddpm"), **modules("bench"), **modules("reports")}
GRAPH = {name: imports(path) for name, path in KNOWN.items()}


def test_every_module_of_the_pipeline_has_its_level() -> None:
    assert set().union(*LEVELS) == set(modules("dipddpm"))


@pytest.mark.parametrize("name", modules("dipddpm"))
def test_the_pipeline_imports_downward_only(name: str) -> None:
    level = next(i for i, names in enumerate(LEVELS) if name in names)
    assert GRAPH[name] <= set().union(*LEVELS[: level + 1])


def test_the_halves_meet_only_where_they_may() -> None:
    for name, wanted in GRAPH.items():
        package = name.split(".")[0]
        packages = {other.split(".")[0] for other in wanted}
        if package == "dipddpm":
            assert packages <= {"dipddpm"}, name
        if package == "bench":
            assert packages <= {"bench", "dipddpm"}, name
        if package == "reports":
            outside = {other for other in wanted if not other.startswith("reports")}
            allowed = {
                "apart", "command_line", "commits.decide", "commits.records", "costs", "errors",
                "noise", "records", "run_folder", "speed", "stats", "templating", "terminal",
                "traces", "verdicts",
            }  # fmt: skip
            assert outside <= {f"bench.{module}" for module in allowed}, name


def test_there_is_no_circle() -> None:
    finished: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in finished:
            for other in sorted(GRAPH.get(name, ())):
                visit(other, (*above, name))
            finished.add(name)

    for name in GRAPH:
        visit(name, ())
    assert finished >= set(GRAPH)


@pytest.mark.parametrize("name", TORCH_FREE)
def test_loads_without_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_only_dipddpm_is_packaged() -> None:
    import tomllib

    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert content["tool"]["setuptools"]["packages"] == ["dipddpm"]
    assert (ROOT / "bench" / "__init__.py").read_text() == ""
