"""TransCLIP (Zanella et al. 2024, arXiv 2406.01837): a mixture of Gaussians with neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import ClassText
from cafe.methods.head import Head
from cafe.methods.transductive.graph import Graph, index_of, neighbour_graph, symmetric
from cafe.methods.transductive.pool_head import (
    NEIGHBOURS,
    TEMPERATURE,
    FromStart,
    MixtureHead,
    log_density,
)
from cafe.methods.transductive.soft_labels import LEAST, blocks, soft_labels

ROUNDS, STEPS = 10, 5
"""Of the authors' code: updates of the Gaussians, and of the answers for each of them."""

CONFIDENT = 8
"""Images of each class that its Gaussian starts at."""

_NUMBERS = 1 << 20  # answers at a time: they stay in the cache of the processor


class TransClip(FromStart):
    """TransCLIP on the answers of another head.

    `z_i ~ p_i exp((log N(x_i; mu_c, s) + 50 sum_j (w_ij + w_ji) z_j / 2k) / 50)`: `p` the answers
    of `start`, `w` the cosines of the k = 3 nearest neighbours in the pool, one diagonal covariance
    `s` for all classes. Unit means `mu` and `s` follow from `z`, ten times; five steps of `z` each.
    `start="zero-shot"` is the paper's; the shots enter by `start` alone, as they do no good in the
    means (at the published weight they lose up to 43 points at one shot).

    It takes every class for present: where a pool holds few of them it fails, as published (65.2 to
    38.9 in batches of 64 images of 1 to 4 classes).
    """

    __doc__ += (FromStart.__doc__ or "").partition("pool.\n")[2]

    name = "transclip"
    summary = "TransCLIP: Gaussians and nearest neighbours in a pool of images without labels"
    source = "Zanella et al. 2024, arXiv 2406.01837"
    head: ClassVar[type[Head]] = MixtureHead

    def solve(self, p: Tensor, text: ClassText) -> dict[str, Tensor]:
        """See `FromStart.solve`."""
        x = self.pool.unit
        squares = x.square().sum(dim=0)  # (D,)

        def update(z: Tensor) -> tuple[Tensor, Tensor]:
            sums = z.mT @ x  # (C, D)
            mu = normalize(sums, dim=-1)
            return mu, shared_variance(squares, z, sums, mu)

        variance = x.new_full((1, x.shape[1]), 1 / x.shape[1])
        return alternate(x, p, (confident_means(x, p), variance), update)


def alternate(
    x: Tensor,
    z: Tensor,
    gaussians: tuple[Tensor, Tensor],
    update: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """Update answers and Gaussians in turn.

    Parameters
    ----------
    x : Tensor
        Unit features of the pool. (N, D)
    z : Tensor
        The answers to start from, `p` of the formula; overwritten. (N, C)
    gaussians : (Tensor, Tensor)
        Means and variances to start from. (C, D) and (1 or C, D)
    update : callable
        The same of answers.

    Returns
    -------
    dict of str to Tensor
        See `FromStart.solve`. Beside these it holds three matrices (N, C).
    """
    graph, prior = pool_graph(x), z.clamp_min(LEAST).log_()
    logits, other = torch.empty_like(z), torch.empty_like(z)
    parts = blocks(len(z), z.shape[1], _NUMBERS)
    for done in range(ROUNDS + 1):
        gaussians = update(z) if done else gaussians
        for rows in parts:  # they stand while the answers move
            density = log_density(x[rows], *gaussians)
            torch.add(prior[rows], density, alpha=1 / TEMPERATURE, out=logits[rows])
        for _ in range(STEPS):
            for rows in parts:
                other[rows] = soft_labels(graph.votes(z, rows).add_(logits[rows]))
            z, other = other, z
    return {"answers": z, "mu": gaussians[0], "variance": gaussians[1].contiguous()}


def pool_graph(x: Tensor) -> Graph:
    """`(W + W^T) / 2k` of the pool. (N, N)"""
    k = min(NEIGHBOURS, len(x) - 1)
    graph = symmetric(*neighbour_graph(index_of(x), x, k), len(x))
    return graph._replace(weights=graph.weights / (2 * max(k, 1)))


def confident_means(x: Tensor, p: Tensor) -> Tensor:
    """Unit means of the most confident images of every class, weighted by confidence. (C, D)"""
    weights, rows = p.topk(min(CONFIDENT, len(p)), dim=0)  # (8, C)
    means = [(w[:, None] * x[r]).sum(dim=0) for w, r in zip(weights.mT, rows.mT, strict=True)]
    return normalize(torch.stack(means), dim=-1)


def shared_variance(squares: Tensor, z: Tensor, sums: Tensor, mu: Tensor) -> Tensor:
    """Mean squared distance to the means, of every feature.

    Parameters
    ----------
    squares : Tensor
        Sums of the squared features. (D,)
    z : Tensor
        Answers of the pool. (N, C)
    sums : Tensor
        Sums of the features by class, `z^T x`. (C, D)
    mu : Tensor
        (C, D)

    Returns
    -------
    Tensor
        (1, D)
    """
    total = squares - 2 * (sums * mu).sum(dim=0) + z.sum(dim=0) @ mu.square()
    return (total / len(z)).clamp_min(1e-6)[None]
