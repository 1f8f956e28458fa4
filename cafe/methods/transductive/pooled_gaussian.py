"""EM of the text-prior Gaussian classifier over labelled shots and a pool without labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.pool import Pool
from cafe.features.tensors import TrainingSet
from cafe.methods.lda_prior import Moments, beside_zero_shot, gaussian, measure
from cafe.methods.linear import LinearClassifier, LinearHead
from cafe.methods.transductive.class_balance import NUMBERS, Answers, balancing

ROUNDS = 10


def fit_pooled(
    train: TrainingSet,
    pool: Pool,
    answers: Answers,
    *,
    kappa: float,
    beta: float,
    weight: float,
    rounds: int = ROUNDS,
    shares: Tensor | None = None,
) -> LinearClassifier:
    """Zero-shot plus a Gaussian classifier of shots and softly labelled pool images.

    A round computes `z = softmax(answer)` of the pool, and from it the classifier of `lda-prior`
    with `mu_c = (kappa p_c + sum of shots + v sum_i z_ic x_i) / (kappa + n_c + v sum_i z_ic)` and
    one covariance over the shots and the weighted pool. Its answer is that of the next round. No
    class balance is assumed.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    pool : Pool
    answers : callable
        Whose answers on the pool the first round takes.
    kappa, beta : float
        As of `LdaPrior`.
    weight : float
        `v`, what a pool image counts for beside a shot.
    rounds : int
        At least 1.
    shares : Tensor, optional
        The share of each class in the pool, where it is known; see `balancing`. (C,)

    Returns
    -------
    LinearClassifier
        In float32.
    """
    shots = measure(train.features, train.text.weights)
    scatter = _scatter(train, pool, shots.centre, weight)
    shift = 0.0 if shares is None else balancing(answers, pool, shares)
    for _ in range(rounds):
        counts, sums = _sums(answers, pool, shots, shift)
        moments = _pooled(shots, weight * counts, weight * sums, scatter)
        fitted = beside_zero_shot(train.text, gaussian(moments, kappa), beta)
        answers = LinearHead(*fitted).logits
        shift = 0.0 if shares is None else balancing(answers, pool, shares)
    return fitted._replace(intercept=fitted.intercept + shift)


def _scatter(train: TrainingSet, pool: Pool, centre: Tensor, weight: float) -> Tensor:
    """Scatter about the centre of the shots, and of the pool by its weight. (D, D)"""
    shots = train.features.unit.double() - centre
    total = shots.mT @ shots
    for x in torch.split(pool.x, max(1, NUMBERS // len(centre))):
        centred = normalize(x.float(), dim=-1).double() - centre  # (n, D)
        total += weight * (centred.mT @ centred)
    return total


def _sums(
    answers: Answers, pool: Pool, shots: Moments, shift: Tensor | float
) -> tuple[Tensor, Tensor]:
    """How much of the pool is each class's (C,), and the sum of it less the centre (C, D)."""
    counts, sums = torch.zeros_like(shots.counts), torch.zeros_like(shots.means)
    for x in torch.split(pool.x, max(1, NUMBERS // len(counts))):
        z = (answers(x.float()) + shift).softmax(dim=-1)  # (n, C)
        counts += z.double().sum(dim=0)
        sums += (z.mT @ (normalize(x.float(), dim=-1) - shots.centre.float())).double()
    return counts, sums


def _pooled(shots: Moments, counts: Tensor, sums: Tensor, scatter: Tensor) -> Moments:
    """Moments of the shots and of the weighted pool; `scatter` is about the centre."""
    n = shots.counts + counts  # (C,)
    means = (shots.counts[:, None] * shots.means + sums) / n.clamp_min(1e-12)[:, None]
    within = scatter - (means * n[:, None]).mT @ means
    return shots._replace(counts=n, means=means, within=within)
