"""EM of `lda-prior`'s Gaussians on shots and a pool without labels, in blocks of the pool."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.pool import Pool
from cafe.features.tensors import TrainingSet
from cafe.methods.lda_prior import Moments, beside_zero_shot, gaussian, measure
from cafe.methods.linear import LinearClassifier, LinearHead
from cafe.methods.transductive.class_balance import balancing
from cafe.methods.transductive.soft_labels import Answers, blocks, soft_labels

ROUNDS = 10


class SoftSums(NamedTuple):
    """What a round needs of the soft labels; float64."""

    counts: Tensor  # how much of the pool is each class's, (C,)
    sums: Tensor  # the sum of that, less the centre, (C, D)


class PooledGaussian:
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
    kappa, beta : float
        As of `LdaPrior`.
    """

    def __init__(self, train: TrainingSet, pool: Pool, kappa: float, beta: float) -> None:
        self.train, self.pool, self.kappa, self.beta = train, pool, kappa, beta
        self.shots = measure(train.features, train.text.weights)
        self._blocks = blocks(len(pool), max(self.shots.means.shape))

    def take(self, answers: Answers, shift: Tensor | float = 0.0) -> SoftSums:
        """Sums of the soft labels that answers give, `shift` added to the logits."""
        counts, sums = torch.zeros_like(self.shots.counts), torch.zeros_like(self.shots.means)
        centre = self.shots.centre.float()
        for rows in self._blocks:
            x = self.pool.x[rows].float()
            z = soft_labels(answers(x) + shift)  # (n, C)
            counts += z.double().sum(dim=0)
            sums += (z.mT @ (normalize(x, dim=-1) - centre)).double()
        return SoftSums(counts, sums)

    def run(
        self, answers: Answers, seen: SoftSums, weight: float, shares: Tensor | None = None
    ) -> LinearClassifier:
        """Ten rounds.

        Parameters
        ----------
        answers : callable
            Whose answers on the pool the first round takes.
        seen : SoftSums
            What `take` gives of them.
        weight : float
            `v`, what a pool image counts for beside a shot; of 0 one round is enough.
        shares : Tensor, optional
            The share of each class in the pool, where it is known; see `balancing`. (C,)

        Returns
        -------
        LinearClassifier
            In float32.
        """
        if shares is not None:
            seen = self.take(answers, balancing(answers, self.pool, shares))
        scatter = self._scatter(weight)
        shift: Tensor | float = 0.0
        for left in reversed(range(ROUNDS if weight else 1)):
            moments = self._pooled(weight * seen.counts, weight * seen.sums, scatter)
            fitted = beside_zero_shot(self.train.text, gaussian(moments, self.kappa), self.beta)
            answers = LinearHead(*fitted).logits
            shift = 0.0 if shares is None else balancing(answers, self.pool, shares)
            seen = self.take(answers, shift) if left else seen
        return fitted._replace(intercept=fitted.intercept + shift)

    def _scatter(self, weight: float) -> Tensor:
        """Scatter about the centre of the shots, and of the pool by its weight. (D, D)"""
        centre = self.shots.centre
        shots = self.train.features.unit.double() - centre
        total = shots.mT @ shots
        for rows in self._blocks:
            centred = normalize(self.pool.x[rows].float(), dim=-1).double() - centre  # (n, D)
            total += weight * (centred.mT @ centred)
        return total

    def _pooled(self, counts: Tensor, sums: Tensor, scatter: Tensor) -> Moments:
        """Moments of the shots and of the weighted pool; `scatter` is about the centre."""
        n = self.shots.counts + counts  # (C,)
        means = self.shots.counts[:, None] * self.shots.means + sums
        means = means / n.clamp_min(1e-12)[:, None]
        within = scatter - (means * n[:, None]).mT @ means
        return self.shots._replace(counts=n, means=means, within=within)
