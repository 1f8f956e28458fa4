"""Nearest neighbours in a pool by faiss, in blocks: no (N, N) matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cafe.methods.knn import flat_index

EXACT = 16384
"""Images up to which every pair is compared; of more, faiss compares those of a few near cells."""

_CELL, _LOOKED_AT = 256, 8  # images of a cell, cells that a query looks at
_SAMPLE = 40  # images of a cell, on average, that the cells are made from


def index_of(unit: Tensor) -> Any:
    """A faiss index of unit features (N, D); the time that N searches in it take goes with N."""
    import faiss

    count, width = unit.shape
    if count <= EXACT:
        return flat_index(unit)
    cells = count // _CELL
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    keys = unit.cpu().contiguous().numpy()
    index.cp.niter, index.cp.max_points_per_centroid = 5, _SAMPLE  # seeded by faiss itself
    index.train(keys[:: max(1, count // (_SAMPLE * cells))])
    index.add(keys)
    index.nprobe = _LOOKED_AT
    return index


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


def symmetric(cosines: Tensor, rows: Tensor, count: int) -> Tensor:
    """`W + W^T` of neighbours (N, k), sparse and on the CPU, as faiss is. (N, N)"""
    cosines, rows = cosines.cpu(), rows.cpu()
    here = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows).reshape(-1)
    there, values = rows.reshape(-1), cosines.clamp_min(0).reshape(-1)
    pairs = torch.stack([torch.cat([here, there]), torch.cat([there, here])])
    return sparse(pairs, torch.cat([values, values]), count)


def sparse(pairs: Tensor, values: Tensor, count: int) -> Tensor:
    """A sparse matrix of (2, n) places and their values, which add up. (N, N)"""
    size = count, count
    return torch.sparse_coo_tensor(pairs, values, size, check_invariants=False).coalesce()


def product(graph: Tensor, z: Tensor) -> Tensor:
    """A sparse matrix on the CPU times z (N, C), where z is. (N, C)"""
    found: Tensor = torch.sparse.mm(graph, z.cpu())
    return found.to(z.device)
