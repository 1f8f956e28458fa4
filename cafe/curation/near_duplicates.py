"""Near-duplicates by features, found with faiss and made sure of with pixels where there are."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from cafe.progress import Progress

NEIGHBOURS = 10
_BLOCK = 4096  # images searched for at a time
_EXACT = 30_000  # images that are all compared; of more, those of the nearest cells
_SAME = 2e-3  # distance of unit features: rounding to half precision is less
_RATIO = 0.4  # of the distances to a copy and to the next image that is none
_MOST_COPIES = 4
_LIKE = 0.8  # cosine of what is looked at in pixels
_EQUAL = 0.9  # correlation of the grey values of copies
_SURE = 0.985  # the same, whatever other images look like
_GAP = 0.3  # of what an image that is no copy lacks in correlation, a copy may lack so much


class Pair(NamedTuple):
    """Two images that are copies of one, and how sure that is: from 0 to 1."""

    first: int
    second: int
    confidence: float


class Neighbours(NamedTuple):
    """The nearest other images of each image, the nearest first.

    Attributes
    ----------
    rows : ndarray
        -1 where there are fewer. (N, k)
    distances : ndarray
        Of unit features; 2 where there are fewer. (N, k)
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def find_neighbours(x: Tensor, progress: Progress | None = None) -> Neighbours:
    """Search among all images by cosine, some at a time; an image of zeros has no neighbour.

    Parameters
    ----------
    x : Tensor
        Raw features. (N, D)
    """
    import faiss

    k, width = min(NEIGHBOURS, len(x) - 1), x.shape[1]
    rows = np.full((len(x), NEIGHBOURS + 1), -1, np.int64)
    cosines = np.full((len(x), NEIGHBOURS + 1), -1, np.float32)
    index: Any = faiss.IndexFlatIP(width)
    if len(x) > _EXACT:
        cells = int(4 * len(x) ** 0.5)
        index = faiss.IndexIVFFlat(index, width, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid, index.nprobe = 1, 16
        sample = torch.linspace(0, len(x) - 1, min(len(x), 40 * cells)).long()
        index.train(_unit(x[sample]))
    for start in range(0, len(x), _BLOCK):
        index.add(_unit(x[start : start + _BLOCK]))
    for start in range(0, len(x), _BLOCK):
        if progress is not None:
            progress("neighbours", start, len(x))
        block = slice(start, start + _BLOCK)
        cosines[block, : k + 1], rows[block, : k + 1] = index.search(_unit(x[block]), k + 1)
    itself = rows == np.arange(len(x))[:, None]
    itself[~itself.any(axis=1), -1] = True  # one of many copies: the last goes
    is_zero = ~x.any(dim=1).numpy()
    cosines[is_zero | ~np.isfinite(cosines).all(axis=1)] = -1
    rows, cosines = (a[~itself].reshape(len(x), NEIGHBOURS) for a in (rows, cosines))
    cosines[(rows < 0) | is_zero[rows]] = -1
    rows[cosines < 0] = -1
    return Neighbours(rows, np.sqrt(np.maximum(0, 2 - 2 * cosines)))


def _unit(x: Tensor) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = normalize(x.float(), dim=-1).contiguous().numpy()
    return unit


def find_pairs(
    near: Neighbours,
    grey: NDArray[np.uint8] | None = None,
    progress: Progress | None = None,
    is_tiny: NDArray[np.bool_] | None = None,
) -> list[Pair]:
    """Pairs of copies.

    From features alone, images are copies that are equal but for rounding, or each of which is
    much nearer to the other than to the next image. With pixels, of each image's five nearest
    those are, of which a crop of one looks like the other, and clearly more so than the fourth
    does: strokes on a plain ground all look much alike. A tiny image has too few pixels to tell:
    there the features of copies must be much nearer than those of the tenth neighbour too.

    Parameters
    ----------
    near : Neighbours
    grey : ndarray, optional
        Small grey images. (N, 32, 32)
    is_tiny : ndarray, optional
        Images of a few pixels; None where there are none. (N,)
    """
    if grey is None:
        return _pairs_by_features(near)
    rows, d = near.rows[:, :5], near.distances[:, :5]
    image, place = np.nonzero((rows >= 0) & (d < (2 - 2 * _LIKE) ** 0.5))
    ends = np.sort(np.stack([image, rows[image, place]], axis=1), axis=1)  # (M, 2)
    ends, firsts, which = np.unique(ends, axis=0, return_index=True, return_inverse=True)
    alike = _likeness(grey, ends, progress)
    of_image = np.zeros(rows.shape, np.float32)
    of_image[image, place] = alike[which.ravel()]
    others = np.sort(of_image, axis=1)[:, -_MOST_COPIES][ends].max(axis=1)  # (M,)
    stands_out = (alike >= _SURE) | (1 - alike < _GAP * (1 - others))
    distances = d[image, place][firsts]  # (M,)
    if is_tiny is not None:
        far = near.distances[ends, -1].min(axis=1)
        stands_out &= (distances < _RATIO * far) | ~is_tiny[ends].any(axis=1)
    same = distances < _SAME
    alike = np.where(stands_out, alike, 0)
    sure = np.where(same, np.maximum(alike, 0.99), alike)
    found = [Pair(int(a), int(b), float(s)) for (a, b), s in zip(ends, sure, strict=True)]
    return sorted((p for p in found if p.confidence >= _EQUAL), key=lambda p: -p.confidence)


def _pairs_by_features(near: Neighbours) -> list[Pair]:
    links: dict[tuple[int, int], list[float]] = defaultdict(list)
    d = near.distances
    jumps = d[:, :_MOST_COPIES] < _RATIO * d[:, 1 : _MOST_COPIES + 1]
    is_near = d[:, :_MOST_COPIES] < (2 - 2 * _LIKE) ** 0.5
    for row in np.flatnonzero((jumps & is_near).any(axis=1) | (d[:, 0] < _SAME)).tolist():
        places = np.flatnonzero(jumps[row] & is_near[row])
        copies = int(places[0]) + 1 if len(places) else 0
        copies = max(copies, int((d[row] < _SAME).sum()))
        for place in range(copies):
            other, distance = int(near.rows[row, place]), float(d[row, place])
            following = float(d[row, min(copies, NEIGHBOURS - 1)])
            sure = 1.0 if distance < _SAME else max(0.0, 1 - distance / max(following, 1e-6))
            if other >= 0:
                links[min(row, other), max(row, other)].append(sure)
    pairs = [Pair(*ends, min(s)) for ends, s in links.items() if len(s) == 2 or max(s) == 1]
    return sorted(pairs, key=lambda pair: -pair.confidence)


_EDGE, _PART = 32, 24
_CUTS = (0.0, 1.6, 3.2)  # of 32 pixels on a side: up to a tenth


def _likeness(
    grey: NDArray[np.uint8], ends: NDArray[np.int64], progress: Progress | None
) -> NDArray[np.float32]:
    """Highest correlation of one image of a pair with a crop of the other. (M,)"""
    cuts = torch.stack([_crop(a, b) for a, b in itertools.product(_CUTS, repeat=2)])  # (9, S, E)
    images = torch.from_numpy(grey)
    found = [torch.zeros(0)]
    for done, pairs in enumerate(torch.split(torch.from_numpy(ends), 128)):
        if progress is not None:
            progress("pairs compared", 128 * done, len(ends))
        a, b = images[pairs[:, 0]].float(), images[pairs[:, 1]].float()  # (n, E, E)
        found.append(torch.maximum(_best_crop(a, b, cuts), _best_crop(b, a, cuts)))
    return torch.cat(found).numpy()


def _best_crop(a: Tensor, b: Tensor, cuts: Tensor) -> Tensor:
    """Highest correlation of the crops C_i a C_j' with the whole of b, no crop of which is made.

    The product of a crop with the whole w is that of C_i a with w C_j; its length is by the
    products of C_i a with itself.
    """
    rows = cuts @ (a - a.mean((-2, -1), keepdim=True))[:, None]  # (n, 9, S, E)
    turned = _centred(cuts[0] @ b @ cuts[0].T)[:, None] @ cuts  # (n, 9, S, E)
    products = rows.flatten(2) @ turned.flatten(2).mT  # (n, 9, 9)
    squares = (rows.mT @ rows).flatten(2) @ (cuts.mT @ cuts).flatten(1).T
    means = rows.mean(2) @ cuts.mean(1).T
    lengths = (squares - _PART**2 * means.square()).clamp_min(1e-6).sqrt()
    return (products / lengths).amax((1, 2))


def _centred(a: Tensor) -> Tensor:
    a = a - a.mean((-2, -1), keepdim=True)
    return a / a.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-3)


def _crop(before: float, after: float) -> Tensor:
    """The matrix that samples a part of 32 pixels at 24 places. (S, E)"""
    step = (_EDGE - before - after) / _PART
    centres = before + (torch.arange(_PART) + 0.5) * step - 0.5
    weights = (1 - (torch.arange(_EDGE) - centres[:, None]).abs() / max(1.0, step)).clamp_min(0)
    return weights / weights.sum(dim=1, keepdim=True)


def group(pairs: Iterable[Pair], count: int) -> list[list[int]]:
    """Images that are joined by pairs, each group in ascending order."""
    above = list(range(count))

    def top(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for first, second, _ in pairs:
        above[max(top(first), top(second))] = min(top(first), top(second))
    groups: dict[int, list[int]] = defaultdict(list)
    for row in range(count):
        groups[top(row)].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]
