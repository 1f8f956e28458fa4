"""Hidden folders for what is not whole yet, and what is left of them when a writer is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from cafe.store.files.locks import TRIES, is_unlocked, lock

_NAME = re.compile(r"\.cafe-[0-9a-f]{16}\.writing")


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a hidden, empty folder, and remove it with all that is in it when the block ends.

    For libraries that write several files: let them write into the folder, then `move` each.

    Parameters
    ----------
    parent : Path
        Folder of the target, so that both are on one file system.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """
    folder, descriptor = _locked_folder(parent)
    try:
        yield folder
    finally:
        os.close(descriptor)  # first: a network folder keeps an open file, and its folder with it
        for _ in range(TRIES):  # who looks for left-overs makes its lock file again meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock."""
    for _ in range(TRIES):
        folder = parent / f".cafe-{secrets.token_hex(8)}.writing"
        folder.mkdir()
        try:
            descriptor = lock(folder / "lock")
        except FileNotFoundError:
            continue  # removed as a left-over before it was locked
        except OSError:
            folder.rmdir()
            raise
        if descriptor is not None:
            return folder, descriptor
    raise OSError(errno.EAGAIN, "its temporary folder is removed at every try")


def left_overs(parent: Path) -> list[Path]:
    """What killed writers left in a folder; none where the file system has no locks to tell."""
    return [folder for folder in _temporary_folders(parent) if is_unlocked(folder / "lock")]


def remove_left_overs(parent: Path) -> int:
    """Remove what killed writers left in a folder.

    Where the file system has no locks nothing is removed: its writer may be alive.

    Returns
    -------
    int
        How many were removed.
    """
    count = 0
    for folder in _temporary_folders(parent):
        with contextlib.suppress(OSError):
            descriptor = lock(folder / "lock", even_without_locks=False)
            if descriptor is None:
                continue
            try:
                shutil.rmtree(folder)
                count += 1
            finally:
                os.close(descriptor)
    return count


def _temporary_folders(parent: Path) -> Iterator[Path]:
    for path in parent.glob(".cafe-*.writing"):
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path
