"""What a page shows of a result beyond its accuracy, as JSON values; knows no method."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.results.image_scores import ImageScores
from cafe.results.metrics import Summary, summarize
from cafe.results.page import Bin, Confusion, ResultPage
from cafe.results.predictions import Predictions

MOST_PAIRS = 20
MOST_EXAMPLES = 4


@dataclass(frozen=True)
class Diagnostics:
    """What the test images say of a result's heads, one per seed.

    Attributes
    ----------
    accuracy : Summary
        Top-1 in percent.
    metrics : dict of str to float
        Means over seeds: `mean_class_accuracy` and `top5_accuracy` in percent, `nll` in nats,
        `ece` (expected calibration error) in percent, of probabilities as the heads give them;
        `ece_calibrated`, the same under the temperature, where there is one.
    page : ResultPage
        `per_class`: mean accuracy of each class, None where it has no image; `confusions`: the
        pairs of classes confused most (`label`, `predicted`, `images` per seed on average, `share`
        of the class in percent, `rows` of the test split, of any seed); `reliability`: bins of the
        highest probability over all seeds (`images`, `confidence`, `accuracy` in percent).
    predictions : tuple of Predictions
        One per seed.
    """

    accuracy: Summary
    metrics: dict[str, float]
    page: ResultPage
    predictions: tuple[Predictions, ...]


def diagnose(scores: Iterable[ImageScores]) -> Diagnostics:
    """Describe a result by what its heads say of the test images.

    Parameters
    ----------
    scores : iterable of ImageScores
        One per seed, looked at one after the other.
    """
    accuracies: list[float] = []
    predictions: list[Predictions] = []
    metrics: dict[str, float] = defaultdict(float)
    per_class, bins, sizes = torch.zeros(()), torch.zeros(()), torch.zeros(())
    confused: dict[tuple[int, int], list[int]] = defaultdict(list)  # classes -> rows of all seeds
    for seed in scores:
        accuracies.append(seed.accuracy)
        predictions.append(Predictions.of(seed))
        metrics["mean_class_accuracy"] += seed.mean_class_accuracy
        metrics["top5_accuracy"] += seed.top_5_accuracy
        metrics["nll"] += seed.negative_log_likelihood
        metrics["ece"] += seed.expected_calibration_error()
        if seed.temperature is not None:
            metrics["ece_calibrated"] += seed.expected_calibration_error(calibrated=True)
        per_class = per_class + seed.per_class_accuracy.cpu()  # (C,)
        bins = bins + seed.reliability()  # (3, BINS)
        sizes = torch.bincount(seed.labels)
        wrong = torch.nonzero(~seed.right).flatten()
        pairs = zip(seed.labels[wrong].tolist(), seed.predicted[wrong].tolist(), strict=True)
        for row, pair in zip(wrong.tolist(), pairs, strict=True):
            confused[pair].append(row)
    seeds, means = len(accuracies), (per_class / len(accuracies)).tolist()
    page: ResultPage = {
        "per_class": [None if math.isnan(value) else round(value, 2) for value in means],
        "confusions": _confusions(confused, seeds, sizes.tolist()),
        "reliability": bins_json(bins),
    }
    means_over_seeds = {name: total / seeds for name, total in metrics.items()}
    return Diagnostics(summarize(accuracies), means_over_seeds, page, tuple(predictions))


def _confusions(
    confused: Mapping[tuple[int, int], Sequence[int]], seeds: int, sizes: Sequence[int]
) -> list[Confusion]:
    """The pairs of classes with the most images, of equals the lower class first."""
    most = sorted(confused.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_PAIRS]
    return [
        {
            "label": label,
            "predicted": predicted,
            "images": round(len(rows) / seeds, 2),
            "share": round(100 * len(rows) / seeds / sizes[label], 2),
            "rows": list(dict.fromkeys(rows))[:MOST_EXAMPLES],
        }
        for (label, predicted), rows in most
    ]


def bins_json(bins: Tensor) -> list[Bin]:
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
