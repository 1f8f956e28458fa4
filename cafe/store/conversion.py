"""Caches as files that other programs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheError, InputError, one_line, raise_as
from cafe.store import FeatureCache
from cafe.store.files import lock_file, real_path, write_path

Arrays = Mapping[str, NDArray[Any]]


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
