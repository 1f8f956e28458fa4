"""How Meta-Adapter's weights are trained: images classified by the newest images of each class.

As in the authors' code (ArsenalCheng/Meta-Adapter) a batch is classified by what lies on the
classes' shelves, and goes onto them afterwards. Unlike there an image is never on the shelf that it
is classified by: caches of few shots are small, so that it would find itself there in every epoch,
and the network would learn to trust shots that know the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.engine import BatchOrder, Recipe
from cafe.engine.optimizer import cosine
from cafe.errors import InputError
from cafe.features.splits import draw_shots
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.meta_adapter.weights import MetaWeights
from cafe.methods.tip_adapter.tip_adapter import cache_keys
from cafe.progress import Progress


class Queries(NamedTuple):
    """Images to classify.

    Attributes
    ----------
    x : Tensor
        Unit features. (B, D)
    y : Tensor
        Class indices. (B,)
    images : Tensor
        Their numbers in the training set. (B,)
    """

    x: Tensor
    y: Tensor
    images: Tensor


class Shelves:
    """The newest images of every class, one more than K: one of them may be the query's own.

    Parameters
    ----------
    features : Features
        The training set.
    classes : int
        C.
    shots : int
        K.
    seed : int
        Seed of the draw that the shelves start with.

    Attributes
    ----------
    keys : Tensor
        Unit features. (C, K + 1, D)
    images : Tensor
        The images' numbers in the training set, -1 where a place is free. (C, K + 1)
    """

    def __init__(self, features: Features, classes: int, shots: int, seed: int) -> None:
        rows = draw_shots(features.y, shots + 1, seed).to(features.y.device)  # (M,) class by class
        y = features.y[rows]
        counts = torch.bincount(y, minlength=classes)
        place = torch.arange(len(y), device=y.device) - (counts.cumsum(0) - counts)[y]  # (M,)
        size = int(counts.max())
        self._shots = shots
        self.keys = features.x.new_zeros(classes, size, features.x.shape[1])
        self.images = torch.full((classes, size), -1, device=y.device)
        self.keys[y, place] = cache_keys(features[rows])
        self.images[y, place] = rows

    def of_classes(self) -> tuple[Tensor, Tensor]:
        """The K newest of every class (C, K, D), and which of them there are (C, K)."""
        newest = slice(0, self._shots)
        return self.keys[:, newest], self.images[:, newest] >= 0

    def of_queries(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The K newest of each query's class but itself.

        The shelf of its class (B, K + 1, D), and which of it to take (B, K + 1).
        """
        images = self.images[queries.y]  # (B, K + 1)
        others = (images >= 0) & (images != queries.images[:, None])
        return self.keys[queries.y], others & (others.cumsum(dim=-1) <= self._shots)

    def refresh(self, queries: Queries) -> None:
        """Put images in front, each in place of itself or of the oldest of its class."""
        labels, numbers = queries.y.tolist(), queries.images.tolist()
        for x, label, number in zip(queries.x, labels, numbers, strict=True):
            there = self.images[label].tolist()
            end = there.index(number) if number in there else len(there) - 1
            for shelf, new in ((self.keys, x), (self.images, number)):
                shelf[label, 1 : end + 1] = shelf[label, :end].clone()
                shelf[label, 0] = new


class Episodes:
    """One training set: its images as queries in the order of a seed, and its shelves.

    Parameters
    ----------
    train : TrainingSet
        A class of one image is never asked for, since nothing else could speak for it.
    shots : int
        K.
    recipe : Recipe
    seed : int
    """

    def __init__(self, train: TrainingSet, shots: int, recipe: Recipe, seed: int) -> None:
        features, self.text = train.features, train.text
        counts = torch.bincount(features.y, minlength=len(train.text.names))
        self._features, self._batch = features, recipe.batch_size
        self._asked = torch.nonzero(counts[features.y] > 1).flatten()  # (Q,)
        views = features.views if recipe.views else None
        self._pool = features.x[:, None] if views is None else views  # (N, V, D)
        self._order = BatchOrder(seed, len(self._asked), self._pool.shape[1])
        self.shelves = Shelves(features, len(train.text.names), shots, seed)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._asked) // self._batch)

    def epoch(self) -> Iterator[Queries]:
        """The batches of the next epoch."""
        for rows in torch.split(self._order.epoch().to(self._asked.device), self._batch):
            images, view = self._asked[rows // self._pool.shape[1]], rows % self._pool.shape[1]
            x = normalize(self._pool[images, view], dim=-1)  # (B, D)
            yield Queries(x, self._features.y[images], images)


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
    turns = BatchOrder(seed, sum(map(len, episodes)))
    if not turns.images:
        raise InputError("meta-training needs a class with two images: one to ask, one to tell.")
    text = trains[0].text.features
    start = MetaWeights.initial(text.shape[-1], seed).to(text.device)
    leaves = {name: value.clone().requires_grad_() for name, value in start.tensors().items()}
    optimizer = torch.optim.AdamW(
        leaves.values(), lr=recipe.lr, weight_decay=recipe.weight_decay, eps=EPSILON
    )
    weights = MetaWeights(**leaves)
    losses: list[float] = []
    steps = recipe.epochs * turns.images
    for episode, queries in _turns(episodes, turns, recipe.epochs):
        optimizer.param_groups[0]["lr"] = recipe.lr * cosine(len(losses), steps)
        loss = episode_loss(weights, episode.text, episode.shelves, queries)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        episode.shelves.refresh(queries)
        losses.append(loss.item())
        if progress is not None:
            progress("meta-training", len(losses), steps)
    trained = {name: value.detach() for name, value in leaves.items()}
    return MetaWeights(**trained), fmean(losses[-turns.images :])


def _turns(
    episodes: Sequence[Episodes], turns: BatchOrder, epochs: int
) -> Iterator[tuple[Episodes, Queries]]:
    """The batches of all sets, every epoch in another order."""
    owners = [number for number, one in enumerate(episodes) for _ in range(len(one))]
    for _ in range(epochs):
        batches = [one.epoch() for one in episodes]
        for turn in turns.epoch().tolist():
            yield episodes[owners[turn]], next(batches[owners[turn]])
