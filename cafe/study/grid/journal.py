"""Rows of a grid's finished runs on disk, so that an interrupted grid goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cafe.errors import CafeError, InputError
from cafe.files import write_text
from cafe.results.page import GridRow
from cafe.results.typed_json import from_json
from cafe.study.grid.space import Cell, Configuration


class Journal:
    """Rows of finished runs in a JSONL file, so that an interrupted grid goes on.

    Parameters
    ----------
    path : Path
        The file; rows that are there are read. A damaged row, as a killed grid leaves as its last,
        is dropped: its run is trained again.

    Attributes
    ----------
    rows : dict of Cell to GridRow
    """

    def __init__(self, path: Path) -> None:
        self.rows: dict[Cell, GridRow] = {}
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for line in path.read_bytes().splitlines() if path.exists() else ():
                self._take_line(line)
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows.values()))
        except OSError as error:
            raise CafeError(
                f"cannot keep finished runs in '{path.parent}' ({error.strerror}); choose another "
                "folder with runs=."
            ) from error

    def _take_line(self, line: bytes) -> None:
        try:
            self._take(from_json(GridRow, line, self._path))
        except InputError:
            return

    def _take(self, row: GridRow) -> None:
        point = Configuration(row["ratio"], row["bottleneck"], row["lr"])
        self.rows[Cell(row["shots"], row["seed"], point)] = row

    def add(self, rows: Sequence[GridRow]) -> None:
        """Keep rows; they are on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row) + "\n")
                self._take(row)
