"""Files as a whole: locks between processes and digests; knows no format."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import IO

_TRIES = 10


def lock_file(path: Path) -> IO[str] | None:
    """Lock a file for this process, at once or not at all.

    Parameters
    ----------
    path : Path
        Made if it is not there, and its folder too.

    Returns
    -------
    file or None
        The open file, whose closing unlocks it; None where another process holds it.

    Raises
    ------
    OSError
        If the file cannot be made.
    """
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stream = path.open("a")
        except FileNotFoundError:  # the folder's owner has just finished and removed it
            continue
        if not _try_lock(stream):
            stream.close()
            return None
        if _is_still(path, stream):
            return stream
        stream.close()  # locked, but removed in between: it locks nobody out
    return None


def _is_still(path: Path, stream: IO[str]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    return False


def _try_lock(stream: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        with contextlib.suppress(OSError):
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            return True
        return False
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def digest_of_file(file: Path) -> str:
    """SHA-256 of a file."""
    checksum = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()
