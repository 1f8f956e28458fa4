"""Nearest class mean by cosine, searched with faiss: the baseline that every run prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import TrainingSet
from cafe.methods.base import NO_VALIDATION, Method, Validation
from cafe.methods.head import Head
from cafe.methods.knn import flat_index, nearest

if TYPE_CHECKING:
    import faiss


MOST = 256
"""Classes that faiss ranks: it sorts all of them for each image, which takes 6 times as long as the
products where there are 200, and 13 times with 1,000."""

_ROWS = 65536  # of unit features at a time


@dataclass(frozen=True, eq=False)
class NearestClassHead(Head):
    """`s * norm(x) norm(mean_k norm(x_c))^T`, up to `MOST` classes from a faiss flat index.

    A class without a training image has the zero vector, so its cosine is 0 for every image.
    """

    means: Tensor  # (C, D), unit rows
    logit_scale: Tensor  # (1,)

    @cached_property
    def _index(self) -> faiss.IndexFlatIP:
        return flat_index(self.means)

    def logits(self, x: Tensor) -> Tensor:
        """Scaled cosines to the class means. (N, C)"""
        if len(self.means) > MOST:
            return self.graph_logits(x)
        cosines, classes = nearest(self._index, x, len(self.means))  # sorted by cosine
        return self.logit_scale * torch.empty_like(cosines).scatter_(1, classes, cosines)

    def graph_logits(self, x: Tensor) -> Tensor:
        """Without faiss, which cannot go into a graph; see `Head.graph_logits`. (N, C)"""
        return self.logit_scale * normalize(x, dim=-1) @ self.means.mT


class NearestClass(Method):
    """Nearest class mean of unit features, by cosine (Mensink et al. 2013, arXiv 1212.1669)."""

    name = "nearest-class"
    summary = "cosine to the mean of each class's training features, by faiss"
    source = "Mensink et al. 2013, IEEE TPAMI 35(11)"
    head = NearestClassHead
    no_new_classes = "a class is the mean of its shots, and a new class has none"

    @classmethod
    def reads_text(cls, _settings: Mapping[str, Any]) -> bool:
        """It looks at images alone; see `Method.reads_text`."""
        return False

    def fit(
        self, train: TrainingSet, *, validation: Validation = NO_VALIDATION, seed: int = 0
    ) -> Head:
        """Average the unit features of each class; validation and seed play no part."""
        features, text = train.features, train.text
        sums = torch.zeros_like(text.weights)  # (C, D)
        blocks = (torch.split(part, _ROWS) for part in (features.x, features.y))
        for x, y in zip(*blocks, strict=True):
            sums.index_add_(0, y, normalize(x.float(), dim=-1))
        scale = sums.new_tensor([text.logit_scale])
        return self.make_head({"means": normalize(sums, dim=-1), "logit_scale": scale}, {})
