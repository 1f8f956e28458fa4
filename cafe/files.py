"""Files as a whole: written in one step, locked between processes, digested; knows no format.

A file is first written into a hidden folder of its own (`.cafe-<hex>.writing`) beside its target,
put on disk, and renamed to the target. Whoever looks at the target sees the old file or the new
one, never a half of one, also after a crash. Two writers of one target never share a byte: making a
folder of a random name is exclusive on every file system, and the last rename wins.

The hidden folder holds a file `lock`, which its writer locks. The kernel drops the lock when the
writer dies, so an unlocked folder is the left-over of a killed writer, whatever its age.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cafe.errors import BusyError

_TRIES = 10


@contextlib.contextmanager
def write_file(target: Path) -> Iterator[BinaryIO]:
    """Write a file in one step: the target is whole and on disk, or as it was.

    Parameters
    ----------
    target : Path
        A file that is there is replaced. Its folder must exist.

    Yields
    ------
    BinaryIO
        An open file. It becomes the target when the block ends, and is removed if the block raises.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with temporary_folder(target.parent) as folder:
        with (folder / target.name).open("xb") as stream:
            yield stream
        move(folder / target.name, target)


def write_text(target: Path, text: str) -> None:
    """Write a text file in UTF-8 in one step; see `write_file`."""
    with write_file(target) as stream:
        stream.write(text.encode())


def write_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Write a folder in one step: it appears with all that is in it, or not at all.

    Parameters
    ----------
    target : Path
        Where the name is taken, `-2`, `-3`, ... is appended to it. Its parent must exist.
    fill : callable
        Called with the path of an empty folder; writes files into it.

    Returns
    -------
    Path
        The folder, under the name that was free.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    with temporary_folder(target.parent) as temporary:
        content = temporary / "content"
        content.mkdir()
        fill(content)
        for path in content.rglob("*"):
            _sync(path)
        named, number = target, 1
        while True:
            if not named.exists():
                with contextlib.suppress(FileExistsError):  # another writer took the name just now
                    move(content, named)
                    return named
            number += 1
            named = target.with_name(f"{target.name}-{number}")


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a hidden, empty folder, and remove it with all that is in it when the block ends.

    For libraries that write to a path: let them write into the folder, then `move` the file.

    Parameters
    ----------
    parent : Path
        Folder of the target, so that both are on one file system.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        os.close(lock)  # first: a network folder keeps an open file, and its folder with it
        shutil.rmtree(folder, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Put a complete file or folder on disk and rename it to its target, in one step.

    Raises
    ------
    FileExistsError
        If the source is a folder and the target holds files.
    OSError
        If it cannot be renamed.
    """
    _sync(source)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # what Linux says of a folder that is there
            raise FileExistsError(errno.EEXIST, error.strerror, str(target)) from error
        raise
    _sync(target.parent)  # the new name is on disk only when its folder is


def remove_left_overs(parent: Path) -> int:
    """Remove what killed writers left in a folder.

    Where the file system has no locks nothing is removed: its writer may be alive.

    Returns
    -------
    int
        How many were removed.
    """
    count = 0
    for folder in parent.glob(".cafe-*.writing"):
        with contextlib.suppress(OSError):
            lock = _lock(folder / "lock", even_without_locks=False)
            if lock is None:
                continue
            try:
                shutil.rmtree(folder)
                count += 1
            finally:
                os.close(lock)
    return count


@contextlib.contextmanager
def lock_file(target: Path) -> Iterator[None]:
    """Be the only process that writes a target; readers are not kept out.

    Where the file system has no locks the block runs all the same: `write_file` alone keeps the
    bytes of two writers apart.

    Parameters
    ----------
    target : Path
        File or folder to be written, there or not; its folder is made. The lock is a hidden file
        beside it.

    Raises
    ------
    BusyError
        If another process holds the lock.
    OSError
        If the lock cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    lock = _lock(path)
    if lock is None:
        raise BusyError(
            f"another process is writing '{target}'; wait for it to end, or stop it first."
        )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink()
        os.close(lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock."""
    for _ in range(_TRIES):
        folder = parent / f".cafe-{secrets.token_hex(8)}.writing"
        folder.mkdir()
        try:
            lock = _lock(folder / "lock")
        except FileNotFoundError:
            continue  # removed as a left-over before it was locked
        except OSError:
            folder.rmdir()
            raise
        if lock is not None:
            return folder, lock
    raise OSError(errno.EAGAIN, "its temporary folder is removed at every try")


def _lock(path: Path, *, even_without_locks: bool = True) -> int | None:
    """Lock a file, made if need be, at once or not at all; closing the descriptor unlocks it."""
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            held = _try_lock(descriptor)
            fine = even_without_locks if held is None else held
            if fine and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            fine = True  # locked, but its owner removed it after we opened it: take the next
        os.close(descriptor)
        if not fine:
            return None
    return None


def _try_lock(descriptor: int) -> bool | None:
    """Whether this process now holds the lock; None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        with contextlib.suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            return True
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK, EOPNOTSUPP, ...: some network folders
        return None
    return True


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    if os.name != "nt":
        descriptor = os.open(path, os.O_RDONLY)
    elif path.is_file():
        descriptor = os.open(path, os.O_RDWR)  # Windows syncs no file that is open for reading
    else:
        return  # and it opens no folder
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of_file(file: Path) -> str:
    """SHA-256 of a file."""
    checksum = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()
