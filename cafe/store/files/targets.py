"""One writer at a time for what a user named."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from cafe.errors import BusyError, InputError
from cafe.store.files.disk import make_folder
from cafe.store.files.locks import TRIES, lock, lock_path
from cafe.store.files.temporary import remove_left_overs


@contextlib.contextmanager
def lock_file(target: Path, *, replace: bool = True) -> Iterator[None]:
    """Be the only process that writes a target; readers are not kept out.

    What killed writers left beside it is removed.

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
    made, descriptor = _make_and_lock(path)
    try:
        if descriptor is None:
            raise BusyError(
                f"another process is writing '{target}'; wait for it to end, or stop it first."
            )
        if not replace and target.exists():
            raise InputError(
                f"'{target}' is there already; choose another name, or use replace=True."
            )
        remove_left_overs(path.parent)
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()
            os.close(descriptor)
        for folder in made:
            with contextlib.suppress(OSError):  # it holds the target
                folder.rmdir()


def _make_and_lock(path: Path) -> tuple[list[Path], int | None]:
    """The folders that were made for a lock, and the lock; see `make_folder` and `lock`."""
    for _ in range(TRIES):
        made = make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):  # removed by another that needs it no more
            return made, lock(path)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
