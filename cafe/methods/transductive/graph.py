"""Nearest neighbours in a pool by faiss, in blocks: no (N, N) matrix is made."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from cafe.methods.knn import flat_index

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

EXACT = 16384
"""Images up to which every pair is compared; of more, an image and those of a few near cells."""

_CELL, _LOOKED_AT = 256, 16  # images of a cell, cells that a query looks at
_SAMPLE = 40  # images of a cell, on average, that the centres are made from


class Cells:
    """Images in cells about centres: a search compares with the images of a few near cells.

    It asks as an inverted file of faiss does, but all queries of a cell in one matrix product,
    which is twenty times faster where there are many.
    """

    def __init__(self, keys: Floats) -> None:
        import faiss

        self.keys, self.ntotal = keys, len(keys)
        cells = max(1, len(keys) // _CELL)
        sample = np.ascontiguousarray(keys[:: max(1, len(keys) // (_SAMPLE * cells))])
        means = faiss.Kmeans(  # seeded by faiss itself
            keys.shape[1], cells, niter=5, spherical=True, max_points_per_centroid=_SAMPLE
        )
        means.train(sample)
        self.centres: Floats = np.asarray(means.centroids)
        own = self._nearest(keys, self.centres, 1)[1][:, 0]
        self.members = _by_value(own, cells)

    def search(self, x: Floats, k: int) -> tuple[Floats, Rows]:
        """As of a faiss index: cosines and rows of the k nearest; row -1 for none. (n, k) each"""
        looked_at = min(_LOOKED_AT, len(self.centres))
        cells = self._nearest(x, self.centres, looked_at)[1]
        cosines = np.full((len(x), k), -np.inf, dtype=np.float32)
        rows = np.full((len(x), k), -1)
        for asked, members in zip(
            _by_value(cells.ravel(), len(self.centres)), self.members, strict=True
        ):
            if not len(asked) or not len(members):
                continue
            images = asked // looked_at
            found, which = self._nearest(x[images], self.keys[members], min(k, len(members)))
            both = np.concatenate([cosines[images], found], axis=1)
            names = np.concatenate([rows[images], members[which]], axis=1)
            best = np.argsort(-both, axis=1, kind="stable")[:, :k]
            cosines[images] = np.take_along_axis(both, best, axis=1)
            rows[images] = np.take_along_axis(names, best, axis=1)
        return cosines, rows

    @staticmethod
    def _nearest(x: Floats, keys: Floats, k: int) -> tuple[Floats, Rows]:
        import faiss

        found: tuple[Floats, Rows] = faiss.knn(x, keys, k, faiss.METRIC_INNER_PRODUCT)
        return found


def _by_value(values: Rows, count: int) -> list[Rows]:
    """Where an array has each of the values from 0 to `count`."""
    order = np.argsort(values, kind="stable")
    return np.split(order, np.searchsorted(values[order], np.arange(1, count)))


def index_of(unit: Tensor, exact: int = EXACT) -> Any:
    """What finds the nearest of unit features (N, D); of more than `exact` images in cells."""
    return flat_index(unit) if len(unit) <= exact else Cells(unit.cpu().contiguous().numpy())


def search(index: Any, unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and rows of the k images nearest to each of n, at most all; row 0 with cosine 0
    where the cells that were looked at hold fewer. (n, k) each
    """
    cosines, rows = index.search(unit.cpu().contiguous().numpy(), min(k, index.ntotal))
    found = torch.from_numpy(cosines).to(unit), torch.from_numpy(rows).to(unit.device)
    missing = found[1] < 0
    return found[0].masked_fill(missing, 0.0), found[1].masked_fill(missing, 0)


def neighbour_graph(index: Any, unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k neighbours of each image of the index itself, which is left out. (N, k) each"""
    cosines, rows = search(index, unit, k + 1)
    own = rows == torch.arange(len(rows), device=rows.device)[:, None]
    # of copies of an image faiss may give another one first: then the last is dropped
    drop = torch.where(own.any(dim=1), own.int().argmax(dim=1), rows.shape[1] - 1)
    keep = torch.ones_like(own).scatter_(1, drop[:, None], False)
    shape = len(rows), rows.shape[1] - 1
    return cosines[keep].reshape(shape), rows[keep].reshape(shape)


class Graph(NamedTuple):
    """A sparse matrix (N, N) by rows: those of row i lie from `starts[i]` to `starts[i + 1]`."""

    starts: Tensor  # (N + 1,)
    there: Tensor  # columns, (E,)
    weights: Tensor  # (E,)

    def votes(self, z: Tensor, rows: slice) -> Tensor:
        """Some rows of the product with z (N, C), in one pass over what they hold. (n, C)"""
        starts = self.starts[rows.start : rows.stop + 1]
        first, last = int(starts[0]), int(starts[-1])
        found: Tensor = embedding_bag(
            self.there[first:last],
            z,
            starts[:-1] - first,
            mode="sum",
            per_sample_weights=self.weights[first:last],
        )
        return found

    def here(self) -> Tensor:
        """Rows of the elements. (E,)"""
        rows = torch.arange(len(self.starts) - 1, device=self.starts.device)
        return rows.repeat_interleave(self.starts.diff())


def symmetric(cosines: Tensor, rows: Tensor, count: int) -> Graph:
    """`W + W^T` of the neighbours (N, k) of the first nodes of a graph of `count`."""
    here = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows).reshape(-1)
    there, values = rows.reshape(-1), cosines.clamp_min(0).reshape(-1)
    places = torch.cat([here * count + there, there * count + here])
    places, own = torch.unique(places, return_inverse=True)
    # of two that are each other's neighbours, both count
    weights = values.new_zeros(len(places)).index_add_(0, own, torch.cat([values, values]))
    here, there = places // count, places % count
    starts = torch.searchsorted(here, torch.arange(count + 1, device=here.device))
    return Graph(starts, there, weights)
