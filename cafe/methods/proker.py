"""ProKeR (Bendou et al., CVPR 2025, arXiv 2501.11175): kernel ridge regression beside zero-shot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Context, Job, Method, Validation
from cafe.methods.checks import check_positive
from cafe.methods.head import Head, scale_params
from cafe.methods.tip_adapter.tip_adapter import cache_keys, cache_values
from cafe.methods.validation import Fold, choose, folds_for

PUBLISHED = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}
"""Shots -> beta and penalty that the authors chose on ImageNet's validation images for RN50, and
take for all other datasets."""

BETAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
PENALTIES = (1.0, 0.3, 0.1, 0.05, 0.01)
"""Candidates under validation, within the authors' ranges of 0.5 to 3 and 0.001 to 1."""


@dataclass(frozen=True, eq=False)
class ProkerHead(Head):
    """`s (norm(x) w^T + exp(-beta (1 - norm(x) K^T)) A)`, plus the encoder's logit bias."""

    keys: Tensor  # K, (M, D), unit rows
    coefficients: Tensor  # A, (M, C)
    weights: Tensor  # w, (C, D)

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        x = normalize(x, dim=-1)
        kernel = gaussian_kernel(x, self.keys, self.params["beta"])  # (N, M)
        return self.scale_cosines(x @ self.weights.mT + kernel @ self.coefficients)


def gaussian_kernel(x: Tensor, keys: Tensor, beta: float) -> Tensor:
    """`exp(-beta (1 - x K^T))` of unit features (N, D) and keys (M, D). (N, M)"""
    return (-beta * (1 - x @ keys.mT)).exp()


def ridge_coefficients(train: TrainingSet, beta: float, penalty: float) -> Tensor:
    """`A = (I + K / penalty)^-1 (Y - X w^T)`, as in the authors' code.

    Y are one-hot labels, and `X w^T` zero-shot's cosines: the function that the regression is held
    near is zero-shot's, so that it fits what zero-shot leaves.

    Parameters
    ----------
    train : TrainingSet
        The shots; the mean of its views stands for an image.
    beta : float
        Sharpness of the kernel.
    penalty : float
        How strongly the answer is held near zero-shot's.

    Returns
    -------
    Tensor
        In float32. (N, C)
    """
    keys, text = cache_keys(train.features).double(), train.text
    labels = cache_values(train.features.y, len(text.names), balance=False)  # (N, C)
    residual = labels - keys @ text.weights.double().mT
    identity = torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
    system = identity + gaussian_kernel(keys, keys, beta) / penalty
    solved: Tensor = torch.linalg.solve(system, residual)
    return solved.float()


class Proker(Method):
    """Zero-shot plus proximal kernel ridge regression on its residual, in closed form.

    Parameters
    ----------
    beta, penalty : float or None
        Sharpness of the kernel, and weight of staying near zero-shot, where nothing is validated.
        None takes what the authors chose on ImageNet, for RN50 and the nearest number of shots of
        1, 2, 4, 8 and 16.
    betas, penalties : sequence of float
        Candidates under validation, in pairs; from the weakest on.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If one is not above 0.
    """

    name = "proker"
    summary = "zero-shot plus kernel ridge regression on what it leaves, in closed form"
    source = "Bendou et al. 2025, arXiv 2501.11175"
    head = ProkerHead
    no_new_classes = "its shots speak for base classes only"

    def __init__(
        self,
        beta: float | None = None,
        penalty: float | None = None,
        *,
        betas: Sequence[float] = BETAS,
        penalties: Sequence[float] = PENALTIES,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.beta = None if beta is None else check_positive("beta", beta)
        self.penalty = None if penalty is None else check_positive("penalty", penalty)
        pairs = product(penalties, betas)
        self.candidates = [
            {"beta": check_positive("beta", b), "penalty": check_positive("penalty", p)}
            for p, b in pairs
        ]

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Choose and solve; one system a candidate and fold."""
        folds = folds_for(Job(train, validation, seed))
        params = choose(self.candidates, self.default_for(train), folds, map(self._judge, folds))
        return self._head(train, params)

    def default_for(self, train: TrainingSet) -> dict[str, float]:
        """Beta and penalty where nothing is validated."""
        shots = int(train.features.y.bincount().max())
        beta, penalty = PUBLISHED[min(PUBLISHED, key=lambda count: abs(count - shots))]
        return {"beta": self.beta or beta, "penalty": self.penalty or penalty}

    def _head(self, train: TrainingSet, params: Mapping[str, float]) -> Head:
        tensors = {
            "keys": cache_keys(train.features),
            "coefficients": ridge_coefficients(train, **params),
            "weights": train.text.weights,
        }
        return self.make_head(tensors, {**params, **scale_params(train.text)})

    def _judge(self, fold: Fold) -> Tensor:
        """Logits of a fold's held-out images under every candidate. (G, n, C)"""
        heads = (self._head(fold.train, params) for params in self.candidates)
        return torch.stack([head.logits(fold.held_out.x.float()) for head in heads])
