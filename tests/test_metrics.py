"""Accuracies over seeds, against counting by hand."""

from __future__ import annotations

import math

import pytest

from cafe.errors import InputError
from cafe.results import metrics


def test_an_interval_over_seeds() -> None:
    summary = metrics.summarize([80.0, 82.0, 84.0])
    assert (summary.mean, summary.std) == (82, 2)
    # Student's t at 97.5 % with two degrees of freedom.
    assert summary.ci95 == pytest.approx(4.302653 * 2 / math.sqrt(3))
    assert metrics.summarize([80.0]).ci95 is None
    with pytest.raises(InputError, match="at least one seed"):
        metrics.summarize([])
