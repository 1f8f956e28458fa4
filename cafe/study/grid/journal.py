"""Rows of a grid's finished runs on disk, so that an interrupted grid goes on.

A journal is a JSONL file that is only ever appended to, by one process at a time. Each line carries
a digest of its row, so that a line which is torn or damaged is known as such. Its folder is named
after all that its rows depend on: the content of the cache, the grid, the precision, and the
versions of cafe and PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from cafe.errors import BusyError, CafeError, InputError, counted, raise_as
from cafe.results.page import GridRow
from cafe.results.record import versions_here
from cafe.results.typed_json import from_json
from cafe.store import FeatureCache
from cafe.store.files import append_lines, lock_file
from cafe.study.grid.space import Cell, Configuration, GridSpace

Note = Callable[[str], None]
_SEAL = b', "sha256": "'
_ADVICE = "choose another folder with runs=, or free some space"


class _Row(GridRow):
    """A row that holds nothing else."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]


class Journal:
    """Rows of finished runs in a JSONL file.

    Parameters
    ----------
    path : Path
        The file, which need not be there. A damaged row, as a killed grid leaves as its last, is
        dropped: its run is trained again.

    Attributes
    ----------
    rows : dict of Cell to GridRow
    damaged : int
        Rows that were dropped.
    """

    def __init__(self, path: Path) -> None:
        self.rows: dict[Cell, GridRow] = {}
        self.damaged = 0
        self._path = path
        with self._errors():
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        for line in filter(None, lines):
            row = _unseal(line, path)
            if row is None:
                self.damaged += 1
            else:
                self._take(row)

    def _errors(self) -> AbstractContextManager[None]:
        return raise_as(CafeError, f"cannot keep finished runs in '{self._path.parent}'", _ADVICE)

    def _take(self, row: GridRow) -> None:
        point = Configuration(row["ratio"], row["bottleneck"], row["lr"])
        self.rows[Cell(row["shots"], row["seed"], point)] = row

    def add(self, rows: Sequence[GridRow]) -> None:
        """Keep rows; they are on disk when this returns."""
        with self._errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self._path, map(_seal, rows))
        for row in rows:
            self._take(row)

    def discard(self) -> None:
        """Remove the journal with its folder: its grid is saved."""
        shutil.rmtree(self._path.parent, ignore_errors=True)


def _seal(row: GridRow) -> str:
    text = json.dumps(row)
    return f'{text[:-1]}, "sha256": "{_digest(text.encode())}"}}'


def _unseal(line: bytes, path: Path) -> GridRow | None:
    """The row of a line; None where it is damaged."""
    body, mark, seal = line.rpartition(_SEAL)
    text = body + b"}" if mark else line  # rows of cafe 0.1 have no digest
    if mark and seal != f'{_digest(text)}"}}'.encode():
        return None
    try:
        row: GridRow = from_json(_Row, text, path)
    except InputError:
        return None
    return row


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


@contextmanager
def open_journal(
    cache: FeatureCache, space: GridSpace, precision: str, runs: Path, note: Note
) -> Iterator[Journal]:
    """The journal of a grid, locked: what an earlier sitting finished is in it.

    Raises
    ------
    BusyError
        If another process trains the same grid for the same folder of runs.
    CafeError
        If the folder cannot be written.
    """
    folder = journal_folder(cache, space, precision, runs)
    with ExitStack() as stack:
        with raise_as(CafeError, f"cannot keep finished runs in '{folder}'", _ADVICE):
            stack.enter_context(_lock(folder))
            _adopt(folder, cache, space, runs, note)
        journal = Journal(folder / "rows.jsonl")
        if journal.damaged:
            note(
                f"dropped: {counted(journal.damaged, 'damaged row')} of '{folder}', whose runs are "
                "trained again."
            )
        if journal.rows:
            note(f"{counted(len(journal.rows), 'run', 'were')} finished earlier, in {precision}.")
        yield journal


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        with lock_file(folder):
            yield
    except BusyError as error:
        raise BusyError(
            "another process trains this grid; wait for it to end, or stop it first."
        ) from error


def journal_folder(cache: FeatureCache, space: GridSpace, precision: str, runs: Path) -> Path:
    """Where the rows of a grid wait, under a name that no other grid has."""
    values = {"content": cache.content_sha256, "precision": precision, **asdict(space)}
    return _named({**values, "versions": versions_here()}, runs)


def _named(values: dict[str, Any], runs: Path) -> Path:
    name = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    return runs / f".grid-{name}"


def _adopt(folder: Path, cache: FeatureCache, space: GridSpace, runs: Path, note: Note) -> None:
    """Go on with a journal of cafe 0.1, which was named after the cache's key alone."""
    key = dict(cache.header.key)
    before = _named({"key": key, **asdict(space)}, runs)
    if folder.exists() or not before.is_dir():
        return
    if "imported_sha256" in key and "logit_scale" not in key:
        note(
            f"the finished runs in '{before}' are left alone: they do not say of which content of "
            "the cache they are."
        )
        return
    before.rename(folder)
    note(
        f"the finished runs in '{before}', of cafe 0.1, are taken; they do not say in which "
        "precision they are."
    )
