"""How Meta-Adapter's weights are trained: images classified by the shots of their classes.

Song et al. 2023 (arXiv 2311.03774), and the authors' code (ArsenalCheng/Meta-Adapter).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.engine import BatchOrder, Recipe
from cafe.engine.optimizer import cosine
from cafe.errors import InputError
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.meta_adapter.episodes import Episodes, Queries, Shelves
from cafe.methods.meta_adapter.weights import MetaWeights
from cafe.progress import Progress

PUBLISHED = Recipe(lr=1e-4, epochs=5, batch_size=64, views=True)
"""The authors' AdamW with torch's decay, a cosine over all steps, one augmented view an image."""

EPSILON = 1e-4
"""AdamW's epsilon in the authors' code. It is kept: Adam's first steps depend on it."""


def episode_loss(
    weights: MetaWeights, text: ClassText, shelves: Shelves, queries: Queries
) -> Tensor:
    """Cross-entropy of queries, the weight of their own class being made without them.

    Parameters
    ----------
    weights : MetaWeights
    text : ClassText
        The classes.
    shelves : Shelves
        Their shots.
    queries : Queries

    Returns
    -------
    Tensor
        Mean over the queries. ()
    """
    x, y = queries.x, queries.y
    every = weights.adapt(text.weights, *shelves.of_classes())  # (C, D)
    own = weights.adapt(text.weights[y], *shelves.of_queries(queries))  # (B, D)
    cosines = x @ every.mT  # (B, C)
    cosines = cosines.scatter(1, y[:, None], (x * own).sum(dim=-1, keepdim=True))
    return cross_entropy(text.logit_scale * cosines, y)


def train_meta(
    trains: Sequence[TrainingSet],
    *,
    shots: int = 16,
    recipe: Recipe = PUBLISHED,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[MetaWeights, float]:
    """Train on one or several training sets of one encoder, their batches in turn at random.

    Parameters
    ----------
    trains : sequence of TrainingSet
        All on one device.
    shots : int
        K, images that a class is refined by.
    recipe : Recipe
        How to optimise.
    seed : int
        Seed of weights, shelves and order.
    progress : callable, optional
        Called after every step.

    Returns
    -------
    weights : MetaWeights
    loss : float
        Mean over the last epoch, each batch before its update.

    Raises
    ------
    InputError
        If no class has two images.
    """
    episodes = [Episodes(train, shots, recipe, seed) for train in trains]
    turns = BatchOrder(seed, sum(len(one) for one in episodes))
    if not turns.images:
        raise InputError("meta-training needs a class with two images: one to ask, one to tell.")
    text = trains[0].text.features
    start = MetaWeights.initial(text.shape[-1], seed).to(text.device)
    leaves = {name: value.clone().requires_grad_() for name, value in start.tensors().items()}
    optimizer = torch.optim.AdamW(
        leaves.values(), lr=recipe.lr, weight_decay=recipe.weight_decay, eps=EPSILON
    )
    weights = MetaWeights.from_tensors(leaves)
    losses: list[float] = []
    steps = recipe.epochs * turns.images
    for one, queries in _turns(episodes, turns, recipe.epochs):
        optimizer.param_groups[0]["lr"] = recipe.lr * cosine(len(losses), steps)
        loss = episode_loss(weights, one.text, one.shelves, queries)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        one.shelves.refresh(queries)
        losses.append(loss.item())
        if progress is not None:
            progress("meta-training", len(losses), steps)
    trained = MetaWeights.from_tensors({n: v.detach() for n, v in leaves.items()})
    return trained, fmean(losses[-turns.images :])


def _turns(
    episodes: Sequence[Episodes], turns: BatchOrder, epochs: int
) -> Iterator[tuple[Episodes, Queries]]:
    """The batches of all sets, every epoch in another order."""
    owners = [number for number, one in enumerate(episodes) for _ in range(len(one))]
    for _ in range(epochs):
        batches = [one.epoch() for one in episodes]
        for turn in turns.epoch().tolist():
            yield episodes[owners[turn]], next(batches[owners[turn]])
