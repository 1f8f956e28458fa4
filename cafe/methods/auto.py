"""cafe's own ensemble: adapters of several ratios and Gaussian classifiers, weighted."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, cast

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.features.pool import Pool
from cafe.features.tensors import TrainingSet
from cafe.methods.base import BatchedMethod, Context, Job
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.methods.clip_adapter.ratio_ensemble import (
    RATIOS,
    ZERO_SHOT_IMAGES,
    ratio_candidates,
)
from cafe.methods.ensemble import Candidates, EnsembleHead, Member, make_ensemble
from cafe.methods.head import Head
from cafe.methods.lda_prior import BETAS, KAPPAS, candidate_heads
from cafe.methods.linear import LinearClassifier
from cafe.methods.map_probe import PENALTIES, fit_probes
from cafe.methods.stacking import log_likelihood, weighing_folds
from cafe.methods.transductive.class_balance import ClassBalance
from cafe.methods.transductive.lda_prior_pooled import LdaPriorPooled, add_pooled
from cafe.methods.validation import Fold

PAIRS = tuple(product(KAPPAS, BETAS))

SHORT = Recipe(lr=5e-3, epochs=15)
"""Of the adapters, but where `DOUBT` asks for more: in the ensemble as good as `Recipe()` with a
third of its steps (`docs/research/auto.md`)."""

DOUBT = 0.1
"""Share of a guesser's loss, `log C`, from which `Recipe()` trains the adapters: where the best of
zero-shot and the Gaussians leaves so much on held-out shots, adapters may have much to learn."""

PRIOR_IMAGES = ZERO_SHOT_IMAGES + len(RATIOS)
"""Imaginary images that all Gaussian classifiers share: as many as zero-shot and the adapters have,
so that the two kinds weigh the same before anything is held out."""


class Auto(BatchedMethod):
    """An ensemble of zero-shot, CLIP-Adapter and `lda-prior`, both at several settings.

    Without text of the classes it is one of `lda` and `map-probe`, both at several settings.

    Adapters turn features, and are at their best with one to four shots; Gaussian classifiers know
    the covariance of the task, and are at their best with many. Nothing is chosen: the members'
    probabilities are averaged with weights that make held-out shots likeliest; see
    `cafe.methods.stacking`. It looks at no label beyond the shots, whatever the protocol.

    Parameters
    ----------
    bottleneck : str or int
        H of the adapters, as in `ClipAdapter`.
    recipe : Recipe or None
        How to optimise the adapters; None is `SHORT` or, where the other members leave much to
        learn, `Recipe()`.
    pool : Pool, array or None
        Raw features without labels: half of the answer is then that of `lda-prior-pooled`, which
        starts from the other half. (N, D)
    class_balance : mapping of str to float, "uniform" or None
        How many pool images are of each class, where that is known; it is never assumed.
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
    works_without_text = True

    def __init__(
        self,
        bottleneck: str | int = "D/4",
        *,
        recipe: Recipe | None = None,
        pool: Pool | ArrayLike | None = None,
        class_balance: ClassBalance | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        if class_balance is not None and pool is None:
            raise InputError("a class balance is that of a pool, and there is none; give pool=.")
        self._pooled = None
        if pool is not None:
            more: dict[str, Any] = {"pool": pool, "class_balance": class_balance}
            self._pooled = LdaPriorPooled(context=context, **more)
        self.recipe, self._is_asked = recipe or Recipe(), recipe is not None
        self._adapter = ClipAdapter(bottleneck=bottleneck, recipe=self.recipe, context=context)

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one ensemble per job, the adapters of all jobs side by side."""
        heads: list[Head] = [make_ensemble(*each) for each in self.candidates(jobs)]
        if self._pooled is None:
            return heads
        return [self.fit_beside(head, job.train) for head, job in zip(heads, jobs, strict=True)]

    def fit_beside(self, head: Head, train: TrainingSet) -> Head:
        """An ensemble that was fitted without the pool, and the half that learns from it."""
        if self._pooled is None:
            return head
        return add_pooled(cast("EnsembleHead", head), self._pooled.fit_beside(head, train))

    def fit_columns(
        self, heads: Sequence[EnsembleHead], trains: Sequence[TrainingSet]
    ) -> list[EnsembleHead]:
        """Heads of several encoders, each with the half that learns from its part of the pool."""
        if self._pooled is None:
            return list(heads)
        widths, fitted = [train.features.x.shape[1] for train in trains], []
        columns = torch.split(self._pooled.pool.x, widths, dim=1)
        for head, train, x in zip(heads, trains, columns, strict=True):
            own = copy.copy(self._pooled)
            own.pool = Pool(x, own.pool.learning)
            fitted.append(add_pooled(head, own.fit_beside(head, train)))
        return fitted

    def candidates(self, jobs: Sequence[Job]) -> list[Candidates]:
        """The members of one ensemble per job, not weighed yet."""
        if all(job.train.text.has_text for job in jobs):
            beside = gaussian_members, self._recipe_beside
            return ratio_candidates(self._adapter, jobs, self.name, *beside)
        return [self._without_text(job) for job in jobs]

    def _recipe_beside(self, others: Sequence[Member], classes: int) -> Recipe:
        """The recipe that was asked for, or the one that the other members call for."""
        if self._is_asked:
            return self.recipe
        losses = [-torch.cat(list(m.log_likelihoods)).mean() for m in others if m.log_likelihoods]
        return Recipe() if losses and min(losses) > DOUBT * math.log(classes) else SHORT

    def _without_text(self, job: Job) -> Candidates:
        train, folds = job.train, weighing_folds(job.train, job.seed)
        members = [*gaussian_members(train, folds), *probe_members(train, folds)]
        return Candidates(members, folds, train, {"method": self.name})


def gaussian_members(train: TrainingSet, folds: Sequence[Fold]) -> list[Member]:
    """`lda-prior` at every pair of its candidates, judged on every fold.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    folds : sequence of Fold
        Where the members are judged.

    Returns
    -------
    list of Member
    """
    name = "lda-prior" if train.text.has_text else "lda"
    about = [{"name": name, "kappa": kappa, "beta": beta} for kappa, beta in PAIRS]
    return _linear_members(lambda part: candidate_heads(part, PAIRS), about, train, folds)


def probe_members(train: TrainingSet, folds: Sequence[Fold]) -> list[Member]:
    """`map-probe` at each of its penalties; arguments as of `gaussian_members`."""
    about = [{"name": "map-probe", "penalty": penalty} for penalty in PENALTIES]
    return _linear_members(lambda part: fit_probes(part, PENALTIES), about, train, folds)


def _linear_members(
    solve: Callable[[TrainingSet], LinearClassifier],
    about: Sequence[dict[str, Any]],
    train: TrainingSet,
    folds: Sequence[Fold],
) -> list[Member]:
    heads = solve(train)
    judged = [_judge(solve(fold.train), fold) for fold in folds]
    return [
        Member(
            {"kind": "linear", **params},
            {"linear": heads.weights[i], "intercept": heads.intercept[i]},
            [row[i] for row in judged],
            PRIOR_IMAGES / len(about),
        )
        for i, params in enumerate(about)
    ]


def _judge(heads: LinearClassifier, fold: Fold) -> Tensor:
    """Log-likelihood of held-out images, one member at a time: (G, n, C) may not fit. (G, n)"""
    x = fold.held_out.unit
    logits = (x @ w.mT + c for w, c in zip(heads.weights, heads.intercept, strict=True))
    return torch.stack([log_likelihood(z, fold.held_out.y) for z in logits])
