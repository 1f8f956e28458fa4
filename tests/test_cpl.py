"""Counterfactual features against a linear program, and what is trained on them against loops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_run import call, digits_run
from drawing import CLASSES, DrawnTower, draw_images, draw_task
from scipy.optimize import linprog
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.engine import Batch, Recipe, Run, train
from cafe.engine.stack import make_batch
from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.clip_adapter.architecture import VisualAdapter
from cafe.methods.clip_adapter.counterfactual_architecture import (
    CounterfactualAdapter,
    confusable_classes,
    counterfactuals,
    smallest_mask,
)
from cafe.methods.clip_adapter.method import ClipAdapter, ClipAdapterText
from cafe.methods.prompt_learning.coop import Coop
from cafe.methods.prompt_learning.cpl import Cpl

pytestmark = pytest.mark.usefixtures("one_thread")

FP32 = Context(precision="fp32")
RECIPE = Recipe(lr=0.05, weight_decay=0.0, epochs=6, batch_size=16)
TEST = draw_images()


def draw_edit(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image of a class, a feature of another one, and the way from class to class."""
    noise = torch.Generator().manual_seed(seed)
    own, other = normalize(torch.randn(2, 24, generator=noise), dim=-1)
    z, negative = (
        normalize(w + 0.15 * torch.randn(24, generator=noise), dim=-1) for w in (own, other)
    )
    return z, negative, other - own


@pytest.mark.parametrize("seed", range(8))
def test_the_mask_is_the_smallest(seed: int) -> None:
    z, negative, towards = draw_edit(seed)
    mask = smallest_mask(z, negative, towards)
    gains = ((negative - z) * towards).double().numpy()
    lack = -float(towards @ z)
    assert lack > 0
    oracle = linprog(np.ones(24), A_ub=-gains[None], b_ub=[-lack], bounds=(0, 1))
    assert float(mask.sum()) == pytest.approx(oracle.fun, abs=1e-4)
    assert float(towards @ (z + mask * (negative - z))) == pytest.approx(0, abs=1e-5)
    assert mask.min() >= 0
    assert mask.max() <= 1


def test_nothing_is_edited_where_the_class_is_lost_already() -> None:
    z, negative, towards = draw_edit(0)
    assert not smallest_mask(negative, z, towards).any()
    assert not smallest_mask(z, z, towards).any()


def test_where_nothing_suffices_all_that_helps_is_replaced() -> None:
    z, _, towards = draw_edit(0)
    almost = z + 0.01 * towards * torch.tensor([1.0, -1.0]).repeat(12)
    helps = ((almost - z) * towards) > 0
    assert torch.equal(smallest_mask(z, almost, towards), helps.float())


def test_the_confusable_class_has_images() -> None:
    weights = normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.7, 0.7], [-1.0, 0.0]]), dim=-1)
    assert confusable_classes(weights, torch.tensor([1, 1, 1, 1])).tolist() == [1, 0, 1, 2]
    assert confusable_classes(weights, torch.tensor([1, 0, 1, 1])).tolist() == [2, 0, 0, 2]
    assert confusable_classes(weights, torch.tensor([1, 0, 0, 0])).tolist() == [0, 0, 0, 0]


def edited_by_hand(train_set: TrainingSet) -> Tensor:
    """Every image's counterfactual, one at a time. (N, D)"""
    features, weights = train_set.features, train_set.text.weights
    rows = []
    for z, y in zip(features.unit, features.y.tolist(), strict=True):
        cosines = (weights @ weights[y]).tolist()
        cosines[y] = -2.0
        other = max(range(CLASSES), key=cosines.__getitem__)
        negative = normalize(features.unit[features.y == other].sum(dim=0), dim=-1)
        mask = smallest_mask(z, negative, weights[other] - weights[y])
        rows.append((1 - mask) * z + mask * negative)
    return torch.stack(rows)


