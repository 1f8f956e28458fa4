"""CLAP (Silva-Rodriguez et al., CVPR 2024, arXiv 2312.12730): a probe held near the class texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Family, Recipe, Trained
from cafe.features.tensors import ClassText
from cafe.methods.base import Context
from cafe.methods.checks import check_positive
from cafe.methods.linear import CosineHead
from cafe.methods.prototypes import TEXT_NORM, Prototypes
from cafe.methods.trained_linear import TrainedLinear


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
    head = CosineHead
    no_new_classes = "a row of the head is learnt per class"
    published = Recipe(lr=1e-3, weight_decay=0.0, epochs=300, views=True)

    def __init__(
        self,
        strength: float = TEXT_NORM**2,
        *,
        recipe: Recipe | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(recipe=recipe, context=context)
        self.strength = check_positive("strength", strength)

    def family(self) -> Family:
        """See `TrainedLinear.family`."""
        return Prototypes(self.strength)

    def class_weights(self, trained: Trained, text: ClassText) -> Tensor:
        """The trained prototypes, on the unit sphere. (C, D)"""
        return normalize(trained.tensors["w"], dim=-1)

    def in_force(self) -> Mapping[str, Any]:
        """The factor on the penalty."""
        return {"strength": self.strength}
