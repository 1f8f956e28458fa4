"""Reading rows of an array, in any order: slab by slab, checked on the way."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from cafe.store.open_file import require_finite
from cafe.store.schema import row_bytes, slabs


def read_rows(
    dataset: h5py.Dataset, rows: NDArray[np.int64] | None, dtype: DTypeLike | None
) -> NDArray[Any]:
    """Rows of a dataset, slab by slab, converted and checked on the way."""
    count = len(dataset) if rows is None else len(rows)
    out = np.empty((count, *dataset.shape[1:]), dataset.dtype if dtype is None else dtype)
    # rows are read in the order of the file, and put in the order that was asked for
    order = None if rows is None else np.argsort(rows, kind="stable")
    for slab in slabs(len(dataset), row_bytes(dataset)):
        if rows is None or order is None:
            out[slab] = require_finite(dataset, dataset[slab])
            continue
        first, last = np.searchsorted(rows, (slab.start, slab.stop), sorter=order)
        if first < last:
            here = order[first:last]  # places in `out` whose rows lie in this slab
            for near in _cut_at_gaps(rows, here, dataset):
                low, high = int(rows[near[0]]), int(rows[near[-1]]) + 1
                # a slice and not a list of rows, which h5py selects one by one
                part = require_finite(dataset, dataset[low:high])
                out[near] = part[rows[near] - low]
    return out


def _cut_at_gaps(
    rows: NDArray[np.int64], places: NDArray[np.int64], dataset: h5py.Dataset
) -> list[NDArray[np.int64]]:
    """Places whose rows lie in one chunk or the next; what lies between is not worth reading."""
    # HDF5 reads and checks whole chunks, so rows of one chunk cost one read
    apart = np.flatnonzero(np.diff(rows[places]) > dataset.chunks[0]) + 1
    return np.split(places, apart)
