"""The head of one fitted adapter, visual, text or both."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from cafe.methods.clip_adapter.architecture import adapt
from cafe.methods.head import Head


@dataclass(frozen=True, eq=False)
class AdapterHead(Head):
    """`s norm(a A(x) + (1 - a) x) norm(b A'(w) + (1 - b) w)^T`; an absent branch has ratio 0.

    Its params hold a as "ratio", b as "text_ratio", "final_relu", "logit_scale" and "logit_bias".
    Raw features are normalised first, which changes nothing after the norm of the blend.
    """

    weights: Tensor  # zero-shot w, (C, D)
    down: Tensor | None = None  # (H, D), as all parts of the two adapters
    up: Tensor | None = None
    text_down: Tensor | None = None
    text_up: Tensor | None = None

    cosine_logits = True

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        images = self._images(x)  # (N, D)
        w = self._blend(self.weights, self.text_down, self.text_up, "text_ratio")  # (C, D)
        return self.scale_cosines(images @ normalize(w, dim=-1).mT)

    def adapted(self, x: Tensor) -> Tensor | None:
        """See `Head.adapted`; None without a visual branch. (N, D)"""
        return None if self.down is None else self._images(x)

    def _images(self, x: Tensor) -> Tensor:
        x = normalize(x, dim=-1)
        return normalize(self._blend(x, self.down, self.up, "ratio"), dim=-1)

    def _blend(self, v: Tensor, down: Tensor | None, up: Tensor | None, ratio: str) -> Tensor:
        """`a A(v) + (1 - a) v` with the ratio of that name, or `v` where the branch is absent."""
        if down is None or up is None:
            return v
        a: float = self.params[ratio]
        return a * adapt(v, down, up, final_relu=self.params["final_relu"]) + (1 - a) * v
