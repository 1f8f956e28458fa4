"""Output folders of clip-retrieval: embeddings in npy files, metadata in parquet files.

`img_emb/img_emb_K.npy` and `metadata/metadata_K.parquet` have one row per image. The class is a
column, or the folder of the image. The split is a column, or a folder named train, val or test;
where there is none, cafe makes a split.
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
from cafe.errors import CacheFormatError, InputError, raise_as
from cafe.extract.importers.arrays import read_array
from cafe.extract.importers.classes import ImportOptions
from cafe.extract.importers.feature_set import FeatureSet, Shard, SplitFeatures

_PATH, _LABEL, _SPLIT = "image_path", "label", "split"


def read_clip_retrieval(source: Path, options: ImportOptions) -> FeatureSet | None:
    """Read the folder; None where the source is none of clip-retrieval."""
    if not (source / "img_emb").is_dir():
        return None
    pairs = _pairs(source)
    arrays = [read_array(features) for features, _ in pairs]
    entries = [
        entry
        for array, (features, metadata) in zip(arrays, pairs, strict=True)
        for entry in _entries(metadata, options.label, features.name, len(array))
    ]
    names, labels = _class_numbers(source, entries, options.known_names())
    entries, how = _split(source, entries)
    splits = {}
    for split in dict.fromkeys(entry.split for entry in entries):
        is_ours = np.array([entry.split == split for entry in entries])  # (N,)
        ids = [entry.path for entry in entries if entry.split == split]
        what = f"embeddings of {split}", "labels"
        shards = _shards(arrays, is_ours)
        splits[split] = SplitFeatures(source, what, labels[is_ours], shards, ids)
    description = f"embeddings of clip-retrieval, imported from {source.name}; {how}"
    files = [file for pair in pairs for file in pair]
    return FeatureSet(source, description, splits, files, class_names=names)


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


def _entries(metadata: Path, label: str | None, features: str, count: int) -> list[Entry]:
    """What the metadata says of each image."""
    columns = _columns(metadata, label)
    rows = columns[_PATH]
    if rows is None or len(rows) != count:
        present = "none" if rows is None else f"{len(rows)} rows"
        raise CacheFormatError(
            f"'{metadata}' must have a column image_path with a row for each of the {count} of "
            f"'{features}'; found {present}."
        )
    paths = [str(path) for path in rows]
    keys = columns[_LABEL] or [PurePosixPath(path).parent.name for path in paths]
    splits = columns[_SPLIT] or [_split_of_path(path) for path in paths]
    return [
        Entry(SPLIT_NAMES.get(str(split).lower(), ""), path, _class_key(key, metadata))
        for path, key, split in zip(paths, keys, splits, strict=True)
    ]


def _columns(metadata: Path, label: str | None) -> dict[str, Any]:
    """The columns of path, class and split, as lists; None where there is no such column."""
    problem, advice = f"'{metadata}' needs pyarrow", "pip install 'cafe-clip[parquet]'"
    with raise_as(InputError, problem, advice, ImportError):
        parquet = importlib.import_module("pyarrow.parquet")
    names = {_PATH: _PATH, _LABEL: label or _LABEL, _SPLIT: _SPLIT}
    # pyarrow raises anything on a damaged file
    damage = raise_as(CacheFormatError, f"'{metadata}' is no readable parquet file", of=Exception)
    with damage, parquet.ParquetFile(metadata) as file:
        present = file.schema_arrow.names
        wanted = [name for name in names.values() if name in present]
        table = file.read(columns=wanted).to_pydict()
    if label is not None and label not in present:
        raise InputError(
            f"'{metadata}' has no column '{label}'; it has {', '.join(present) or 'none'}."
        )
    return {part: table.get(name) for part, name in names.items()}


def _split_of_path(path: str) -> str:
    folders = (SPLIT_NAMES.get(part.lower()) for part in PurePosixPath(path).parts[:-1])
    return next((split for split in folders if split), "")


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
    names = tuple(known) or tuple(sorted({str(key) for key in keys}))
    places = {name: place for place, name in enumerate(names)}
    unknown = next((str(key) for key in keys if str(key) not in places), None)
    if unknown is not None:
        raise CacheFormatError(
            f"'{source}': class '{unknown}' of the metadata is none of the {len(names)} class "
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


def _shards(arrays: Sequence[NDArray[Any]], is_ours: NDArray[np.bool_]) -> list[Shard]:
    """The chosen rows of each array; the mask (N,) runs over all arrays."""
    ends = np.cumsum([len(array) for array in arrays])
    masks = np.split(is_ours, ends[:-1])
    shards = [Shard(a, np.flatnonzero(mask)) for a, mask in zip(arrays, masks, strict=True)]
    return [shard for shard in shards if len(shard)]
