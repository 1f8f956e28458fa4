"""Linear classifiers on unit features: what many methods come down to once they are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from cafe.methods.base import Head


class LinearHead(Head):
    """`norm(x) W^T + c`; the encoder's logit scale and bias are inside `W` and `c`.

    A method names its own subclass, so that a saved head knows what fitted it.

    Parameters
    ----------
    weights : Tensor
        W. (C, D)
    intercept : Tensor
        c. (C,)
    params : mapping
        The hyper-parameters in force.
    """

    unit_weights: ClassVar[bool] = False
    """Whether the rows of W have one length, the logit scale."""

    def __init__(self, weights: Tensor, intercept: Tensor, params: Mapping[str, Any]) -> None:
        self.weights = weights
        self.intercept = intercept
        self.params = params

    @property
    def cosine_logits(self) -> bool:
        """See `Head.cosine_logits`."""
        return self.unit_weights

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        return normalize(x, dim=-1) @ self.weights.mT + self.intercept

    def tensors(self) -> dict[str, Tensor]:
        """W and c; see `Head.tensors`."""
        return {"weights": self.weights, "intercept": self.intercept}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> LinearHead:
        """Build the head again; see `Head.from_tensors`."""
        return cls(tensors["weights"], tensors["intercept"], params)
