"""TransCLIP (Zanella et al. 2024, arXiv 2406.01837): a mixture of Gaussians with neighbours."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import ClassText
from cafe.methods.head import Head
from cafe.methods.transductive.graph import index_of, neighbour_graph, product, sparse, symmetric
from cafe.methods.transductive.pool_head import (
    NEIGHBOURS,
    TEMPERATURE,
    FromStart,
    MixtureHead,
    log_density,
)

ROUNDS, STEPS = 10, 5
"""Of the authors' code: updates of the Gaussians, and of the answers for each of them."""

CONFIDENT = 8
"""Images of each class that its Gaussian starts at."""

_ROWS = 8192
_FLAT = 1e-12  # of a class that nothing belongs to


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
        graph = pool_graph(x)
        mu, variance = confident_means(x, p), x.new_full((1, x.shape[1]), 1 / x.shape[1])
        z = p
        for done in range(ROUNDS + 1):
            z = update_answers(x, p, z, graph, mu, variance)
            if done < ROUNDS:
                mu = normalize(class_sums(x, z), dim=-1)
                variance = shared_variance(x, z, mu)
        return {"answers": z, "mu": mu, "variance": variance}


def pool_graph(x: Tensor) -> Tensor:
    """`(W + W^T) / 2k` of the pool, sparse. (N, N)"""
    k = min(NEIGHBOURS, len(x) - 1)
    if k < 1:  # a pool of one image
        return sparse(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0), 1)
    return symmetric(*neighbour_graph(index_of(x), x, k), len(x)) / (2 * k)


def confident_means(x: Tensor, p: Tensor) -> Tensor:
    """Unit means of the most confident images of every class, weighted by confidence. (C, D)"""
    weights, rows = p.topk(min(CONFIDENT, len(p)), dim=0)  # (8, C)
    means = [(w[:, None] * x[r]).sum(dim=0) for w, r in zip(weights.mT, rows.mT, strict=True)]
    return normalize(torch.stack(means), dim=-1)


def update_answers(
    x: Tensor, p: Tensor, z: Tensor, graph: Tensor, mu: Tensor, variance: Tensor
) -> Tensor:
    """A few steps of the answers of the pool, the Gaussians held. (N, C)"""
    for _ in range(STEPS):
        votes = product(graph, z)  # (N, C)
        for rows in torch.split(torch.arange(len(x), device=x.device), _ROWS):
            density = log_density(x[rows], mu, variance) / TEMPERATURE
            votes[rows] += density + p[rows].clamp_min(_FLAT).log()
            votes[rows] = votes[rows].softmax(dim=-1)
        z = votes
    return z


def class_sums(x: Tensor, z: Tensor) -> Tensor:
    """Sums of the features by class. (C, D)"""
    return z.mT @ x


def shared_variance(x: Tensor, z: Tensor, mu: Tensor) -> Tensor:
    """Mean squared distance to the means, feature by feature. (1, D)"""
    squares = x.square().sum(dim=0) - 2 * (class_sums(x, z) * mu).sum(dim=0)
    squares = squares + z.sum(dim=0) @ mu.square()
    return (squares / len(x)).clamp_min(1e-6)[None]
