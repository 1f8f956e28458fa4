"""A map of the test images in two dimensions: which of them, and where."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_POINTS = 1000
"""Test images on a map; more are drawn from evenly."""

MOST_COLOURED = 24
"""Classes told apart on a map: eight colours by three symbols."""

FEWEST_FOR_TSNE = 60
"""Below, t-SNE has no neighbourhoods to keep: a map is by PCA."""


def points_of_map(y: Tensor) -> Tensor:
    """Rows that a map shows, in order: of those in colour as many as fill half of it.

    Of a thousand classes an even draw would show an image or two of each, and no class.
    """
    largest = y.bincount().argsort(descending=True, stable=True)[:MOST_COLOURED]
    in_colour = torch.isin(y, largest)
    coloured, others = in_colour.nonzero()[:, 0], (~in_colour).nonzero()[:, 0]
    first = _evenly(coloured, max(MOST_POINTS // 2, MOST_POINTS - len(others)))
    return torch.cat([first, _evenly(others, MOST_POINTS - len(first))]).sort().values


def _evenly(rows: Tensor, most: int) -> Tensor:
    return rows[torch.from_numpy(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))]


def project(
    x: NDArray[np.float32], start: Sequence[Sequence[float]] | None = None
) -> tuple[list[list[float]], str]:
    """Two dimensions of features by t-SNE, or by PCA where there are few, and which in words.

    t-SNE may start from another map of the same images, so that classes stay where they were.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    width = min(50, *x.shape)
    main = PCA(n_components=width, random_state=0).fit_transform(x)  # (n, width)
    if len(x) < FEWEST_FOR_TSNE:
        points, words = main[:, :2], f"PCA, first two components, {len(x)} test images"
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns of its own coming defaults
            init: Any = "pca"
            if start is not None:  # shrunk to the spread that scikit-learn gives PCA
                place = np.asarray(start, np.float32)
                init = place / place[:, 0].std() * np.float32(1e-4)
            # its threads spin while they wait, for minutes where other work has the cores
            with threadpool_limits(1):
                points = TSNE(perplexity=30, init=init, random_state=0).fit_transform(main)
        of = f"{len(x):,} test images"
        words = f"t-SNE (scikit-learn, perplexity 30) of {of}, after PCA to {width}"
    plane = np.zeros((len(x), 2))
    plane[:, : points.shape[1]] = points  # features of one dimension stay on the first axis
    return np.round(plane, 2).tolist(), words
