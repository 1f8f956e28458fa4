"""Refusing a cache file that is not of the form it claims, before anything in it is read.

A file from elsewhere may link to other files, claim sizes that it does not hold, or name filters
that unpack to any size. What passes here holds every byte that it claims, so whatever is read of it
is no larger than the file.
"""

from __future__ import annotations

from typing import Any

import h5py

from cafe.store.contents import FORMAT, SPATIAL_FORMAT, SPLITS
from cafe.store.layout import (
    COLUMNS,
    GROUPS,
    HEADER,
    NUMBER_ATTRIBUTES,
    OPTIONAL,
    TEXT_ATTRIBUTES,
    Array,
    datasets,
)

_LARGEST_CHUNK = 64 << 20


class Refused(Exception):  # noqa: N818 - becomes a CacheFormatError once the path is known
    """Why a file is refused, and what to do about it."""

    def __init__(self, reason: str, advice: str = "extract or import it again") -> None:
        super().__init__(reason)
        self.advice = advice


def check_file(file: h5py.File) -> None:
    """Check the form of a whole file.

    Raises
    ------
    Refused
        With the reason.
    """
    _check_format(file)
    for name in ("text", "splits"):
        _refuse_unless(name in file, f"it has no group '{name}'")
    for name in GROUPS:
        parent, _, last = name.rpartition("/")
        if not name or last in file[parent or "/"]:
            _check_links(file, name)
    for name in TEXT_ATTRIBUTES:
        _text_attribute(file, name)
    for name in NUMBER_ATTRIBUTES:
        if name != "logit_bias" or name in file.attrs:
            _number_attribute(file, name)
    for name, form in HEADER.items():
        _check_dataset(file, name, form)
    _check_splits(file)
    _check_maps(file)
    _check_total(file)


def _check_format(file: h5py.File) -> None:
    if "cafe_format" not in file.attrs:
        raise Refused(
            "it is an HDF5 file but no cafe cache (it has no 'cafe_format')",
            "'cafe cache import' reads features computed elsewhere",
        )
    _number_attribute(file, "cafe_format")
    found = file.attrs["cafe_format"]
    if found > SPATIAL_FORMAT:
        words = f"it has format {found}, this cafe reads up to {SPATIAL_FORMAT}"
        raise Refused(words, "update cafe")
    _refuse_unless(found in (FORMAT, SPATIAL_FORMAT), f"it has the unknown format {found}")


def _refuse_unless(fine: Any, reason: str) -> None:
    if not fine:
        raise Refused(reason)


def _children(name: str) -> set[str]:
    """Names that may stand in a group of the format."""
    known = [*GROUPS, *HEADER, *(f"splits/{s}/{column}" for s in SPLITS for column in COLUMNS)]
    return {path.rpartition("/")[2] for path in known if path and path.rpartition("/")[0] == name}


def _check_links(file: h5py.File, name: str) -> None:
    """Only plain links to known names: a soft or external link may leave the file."""
    group = file[name or "/"]
    _refuse_unless(isinstance(group, h5py.Group), f"'{name}' is not a group")
    known = _children(name)
    for child in group:
        path = f"{name}/{child}".strip("/")
        _refuse_unless(child in known, f"it holds an unknown '{path[:80]}'")
        link = group.get(child, getlink=True)
        _refuse_unless(isinstance(link, h5py.HardLink), f"'{path}' is a link out of its group")


def _text_attribute(owner: h5py.File | h5py.Dataset, name: str) -> None:
    _refuse_unless(name in owner.attrs, f"'{owner.name}' has no attribute '{name}'")
    attribute = owner.attrs.get_id(name)
    is_text = attribute.dtype.kind == "S"  # of fixed length: no heap that could be damaged
    _refuse_unless(attribute.shape == () and is_text, f"attribute '{name}' is not one text")


