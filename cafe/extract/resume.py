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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cafe.datasets.open_image import FileState
from cafe.errors import CacheError, raise_as
from cafe.store import Block
from cafe.store.files import check_archive, lock_file, remove_left_overs, write_file, write_text
from cafe.store.key import Key, differences

_IDENTITY = "extraction.json"

_FOLLOWED = ["class_names_sha256", "dataset_sha256", "sentences_sha256"]
_FOLLOWED += ["templates", "tokens_sha256"]
"""Parts of a key that say nothing of how an image is encoded."""

_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What NumPy raises for an archive that is damaged."""


class Failure(NamedTuple):
    """An image that could not be read, and the state of its file if it is one."""

    id: str
    reason: str
    state: FileState | None = None

    def json(self) -> list[Any]:
        """JSON values."""
        state = self.state and [self.state.sha256.hex(), *self.state[1:]]
        return [self.id, self.reason, state]

    @classmethod
    def from_json(cls, image: str, reason: str, state: list[Any] | None = None) -> Failure:
        """The failure that `json` gave."""
        if state is None:
            return cls(image, reason)
        return cls(image, reason, FileState(bytes.fromhex(state[0]), *state[1:]))


def clean_up(cache: Path) -> None:
    """Remove what a run leaves that is killed after its cache is complete."""
    with contextlib.suppress(OSError):  # another process is writing the cache, or it is read-only
        # its folder of blocks, or at least its lock
        if any(cache.parent.glob(f".{glob.escape(cache.name)}.*")):
            with lock_file(cache):
                remove_left_overs(cache.parent)
                shutil.rmtree(_folder(cache), ignore_errors=True)


def _folder(cache: Path) -> Path:
    return cache.with_name(f".{cache.name}.partial")


@contextlib.contextmanager
def open_resume_folder(
    cache: Path,
    key: Key,
    batch_size: int,
    note: Callable[[str], None] | None = None,
    since: str = "",
    knows_content: bool = False,
) -> Iterator[ResumeFolder]:
    """The folder of an extraction, for this process alone while the block runs.

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
    since : str
        Digest of the cache whose images are taken over, so that the blocks hold the others alone.
    knows_content : bool
        Whether the files of a block's images can be compared with those of the dataset. Then blocks
        of the dataset as it was earlier are kept, and count where their images are the same.

    Raises
    ------
    CacheError
        If the folder cannot be written.
    BusyError
        If another process writes the same cache.
    """
    folder, problem = _folder(cache), f"cannot write to the cache folder '{cache.parent}'"
    with contextlib.ExitStack() as stack:
        with raise_as(CacheError, problem, "choose another with cache="):
            stack.enter_context(lock_file(cache))
            folder.mkdir(exist_ok=True)
            identity = {"batch": batch_size, "key": dict(key)} | ({"since": since} if since else {})
            _drop_others(folder, identity, note, _FOLLOWED if knows_content else ())
        yield ResumeFolder(folder)


def _drop_others(
    folder: Path,
    identity: Mapping[str, Any],
    note: Callable[[str], None] | None,
    followed: Sequence[str],
) -> None:
    """Remove blocks of another extraction, and what a killed run was writing."""
    remove_left_overs(folder)
    identity = json.loads(json.dumps(identity))  # as it is read
    there = _read_identity(folder)
    if there == identity:
        return
    finished = list(folder.glob("*.npz"))
    before, now = (
        {name: part for name, part in own.get("key", {}).items() if name not in followed}
        for own in (there, identity)
    )
    if followed and (there.get("batch"), before) == (identity["batch"], now):
        finished = []
    if finished and note is not None:
        different = differences(before, now)
        if there.get("batch") != identity["batch"]:
            different.append(f"batch size is {there.get('batch')}, asked for {identity['batch']}")
        if there.get("since") != identity.get("since"):
            different.append("they follow another cache")
        note(
            f"starting again: {len(finished)} finished blocks in '{folder}' were made differently "
            f"({'; '.join(different)}) and are removed."
        )
    for block in finished:
        block.unlink()
    write_text(folder / _IDENTITY, json.dumps(identity, sort_keys=True))


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


@dataclass(frozen=True)
class ResumeFolder:
    """Finished blocks of an extraction that is under way; see `open_resume_folder`.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    def _path(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number:06d}.npz"

    def find(self, split: str, number: int) -> tuple[Block, list[Failure]] | None:
        """A block that is finished and undamaged; None where there is none."""
        if self._path(split, number).is_file():
            with contextlib.suppress(CacheError):
                return self.load(split, number)
        return None

    def save(self, split: str, number: int, block: Block, failures: list[Failure]) -> None:
        """Keep a finished block; it is on disk when this returns."""
        failed = [failure.json() for failure in failures]
        names = json.dumps({"ids": list(block.ids), "failures": failed})
        arrays: dict[str, Any] = {
            "names": np.frombuffer(names.encode(), np.uint8),
            "features": block.features,
            "labels": block.labels,
            "views": block.views,
            "spatial": block.spatial,
            "pre_projection": block.pre_projection,
            "files": block.files,
        }
        present = {name: array for name, array in arrays.items() if array is not None}
        advice = "free some space and run the same command again: it resumes where it stopped"
        problem = raise_as(CacheError, f"cannot keep finished work in '{self.folder}'", advice)
        # in one step: a worker of a cluster that was taken for lost may write the same block
        with problem, write_file(self._path(split, number)) as stream:
            np.savez(stream, **present)

    def load(self, split: str, number: int) -> tuple[Block, list[Failure]]:
        """Read a finished block; the archive's checksums are compared on the way.

        Raises
        ------
        CacheError
            If it is damaged.
        """
        path = self._path(split, number)
        advice = "run the same command again: it encodes this block anew"
        damage = raise_as(CacheError, f"finished work in '{path}' is damaged", advice, _DAMAGE)
        with damage:
            check_archive(path)
            with np.load(path, allow_pickle=False) as file:
                names = json.loads(file["names"].tobytes())
                parts = ("views", "spatial", "files", "pre_projection")
                more = {name: file[name] for name in parts if name in file}
                block = Block(names["ids"], file["labels"], file["features"], **more)
        return block, [Failure.from_json(*row) for row in names["failures"]]

    def blocks(self, split: str, count: int) -> Iterator[Block]:
        """Every block of a split, in order, one in memory at a time."""
        for number in range(count):
            block, _ = self.load(split, number)
            if block.ids:
                yield block

    def discard(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
