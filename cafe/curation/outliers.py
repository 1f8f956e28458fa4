"""Images that are like no other: far from their nearest neighbours, compared with these."""

from __future__ import annotations

import numpy as np

from cafe.curation.near_duplicates import Neighbours

_SURE = 5.0
"""Robust standard deviations from which on an image is told."""

_FEWEST = 20  # images, below which nothing is usual


def find_outliers(near: Neighbours) -> list[tuple[int, float]]:
    """Rows and how sure it is, the surest first.

    The distance to the fifth nearest image over the mean of the neighbours' own (a local outlier
    factor, Breunig et al. 2000, on one distance), as its logarithm against the median.
    """
    if len(near.rows) < _FEWEST:
        return []
    there = near.rows[:, 4] >= 0
    own = near.distances[:, 4]
    around = own[near.rows[:, :5]].mean(axis=1)
    score = np.where(there, np.log(np.maximum(own, 1e-6) / np.maximum(around, 1e-6)), 0)
    middle = np.median(score[there]) if there.any() else 0.0
    spread = 1.4826 * np.median(np.abs(score[there] - middle)) if there.any() else 0.0
    z = (score - middle) / max(spread, 0.02)
    found = np.flatnonzero(there & (z > _SURE))
    in_order = found[np.argsort(-z[found], kind="stable")]
    return [(int(row), float(1 - _SURE / (2 * z[row]))) for row in in_order]
