"""Accuracy, and what several seeds say of it; knows no method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe.errors import InputError


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
