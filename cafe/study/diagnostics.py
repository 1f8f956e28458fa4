"""What a page shows of a result beyond its accuracy, as JSON values; knows no method."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cafe.results.metrics import (
    BINS,
    expected_calibration_error,
    mean_class_accuracy,
    negative_log_likelihood,
    per_class_accuracy,
    top_k_accuracy,
)

MOST_PAIRS = 20
MOST_EXAMPLES = 4


@dataclass(frozen=True)
class Diagnostics:
    """What the test images say of a result's heads, one per seed.

    Attributes
    ----------
    metrics : dict of str to float
        Means over seeds: `mean_class_accuracy` and `top5_accuracy` in percent, `nll` in nats,
        `ece` (expected calibration error) in percent.
    page : dict
        `per_class`: mean accuracy of each class, None where it has no image; `confusions`: the
        pairs of classes confused most (`label`, `predicted`, `images` per seed on average, `share`
        of the class in percent, `rows` of the test split, of any seed); `reliability`: bins of the
        highest probability over all seeds (`images`, `confidence`, `accuracy` in percent).
    """

    metrics: dict[str, float]
    page: dict[str, Any]


def diagnose(logits: Iterable[Tensor], y: Tensor) -> Diagnostics:
    """Describe a result by its heads' logits on the test images.

    Parameters
    ----------
    logits : iterable of Tensor
        One per seed, looked at one after the other. Each (N, C)
    y : Tensor
        (N,)
    """
    metrics: Counter[str] = Counter()
    seeds, per_class, bins = 0, torch.zeros(0), torch.zeros(3, BINS)
    confused = _Confused()
    for z in logits:
        seeds += 1
        metrics.update(_scalars(z, y))
        mine = per_class_accuracy(z, y, z.shape[-1]).cpu()  # (C,)
        per_class = mine if seeds == 1 else per_class + mine
        bins = bins + reliability(z, y)
        confused.add(z.argmax(dim=-1), y)
    sizes = torch.bincount(y, minlength=len(per_class)).tolist()
    means = (per_class / seeds).tolist()
    page = {
        "per_class": [None if math.isnan(value) else round(value, 2) for value in means],
        "confusions": confused.json(seeds, sizes),
        "reliability": bins_json(bins),
    }
    return Diagnostics({name: total / seeds for name, total in metrics.items()}, page)


class _Confused:
    """Counts the pairs of classes that are confused, and keeps a few rows of each."""

    def __init__(self) -> None:
        self._images: Counter[tuple[int, int]] = Counter()
        self._rows: dict[tuple[int, int], list[int]] = {}

    def add(self, predicted: Tensor, y: Tensor) -> None:
        """Count the predictions of one head."""
        rows = torch.nonzero(predicted != y).flatten()
        pairs = zip(y[rows].tolist(), predicted[rows].tolist(), strict=True)
        for row, pair in zip(rows.tolist(), pairs, strict=True):
            self._images[pair] += 1
            seen = self._rows.setdefault(pair, [])
            if len(seen) < MOST_EXAMPLES and row not in seen:
                seen.append(row)

    def json(self, seeds: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """The pairs with the most images, of equals the lower class first."""
        most = sorted(self._images.items(), key=lambda item: (-item[1], item[0]))[:MOST_PAIRS]
        return [
            {
                "label": label,
                "predicted": predicted,
                "images": round(count / seeds, 2),
                "share": round(100 * count / seeds / sizes[label], 2),
                "rows": self._rows[label, predicted],
            }
            for (label, predicted), count in most
        ]


def _scalars(z: Tensor, y: Tensor) -> dict[str, float]:
    return {
        "mean_class_accuracy": mean_class_accuracy(z, y),
        "top5_accuracy": top_k_accuracy(z, y),
        "nll": negative_log_likelihood(z, y),
        "ece": expected_calibration_error(z, y),
    }


def reliability(z: Tensor, y: Tensor) -> Tensor:
    """Images, summed confidence and hits in equal bins of the highest probability. (3, BINS)"""
    confidence, predicted = torch.softmax(z.double(), dim=-1).max(dim=-1)  # (N,)
    number = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)  # (N,)
    hits = (predicted == y).double()
    parts = (torch.ones_like(hits), confidence, hits)
    return torch.stack([torch.bincount(number, part, minlength=BINS) for part in parts]).cpu()


def bins_json(bins: Tensor) -> list[dict[str, float]]:
    """The bins that hold images, as `diagnose` gives them."""
    return [
        {
            "images": images,
            "confidence": round(100 * confidence / images, 2),
            "accuracy": round(100 * hits / images, 2),
        }
        for images, confidence, hits in bins.T.tolist()
        if images
    ]
