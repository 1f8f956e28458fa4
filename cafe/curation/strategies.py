"""Ways to choose images to label, from features and a head's answers; knows no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

Rows = NDArray[np.int64]
Numbers = NDArray[np.float32]

MOST_CLUSTERS = 500
"""Clusters of `typiclust` at most, as in the paper, section 3.2."""

CANDIDATES = 10
"""Candidates for each image that is chosen, the beta of Zhdanov 2019, section 4."""

_ROUNDS, _STARTS = 20, 3  # of k-means
_SAMPLE = 100  # images for each cluster that k-means looks at


class Pool(NamedTuple):
    """What a strategy chooses from.

    Attributes
    ----------
    x : ndarray
        Unit features of the images without a label. (N, D) float32
    labelled : ndarray
        Unit features of the images that have one, perhaps none. (M, D) float32
    counts : ndarray
        Labelled images of each class. (C,)
    answers : ndarray or None
        Probabilities of the classes for each image without a label; None where nothing can tell
        classes apart: there is one class, or neither text nor a label. (N, C) float32
    seed : int
        Of k-means and of `random_order`.
    """

    x: Numbers
    labelled: Numbers
    counts: Rows
    answers: Numbers | None
    seed: int


def random_order(pool: Pool, budget: int) -> Rows:
    """Any images, all equally likely."""
    # RandomState's streams are frozen by NumPy's policy (NEP 19)
    order = np.random.RandomState(pool.seed).permutation(len(pool.x))
    return order[:budget].astype(np.int64)


def typiclust(pool: Pool, budget: int) -> Rows:
    """The middle of the largest clusters in which no image is labelled yet.

    Hacohen et al. 2022 (arXiv 2202.02794), with as many clusters as there will be labels. The most
    typical image is here the one nearest to the centre of its cluster.
    """
    labelled = len(pool.labelled)
    everything = np.concatenate([pool.labelled, pool.x])
    clusters = min(labelled + budget, len(everything), max(MOST_CLUSTERS, budget))
    cosines, assigned = _clusters(everything, clusters, pool.seed)
    covered = np.bincount(assigned[:labelled], minlength=clusters)
    return _take_turns(cosines[labelled:], assigned[labelled:], covered, budget)


def coreset(pool: Pool, budget: int) -> Rows:
    """One after another the image that is farthest from all that are labelled or chosen.

    The greedy k-centre of Sener and Savarese 2018 (arXiv 1708.00489), from the image nearest to the
    mean where nothing is labelled.
    """
    x = pool.x
    chosen: list[int] = []
    if len(pool.labelled):
        nearest = np.concatenate([(block @ pool.labelled.T).max(axis=1) for block in _blocks(x)])
    else:
        chosen.append(int((x @ x.mean(axis=0)).argmax()))
        nearest = x @ x[chosen[0]]
    while len(chosen) < budget:
        nearest[chosen[-1:]] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, x @ x[chosen[-1]])
    return np.array(chosen, np.int64)


def margin(pool: Pool, budget: int) -> Rows:
    """Diverse ones among the images whose two likeliest classes are nearly equally probable."""
    return _diverse(pool, 1 - margins(_answers(pool)), budget)


def entropy(pool: Pool, budget: int) -> Rows:
    """Diverse ones among the images whose answer has the highest entropy."""
    p = _answers(pool)
    return _diverse(pool, -(p * np.log(p + 1e-12)).sum(axis=1), budget)


def balanced(pool: Pool, budget: int) -> Rows:
    """Images of the classes that have the fewest labels, by the head's answer; the unsure first.

    The pseudo-class balance of Bang et al. 2024 (arXiv 2311.11178) with the smallest margin in each
    class.
    """
    p = _answers(pool)
    unsure_first = np.argsort(margins(p), kind="stable")
    waiting = [list[int]() for _ in pool.counts]
    for row in reversed(unsure_first.tolist()):
        waiting[int(p[row].argmax())].append(row)
    have, chosen = pool.counts.astype(np.float64), list[int]()
    have[[not rows for rows in waiting]] = np.inf
    while len(chosen) < budget:
        least = int(have.argmin())
        chosen.append(waiting[least].pop())
        have[least] = have[least] + 1 if waiting[least] else np.inf
    return np.array(chosen, np.int64)


STRATEGIES: dict[str, Callable[[Pool, int], Rows]] = {
    "balanced": balanced,
    "margin": margin,
    "entropy": entropy,
    "typiclust": typiclust,
    "coreset": coreset,
    "random": random_order,
}


def margins(p: Numbers) -> Numbers:
    """Probability of the likeliest class less that of the second. (N,)"""
    second, first = np.partition(p, -2, axis=1)[:, -2:].T
    return np.asarray(first - second, np.float32)


def _answers(pool: Pool) -> Numbers:
    if pool.answers is None:
        raise InputError(
            "this strategy goes by a head's answers, and there are neither class texts nor "
            "labelled images of two classes; take strategy='typiclust', 'coreset' or 'random'."
        )
    return pool.answers


def _diverse(pool: Pool, doubt: Numbers, budget: int) -> Rows:
    """Centres of weighted k-means over the most doubtful images.

    Zhdanov 2019 (arXiv 1901.05954, section 4): `CANDIDATES` times as many candidates as are to be
    chosen, weighted by their doubt.
    """
    rows = np.argsort(-doubt, kind="stable")[: CANDIDATES * budget]
    clusters = min(budget, len(rows))
    weights = np.maximum(doubt[rows], 1e-6).astype(np.float32)
    cosines, assigned = _clusters(pool.x[rows], clusters, pool.seed, weights)
    return rows[_take_turns(cosines, assigned, np.zeros(clusters, np.int64), budget)]


def _clusters(
    x: Numbers, count: int, seed: int, weights: Numbers | None = None
) -> tuple[Numbers, Rows]:
    """Spherical k-means: cosine of each image to the centre of its cluster, and which that is."""
    import faiss

    kmeans = faiss.Kmeans(
        x.shape[1],
        count,
        niter=_ROUNDS,
        nredo=_STARTS,
        seed=seed + 1,
        spherical=True,
        min_points_per_centroid=1,  # a warning of faiss would go to the terminal
        max_points_per_centroid=_SAMPLE,
    )
    kmeans.train(np.ascontiguousarray(x), weights=weights)
    cosines, assigned = kmeans.index.search(np.ascontiguousarray(x), 1)
    return cosines[:, 0], assigned[:, 0]


def _take_turns(
    cosines: Numbers, assigned: Rows, covered: NDArray[np.generic], budget: int
) -> Rows:
    """The most central image of each cluster in turn: least labelled, then largest clusters first.

    Parameters
    ----------
    cosines, assigned : ndarray
        Of each image to the centre of its cluster, and which that is. (N,)
    covered : ndarray
        Labelled images of each cluster. (K,)
    budget : int
        N at most.
    """
    sizes = np.bincount(assigned, minlength=len(covered))
    place = np.empty(len(covered), np.int64)
    place[np.lexsort((-sizes, covered))] = np.arange(len(covered))
    order = np.lexsort((-cosines, assigned))  # cluster by cluster, the most central first
    starts = np.cumsum(sizes) - sizes
    turn = np.arange(len(order)) - starts[assigned[order]]
    return order[np.lexsort((place[assigned[order]], turn))][:budget]


def _blocks(x: Numbers, rows: int = 4096) -> Sequence[Numbers]:
    return [x[start : start + rows] for start in range(0, len(x), rows)]
