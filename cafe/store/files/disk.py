"""Bytes and names that are on disk, not in a buffer of the system; digests of files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

_NOT_SYNCED = (errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)
"""Of a folder that may be written and not read, or whose file system syncs no folder."""


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return  # Windows opens no folder
    try:
        # Windows syncs no file that is open for reading
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in _NOT_SYNCED:
            raise


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns those that were not there, the innermost first."""
    missing = list(itertools.takewhile(lambda f: not f.exists(), [folder, *folder.parents]))
    for part in reversed(missing):
        with contextlib.suppress(FileExistsError):
            part.mkdir()
            sync(part.parent)
    return missing


def real_path(target: Path) -> Path:
    """Where a file is written that is asked for as `target`: where a link points.

    Raises
    ------
    OSError
        If there is something else than a file.
    """
    real = Path(os.path.realpath(target)) if target.is_symlink() else target
    if real.exists() and not real.is_file():
        error, reason = (errno.EISDIR, "a folder") if real.is_dir() else (errno.EINVAL, "no file")
        raise OSError(error, f"it is {reason}", str(target))
    return real


def check_folder(folder: Path) -> None:
    """Check that files can be written to a folder, which is made later if need be.

    Raises
    ------
    OSError
        If they cannot.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append whole lines to a file, made if need be; they are on disk when this returns.

    A line that a killed process left torn is ended first, so that it spoils no other.
    """
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as stream:
        text = "".join(f"{line}\n" for line in lines).encode()
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            text = text if stream.read() == b"\n" else b"\n" + text
        while text:  # the system may take a part only
            text = text[stream.write(text) :]
        os.fsync(stream.fileno())
    if is_new:
        sync(path.parent)


def digest_of_file(file: Path) -> str:
    """SHA-256 of a file."""
    checksum = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()
