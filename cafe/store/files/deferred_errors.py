"""A file whose write errors are raised on request.

HDF5 and PyTorch crash, taking the process with them, when a disk is full while they write or close
a file. So they write to this file, which keeps the first error, ignores whatever is written after
it, and raises the error when asked.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class DeferredErrorFile(io.FileIO):
    """A new file to write and read; use as a context manager.

    Parameters
    ----------
    path : Path
        Where the file is made; one that is there is overwritten.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error that a write has met.

        Raises
        ------
        OSError
        """
        if self._error is not None:
            raise self._error

    def readinto(self, buffer: Buffer, /) -> int:
        """Read what was written, and zeros where a write failed."""
        view = memoryview(buffer).cast("B")
        count = super().readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        return len(view)

    def write(self, data: Buffer, /) -> int:
        """Write all of the data, or keep the error."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self._error is None:
            try:
                done += super().write(view[done:]) or 0  # the system may take a part only
            except OSError as error:
                self._error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Change the file's size, or keep the error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0
