"""The head of one fitted adapter, visual, text or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from cafe.methods.base import Head
from cafe.methods.clip_adapter.family import adapt


class AdapterHead(Head):
    """`s norm(a A(x) + (1 - a) x) norm(b A'(w) + (1 - b) w)^T`; an absent branch has ratio 0.

    Parameters
    ----------
    method : str
        Name of the method that fitted it.
    tensors : mapping of str to Tensor
        "weights" (C, D), the zero-shot `w`, and for each branch the adapter's "down" and "up"
        (H, D), or "text_down" and "text_up".
    params : mapping
        The hyper-parameters in force.
    """

    def __init__(self, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> None:
        self.method = params["method"]
        self.params = params
        self._tensors = dict(tensors)

    @property
    def cosine_logits(self) -> bool:
        """They are; see `Head.cosine_logits`."""
        return True

    def logits(self, x: Tensor) -> Tensor:
        """Class scores; see `Head.logits`. (N, C)"""
        images = self._images(x)  # (N, D)
        classes = normalize(self._blend(self._tensors["weights"], "text_"), dim=-1)  # (C, D)
        scale: float = self.params["logit_scale"]
        bias: float = self.params["logit_bias"]
        return scale * (images @ classes.mT) + bias

    def adapted(self, x: Tensor) -> Tensor | None:
        """See `Head.adapted`; None without a visual branch. (N, D)"""
        return self._images(x) if "down" in self._tensors else None

    def _images(self, x: Tensor) -> Tensor:
        x = normalize(x, dim=-1) if self.params["normalize_input"] else x
        return normalize(self._blend(x, ""), dim=-1)

    def _blend(self, v: Tensor, prefix: str) -> Tensor:
        """`a A(v) + (1 - a) v`, or `v` where the branch is absent."""
        if f"{prefix}down" not in self._tensors:
            return v
        down, up = self._tensors[f"{prefix}down"], self._tensors[f"{prefix}up"]
        ratio: float = self.params[f"{prefix}ratio"]
        adapted = adapt(v, down, up, final_relu=self.params["final_relu"])
        return ratio * adapted + (1 - ratio) * v

    def tensors(self) -> dict[str, Tensor]:
        """Everything beside `params`; see `Head.tensors`."""
        return dict(self._tensors)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> AdapterHead:
        """Build the head again; see `Head.from_tensors`."""
        return cls(tensors, params)
