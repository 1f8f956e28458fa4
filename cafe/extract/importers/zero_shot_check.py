"""Whether imported features and texts belong together: zero-shot accuracy against chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe.store import SPLITS, FeatureCache

_SURE = 3.0
"""Standard deviations above chance from which zero-shot accuracy is not taken for chance."""


@dataclass(frozen=True)
class ZeroShotCheck:
    """Zero-shot accuracy on a cache.

    Attributes
    ----------
    split : str
        The split that was classified.
    images : int
    accuracy : float
        In percent.
    chance : float
        Accuracy of guessing, in percent.
    at_chance : bool
        Whether the accuracy is no more than that of lucky guessing.
    """

    split: str
    images: int
    accuracy: float
    chance: float
    at_chance: bool


def check_zero_shot(cache: FeatureCache) -> ZeroShotCheck:
    """Classify the images of a cache by its class texts.

    The common mistake of an import is another order of classes in the labels than in the texts.
    Every array fits then, and the accuracy is that of guessing.

    Parameters
    ----------
    cache : FeatureCache
        Its test split is taken, else another.

    Returns
    -------
    ZeroShotCheck
    """
    split = next(name for name in reversed(SPLITS) if name in cache.counts)
    weights = _class_weights(cache)  # (C, D)
    right = 0
    for block in cache.blocks(split):
        scores = block.features.astype(np.float32) @ weights.T  # (n, C): norms change no order
        right += int((scores.argmax(axis=1) == block.labels).sum())
    images, chance = cache.counts[split], 1 / len(weights)
    # standard deviation of the accuracy of guessing, which is binomial
    noise = math.sqrt(chance * (1 - chance) / images)
    at_chance = right / images <= chance + _SURE * noise
    return ZeroShotCheck(split, images, 100 * right / images, 100 * chance, at_chance)


def _class_weights(cache: FeatureCache) -> NDArray[np.float32]:
    text = cache.header.text_features  # (C, P, D), zeros where a class has fewer prompts
    norms = np.linalg.norm(text, axis=-1, keepdims=True)
    mean = (text / np.where(norms > 0, norms, 1)).mean(axis=1)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=-1, keepdims=True).clip(1e-12)
    return unit
