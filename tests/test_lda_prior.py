from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task, draw_validation_set

from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Validation
from cafe.methods.gda import fit_gaussian
from cafe.methods.lda_prior import (
    LdaPrior,
    candidate_heads,
    gaussian,
    gaussians,
    measure,
    posterior,
)

TEST = draw_images()

pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(train: TrainingSet, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """The formulas of the docstrings, one class at a time."""
    x, y = train.features.unit.double().numpy(), train.features.y.numpy()
    w = train.text.weights.double().numpy()
    present = [c for c in range(len(w)) if (y == c).any()]
    m = np.mean([x[y == c].mean(0) for c in present], axis=0)
    t = w - w.mean(0)
    up = sum((x[y == c].mean(0) - m) @ t[c] for c in present)
    slope = max(0.0, up / sum(t[c] @ t[c] for c in present))
    mu = m + slope * t
    for c in present:
        n = (y == c).sum()
        mu[c] += n / (n + kappa) * (x[y == c].mean(0) - mu[c])
    residual = x - mu[y]
    scatter = residual.T @ residual
    ridge = np.trace(scatter) / len(x) * np.eye(x.shape[1])
    weights = x.shape[1] * (mu - m) @ np.linalg.inv(scatter + ridge)
    # log N(x; mu, S) up to what the classes share, with every mean taken from m
    intercept = [-w_c @ (m + (mu_c - m) / 2) for w_c, mu_c in zip(weights, mu, strict=True)]
    return weights, np.array(intercept)


@pytest.mark.parametrize("counts", [(4,) * 5, (1,) * 5, (1, 7, 2, 4, 3), (3, 3, 0, 3, 3)])
@pytest.mark.parametrize("kappa", [0.5, 3.0])
def test_is_what_the_formula_says(counts: tuple[int, ...], kappa: float) -> None:
    train = draw_task(counts)
    weights, intercept = by_hand(train, kappa)
    head = LdaPrior(kappa, 0.2).fit(train)
    x = TEST.unit.double().numpy()
    zero_shot = 20 * x @ train.text.weights.double().numpy().T
    expected = zero_shot + 0.2 * (x @ weights.T + intercept)
    np.testing.assert_allclose(head.logits(TEST.x).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize(
    "counts", [(1,) * 5, (1, 7, 2, 4, 3), (3, 3, 0, 3, 3), (0, 1, 0, 0, 0), (9,) * 5]
)
def test_several_kappas_at_once_are_what_each_gives(counts: tuple[int, ...]) -> None:
    """Of fewer images and classes than the width, 24, by their inner products; else one by one."""
    train = draw_task(counts)
    moments = measure(train.features, train.text.weights)
    for kappa, found in gaussians(train.features, train.text.weights, (0.5, 3.0, 30.0)).items():
        torch.testing.assert_close(found, gaussian(moments, kappa), rtol=1e-9, atol=1e-9)


def test_a_strong_prior_is_the_text_and_a_weak_one_the_images() -> None:
    train = draw_task((6,) * CLASSES)
    moments = measure(train.features, train.text.weights)
    torch.testing.assert_close(posterior(moments, 1e9)[0], moments.prior, atol=1e-6, rtol=0)
    torch.testing.assert_close(posterior(moments, 1e-9)[0], moments.means, atol=1e-6, rtol=0)


def test_without_the_prior_it_is_gda() -> None:
    """But for N in place of N - 1 in the ridge, which many images make little of."""
    train = draw_task((200,) * CLASSES)
    moments = measure(train.features, train.text.weights)
    ours, theirs = gaussian(moments, 1e-9), fit_gaussian(train.features, CLASSES)
    x = TEST.unit.double()
    found = x @ ours.weights.mT + ours.intercept
    expected = x @ theirs.weights.mT + theirs.intercept
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=0.05, rtol=0)


def test_a_class_without_images_is_where_the_text_says() -> None:
    train = draw_task((3, 3, 0, 3, 3))
    moments = measure(train.features, train.text.weights)
    assert torch.equal(posterior(moments, 3.0)[0][2], moments.prior[2])


def test_texts_that_point_the_wrong_way_count_for_nothing() -> None:
    train = draw_task((6,) * CLASSES)
    moments = measure(train.features, -train.text.weights)
    assert moments.prior.abs().max() == 0


def test_validation_chooses_among_the_candidates() -> None:
    train, held_out = draw_task((4,) * CLASSES), draw_validation_set()
    chosen = LdaPrior().fit(train, validation=held_out).params
    assert held_out.features is not None
    scores = {}
    for kappa in (1.0, 3.0, 10.0, 30.0):
        for beta in (0.03, 0.1, 0.3):
            logits = LdaPrior(kappa, beta).fit(train).logits(held_out.features.x)
            scores[kappa, beta] = int((logits.argmax(-1) == held_out.features.y).sum())
    assert scores[chosen["kappa"], chosen["beta"]] == max(scores.values())
    assert LdaPrior(beta=0.3).fit(train, validation=Validation("cv")).params["kappa"] in (
        1,
        3,
        10,
        30,
    )
    assert LdaPrior(5.0, 0.2).fit(train).params == {"kappa": 5.0, "beta": 0.2}


def test_candidates_are_fitted_side_by_side() -> None:
    train = draw_task()
    heads = candidate_heads(train, list(product([1.0, 9.0], [0.1, 0.3, 0.5])))
    assert heads.weights.shape == (6, CLASSES, 24)
    alone = LdaPrior(9.0, 0.3).fit(train)
    torch.testing.assert_close(heads.weights[4], alone.weights)
    torch.testing.assert_close(heads.intercept[4], alone.intercept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kappa": 0.0}, "kappa must be a number above 0; got 0.0."),
        ({"beta": -1.0}, "beta must be a number of at least 0; got -1.0."),
        ({"kappas": (1.0, -2.0)}, "kappa must be a number above 0; got -2.0."),
        ({"betas": (float("nan"),)}, "beta must be a number of at least 0; got nan."),
    ],
)
def test_refuses_what_cannot_be_meant(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LdaPrior(**settings)  # type: ignore[arg-type]
