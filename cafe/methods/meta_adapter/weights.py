"""Meta-Adapter's network (Song et al. 2023, arXiv 2311.03774): texts refined by their shots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import linear_weights

GATE_START = 1.0
"""Where the gate's bias starts in the authors' code (ArsenalCheng/Meta-Adapter): sigmoid 0.73."""


@dataclass(frozen=True)
class MetaWeights:
    """One attention head without a value projection, and a gate; `2 D^2 + D + 1` numbers.

    A class's text t asks itself and its shots `k_1 ... k_K`::

        a = softmax((Wq t) (Wk [t, k_1, ..., k_K])^T / sqrt(D)) [t, k_1, ..., k_K]
        w = norm(t + sigmoid(g t + b) a)

    so that the number of shots is free, their order is nothing, and a class without one keeps its
    text.

    Attributes
    ----------
    query, key : Tensor
        Wq and Wk. (D, D)
    gate : Tensor
        g. (D,)
    bias : Tensor
        b. ()
    """

    query: Tensor
    key: Tensor
    gate: Tensor
    bias: Tensor

    @classmethod
    def initial(cls, width: int, seed: int) -> MetaWeights:
        """Untrained weights: Xavier-uniform projections and gate, as in the authors' code.

        Parameters
        ----------
        width : int
            D.
        seed : int
            Seed of the draw.
        """
        query, key, gate = linear_weights(seed, (width, width), (width, width), (1, width))
        # Xavier's bound is sqrt(6 / (in + out)), that of `linear_weights` is sqrt(1 / in).
        square, single = math.sqrt(3), math.sqrt(6 * width / (width + 1))
        return cls(square * query, square * key, single * gate[0], torch.tensor(GATE_START))

    @property
    def width(self) -> int:
        """D."""
        return len(self.gate)

    def adapt(self, text: Tensor, shots: Tensor, filled: Tensor | None = None) -> Tensor:
        """Class weights of texts and their shots.

        Parameters
        ----------
        text : Tensor
            Unit text features t. (..., D)
        shots : Tensor
            Unit features k of each text's shots. (..., K, D)
        filled : Tensor or None
            Which shots there are; None is all. (..., K)

        Returns
        -------
        Tensor
            Unit class weights w. (..., D)
        """
        seen = torch.cat([text[..., None, :], shots], dim=-2)  # (..., K + 1, D)
        asked = text @ self.query.mT @ self.key  # (..., D): one product a text, not one a shot
        scores = (seen @ asked[..., None]).squeeze(-1) / math.sqrt(self.width)  # (..., K + 1)
        if filled is not None:
            there = torch.cat([torch.ones_like(filled[..., :1]), filled], dim=-1)
            scores = scores.masked_fill(~there, -torch.inf)
        attention = (scores.softmax(dim=-1)[..., None, :] @ seen).squeeze(-2)  # (..., D)
        gate = torch.sigmoid(text @ self.gate + self.bias)  # (...)
        return normalize(text + gate[..., None] * attention, dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name."""
        return {"query": self.query, "key": self.key, "gate": self.gate, "bias": self.bias}

    def to(self, device: torch.device) -> MetaWeights:
        """The same weights on another device."""
        return MetaWeights.from_tensors({n: t.to(device) for n, t in self.tensors().items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> MetaWeights:
        """Build the weights again from what `tensors` gave."""
        return cls(tensors["query"], tensors["key"], tensors["gate"], tensors["bias"])
