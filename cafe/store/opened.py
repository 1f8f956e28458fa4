"""A cache file open for reading: checked before it is handed out, its faults one kind of error."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from cafe.errors import CacheFormatError, CacheNotFoundError, CafeError
from cafe.store.check import Refused, check_file
from cafe.store.contents import Header
from cafe.store.key import digest
from cafe.store.layout import HEADER, content_digest, finite, get_text, raw, unpack_text

_FAULTS = (
    AttributeError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


Stamp = tuple[int, int, int]
"""What tells one state of a file from another: its number, size and time."""


def stamp(path: Path) -> Stamp:
    """The state of a file."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def reading(path: Path, known: Stamp | None = None) -> Iterator[h5py.File]:
    """Open a checked file; whatever h5py makes of a damaged one is one clear error.

    A file that is still in the state in which it was checked is not checked again.
    """
    if not path.is_file():
        raise CacheNotFoundError(
            f"no cache at '{path}'; 'cafe cache ls' lists what there is, 'cafe extract' makes one."
        )
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if known != stamp(path):
                check_file(file)
                _check_digests(file)
            yield file
    except CafeError:
        raise
    except Refused as refused:
        raise CacheFormatError(f"cache '{path}' is refused: {refused}; {refused.advice}.") from None
    except _FAULTS as error:
        reason = " ".join(str(error).split())[:160]
        raise CacheFormatError(
            f"'{path}' is not a readable cafe cache ({reason}); it may be truncated or damaged: "
            "extract or import it again."
        ) from error


def _check_digests(file: h5py.File) -> None:
    if digest(json.loads(get_text(file, "key"))) != get_text(file, "key_sha256"):
        raise Refused("its key does not have the key's checksum")
    if content_digest(file) != get_text(file, "content_sha256"):
        raise Refused("its header does not have the file's checksum")


def read_header(file: h5py.File) -> Header:
    """The header of a checked file, its arrays against their SHA-256."""
    attrs = file.attrs
    bias = attrs.get("logit_bias")
    arrays = {name: _whole(file[name]) for name in HEADER}
    return Header(
        key=json.loads(get_text(file, "key")),
        class_names=tuple(unpack_text(arrays["class_names"])),
        sentences=tuple(map(tuple, unpack_text(arrays["text/sentences"]))),
        text_features=checked(file["text/features"], arrays["text/features"]),
        logit_scale=float(attrs["logit_scale"]),
        logit_bias=None if bias is None else float(bias),
        missing=tuple(unpack_text(arrays["missing"])),
        skipped=tuple((a, b, c) for a, b, c in unpack_text(arrays["skipped"])),
        versions=json.loads(get_text(file, "versions")),
        **{n: get_text(file, n) for n in ("dataset", "model", "pretrained", "source", "created")},
    )


def _whole(dataset: h5py.Dataset) -> NDArray[Any]:
    """A whole small dataset, with its SHA-256 recomputed."""
    array: NDArray[Any] = dataset[:]
    if hashlib.sha256(raw(array)).hexdigest() != get_text(dataset, "sha256"):
        raise Refused(f"'{dataset.name[1:]}' does not have its checksum")
    return array


def checked(dataset: h5py.Dataset, part: NDArray[Any]) -> NDArray[Any]:
    """A part of a dataset as it was read, refused where a value is not finite."""
    if part.dtype.kind == "f" and not finite(part):
        raise Refused(f"'{dataset.name[1:]}' holds values that are not finite")
    return part
