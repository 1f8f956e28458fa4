"""What a command prints: its result on stdout, a table or JSON, and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPED_WIDTH = 160  # a table in a file is not folded to a terminal's 80 columns


def note(text: str) -> None:
    """Print something beside the result, on stderr."""
    typer.echo(text, err=True)


def print_json(values: Any) -> None:
    """Print the result as one line of JSON."""
    typer.echo(json.dumps(values))


def print_saved_json(values: Any, folder: Path | None) -> None:
    """Print the result as JSON, and note where it is saved."""
    print_json(values)
    note(f"saved to {folder}")


def megabytes(file: Path | int) -> str:
    """`1.5 MB`, of a file or of a number of bytes."""
    size = file if isinstance(file, int) else file.stat().st_size
    return f"{size / 1e6:.1f} MB"


def print_wide(content: RenderableType) -> None:
    """Print a table of rich, wide where the output is piped."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(content)


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    bold: Collection[tuple[int, int]] = (),
) -> None:
    """Print a table.

    Parameters
    ----------
    headers : sequence of str
    rows : sequence of sequence of str
    numbers : sequence of int
        Columns that are set flush right.
    bold : collection of (int, int)
        Cells (row, column) that stand out: bold, or with a star where the output is piped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in numbers else "left")
    star = "" if sys.stdout.isatty() else "*"
    for y, row in enumerate(rows):
        cells = ((cell, (y, x) in bold) for x, cell in enumerate(row))
        table.add_row(*(Text(star + text, "bold") if best else Text(text) for text, best in cells))
    print_wide(table)
