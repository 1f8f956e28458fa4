"""Metrics of logits that come in blocks, against counting by hand and scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.metrics import top_k_accuracy_score as sklearn_top_k
from torch.nn.functional import cross_entropy

from cafe.errors import InputError
from cafe.results.image_scores import ImageScores, in_top
from cafe.results.metrics import accuracy


def score_images(
    blocks: Sequence[torch.Tensor], labels: torch.Tensor, temperature: float | None = None
) -> ImageScores:
    scores = ImageScores.room_for(labels, blocks[0].shape[-1], temperature)
    start = 0
    for logits in blocks:
        scores.add(logits, start)
        start += len(logits)
    return scores


GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(200, 7, generator=GENERATOR)
LABELS = torch.randint(7, (200,), generator=GENERATOR)
SCORES = score_images([LOGITS], LABELS)


def test_agrees_with_scikit_learn() -> None:
    predicted, labels = LOGITS.argmax(dim=-1).numpy(), LABELS.numpy()
    p = LOGITS.double().softmax(dim=-1).numpy()
    expected = 100 * balanced_accuracy_score(labels, predicted)
    assert SCORES.mean_class_accuracy == pytest.approx(expected)
    assert SCORES.top_5_accuracy == pytest.approx(100 * sklearn_top_k(labels, LOGITS.numpy(), k=5))
    for k in (1, 3, 5):
        share = in_top(LOGITS, LABELS, k).float().mean().item()
        assert share == pytest.approx(sklearn_top_k(labels, LOGITS.numpy(), k=k))
    assert SCORES.negative_log_likelihood == pytest.approx(log_loss(labels, p))


def test_the_loss_has_every_digit_of_cross_entropy() -> None:
    assert SCORES.negative_log_likelihood == cross_entropy(LOGITS.double(), LABELS).item()
    assert SCORES.accuracy == accuracy(LOGITS, LABELS)


def test_blocks_are_as_good_as_all_at_once() -> None:
    blocks = score_images(torch.split(LOGITS, 33), LABELS)
    for name in ("predicted", "in_top_5", "log_likelihood", "confidence"):
        assert torch.equal(getattr(blocks, name), getattr(SCORES, name))
    assert blocks.negative_log_likelihood == SCORES.negative_log_likelihood
    assert torch.equal(blocks.reliability(), SCORES.reliability())


def test_few_classes_are_all_in_the_top_5() -> None:
    assert score_images([LOGITS[:, :4]], LABELS % 4).top_5_accuracy == 100
    with pytest.raises(InputError, match="k of at least 1; got 0"):
        in_top(LOGITS, LABELS, 0)


def test_a_class_without_an_image_does_not_count() -> None:
    scores = score_images([LOGITS], LABELS.clamp(max=5))
    each = scores.per_class_accuracy
    assert each[6].isnan()
    assert scores.mean_class_accuracy == pytest.approx(each[:6].mean().item())


def test_calibration_error_by_hand() -> None:
    # Confidence 0.8 thrice with two hits, 0.6 once with none: (3 |2/3 - 0.8| + 1 |0 - 0.6|) / 4.
    p = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.6, 0.4]])
    scores = score_images([p.log()], torch.tensor([0, 0, 0, 1]))
    expected = 100 * (3 * abs(2 / 3 - 0.8) + 0.6) / 4
    assert scores.expected_calibration_error() == pytest.approx(expected, rel=1e-5)
    certain = score_images([torch.tensor([[100.0, 0.0]])], torch.tensor([0]))
    assert certain.expected_calibration_error() == pytest.approx(0)
    cooled, plain = score_images([LOGITS], LABELS, 2.5), score_images([LOGITS / 2.5], LABELS)
    torch.testing.assert_close(
        cooled.reliability(calibrated=True), plain.reliability(), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(cooled.reliability(), SCORES.reliability())
    with pytest.raises(InputError, match="at least 1 bin"):
        scores.expected_calibration_error(0)
