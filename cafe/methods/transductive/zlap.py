"""ZLaP (Stojnic et al. 2024, arXiv 2404.04072): label propagation over images and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cafe.features.pool import Pool
from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Context, Method, Validation
from cafe.methods.checks import check_count, check_share
from cafe.methods.head import Head
from cafe.methods.transductive.graph import index_of, neighbour_graph, product, sparse, symmetric
from cafe.methods.transductive.lda_prior_pooled import need_pool
from cafe.methods.transductive.pool_head import LEAST, PoolHead

GAMMA = 5.0
"""Power of the cosines, which favours the nearest; of the authors' code."""

ROUNDS = 30
"""Of `f = alpha W f + y`: alpha 0.3 to the thirtieth is nothing."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ZlapHead(PoolHead):
    """Shares of the classes that reach an image over the graph."""

    text: Tensor  # class weights, (C, D)

    def last_round(self, x: Tensor, unit: Tensor, cosines: Tensor, rows: Tensor) -> Tensor:
        """See `PoolHead.last_round`; neighbours speak by their own shares."""
        votes = (cosines.clamp_min(0)[..., None] ** GAMMA * self.answers[rows]).sum(dim=1)
        texts, classes = (unit @ self.text.mT).topk(min(rows.shape[1], len(self.text)), dim=1)
        votes = votes.scatter_add(1, classes, texts.clamp_min(0) ** GAMMA)
        return (votes / votes.sum(dim=1, keepdim=True).clamp_min(LEAST)).clamp_min(LEAST).log()


class Zlap(Method):
    """ZLaP as published: it looks at the texts and the pool, and at no shot.

    Nodes are the pool and the texts. Each image has edges to its k nearest images and to its k
    nearest texts, of weight `cosine^5`. `(I - alpha D^-1/2 W D^-1/2) f = y`, with `y` of the texts
    their classes. Shots as labelled nodes lose up to 40 points on fine-grained tasks: images lie
    far nearer to each other than to texts, and a neighbour says little of its breed.

    Parameters
    ----------
    k : int
        Neighbours of each kind.
    alpha : float
        How far labels travel, from 0 to 1.
    pool : Pool or array
        Raw features without labels. (N, D)
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If there is no pool, or a number is out of bounds.
    """

    name = "zlap"
    summary = "ZLaP: labels of the texts travel over the neighbours in a pool"
    source = "Stojnic et al. 2024, arXiv 2404.04072"
    head = ZlapHead
    needs = "pool"

    def __init__(
        self,
        k: int = 5,
        alpha: float = 0.3,
        *,
        pool: Pool | ArrayLike | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.k, self.alpha = check_count("k", k), check_share("alpha", alpha)
        self.pool = need_pool(self.name, pool).to(self.context.device)

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Propagate the labels of the texts; images of the training set play no part."""
        w = train.text.weights
        y = torch.cat([w.new_zeros(len(self.pool), len(w)), torch.eye(len(w)).to(w)])
        f = self._propagate(_graph(self.pool.unit, w, self.k), y)
        answers = f[: len(self.pool)]
        answers = answers / answers.sum(dim=1, keepdim=True).clamp_min(LEAST)
        params: dict[str, Any] = {"k": self.k, "alpha": self.alpha, "neighbours": self.k}
        params["pool_images"] = len(self.pool)
        return self.make_head({"keys": self.pool.unit, "answers": answers, "text": w}, params)

    def _propagate(self, graph: Tensor, y: Tensor) -> Tensor:
        """Shares of the classes at every node. (N + C, C)"""
        f = y
        for _ in range(ROUNDS):
            f = self.alpha * product(graph, f) + y
        return f


def _graph(images: Tensor, w: Tensor, k: int) -> Tensor:
    """Images and then texts, `D^-1/2 W D^-1/2`, sparse."""
    nodes = len(images) + len(w)
    texts, classes = [], []
    for block in torch.split(images, 8192):
        cosines, rows = (block @ w.mT).topk(min(k, len(w)), dim=1)
        texts.append(cosines)
        classes.append(rows + len(images))
    near, rows = neighbour_graph(index_of(images), images, min(k, len(images) - 1))
    cosines = torch.cat([near, torch.cat(texts)], dim=1).clamp_min(0) ** GAMMA
    graph = symmetric(cosines, torch.cat([rows, torch.cat(classes)], dim=1), nodes)
    degree = torch.sparse.sum(graph, dim=1).to_dense().clamp_min(LEAST).rsqrt()  # (nodes,)
    here, there = graph.indices()
    values = graph.values() * degree[here] * degree[there]
    return sparse(graph.indices(), values, nodes)
