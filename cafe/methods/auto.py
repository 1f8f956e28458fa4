"""cafe's own mix: adapters of several ratios and Gaussian classifiers, by held-out likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from cafe.engine import Recipe
from cafe.features.tensors import TrainingSet
from cafe.methods.base import BatchedMethod, Context, Head, Validation
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.methods.clip_adapter.ratio_ensemble import RATIOS, ratio_members
from cafe.methods.ensemble import EnsembleHead, Member, make_ensemble
from cafe.methods.lda_prior import BETAS, KAPPAS, candidate_heads
from cafe.methods.stacking import Part, held_out_labels, log_likelihood, parts_to_judge

PRIOR_IMAGES = 1.0 + len(RATIOS)
"""Imaginary images that all Gaussian classifiers share: as many as zero-shot and the adapters have,
so that the two kinds weigh the same before anything is held out."""


class Auto(BatchedMethod):
    """Pool zero-shot, CLIP-Adapter at several ratios and `lda-prior` at several settings.

    Adapters turn features, and are at their best with one to four shots; Gaussian classifiers know
    the covariance of the task, and are at their best with many. Nothing is chosen: the members'
    probabilities are averaged with weights that make held-out shots likeliest; see
    `cafe.methods.stacking`. No label beyond the shots is looked at, whatever the protocol.

    Parameters
    ----------
    bottleneck : str or int
        H of the adapters, as in `ClipAdapter`.
    recipe : Recipe or None
        How to optimise the adapters; None is `Recipe()`.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If the bottleneck cannot be meant.
    """

    name = "auto"
    summary = "cafe's own mix: adapters of several ratios and lda-prior, weighted by held-out shots"
    source = "cafe 2026, docs/research/auto.md"
    head = EnsembleHead

    def __init__(
        self,
        bottleneck: str | int = "D/4",
        *,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.recipe = recipe or Recipe()
        self._adapter = ClipAdapter(bottleneck=bottleneck, recipe=self.recipe, context=context)

    def fit_many(
        self,
        trains: Sequence[TrainingSet],
        *,
        validations: Sequence[Validation],
        seeds: Sequence[int],
    ) -> list[Head]:
        """Fit one pool per training set, the adapters of all jobs side by side."""
        parts = [parts_to_judge(train, seed) for train, seed in zip(trains, seeds, strict=True)]
        found = ratio_members(self._adapter, trains, parts, seeds)
        heads: list[Head] = []
        for (members, params), part, train in zip(found, parts, trains, strict=True):
            members = members + gaussian_members(train, part)
            labels = held_out_labels(part, train)
            told = {**params, "method": self.name}
            heads.append(make_ensemble(members, labels, train.text, told))
        return heads


def gaussian_members(train: TrainingSet, parts: Sequence[Part]) -> list[Member]:
    """`lda-prior` at every pair of its candidates, judged on every part.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    parts : sequence of Part
        Where the members are judged.

    Returns
    -------
    list of Member
    """
    nothing = train.features.x.new_zeros(len(KAPPAS) * len(BETAS), 0, dtype=torch.float64)
    evidence = torch.cat([nothing, *(_judge(part) for part in parts)], dim=-1)  # (G, J)
    heads = candidate_heads(train, KAPPAS, BETAS)
    prior = PRIOR_IMAGES / (len(KAPPAS) * len(BETAS))
    return [
        Member(
            {"kind": "linear", "name": "lda-prior", "kappa": kappa, "beta": beta},
            {"linear": weights, "intercept": intercept},
            seen,
            prior,
        )
        for (kappa, beta), weights, intercept, seen in zip(
            product(KAPPAS, BETAS), heads.weights, heads.intercept, evidence, strict=True
        )
    ]


def _judge(part: Part) -> Tensor:
    """Log-likelihood of held-out images, one member at a time: (G, n, C) may not fit. (G, n)"""
    heads, x = candidate_heads(part.train, KAPPAS, BETAS), part.held_out.unit
    logits = (x @ w.mT + c for w, c in zip(heads.weights, heads.intercept, strict=True))
    return torch.stack([log_likelihood(one, part) for one in logits])
