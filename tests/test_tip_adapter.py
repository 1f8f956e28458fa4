"""Tip-Adapter and Tip-Adapter-F against their formula, brute force, and a plain training loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task, draw_validation_set
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Validation
from cafe.methods.tip_adapter.search import CandidateGrid, count_hits, search
from cafe.methods.tip_adapter.tip_adapter import TipAdapter, affinities, cache_keys
from cafe.methods.tip_adapter.tip_adapter_f import TipAdapterF
from cafe.methods.validation import Fold

pytestmark = pytest.mark.usefixtures("one_thread")

FP32 = Context(precision="fp32")
TEST = draw_images()


def formula(keys: Tensor, train: TrainingSet, x: Tensor, alpha: float, beta: float) -> Tensor:
    x, w = normalize(x, dim=-1).double(), train.text.weights.double()
    values = one_hot(train.features.y, CLASSES).double()
    cache = torch.exp(-beta * (1 - x @ keys.double().T)) @ values
    return train.text.logit_scale * x @ w.T + alpha * cache


def test_is_the_formula() -> None:
    train = draw_task()
    expected = formula(train.features.unit, train, TEST.x, 1.0, 5.5)
    logits = TipAdapter().fit(train).logits(TEST.x)
    np.testing.assert_allclose(logits.numpy(), expected.numpy(), atol=1e-3)


def test_keys_are_the_mean_of_the_views() -> None:
    features = draw_task(views=4).features
    assert features.views is not None
    views = features.views.numpy()
    unit = views / np.linalg.norm(views, axis=-1, keepdims=True)
    mean = unit.mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(cache_keys(features).numpy(), expected, atol=1e-6)


def test_the_grid_is_that_of_the_authors() -> None:
    betas, alphas = CandidateGrid(7, 3).values()
    np.testing.assert_allclose(betas, [i * (7 - 0.1) / 200 + 0.1 for i in range(200)])
    np.testing.assert_allclose(alphas, [i * (3 - 0.1) / 20 + 0.1 for i in range(20)])


@pytest.mark.parametrize("counts", [(4,) * CLASSES, (1, 3, 0, 6, 2)])
def test_counts_hits_as_brute_force_does(counts: tuple[int, ...]) -> None:
    train = draw_task(counts)
    cache = affinities(cache_keys(train.features), Fold(train, TEST))
    betas, alphas = CandidateGrid(betas=15, alphas=8).values()
    found = count_hits(cache, betas, alphas)
    for i, beta in enumerate(betas.tolist()):
        for j, alpha in enumerate(alphas.tolist()):
            logits = formula(train.features.unit, train, TEST.x, alpha, beta)
            assert found[i, j] == (logits.argmax(dim=-1) == TEST.y).sum()


def test_of_equal_hits_the_likelier_pair_is_taken() -> None:
    train, held = draw_task(), draw_validation_set()
    assert held.features is not None
    grid = CandidateGrid(betas=12, alphas=6)
    cache = affinities(cache_keys(train.features), Fold(train, held.features))
    betas, alphas = grid.values()
    pairs = [(a, b) for a in alphas.tolist() for b in betas.tolist()]

    def score(pair: tuple[float, float]) -> tuple[float, float]:
        assert held.features is not None
        logits = formula(train.features.unit, train, held.features.x, *pair)
        hits = (logits.argmax(dim=-1) == held.features.y).double().mean().item()
        return hits, -cross_entropy(logits, held.features.y).item()

    expected = max(pairs, key=score)
    assert search([cache], grid) == pytest.approx(expected)
    params = TipAdapter(grid=grid).fit(train, validation=held).params
    assert (params["alpha"], params["beta"]) == pytest.approx(expected)


def test_one_shot_has_no_folds_and_keeps_the_defaults() -> None:
    train = draw_task((1,) * CLASSES)
    params = TipAdapter().fit(train, validation=Validation("cv")).params
    assert (params["alpha"], params["beta"]) == (1.0, 5.5)


def trained_keys(train: TrainingSet, epochs: int) -> Tensor:
    """The authors' loop: AdamW with their epsilon, cosine, whole batches."""
    keys = cache_keys(train.features).clone().requires_grad_()
    optimizer = torch.optim.AdamW([keys], lr=1e-3, eps=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    x, y = train.features.unit, train.features.y
    values = one_hot(y, CLASSES).float()
    for _ in range(epochs):
        cache = torch.exp(-5.5 * (1 - x @ keys.T)) @ values
        loss = cross_entropy(train.text.logit_scale * x @ train.text.weights.T + cache, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    return keys.detach()


def test_keys_are_trained_as_the_authors_do() -> None:
    train = draw_task()
    method = TipAdapterF(context=Context(precision="fp32"))
    head = method.fit(train)
    keys = trained_keys(train, epochs=20)
    moved = (keys - cache_keys(train.features)).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(head.tensors()["keys"], keys, atol=1e-5, rtol=0)
    expected = formula(keys, train, TEST.x, 1.0, 5.5).float()
    torch.testing.assert_close(head.logits(TEST.x), expected, atol=1e-3, rtol=0)


def test_balanced_classes_count_the_same_however_many_shots_they_have() -> None:
    train = draw_task((9, 3, 1, 0, 3))
    keys, y = train.features.unit, train.features.y
    head = TipAdapter(2.0, 3.0, balance=True).fit(train)
    x = TEST.unit
    affinity = (-3.0 * (1 - x @ keys.T)).exp()  # (N, M)
    means = torch.stack([affinity[:, y == label].mean(dim=1) for label in (0, 1, 2, 4)], dim=1)
    votes = torch.cat([means[:, :3], means.mean(dim=1, keepdim=True), means[:, 3:]], dim=1)
    zero_shot = train.text.logit_scale * x @ train.text.weights.T
    expected = zero_shot + 2.0 * 16 / 4 * votes  # 16 shots in 4 classes
    torch.testing.assert_close(head.logits(TEST.x), expected, atol=1e-4, rtol=0)
    assert head.params["balance"] is True


@pytest.mark.parametrize("kind", [TipAdapter, TipAdapterF])
@pytest.mark.parametrize("protocol", ["none", "cv"])
def test_with_equal_shots_balance_changes_nothing(kind: Any, protocol: Any) -> None:
    train, validation = draw_task(), Validation(protocol)
    plain, balanced = (
        kind(balance=balance, context=FP32).fit(train, validation=validation)
        for balance in (False, True)
    )
    torch.testing.assert_close(balanced.logits(TEST.x), plain.logits(TEST.x), atol=1e-3, rtol=0)


def test_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match=r"beta must be a number of at least 0; got -1\."):
        TipAdapter(beta=-1)
    with pytest.raises(InputError, match=r"alpha must be a number of at least 0; got inf\."):
        TipAdapterF(float("inf"))
    with pytest.raises(InputError, match=r"most_beta must be a number above 0"):
        CandidateGrid(most_beta=0)
