"""Writing a cache file, once, from front to back; it appears complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.errors import LONGEST_NAME, CacheError, InputError, raise_as
from cafe.store.files import DeferredErrorFile, lock_file, real_path, write_path
from cafe.store.header import (
    BOXES_FORMAT,
    FILES_FORMAT,
    FORMAT,
    NEWEST_FORMAT,
    SPATIAL_FORMAT,
    Block,
    Header,
)
from cafe.store.key import canonical, digest
from cafe.store.packed_text import PackedText, pack_text
from cafe.store.schema import FILES_OF_SKIPPED, array_bytes, content_digest, set_text

CHUNK_BYTES = 256 << 10
"""Bytes of a chunk, the unit that HDF5 checks on every read: small enough to read single images."""


@contextlib.contextmanager
def lock_cache(path: Path, *, replace: bool = True) -> Iterator[None]:
    """Be the only process that writes a cache; see `cafe.store.files.lock_file`.

    Raises
    ------
    BusyError
        If another process writes it.
    InputError
        If it is there and may not be replaced.
    CacheError
        If its folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with _write_errors(path):
            stack.enter_context(lock_file(real_path(path), replace=replace))
        yield


def _write_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    advice = "choose another folder with cache=, or free some space"
    return raise_as(CacheError, f"cannot write the cache '{path}'", advice)


def write_cache(path: Path, header: Header, splits: Mapping[str, Iterable[Block]]) -> None:
    """Write a cache file in one step, within `lock_cache`.

    Parameters
    ----------
    path : Path
        Final name; its folder is made. A file that is there is replaced once the new one is whole.
    header : Header
    splits : mapping of str to iterable of Block
        Blocks of each split, in order; only one block is held in memory. A split without images
        is left out.

    Raises
    ------
    CacheError
        If the folder cannot be written or the disk is full; nothing is left under either name.
    """
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_path(path) as made:
            _write_apart(made, header, splits)


def _write_apart(made: Path, header: Header, splits: Mapping[str, Iterable[Block]]) -> None:
    """Write in a thread of its own: signals, such as Ctrl-C's, reach the main thread alone.

    HDF5 calls back to Python to write. An exception that a signal raises there is lost together
    with the bytes, or crashes the process.
    """
    stop = threading.Event()
    stoppable = {name: _until(stop, blocks) for name, blocks in splits.items()}
    with ThreadPoolExecutor(1, "cafe-write") as pool:
        try:
            pool.submit(_write, made, header, stoppable).result()
        finally:
            stop.set()  # the pool waits for the thread, which ends at its next block


