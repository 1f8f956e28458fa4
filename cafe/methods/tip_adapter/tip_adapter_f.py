"""Tip-Adapter-F (Zhang et al., ECCV 2022, arXiv 2111.03930): Tip-Adapter with trained keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.engine import Architecture, Batch, Recipe, Run, Workspace, shared_product
from cafe.engine.architecture import Tensors
from cafe.features.tensors import TrainingSet
from cafe.methods.base import BatchedMethod, Context, Job, training_params
from cafe.methods.head import Head
from cafe.methods.tip_adapter.search import CandidateGrid
from cafe.methods.tip_adapter.tip_adapter import TipAdapter, cache_keys, cache_values
from cafe.methods.validation import folds_for, train_with_folds

EPSILON = 1e-4
"""AdamW's epsilon in the authors' code."""

ENGINE_EPSILON = 1e-8
"""The engine's, which is torch's default."""


@dataclass(frozen=True)
class Cache(Architecture):
    """`s x w^T + alpha exp(-beta (1 - x K^T)) V` with K trained; scalars "alpha" and "beta".

    Attributes
    ----------
    balance : bool
        See `cache_values`.
    """

    balance: bool = False

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """The keys of Tip-Adapter."""
        return {"keys": cache_keys(train.features).clone()}  # (M, D)

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        """V, the values of the keys."""
        labels, classes = train.features.y, len(train.text.names)
        return {"values": cache_values(labels, classes, balance=self.balance)}  # (M, C)

    def constant_numbers(self, train: TrainingSet) -> int:
        """See `Architecture.constant_numbers`: one-hot in 64-bit integers, and twice as floats."""
        return 4 * len(train.features) * len(train.text.names)

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        x = batch.rows["x"]  # (S, B, D)
        zero_shot = batch.scale * x @ batch.weights.mT + batch.bias  # (S, B, C)
        cosines = shared_product(x, params["keys"])  # (S, M, B, K)
        affinity = (-batch.scalars["beta"] * (1 - cosines)).exp()
        cached = torch.matmul(affinity, batch.constants["values"])  # (S, M, B, C)
        return zero_shot[:, None] + batch.scalars["alpha"] * cached

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Architecture.activations`: affinities with their gradients, and logits."""
        return 4 * parameters + 4 * rows * (parameters // width) + 6 * rows * classes

    def gradients(self, params: Tensors, batch: Batch, grads: Tensors, work: Workspace) -> None:
        """The default's, scaled so that the engine's epsilon acts as the authors'.

        AdamW's step is `m / (sqrt(v) + eps)`. With gradients times k, both m and sqrt(v) are times
        k, and the step is `m / (sqrt(v) + eps / k)`.
        """
        super().gradients(params, batch, grads, work)
        for grad in grads.values():
            grad.mul_(ENGINE_EPSILON / EPSILON)


class TipAdapterF(BatchedMethod, TipAdapter):
    """Tip-Adapter with trained keys.

    The keys are trained under the initial alpha and beta, and the search comes after, as in the
    authors' code; but here it is the last epoch that counts, not the one with the best test
    accuracy, and the initial pair is the paper's, where their configurations start from a beta of 1
    and an alpha of 1.17 to 5. A temperature that is fitted inside the shots is that of keys which
    were trained under the chosen pair.

    Parameters
    ----------
    alpha, beta, balance, grid
        As for `TipAdapter`; alpha and beta while the keys are trained and where nothing is
        validated.
    recipe : Recipe or None
        How to optimise; None is the authors': AdamW at 1e-3 with a decay of 1e-2 (torch's), cosine,
        batch 256, 20 epochs, on augmented views where the cache has them.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If alpha or beta is negative.
    """

    name = "tip-adapter-f"
    summary = "tip-adapter with trained keys"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 5.5,
        *,
        balance: bool = False,
        grid: CandidateGrid | None = None,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(alpha, beta, balance=balance, grid=grid, context=context)
        self.recipe = recipe or Recipe(epochs=20, views=True)

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Train all jobs and all their folds side by side, then search for each job."""
        scalars = {"alpha": self.alpha, "beta": self.beta}

        def runs_for(_: TrainingSet, data: int, seed: int) -> list[Run]:
            return [Run(Cache(self.balance), data, seed, self.recipe, scalars)]

        fitted = train_with_folds(runs_for, jobs, list(map(folds_for, jobs)), self.context)
        heads: list[Head] = []
        for job, ((trained,), on_folds) in zip(jobs, fitted, strict=True):
            judged = [(fold, run.tensors["keys"]) for fold, (run,) in on_folds]
            how = training_params(trained)
            heads.append(self._head(job.train, trained.tensors["keys"], judged, **how))
        return heads
