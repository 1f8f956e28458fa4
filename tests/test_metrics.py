"""Metrics against counting by hand and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.metrics import top_k_accuracy_score as sklearn_top_k

from cafe.errors import InputError
from cafe.results import metrics

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(200, 7, generator=GENERATOR)
LABELS = torch.randint(7, (200,), generator=GENERATOR)


def test_agrees_with_scikit_learn() -> None:
    predicted, labels = LOGITS.argmax(dim=-1).numpy(), LABELS.numpy()
    p = LOGITS.double().softmax(dim=-1).numpy()
    assert metrics.mean_class_accuracy(LOGITS, LABELS) == pytest.approx(
        100 * balanced_accuracy_score(labels, predicted)
    )
    for k in (1, 3, 5):
        expected = 100 * sklearn_top_k(labels, LOGITS.numpy(), k=k)
        assert metrics.top_k_accuracy(LOGITS, LABELS, k) == pytest.approx(expected)
    assert metrics.negative_log_likelihood(LOGITS, LABELS) == pytest.approx(log_loss(labels, p))


def test_top_1_is_accuracy_and_few_classes_are_all_in_the_top_5() -> None:
    top_1 = metrics.top_k_accuracy(LOGITS, LABELS, 1)
    assert top_1 == pytest.approx(metrics.accuracy(LOGITS, LABELS))
    assert metrics.top_k_accuracy(LOGITS[:, :4], LABELS % 4) == 100
    with pytest.raises(InputError, match="k of at least 1; got 0"):
        metrics.top_k_accuracy(LOGITS, LABELS, 0)


def test_a_class_without_an_image_does_not_count() -> None:
    labels = LABELS.clamp(max=5)
    each = metrics.per_class_accuracy(LOGITS, labels, 7)
    assert each[6].isnan()
    mean = metrics.mean_class_accuracy(LOGITS, labels)
    assert mean == pytest.approx(each[:6].mean().item())


def test_calibration_error_by_hand() -> None:
    # Confidence 0.8 thrice with two hits, 0.6 once with none: (3 |2/3 - 0.8| + 1 |0 - 0.6|) / 4.
    p = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.6, 0.4]])
    labels = torch.tensor([0, 0, 0, 1])
    expected = 100 * (3 * abs(2 / 3 - 0.8) + 0.6) / 4
    assert metrics.expected_calibration_error(p.log(), labels) == pytest.approx(expected, rel=1e-5)
    certain = torch.tensor([[100.0, 0.0]])
    assert metrics.expected_calibration_error(certain, torch.tensor([0])) == pytest.approx(0)
    with pytest.raises(InputError, match="at least 1 bin"):
        metrics.expected_calibration_error(p, labels, 0)


def test_an_interval_over_seeds() -> None:
    summary = metrics.summarize([80.0, 82.0, 84.0])
    assert (summary.mean, summary.std) == (82, 2)
    # Student's t at 97.5 % with two degrees of freedom.
    assert summary.ci95 == pytest.approx(4.302653 * 2 / math.sqrt(3))
    assert metrics.summarize([80.0]).ci95 is None
    with pytest.raises(InputError, match="at least one seed"):
        metrics.summarize([])
