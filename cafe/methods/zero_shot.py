"""Zero-shot CLIP: the classes' text is the classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Head, Method, Validation


@dataclass(frozen=True)
class ZeroShotHead(Head):
    """`s * norm(x) w^T`, plus the logit bias where the encoder has one (Radford et al. 2021)."""

    weights: Tensor  # (C, D), unit rows
    logit_scale: float
    logit_bias: float = 0.0
    method: str = "zero-shot"
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cosine_logits(self) -> bool:
        """They are; see `Head.cosine_logits`."""
        return True

    def logits(self, x: Tensor) -> Tensor:
        """Scaled cosines to the class texts. (N, C)"""
        return self.logit_scale * normalize(x, dim=-1) @ self.weights.T + self.logit_bias

    def tensors(self) -> dict[str, Tensor]:
        """The class weights, the logit scale and bias."""
        scalars = self.weights.new_tensor([self.logit_scale, self.logit_bias])
        return {"weights": self.weights, "logit_scale_bias": scalars}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> ZeroShotHead:
        """Build the head again."""
        scale, bias = tensors["logit_scale_bias"].tolist()
        return cls(tensors["weights"], scale, bias, params=params)


class ZeroShot(Method):
    """Zero-shot CLIP (Radford et al. 2021, arXiv 2103.00020, section 3.1)."""

    name = "zero-shot"
    head = ZeroShotHead

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> ZeroShotHead:
        """Take the text; images, validation and seed play no part."""
        text = train.text
        return ZeroShotHead(text.weights, text.logit_scale, text.logit_bias)
