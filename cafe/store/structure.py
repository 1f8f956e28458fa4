"""Checking that a file has the structure of a cache, before anything in it is read.

A file from elsewhere may link to other files, claim sizes that it does not hold, or name filters
that unpack to any size. What passes here holds every byte that it claims, so whatever is read of it
is no larger than the file.
"""

from __future__ import annotations

from typing import Any

import h5py

from cafe.errors import LONGEST_NAME
from cafe.store.header import (
    BOXES_FORMAT,
    FILES_FORMAT,
    FORMAT,
    NEWEST_FORMAT,
    SPATIAL_FORMAT,
    SPLITS,
)
from cafe.store.schema import (
    COMPOUND,
    FILES,
    FILES_OF_SKIPPED,
    GROUPS,
    HEADER_ARRAYS,
    MOST_TEXT,
    OPTIONAL,
    PROJECTION_ARRAYS,
    SPLIT_ARRAYS,
    TEXT_ATTRIBUTES,
    ArraySpec,
    iter_datasets,
)

_LARGEST_CHUNK = 64 << 20  # bytes; HDF5 holds a whole chunk in memory to read a row of it


class InvalidFileError(Exception):
    """Why a file is refused, and what to do about it; a CacheFormatError adds the path."""

    def __init__(self, reason: str, advice: str = "extract or import it again") -> None:
        super().__init__(reason)
        self.advice = advice


def check_structure(file: h5py.File) -> None:
    """Check links, types, storage and sizes of everything in a file.

    Raises
    ------
    InvalidFileError
        With the reason.
    """
    _check_format(file)
    for name in ("text", "splits"):
        _require(name in file, f"it has no group '{name}'")
    for name in GROUPS:
        parent, _, last = name.rpartition("/")
        if not name or last in file[parent or "/"]:
            _check_links(file, name)
    for name in TEXT_ATTRIBUTES:
        _check_attribute(file, name)
    for name in {"notes"} & file.attrs.keys():
        _check_attribute(file, name)
    for name in ("logit_scale", *({"logit_bias"} & file.attrs.keys())):  # SigLIP alone has a bias
        _check_attribute(file, name, "f")
    for name, spec in HEADER_ARRAYS.items():
        _check_dataset(file, name, spec)
    if FILES_OF_SKIPPED in file:
        _check_dataset(file, FILES_OF_SKIPPED, ArraySpec(1, FILES))
    for name in PROJECTION_ARRAYS.keys() & file.keys():
        _check_dataset(file, name, PROJECTION_ARRAYS[name])
    _check_splits(file)
    _check_version(file)
    # arrays that share their bytes could claim more than the file holds
    held = sum(dataset.id.get_storage_size() for _, dataset in iter_datasets(file))
    size = file.id.get_filesize()
    _require(held <= size, f"its arrays claim {held:,} bytes of a file of {size:,}")


def _require(condition: Any, reason: str) -> None:
    if not condition:
        raise InvalidFileError(reason)


def _check_format(file: h5py.File) -> None:
    if "cafe_format" not in file.attrs:
        raise InvalidFileError(
            "it is an HDF5 file but no cafe cache (it has no 'cafe_format')",
            "'cafe cache import' reads features computed elsewhere",
        )
    _check_attribute(file, "cafe_format", "iu")
    version = file.attrs["cafe_format"]
    if version > NEWEST_FORMAT:
        reason = f"it has format {version}, this cafe reads up to {NEWEST_FORMAT}"
        raise InvalidFileError(reason, "update cafe")
    _require(version >= FORMAT, f"it has the unknown format {version}")


def _check_links(file: h5py.File, name: str) -> None:
    """Only hard links to known names: a soft or external link may leave the file."""
    group = file[name or "/"]
    _require(isinstance(group, h5py.Group), f"'{name}' is not a group")
    arrays = (f"splits/{split}/{array}" for split in SPLITS for array in SPLIT_ARRAYS)
    known = {*GROUPS, *HEADER_ARRAYS, FILES_OF_SKIPPED, *PROJECTION_ARRAYS, *arrays}
    for child in group:
        path = f"{name}/{child}".strip("/")
        _require(path in known, f"it holds an unknown '{path[:80]}'")
        link = group.get(child, getlink=True)  # the link itself; group[child] would follow it
        _require(isinstance(link, h5py.HardLink), f"'{path}' is a link out of its group")


def _check_attribute(owner: h5py.File | h5py.Dataset, name: str, kinds: str = "S") -> None:
    """A single number, or text of fixed length: text of another has a heap that may be damaged."""
    _require(name in owner.attrs, f"'{owner.name}' has no attribute '{name}'")
    attribute = owner.attrs.get_id(name)
    noun = "text" if kinds == "S" else "number"
    fits = attribute.shape == () and attribute.dtype.kind in kinds
    _require(fits, f"attribute '{name}' is not one {noun}")
    size = int(attribute.dtype.itemsize)
    _require(size <= MOST_TEXT, f"attribute '{name}' is {size:,} bytes long")


