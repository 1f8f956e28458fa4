"""Weights of a pool of heads, by how likely they make images that they were not fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cafe.features.splits import MOST_FOLDS
from cafe.features.tensors import Features, TrainingSet

HALVINGS = 2
"""How often the classes are halved where no class has two images."""

ENOUGH = 150
"""Held-out images that settle the weights of a dozen members; further folds are not judged."""

_STREAM = 3  # so that this deal differs from the draws and folds of the same seed


class Part(NamedTuple):
    """Heads are fitted on `train` and judged on `held_out`."""

    train: TrainingSet
    held_out: Features


def parts_to_judge(train: TrainingSet, seed: int) -> list[Part]:
    """Deal the shots into parts, so that every image is held out equally often.

    Images are dealt round class after class, in one go: with K images in every class each of
    min(K, 4) folds gets its share of every class, and lone images of small classes spread over the
    folds, where dealing every class anew would put all of them into the first. With one image per
    class there is nothing to deal within a class, so *classes* are held out: the shots of half of
    them against the other half's, both ways, for two random halvings.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    seed : int
        Seed of the deal.

    Returns
    -------
    list of Part
        As many as hold `ENOUGH` images together; none where there are fewer than two images.
    """
    features = train.features
    y = features.y.cpu().numpy()
    largest = int(np.bincount(y).max()) if len(y) else 0
    rounds, folds = (HALVINGS, 2) if largest < 2 else (1, min(largest, MOST_FOLDS))
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, _STREAM])))
    parts: list[Part] = []
    for mask in chain.from_iterable(_deal(y, folds, random) for _ in range(rounds)):
        if sum(len(part.held_out) for part in parts) >= ENOUGH:
            break
        if mask.any() and not mask.all():
            out = torch.from_numpy(mask).to(features.y.device)
            parts.append(Part(TrainingSet(features[~out], train.text), features[out]))
    return parts


def _deal(y: np.ndarray, folds: int, random: np.random.RandomState) -> Iterator[np.ndarray]:
    """The held-out rows of each fold as masks. (N,)"""
    shuffled = random.permutation(len(y))
    rank = random.permutation(int(y.max(initial=0)) + 1)  # classes come in random order
    order = shuffled[np.argsort(rank[y[shuffled]], kind="stable")]
    fold_of = np.empty(len(y), dtype=np.int64)
    fold_of[order] = np.arange(len(y)) % folds
    return (fold_of == fold for fold in range(folds))


def held_out_labels(parts: Sequence[Part], train: TrainingSet) -> Tensor:
    """Class indices of the held-out images, part by part. (J,)"""
    return torch.cat([train.features.y[:0], *(part.held_out.y for part in parts)])


def log_likelihood(logits: Tensor, part: Part) -> Tensor:
    """Log-probability of each held-out image's own class.

    An image whose class had no image in training is judged among such classes only: heads are
    pulled towards what they were fitted on, so against the fitted classes it would say how far a
    head has gone, and not whether it went the right way.

    Parameters
    ----------
    logits : Tensor
        Of heads that were fitted on `part.train`. (..., n, C)
    part : Part
        Where the images are from.

    Returns
    -------
    Tensor
        Natural logarithms, float64. (..., n)
    """
    y, classes = part.held_out.y, logits.shape[-1]
    fitted = torch.bincount(part.train.features.y, minlength=classes) > 0  # (C,)
    unseen = ~fitted[y]  # (n,)
    hidden = unseen[:, None] & fitted  # (n, C)
    allowed = logits.double().masked_fill(hidden, -torch.inf)
    own = allowed.gather(-1, y[:, None].expand(*logits.shape[:-1], 1)).squeeze(-1)
    return own - allowed.logsumexp(dim=-1)


def stack(evidence: Tensor, y: Tensor, prior: Tensor, rounds: int = 500) -> Tensor:
    """Weights of the mixture that makes the held-out images likeliest, drawn towards a prior.

    Maximises `sum_n v_n log sum_m a_m p_m(y_n) + sum_m prior_m log a_m` over weights `a` that add
    up to 1: stacking of predictive distributions (Yao et al. 2018, Bayesian Analysis 13(3)), with
    as many imaginary images as the prior says for which a member alone is likely. Images of one
    class share a vote: `v_n` goes as one over their number, and adds up to the effective number of
    images, so that classes with many shots do not decide for those with few. The problem is
    concave; expectation maximisation never leaves the simplex and has no step size.

    Parameters
    ----------
    evidence : Tensor
        Log-likelihoods of J held-out images under M members. (M, J)
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
    likelihood = (evidence - evidence.max(dim=0).values).exp()  # (M, J)
    for _ in range(rounds):
        shares = weights[:, None] * likelihood
        counts = (shares / shares.sum(dim=0)) @ votes + prior  # (M,)
        before, weights = weights, counts / counts.sum()
        if float((weights - before).abs().max()) < 1e-9:
            break
    return weights
