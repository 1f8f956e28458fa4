"""The folder in which an extraction keeps its finished blocks until the cache file is written.

An HDF5 file that is killed in mid-write cannot be opened again, so blocks wait as small files of
their own, each appearing complete under its name; a run that is interrupted resumes after them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from cafe.errors import CacheError
from cafe.key import Key, canonical
from cafe.store import Block


class Failure(NamedTuple):
    """An image that could not be read."""

    id: str
    reason: str


class Partial:
    """Finished blocks of an extraction that is under way; use as a context manager.

    Parameters
    ----------
    cache : Path
        Final name of the cache file; the folder stands beside it.
    key : Key
        Key of the extraction. Blocks of another key are thrown away.

    Raises
    ------
    CacheError
        On entering, if the folder cannot be written or another process extracts the same cache.
    """

    def __init__(self, cache: Path, key: Key) -> None:
        self.folder = cache.with_name(f".{cache.name}.partial")
        self._cache = cache
        self._key = canonical(key)
        self._lock: IO[str] | None = None

    def __enter__(self) -> Partial:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache folder '{self._cache.parent}' ({error.strerror}); "
                "choose another with --cache."
            ) from error
        if not _try_lock(self._lock):
            self._lock.close()
            raise CacheError(
                f"another process is extracting '{self._cache}'; wait for it, or stop it first."
            )
        self._drop_other_key()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def _drop_other_key(self) -> None:
        key_file = self.folder / "key.json"
        if not key_file.is_file() or key_file.read_text() != self._key:
            for file in self.folder.glob("*.npz"):
                file.unlink()
            key_file.write_text(self._key)

    def _path(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number:06d}.npz"

    def has(self, split: str, number: int) -> bool:
        """Whether a block is finished."""
        return self._path(split, number).is_file()

    def save(self, split: str, number: int, block: Block, failures: list[Failure]) -> None:
        """Keep a finished block; it is on disk when this returns."""
        path = self._path(split, number)
        temporary = path.with_suffix(".tmp")
        arrays: dict[str, Any] = {"features": block.features, "labels": block.labels}
        if block.views is not None:
            arrays["views"] = block.views
        try:
            with temporary.open("wb") as stream:
                np.savez(
                    stream,
                    ids=np.array(block.ids, dtype=np.str_),
                    failures=np.array(failures, dtype=np.str_).reshape(-1, 2),
                    **arrays,
                )
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError as error:
            raise CacheError(
                f"cannot keep finished work in '{self.folder}' ({error.strerror}); free some space "
                "and run the same command again: it goes on where it stopped."
            ) from error

    def load(self, split: str, number: int) -> tuple[Block, list[Failure]]:
        """Read a finished block."""
        with np.load(self._path(split, number), allow_pickle=False) as file:
            block = Block(
                ids=file["ids"].tolist(),
                labels=file["labels"],
                features=file["features"],
                views=file.get("views"),
            )
            return block, [Failure(*pair) for pair in file["failures"].tolist()]

    def blocks(self, split: str, count: int) -> Iterator[Block]:
        """Every block of a split, in order, one in memory at a time."""
        for number in range(count):
            block, _ = self.load(split, number)
            if block.ids:
                yield block

    def discard(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _try_lock(stream: IO[str]) -> bool:
    """Lock a file for this process; the system drops it with the process, so none is stale."""
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
