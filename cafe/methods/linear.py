"""Linear classifiers on unit features: their heads, and what the methods that train them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Architecture, Batch, Recipe, Run, Trained, shared_product
from cafe.engine.architecture import Tensors
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import (
    NO_VALIDATION,
    BatchedMethod,
    Context,
    Job,
    Method,
    Validation,
    training_params,
)
from cafe.methods.head import Head
from cafe.methods.validation import Fold, choose, folds_for, train_best

TEXT_NORM = 10.0
"""Order of magnitude of the norm of OpenAI CLIP's raw text features.

Some authors train raw text features where cafe trains unit ones, so that a result does not depend
on whether a cache was normalised. What they publish for raw ones is carried over by this number: a
step size divided by it, a weight of squared distances multiplied by its square.
"""


@dataclass(frozen=True, eq=False)
class LinearHead(Head):
    """`norm(x) W^T + c`; the encoder's logit scale and bias are inside `W` and `c`."""

    weights: Tensor  # W, (C, D)
    intercept: Tensor  # c, (C,)

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        return normalize(x, dim=-1) @ self.weights.mT + self.intercept


def scaled_weights(w: Tensor, text: ClassText) -> dict[str, Tensor]:
    """The tensors of a linear head whose logits are the encoder's own of class weights (C, D)."""
    return {
        "weights": text.logit_scale * w,
        "intercept": w.new_full((len(w),), text.logit_bias),
    }


class CosineHead(LinearHead):
    """A linear head whose rows of `W` all have one length, the logit scale."""

    cosine_logits = True


class SigmoidHead(LinearHead):
    """A linear head each of whose classes was fitted against the rest."""

    own_scores = True


Candidates = Sequence[Mapping[str, float]]
"""Hyper-parameters by name, of each candidate."""


class LinearClassifier(NamedTuple):
    """`x W^T + c` on unit features; one classifier, or G of them side by side."""

    weights: Tensor  # (C, D) or (G, C, D)
    intercept: Tensor  # (C,) or (G, C)


class SolvedLinear(Method):
    """A method whose linear heads are computed, those of all candidates side by side.

    Attributes
    ----------
    default : mapping of str to float
        Hyper-parameters where nothing is validated.
    candidates : sequence of mapping of str to float
        Those to choose among under validation, from the most conservative on.
    """

    head = LinearHead
    default: Mapping[str, float]
    candidates: Candidates

    @abstractmethod
    def solve(self, train: TrainingSet, candidates: Candidates) -> LinearClassifier:
        """One classifier for each of G candidates."""

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Choose and solve; the candidates are judged by one product a fold."""
        folds = folds_for(Job(train, validation, seed))
        params = choose(self.candidates, self.default, folds, map(self._judge, folds))
        weights, intercept = self.solve(train, [params])
        tensors = {"weights": weights[0].float(), "intercept": intercept[0].float()}
        return self.make_head(tensors, params)

    def _judge(self, fold: Fold) -> Tensor:
        """Logits of a fold's held-out images under every candidate. (G, n, C)"""
        weights, intercept = self.solve(fold.train, self.candidates)
        return fold.held_out.unit.to(weights) @ weights.mT + intercept[:, None]


class TrainedLinear(BatchedMethod):
    """A method whose fitted head is `s norm(x) W^T`, W trained by the engine.

    Parameters
    ----------
    recipe : Recipe or None
        How to optimise; None is the method's own, `published`.
    context : Context or None
        Where and how to compute.

    Attributes
    ----------
    architecture : Architecture
        What the engine trains.
    scalars : mapping of str to float
        Its scalars where nothing is validated.
    in_force : mapping
        What the head's params say beside the run's scalars and recipe.
    """

    head: ClassVar[type[Head]] = CosineHead
    no_new_classes = "a row of the head is learnt per class"
    published: ClassVar[Recipe]
    architecture: Architecture

    def __init__(self, *, recipe: Recipe | None = None, context: Context | None = None) -> None:
        super().__init__(context)
        self.recipe = recipe or self.published
        self.scalars: Mapping[str, float] = {}
        self.in_force: Mapping[str, Any] = {}

    def class_weights(self, trained: Trained, text: ClassText) -> Tensor:
        """W of a trained run, before the logit scale: here of unit rows. (C, D)"""
        return normalize(trained.tensors["w"], dim=-1)

    def recipe_for(self, train: TrainingSet) -> Recipe:
        """The recipe where nothing is validated."""
        return self.recipe

    def candidates(self, run: Run) -> list[Run]:
        """Runs to choose among under validation, from the most conservative on; empty for none."""
        return []

    def fit_many(self, jobs: Sequence[Job]) -> list[Head]:
        """Fit one head per job, all candidates of all jobs side by side."""
        runs = [
            Run(self.architecture, i, job.seed, self.recipe_for(job.train), self.scalars)
            for i, job in enumerate(jobs)
        ]
        trained = train_best(runs, list(map(self.candidates, runs)), jobs, self.context)
        return [self._head(run, job.train.text) for run, job in zip(trained, jobs, strict=True)]

    def _head(self, trained: Trained, text: ClassText) -> Head:
        params = {**self.in_force, **trained.run.scalars, **training_params(trained)}
        return self.make_head(scaled_weights(self.class_weights(trained, text), text), params)


@dataclass(frozen=True)
class Prototypes(Architecture):
    """`s x norm(W)^T` with W trained from the class texts w.

    Silva-Rodriguez et al. 2024 (arXiv 2312.12730), equation 4, call it zero-shot linear probe.
    """

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """The class texts: zero-shot."""
        return {"w": train.text.weights.clone()}  # (C, D)

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        unit = normalize(params["w"], dim=-1)  # (S, M, C, D)
        return batch.scale * shared_product(batch.rows["x"], unit) + batch.bias
