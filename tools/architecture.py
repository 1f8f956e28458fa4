"""Read the architecture from the imports: which room imports which, in how many levels.

A room is a folder directly under `cafe/`, a single module there, or the command line as a whole.
Nothing is imported; the source is parsed. Run it as `python tools/architecture.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
Graph = Mapping[str, set[str]]


def sources() -> list[Path]:
    """Every source file of the library and of the command line."""
    return sorted(path for top in ("cafe", "cli") for path in (ROOT / top).rglob("*.py"))


def module_name(path: Path) -> str:
    """The dotted name that a source file is imported by; `cli/` is imported as `cafe_cli`."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "cli":
        parts[0] = "cafe_cli"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room of a module: `cafe.methods.gda` -> `methods`, `cafe_cli.fit` -> `cli`."""
    if module.split(".")[0] == "cafe_cli":
        return "cli"
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "cafe"


def imports(path: Path, modules: set[str]) -> Iterator[str]:
    """Every module that a file imports when it runs, at any depth of its code."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _run_time_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) + 1 - node.level]
                base = ".".join([*parents, base]).strip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in modules else base


def _run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield from _run_time_nodes(child)


def module_graph() -> dict[str, set[str]]:
    """Module -> every module and package that it imports, other people's included."""
    files = {module_name(path): path for path in sources()}
    return {name: set(imports(path, set(files))) for name, path in files.items()}


def room_graph(graph: Graph) -> dict[str, set[str]]:
    """Room -> the rooms that it imports; `cafe/__init__` is left out, as it lists the others."""
    rooms: dict[str, set[str]] = {}
    for module, imported in graph.items():
        if module == "cafe":
            continue
        here = rooms.setdefault(room(module), set())
        here |= {room(name) for name in imported if name in graph and name != "cafe"}
        here.discard(room(module))
    return rooms


def cycle(graph: Graph) -> list[str]:
    """One import cycle, as the names along it; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        for target in sorted(graph[name]):
            if target in graph and target != name and (found := visit(target, [*trail, name])):
                return found
        return []

    for name in sorted(graph):
        if found := visit(name, []):
            return found
    return []


def levels(graph: Graph) -> dict[str, int]:
    """Level of every node: 1 if it imports no other, else one above the highest it imports."""
    height: dict[str, int] = {}

    def visit(name: str) -> int:
        if name not in height:
            below = [visit(target) for target in graph[name] if target in graph and target != name]
            height[name] = 1 + max(below, default=0)
        return height[name]

    for name in graph:
        visit(name)
    return height


def main() -> None:
    """Print the rooms, from the top level down, and their counts."""
    modules = module_graph()
    rooms = room_graph(modules)
    if found := cycle(rooms):
        print("cycle:", " -> ".join(found))
        return
    height = levels(rooms)
    for name in sorted(rooms, key=lambda name: (-height[name], name)):
        print(f"{height[name]:2} {name}: {', '.join(sorted(rooms[name])) or '-'}")
    loose = sum(name.count(".") == 1 and not _is_package(name) for name in modules) + 1
    arrows = sum(map(len, rooms.values()))
    print(
        f"loose modules {loose}, rooms {len(rooms)}, levels {max(height.values())}, arrows {arrows}"
    )


def _is_package(name: str) -> bool:
    return (ROOT / Path(*name.split("."))).is_dir() or name.startswith("cafe_cli")


if __name__ == "__main__":
    main()
