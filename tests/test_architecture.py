"""The layout is the architecture: `docs/design.md` says which room may import which."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

# packages that only some rooms may import
RESTRICTED = {
    "open_clip": {"compat", "encoders"},
    "torchvision": {"compat", "datasets", "encoders"},
    "PIL": {"datasets", "encoders", "extract", "inference", "detection"},
    "faiss": {"curation", "methods", "inference"},
    "h5py": {"store"},
    "typer": {"cli"},
    "rich": {"cli"},
}
MOST_LOOSE_MODULES = 7
FOLDERS = 14


def load_tool() -> ModuleType:
    """`tools/architecture.py`, which is no package."""
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "tools/architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture = load_tool()
GRAPH = architecture.module_graph()
MODULES = sorted(set(GRAPH) - {"cafe"})  # the list of the API imports each name on first use


def read_table() -> dict[str, set[str]]:
    """The table of `docs/design.md`: room -> rooms that it may import."""
    rows = re.findall(
        r"^\| `(\w+)`[^|]*\|([^|]*)\|[^|]*\|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE
    )
    return {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows}


TABLE = read_table()


def violations(module: str, imported: set[str]) -> list[str]:
    """What a module imports and may not."""
    here = architecture.room(module)
    rooms = {architecture.room(name) for name in imported if name in GRAPH} - {here, "cafe"}
    packages = {name.split(".")[0] for name in imported}
    found = [f"{here} may not import {room}" for room in sorted(rooms - TABLE[here])]
    found += [
        f"{here} may not import {package}"
        for package in sorted(packages & RESTRICTED.keys())
        if here not in RESTRICTED[package]
    ]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_the_table(module: str) -> None:
    assert violations(module, GRAPH[module]) == []


def test_the_table_names_every_room_and_no_other() -> None:
    assert set(TABLE) == {architecture.room(module) for module in MODULES}
    assert set().union(*TABLE.values()) <= set(TABLE)


def test_the_table_allows_no_more_than_is_used() -> None:
    assert architecture.room_graph(GRAPH) == TABLE


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("cafe.study.runner", {"open_clip"}),
        ("cafe.methods.gda", {"cafe.encoders.encoder"}),
        ("cafe.report.page", {"PIL.Image"}),
        ("cafe.extract.extract", {"faiss"}),
        ("cafe.extract.extract", {"cafe.features.splits"}),
        ("cafe.engine.trainer", {"cafe.methods.base"}),
        ("cafe.store.key", {"cafe.features.tensors"}),
        ("cafe.results.record", {"h5py"}),
        ("cafe.results.record", {"cafe.study.runner"}),
        ("cafe.errors", {"cafe_cli.main"}),
        ("cafe.results.metrics", {"rich.table"}),
    ],
)
def test_the_check_can_fail(module: str, imported: set[str]) -> None:
    assert violations(module, imported)


def test_no_import_cycle_between_files_or_rooms() -> None:
    files = {name: GRAPH[name] for name in MODULES}
    assert architecture.cycle(files) == []
    assert architecture.cycle(architecture.room_graph(GRAPH)) == []


def test_a_cycle_is_found() -> None:
    assert architecture.cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_the_rooms_can_be_counted() -> None:
    cafe = ROOT / "cafe"
    assert len(list(cafe.glob("*.py"))) <= MOST_LOOSE_MODULES
    assert len([p for p in cafe.iterdir() if (p / "__init__.py").exists()]) == FOLDERS


def test_the_counts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    architecture.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"loose modules \d+, rooms \d+, levels \d+, arrows \d+", last)


def setuptools_table() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    return dict(table["setuptools"])


def test_packages_are_the_folders() -> None:
    listed = setuptools_table()["packages"]
    folders = {
        architecture.module_name(path)
        for path in architecture.sources()
        if path.name == "__init__.py"
    }
    assert sorted(listed) == sorted(folders)


def test_data_files_are_package_data() -> None:
    """An editable install reads the folder itself; a plain one has only what is listed."""
    listed = {
        path
        for package, patterns in setuptools_table()["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/").replace("cafe_cli", "cli")).glob(pattern)
    }
    files = {
        path
        for folder in ("cafe", "cli")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert files == listed


def test_commands_call_the_library_and_little_else() -> None:
    """No function of the command line has more than 55 lines below its declared options."""
    lengths = {
        f"{path.name}: {node.name}": (node.end_lineno or 0) - node.body[0].lineno + 1
        for path in (ROOT / "cli").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > 55} == {}
