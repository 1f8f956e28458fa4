"""Weights of an ensemble's members, by how likely they make images they were not fitted on."""

from __future__ import annotations

import torch
from torch import Tensor

from cafe.devices import torch_threads
from cafe.features.splits import draw_folds, first_folds
from cafe.features.tensors import TrainingSet
from cafe.methods.validation import Fold, make_folds

ENOUGH = 150
"""Held-out images that settle the weights of a dozen members; further folds are not fitted."""


@torch_threads(1)  # small steps: two threads would wait for each other in each
def weighing_folds(train: TrainingSet, seed: int) -> list[Fold]:
    """The folds that members are judged on, whatever the validation protocol.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    seed : int
        Seed of the folds.

    Returns
    -------
    list of Fold
        As many of those of `draw_folds` as hold `ENOUGH` images together.
    """
    folds = draw_folds(train.features.y, seed, groups=train.features.groups)
    return make_folds(train, first_folds(folds, ENOUGH))


def log_likelihood(logits: Tensor, y: Tensor) -> Tensor:
    """Log-probability of each image's own class.

    Parameters
    ----------
    logits : Tensor
        (..., n, C)
    y : Tensor
        Class indices. (n,)

    Returns
    -------
    Tensor
        Natural logarithms, float64. (..., n)
    """
    labels = y[:, None].expand(*logits.shape[:-1], 1)  # (..., n, 1)
    return logits.double().log_softmax(dim=-1).gather(-1, labels).squeeze(-1)


def stack(log_likelihoods: Tensor, y: Tensor, prior: Tensor, rounds: int = 500) -> Tensor:
    """Weights of the mixture that makes the held-out images likeliest, drawn towards a prior.

    Maximises `sum_n v_n log sum_m a_m p_m(y_n) + sum_m prior_m log a_m` over weights `a` that add
    up to 1: stacking of predictive distributions (Yao et al. 2018, Bayesian Analysis 13(3)), with
    as many imaginary images as the prior says for which a member alone is likely. Images of one
    class share a vote: `v_n` goes as one over their number, and adds up to the effective number of
    images, so that classes with many shots do not decide for those with few. The problem is
    concave; expectation maximisation never leaves the simplex and has no step size.

    Parameters
    ----------
    log_likelihoods : Tensor
        Of J held-out images under M members. (M, J)
    y : Tensor
        Class indices of these images. (J,)
    prior : Tensor
        Imaginary images of each member, above 0. (M,)
    rounds : int
        Steps at most.

    Returns
    -------
    Tensor
        Weights, float64. (M,)
    """
    prior = prior.double()
    weights = prior / prior.sum()
    if not len(y):
        return weights
    votes = 1 / torch.bincount(y)[y].double()  # (J,)
    votes = votes * votes.sum() / votes.square().sum()
    likelihood = (log_likelihoods - log_likelihoods.max(dim=0).values).exp()  # (M, J)
    for _ in range(rounds):
        counts = weights * (likelihood @ (votes / (weights @ likelihood))) + prior  # (M,)
        before, weights = weights, counts / counts.sum()
        if float((weights - before).abs().max()) < 1e-9:
            break
    return weights
