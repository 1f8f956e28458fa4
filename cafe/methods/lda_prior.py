"""Linear discriminant analysis whose class means start from the text; a method of cafe's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_not_negative, check_positive
from cafe.methods.linear import Candidates, LinearClassifier, SolvedLinear

KAPPAS = (1.0, 3.0, 10.0, 30.0)
"""Images that the text is worth, as candidates."""

BETAS = (0.03, 0.1, 0.3)
"""Weights of the Gaussian classifier beside zero-shot, as candidates."""

_TINY = 1e-6


class Moments(NamedTuple):
    """What Gaussian classes need of the shots; float64.

    Attributes
    ----------
    counts : Tensor
        Images of each class. (C,)
    centre : Tensor
        Mean of the class means `m`. (D,)
    means : Tensor
        Class means less `m`; zeros where a class has no image. (C, D)
    within : Tensor
        Scatter of the images about their class means. (D, D)
    prior : Tensor
        Where the text expects the class means, less `m`. (C, D)
    """

    counts: Tensor
    centre: Tensor
    means: Tensor
    within: Tensor
    prior: Tensor


def measure(features: Features, text_weights: Tensor) -> Moments:
    """Moments of unit features, and the text's guess of the class means.

    Images and texts lie in different parts of the sphere (Liang et al. 2022, arXiv 2203.02053), but
    class means differ from `m` much as the texts `w_c` differ from theirs: the guess is `g t_c`
    with `t_c` the centred text and `g` the least-squares slope of means on texts.

    Parameters
    ----------
    features : Features
        The shots, at least one. Augmented views play no part.
    text_weights : Tensor
        Zero-shot class weights `w`. (C, D)

    Returns
    -------
    Moments
    """
    moments, centred = _measure(features, text_weights)
    return moments._replace(within=centred.mT @ centred)


def _measure(features: Features, text_weights: Tensor) -> tuple[Moments, Tensor]:
    """Moments without the scatter, and the images less their class means. (N, D)"""
    x, y, w = features.unit.double(), features.y, text_weights.double()
    counts = torch.bincount(y, minlength=len(w)).double()  # (C,)
    present = counts > 0
    means = torch.zeros_like(w).index_add_(0, y, x) / counts.clamp_min(1)[:, None]  # (C, D)
    centred = x - means[y]  # (N, D)
    centre = means[present].mean(dim=0)  # (D,)
    means = torch.where(present[:, None], means - centre, 0.0)  # (C, D)
    t = w - w.mean(dim=0)  # (C, D)
    slope = (means * t).sum() / t[present].square().sum().clamp_min(_TINY)
    return Moments(counts, centre, means, w.new_zeros(0, 0), slope.clamp_min(0) * t), centred


def posterior(moments: Moments, kappa: float) -> tuple[Tensor, Tensor]:
    """Class means that weigh the text as `kappa` images, and the regularised scatter about them.

    `mu_c = p_c + n_c / (n_c + kappa) (mean_c - p_c)`. The scatter is that of the images about `mu`,
    plus `tr / N` on the diagonal, the ridge of Wang et al. 2024 (arXiv 2402.04087, equation 6).

    Parameters
    ----------
    moments : Moments
    kappa : float
        Above 0.

    Returns
    -------
    mu : Tensor
        Less the centre. (C, D)
    scatter : Tensor
        Positive definite. (D, D)
    """
    n, means, prior = moments.counts, moments.means, moments.prior
    shift = (kappa / (n + kappa))[:, None] * (prior - means)  # (C, D)
    mu = means + shift
    scatter = moments.within + (shift * n[:, None]).mT @ shift  # (D, D)
    scatter.diagonal().add_((scatter.trace() / n.sum()).clamp_min(_TINY))
    return mu, scatter


def gaussian(moments: Moments, kappa: float) -> LinearClassifier:
    """The classifier `W = D S^-1 mu`, `c = -W (m + mu / 2)`, all classes equally likely.

    Parameters
    ----------
    moments : Moments
    kappa : float
        Images that the text is worth, above 0.

    Returns
    -------
    LinearClassifier
        In float64.
    """
    mu, scatter = posterior(moments, kappa)
    return _classifier(moments, mu, torch.linalg.solve(scatter, mu.mT).mT)


def _classifier(moments: Moments, mu: Tensor, solved: Tensor) -> LinearClassifier:
    """From the class means and `S^-1 mu`. (C, D)"""
    weights = mu.shape[1] * solved  # (C, D)
    return LinearClassifier(weights, -(weights * (moments.centre + mu / 2)).sum(dim=-1))


def gaussians(
    features: Features, text_weights: Tensor, kappas: Iterable[float]
) -> dict[float, LinearClassifier]:
    """`gaussian` for several kappas; arguments as of `measure`.

    Of fewer images and classes than the width, J in all, S is a ridge beside the outer products of
    J rows, and only the rows of classes depend on kappa, by a factor. One (J, J) matrix of inner
    products then serves all kappas (Woodbury 1950): `S^-1 mu = (mu - A^T (r I + A A^T)^-1 A mu)/r`.
    """
    moments, centred = _measure(features, text_weights)
    n, means, prior = moments.counts, moments.means, moments.prior
    away = prior - means  # (C, D)
    rows = torch.cat([centred, away])  # (J, D)
    if len(rows) >= rows.shape[1]:
        moments = moments._replace(within=centred.mT @ centred)
        return {kappa: gaussian(moments, kappa) for kappa in kappas}
    inner, fitted = rows @ rows.mT, {}  # (J, J)
    for kappa in kappas:
        share = (kappa / (n + kappa))[:, None]  # (C, 1)
        mu = means + share * away
        scale = torch.cat([torch.ones_like(centred[:, :1]), n.sqrt()[:, None] * share])  # (J, 1)
        products = scale * inner * scale.mT  # A A^T
        ridge = (products.trace() / n.sum()).clamp_min(_TINY)
        products.diagonal().add_(ridge)
        solved = torch.linalg.solve(products, scale * (rows @ mu.mT))  # (J, C)
        fitted[kappa] = _classifier(moments, mu, (mu - (scale * solved).mT @ rows) / ridge)
    return fitted


def candidate_heads(train: TrainingSet, pairs: Sequence[tuple[float, float]]) -> LinearClassifier:
    """`zero-shot + beta * gaussian(kappa)` for every (kappa, beta): (G, C, D) and (G, C)."""
    fitted = gaussians(train.features, train.text.weights, {kappa for kappa, _ in pairs})
    heads = [beside_zero_shot(train.text, fitted[kappa], beta) for kappa, beta in pairs]
    weights, intercepts = zip(*heads, strict=True)
    return LinearClassifier(torch.stack(weights), torch.stack(intercepts))


def beside_zero_shot(text: ClassText, fitted: LinearClassifier, beta: float) -> LinearClassifier:
    """`zero-shot + beta * fitted`, in float32."""
    weights = text.logit_scale * text.weights.double() + beta * fitted.weights  # (C, D)
    intercept = text.logit_bias + beta * fitted.intercept
    return LinearClassifier(weights.float(), intercept.float())


class LdaPrior(SolvedLinear):
    """Zero-shot CLIP plus a Gaussian classifier whose class means are drawn towards the text.

    GDA (arXiv 2402.04087) estimates the class means from the shots alone, and with few of them in a
    fine-grained task they are noise. Here they have a prior from the text, worth `kappa` images.
    The logits are `s norm(x) w^T + beta (norm(x) W^T + c)`, with W and c of `gaussian`, plus the
    encoder's logit bias.

    Parameters
    ----------
    kappa : float
        Images that the text is worth.
    beta : float
        Weight of the Gaussian classifier.
    kappas, betas : sequence of float
        Candidates under validation, every pair.
    context : Context or None
        Where to compute.

    Raises
    ------
    InputError
        If a kappa is not above 0, or a beta negative.
    """

    name = "lda-prior"
    summary = "zero-shot plus a Gaussian classifier whose class means start from the text"
    source = "cafe 2026, docs/research/auto.md; after GDA, arXiv 2402.04087"

    def __init__(
        self,
        kappa: float = 3.0,
        beta: float = 0.1,
        *,
        kappas: Sequence[float] = KAPPAS,
        betas: Sequence[float] = BETAS,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.default, *pairs = (
            {"kappa": check_positive("kappa", k), "beta": check_not_negative("beta", b)}
            for k, b in ((kappa, beta), *product(kappas, betas))
        )
        # From the weakest on, so that of equals the one nearest to zero-shot is taken.
        self.candidates = sorted(pairs, key=lambda pair: (-pair["kappa"], pair["beta"]))

    def solve(self, train: TrainingSet, candidates: Candidates) -> LinearClassifier:
        """See `SolvedLinear.solve`."""
        return candidate_heads(train, [(pair["kappa"], pair["beta"]) for pair in candidates])
