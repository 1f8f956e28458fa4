"""Opening a cache file: checked before it is handed out, every fault of it one kind of error."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import h5py
from numpy.typing import NDArray

from cafe.errors import BusyError, CacheError, CacheFormatError, CafeError, one_line
from cafe.store.header import Header
from cafe.store.key import digest
from cafe.store.packed_text import PackedText
from cafe.store.paths import no_cache
from cafe.store.schema import (
    FILES_OF_SKIPPED,
    HEADER_ARRAYS,
    PROJECTION_ARRAYS,
    array_bytes,
    content_digest,
    get_text,
    is_finite,
)
from cafe.store.structure import InvalidFileError, check_structure

# what h5py raises at one damaged file or another
_FAULTS = (
    AttributeError,
    KeyError,
    MemoryError,  # a length that is damaged
    OSError,
    OverflowError,
    RecursionError,  # a key of ten thousand brackets
    RuntimeError,
    TypeError,
    ValueError,
)


FileState = tuple[int, int, int]
"""Inode, size and time of the last change: they differ after a file was replaced or edited."""


def file_state(path: Path) -> FileState:
    """The state of a file now."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def open_checked(path: Path, known: FileState | None = None) -> Iterator[h5py.File]:
    """Open a file and check it; any fault that shows while it is open is a clear error.

    Parameters
    ----------
    path : Path
    known : FileState, optional
        The state in which the file was checked before; in this state it is not checked again.

    Raises
    ------
    CacheNotFoundError
        If there is no such file.
    BusyError
        If another program holds it open for writing.
    CacheFormatError
        If it is not of the structure of a cache, is damaged, or has a newer format.
    """
    if not path.is_file():
        raise no_cache(path)
    try:
        with _open(path) as file:
            if known != file_state(path):
                check_structure(file)
                _check_digests(file)
            yield file
    except CafeError:
        raise
    except InvalidFileError as error:
        raise CacheFormatError(f"cache '{path}' is refused: {error}; {error.advice}.") from None
    except _FAULTS as error:
        raise CacheFormatError(
            f"'{path}' is not a readable cafe cache ({one_line(error)}); it may be truncated or "
            "damaged: extract or import it again."
        ) from error


def _open(path: Path) -> h5py.File:
    """Open under HDF5's lock, which keeps a file from being read while a program writes in it."""
    try:
        # as h5py opens by default: one process may have a file open twice, under equal flags only
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        if isinstance(error, BlockingIOError):
            raise BusyError(
                f"cache '{path}' is open for writing in another program (a notebook, a viewer of "
                "HDF5 files); close it there, then try again."
            ) from None
        if "already open for write" in str(error):
            raise BusyError(
                f"cache '{path}' is open for writing in another program, or was when that program "
                "ended; close it there, or clear that mark with 'h5clear -s FILE'."
            ) from None
        if "unable to lock" not in str(error):
            if isinstance(error, PermissionError):
                raise CacheError(f"cannot open the cache '{path}' (Permission denied).") from None
            raise
    # a file system without locks: cafe's own writers replace whole files
    return h5py.File(path, "r", locking=False)


def _check_digests(file: h5py.File) -> None:
    # the features' own checksums are part of the content's, so all are bound to the header
    if digest(json.loads(get_text(file, "key"))) != get_text(file, "key_sha256"):
        raise InvalidFileError("its key does not have the key's checksum")
    if content_digest(file) != get_text(file, "content_sha256"):
        raise InvalidFileError("its header does not have the file's checksum")


def read_header(file: h5py.File) -> Header:
    """The header of a checked file, its arrays against their SHA-256."""
    attrs = file.attrs
    bias = attrs.get("logit_bias")
    # small, and all that follows relies on them: unlike features they are checked by SHA-256 now
    arrays = {name: read_array(file[name]) for name in HEADER_ARRAYS}
    texts: dict[str, Any] = {
        name: get_text(file, name)
        for name in ("dataset", "model", "pretrained", "source", "created")
    }
    projection: dict[str, Any] = {
        name: require_finite(file[name], read_array(file[name]))
        for name in PROJECTION_ARRAYS
        if name in file
    }
    header = Header(
        key=json.loads(get_text(file, "key")),
        class_names=PackedText(arrays["class_names"]),
        sentences=PackedText(arrays["text/sentences"]),
        text_features=require_finite(file["text/features"], arrays["text/features"]),
        logit_scale=float(attrs["logit_scale"]),
        logit_bias=None if bias is None else float(bias),
        missing=PackedText(arrays["missing"]),
        skipped=PackedText(arrays["skipped"]),
        notes=tuple(json.loads(get_text(file, "notes"))) if "notes" in attrs else (),
        skipped_files=read_array(file[FILES_OF_SKIPPED]) if FILES_OF_SKIPPED in file else None,
        versions=json.loads(get_text(file, "versions")),
        **texts,
        **projection,
    )
    _check_values(header)
    return header


_KEY_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "weights_sha256": (str, NoneType),
    "architecture_sha256": (str, NoneType),
    "dataset_sha256": (str, NoneType),
    "preprocess": (dict, NoneType),
    "precision": str,
    "augmentation": (dict, NoneType),
    "templates": (list, NoneType),
    "spatial": (dict, NoneType),
    "boxes": dict,
    "pre_projection": (dict, NoneType),
}
"""Parts of a key that are read, beside being compared, and the types that they have."""


def _check_values(header: Header) -> None:
    """Refuse values that no writer of cafe gives: a file may be edited and sealed again."""
    key, versions = header.key, header.versions
    for what, value in (("key", key), ("versions", versions)):
        if not isinstance(value, dict):
            raise InvalidFileError(f"its {what} is no JSON object")
    for name, types in _KEY_TYPES.items():
        if name in key and not isinstance(key[name], types):
            raise InvalidFileError(f"'{name}' of its key is a {type(key[name]).__name__}")
    for what, values in (("version", versions.values()), ("note", header.notes)):
        if not all(isinstance(value, str) for value in values):
            raise InvalidFileError(f"a {what} is no text")
    if not 0 < header.logit_scale < _LARGEST_LOGIT:
        raise InvalidFileError(f"its logit scale is {header.logit_scale}")
    if header.logit_bias is not None and not abs(header.logit_bias) < _LARGEST_LOGIT:
        raise InvalidFileError(f"its logit bias is {header.logit_bias}")


_LARGEST_LOGIT = 1e6  # CLIP's scale is 100 at the most, SigLIP's bias some -16


def read_array(dataset: h5py.Dataset) -> NDArray[Any]:
    """A whole small dataset, with its SHA-256 recomputed."""
    array: NDArray[Any] = dataset[:]
    if hashlib.sha256(array_bytes(array)).hexdigest() != get_text(dataset, "sha256"):
        raise InvalidFileError(f"'{dataset.name[1:]}' does not have its checksum")
    return array


def require_finite(dataset: h5py.Dataset, part: NDArray[Any]) -> NDArray[Any]:
    """The same part of a dataset, refused where a value is not finite."""
    if part.dtype.kind == "f" and not is_finite(part):
        raise InvalidFileError(f"'{dataset.name[1:]}' holds values that are not finite")
    return part
