"""The folder in which an extraction keeps its finished blocks until the cache file is written.

An HDF5 file whose writer is killed cannot be opened again. Finished blocks are therefore small
files of their own, each of which appears complete under its name. A run that was interrupted
resumes after them.
"""

from __future__ import annotations

import contextlib
import glob
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cafe.errors import BusyError, CacheError
from cafe.files import lock_file, remove_left_overs, write_file, write_text
from cafe.store import Block
from cafe.store.key import Key, canonical, differences

_IDENTITY = "extraction.json"


class Failure(NamedTuple):
    """An image that could not be read."""

    id: str
    reason: str


def clean_up(cache: Path) -> None:
    """Remove what a run leaves that is killed after its cache is complete."""
    with contextlib.suppress(OSError):  # another process is writing the cache, or it is read-only
        # its folder of blocks, or at least its lock
        if any(cache.parent.glob(f".{glob.escape(cache.name)}.*")):
            with lock_file(cache):
                remove_left_overs(cache.parent)
                shutil.rmtree(_folder(cache), ignore_errors=True)


def unfinished_key(cache: Path) -> Key | None:
    """The key of the extraction of a cache that was interrupted; None where there is none."""
    key = _read_identity(_folder(cache)).get("key")
    return key if isinstance(key, dict) and any(_folder(cache).glob("*.npz")) else None


def _read_identity(folder: Path) -> dict[str, Any]:
    """Key and batch size of the blocks in a folder; empty where they are not known."""
    with contextlib.suppress(OSError, ValueError):
        identity = json.loads((folder / _IDENTITY).read_text(encoding="utf-8"))
        if isinstance(identity, dict):
            return identity
    return {}


def _folder(cache: Path) -> Path:
    return cache.with_name(f".{cache.name}.partial")


class ResumeFolder:
    """Finished blocks of an extraction that is under way; a context manager.

    Parameters
    ----------
    cache : Path
        Final name of the cache file; the folder lies beside it.
    key : Key
        Key of the extraction.
    batch_size : int
        Blocks of another key or batch size are removed.
    note : callable, optional
        Told when finished blocks are removed, and why.

    Raises
    ------
    CacheError
        On entering, if the folder cannot be written.
    BusyError
        On entering, if another process writes the same cache.
    """

    def __init__(
        self,
        cache: Path,
        key: Key,
        batch_size: int,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = _folder(cache)
        self._note = note
        self._cache = cache
        self._identity = canonical({"batch": batch_size, "key": dict(key)})
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> ResumeFolder:
        try:
            self._lock.enter_context(lock_file(self._cache))
            self.folder.mkdir(exist_ok=True)
            self._drop_others()
        except BusyError:
            raise
        except OSError as error:
            self._lock.close()
            raise CacheError(
                f"cannot write to the cache folder '{self._cache.parent}' ({error.strerror}); "
                "choose another with cache=."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def __getstate__(self) -> dict[str, Any]:
        """A pickled copy, in a worker, reads and writes blocks; the lock stays with its owner."""
        own = {"_lock": contextlib.ExitStack(), "_note": None, "folder": self.folder.absolute()}
        return {**vars(self), **own}

    def _drop_others(self) -> None:
        """Remove blocks of another extraction, and what a killed run was writing."""
        remove_left_overs(self.folder)
        if _read_identity(self.folder) == json.loads(self._identity):
            return
        finished = list(self.folder.glob("*.npz"))
        if finished and self._note is not None:
            self._note(self._why_removed(len(finished)))
        for file in finished:
            file.unlink()
        write_text(self.folder / _IDENTITY, self._identity)

    def _why_removed(self, blocks: int) -> str:
        there, wanted = _read_identity(self.folder), json.loads(self._identity)
        different = differences(there.get("key", {}), wanted["key"])
        if there.get("batch") != wanted["batch"]:
            different.append(f"batch size is {there.get('batch')}, asked for {wanted['batch']}")
        return (
            f"starting again: {blocks} finished blocks of '{self._cache}' were made differently "
            f"({'; '.join(different)}) and are removed."
        )

    def _path(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number:06d}.npz"

    def has(self, split: str, number: int, images: int) -> bool:
        """Whether a block of so many images is finished and undamaged."""
        if not self._path(split, number).is_file():
            return False
        with contextlib.suppress(CacheError):
            block, failures = self.load(split, number)
            return len(block.ids) + len(failures) == images
        return False

    def save(self, split: str, number: int, block: Block, failures: list[Failure]) -> None:
        """Keep a finished block; it is on disk when this returns."""
        names = json.dumps({"ids": list(block.ids), "failures": failures})
        arrays: dict[str, Any] = {
            "names": np.frombuffer(names.encode(), np.uint8),
            "features": block.features,
            "labels": block.labels,
            "views": block.views,
            "spatial": block.spatial,
        }
        present = {name: array for name, array in arrays.items() if array is not None}
        try:
            # in one step: a worker of a cluster that was taken for lost may write the same block
            with write_file(self._path(split, number)) as stream:
                np.savez(stream, **present)
        except OSError as error:
            raise CacheError(
                f"cannot keep finished work in '{self.folder}' ({error.strerror or error}); free "
                "some space and run the same command again: it resumes where it stopped."
            ) from error

    def load(self, split: str, number: int) -> tuple[Block, list[Failure]]:
        """Read a finished block; the archive's checksums are compared on the way.

        Raises
        ------
        CacheError
            If it is damaged.
        """
        path = self._path(split, number)
        try:
            with np.load(path, allow_pickle=False) as file:
                names = json.loads(file["names"].tobytes())
                more = file.get("views"), file.get("spatial")
                block = Block(names["ids"], file["labels"], file["features"], *more)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CacheError(
                f"finished work in '{path}' is damaged ({error}); run the same command again: it "
                "encodes this block anew."
            ) from error
        return block, [Failure(*pair) for pair in names["failures"]]

    def blocks(self, split: str, count: int) -> Iterator[Block]:
        """Every block of a split, in order, one in memory at a time."""
        for number in range(count):
            block, _ = self.load(split, number)
            if block.ids:
                yield block

    def discard(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
