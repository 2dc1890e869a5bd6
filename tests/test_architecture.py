"""The floors of the package: imports go down only, in one order of folders, without circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gbdnn

ROOT = Path(gbdnn.__file__).parent
FLOORS = [
    "errors", "types", "checks", "machine", "progress", "files", "weights",
    "layers", "backends", "losses", "decoding", "data", "execution", "summary", "compaction",
    "interchange", "network", "conversion", "topology", "models", "pruning", "torch",
    "simulator", "quantization", "training", "estimators", "speech", "challenge", "distributed",
    "cli",
]  # fmt: skip
"""From the ground up; docs/architecture.md has the same list."""
FLAT, LINES = 8, 400  # modules beside __init__ at most; lines of a file at most


def imported(path: Path, source: str | None = None) -> Iterator[str]:
    """Yield the modules of gbdnn that a file imports, wherever and whatever for."""
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "gbdnn":
                yield from (f"gbdnn.{alias.name}" for alias in node.names)
            elif node.module.startswith("gbdnn."):
                for alias in node.names:  # a name of the module, or a module of the package
                    below = ROOT.joinpath(*node.module.split(".")[1:], f"{alias.name}.py")
                    yield f"{node.module}.{alias.name}" if below.exists() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("gbdnn."))


def floor_of(module: str) -> str:
    return module.split(".")[1]


def wrong_floors(path: Path, source: str | None = None) -> list[str]:
    """Return the imports of a file that go up."""
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    known = [name for name in imported(path, source) if floor_of(name) in FLOORS]
    return [name for name in known if FLOORS.index(floor_of(name)) > FLOORS.index(here)]


def files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the modules that import each other, by depth-first search."""
    found, done = [], set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            found.append(way[way.index(module) :])
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*way, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_every_folder_has_its_floor():
    names = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files()}
    assert names - {"__init__", "__main__"} == set(FLOORS)


def test_imports_go_down():
    wrong = {
        str(path.relative_to(ROOT)): up
        for path in files()
        if path.parent != ROOT or path.stem not in ("__init__", "__main__")
        if (up := wrong_floors(path))
    }
    assert wrong == {}


def test_there_is_no_circle():
    inner = [path for path in files() if path.parent != ROOT or path.stem != "__init__"]
    graph = {module_of(path): set(imported(path)) - {module_of(path)} for path in inner}
    assert circles(graph) == []


def test_flat_modules_and_long_files():
    flat = [path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("__")]
    assert len(flat) <= FLAT
    long = {str(path): n for path in files() if (n := len(path.read_text().splitlines())) > LINES}
    assert long == {}


def test_a_wrong_import_is_found():
    path = ROOT / "weights" / "csr.py"
    for line in (
        "from gbdnn.network import Network",
        "if TYPE_CHECKING:\n    from gbdnn.training.loop import Training",
        "def f():\n    import gbdnn.backends.dense",
        "from gbdnn import layers",
    ):
        assert wrong_floors(path, line)
    assert not wrong_floors(path, "from gbdnn.errors import choose")
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []
