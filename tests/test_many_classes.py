"""Many classes: bounded memory in every step, and a word before what takes long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_info

import cafe
from cafe.engine.chunks import cost
from cafe.extract.importers import import_features
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.clip_adapter import gradients
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.methods.head import NUMBERS, rows_at_a_time
from cafe.methods.nearest_class import MOST, NearestClassHead
from cafe.methods.zero_shot import ZeroShotHead
from cafe.report import analysis, collect, write_report
from cafe.store import FeatureCache
from cafe.study.calibration import LOGITS, cautious_temperature, most_judged
from cafe.study.score_head import score_head

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = draw_task((6,) * CLASSES)


@pytest.fixture
def many(tmp_path: Path) -> FeatureCache:
    """2,100 classes with two images to train on."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((2100, 32), np.float32)
    names = np.array([f"class {number}" for number in range(2100)])
    arrays: dict[str, Any] = {"text_prompts": centres[:, None], "class_names": names}
    for split, count in (("train", 2), ("test", 1)):
        labels = np.arange(2100).repeat(count)
        noise = generator.standard_normal((len(labels), 32), np.float32)
        arrays |= {f"{split}_features": centres[labels] + noise, f"{split}_labels": labels}
    np.savez(tmp_path / "many.npz", **arrays)
    return import_features(tmp_path / "many.npz", tmp_path / "many" / "model.tag.h5")


def test_a_fit_of_many_classes(many: FeatureCache) -> None:
    record = cafe.fit(many, shots=2, seeds=1, epochs=1, runs=None)
    zero_shot, nearest, adapter = (result.accuracy.mean for result in record.results)
    assert min(zero_shot, nearest, adapter) > 20
    page = record.results[0].page
    assert len(page["per_class"]) == 2100
    assert len(page["confusions"]) == 20


def test_a_report_of_many_classes(
    many: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its map, figures and tables are bounded, and it says so; t-SNE takes one core."""
    cafe.fit(many, method=["zero-shot", "nearest-class"], shots=2, seeds=1, runs=tmp_path / "runs")
    seen: list[tuple[int, ...]] = []

    def fit_transform(self: TSNE, x: Any) -> Any:
        assert all(pool["num_threads"] == 1 for pool in threadpool_info())
        seen.append(x.shape)
        return x[:, :2]

    monkeypatch.setattr(TSNE, "fit_transform", fit_transform)
    page = write_report([tmp_path / "runs"], tmp_path / "page.html", method="nearest-class")
    text = page.read_text(encoding="utf-8")
    assert seen == [(1000, 32)]
    assert text.count(">class ") < 1100  # of 2,100
    assert "Table of the 500 classes at either end, of 2,100 classes" in text
    assert "of 2100 classes and loses on" in text
    assert "The 16 at either end are shown." in text


def test_a_report_fits_nothing_that_is_large_again(
    many: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cafe.fit(many, method="nearest-class", shots=2, seeds=1, runs=tmp_path / "runs")
    (path,) = (tmp_path / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    for result in record["results"]:
        result.pop("calibration")  # as before version 1
    path.write_text(json.dumps(record))
    monkeypatch.setattr(analysis, "MOST_LOGITS", 2 * 2100**2 - 1)
    monkeypatch.setattr(analysis, "out_of_fold", None)
    (run,) = collect([tmp_path / "runs"], None, "nearest-class")
    said = "No temperature was fitted: to fit nearest-class again to 4,200 images of 2,100 classes"
    assert [note for note in run.notes if note.startswith(said)]


def test_logits_are_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.nn.functional.normalize(torch.randn(20_000, 16), dim=-1)
    head = ZeroShotHead(weights, torch.tensor([100.0, 0.0]))
    assert rows_at_a_time(head) == NUMBERS // 20_000
    seen = []

    def logits(self: ZeroShotHead, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x @ self.weights.mT

    monkeypatch.setattr(ZeroShotHead, "logits", logits)
    images = Features(weights[:1000], torch.arange(1000))
    told: list[tuple[int, int]] = []
    scores = score_head(head, images, 20_000, tell=lambda *counts: told.append(counts))
    assert scores.accuracy == 100
    assert max(seen) == NUMBERS // 20_000
    assert told[-1] == (1000, 1000)
    assert len(told) == len(seen) == 5


def test_blocks_in_several_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, text = draw_images(), TASK.text
    head = make_method("zero-shot", Context(), {}).fit(TASK)
    whole = score_head(head, images, len(text.names))
    monkeypatch.setattr("cafe.study.score_head.rows_at_a_time", lambda _: 7)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    blocks = score_head(head, images, len(text.names))
    assert torch.equal(blocks.predicted, whole.predicted)
    torch.testing.assert_close(blocks.log_likelihood, whole.log_likelihood)


def test_the_nearest_class_is_not_searched_for_among_very_many() -> None:
    means = torch.nn.functional.normalize(torch.randn(MOST + 1, 8), dim=-1)
    head = NearestClassHead(means, torch.tensor([100.0]))
    x = torch.randn(5, 8)
    assert torch.equal(head.logits(x), head.graph_logits(x))
    fewer = NearestClassHead(means[:MOST], torch.tensor([100.0]))
    torch.testing.assert_close(fewer.logits(x), fewer.graph_logits(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_few_rows_at_a_time_give_the_same_gradients(
    precision: Literal["fp32", "bf16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(precision=precision)

    def trained() -> list[torch.Tensor]:
        method = make_method("clip-adapter", context, {"epochs": 3, "batch_size": 8})
        return list(method.fit(TASK).tensors().values())

    whole = trained()
    monkeypatch.setattr(gradients, "_CACHED", 6)
    for one, other in zip(trained(), whole, strict=True):
        assert torch.equal(one, other)


def test_sixteen_shots_of_20_000_classes_fit_a_small_budget() -> None:
    """Images that wait for their batch have no logits yet."""
    text = ClassText(torch.ones(20_000, 1, 512), tuple(map(str, range(20_000))), 100.0)
    images = Features(torch.ones(1, 512).expand(320_000, -1), torch.zeros(320_000).long())
    train = TrainingSet(images, text)
    per_stream, per_run = cost(ClipAdapter().run_for(train, 0, 0, 0.2), train)
    assert per_stream + per_run < 1 << 30


def test_a_temperature_holds_few_logits_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_judged(1000) == 2000
    assert most_judged(1_000_000) * 1_000_000 <= LOGITS
    logits = 20 * torch.randn(60, 1000)
    y = logits.argmax(dim=-1)
    y[::4] = 0
    whole = cautious_temperature(logits, y)
    monkeypatch.setattr("cafe.study.calibration._BLOCK", 5000)
    assert cautious_temperature(logits, y) == whole > 1


def test_text_of_many_prompts_is_averaged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(50, 4, 8)
    whole = ClassText(features, tuple("x" * 50), 100.0).weights
    monkeypatch.setattr("cafe.features.tensors._PROMPT_NUMBERS", 100)
    assert torch.equal(ClassText(features, tuple("x" * 50), 100.0).weights, whole)


def test_what_takes_long_is_said_before(
    many: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    cafe.fit(many, shots=1, seeds=1, epochs=1, runs=None, note=told.append)
    assert told == []
    monkeypatch.setattr("cafe.study.cost._SLOWEST", 0)
    monkeypatch.setattr("cafe.study.cost.product_rate", lambda *_: 4.0 * 2100 * 32 * 2100 / 600)
    cafe.fit(many, shots=1, seeds=1, epochs=1, runs=None, note=told.append)
    assert told == [
        "training will take 10 minutes or more at this machine's rate of matrix products, with "
        "2,100 classes and 1 seed; fewer seeds, epochs or shots take less."
    ]
