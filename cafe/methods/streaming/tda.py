"""TDA (Karmanov et al., CVPR 2024, arXiv 2403.18293): two key-value caches of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cafe.methods.streaming.stream import EntropyCache, Sample, Stream, pack_cache, unpack_cache


class CacheSettings(NamedTuple):
    """Images for each class, and the weight and sharpness of what they say."""

    places: int
    alpha: float
    beta: float


POSITIVE = CacheSettings(3, 2.0, 5.0)
NEGATIVE = CacheSettings(2, 0.117, 1.0)
"""Of the authors' configuration for ImageNet, here taken for all tasks; theirs differ by task."""

MIDDLE_ENTROPY = (0.2, 0.5)
"""Images for the negative cache have an entropy between these, in nats over log2 C, as in the
authors' code."""

UNLIKELY = 0.03
"""A negative image speaks against the classes that are more probable than this."""


class Tda(Stream):
    """A positive cache of sure images and a negative one of half-sure ones.

    `z + a sum_i exp(-b (1 - x k_i)) y_i - a' sum_j exp(-b' (1 - x k_j)) m_j` with z the head's
    logits, `y_i` the class of a positive image by the head's answer, one-hot, and `m_j` the classes
    that a negative one finds possible (equations 4 to 7).
    """

    name = "tda"
    source = "Karmanov et al. 2024, arXiv 2403.18293"

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, width)
        self.positive = EntropyCache(classes, POSITIVE.places, width)
        self.negative = EntropyCache(classes, NEGATIVE.places, width)
        self.masks = torch.zeros(classes, NEGATIVE.places, classes, dtype=torch.bool)

    def take(self, sample: Sample) -> None:
        """Keep an image in the positive cache, and a half-sure one in the negative one too."""
        self.positive.put(sample)
        low, high = MIDDLE_ENTROPY
        if low < sample.entropy / math.log2(max(2, self.classes)) < high:
            place = self.negative.put(sample)
            if place is not None:
                self.masks[sample.label, place] = (sample.p > UNLIKELY) & (sample.p < 1)

    def shift(self, sample: Sample) -> Tensor:
        """What the caches say. (C,)"""
        positive = _affinity(self.positive, sample.x, POSITIVE).sum(dim=1)  # (C,)
        negative = _affinity(self.negative, sample.x, NEGATIVE)  # (C, K)
        return positive - torch.einsum("ck,ckd->d", negative, self.masks.float())

    def state(self) -> dict[str, Tensor]:
        """Both caches; see `Stream.state`."""
        caches = pack_cache(self.positive, "positive") | pack_cache(self.negative, "negative")
        return {**caches, "masks": self.masks}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take both caches; see `Stream.load`."""
        unpack_cache(self.positive, "positive", state)
        unpack_cache(self.negative, "negative", state)
        self.masks = state["masks"].clone()


def _affinity(cache: EntropyCache, x: Tensor, settings: CacheSettings) -> Tensor:
    """`a exp(-b (1 - x k))` of each image of a cache; 0 for a free place. (C, K)"""
    near = settings.alpha * torch.exp(-settings.beta * (1 - cache.keys @ x))
    return torch.where(cache.filled, near, 0.0)