def contrast_by_hand(own: Tensor, factual: Tensor, edited: Tensor, scale: float) -> Tensor:
    """Cross-entropy of telling the factual feature (0) from the edited one (1). ()"""
    pair = torch.stack([(own * normalize(v, dim=-1)).sum(dim=-1) for v in (factual, edited)], 1)
    return cross_entropy(scale * pair, torch.zeros(len(pair), dtype=torch.int64))


def test_the_loss_is_the_loss_by_hand() -> None:
    train_set = draw_task()
    x, y = train_set.features.unit, train_set.features.y
    classes = normalize(torch.randn(CLASSES, 24), dim=-1)
    loss = Cpl(4, contrast=0.5, tower=DrawnTower()).objective(train_set.text)
    found = loss(classes[None], loss.see(x, y, train_set)[None], y[None])
    told = contrast_by_hand(classes[y], x, edited_by_hand(train_set), 20.0)
    expected = cross_entropy(20.0 * x @ classes.T, y) + 0.5 * told
    torch.testing.assert_close(found, expected[None], atol=1e-5, rtol=1e-5)


def test_an_empty_mask_or_no_contrast_is_coop() -> None:
    train_set, tower = draw_task(), DrawnTower()
    plain = Coop(4, tower=tower, recipe=RECIPE, context=FP32).fit(train_set).logits(TEST.x)
    for settings in ({"mask": 0.0}, {"contrast": 0.0}):
        found = Cpl(4, tower=tower, recipe=RECIPE, context=FP32, **settings).fit(train_set)
        torch.testing.assert_close(found.logits(TEST.x), plain, atol=1e-5, rtol=1e-5)
    whole = Cpl(4, tower=tower, recipe=RECIPE, context=FP32).fit(train_set).logits(TEST.x)
    assert (whole - plain).abs().max() > 0.01


def adapter_run(**changes: float) -> Run:
    architecture = CounterfactualAdapter(bottleneck=6, **changes)  # type: ignore[arg-type]
    return Run(architecture, 0, 0, Recipe(epochs=10), {"ratio": 0.3})


def test_an_empty_mask_is_the_plain_adapter() -> None:
    train_set = draw_task()
    plain = Run(VisualAdapter(bottleneck=6), 0, 0, Recipe(epochs=10), {"ratio": 0.3})
    runs = [adapter_run(mask=0.0), adapter_run(weight=0.0), adapter_run(), plain]
    *found, other, expected = train(runs, [train_set], precision="fp32")
    for one in found:
        torch.testing.assert_close(one.tensors, expected.tensors, atol=1e-5, rtol=1e-4)
    assert (other.tensors["down"] - expected.tensors["down"]).abs().max() > 1e-3


def adapter_batch(train_set: TrainingSet, run: Run) -> tuple[dict[str, Tensor], Batch]:
    """Initial parameters and one batch of all images, of one run."""
    architecture, features, text = run.architecture, train_set.features, train_set.text
    params = {name: v[None, None] for name, v in architecture.initial(run, train_set).items()}
    pairs = architecture.examples(train_set).x
    rows = {name: value[None] for name, value in architecture.rows(pairs, text).items()}
    constants = {name: v[None, None] for name, v in architecture.constants(train_set).items()}
    scalars = {"ratio": torch.full((1, 1, 1, 1), 0.3)}
    return params, make_batch({**rows, "y": features.y[None]}, scalars, constants, text)


def test_the_adapter_s_penalty_is_the_contrast_by_hand() -> None:
    train_set = draw_task()
    run = adapter_run(weight=0.5)
    params, batch = adapter_batch(train_set, run)
    down, up = params["down"][0, 0], params["up"][0, 0]
    features = train_set.features
    norms = features.x.norm(dim=-1, keepdim=True)  # raw features give the same

    def adapted(v: Tensor) -> Tensor:
        return 0.3 * torch.relu(torch.relu(v @ down.T) @ up) + 0.7 * v

    factual, edited = (adapted(v * norms) for v in (features.unit, edited_by_hand(train_set)))
    own = train_set.text.weights[features.y]
    expected = 0.5 * contrast_by_hand(own, factual, edited, 20.0)
    penalty = run.architecture.penalty(params, batch)
    assert penalty is not None
    torch.testing.assert_close(penalty, expected.view(1, 1), atol=1e-5, rtol=1e-5)


