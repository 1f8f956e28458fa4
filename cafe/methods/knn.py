"""k nearest neighbours among the shots, searched with faiss; classes are voted for by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Context, Job, Method, Validation
from cafe.methods.checks import check_count, check_positive
from cafe.methods.head import Head
from cafe.methods.validation import Fold, choose, folds_for

if TYPE_CHECKING:
    import faiss

COUNTS = (200, 100, 50, 20, 10, 5, 3, 1)
"""Candidates for k, from the smoothest on; 10, 20, 100 and 200 are those of Caron et al. 2021."""

FLOOR = 1e-3
"""Share of the votes that every class gets for nothing, so that no likelihood is 0; ours."""


def flat_index(keys: Tensor) -> faiss.IndexFlatIP:
    """A faiss index of unit features (M, D), which answers with inner products."""
    import faiss

    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys.cpu().contiguous().numpy())
    return index


def nearest(index: faiss.IndexFlatIP, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and rows of the k keys nearest to each image, the nearest first. (N, k) each"""
    queries = normalize(x, dim=-1).cpu().contiguous().numpy()
    cosines, rows = index.search(queries, min(k, index.ntotal))
    return torch.from_numpy(cosines).to(x.device), torch.from_numpy(rows).to(x.device)


def vote(cosines: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Log-shares of the votes, each neighbour's vote weighing `exp(cosine / temperature)`.

    Wu et al. 2018 (arXiv 1805.01978), equation 5's weights.

    Parameters
    ----------
    cosines, labels : Tensor
        Neighbours of each image, the nearest first. (N, K)
    classes : int
        C.
    k : int
        Neighbours that vote; all K where there are fewer.
    temperature : float
        The smaller, the more the nearest count.

    Returns
    -------
    Tensor
        Log-shares: log-probabilities, no class being impossible. (N, C)
    """
    weights = torch.softmax(cosines[:, :k] / temperature, dim=-1)  # (N, k)
    shares = cosines.new_zeros(len(cosines), classes)
    shares.scatter_add_(1, labels[:, :k], weights)  # (N, C)
    return _smoothed(shares).log()


def _smoothed(shares: Tensor) -> Tensor:
    """Shares with a part of `FLOOR` for every class. (N, C)"""
    return (shares + FLOOR) / (1 + shares.shape[-1] * FLOOR)


@dataclass(frozen=True, eq=False)
class KnnHead(Head):
    """Votes of the k nearest shots, from a faiss flat inner-product index.

    Its params hold "k" and "temperature"; see `vote`.
    """

    keys: Tensor  # unit features of the shots, (M, D)
    labels: Tensor  # their class indices, (M,)
    classes: Tensor  # C, (1,)

    @cached_property
    def _index(self) -> faiss.IndexFlatIP:
        return flat_index(self.keys)

    def neighbours(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosines and class indices of the k nearest shots, the nearest first. (N, k) each"""
        cosines, rows = nearest(self._index, x, k)
        return cosines, self.labels[rows]

    def logits(self, x: Tensor) -> Tensor:
        """Log-shares of the votes; see `vote`. (N, C)"""
        k: int = self.params["k"]
        classes, temperature = int(self.classes), self.params["temperature"]
        return vote(*self.neighbours(x, k), classes, k, temperature)

    @cached_property
    def _values(self) -> Tensor:
        """The classes of the shots, one-hot. (M, C)"""
        return one_hot(self.labels, int(self.classes)).to(self.keys.dtype)

    def graph_logits(self, x: Tensor) -> Tensor:
        """The votes without faiss, and without a shape that depends on the rows. (N, C)"""
        values = self._values
        k, temperature = min(self.params["k"], len(values)), self.params["temperature"]
        cosines, rows = (normalize(x, dim=-1) @ self.keys.mT).topk(k, dim=-1)  # (N, k)
        weights = torch.softmax(cosines / temperature, dim=-1)
        shares = (weights[:, None] @ values[rows]).squeeze(1)  # (N, C)
        return _smoothed(shares).log()


class Knn(Method):
    """Weighted k-nearest-neighbour votes over the shots' plain features.

    Parameters
    ----------
    k : int
        Neighbours that vote where nothing is validated; 20 is the best of Caron et al. 2021
        (arXiv 2104.14294, section 4.1).
    temperature : float
        Of the votes' weights; 0.07 is that of Wu et al. 2018 and Caron et al. 2021.
    counts : sequence of int
        Candidates for k under validation, from the smoothest on.
    context : Context or None
        Where the votes are counted; the search is faiss', on the CPU.

    Raises
    ------
    InputError
        If k is no whole number of at least 1, or the temperature is not above 0.
    """

    name = "knn"
    summary = "votes of the nearest training features, by faiss"
    source = "Wu et al. 2018, arXiv 1805.01978"
    head = KnnHead
    no_new_classes = "neighbours vote for the classes they are of, and a new class has none"

    def __init__(
        self,
        k: int = 20,
        temperature: float = 0.07,
        *,
        counts: Sequence[int] = COUNTS,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.k = check_count("k", k)
        self.temperature = check_positive("temperature", temperature)
        self.counts = tuple(check_count("k", count) for count in counts)

    @classmethod
    def reads_text(cls, _settings: Mapping[str, Any]) -> bool:
        """It looks at images alone; see `Method.reads_text`."""
        return False

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Keep the shots; under validation every k is judged on one search."""
        folds = folds_for(Job(train, validation, seed))
        k = choose(self.counts, self.k, folds, map(self._candidates, folds))
        return self._head(train, k)

    def _head(self, train: TrainingSet, k: int) -> KnnHead:
        features, classes = train.features, torch.tensor([len(train.text.names)])
        params = {"k": k, "temperature": self.temperature}
        return KnnHead(features.unit, features.y, classes, params=params, method=self.name)

    def _candidates(self, fold: Fold) -> Tensor:
        """Logits of a fold's held-out images under every k, from one search. (G, n, C)"""
        classes = len(fold.train.text.names)
        nearest = self._head(fold.train, self.k).neighbours(fold.held_out.x, max(self.counts))
        return torch.stack([vote(*nearest, classes, k, self.temperature) for k in self.counts])
