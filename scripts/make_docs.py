"""Write docs/cli.md from the command line's help.

Run it as `python scripts/make_docs.py`; a test compares the page with what it would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

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


def main() -> None:
    """Write the page."""
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
