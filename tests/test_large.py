"""Splits too large to be widened or copied give what small ones give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_run import digits_run
from drawing import CLASSES, draw_images, draw_task, draw_text

import cafe
from cafe.engine import Recipe, Run
from cafe.engine.stack import BatchLoader
from cafe.features.task import StoredFeatures
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.catalog import make_method
from cafe.methods.cross_modal import CrossModal, shown_texts
from cafe.methods.head import predict
from cafe.store import FeatureCache
from cafe.study.calibration import ENOUGH, _folds

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = ("cafe.features.task.LARGE", "cafe.engine.stack.LARGE")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every split is a large one."""
    for name in LIMITS:
        monkeypatch.setattr(name, 1)


def halved(train: TrainingSet) -> TrainingSet:
    features = train.features
    views = None if features.views is None else features.views.half()
    return TrainingSet(replace(features, x=features.x.half(), views=views), train.text)


def widened(train: TrainingSet) -> TrainingSet:
    half = halved(train).features
    views = None if half.views is None else half.views.float()
    return TrainingSet(replace(half, x=half.x.float(), views=views), train.text)


def logits(name: str, trains: list[TrainingSet]) -> list[torch.Tensor]:
    method = make_method(name, Context(precision="fp32"), {"epochs": 5, "batch_size": 7})
    heads = method.fit_many([Job(train, seed=seed) for seed, train in enumerate(trains)])
    images = draw_images()
    test = replace(images, x=images.x.half().to(trains[0].features.x.dtype))
    return [predict(head, test) for head in heads]


@pytest.mark.parametrize("views", [0, 3])
@pytest.mark.parametrize(
    "name",
    ["clip-adapter", "clip-adapter-both", "taskres", "cross-modal", "nearest-class", "vt-clip"],
)
def test_rows_that_come_late_are_the_same_rows(
    name: str, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains = [draw_task((6,) * CLASSES, seed=seed, views=views) for seed in (0, 1)]
    expected = logits(name, [widened(train) for train in trains])
    for limit in LIMITS:
        monkeypatch.setattr(limit, 1)
    for one, other in zip(logits(name, [halved(t) for t in trains]), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [2, 4, 100])
def test_every_class_s_text_is_shown_however_late_rows_come(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains = [draw_task((8,) * CLASSES, seed=seed) for seed in (0, 1)]
    recipe = Recipe(batch_size=batch_size)

    def texts() -> list[torch.Tensor]:
        leaders = [Run(CrossModal(), place, place, recipe) for place in (0, 1)]
        loader = BatchLoader(leaders, trains, {}, torch.device("cpu"))
        batches = [batch for _ in range(4) for batch in loader.epoch()]
        return [shown_texts(batch)[1] for batch in batches]

    early = texts()
    monkeypatch.setattr("cafe.engine.stack.LARGE", 1)
    late = texts()
    assert all(torch.equal(one, other) for one, other in zip(early, late, strict=True))
    counts = [row.bincount(minlength=CLASSES) for row in torch.cat(late, dim=1)]
    assert min(int(count.min()) for count in counts) > 10  # of 32 for each class


def test_one_set_may_serve_several_seeds() -> None:
    train = draw_task((6,) * CLASSES)
    again = TrainingSet(train.features, draw_text())
    apart = logits("clip-adapter", [train, again])
    for one, other in zip(logits("clip-adapter", [train, train]), apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("large")
def test_a_large_split_keeps_its_type(noise_cache: Path) -> None:
    cache = FeatureCache.open(noise_cache)
    stored = StoredFeatures(cache, "train")
    assert str(stored.x.dtype) == f"torch.{cache.dtype}"
    part = StoredFeatures(cache, "train", torch.tensor([5, 3, 8]))
    assert torch.equal(part[torch.tensor([2, 0])].x, stored.x[torch.tensor([8, 5])])
    assert torch.equal(part.y, stored.y[torch.tensor([5, 3, 8])])
    assert len(part.whole) == 3
    assert stored.unit.dtype == torch.float32


def test_a_study_of_a_large_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = digits_run(tmp_path_factory) / "cache/digits/nano.glyphs.h5"

    def fit(**changes: Any) -> list[float]:
        record = cafe.fit(digits, shots="all", seeds=2, epochs=2, runs=None, **changes)
        return [result.accuracy.mean for result in record.results]

    expected = fit()
    for limit in LIMITS:
        monkeypatch.setattr(limit, 1)
    assert fit() == pytest.approx(expected, abs=0.3)


def test_no_more_is_held_out_than_is_needed() -> None:
    labels = torch.arange(10).repeat_interleave(3 * ENOUGH // 5)
    ((kept, out),) = _folds(Features(torch.zeros(len(labels), 1), labels), 0)
    assert len(out) == ENOUGH
    assert len(kept) + len(out) == len(labels) == len(set(kept.tolist() + out.tolist()))
    assert labels[out].bincount().tolist() == pytest.approx([ENOUGH / 10] * 10, abs=2)
