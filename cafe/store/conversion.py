"""Caches as files that other programs read."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CacheError, InputError, raise_as
from cafe.store import FeatureCache, SplitArrays
from cafe.store.files import lock_file, real_path, write_path
from cafe.store.schema import array_bytes, slabs


def export_cache(cache: FeatureCache, path: Path, *, replace: bool = True) -> None:
    """Write a cache as a NumPy archive or as safetensors.

    The arrays are those that `cafe.extract.importers.import_features` reads, and `{split}_ids` and
    `{split}_views`; spatial maps and features before the projection are left out. A safetensors
    file holds numbers alone; names are JSON in its metadata.

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


class _Part(NamedTuple):
    """An array to write, some rows at a time."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Iterable[NDArray[Any]]


def _whole(array: NDArray[Any]) -> _Part:
    return _Part(array.dtype, array.shape, [np.ascontiguousarray(array)])


def _parts(cache: FeatureCache) -> dict[str, _Part]:
    header = cache.header
    parts = {
        "text_prompts": _whole(header.text_features),  # (C, P, D)
        "logit_scale": _whole(np.array(header.logit_scale)),
    }
    dtype = np.dtype(cache.dtype)
    for split, count in cache.counts.items():
        views = cache.read(split, [0]).views
        parts[f"{split}_features"] = _Part(
            dtype, (count, cache.width), (read.features for read in _read(cache, split))
        )
        parts[f"{split}_labels"] = _whole(cache.labels(split))
        if views is not None:
            found = (read.views for read in _read(cache, split, views=True))
            shape = count, *views.shape[1:]
            parts[f"{split}_views"] = _Part(dtype, shape, (v for v in found if v is not None))
    return parts


def _read(cache: FeatureCache, split: str, *, views: bool = False) -> Iterator[SplitArrays]:
    """A split in order, a few megabytes at a time."""
    width = cache.width * np.dtype(cache.dtype).itemsize * (cache.views + 1 if views else 1)
    for slab in slabs(cache.counts[split], width):
        yield cache.read(split, range(slab.start, slab.stop), views=views)


def _write_npz(cache: FeatureCache, path: Path) -> None:
    names = {f"{split}_ids": _whole(np.array(cache.ids(split))) for split in cache.counts}
    classes = _whole(np.array(cache.header.class_names))
    with zipfile.ZipFile(path, "w") as archive:  # as numpy.savez writes it
        for name, part in {"class_names": classes, **names, **_parts(cache)}.items():
            about = {"descr": part.dtype.str, "fortran_order": False, "shape": part.shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, about)
                for block in part.blocks:
                    stream.write(array_bytes(block))


_SAFETENSORS = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i8": "I64"}
_LONGEST_HEADER = 100_000_000  # its readers refuse more


def _write_safetensors(cache: FeatureCache, path: Path) -> None:
    header = cache.header
    lists = {
        "class_names": list(header.class_names),
        "sentences": [list(row) for row in header.sentences],
        "key": dict(header.key),
        **{f"{split}_ids": list(cache.ids(split)) for split in cache.counts},
    }
    # safetensors holds numbers alone: names and the key are JSON in its metadata
    metadata = {name: json.dumps(value) for name, value in lists.items()}
    metadata |= {n: getattr(header, n) for n in ("dataset", "model", "pretrained", "source")}
    # its own writer wants all arrays in memory; wide numbers come first, so that all are aligned
    parts = sorted(_parts(cache).items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    about: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, part in parts:
        start, end = end, end + part.dtype.itemsize * math.prod(part.shape)
        kind = _SAFETENSORS[part.dtype.str]
        about[name] = {"dtype": kind, "shape": part.shape, "data_offsets": [start, end]}
    text = json.dumps(about, ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise InputError(
            f"safetensors takes {_LONGEST_HEADER:,} bytes of names, and the ids of the images are "
            "more; end the file's name in .npz."
        )
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, part in parts:
            for block in part.blocks:
                stream.write(array_bytes(block))
