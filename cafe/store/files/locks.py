"""Locks between processes, which the system drops with the process that holds them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

TRIES = 10
"""How often a lock or a folder is tried that others remove at the same time."""


def lock_path(target: Path) -> Path:
    """The lock file of a target."""
    return target.parent / f".{target.name}.lock"


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
