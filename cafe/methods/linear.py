"""Linear classifiers on unit features: what many methods come down to once they are fitted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import ClassText
from cafe.methods.base import Head


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
