"""Output folders of clip-retrieval: embeddings in npy files, metadata in parquet files.

`img_emb/img_emb_K.npy` and `metadata/metadata_K.parquet` have one row per image. The class is a
column, or the folder of the image. The split is a column, or the nearest folder above the image
that is named train, val or test; where there is none, cafe makes a split.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.class_order import are_numbered, has_two_orders, in_class_order
from cafe.datasets.image_list import SPLIT_NAMES, Entry
from cafe.datasets.make_split import SPLIT_BY_CAFE, complete_splits
from cafe.datasets.text_files import quote, quote_some
from cafe.errors import CacheFormatError, InputError, counted, how_to_install, raise_as, verb
from cafe.extract.importers.arrays import read_array
from cafe.extract.importers.classes import ImportOptions
from cafe.extract.importers.feature_set import FeatureSet
from cafe.extract.importers.split_features import Shard, SplitFeatures

_PATH, _LABEL, _SPLIT = "image_path", "label", "split"


def read_clip_retrieval(source: Path, options: ImportOptions) -> FeatureSet | None:
    """Read the folder; None where the source is none of clip-retrieval."""
    if not (source / "img_emb").is_dir():
        return None
    pairs = _pairs(source)
    arrays = [read_array(features) for features, _ in pairs]
    tables = [_read_metadata(metadata, options.label) for _, metadata in pairs]
    _check_columns(source, tables)
    entries = [
        entry
        for array, table, (features, metadata) in zip(arrays, tables, pairs, strict=True)
        for entry in _entries(metadata, table.columns, features.name, len(array))
    ]
    names, labels = _class_numbers(source, entries, options.known_names())
    entries, is_made = complete_splits(entries, f"'{source}'", "images", CacheFormatError)
    how = SPLIT_BY_CAFE if is_made else "splits as the metadata says"
    splits = {}
    for split in dict.fromkeys(entry.split for entry in entries):
        is_ours = np.array([entry.split == split for entry in entries])  # (N,)
        ids = [entry.path for entry in entries if entry.split == split]
        what = f"embeddings of {split}", "labels"
        shards = _shards(arrays, is_ours)
        splits[split] = SplitFeatures(source, what, labels[is_ours], shards, ids)
    description = f"embeddings of clip-retrieval, imported from {source.name}; {how}"
    files = [file for pair in pairs for file in pair]
    notes = [*_left_out(source, pairs, tables), *([how] if is_made else [])]
    return FeatureSet(source, description, splits, files, class_names=names, notes=notes)


def _pairs(source: Path) -> list[tuple[Path, Path]]:
    """Every file of embeddings with its metadata, in the order of their numbers."""
    numbered = [(re.search(r"[0-9]+$", p.stem), p) for p in (source / "img_emb").glob("*.npy")]
    pairs = []
    for _, features in sorted((int(match[0]) if match else 0, path) for match, path in numbered):
        name = features.stem.replace("img_emb", "metadata") + ".parquet"
        if not (source / "metadata" / name).is_file():
            raise CacheFormatError(
                f"'{features}' has no metadata: '{source / 'metadata' / name}' is not there."
            )
        pairs.append((features, source / "metadata" / name))
    if not pairs:
        raise CacheFormatError(f"'{source / 'img_emb'}' holds no npy files; nothing was embedded.")
    return pairs


class _Metadata(NamedTuple):
    """What a file of metadata holds.

    Attributes
    ----------
    columns : dict of str to list or None
        Those of path, class and split; None where there is none.
    others : list of str
        Names of the columns that are not read.
    """

    columns: dict[str, list[Any] | None]
    others: list[str]


def _read_metadata(metadata: Path, label: str | None) -> _Metadata:
    problem, advice = f"'{metadata}' needs pyarrow", how_to_install("parquet")
    with raise_as(InputError, problem, advice, ImportError):
        parquet = importlib.import_module("pyarrow.parquet")
    # pyarrow raises anything on a damaged file; few writers add the checksums that it compares
    damage = raise_as(CacheFormatError, f"'{metadata}' is no readable parquet file", of=Exception)
    with damage, parquet.ParquetFile(metadata, page_checksum_verification=True) as file:
        present: list[str] = file.schema_arrow.names
        names = {part: _find_column(part, present) for part in (_PATH, _LABEL, _SPLIT)}
        if label is not None:
            names[_LABEL] = _find_column(label, present)
            if names[_LABEL] is None:
                raise InputError(
                    f"'{metadata}' has no column '{label}'; it has {', '.join(present) or 'none'}."
                )
        table = file.read(columns=[name for name in names.values() if name]).to_pydict()
    columns = {part: None if name is None else table[name] for part, name in names.items()}
    return _Metadata(columns, [name for name in present if name not in names.values()])


def _find_column(wanted: str, present: Sequence[str]) -> str | None:
    """The column of a name, else the one of this name in other letters."""
    plain = [name for name in present if name.strip().lower() == wanted.strip().lower()]
    exact = [name for name in plain if name == wanted] or plain
    if len(exact) > 1:
        raise InputError(f"the metadata has {len(exact)} columns '{wanted}'; keep one.")
    return exact[0] if exact else None


def _check_columns(source: Path, tables: Sequence[_Metadata]) -> None:
    """All files of metadata have the same of the columns that are read."""
    for part in (_PATH, _LABEL, _SPLIT):
        having = sum(table.columns[part] is not None for table in tables)
        if having not in (0, len(tables)):
            raise CacheFormatError(
                f"'{source}': {having} of {len(tables)} files of metadata {verb(having, 'have')} a "
                f"column '{part}'; give it to all or to none."
            )


def _left_out(
    source: Path, pairs: Sequence[tuple[Path, Path]], tables: Sequence[_Metadata]
) -> Iterator[str]:
    columns = dict.fromkeys(name for table in tables for name in table.others)
    if columns:
        yield f"left out: columns {quote_some(columns, 6)} of the metadata"
    read = {metadata for _, metadata in pairs}
    alone = sorted(p.name for p in (source / "metadata").glob("*.parquet") if p not in read)
    if alone:
        files = counted(len(alone), "file")
        yield f"left out: {files} of metadata without embeddings: {quote_some(alone)}"


def _entries(
    metadata: Path, columns: Mapping[str, list[Any] | None], features: str, count: int
) -> list[Entry]:
    """What the metadata says of each image."""
    rows = columns[_PATH]
    if rows is None or len(rows) != count:
        present = "none" if rows is None else counted(len(rows), "row")
        raise CacheFormatError(
            f"'{metadata}' must have a column image_path with a row for each of the {count} of "
            f"'{features}'; found {present}."
        )
    paths = [PurePosixPath(str(path)) for path in rows]
    keys, above = columns[_LABEL], 1
    if keys is None:
        keys, above = [path.parent.name for path in paths], 2  # a class may be called "train"
    splits = columns[_SPLIT] or [_split_of_folders(path.parts[:-above]) for path in paths]
    return [
        Entry(_split_name(split, metadata), str(path), _class_key(key, metadata))
        for path, key, split in zip(rows, keys, splits, strict=True)
    ]


def _split_of_folders(folders: Sequence[str]) -> str:
    splits = (SPLIT_NAMES.get(folder.lower()) for folder in reversed(folders))
    return next((split for split in splits if split), "")


def _split_name(split: Any, metadata: Path) -> str:
    name = "" if split is None else str(split).strip().lower()
    if name and name not in SPLIT_NAMES:
        raise CacheFormatError(
            f"'{metadata}': split {quote(split)} is none of train, val and test; rename it."
        )
    return SPLIT_NAMES[name] if name else ""


def _class_key(key: Any, metadata: Path) -> int | str:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    if not isinstance(key, str) or not key.strip():
        raise CacheFormatError(
            f"'{metadata}': {key!r} is no class; classes are names or numbers, in the column that "
            "label= names, or the folders of the images."
        )
    return key.strip()


def _class_numbers(
    source: Path, entries: Sequence[Entry], known: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in order and a label for each image; the metadata holds numbers or names."""
    keys = [entry.key for entry in entries]
    if all(isinstance(key, int) for key in keys):
        return (), np.array(keys, np.int64)
    names = _order_classes(source, {str(key) for key in keys}, known)
    places = {name: place for place, name in enumerate(names)}
    unknown = next((str(key) for key in keys if str(key) not in places), None)
    if unknown is not None:
        raise CacheFormatError(
            f"'{source}': class '{unknown}' of the metadata is none of the {len(names)} class "
            "names given; give all of them, in the order of the text features."
        )
    shared = next((str(key) for key in keys if names.count(str(key)) > 1), None)
    if shared is not None:
        raise CacheFormatError(
            f"'{source}': {names.count(shared)} of the class names given are '{shared}', as is the "
            "class of some images; number the classes in the metadata, or give each its own name."
        )
    return names, np.array([places[str(key)] for key in keys], np.int64)


