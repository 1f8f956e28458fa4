"""Tip-Adapter (Zhang et al., ECCV 2022, arXiv 2111.03930): a key-value cache of shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import Features, TrainingSet, class_averages
from cafe.methods.base import (
    NO_VALIDATION,
    Context,
    Job,
    Method,
    Validation,
)
from cafe.methods.checks import check_not_negative
from cafe.methods.head import Head, scale_params
from cafe.methods.tip_adapter.search import Affinities, CandidateGrid, search
from cafe.methods.validation import Fold, folds_for


def cache_keys(features: Features) -> Tensor:
    """Unit keys of the shots: the mean over augmented views, where there are any.

    The authors average raw features of ten random views; views are normalised first here, so that
    each counts the same.

    Parameters
    ----------
    features : Features
        The shots.

    Returns
    -------
    Tensor
        One key a shot. (M, D)
    """
    if features.views is None:
        return features.unit
    return normalize(normalize(features.views, dim=-1).mean(dim=1), dim=-1)


def cache_values(labels: Tensor, classes: int, *, balance: bool) -> Tensor:
    """The values V of keys: their labels one-hot or, balanced, so that all classes count the same.

    Balanced, the cache's logit of a class is the mean over its shots, times the mean number of
    shots; with equal shots that is no other.

    Parameters
    ----------
    labels : Tensor
        Class indices of the keys. (M,)
    classes : int
        C.
    balance : bool
        Whether it is balanced.

    Returns
    -------
    Tensor
        (M, C)
    """
    # a comparison, since torch.export cannot follow one_hot before torch 2.11
    values = (labels[:, None] == torch.arange(classes, device=labels.device)).float()
    if not balance:
        return values
    return len(labels) / values.any(dim=0).sum() * class_averages(labels, classes).mT


@dataclass(frozen=True, eq=False)
class TipHead(Head):
    """`s norm(x) w^T + alpha exp(-beta (1 - norm(x) K^T)) V`, plus the encoder's logit bias.

    Equations 6 and 7, with V of `cache_values`. Its params hold "alpha", "beta", "logit_scale",
    "logit_bias" and, where it is, "balance".
    """

    keys: Tensor  # K, (M, D), unit rows
    labels: Tensor  # their class indices, (M,)
    weights: Tensor  # w, (C, D)

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        x = normalize(x, dim=-1)
        alpha: float = self.params["alpha"]
        beta: float = self.params["beta"]
        balance: bool = self.params.get("balance", False)
        values = cache_values(self.labels, len(self.weights), balance=balance)  # V, (M, C)
        affinity = (-beta * (1 - x @ self.keys.mT)).exp()  # (N, M)
        return self.scale_cosines(x @ self.weights.mT) + alpha * affinity @ values


def affinities(keys: Tensor, fold: Fold, *, balance: bool = False) -> Affinities:
    """What the search needs of the keys of a fold's shots and of its held-out images."""
    text, x = fold.train.text, fold.held_out.unit
    zero_shot = text.logit_scale * x @ text.weights.mT + text.logit_bias  # (n, C)
    values = cache_values(fold.train.features.y, len(text.names), balance=balance)  # (M, C)
    return Affinities(x @ keys.mT, values, zero_shot, fold.held_out.y)


class TipAdapter(Method):
    """Training-free Tip-Adapter: zero-shot plus a cache of the shots; `TipHead` has the formula.

    Parameters
    ----------
    alpha, beta : float
        Weight of the cache and sharpness of its affinities where nothing is validated; 1 and 5.5
        are the paper's (section 4.1).
    balance : bool
        Count every class the same, however many shots it has: a sum over shots, as the paper's,
        favours classes that have many. The same where all have as many.
    grid : CandidateGrid
        Candidates under validation, 200 betas by 20 alphas as in the authors' code.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If alpha or beta is negative.
    """

    name = "tip-adapter"
    summary = "zero-shot plus a key-value cache of the training features"
    source = "Zhang et al. 2022, arXiv 2111.03930"
    head = TipHead
    no_new_classes = "its shots speak for base classes only; new ones get zero-shot's answer"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 5.5,
        *,
        balance: bool = False,
        grid: CandidateGrid | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.alpha = check_not_negative("alpha", alpha)
        self.beta = check_not_negative("beta", beta)
        self.balance = balance
        self.grid = grid or CandidateGrid()

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Keep the shots; under validation all 4,000 candidates are judged as tensors."""
        folds = folds_for(Job(train, validation, seed))
        on_folds = [(fold, cache_keys(fold.train.features)) for fold in folds]
        return self._head(train, cache_keys(train.features), on_folds)

    def _head(
        self,
        train: TrainingSet,
        keys: Tensor,
        on_folds: Sequence[tuple[Fold, Tensor]],
        **more: Any,
    ) -> Head:
        """The head of these keys, with the alpha and beta that are best for the folds' keys."""
        caches = [affinities(own, fold, balance=self.balance) for fold, own in on_folds]
        alpha, beta = search(caches, self.grid) if caches else (self.alpha, self.beta)
        more |= {"balance": True} if self.balance else {}
        params = {"alpha": alpha, "beta": beta, **more, **scale_params(train.text)}
        tensors = {"keys": keys, "labels": train.features.y, "weights": train.text.weights}
        return self.make_head(tensors, params)
