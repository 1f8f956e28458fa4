"""TaskRes (Yu et al., CVPR 2023, arXiv 2211.10277): a residual added to the text classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Architecture, Batch, Recipe, Run, Trained, shared_product
from cafe.engine.architecture import Tensors
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_positive
from cafe.methods.linear import TEXT_NORM, TrainedLinear

MANY_SHOTS = 8
"""From this many images per class on, the authors train twice as long."""


@dataclass(frozen=True)
class Residual(Architecture):
    """`s x norm(w + alpha r)^T` with r trained from 0; scalar "alpha" (equations 4 and 5)."""

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """No residual: zero-shot."""
        return {"r": torch.zeros_like(train.text.weights)}  # (C, D)

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        w = batch.weights + batch.scalars["alpha"] * params["r"]  # (S, M, C, D)
        return batch.scale * shared_product(batch.rows["x"], normalize(w, dim=-1)) + batch.bias


class TaskRes(TrainedLinear):
    """A task residual on the zero-shot classifier: `s norm(x) norm(w + alpha r)^T`.

    Parameters
    ----------
    alpha : float
        Weight of the residual; 0.5 is the paper's for all datasets but one (section 4.1).
    alphas : sequence of float
        Candidates under validation, from the weakest on.
    recipe : Recipe or None
        How to optimise. None is the authors' 100 epochs, 200 from 8 shots on, in batches of 256,
        on augmented views where the cache has them. They take Adam at 2e-3 on raw text features;
        on unit ones the same relative step is `2e-3 / TEXT_NORM`. AdamW stands in for Adam, whose
        decay of 5e-4 is lost beside the gradient, and there is no warm-up epoch.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If alpha is not above 0.
    """

    name = "taskres"
    summary = "a trained residual on the class weights"
    source = "Yu et al. 2023, arXiv 2211.10277"
    no_new_classes = "a residual is learnt per class, and a new class has none"
    architecture = Residual()
    published = Recipe(lr=2e-3 / TEXT_NORM, weight_decay=0.0, epochs=100, views=True)

    def __init__(
        self,
        alpha: float = 0.5,
        *,
        alphas: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 1.0),
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(recipe=recipe, context=context)
        self.scalars = {"alpha": check_positive("alpha", alpha)}
        self.alphas = tuple(check_positive("alpha", candidate) for candidate in alphas)
        self._own_recipe = recipe is None

    def recipe_for(self, train: TrainingSet) -> Recipe:
        """Twice the epochs where there are many shots, unless a recipe was given."""
        many = int(train.features.y.bincount().max()) >= MANY_SHOTS
        if self._own_recipe and many:
            return replace(self.recipe, epochs=2 * self.recipe.epochs)
        return self.recipe

    def candidates(self, run: Run) -> list[Run]:
        """One run for each weight."""
        return [replace(run, scalars={"alpha": alpha}) for alpha in self.alphas]

    def class_weights(self, trained: Trained, text: ClassText) -> Tensor:
        """`norm(w + alpha r)`. (C, D)"""
        alpha = trained.run.scalars["alpha"]
        return normalize(text.weights + alpha * trained.tensors["r"], dim=-1)
