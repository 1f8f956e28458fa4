"""CLAP (Silva-Rodriguez et al., CVPR 2024, arXiv 2312.12730): a probe held near the class texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.engine import Batch, Recipe
from cafe.engine.architecture import Tensors
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.checks import check_positive
from cafe.methods.linear import TEXT_NORM, Prototypes, TrainedLinear


@dataclass(frozen=True)
class HeldPrototypes(Prototypes):
    """Prototypes with a penalty `strength * mean_c lambda_c |W_c - w_c|^2` (equation 9).

    Attributes
    ----------
    strength : float
        Factor on every lambda; see `multipliers` for these.
    """

    strength: float

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        """The lambdas."""
        return {"multipliers": multipliers(train)}

    def penalty(self, params: Tensors, batch: Batch) -> Tensor:
        """The pull back to the class texts. (S, M)"""
        distance = (params["w"] - batch.weights).square().sum(dim=-1)  # (S, M, C)
        return self.strength * (batch.constants["multipliers"] * distance).mean(dim=-1)


def multipliers(train: TrainingSet) -> Tensor:
    """CLAP's lambdas: how far zero-shot is right about the shots of each class.

    The mean zero-shot probability of the class over its shots, as in the authors' code (section
    4.3 of the paper); 1 for a class without a shot, of which only its text is known.

    Parameters
    ----------
    train : TrainingSet
        The shots.

    Returns
    -------
    Tensor
        From 0 to 1. (C,)
    """
    text, y = train.text, train.features.y
    probabilities = torch.softmax(text.logit_scale * train.features.unit @ text.weights.mT, dim=-1)
    right = probabilities.gather(1, y[:, None]).flatten()  # (N,)
    counts = torch.bincount(y, minlength=len(text.weights))  # (C,)
    sums = torch.zeros_like(text.weights[:, 0]).index_add_(0, y, right)  # (C,)
    return torch.where(counts > 0, sums / counts.clamp_min(1), torch.ones_like(sums))


class Clap(TrainedLinear):
    """Class-adaptive linear probe, `s norm(x) norm(W)^T`: nothing is validated, by design.

    Parameters
    ----------
    strength : float
        Factor on the class-wise penalty on unit features. The authors' code has 1 on raw text
        features, which is `TEXT_NORM ** 2` on unit ones.
    recipe : Recipe or None
        How to optimise. None is the authors' 300 epochs in batches of 256 without decay, on
        augmented views where the cache has them. They take SGD at 0.1 with a warm-up epoch; the
        engine's AdamW comes to the same minimum, to which the penalty holds the weights.
    context : Context or None
        Where and how to compute.

    Raises
    ------
    InputError
        If the strength is not above 0.
    """

    name = "clap"
    summary = "cosine probe held near the class texts, class by class"
    source = "Silva-Rodriguez et al. 2024, arXiv 2312.12730"
    published = Recipe(lr=1e-3, weight_decay=0.0, epochs=300, views=True)

    def __init__(
        self,
        strength: float = TEXT_NORM**2,
        *,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(recipe=recipe, context=context)
        self.architecture = HeldPrototypes(check_positive("strength", strength))
        self.in_force = {"strength": self.architecture.strength}