def _check_dataset(file: h5py.File, name: str, spec: ArraySpec) -> None:
    _require(name in file, f"it has no '{name}'")
    dataset = file[name]
    _require(isinstance(dataset, h5py.Dataset), f"'{name}' is not an array")
    is_text = dataset.dtype.kind == "S" and spec.types == ("S",)
    compound = COMPOUND.get(spec.types)
    is_known = dataset.dtype.str in spec.types if compound is None else dataset.dtype == compound
    _require(
        dataset.ndim == spec.ndim and (is_text or is_known),
        f"'{name}' has type {dataset.dtype} and {dataset.ndim} dimensions",
    )
    _check_storage(dataset, name)
    _check_attribute(dataset, "sha256")


def _check_storage(dataset: h5py.Dataset, name: str) -> None:
    """The bytes are in this file, in chunks, without compression, and none is left out."""
    properties = dataset.id.get_create_plist()
    chunked = properties.get_layout() == h5py.h5d.CHUNKED and properties.get_external_count() == 0
    _require(chunked, f"'{name}' is not stored in chunks of this file")
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    _require(
        filters == [h5py.h5z.FILTER_FLETCHER32], f"'{name}' is not stored under the one checksum"
    )
    itemsize = int(dataset.dtype.itemsize)
    chunk = _product(itemsize, properties.get_chunk())
    _require(chunk <= _LARGEST_CHUNK, f"'{name}' has chunks of {chunk:,} bytes")
    # HDF5 reads chunks that were never written as zeros: a small file could claim terabytes
    claimed, held = _product(itemsize, dataset.shape), dataset.id.get_storage_size()
    _require(claimed <= held, f"'{name}' claims {claimed:,} bytes and holds {held:,}")


def _product(start: int, lengths: tuple[int, ...]) -> int:
    for length in lengths:  # Python's integers: an absurd shape must not wrap, as NumPy's would
        start *= length
    return start


def _check_splits(file: h5py.File) -> None:
    classes, _, width = file["text/features"].shape  # (C, P, D)
    names, sentences = file["class_names"], file["text/sentences"]
    _require(
        len(names) == classes >= 2 and sentences.shape == file["text/features"].shape[:2],
        f"it has {len(names)} class names with text features {file['text/features'].shape}",
    )
    _require(
        names.dtype.itemsize <= LONGEST_NAME,
        f"it has class names of {names.dtype.itemsize:,} bytes, {LONGEST_NAME:,} is the most",
    )
    _require(file["skipped"].shape[1] == 3, "'skipped' has not 3 columns")
    _require(len(file["splits"]) > 0, "it has no split")
    for split, group in file["splits"].items():
        for array, spec in SPLIT_ARRAYS.items():
            if array in group or array not in OPTIONAL:
                _check_dataset(file, f"splits/{split}/{array}", spec)
        lengths = {len(group[array]) for array in group}
        of_width = [array for array in ("features", "spatial", "views") if array in group]
        widths = {group[array].shape[-1] for array in of_width}
        _require(
            len(lengths) == 1 and widths == {width},
            f"the arrays of split '{split}' differ in length, or from the text in width",
        )


def _check_version(file: h5py.File) -> None:
    """What not every file has is in all splits or in none, under the format that says so."""
    groups = list(file["splits"].values())
    sizes = {group["spatial"].shape[1] if "spatial" in group else 0 for group in groups}
    knows_files = {"files" in group for group in groups} | {FILES_OF_SKIPPED in file}
    version = file.attrs["cafe_format"]
    has_boxes = {"boxes" in group for group in groups}
    expected = FILES_FORMAT if True in knows_files else SPATIAL_FORMAT if sizes != {0} else FORMAT
    if True in has_boxes or not file["text/features"].shape[1]:
        expected = BOXES_FORMAT
    if _check_projection(file):
        expected = NEWEST_FORMAT
    _require(
        len(sizes) == len(has_boxes) == 1 and version == expected,
        f"it has format {version} and spatial maps of {sorted(sizes)} tokens",
    )
    skipped = len(file["skipped"])
    _require(
        len(knows_files) == 1 and len(file.get(FILES_OF_SKIPPED, ())) in (0, skipped),
        "the states of its images' files are not complete",
    )


def _check_projection(file: h5py.File) -> bool:
    """Whether there are features before a projection: in all splits, of its width, and it."""
    groups = list(file["splits"].values())
    held = [name in file for name in PROJECTION_ARRAYS]
    held += ["pre_projection" in group for group in groups]
    if not any(held):
        return False
    _require(all(held), "its projection, or the features before it, are not complete")
    shape, (bias,) = file["projection"].shape, file["projection_bias"].shape
    for group in groups:
        views = group["views"].shape[1] if "views" in group else 1
        fits = group["pre_projection"].shape[1:] == (views, shape[0])
        fits = fits and shape[1] == bias == group["features"].shape[1]
        _require(fits, f"features before a projection of {shape} do not fit it")
    return True