def test_an_adapter_with_counterfactuals_from_start_to_file() -> None:
    train_set = draw_task()
    for settings in ({}, {"ratio": "auto"}, {"ratio": "learn"}):
        method = ClipAdapter(counterfactual=1.0, recipe=Recipe(epochs=4), context=FP32, **settings)
        head = method.fit(train_set)
        assert head.params["counterfactual"] == 1.0
        assert head.logits(TEST.x).isfinite().all()
    assert "counterfactual" not in ClipAdapter(recipe=Recipe(epochs=1)).fit(train_set).params


def test_views_are_edited_one_by_one() -> None:
    train_set = draw_task(views=3)
    views = train_set.features.views
    assert views is not None
    architecture = CounterfactualAdapter(bottleneck=6)
    pairs = architecture.examples(train_set).views
    assert pairs is not None
    assert pairs.shape == (len(views), 3, 48)
    assert torch.equal(pairs[..., :24], normalize(views, dim=-1))
    alone = counterfactuals(normalize(views[:, 1], dim=-1), train_set.features.y, train_set)
    found = architecture.rows(pairs[:, 1], train_set.text)["edited"]
    torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-5)
    method = ClipAdapter(counterfactual=1.0, recipe=Recipe(epochs=2, views=True), context=FP32)
    assert method.fit(train_set).logits(TEST.x).isfinite().all()


def test_one_class_with_images_has_no_counterfactual() -> None:
    train_set = draw_task((0, 3, 0, 0, 0))
    x, y, weights = train_set.features.unit, train_set.features.y, train_set.text.weights
    assert torch.equal(counterfactuals(x, y, train_set), x)
    loss = Cpl(4, tower=DrawnTower()).objective(train_set.text)
    found = loss(weights[None], loss.see(x, y, train_set)[None], y[None])
    plain = cross_entropy(20.0 * x @ weights.T, y)
    torch.testing.assert_close(found, plain[None] + math.log(2), atol=1e-5, rtol=1e-5)


def test_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match=r"mask must be from 0 \(CoOp\) to 1 .*; got 1\.5"):
        Cpl(mask=1.5, tower=DrawnTower())
    with pytest.raises(InputError, match=r"contrast must be a number of at least 0; got -1\."):
        Cpl(contrast=-1, tower=DrawnTower())
    with pytest.raises(InputError, match="cpl learns prompts in the encoder's text tower"):
        Cpl()
    with pytest.raises(InputError, match="counterfactual must be a number of at least 0"):
        ClipAdapter(counterfactual=-1)
    with pytest.raises(InputError, match="take clip-adapter"):
        ClipAdapterText(counterfactual=1)


def test_from_the_command_line(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(digits_run(tmp_path_factory))
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    few = ["--shots", "2", "--seeds", "1", "--epochs", "2", "--runs", tmp_path, "--json"]
    methods = ["--method", "cpl", "--method", "clip-adapter"]
    answer = call(monkeypatch, capsys, "fit", *methods, "--counterfactual", *few)
    assert answer.code == 0, answer.err
    cpl, adapter = json.loads(answer.out)["results"][-2:]
    assert (cpl["params"]["contrast"], cpl["params"]["mask"]) == (1.0, 1.0)
    assert adapter["params"]["counterfactual"] == 1.0
    refused = call(monkeypatch, capsys, "fit", "--method", "gda", "--counterfactual")
    assert refused.code == 2
    assert "has no setting 'counterfactual'" in refused.err
