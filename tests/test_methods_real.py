"""Methods on real CLIP features against reference means; skipped where the features are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cafe.features import ClassText, Features, TrainingSet
from cafe.methods.base import Context, Validation
from cafe.methods.catalog import make_method
from cafe.metrics import accuracy
from cafe.splits import draw_shots

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = Path(__file__).parents[2] / "shared" / "data" / "features"

# Means of three seeds of other draws, hence the tolerance: 2 points at one shot, 1 at two to eight,
# 0.5 at sixteen.
REFERENCE = [
    ("whu-rs19.ViT-B-32", 1, "nearest-class", {}, 77.41),
    ("whu-rs19.ViT-B-32", 4, "nearest-class", {}, 91.38),
    ("whu-rs19.ViT-B-32", 4, "tip-adapter", {}, 87.13),
    ("whu-rs19.ViT-B-32", 4, "gda", {"alpha": 0.1}, 94.54),
    ("whu-rs19.ViT-B-32", 16, "gda", {"alpha": 0.1}, 98.48),
    ("whu-rs19.ViT-B-32", 16, "gda", {"alpha": 1.0}, 98.54),
    ("whu-rs19.ViT-B-32", 1, "zero-shot", {}, 80.87),
    ("whu-rs19.RN50", 1, "tip-adapter", {}, 72.92),
    ("whu-rs19.RN50", 4, "gda", {"alpha": 1.0}, 90.89),
    ("imagenet-food.ViT-B-32", 1, "gda", {"alpha": 1.0}, 81.25),
    ("imagenet-food.ViT-B-32", 4, "tip-adapter", {}, 82.14),
]


def load(name: str) -> tuple[ClassText, dict[str, Features]]:
    path = FEATURES / f"{name}.openai.npz"
    if not path.is_file():
        pytest.skip(f"real features are not at {FEATURES}")
    with np.load(path) as arrays:
        text = ClassText(
            torch.from_numpy(arrays["text_prompts"]).float(),
            tuple(map(str, arrays["class_names"])),
            float(arrays["logit_scale"]),
        )
        splits = {
            split: Features(
                torch.from_numpy(arrays[f"{split}_features"]).float(),
                torch.from_numpy(arrays[f"{split}_labels"]),
            )
            for split in ("train", "val", "test")
            if f"{split}_features" in arrays
        }
    return text, splits


def mean_accuracy(name: str, shots: int, method: str, settings: dict[str, Any]) -> float:
    text, splits = load(name)
    train, test = splits["train"], splits["test"]
    sets = [TrainingSet(train[draw_shots(train.y, shots, seed)], text) for seed in range(3)]
    heads = make_method(method, Context(), settings).fit_many(
        sets, validations=[Validation()] * 3, seeds=[0, 1, 2]
    )
    return float(np.mean([accuracy(head.logits(test.x), test.y) for head in heads]))


@pytest.mark.parametrize(("name", "shots", "method", "settings", "expected"), REFERENCE)
def test_reference_means(
    name: str, shots: int, method: str, settings: dict[str, Any], expected: float
) -> None:
    tolerance = 2 if shots == 1 else 1 if shots <= 8 else 0.5
    assert mean_accuracy(name, shots, method, settings) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("method", ["tip-adapter-f", "taskres", "clap", "cross-modal", "sgva"])
def test_trained_heads_beat_zero_shot_by_far(method: str) -> None:
    # The weakest of them gains over 10 points here; 80.87 is zero-shot.
    assert mean_accuracy("whu-rs19.ViT-B-32", 4, method, {}) > 90


@pytest.mark.parametrize("method", ["tip-adapter", "gda", "knn", "linear-probe"])
def test_validation_pays(method: str) -> None:
    text, splits = load("whu-rs19.ViT-B-32")
    train, test = splits["train"], splits["test"]
    few = TrainingSet(train[draw_shots(train.y, 4, 0)], text)
    made = make_method(method, Context(), {})
    plain = accuracy(made.fit(few).logits(test.x), test.y)
    tuned = made.fit(few, validation=Validation("full", splits["val"]))
    assert accuracy(tuned.logits(test.x), test.y) > plain - 1.5
