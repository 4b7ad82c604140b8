# SPDX-License-Identifier: Apache-2.0
"""Imports run downhill and in no circle: trainer -> loader -> triton_kernels.

Also inside the loader, where each room knows only some others (docs/architecture.md).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("triton_kernels", "loader", "trainer")  # each may import from itself and from its left
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# What a room of the loader may know of the others ("knows" and "never" in docs/architecture.md).
MAY_IMPORT = {
    "errors": set(),
    "storage": {"errors"},
    "shards": {"errors", "storage"},
    "convert": {"errors", "storage", "shards", "corpus"},
    "corpus": {"errors", "storage", "shards"},
    "order": {"errors"},
    "prefetch": {"errors", "storage", "shards", "corpus", "order"},
    "batches": {"errors", "shards"},
    "agents": {"errors", "storage"},
    "console": {"errors", "agents"},
    "probes": {"errors", "agents", "batches", "console", "order", "prefetch", "scoring"},
    "ledger": {"errors", "storage"},
    "schedule": {"errors", "config"},
    "label": {"errors", "storage", "shards", "corpus", "order", "agents"},
}
# These join the rooms.
WIRING = (
    *("choosing", "config", "loader", "metrics", "opening", "pacing"),
    *("planning", "records", "scoring", "state", "steps", "stored"),
)
MAY_IMPORT |= {name: {*MAY_IMPORT, *WIRING} - {"label"} for name in WIRING}


def module_of(path: Path) -> str:
    """`loader/order/permute.py` -> `loader.order.permute`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}
NATIVE = {"loader._core", "triton_kernels._native"}  # below everything, they import nothing


def targets(path: Path, *, at_import: bool = False) -> Iterator[tuple[int, str]]:
    """(line, module) of every relative import, as a dotted name below the repository root.

    at_import: leave out imports inside functions and under TYPE_CHECKING.
    """
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in statements(ast.parse(path.read_text()), at_import):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            stem = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                full = ".".join([*stem, alias.name])
                yield node.lineno, full if full in MODULES or full in NATIVE else ".".join(stem)


def statements(tree: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from statements(node, at_import)


def test_the_walk_sees_the_tree():
    assert {"loader.loader", "triton_kernels.select", "trainer.cli"} <= set(MODULES)
    edges = [target for path in FILES for _, target in targets(path)]
    assert len(edges) > 50
    assert any(edge.startswith("loader") for edge in edges)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_own_packages_are_imported_relatively(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            assert top not in ("moot", "csrc", *PACKAGES), f"{path}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_packages_are_imported_downhill(path):
    own = PACKAGES.index(module_of(path).split(".")[0])
    for line, target in targets(path):
        assert target, f"{path}:{line} climbs out of the distribution"
        assert PACKAGES.index(target.split(".")[0]) <= own, f"{path}:{line} imports {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "loader").rglob("*.py")), ids=module_of)
def test_a_room_of_the_loader_knows_only_its_neighbours(path):
    room = path.relative_to(ROOT / "loader").with_suffix("").parts[0]
    if room == "__init__":
        return
    for line, target in targets(path):
        parts = target.split(".")
        if parts[0] == "loader" and len(parts) > 1 and parts[1] not in (room, "_core"):
            assert parts[1] in MAY_IMPORT[room], f"{path}:{line} {room} imports {target}"


def test_no_cycles_when_modules_are_imported():
    graph = {
        name: {target for _, target in targets(path, at_import=True) if target in MODULES} - {name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "a cycle: " + " -> ".join((*trail, name))
        if name in done:
            return
        # A package that re-exports its own modules is no cycle: they never import it back.
        for target in sorted(graph[name]):
            visit(target, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())
