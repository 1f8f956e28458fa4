"""Blocks of a cache file, merged from an existing cache and from newly encoded images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.dataset import Item
from cafe.errors import CacheError
from cafe.extract.dataset_diff import DatasetDiff
from cafe.extract.file_states import state_array
from cafe.store import Block, FeatureCache
from cafe.store.schema import slabs

Rows = Mapping[str, NDArray[Any]]
"""Arrays by name, one row for each image."""


def merge_blocks(
    cache: FeatureCache, diff: DatasetDiff, items: Sequence[Item], encoded: Iterator[Block]
) -> Iterator[Block]:
    """Images of one split in their order, a few megabytes at a time.

    Parameters
    ----------
    cache : FeatureCache
        Its features are copied bit for bit.
    diff : DatasetDiff
        Of the dataset with this cache.
    items : sequence of Item
        The images that could be read, in the order of the dataset.
    encoded : iterator of Block
        Those that are not in the cache, in this order.
    """
    states = {split: cache.files(split) for split in cache.counts}
    stream = _Stream(encoded)
    for slab in slabs(len(items), cache.image_bytes):
        images, places = items[slab], diff.places
        parts, order = [], []
        for split in cache.counts:
            in_split = [
                n for n, i in enumerate(images) if i.id in places and places[i.id].split == split
            ]
            if in_split:
                rows = [places[images[n].id].row for n in in_split]
                parts.append(_cached(cache, split, rows, states[split]))
                order += in_split
        new = [number for number, item in enumerate(images) if item.id not in places]
        parts += stream.take([images[number].id for number in new])
        positions = np.argsort([*order, *new])
        arrays = {
            name: np.concatenate([part[name] for part in parts])[positions] for name in parts[0]
        }
        for number, item in enumerate(images):
            if item.id in places and item.id in diff.states:
                arrays["files"][number] = state_array([diff.states[item.id]])[0]
        labels = np.array([item.label for item in images], np.int32)
        yield Block([item.id for item in images], labels, **arrays)


def _cached(
    cache: FeatureCache, split: str, rows: Sequence[int], states: NDArray[np.void] | None
) -> Rows:
    read = cache.read(split, rows)
    maps = cache.read_spatial_maps(split, rows) if cache.spatial_size else None
    before = cache.read_pre_projection(split, rows) if cache.pre_projection_size else None
    files = None if states is None else states[list(rows)]
    return _present(
        features=read.features,
        views=read.views,
        spatial=maps,
        files=files,
        pre_projection=before,
    )


def _present(**arrays: NDArray[Any] | None) -> Rows:
    return {name: array for name, array in arrays.items() if array is not None}


class _Stream:
    """Rows of blocks, one after the other."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._ids: Sequence[str] = ()
        self._rows: Rows = {}

    def take(self, ids: Sequence[str]) -> list[Rows]:
        """The rows of the next images, which are these."""
        parts: list[Rows] = []
        while ids:
            if not self._ids:
                b = next(self._blocks)
                self._ids = b.ids
                self._rows = _present(
                    features=b.features,
                    views=b.views,
                    spatial=b.spatial,
                    files=b.files,
                    pre_projection=b.pre_projection,
                )
            count = min(len(ids), len(self._ids))
            if list(ids[:count]) != list(self._ids[:count]):
                raise CacheError(f"finished work is not of the image '{ids[0]}'; start again.")
            parts.append({name: rows[:count] for name, rows in self._rows.items()})
            self._rows = {name: rows[count:] for name, rows in self._rows.items()}
            self._ids, ids = self._ids[count:], ids[count:]
        return parts
