"""ZLaP (Stojnic et al. 2024, arXiv 2404.04072): label propagation over images and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cafe.features.pool import Pool
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.checks import check_count, check_share
from cafe.methods.head import Head
from cafe.methods.transductive.graph import Graph, index_of, neighbour_graph, symmetric
from cafe.methods.transductive.pool_head import PoolHead
from cafe.methods.transductive.pool_method import PoolMethod
from cafe.methods.transductive.soft_labels import LEAST, LEAST_SHARE, blocks

GAMMA = 5.0
"""Power of the cosines, which favours the nearest; of the authors' code."""

ROUNDS, REST = 200, 1e-8
"""Of `f = alpha W f + y`, at most; and the power of alpha from which on more change nothing."""


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


class Zlap(PoolMethod):
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

    def __init__(
        self,
        k: int = 5,
        alpha: float = 0.3,
        *,
        pool: Pool | ArrayLike | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(pool, None, context)
        self.k, self.alpha = check_count("k", k), check_share("alpha", alpha)

    def begin(self, train: TrainingSet, seed: int) -> Head:
        """See `PoolMethod.begin`: zero-shot, of which it takes nothing but the texts."""
        return make_method("zero-shot", self.context, {}).fit(train, seed=seed)

    def fit_beside(self, start: Head, train: TrainingSet) -> Head:
        """Propagate the labels of the texts; shots and start play no part."""
        w = train.text.weights
        f = self._propagate(_graph(self.pool.unit, w, self.k), len(w))[: len(self.pool)]
        answers = f.div_(f.sum(dim=1, keepdim=True).clamp_min(LEAST))
        params: dict[str, Any] = {"k": self.k, "alpha": self.alpha, "neighbours": self.k}
        params["pool_images"] = len(self.pool)
        tensors = {"keys": self.pool.unit, "answers": answers.contiguous(), "text": w}
        return self.make_head(tensors, params)

    def _propagate(self, graph: Graph, classes: int) -> Tensor:
        """Shares of the classes at every node: `f = alpha W f + y` until it stands. (N + C, C)"""
        f = torch.zeros(len(self.pool) + classes, classes, device=self.pool.x.device)
        f[len(self.pool) :].fill_diagonal_(1.0)  # y, the rest of which is 0
        other, left = torch.empty_like(f), 1.0
        for _ in range(ROUNDS):
            for rows in blocks(*f.shape):
                torch.mul(graph.votes(f, rows), self.alpha, out=other[rows])
                torch.threshold_(other[rows], LEAST_SHARE, 0.0)
            f, other, left = other, f, left * self.alpha
            f[len(self.pool) :].diagonal().add_(1.0)
            if left < REST:
                break
        return f


def _graph(images: Tensor, w: Tensor, k: int) -> Graph:
    """Images and then texts, `D^-1/2 W D^-1/2`."""
    nodes = len(images) + len(w)
    texts, classes = [], []
    for block in torch.split(images, 8192):
        cosines, rows = (block @ w.mT).topk(min(k, len(w)), dim=1)
        texts.append(cosines)
        classes.append(rows + len(images))
    near, rows = neighbour_graph(index_of(images), images, min(k, len(images) - 1))
    cosines = torch.cat([near, torch.cat(texts)], dim=1).clamp_min(0) ** GAMMA
    graph = symmetric(cosines, torch.cat([rows, torch.cat(classes)], dim=1), nodes)
    here = graph.here()
    degree = cosines.new_zeros(nodes).index_add_(0, here, graph.weights).clamp_min(LEAST).rsqrt()
    return graph._replace(weights=graph.weights * degree[here] * degree[graph.there])
