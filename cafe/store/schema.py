"""The names, types and checksums of a cache file, for its writer and its readers alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.store.header import BOX, BOXES_FORMAT, FILE_STATE, FORMAT, SPATIAL_FORMAT, SPLITS
from cafe.store.key import digest
from cafe.store.packed_text import pack_text


class ArraySpec(NamedTuple):
    """Dimensions of an array, and the types that it may have."""

    ndim: int
    types: tuple[str, ...]  # NumPy's; "S" is UTF-8 text of fixed length, padded with zeros


TEXT, FILES, BOXES = ("S",), ("file state",), ("box",)
COMPOUND: Mapping[tuple[str, ...], np.dtype[np.void]] = {FILES: FILE_STATE, BOXES: BOX}
"""Types of several fields."""

HEADER_ARRAYS: Mapping[str, ArraySpec] = {
    "class_names": ArraySpec(1, TEXT),  # (C,)
    "missing": ArraySpec(1, TEXT),
    "skipped": ArraySpec(2, TEXT),  # (n, 3): split, id, reason
    "text/features": ArraySpec(3, ("<f4",)),  # (C, P, D)
    "text/sentences": ArraySpec(2, TEXT),  # (C, P)
}
FILES_OF_SKIPPED = "skipped_files"
"""An array of the header that not every file has. (n,)"""
PROJECTION_ARRAYS: Mapping[str, ArraySpec] = {
    "projection": ArraySpec(2, ("<f4",)),  # (E, D)
    "projection_bias": ArraySpec(1, ("<f4",)),  # (D,)
}
"""Arrays of the header of a file with features before the projection."""
SPLIT_ARRAYS: Mapping[str, ArraySpec] = {
    "boxes": ArraySpec(1, BOXES),  # (N,)
    "features": ArraySpec(2, ("<f4", "<f2")),  # (N, D)
    "files": ArraySpec(1, FILES),  # (N,)
    "ids": ArraySpec(1, TEXT),  # (N,)
    "labels": ArraySpec(1, ("<i4",)),  # (N,)
    "pre_projection": ArraySpec(3, ("<f4", "<f2")),  # (N, V, E)
    "spatial": ArraySpec(3, ("<f2",)),  # (N, T, D)
    "views": ArraySpec(3, ("<f4", "<f2")),  # (N, V, D)
}
OPTIONAL = ("boxes", "files", "pre_projection", "spatial", "views")
GROUPS = ("", "text", "splits", *(f"splits/{split}" for split in SPLITS))

NAMES = ("dataset", "model", "pretrained", "source")
"""Text attributes of the root whose values count for the content."""

TEXT_ATTRIBUTES = ("content_sha256", "created", "key", "key_sha256", "versions", *NAMES)
NUMBER_ATTRIBUTES = ("cafe_format", "logit_scale", "logit_bias")

MOST_TEXT = 1 << 20
"""Bytes of a text attribute, at most: JSON unfolds to some thirty times its size."""

SLAB_BYTES = 4 << 20
"""Bytes that are read or checked at once: they bound the memory of any pass over a file."""


def set_text(owner: h5py.File | h5py.Dataset, name: str, text: str) -> None:
    """Write a text attribute of fixed length.

    Text of variable length would lie in HDF5's global heap, which has no checksum and on whose
    damage HDF5 may loop for ever.
    """
    packed = pack_text([text])
    if packed.itemsize > MOST_TEXT:
        raise InputError(f"{name!r} is {packed.itemsize:,} bytes long; {MOST_TEXT:,} at most.")
    dtype = h5py.string_dtype("utf-8", packed.dtype.itemsize)
    owner.attrs.create(name, packed.view(dtype)[0], dtype=dtype)


def get_text(owner: h5py.File | h5py.Dataset, name: str) -> str:
    """A text attribute of a checked file."""
    return bytes(owner.attrs[name]).decode("utf-8", "surrogateescape")


def iter_datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset of a checked file with its path, in one fixed order: that of the digest."""
    for name in HEADER_ARRAYS:
        yield name, file[name]
    if FILES_OF_SKIPPED in file:
        yield FILES_OF_SKIPPED, file[FILES_OF_SKIPPED]
    for name in PROJECTION_ARRAYS:
        if name in file:
            yield name, file[name]
    for split in SPLITS:
        if split in file["splits"]:
            group = file["splits"][split]
            for name in SPLIT_ARRAYS:
                if name in group:
                    yield f"splits/{split}/{name}", group[name]


def slabs(rows: int, row_bytes: int) -> Iterator[slice]:
    """Ranges of rows that hold `SLAB_BYTES` each, or one row."""
    step = max(1, SLAB_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def row_bytes(dataset: h5py.Dataset) -> int:
    """Bytes of one row (an element of the first axis)."""
    return int(dataset.dtype.itemsize * np.prod(dataset.shape[1:], dtype=np.int64))


def array_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of an array, in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no float of an array is NaN or infinite."""
    # those have all ones for an exponent; integers compare faster than float16 converts
    exponent = 0x7C00 if array.itemsize == 2 else 0x7F800000
    bits = array.reshape(-1).view(f"<u{array.itemsize}")
    return all((bits[part] & exponent).max() < exponent for part in slabs(len(bits), bits.itemsize))


def content_digest(file: h5py.File) -> str:
    """One digest for all that counts in a file: equal for equal features, whenever they were made.

    It goes over the checksums that the datasets carry, so it costs nothing to compute; `created`,
    `versions`, and what is known of the images' files do not count.
    """
    arrays = {
        name: [dataset.dtype.str, list(dataset.shape), get_text(dataset, "sha256")]
        for name, dataset in iter_datasets(file)
        if dataset.dtype != FILE_STATE
    }
    attributes: dict[str, Any] = {name: get_text(file, name) for name in (*NAMES, "key")}
    for name in NUMBER_ATTRIBUTES:
        if name in file.attrs:
            attributes[name] = file.attrs[name].item()
    if FILES_OF_SKIPPED in file and attributes["cafe_format"] < BOXES_FORMAT:
        has_maps = any(name.endswith("/spatial") for name in arrays)
        attributes["cafe_format"] = SPATIAL_FORMAT if has_maps else FORMAT
    return digest({"arrays": arrays, "attributes": attributes})
