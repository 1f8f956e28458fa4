"""A cosine classifier trained from the class texts, with or without a pull back to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Batch, Family, Run, shared_product
from cafe.engine.contract import Tensors
from cafe.features.tensors import ClassText, TrainingSet

TEXT_NORM = 10.0
"""Order of magnitude of the norm of OpenAI CLIP's raw text features.

Some authors train raw text features where cafe trains unit ones, so that a result does not depend
on whether a cache was normalised. What they publish for raw ones is carried over by this number: a
step size divided by it, a weight of squared distances multiplied by its square.
"""


@dataclass(frozen=True)
class Prototypes(Family):
    """`s x norm(W)^T` with W trained from w, and a penalty `mean_c lambda_c |W_c - w_c|^2`.

    Silva-Rodriguez et al. 2024 (arXiv 2312.12730): equation 4 without the penalty, which they call
    zero-shot linear probe (ZS-LP), equation 9 with it.

    Attributes
    ----------
    strength : float
        Factor on every lambda; 0 is ZS-LP.
    """

    strength: float = 0.0

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        """The class texts: zero-shot."""
        return {"w": train.text.weights.clone()}  # (C, D)

    def rows(self, x: Tensor, text: ClassText) -> dict[str, Tensor]:
        """Unit features."""
        return {"x": normalize(x, dim=-1)}  # (N, D)

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        """The lambdas, where they are needed."""
        return {"multipliers": multipliers(train)} if self.strength else {}

    def logits(self, params: Tensors, batch: Batch) -> Tensor:
        """Class scores. (S, M, B, C)"""
        unit = normalize(params["w"], dim=-1)  # (S, M, C, D)
        return batch.scale * shared_product(batch.rows["x"], unit) + batch.bias

    def penalty(self, params: Tensors, batch: Batch) -> Tensor | None:
        """The pull back to the class texts. (S, M)"""
        if not self.strength:
            return None
        distance = (params["w"] - batch.weights).square().sum(dim=-1)  # (S, M, C)
        return self.strength * (batch.constants["multipliers"] * distance).mean(dim=-1)

    def activations(self, parameters: int, rows: int, classes: int, width: int) -> int:
        """See `Family.activations`."""
        return 6 * parameters + 6 * rows * classes


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