def _order_classes(source: Path, found: set[str], known: Sequence[str]) -> tuple[str, ...]:
    """The classes of the metadata in the order of the labels.

    They are looked up in the names that are given, unless those name numbered classes in order.
    """
    own = in_class_order(found)
    if known and not (are_numbered(own) and len(own) == len(known) and not found & {*known}):
        return tuple(known)
    if has_two_orders(own):
        raise CacheFormatError(
            f"'{source}': its classes {quote_some(own)} can be sorted as text and counted, and the "
            "text features do not name them; give their names in the order of the text features "
            "with classes=."
        )
    if found <= SPLIT_NAMES.keys():
        raise CacheFormatError(
            f"'{source}': its classes would be {quote_some(own)}, the folders of splits; name the "
            "column of the class with label=."
        )
    return tuple(own)


def _shards(arrays: Sequence[NDArray[Any]], is_ours: NDArray[np.bool_]) -> list[Shard]:
    """The chosen rows of each array; the mask (N,) runs over all arrays."""
    ends = np.cumsum([len(array) for array in arrays])
    masks = np.split(is_ours, ends[:-1])
    shards = [Shard(a, np.flatnonzero(mask)) for a, mask in zip(arrays, masks, strict=True)]
    return [shard for shard in shards if len(shard)]
