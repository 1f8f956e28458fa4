"""The representation of an object at a prompt and in a notebook: a title and a few rows."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence

from cafe.errors import visible

MOST_ROWS = 30
_MOST_NAMES, _LONGEST = 3, 60


class ReprMixin(ABC):
    """Gives a class its representations by `_title` and `_rows`, which may hold any text."""

    @abstractmethod
    def _title(self) -> str:
        """The first line."""

    @abstractmethod
    def _rows(self) -> Sequence[Sequence[str]]:
        """Cells, the first being the name of the row."""

    def _shown(self) -> tuple[str, list[list[str]]]:
        rows = [[_cut(visible(cell)) for cell in row] for row in self._rows()]
        left = len(rows) - MOST_ROWS
        if left > 0:
            rows = [*rows[:MOST_ROWS], [f"... and {left} more"]]
        return visible(self._title()), rows

    def __repr__(self) -> str:
        title, rows = self._shown()
        columns = max(map(len, rows), default=0)
        cells = [[*row, *[""] * (columns - len(row))] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        )
        return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        title, rows = self._shown()
        lines = (
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return f"<table><caption>{html.escape(title)}</caption>{''.join(lines)}</table>"


def name_some(names: Sequence[str]) -> str:
    """`10: zero, one, two, ...`."""
    some = [*names[:_MOST_NAMES], *(["..."] if len(names) > _MOST_NAMES else [])]
    return f"{len(names)}: {', '.join(some)}"


def _cut(cell: str) -> str:
    return cell if len(cell) <= _LONGEST else f"{cell[: _LONGEST - 3]}..."
