"""Locks between processes: one writer per target, and locks that die with their process."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from cafe.errors import BusyError, InputError
from cafe.files.disk import make_folder

TRIES = 10
"""How often a lock or a folder is tried that others remove at the same time."""


@contextlib.contextmanager
def lock_file(target: Path, *, replace: bool = True) -> Iterator[None]:
    """Be the only process that writes a target; readers are not kept out.

    Where the file system has no locks the block runs all the same: `write_file` alone keeps the
    bytes of two writers apart.

    Parameters
    ----------
    target : Path
        File or folder to be written, there or not; its folder is made, and removed if it is empty
        when the block ends. The lock is a hidden file beside the target.
    replace : bool
        Whether the target may be there already.

    Raises
    ------
    BusyError
        If another process holds the lock.
    InputError
        If the target is there and may not.
    OSError
        If the lock cannot be made.
    """
    path = lock_path(Path(os.path.realpath(target)) if target.is_symlink() else target)
    made, lock = _make_and_lock(path)
    try:
        if lock is None:
            raise BusyError(
                f"another process is writing '{target}'; wait for it to end, or stop it first."
            )
        if not replace and target.exists():
            raise InputError(
                f"'{target}' is there already; choose another name, or use replace=True."
            )
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()
            os.close(lock)
        for folder in made:
            with contextlib.suppress(OSError):  # it holds the target
                folder.rmdir()


def lock_path(target: Path) -> Path:
    """The lock file of a target."""
    return target.with_name(f".{target.name}.lock")


def _make_and_lock(path: Path) -> tuple[list[Path], int | None]:
    """The folders that were made for a lock, and the lock; see `make_folder` and `lock`."""
    for _ in range(TRIES):
        made = make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):  # removed by another that needs it no more
            return made, lock(path)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def lock(path: Path, *, even_without_locks: bool = True) -> int | None:
    """Lock a file, made if need be, at once or not at all; closing the descriptor unlocks it."""
    for _ in range(TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            descriptor = os.open(path, os.O_RDONLY)  # another user's, in a shared folder
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


def is_unlocked(path: Path) -> bool:
    """Whether no process holds a lock; False where that cannot be told. Nothing is changed."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return _try_lock(descriptor) is True
    finally:
        os.close(descriptor)


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
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # ENOLCK, EOPNOTSUPP, ...: some network folders
        return None
    return True
