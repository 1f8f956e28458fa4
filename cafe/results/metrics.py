"""Accuracy on test images, and its spread over seeds; knows no method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from cafe.errors import InputError
from cafe.results.typed_json import NotNegative, Points


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent.

    Parameters
    ----------
    logits : Tensor
        (N, C)
    labels : Tensor
        (N,)
    """
    return 100.0 * (logits.argmax(dim=-1) == labels).double().mean().item()


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
