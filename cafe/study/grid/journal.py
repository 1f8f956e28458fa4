"""Rows of a grid's finished runs on disk, so that an interrupted grid goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cafe.errors import CafeError
from cafe.study.grid.space import Cell, Configuration

Row = dict[str, Any]
"""One run: `shots`, `seed`, `ratio`, `bottleneck`, `lr`, `val` (percent), `val_nll` (nats), and
`test` (percent), which is None but for the chosen configurations."""

FIELDS = ("shots", "seed", "ratio", "bottleneck", "lr", "val", "val_nll", "test")


class Journal:
    """Rows of finished runs in a JSONL file, so that an interrupted grid goes on.

    Parameters
    ----------
    path : Path
        The file; rows that are there are read, a torn last line is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.rows: dict[Cell, Row] = {}
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines:
                if line.endswith("}"):
                    self._take(json.loads(line))
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows.values()))
        except OSError as error:
            raise CafeError(
                f"cannot keep finished runs in '{path.parent}' ({error.strerror}); choose another "
                "folder with --runs."
            ) from error

    def _take(self, row: Row) -> None:
        point = Configuration(row["ratio"], row["bottleneck"], row["lr"])
        self.rows[Cell(row["shots"], row["seed"], point)] = row

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows; they are on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row) + "\n")
                self._take(row)
