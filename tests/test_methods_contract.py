"""What every method of the catalog keeps to."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import get_args

import pytest
import torch
from drawing import CLASSES, draw_images, draw_task, draw_validation_set
from needing import settings_for
from torch import Tensor

from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import Context, Job, Method, Protocol, Validation
from cafe.methods.catalog import CATALOG, find_method, make_method
from cafe.methods.head import Head

pytestmark = pytest.mark.usefixtures("one_thread")

# A text is paired with each row, or folds are dealt by row: another order is another draw.
ORDER_IS_A_DRAW = {"cross-modal", "auto"}

TEST = draw_images()


def make(name: str) -> Method:
    """A method with its defaults, but for few epochs where it trains."""
    return make_method(name, Context(precision="fp32"), {"epochs": 6, **settings_for(name)})


def validation(protocol: Protocol) -> Validation:
    return Validation(protocol, draw_validation_set().features if "f" in protocol else None)


def fit(name: str, train: TrainingSet, protocol: Protocol = "none", seed: int = 0) -> Head:
    return make(name).fit(train, validation=validation(protocol), seed=seed)


def given(head: Head) -> Tensor:
    """The test images as the head takes them: features, or with their maps."""
    return TEST.inputs(**head.takes)


def probabilities(head: Head, factor: float = 1.0) -> Tensor:
    return head.logits(factor * given(head)).softmax(dim=-1)


def assert_usable(head: Head) -> None:
    logits = head.logits(given(head))
    assert logits.shape == (len(TEST), CLASSES)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", CATALOG)
class TestContract:
    def test_learns_something(self, name: str) -> None:
        head = fit(name, draw_task((8,) * CLASSES))
        assert_usable(head)
        assert (head.logits(given(head)).argmax(dim=-1) == TEST.y).float().mean() > 0.5
        assert head.method == name
        assert isinstance(head, find_method(name).head)

    @pytest.mark.parametrize("protocol", get_args(Protocol))
    def test_serves_every_protocol(self, name: str, protocol: Protocol) -> None:
        head = fit(name, draw_task(), protocol)
        assert_usable(head)
        again = fit(name, draw_task(), protocol)
        assert torch.equal(head.logits(given(head)), again.logits(given(again)))
        assert head.params == again.params

    @pytest.mark.parametrize("protocol", get_args(Protocol))
    @pytest.mark.parametrize(
        "counts", [(1,) * CLASSES, (1, 7, 2, 4, 3), (3, 3, 0, 3, 3), (0, 1, 0, 1, 1)]
    )
    def test_takes_any_counts(self, name: str, counts: tuple[int, ...], protocol: Protocol) -> None:
        assert_usable(fit(name, draw_task(counts), protocol))

    def test_ignores_the_order_of_rows(self, name: str) -> None:
        if name in ORDER_IS_A_DRAW:
            pytest.skip("another order of rows is another draw")
        train = draw_task()
        order = torch.randperm(len(train.features), generator=torch.Generator().manual_seed(1))
        shuffled = TrainingSet(train.features[order], train.text)
        torch.testing.assert_close(
            probabilities(fit(name, shuffled)), probabilities(fit(name, train)), atol=2e-3, rtol=0
        )

    def test_leaves_its_input_alone(self, name: str) -> None:
        train, held = draw_task(views=2), draw_validation_set()
        before = copy.deepcopy((train, held.features))
        head = make(name).fit(train, validation=held)
        x = given(head)
        head.logits(x)
        assert torch.equal(x, given(head))
        features, text = before[0].features, before[0].text
        assert torch.equal(train.features.x, features.x)
        assert torch.equal(train.features.y, features.y)
        assert train.features.views is not None
        assert features.views is not None
        assert torch.equal(train.features.views, features.views)
        assert torch.equal(train.text.features, text.features)
        assert held.features is not None
        assert before[1] is not None
        assert torch.equal(held.features.x, before[1].x)

    def test_does_not_care_for_norms(self, name: str) -> None:
        train = draw_task()
        images, text = train.features, train.text
        stretched = TrainingSet(
            replace(images, x=images.x * torch.linspace(0.5, 2, len(images))[:, None]),
            ClassText(text.features * 0.1, text.names, text.logit_scale),
        )
        torch.testing.assert_close(
            probabilities(fit(name, stretched), 3),
            probabilities(fit(name, train)),
            atol=2e-3,
            rtol=0,
        )

    def test_survives_a_file(self, name: str) -> None:
        head = fit(name, draw_task(), "cv")
        params = json.loads(json.dumps(dict(head.params)))
        tensors = {key: value.clone().contiguous() for key, value in head.tensors().items()}
        again = find_method(name).make_head(tensors, params)
        assert again.method == name
        assert params == dict(head.params)
        torch.testing.assert_close(
            again.logits(given(again)), head.logits(given(head)), atol=1e-5, rtol=0
        )

    def test_fits_many_as_one_by_one(self, name: str) -> None:
        trains = [draw_task(seed=seed) for seed in (0, 1)] + [draw_task((2,) * CLASSES)]
        jobs: list[tuple[TrainingSet, Protocol, int]] = [
            (trains[0], "none", 0),
            (trains[0], "none", 1),
            (trains[1], "full", 2),
            (trains[2], "cv", 0),
        ]
        many = make(name).fit_many(
            [Job(train, validation(protocol), seed) for train, protocol, seed in jobs]
        )
        assert len(many) == len(jobs)
        for head, (train, protocol, seed) in zip(many, jobs, strict=True):
            alone = fit(name, train, protocol, seed)
            assert head.params == alone.params
            torch.testing.assert_close(probabilities(head), probabilities(alone), atol=1e-3, rtol=0)

    def test_takes_a_batch_of_one(self, name: str) -> None:
        head = fit(name, draw_task())
        one = head.logits(given(head)[:1])
        torch.testing.assert_close(one, head.logits(given(head))[:1], atol=1e-4, rtol=1e-5)

    def test_a_logit_bias_changes_no_probability(self, name: str) -> None:
        plain, biased = draw_task(), draw_task(bias=-7.0)
        torch.testing.assert_close(
            probabilities(fit(name, biased)), probabilities(fit(name, plain)), atol=2e-3, rtol=0
        )

    def test_takes_views(self, name: str) -> None:
        train = draw_task(views=3)
        assert_usable(fit(name, train))
        one, other = fit(name, train), fit(name, draw_task(views=3))
        assert torch.equal(one.logits(given(one)), other.logits(given(other)))

    def test_does_not_need_a_gradient(self, name: str) -> None:
        assert not probabilities(fit(name, draw_task())).requires_grad

    def test_states_its_facts(self, name: str) -> None:
        kind = find_method(name)
        assert kind.name == name
        assert kind.summary
        assert re.search(r" (19|20)\d\d, ", kind.source)
        if not kind.no_new_classes:  # new class texts take the place of this field
            assert "weights" in fit(name, draw_task()).tensors()
