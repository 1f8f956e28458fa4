"""Accuracy and calibration on test images, and their spread over seeds; knows no method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.errors import InputError
from cafe.results.typed_json import NotNegative, Points

BINS = 15
"""Bins of the calibration error (Guo et al. 2017, section 4)."""


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent.

    Parameters
    ----------
    logits : Tensor
        (N, C)
    labels : Tensor
        (N,)
    """
    return 100.0 * (logits.argmax(dim=-1) == labels).float().mean().item()


@dataclass(frozen=True)
class Summary:
    """Accuracies, or differences of them, over seeds.

    Attributes
    ----------
    mean, std : float
        Mean and sample standard deviation (n - 1); std is 0 for one seed.
    ci95 : float or None
        Half-width of the 95 % interval of the mean, Student's t with n - 1 degrees of freedom;
        None for one seed.
    per_seed : tuple of float
    """

    mean: Points
    std: NotNegative
    ci95: NotNegative | None
    per_seed: Annotated[tuple[Points, ...], Field(min_length=1)]


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95 % interval over seeds.

    Parameters
    ----------
    values : sequence of float
        One value per seed, at least one.

    Raises
    ------
    InputError
        If there are no values.
    """
    if not values:
        raise InputError("no values to summarise; give at least one seed.")
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return Summary(mean, 0.0, None, tuple(values))
    from scipy.stats import t  # slow to import

    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return Summary(mean, std, float(t.ppf(0.975, n - 1)) * std / math.sqrt(n), tuple(values))


def per_class_accuracy(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Top-1 accuracy of each class in percent; NaN where a class has no image. (C,)"""
    hits = (logits.argmax(dim=-1) == labels).double()
    total = torch.bincount(labels, minlength=classes)
    return 100.0 * torch.bincount(labels, weights=hits, minlength=classes) / total


def mean_class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent, every class that has an image counting the same.

    Takes logits (N, C) and labels (N,).
    """
    each = per_class_accuracy(logits, labels, logits.shape[-1])  # (C,)
    return each[~each.isnan()].mean().item()


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int = 5) -> float:
    """Share of images in percent whose class is among the k highest logits.

    Parameters
    ----------
    logits : Tensor
        (N, C)
    labels : Tensor
        (N,)
    k : int
        At least 1; with no more than k classes every image counts.
    """
    if k < 1:
        raise InputError(f"top-k accuracy needs a k of at least 1; got {k}.")
    highest = logits.topk(min(k, logits.shape[-1]), dim=-1).indices  # (N, k)
    return 100.0 * (highest == labels[:, None]).any(dim=-1).float().mean().item()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the right class, in nats; logits (N, C), labels (N,)."""
    return cross_entropy(logits.double(), labels).item()


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Tensor:
    """Images, summed confidence and hits in equal bins of the highest probability.

    Parameters
    ----------
    logits : Tensor
        (N, C)
    labels : Tensor
        (N,)
    bins : int
        Bins from 0 to 1, each without its lower end.

    Returns
    -------
    Tensor
        On the CPU. (3, bins) float64

    Raises
    ------
    InputError
        If there is no bin.
    """
    if bins < 1:
        raise InputError(f"calibration error needs at least 1 bin; got {bins}.")
    confidence, predicted = torch.softmax(logits.double(), dim=-1).max(dim=-1)  # (N,)
    number = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # (N,)
    hits = (predicted == labels).double()  # (N,)
    parts = (torch.ones_like(hits), confidence, hits)
    return torch.stack([torch.bincount(number, part, minlength=bins) for part in parts]).cpu()


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error in percent; see `reliability`.

    `sum_b n_b / N |accuracy_b - confidence_b|` over equal bins of the highest probability
    (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, equation 3).
    """
    images, confidence, hits = reliability(logits, labels, bins)  # (bins,) each
    return 100.0 * float((hits - confidence).abs().sum() / images.sum())
