"""Output folders of clip-retrieval: embeddings as npy files, what is known of images as parquet.

`img_emb/img_emb_K.npy` and `metadata/metadata_K.parquet` have a row for each image. The class is a
column, or the folder that the image lies in; the split is a column or a folder called train, val
or test, and is dealt where there is none.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.image_list import SPLIT_NAMES, Entry
from cafe.datasets.make_split import SPLIT_BY_CAFE, make_split
from cafe.errors import CacheFormatError, InputError
from cafe.extract.importers.arrays import read_array
from cafe.extract.importers.class_list import ClassList, classes_of
from cafe.extract.importers.feature_set import FeatureSet, Images, Shard, check_images

FORM = "a folder of clip-retrieval (img_emb/*.npy, metadata/*.parquet)"

_PATH, _LABEL, _SPLIT = "image_path", "label", "split"


def fits(source: Path) -> bool:
    """Whether it is such a folder, by the names in it."""
    return (source / "img_emb").is_dir()


def read_features(source: Path, given: ClassList) -> FeatureSet:
    """Read the folder; see `cafe.extract.importers.import_features`."""
    pairs = _pairs(source)
    arrays = [read_array(features) for features, _ in pairs]
    known = given.class_names or (given.text.class_names if given.text else ())
    entries = [
        entry
        for array, (features, metadata) in zip(arrays, pairs, strict=True)
        for entry in _entries(metadata, given.label, features, array)
    ]
    names, labels = _numbered(source, entries, known)
    entries, how = _split(source, entries)
    splits = {
        split: check_images(source, _images(split, entries, labels, arrays))
        for split in dict.fromkeys(entry.split for entry in entries)
    }
    classes = classes_of(given, source, next(iter(splits.values())).width, names)
    words = f"embeddings of clip-retrieval, imported from {source.name}; {how}"
    return FeatureSet(source, words, classes, splits, [file for pair in pairs for file in pair])


def _pairs(source: Path) -> list[tuple[Path, Path]]:
    """Every file of embeddings with its metadata, in the order of their numbers."""
    found = sorted((source / "img_emb").glob("*.npy"), key=_number)
    if not found:
        raise CacheFormatError(f"'{source / 'img_emb'}' holds no npy files; nothing was embedded.")
    pairs = []
    for features in found:
        name = features.stem.replace("img_emb", "metadata") + ".parquet"
        metadata = source / "metadata" / name
        if not metadata.is_file():
            raise CacheFormatError(f"'{features}' has no metadata: '{metadata}' is not there.")
        pairs.append((features, metadata))
    return pairs


def _number(file: Path) -> int:
    digits = re.search(r"[0-9]+$", file.stem)
    return int(digits[0]) if digits else 0


def _entries(metadata: Path, label: str | None, features: Path, array: NDArray[Any]) -> list[Entry]:
    columns = _columns(metadata, label)
    if columns[_PATH] is None or len(columns[_PATH]) != len(array):
        raise CacheFormatError(
            f"'{metadata}' must have a column image_path with a row for each of the {len(array)} "
            f"of '{features.name}'; found "
            f"{'none' if columns[_PATH] is None else f'{len(columns[_PATH])} rows'}."
        )
    paths = [str(path) for path in columns[_PATH]]
    keys = columns[_LABEL] or [PurePosixPath(path).parent.name for path in paths]
    marks = columns[_SPLIT] or [_split_of_path(path) for path in paths]
    return [
        Entry(SPLIT_NAMES.get(str(mark).lower(), ""), path, _key(key, metadata))
        for path, key, mark in zip(paths, keys, marks, strict=True)
    ]


def _columns(metadata: Path, label: str | None) -> dict[str, Any]:
    """The columns that are needed, as lists; None where there is no such column."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            "reading the metadata of clip-retrieval needs pyarrow, which is not installed: pip "
            "install 'cafe-clip[parquet]'."
        ) from error
    wanted = {_PATH: _PATH, _LABEL: label or _LABEL, _SPLIT: _SPLIT}
    try:
        there = parquet.read_schema(metadata).names
        present = [name for name in wanted.values() if name in there]
        table = parquet.read_table(metadata, columns=present).to_pydict()
    except Exception as error:  # the library may raise anything on a damaged file
        reason = " ".join(str(error).split())[:160]
        raise CacheFormatError(f"'{metadata}' is no readable parquet file ({reason}).") from error
    if label is not None and label not in there:
        raise InputError(
            f"'{metadata}' has no column '{label}'; it has {', '.join(there) or 'none'}."
        )
    return {name: table.get(column) for name, column in wanted.items()}


def _split_of_path(path: str) -> str:
    folders = (SPLIT_NAMES.get(part.lower()) for part in PurePosixPath(path).parts[:-1])
    return next((split for split in folders if split), "")


def _key(key: Any, metadata: Path) -> int | str:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    if not isinstance(key, str) or not key.strip():
        raise CacheFormatError(
            f"'{metadata}': {key!r} is no class; labels are names or numbers, in the column that "
            "--label names, or the folders of the images."
        )
    return key.strip()


def _numbered(
    source: Path, entries: Sequence[Entry], known: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in order and a label for each image: numbers stay, names are looked up."""
    keys = [entry.key for entry in entries]
    if all(isinstance(key, int) for key in keys):
        return (), np.array(keys, np.int64)
    names = tuple(known) or tuple(sorted({str(key) for key in keys}))
    places = {name: place for place, name in enumerate(names)}
    strange = next((str(key) for key in keys if str(key) not in places), None)
    if strange is not None:
        raise CacheFormatError(
            f"'{source}': class '{strange}' of the metadata is none of the {len(names)} class "
            "names given; give all of them, in the order of the text features."
        )
    return names, np.array([places[str(key)] for key in keys], np.int64)


def _split(source: Path, entries: Sequence[Entry]) -> tuple[list[Entry], str]:
    unsplit = sum(not entry.split for entry in entries)
    if not unsplit:
        return list(entries), "splits as the metadata says"
    if unsplit == len(entries):
        return make_split(entries), SPLIT_BY_CAFE
    raise CacheFormatError(
        f"'{source}': {unsplit:,} of {len(entries):,} images have no split; give one to all or to "
        "none."
    )


def _images(
    split: str, entries: Sequence[Entry], labels: NDArray[np.int64], arrays: Sequence[NDArray[Any]]
) -> Images:
    chosen = np.array([entry.split == split for entry in entries])
    parts, start = [], 0
    for array in arrays:
        rows = np.flatnonzero(chosen[start : start + len(array)])
        start += len(array)
        if len(rows):
            parts.append(Shard(array, rows))
    ids = [entry.path for entry in entries if entry.split == split]
    return Images((f"embeddings of {split}", "labels"), labels[chosen], parts, ids)
