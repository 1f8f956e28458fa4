"""Zero-shot CLIP: the classes' text is the classifier."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Method, Validation
from cafe.methods.head import Head


@dataclass(frozen=True, eq=False)
class ZeroShotHead(Head):
    """`s * norm(x) w^T`, plus the logit bias where the encoder has one (Radford et al. 2021)."""

    weights: Tensor  # w, (C, D), unit rows
    logit_scale_bias: Tensor  # (2,)

    cosine_logits = True

    def logits(self, x: Tensor) -> Tensor:
        """Scaled cosines to the class texts. (N, C)"""
        scale, bias = self.logit_scale_bias
        logits: Tensor = scale * normalize(x, dim=-1) @ self.weights.mT + bias
        return logits


class ZeroShot(Method):
    """Zero-shot CLIP, `s norm(x) w^T` (Radford et al. 2021, arXiv 2103.00020, section 3.1)."""

    name = "zero-shot"
    summary = "the classes' text features as classifier; no training image"
    source = "Radford et al. 2021, arXiv 2103.00020"
    head = ZeroShotHead
    no_new_classes = ""

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Take the text; images, validation and seed play no part."""
        text = train.text
        scalars = text.weights.new_tensor([text.logit_scale, text.logit_bias])
        return self.make_head({"weights": text.weights, "logit_scale_bias": scalars}, {})
