"""Write docs/cli.md and docs/api.md from the command line's help and the library's docstrings.

Run it as `python scripts/make_docs.py`; a test compares the pages with what it would write.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

import cafe
from cafe_cli.main import app

DOCS = Path(__file__).parents[1] / "docs"


def command_names() -> Iterator[list[str]]:
    """Every command, as the words after `cafe`."""
    for command in app.registered_commands:
        yield [str(command.name)]
    for group in app.registered_groups:
        if group.typer_instance is not None:
            for command in group.typer_instance.registered_commands:
                yield [str(group.name), str(command.name)]


def cli_page() -> str:
    """The help of every command."""
    runner = CliRunner()
    parts = ["# Command line\n\nMade from `--help` by `scripts/make_docs.py`.\n"]
    for words in [[], *command_names()]:
        title = " ".join(["cafe", *words])
        found = runner.invoke(app, [*words, "--help"], prog_name="cafe", env=_WIDTH)
        text = "\n".join(line.rstrip() for line in found.output.strip().splitlines())
        parts.append(f"## `{title}`\n\n```\n{text}\n```\n")
    return "\n".join(parts)


_WIDTH = {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}


def api_page() -> str:
    """Signature and docstring of every public name."""
    parts = ["# Python API\n\nMade from the docstrings by `scripts/make_docs.py`.\n"]
    for name in cafe.__all__:
        found = getattr(cafe, name)
        kind = "class" if inspect.isclass(found) else "def"
        text = inspect.getdoc(found) or ""
        parts.append(f"## `cafe.{name}`\n\n```\n{kind} {name}{_signature(found)}\n\n{text}\n```\n")
        if inspect.isclass(found):
            parts += [_method(name, member) for member in _public_methods(found)]
    return "\n".join(parts)


def _public_methods(kind: type) -> Iterator[object]:
    for name, member in vars(kind).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, classmethod)):
            yield getattr(kind, name)


def _method(owner: str, member: object) -> str:
    name = getattr(member, "__name__", "")
    text = inspect.getdoc(member) or ""
    return f"### `cafe.{owner}.{name}`\n\n```\ndef {name}{_signature(member)}\n\n{text}\n```\n"


def _signature(found: object) -> str:
    if not callable(found):
        return ""
    try:
        return str(inspect.signature(found))
    except ValueError:  # exceptions have none
        return ""


def main() -> None:
    """Write both pages."""
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
    (DOCS / "api.md").write_text(api_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
