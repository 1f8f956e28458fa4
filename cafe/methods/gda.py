"""GDA (Wang et al., ICLR 2024, arXiv 2402.04087): a Gaussian classifier beside zero-shot CLIP."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine.stack import flatten_views
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_not_negative
from cafe.methods.linear import Candidates, LinearClassifier, SolvedLinear

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""Weights of the Gaussian classifier that the authors' code searches."""


def fit_gaussian(features: Features, classes: int) -> LinearClassifier:
    """The log-posterior of Gaussian classes with one covariance, up to a constant.

    It is estimated from unit features, the covariance by Kubokawa and Srivastava (2008).
    `W = mu S^-1`, `c = log(1/C) - diag(mu S^-1 mu^T) / 2`, with
    `S^-1 = D pinv((N - 1) cov + tr(cov) I)` and `cov` that of the class-centred features
    (equations 4 to 6). One image per class leaves no covariance: `S^-1`, and with it `W`, is 0, as
    the pseudo-inverse gives it, and only zero-shot remains.

    Parameters
    ----------
    features : Features
        The shots; augmented views are images of their own, as in the authors' code.
    classes : int
        C. A class without a shot takes the mean of the other classes' means, so that it neither
        wins nor loses by this term alone; the paper has no such class.

    Returns
    -------
    LinearClassifier
        In float64.
    """
    flat = flatten_views(features)
    x, y = normalize(flat.x.double(), dim=-1), flat.y  # (N, D)
    mu, present = _class_means(x, y, classes)
    centred = x - mu[y]  # (N, D)
    mu[~present] = mu[present].mean(dim=0)
    count, width = x.shape
    scatter = centred.mT @ centred  # (D, D), (N - 1) cov
    trace = float(scatter.trace()) / max(count - 1, 1)
    constant = x.new_full((classes,), -math.log(classes))
    if trace == 0:
        return LinearClassifier(torch.zeros_like(mu), constant)
    ridge = trace * torch.eye(width, dtype=x.dtype, device=x.device)
    # The sum is positive definite, so its pseudo-inverse is its inverse.
    weights = width * torch.linalg.solve(scatter + ridge, mu.mT).mT  # (C, D)
    return LinearClassifier(weights, constant - (weights * mu).sum(dim=-1) / 2)


def _class_means(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Means (C, D), and which classes have an image (C,)."""
    counts = torch.bincount(y, minlength=classes)  # (C,)
    sums = x.new_zeros(classes, x.shape[1]).index_add_(0, y, x)  # (C, D)
    return sums / counts.clamp_min(1)[:, None], counts > 0


class Gda(SolvedLinear):
    """Zero-shot CLIP plus Gaussian discriminant analysis; nothing is trained.

    Its logits are `s norm(x) w^T + alpha (norm(x) W^T + c)`, with W and c of `fit_gaussian`, plus
    the encoder's logit bias.

    Parameters
    ----------
    alpha : float
        Weight of the Gaussian classifier where nothing is validated; the authors always search, and
        their code falls back to 0.1.
    alphas : sequence of float
        Candidates under validation, from the weakest on.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If a weight is negative.
    """

    name = "gda"
    summary = "zero-shot plus Gaussian discriminant analysis in closed form"
    source = "Wang et al. 2024, arXiv 2402.04087"
    no_new_classes = "a class is the mean of its shots, and a new class has none"

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        alphas: Sequence[float] = ALPHAS,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.default = {"alpha": check_not_negative("alpha", alpha)}
        self.candidates = [{"alpha": check_not_negative("alpha", value)} for value in alphas]

    def solve(self, train: TrainingSet, candidates: Candidates) -> LinearClassifier:
        """See `SolvedLinear.solve`; in float64."""
        text, (w, c) = train.text, fit_gaussian(train.features, len(train.text.names))
        alphas = w.new_tensor([candidate["alpha"] for candidate in candidates])[:, None]  # (G, 1)
        weights = text.logit_scale * text.weights.double() + alphas[..., None] * w  # (G, C, D)
        return LinearClassifier(weights, text.logit_bias + alphas * c)
