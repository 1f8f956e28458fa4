"""Linear probe, TaskRes, CLAP and cross-modal against scikit-learn and plain training loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task, draw_validation_set
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.engine import BatchOrder, Recipe
from cafe.errors import InputError
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Validation
from cafe.methods.clap import Clap, multipliers
from cafe.methods.cross_modal import CrossModalLinear
from cafe.methods.linear_probe import LinearProbe
from cafe.methods.logistic_regression import label_sets
from cafe.methods.taskres import TaskRes

pytestmark = pytest.mark.usefixtures("one_thread")

TEST = draw_images()
FP32 = Context(precision="fp32")
RECIPE = Recipe(lr=2e-3, weight_decay=0.0, epochs=30)


def descend(start: Tensor, loss: Callable[[Tensor, int], Tensor], recipe: Recipe) -> Tensor:
    """AdamW with a cosine decay on whole batches, by autograd."""
    w = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([w], lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    for epoch in range(recipe.epochs):
        optimizer.zero_grad()
        loss(w, epoch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    return w.detach()


def cosine_logits(train: TrainingSet, x: Tensor, w: Tensor) -> Tensor:
    return train.text.logit_scale * normalize(x, dim=-1) @ normalize(w, dim=-1).T


@pytest.mark.parametrize("c", [1.0, 31.6])
def test_plain_probe_is_scikit_learn(c: float) -> None:
    train = draw_task((3, 6, 4, 8, 5))
    x, y = train.features.unit.double().numpy(), train.features.y.numpy()
    oracle = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(x, y)
    expected = oracle.decision_function(TEST.unit.double().numpy())
    logits = LinearProbe(c=c).fit(train).logits(TEST.x).numpy()
    # Logits are known up to a constant per image.
    logits -= logits.mean(axis=1, keepdims=True)
    expected -= expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, expected, atol=1e-3)


@pytest.mark.parametrize("c", [1.0, 31.6])
def test_probe_by_a_sigmoid_loss_is_one_regression_against_the_rest_each(c: float) -> None:
    train = draw_task((3, 6, 4, 8, 5))
    x, y = train.features.unit.double().numpy(), train.features.y.numpy()
    regression = LogisticRegression(C=c, tol=1e-9, max_iter=10_000)
    oracle = OneVsRestClassifier(regression).fit(x, y)
    head = LinearProbe(c=c, loss="sigmoid").fit(train)
    expected = oracle.decision_function(TEST.unit.double().numpy())
    np.testing.assert_allclose(head.logits(TEST.x).numpy(), expected, atol=1e-3)
    assert head.own_scores
    again = LinearProbe.make_head(head.tensors(), head.params)
    assert again.own_scores
    assert "loss" not in LinearProbe().fit(train).params


def test_rows_of_the_same_features_share_their_labels() -> None:
    train = draw_task((3, 6, 4, 8, 5))
    features = train.features
    twins = (features.y == 1).nonzero().squeeze(1)  # are of class 3 too
    x = torch.cat([features.x, 2 * features.x[twins] + 1e-6])
    y = torch.cat([features.y, torch.full_like(twins, 3)])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    both = TrainingSet(Features(x[order], y[order]), train.text)
    sets = label_sets(both.features, CLASSES)
    assert sets.sum(dim=1).tolist() == [2.0 if s[1] else 1.0 for s in sets]
    x64 = both.features.unit.double().numpy()
    oracle = OneVsRestClassifier(LogisticRegression(C=10, tol=1e-9, max_iter=10_000))
    expected = oracle.fit(x64, sets.numpy()).decision_function(TEST.unit.double().numpy())
    logits = LinearProbe(c=10, loss="sigmoid").fit(both).logits(TEST.x)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-3)
    assert label_sets(features[torch.arange(0)], CLASSES).shape == (0, CLASSES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, "loss must be 'softmax' or 'sigmoid'; got 'hinge'"),
        ({"loss": "sigmoid", "start": "zero-shot"}, "loss 'sigmoid' is for start 'zero'"),
    ],
)
def test_losses_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LinearProbe(**settings)


def test_probe_chooses_its_penalty_as_single_fits_would() -> None:
    train, held = draw_task(), draw_validation_set()
    assert held.features is not None
    cs = (0.1, 10.0, 1e3)
    chosen = LinearProbe(cs=cs).fit(train, validation=held).params["c"]

    def score(c: float) -> tuple[float, float]:
        assert held.features is not None
        logits = LinearProbe(c=c).fit(train).logits(held.features.x)
        hits = (logits.argmax(dim=-1) == held.features.y).double().mean().item()
        return hits, -cross_entropy(logits, held.features.y).item()

    assert chosen == max(cs, key=score)


def test_probe_from_the_texts_is_a_plain_loop() -> None:
    train = draw_task()
    x, y = train.features.x, train.features.y
    w = descend(
        train.text.weights, lambda w, _: cross_entropy(cosine_logits(train, x, w), y), RECIPE
    )
    head = LinearProbe("zero-shot", recipe=RECIPE, context=FP32).fit(train)
    assert head.params["start"] == "zero-shot"
    torch.testing.assert_close(
        head.logits(TEST.x), cosine_logits(train, TEST.x, w), atol=1e-3, rtol=0
    )


def test_taskres_is_a_plain_loop() -> None:
    train = draw_task()
    x, y, t = train.features.x, train.features.y, train.text.weights
    r = descend(
        torch.zeros_like(t),
        lambda r, _: cross_entropy(cosine_logits(train, x, t + 0.5 * r), y),
        RECIPE,
    )
    head = TaskRes(recipe=RECIPE, context=FP32).fit(train)
    assert head.params["alpha"] == 0.5
    torch.testing.assert_close(
        head.logits(TEST.x), cosine_logits(train, TEST.x, t + 0.5 * r), atol=1e-3, rtol=0
    )


def test_taskres_trains_longer_on_many_shots() -> None:
    few, many = draw_task((4,) * CLASSES), draw_task((8,) * CLASSES)
    method = TaskRes(context=FP32)
    assert method.recipe_for(few).epochs == 100
    assert method.recipe_for(many).epochs == 200
    assert TaskRes(recipe=RECIPE).recipe_for(many) == RECIPE


def test_taskres_chooses_its_weight() -> None:
    method = TaskRes(alphas=(0.1, 1.0), recipe=RECIPE, context=FP32)
    train = draw_task()
    assert method.fit(train, validation=draw_validation_set()).params["alpha"] in (0.1, 1.0)
    one_shot = draw_task((1,) * CLASSES)
    assert method.fit(one_shot, validation=Validation("cv")).params["alpha"] == 0.5


def test_clap_is_a_plain_loop() -> None:
    train = draw_task((1, 5, 0, 4, 4))
    x, y, t = train.features.x, train.features.y, train.text.weights
    zero_shot = cosine_logits(train, x, t).softmax(dim=-1)
    lambdas = torch.tensor(
        [zero_shot[y == c, c].mean().item() if (y == c).any() else 1.0 for c in range(CLASSES)]
    )
    torch.testing.assert_close(multipliers(train), lambdas)

    def loss(w: Tensor, _: int) -> Tensor:
        pull = (lambdas * (w - t).square().sum(dim=-1)).mean()
        return cross_entropy(cosine_logits(train, x, w), y) + 100 * pull

    w = descend(t, loss, RECIPE)
    head = Clap(recipe=RECIPE, context=FP32).fit(train)
    torch.testing.assert_close(
        head.logits(TEST.x), cosine_logits(train, TEST.x, w), atol=1e-3, rtol=0
    )


def test_clap_comes_to_the_minimum_of_its_loss() -> None:
    train = draw_task()
    long = Clap(recipe=Recipe(lr=1e-3, weight_decay=0.0, epochs=700), context=FP32).fit(train)
    usual = Clap(context=FP32).fit(train)
    torch.testing.assert_close(long.logits(TEST.x), usual.logits(TEST.x), atol=0.02, rtol=0)


def test_cross_modal_is_a_plain_loop() -> None:
    train = draw_task(prompts=3)
    x, y, text = train.features.unit, train.features.y, train.text
    prompts = normalize(text.features, dim=-1)  # (C, P, D)
    order = BatchOrder(0, len(y))
    rows = [order.epoch() for _ in range(RECIPE.epochs)]
    place = torch.arange(len(y))

    def loss(w: Tensor, epoch: int) -> Tensor:
        labels = (rows[epoch] + place) % CLASSES
        texts = prompts[labels, place % 3]
        on_images = cross_entropy(text.logit_scale * x @ w.T, y)
        return on_images + cross_entropy(text.logit_scale * texts @ w.T, labels)

    w = descend(text.weights, loss, RECIPE)
    head = CrossModalLinear(recipe=RECIPE, context=FP32).fit(train)
    expected = text.logit_scale * TEST.unit @ w.T
    torch.testing.assert_close(head.logits(TEST.x), expected, atol=1e-3, rtol=0)


def test_cross_modal_passes_over_missing_prompts() -> None:
    train = draw_task()
    train.text.features[2, 1:] = 0  # this class has one prompt
    head = CrossModalLinear(recipe=RECIPE, context=FP32).fit(train)
    assert head.logits(TEST.x).isfinite().all()


def test_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match=r"start must be 'zero' or 'zero-shot'; got 'text'\."):
        LinearProbe("text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"c must be a number above 0; got 0\."):
        LinearProbe(c=0)
    with pytest.raises(InputError, match=r"alpha must be a number above 0; got nan\."):
        TaskRes(float("nan"))
    with pytest.raises(InputError, match=r"strength must be a number above 0; got -1\."):
        Clap(-1)
    with pytest.raises(InputError, match=r"lr must be a number above 0; got 0\."):
        CrossModalLinear(rates=(0,))
