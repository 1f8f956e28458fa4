"""A file that HDF5 writes to and that never fails under it; the failure is told afterwards.

HDF5 crashes, taking the process with it, when a disk is full while it writes or closes a file. So
it writes to this, which keeps the first error, takes whatever follows without storing it, and
raises the error when it is asked.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Sink(io.RawIOBase):
    """A new file; use as a context manager.

    Parameters
    ----------
    path : Path
        Where the file is made; one that is there is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def close(self) -> None:
        """As files do; what it could not store is told by `check`."""
        with contextlib.suppress(OSError):
            self._stream.close()
        super().close()

    def check(self) -> None:
        """Raise the error that a write has met.

        Raises
        ------
        OSError
        """
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As files do."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As files do."""
        return self._stream.tell()

    def readinto(self, buffer: Buffer, /) -> int:
        """As files do; zeros for what was lost."""
        view = memoryview(buffer).cast("B")
        count = self._stream.readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        return len(view)

    def write(self, data: Buffer, /) -> int:
        """Store all of the data, or keep the error."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self._error is None:
            try:
                done += self._stream.write(view[done:]) or 0
            except OSError as error:
                self._error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """As files do."""
        try:
            return self._stream.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def flush(self) -> None:
        """Nothing waits to be written."""
