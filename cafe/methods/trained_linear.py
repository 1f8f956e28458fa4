"""Linear heads that the engine trains: what TaskRes, CLAP and their kin share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from cafe.engine import Family, Recipe, Run, Trained
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import BatchedMethod, Context, Head, Validation, training_params
from cafe.methods.linear import scaled_weights
from cafe.methods.validation import train_best


class TrainedLinear(BatchedMethod):
    """A method whose fitted head is `s norm(x) W^T`, W trained by the engine.

    Parameters
    ----------
    recipe : Recipe or None
        How to optimise; None is the method's own, `published`.
    context : Context or None
        Where and how to compute.
    """

    published: ClassVar[Recipe]

    def __init__(self, *, recipe: Recipe | None = None, context: Context | None = None) -> None:
        super().__init__(context)
        self.recipe = recipe or self.published

    @abstractmethod
    def family(self) -> Family:
        """What the engine trains."""

    @abstractmethod
    def class_weights(self, trained: Trained, text: ClassText) -> Tensor:
        """W of a trained run, before the logit scale. (C, D)"""

    def scalars(self) -> Mapping[str, float]:
        """The family's scalars where nothing is validated."""
        return {}

    def in_force(self) -> Mapping[str, Any]:
        """What the head's params say beside the run's scalars and recipe."""
        return {}

    def recipe_for(self, train: TrainingSet) -> Recipe:
        """The recipe where nothing is validated."""
        return self.recipe

    def candidates(self, run: Run) -> list[Run]:
        """Runs to choose among under validation, from the most conservative on; empty for none."""
        return []

    def fit_many(
        self,
        trains: Sequence[TrainingSet],
        *,
        validations: Sequence[Validation],
        seeds: Sequence[int],
    ) -> list[Head]:
        """Fit one head per training set, all candidates of all jobs side by side."""
        runs = [
            Run(self.family(), job, seeds[job], self.recipe_for(train), dict(self.scalars()))
            for job, train in enumerate(trains)
        ]
        candidates = [self.candidates(run) for run in runs]
        trained = train_best(runs, candidates, trains, validations, self.context)
        return [self._head(run, train.text) for run, train in zip(trained, trains, strict=True)]

    def _head(self, trained: Trained, text: ClassText) -> Head:
        params = {**self.in_force(), **trained.run.scalars, **training_params(trained)}
        return self.make_head(scaled_weights(self.class_weights(trained, text), text), params)
