"""Removing caches, and what killed writers left beside them; nothing else is ever removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

from cafe.errors import BusyError, CacheError, raise_as
from cafe.store.files import is_unlocked, left_overs, lock_file, lock_path, remove_left_overs
from cafe.store.paths import cache_folder

_HDF5 = b"\x89HDF\r\n\x1a\n"


class Hidden(NamedTuple):
    """How many hidden files and folders there are, or were, and their bytes."""

    number: int
    bytes: int


def remove_cache(path: Path, root: Path | str | None = None) -> int:
    """Remove a cache file, and its folder in the cache folder when nothing else is in it.

    Parameters
    ----------
    path : Path
    root : Path or str, optional
        The folder of caches; None takes `$CAFE_CACHE`, else `./cache`.

    Returns
    -------
    int
        The bytes freed.

    Raises
    ------
    BusyError
        If another process writes the cache.
    CacheError
        If it is no cache, or cannot be removed.
    """
    with raise_as(CacheError, f"cannot remove '{path}'", "check its folder"):
        is_in_root = check_removable(path, root)
        with lock_file(path):
            size = path.stat().st_size
            path.unlink()
    if is_in_root:
        _remove_if_empty(path.parent)
    return size


def check_removable(path: Path, root: Path | str | None = None) -> bool:
    """Refuse what is no cache; one that HDF5 cannot open is known by its place.

    Returns
    -------
    bool
        Whether it lies in the folder of caches.

    Raises
    ------
    CacheError
        If it is no cache.
    """
    folder = cache_folder(root)
    is_in_root = folder.is_dir() and path.absolute().parent.parent.samefile(folder)
    if path.is_symlink():
        raise CacheError(f"'{path}' is a link, not a cache; remove the link itself with 'rm'.")
    with path.open("rb") as stream:
        is_cache = stream.read(len(_HDF5)) == _HDF5
    if is_cache:
        try:
            with h5py.File(path, "r", locking=False) as file:
                is_cache = "cafe_format" in file.attrs
        except (OSError, RuntimeError):  # truncated or damaged
            is_cache = is_in_root and path.suffix == ".h5"
    if not is_cache:
        raise CacheError(f"'{path}' is no cache of cafe, and is kept; remove it with 'rm'.")
    return is_in_root


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not empty, or another process removed it
        folder.rmdir()


def find_left_overs(root: Path) -> Hidden:
    """What `prune` would remove from a folder of caches; nothing is changed."""
    found = [path for folder in _folders(root) for path in left_overs(folder)]
    found += _unlocked(root, "lock") + _unlocked(root, _BEFORE)
    found += [folder for folder in _unlocked(root, "partial") if not _holds_work(folder)]
    return Hidden(len(found), sum(map(_size, found)))


def find_interrupted(root: Path) -> Hidden:
    """Finished work of extractions that are not under way; `cafe extract` goes on from there."""
    found = list(filter(_holds_work, _unlocked(root, "partial")))
    return Hidden(len(found), sum(map(_size, found)))


def prune(root: Path, *, interrupted: bool = False) -> Hidden:
    """Remove what killed writers left in a folder of caches.

    A left-over is known by its lock, which the system drops with the process, and never by its age.
    Where the file system has no locks nothing is removed.

    Parameters
    ----------
    root : Path
    interrupted : bool
        Remove the finished work of interrupted extractions too.

    Raises
    ------
    CacheError
        If something cannot be removed.
    """
    before = [find_left_overs(root), *([find_interrupted(root)] if interrupted else [])]
    for folder in list(_folders(root)):
        if remove_left_overs(folder) and folder != root:
            _remove_if_empty(folder)
    with raise_as(CacheError, f"cannot remove the left-overs in '{root}'"):
        for path in (path for suffix in _SUFFIXES for path in _unlocked(root, suffix)):
            if interrupted or not _holds_work(path):
                _remove_hidden(path)
    after = find_left_overs(root)
    number, size = (sum(part) for part in zip(*before, strict=True))
    return Hidden(max(0, number - after.number), max(0, size - after.bytes))


_BEFORE = "writing"
"""Suffix of what all writers shared before each had a folder of its own."""
_SUFFIXES = ("partial", _BEFORE, "lock")


def _holds_work(path: Path) -> bool:
    """Whether a path is a folder with finished blocks of an extraction."""
    return path.suffix == ".partial" and any(path.glob("*.npz"))


def _unlocked(root: Path, suffix: str) -> list[Path]:
    """Hidden files or folders beside caches that no process is writing."""
    return [
        path
        for path in root.glob(f"*/.*.h5.{suffix}")
        if not path.is_symlink() and is_unlocked(lock_path(_cache_of(path)))
    ]


def _cache_of(hidden: Path) -> Path:
    """`x.h5` of `.x.h5.partial`."""
    return hidden.with_name(hidden.stem[1:])


def _remove_hidden(path: Path) -> None:
    with contextlib.suppress(BusyError), lock_file(_cache_of(path)):  # which removes its own lock
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".lock":
            path.unlink(missing_ok=True)
    _remove_if_empty(path.parent)


def _folders(root: Path) -> Iterator[Path]:
    """Where writers of caches make their temporary folders."""
    yield root
    yield from root.glob("*/")
    yield from root.glob("*/.*.h5.partial/")


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in files)
