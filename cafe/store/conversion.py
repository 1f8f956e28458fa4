"""Caches as files that other programs read, and several caches as one."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheError, CacheMismatchError, InputError, one_line, raise_as
from cafe.files import lock_file, real_path, write_path
from cafe.store import SPLITS, Block, FeatureCache, lock_cache, utc_now, write_cache
from cafe.store.key import differences, digest_of_array
from cafe.store.paths import cache_name

Arrays = Mapping[str, NDArray[Any]]
_DATASET_PARTS = (
    "dataset",
    "dataset_sha256",
    "images_sha256",
    "imported_from",
    "imported_sha256",
    "merged_sha256",
)
"""Parts of a key that tell datasets apart, which caches of different images may differ in."""
_RESTATED = ("class_names_sha256", "logit_scale", "logit_bias", "label")
"""Parts that not every cafe wrote; what they stand for is compared itself."""
_LEFT_OUT = _DATASET_PARTS + _RESTATED


def export_cache(cache: FeatureCache, path: Path, *, replace: bool = True) -> None:
    """Write a cache as a NumPy archive or as safetensors.

    The arrays are those that `cafe.extract.importers.import_features` reads, and `{split}_ids` and
    `{split}_views`; spatial maps are left out. A safetensors file holds numbers alone; names are
    JSON in its metadata.

    Parameters
    ----------
    cache : FeatureCache
    path : Path
        The file to write; its ending, `.npz` or `.safetensors`, says which.
    replace : bool
        Whether the file may be there already.

    Raises
    ------
    InputError
        If the ending is another, or the file is there and may not.
    BusyError
        If another process writes the file.
    CacheError
        If the file cannot be written; nothing is left of it.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise InputError(
            f"cannot export to '{path}'; end its name in .npz or .safetensors to say which."
        )
    write = _write_npz if path.suffix == ".npz" else _write_safetensors
    with (
        raise_as(CacheError, f"cannot write '{path}'", "choose another place"),
        lock_file(real_path(path), replace=replace),
        write_path(path) as made,
    ):
        write(cache, made)


def _arrays(cache: FeatureCache) -> dict[str, NDArray[Any]]:
    header = cache.header
    arrays: dict[str, NDArray[Any]] = {
        "text_prompts": header.text_features,  # (C, P, D)
        "logit_scale": np.array(header.logit_scale),
    }
    for split in cache.counts:
        read = cache.read(split)
        arrays[f"{split}_features"], arrays[f"{split}_labels"] = read.features, read.labels
        if read.views is not None:
            arrays[f"{split}_views"] = read.views
    return arrays


def _write_npz(cache: FeatureCache, path: Path) -> None:
    names = {f"{split}_ids": np.array(cache.ids(split)) for split in cache.counts}
    classes = np.array(cache.header.class_names)
    np.savez(path, class_names=classes, **names, **_arrays(cache))  # type: ignore[arg-type]


def _write_safetensors(cache: FeatureCache, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    header = cache.header
    lists = {
        "class_names": list(header.class_names),
        "sentences": [list(row) for row in header.sentences],
        "key": dict(header.key),
        **{f"{split}_ids": list(cache.ids(split)) for split in cache.counts},
    }
    metadata = {name: json.dumps(value) for name, value in lists.items()}
    metadata |= {n: getattr(header, n) for n in ("dataset", "model", "pretrained", "source")}
    # safetensors holds numbers alone: names and the key are JSON in its metadata
    arrays = {name: np.ascontiguousarray(array) for name, array in _arrays(cache).items()}
    try:
        save_file(arrays, path, metadata)
    except SafetensorError as error:  # a full disk too
        raise OSError(one_line(error)) from error


def merge_caches(
    caches: Sequence[FeatureCache], path: Path, *, replace: bool = True
) -> FeatureCache:
    """Join caches of one encoder, made in the same way for the same classes, into one.

    Each split's images follow each other in the order given. Features are copied a few megabytes
    at a time.

    Parameters
    ----------
    caches : sequence of FeatureCache
        At least two.
    path : Path
        The cache file to write.
    replace : bool
        Whether the file may be there already.

    Returns
    -------
    FeatureCache

    Raises
    ------
    InputError
        If there are fewer than two, two hold an image of the same name in one split, or the file is
        there and may not.
    CacheMismatchError
        If they were made differently; the difference is named.
    BusyError
        If another process writes the file.
    """
    if len(caches) < 2:
        raise InputError(f"merging needs at least two caches; got {len(caches)}.")
    first = caches[0]
    for other in caches[1:]:
        _check_alike(first, other)
    splits = [split for split in SPLITS if any(split in cache.counts for cache in caches)]
    for split in splits:
        _check_distinct(caches, split)
    dataset, _, _ = cache_name(path).partition("/")
    # what remains of the first key holds for all; the parts are named by their content
    header = dataclasses.replace(
        first.header,
        key={**_shared(first), "merged_sha256": [cache.content_sha256 for cache in caches]},
        dataset=dataset,
        source=" + ".join(dict.fromkeys(cache.header.source for cache in caches)),
        missing=tuple(name for cache in caches for name in cache.header.missing),
        skipped=tuple(row for cache in caches for row in cache.header.skipped),
        versions={"cafe-clip": importlib.metadata.version("cafe-clip")},
        created=utc_now(),
    )
    with lock_cache(path, replace=replace):
        write_cache(path, header, {split: _chain(caches, split) for split in splits})
    return FeatureCache.open(path)


def _shared(cache: FeatureCache) -> dict[str, Any]:
    return {name: part for name, part in cache.header.key.items() if name not in _LEFT_OUT}


def _check_alike(first: FeatureCache, other: FeatureCache) -> None:
    different = differences(
        {**_shared(first), **_facts(first)}, {**_shared(other), **_facts(other)}
    )
    if different:
        raise CacheMismatchError(
            f"'{other.path}' was made differently from '{first.path}': "
            f"{'; '.join(different).replace('asked for', 'here')}; caches of one encoder and the "
            "same classes and prompts can be merged."
        )


def _facts(cache: FeatureCache) -> dict[str, Any]:
    header = cache.header
    return {
        "model": header.model,
        "pretrained": header.pretrained,
        "logit scale": header.logit_scale,
        "logit bias": header.logit_bias,
        "class names": list(header.class_names),
        "sentences": [list(row) for row in header.sentences],
        "text features": digest_of_array(header.text_features),
        "type": cache.dtype,
        "views": cache.views,
        "spatial size": cache.spatial_size,
    }


def _check_distinct(caches: Sequence[FeatureCache], split: str) -> None:
    seen: set[str] = set()  # an image in two caches would count twice, or lie in two splits
    for cache in caches:
        ids = cache.ids(split) if split in cache.counts else ()
        twice = seen.intersection(ids)
        if twice:
            raise InputError(
                f"'{cache.path}' holds {len(twice):,} images of split '{split}' that another one "
                f"holds too, such as '{min(twice)}'; merge caches of different images."
            )
        seen.update(ids)


def _chain(caches: Sequence[FeatureCache], split: str) -> Iterator[Block]:
    for cache in caches:
        if split in cache.counts:
            yield from cache.blocks(split)