def _until(stop: threading.Event, blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        if stop.is_set():
            raise InterruptedError
        yield block


def _write(made: Path, header: Header, splits: Mapping[str, Iterable[Block]]) -> None:
    with DeferredErrorFile(made) as out:
        try:
            # a fixed version, so that whatever HDF5 writes a file, HDF5 1.10 reads it
            with h5py.File(out, "w", libver=("v110", "v110")) as file:
                _write_header(file, header)
                file.create_group("splits")
                for name, blocks in splits.items():
                    _write_split(file, f"splits/{name}", _stop_on_error(blocks, out))
                if any("spatial" in group for group in file["splits"].values()):
                    file.attrs["cafe_format"] = SPATIAL_FORMAT
                _write_files_of_skipped(file, header)
                set_text(file, "content_sha256", content_digest(file))
        finally:
            out.check()  # before what HDF5 raises about a file whose writes have failed


def _stop_on_error(blocks: Iterable[Block], out: DeferredErrorFile) -> Iterator[Block]:
    """The same blocks, until a write fails: an hour of encoding for nothing is saved."""
    for block in blocks:
        yield block
        out.check()


def _write_header(file: h5py.File, header: Header) -> None:
    for name in header.class_names:
        if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
            raise InputError(f"the class name '{name[:60]}...' is too long; cut it.")
    file.attrs["cafe_format"] = FORMAT
    set_text(file, "key", canonical(header.key))
    set_text(file, "key_sha256", digest(header.key))
    for name in ("dataset", "model", "pretrained", "source", "created"):
        set_text(file, name, getattr(header, name))
    # sorted, so that one environment gives one text
    set_text(file, "versions", json.dumps(dict(header.versions), sort_keys=True))
    file.attrs["logit_scale"] = float(header.logit_scale)
    if header.logit_bias is not None:
        file.attrs["logit_bias"] = float(header.logit_bias)
    _write_whole(file, "class_names", pack_text(header.class_names))
    _write_whole(file, "missing", pack_text(header.missing))
    _write_whole(file, "skipped", _pack_rows(header.skipped))
    if header.notes:
        set_text(file, "notes", json.dumps(header.notes))
    _write_whole(file, "text/features", np.asarray(header.text_features, "<f4"))
    _write_whole(file, "text/sentences", pack_text(header.sentences))


def _pack_rows(rows: Sequence[tuple[str, str, str]]) -> NDArray[np.bytes_]:
    """Packed text of three columns, also of no rows. (n, 3)"""
    is_packed = isinstance(rows, PackedText)
    return pack_text(rows if is_packed else np.reshape(np.array(rows, object), (-1, 3)))


def _write_files_of_skipped(file: h5py.File, header: Header) -> None:
    """Complete the states of the images' files, where the blocks have them."""
    if header.skipped_files is not None and all("files" in g for g in file["splits"].values()):
        _write_whole(file, FILES_OF_SKIPPED, header.skipped_files)
        file.attrs["cafe_format"] = FILES_FORMAT
    if any("boxes" in g for g in file["splits"].values()) or not header.has_text:
        file.attrs["cafe_format"] = BOXES_FORMAT
    if header.projection is not None and header.projection_bias is not None:
        _write_whole(file, "projection", np.asarray(header.projection, "<f4"))
        _write_whole(file, "projection_bias", np.asarray(header.projection_bias, "<f4"))
        file.attrs["cafe_format"] = NEWEST_FORMAT


def _write_whole(file: h5py.File, name: str, array: NDArray[Any]) -> None:
    dataset = _GrowingDataset(file, name, array)
    dataset.append(array)
    dataset.finish()


class _GrowingDataset:
    """A dataset that grows block by block and carries a checksum.

    Parameters
    ----------
    file : h5py.File
    name : str
    like : ndarray
        First rows; they give the type and the shape of a row.
    """

    def __init__(self, file: h5py.File, name: str, like: NDArray[Any]) -> None:
        wide = [max(1, length) for length in like.shape[1:]]  # HDF5 has no chunk of length 0
        row = like.dtype.itemsize * int(np.prod(wide, dtype=np.int64))
        rows = max(1, min(len(like), CHUNK_BYTES // max(1, row)))  # of a chunk
        is_text = like.dtype.kind == "S"
        self._type = h5py.string_dtype("utf-8", like.dtype.itemsize) if is_text else like.dtype
        self._dataset = file.create_dataset(
            name,
            shape=(0, *like.shape[1:]),
            maxshape=(None, *(length or None for length in like.shape[1:])),
            dtype=self._type,
            chunks=(rows, *wide),
            fletcher32=True,  # checked by HDF5 on every read, also of a single row
        )
        self._digest = hashlib.sha256()

    def append(self, rows: NDArray[Any]) -> None:
        rows = np.ascontiguousarray(rows).view(self._type)  # marks text as UTF-8
        start = len(self._dataset)
        self._dataset.resize(start + len(rows), axis=0)
        if rows.size:
            self._dataset[start:] = rows
            self._digest.update(array_bytes(rows))  # what was meant, not what the disk made of it

    def finish(self) -> None:
        set_text(self._dataset, "sha256", self._digest.hexdigest())


def _write_split(file: h5py.File, path: str, blocks: Iterable[Block]) -> None:
    datasets: dict[str, _GrowingDataset] = {}
    # ids wait for the end, as the longest decides their width; packed, a million fit in memory
    ids: list[NDArray[np.bytes_]] = []
    for block in blocks:
        for name, rows in _arrays(block).items():
            if name not in datasets:
                datasets[name] = _GrowingDataset(file, f"{path}/{name}", rows)
            datasets[name].append(rows)
        ids.append(pack_text(block.ids))
    for dataset in datasets.values():
        dataset.finish()
    if ids:
        _write_whole(file, f"{path}/ids", np.concatenate(ids))


def _arrays(block: Block) -> dict[str, NDArray[Any]]:
    """The arrays of a block under the names of the format, little-endian."""
    arrays = {
        "features": block.features,
        "labels": block.labels.astype(np.int32),
        "views": block.views,
        "spatial": block.spatial,
        "files": block.files,
        "boxes": block.boxes,
        "pre_projection": block.pre_projection,
    }
    return {
        name: array.astype(array.dtype.newbyteorder("<"), copy=False)
        for name, array in arrays.items()
        if array is not None
    }
