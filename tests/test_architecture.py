"""The layout is the architecture: who may import whom, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

# left of the store: may import open_clip and Pillow, never faiss
LEFT = {
    "cafe.datasets",
    "cafe.prompts",
    "cafe.vision",
    "cafe.images",
    "cafe.decoding",
    "cafe.hub",
    "cafe.checkpoints",
    "cafe.tokenizer",
    "cafe.spatial",
    "cafe.encoded",
    "cafe.distributed",
    "cafe.worker",
    "cafe.encoding",
    "cafe.locking",
    "cafe.resampling",
    "cafe.encoders",
    "cafe.networks",
    "cafe.partial",
    "cafe.extract",
    "cafe.extractor",
    "cafe.pictures",
    "cafe.importing",
}
# right of the store: may import faiss, never open_clip, torchvision or Pillow
RIGHT = {
    "cafe.features",
    "cafe.task",
    "cafe.tokens",
    "cafe.splits",
    "cafe.methods",
    "cafe.engine",
    "cafe.metrics",
    "cafe.study",
    "cafe.results",
    "cafe.heads",
    "cafe.temperature",
    "cafe.runs",
    "cafe.evidence",
    "cafe.prediction",
    "cafe.classifier",
    "cafe.graphs",
    "cafe.card",
    "cafe.comparing",
    "cafe.fitting",
    "cafe.gridding",
    "cafe.meta",
    "cafe.provenance",
    "cafe.journal",
    "cafe.sweep",
    "cafe.sweeping",
    "cafe.details",
    "cafe.pairing",
    "cafe.transfer",
    "cafe.published",
}
# the store itself and what both sides stand on
MIDDLE = {
    "cafe.errors",
    "cafe.key",
    "cafe.store",
    "cafe.home",
    "cafe.devices",
    "cafe.conversion",
}
# modules that join both sides
JOINERS = {"cafe.report", "cafe.paper", "cafe.predict", "cafe.export", "cafe.text_tower"}
ENCODER_PACKAGES = {"open_clip", "torchvision", "PIL"}
# within the right side, imports run against the arrows: engine <- methods <- study <- results
RIGHT_ORDER = [
    "cafe.features",
    "cafe.task",
    "cafe.splits",
    "cafe.engine",
    "cafe.methods",
    "cafe.study",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return name.replace("cli", "cafe_cli", 1) if name.startswith("cli") else name


def imports(path: Path) -> Iterator[str]:
    """Every import of a module, at any depth, but those for the type checker alone."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in run_time_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: 1 - node.level or None], base]).strip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in MODULES else base


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield from run_time_nodes(child)


def noun(module: str) -> str:
    """The part of the picture that a module belongs to: `cafe.methods.gda` -> `cafe.methods`."""
    return ".".join(module.split(".")[:2])


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


MODULES = {module_name(path) for top in ("cafe", "cli") for path in sources(top)}


def violations(module: str, imported: set[str]) -> list[str]:
    here, nouns = noun(module), {noun(name) for name in imported}
    top = {name.split(".")[0] for name in imported}
    found = []
    if module.startswith("cafe.") and "cafe_cli" in top:
        found.append("the library imports the command line")
    if "h5py" in top and here != "cafe.store":
        found.append("only the store imports h5py")
    if "rich" in top and not module.startswith("cafe_cli"):
        found.append("only the command line knows rich")
    if here in LEFT and ("faiss" in top or nouns & RIGHT):
        found.append(f"left of the store, it imports {nouns & RIGHT or 'faiss'}")
    if here in RIGHT and (ENCODER_PACKAGES & top or nouns & LEFT):
        found.append(f"right of the store, it imports {nouns & LEFT or ENCODER_PACKAGES & top}")
    if here in MIDDLE and (nouns & (LEFT | RIGHT) or ENCODER_PACKAGES & top):
        found.append(f"under both sides, it imports {nouns & (LEFT | RIGHT)}")
    if here in RIGHT_ORDER:
        later = set(RIGHT_ORDER[RIGHT_ORDER.index(here) + 1 :])
        found += [f"it imports {name}, which stands on it" for name in nouns & later]
    return found


@pytest.mark.parametrize("path", sources("cafe") + sources("cli"), ids=module_name)
def test_imports_keep_the_wall(path: Path) -> None:
    assert violations(module_name(path), set(imports(path))) == []


def test_every_module_has_its_place() -> None:
    placed = LEFT | MIDDLE | RIGHT | JOINERS
    nouns = {noun(module_name(path)) for path in sources("cafe")} - {"cafe", "cafe.assets"}
    assert nouns == placed


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("cafe.study", {"open_clip"}),
        ("cafe.methods.gda", {"cafe.encoders"}),
        ("cafe.extract", {"faiss"}),
        ("cafe.engine.trainer", {"cafe.methods.base"}),
        ("cafe.key", {"cafe.features"}),
        ("cafe.results", {"h5py"}),
        ("cafe.metrics", {"rich.table"}),
        ("cafe.errors", {"cafe_cli.main"}),
    ],
)
def test_the_check_can_fail(module: str, imported: set[str]) -> None:
    assert violations(module, imported)


def test_no_import_cycle() -> None:
    graph = {
        module_name(path): {name for name in imports(path) if name.startswith("cafe.")}
        for path in sources("cafe")
    }
    del graph["cafe"]  # the list of the API: it imports each name when it is first used
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module in done:
            return
        for name in graph.get(module, ()):
            if name in graph and name != module:
                visit(name, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_packages_are_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        module_name(path)
        for top in ("cafe", "cli")
        for path in sources(top)
        if path.name == "__init__.py"
    }
    assert sorted(listed) == sorted(folders)
