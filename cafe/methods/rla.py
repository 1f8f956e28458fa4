"""Regularised linear adapter (Fahes et al. 2024, arXiv 2410.05270): a matrix held near identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Architecture, Batch, Recipe, Run, shared_product
from cafe.engine.architecture import Tensors
from cafe.features.tensors import TrainingSet
from cafe.methods.base import BatchedMethod, Context, Job, training_params
from cafe.methods.checks import check_positive
from cafe.methods.head import Head, scale_params
from cafe.methods.validation import train_best

PENALTIES = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Those that the authors' code searches, the strongest first, without their 0."""


@dataclass(frozen=True)
class LinearAdapter(Architecture):
    """`s norm(x W^T) w^T` plus the penalty `penalty |W - I|^2`; scalar "penalty"."""

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """The identity: zero-shot."""
        return {"adapter": torch.eye(train.text.weights.shape[1])}  # W, (D, D)

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        x = normalize(shared_product(batch.rows["x"], params["adapter"]), dim=-1)  # (S, M, B, D)
        return batch.scale * torch.matmul(x, batch.weights.mT) + batch.bias

    def penalty(self, params: Tensors, batch: Batch) -> Tensor:
        """The pull back to the identity. (S, M)"""
        adapter = params["adapter"]  # (S, M, D, D)
        identity = torch.eye(adapter.shape[-1], device=adapter.device)
        distance = (adapter - identity).square().sum(dim=(-2, -1))  # (S, M)
        return batch.scalars["penalty"].flatten(1) * distance

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`."""
        return 4 * parameters + 4 * rows * width + 4 * rows * classes


@dataclass(frozen=True, eq=False)
class LinearAdapterHead(Head):
    """`s norm(norm(x) W^T) w^T`, plus the encoder's logit bias."""

    weights: Tensor  # zero-shot w, (C, D)
    adapter: Tensor  # W, (D, D)

    cosine_logits = True

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        return self.scale_cosines(self.adapted(x) @ self.weights.mT)

    def adapted(self, x: Tensor) -> Tensor:
        """See `Head.adapted`. (N, D)"""
        return normalize(normalize(x, dim=-1) @ self.adapter.mT, dim=-1)


class Rla(BatchedMethod):
    """ProLIP's regularised linear adapter, `s norm(x W^T) w^T`: nothing need be chosen.

    W starts at the identity. The loss is the mean cross-entropy plus `penalty |W - I|^2`.

    Parameters
    ----------
    penalty : float or None
        Weight of the distance to the identity. None is the paper's 1/K for K images in the largest
        class.
    penalties : sequence of float
        Candidates under validation, the strongest first.
    recipe : Recipe or None
        How to optimise. None is the authors' 300 steps on all shots at once, on augmented views
        where the cache has them. The paper finds learning rates from 1e-5 to 1e-2 much the same
        under this penalty. AdamW without decay is Adam; the authors' epsilon of 1e-4, for
        half precision, is the usual 1e-8 here.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If a penalty is not above 0.
    """

    name = "rla"
    summary = "a matrix on the image features, held near the identity by 1/K"
    source = "Fahes et al. 2024, arXiv 2410.05270"
    head: ClassVar[type[Head]] = LinearAdapterHead
    no_new_classes = ""
    published = Recipe(lr=1e-3, weight_decay=0.0, epochs=300, batch_size=1 << 14, views=True)

    def __init__(
        self,
        penalty: float | None = None,
        *,
        penalties: Sequence[float] = PENALTIES,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.strength = None if penalty is None else check_positive("penalty", penalty)
        self.penalties = tuple(check_positive("penalty", value) for value in penalties)
        self.recipe = recipe or self.published

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job, all candidates of all jobs side by side."""
        defaults = [self._run(job, i, self.penalty_for(job.train)) for i, job in enumerate(jobs)]
        candidates = [[self._run(job, i, p) for p in self.penalties] for i, job in enumerate(jobs)]
        heads: list[Head] = []
        for done, job in zip(
            train_best(defaults, candidates, jobs, self.context), jobs, strict=True
        ):
            text = job.train.text
            params = {**done.run.scalars, **training_params(done), **scale_params(text)}
            tensors = self._tensors(job.train, done.tensors)
            heads.append(self.make_head({"weights": text.weights, **tensors}, params))
        return heads

    def penalty_for(self, train: TrainingSet) -> float:
        """The penalty where nothing is validated."""
        return self.strength or 1 / int(train.features.y.bincount().max())

    def _tensors(self, train: TrainingSet, trained: Tensors) -> dict[str, Tensor]:
        """The head's tensors beside the class weights."""
        return dict(trained)

    def _run(self, job: Job, data: int, penalty: float) -> Run:
        return Run(LinearAdapter(), data, job.seed, self.recipe, {"penalty": penalty})
