"""Accuracy, calibration, confusion, and what several seeds say of them; knows no method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.errors import InputError

BINS = 15
"""Bins of the calibration error (Guo et al. 2017, section 4)."""

WIDEST = 100.0
"""Temperatures are searched from 1 / WIDEST to WIDEST."""


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
    """A quantity over seeds.

    Attributes
    ----------
    mean, std : float
        Mean and sample standard deviation (n - 1); std is 0 for one seed.
    ci95 : float or None
        Half-width of the 95 % interval of the mean, Student's t with n - 1 degrees of freedom;
        None for one seed.
    per_seed : tuple of float
    """

    mean: float
    std: float
    ci95: float | None
    per_seed: tuple[float, ...]


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
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return Summary(mean, std, _student_t975(n - 1) * std / math.sqrt(n), tuple(values))


def _student_t975(degrees: int) -> float:
    """97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


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


class Confusion(NamedTuple):
    """Images of one class that are taken for another."""

    label: int
    predicted: int
    images: int
    share: float  # of the class, in percent


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts of images by class (rows) and prediction (columns). (C, C) int64"""
    classes = logits.shape[-1]
    cells = labels * classes + logits.argmax(dim=-1)  # (N,)
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def confusion_pairs(logits: Tensor, labels: Tensor, most: int = 10) -> list[Confusion]:
    """The pairs of classes that are confused most often.

    Parameters
    ----------
    logits : Tensor
        (N, C)
    labels : Tensor
        (N,)
    most : int
        Length of the list, at most.

    Returns
    -------
    list of Confusion
        The most images first; of equals, the larger share of the class, then the lower indices.
    """
    counts = confusion_matrix(logits, labels)  # (C, C)
    totals = counts.sum(dim=1).tolist()
    pairs = [
        Confusion(a, b, images, 100.0 * images / totals[a])
        for a, row in enumerate(counts.tolist())
        for b, images in enumerate(row)
        if images and a != b
    ]
    return sorted(pairs, key=lambda p: (-p.images, -p.share, p.label, p.predicted))[:most]


def per_class_gain(logits: Tensor, zero_shot: Tensor, labels: Tensor) -> Tensor:
    """Points of accuracy that a head gains on zero-shot, class by class.

    Parameters
    ----------
    logits, zero_shot : Tensor
        Logits of the head and of zero-shot CLIP on the same images. (N, C)
    labels : Tensor
        (N,)

    Returns
    -------
    Tensor
        Percentage points, negative where the head loses; NaN where a class has no image. (C,)
    """
    classes = logits.shape[-1]
    before = per_class_accuracy(zero_shot, labels, classes)
    return per_class_accuracy(logits, labels, classes) - before


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the right class, in nats; logits (N, C), labels (N,)."""
    return cross_entropy(logits.double(), labels).item()


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error in percent.

    `sum_b n_b / N |accuracy_b - confidence_b|` over equal bins of the highest probability
    (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, equation 3).

    Parameters
    ----------
    logits : Tensor
        (N, C)
    labels : Tensor
        (N,)
    bins : int
        Bins from 0 to 1, each without its lower end.

    Raises
    ------
    InputError
        If there is no bin.
    """
    if bins < 1:
        raise InputError(f"calibration error needs at least 1 bin; got {bins}.")
    confidence, predicted = torch.softmax(logits.double(), dim=-1).max(dim=-1)  # (N,)
    number = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # (N,)
    surplus = confidence - (predicted == labels).double()  # (N,)
    gaps = torch.bincount(number, weights=surplus, minlength=bins)  # (bins,), n_b times the gap
    return 100.0 * gaps.abs().sum().item() / len(labels)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T under which `logits / T` is likeliest (Guo et al. 2017, section 4.2).

    The loss is convex in 1 / T, so the sign of its slope leads to the minimum by bisection.

    Parameters
    ----------
    logits : Tensor
        Of images that the head was not fitted on: of the validation set, or out-of-fold ones of the
        shots. (N, C)
    labels : Tensor
        (N,)

    Returns
    -------
    float
        T, from 0.01 to 100; 1, which changes nothing, where there is no image.
    """
    if not len(labels):
        return 1.0
    z = logits.double()
    right = z.gather(1, labels[:, None])  # (N, 1)
    low, high = -math.log(WIDEST), math.log(WIDEST)  # of log(1 / T)
    for _ in range(60):
        middle = (low + high) / 2
        expected = (torch.softmax(math.exp(middle) * z, dim=-1) * z).sum(dim=-1, keepdim=True)
        if (expected - right).sum() > 0:  # slope of the loss in 1 / T
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)
