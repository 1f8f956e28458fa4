"""k-NN against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task, draw_validation_set
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from cafe.errors import InputError
from cafe.methods.knn import COUNTS, FLOOR, Knn

pytestmark = pytest.mark.usefixtures("one_thread")

TEST = draw_images()


@pytest.mark.parametrize("k", [1, 3, 20])
def test_votes_as_scikit_learn_does(k: int) -> None:
    train = draw_task()

    def weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp((1 - distance) / 0.07)

    oracle = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weight)
    oracle.fit(train.features.unit.double().numpy(), train.features.y.numpy())
    shares = oracle.predict_proba(TEST.unit.double().numpy())
    expected = np.log((shares + FLOOR) / (1 + CLASSES * FLOOR))
    np.testing.assert_allclose(Knn(k).fit(train).logits(TEST.x).numpy(), expected, atol=1e-3)


def test_logits_are_log_probabilities() -> None:
    logits = Knn(3).fit(draw_task()).logits(TEST.x)
    torch.testing.assert_close(logits.exp().sum(dim=-1), torch.ones(len(TEST)))


def test_validation_takes_the_best_k() -> None:
    train, held = draw_task((8,) * CLASSES), draw_validation_set()
    chosen = Knn().fit(train, validation=held).params["k"]

    def score(k: int) -> tuple[float, float]:
        assert held.features is not None
        logits = Knn(k).fit(train).logits(held.features.x).double()
        hits = (logits.argmax(dim=-1) == held.features.y).double().mean().item()
        return hits, -torch.nn.functional.cross_entropy(logits, held.features.y).item()

    assert chosen == max(COUNTS, key=score)


def test_refuses_what_is_no_count() -> None:
    with pytest.raises(InputError, match=r"k must be a whole number of at least 1; got 0\."):
        Knn(0)
    with pytest.raises(InputError, match=r"temperature must be a number above 0; got 0\."):
        Knn(3, 0)
