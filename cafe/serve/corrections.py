"""Labels that a person corrected or confirmed: a file that `cafe relabel` applies.

It holds one row for each image, the last word said of it, and is replaced in one step under a lock:
a killed server leaves it whole, and neither two tabs nor two servers lose each other's rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cafe.curation.suggestions import Suggestion, read_suggestions, suggestions_text
from cafe.errors import BusyError, CafeError, InputError, raise_as
from cafe.store.files import lock_file, write_text

CORRECTED, CONFIRMED, NEW = "label", "confirmed", "unlabelled"
"""Kinds of rows: another class; the class that it has; the first class of an unlabelled image."""

_WAIT = 10.0  # seconds for another writer


class Corrections:
    """The file, and what is in it.

    Parameters
    ----------
    path : Path
        Made when the first row is added.

    Raises
    ------
    CafeError
        If what is there cannot be read, or is no such file. A last line that is torn is no error:
        it is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._rows: dict[str, Suggestion] = {}
        self._state: tuple[int, int] | None = None
        self.rows()

    def rows(self) -> Mapping[str, Suggestion]:
        """The rows by image id, read again where another process has written."""
        with self._lock, raise_as(CafeError, f"cannot read '{self.path}'"):
            return self._read()

    def add(self, rows: Mapping[str, Suggestion | None]) -> None:
        """Add rows, or remove those of ids with None; they are on disk when this returns.

        Raises
        ------
        CafeError
            If the file cannot be written; what was there stays.
        """
        problem = raise_as(CafeError, f"cannot write '{self.path}'", "nothing was corrected")
        with self._lock, problem:
            with _when_free(self.path):
                merged = {**self._read(), **rows}
                kept = [row for row in merged.values() if row is not None]
                write_text(self.path, suggestions_text(kept))
            self._read()

    def _read(self) -> dict[str, Suggestion]:
        """The rows; called while the lock is held."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._rows, self._state = {}, None
            return self._rows
        state = (status.st_mtime_ns, status.st_size)
        if state != self._state:
            cut_torn_line(self.path)
            try:
                self._rows = {row.id: row for row in read_suggestions(self.path)}
            except InputError as error:  # the file is damaged: whoever asked has done no wrong
                raise CafeError(str(error)) from error
            status = self.path.stat()
            self._state = (status.st_mtime_ns, status.st_size)
        return self._rows


@contextmanager
def _when_free(path: Path) -> Iterator[None]:
    """Lock a file, after another server of the same model has written it."""
    ends = time.monotonic() + _WAIT
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock_file(path))
                break
            except BusyError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.02)
        yield


def cut_torn_line(path: Path) -> None:
    """Remove a last row that has no end."""
    content = path.read_bytes()
    end = quotes = place = 0
    for line in content.splitlines(keepends=True):
        place += len(line)
        quotes += line.count(b'"')
        if line.endswith(b"\n") and quotes % 2 == 0:
            end = place
    if content and end == len(content):
        return
    if end:
        write_text(path, content[:end].decode("utf-8", "replace"))
    else:
        write_text(path, suggestions_text([]))