def _number_attribute(file: h5py.File, name: str) -> None:
    _refuse_unless(name in file.attrs, f"it has no attribute '{name}'")
    attribute = file.attrs.get_id(name)
    kinds = "iu" if name == "cafe_format" else "f"
    fine = attribute.shape == () and attribute.dtype.kind in kinds
    _refuse_unless(fine, f"attribute '{name}' is not one number")


def _check_dataset(file: h5py.File, name: str, form: Array) -> None:
    _refuse_unless(name in file, f"it has no '{name}'")
    dataset = file[name]
    _refuse_unless(isinstance(dataset, h5py.Dataset), f"'{name}' is not an array")
    is_text = dataset.dtype.kind == "S" and form.types == ("S",)
    _refuse_unless(
        dataset.ndim == form.ndim and (is_text or dataset.dtype.str in form.types),
        f"'{name}' has type {dataset.dtype} and {dataset.ndim} dimensions",
    )
    _check_storage(dataset, name)
    _text_attribute(dataset, "sha256")


def _check_storage(dataset: h5py.Dataset, name: str) -> None:
    """The bytes are in this file, chunked, without compression, and none is left out."""
    plan = dataset.id.get_create_plist()
    chunked = plan.get_layout() == h5py.h5d.CHUNKED and plan.get_external_count() == 0
    _refuse_unless(chunked, f"'{name}' is not stored in chunks of this file")
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    _refuse_unless(
        filters == [h5py.h5z.FILTER_FLETCHER32], f"'{name}' is not stored under the one checksum"
    )
    chunk = dataset.dtype.itemsize
    for length in plan.get_chunk():
        chunk *= length
    _refuse_unless(chunk <= _LARGEST_CHUNK, f"'{name}' has chunks of {chunk:,} bytes")
    claimed, held = _nbytes(dataset), dataset.id.get_storage_size()
    _refuse_unless(claimed <= held, f"'{name}' claims {claimed:,} bytes and holds {held:,}")


def _nbytes(dataset: h5py.Dataset) -> int:
    total = int(dataset.dtype.itemsize)  # Python's integers: an absurd shape must not wrap
    for length in dataset.shape:
        total *= length
    return total


def _check_splits(file: h5py.File) -> None:
    classes, _, width = file["text/features"].shape
    names, sentences = file["class_names"], file["text/sentences"]
    _refuse_unless(
        len(names) == classes >= 2 and sentences.shape == file["text/features"].shape[:2],
        f"it has {len(names)} class names with text features {file['text/features'].shape}",
    )
    _refuse_unless(file["skipped"].shape[1] == 3, "'skipped' has not 3 columns")
    _refuse_unless(len(file["splits"]) > 0, "it has no split")
    for split in file["splits"]:
        for column, form in COLUMNS.items():
            name = f"splits/{split}/{column}"
            if name in file or column not in OPTIONAL:
                _check_dataset(file, name, form)
        group = file["splits"][split]
        counts = {len(group[column]) for column in group}
        wide = [column for column in ("features", "spatial", "views") if column in group]
        widths = {group[column].shape[-1] for column in wide}
        _refuse_unless(
            len(counts) == 1 and widths == {width},
            f"the arrays of split '{split}' differ in length, or from the text in width",
        )


def _check_maps(file: h5py.File) -> None:
    """Spatial maps of one size in every split, or none and the format that all readers know."""
    groups = file["splits"].values()
    sizes = {group["spatial"].shape[1] if "spatial" in group else 0 for group in groups}
    found = file.attrs["cafe_format"]
    expected = SPATIAL_FORMAT if sizes != {0} else FORMAT
    _refuse_unless(
        len(sizes) == 1 and found == expected,
        f"it has format {found} and spatial maps of {sorted(sizes)} tokens",
    )


def _check_total(file: h5py.File) -> None:
    """Arrays that share their bytes could claim more than the file holds."""
    held = sum(dataset.id.get_storage_size() for _, dataset in datasets(file))
    size = file.id.get_filesize()
    _refuse_unless(held <= size, f"its arrays claim {held:,} bytes of a file of {size:,}")
