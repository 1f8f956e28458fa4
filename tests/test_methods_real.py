"""Methods on real CLIP features against reference means; skipped where the features are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cafe.features.splits import draw_shots
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context, Job, Validation
from cafe.methods.catalog import make_method
from cafe.results.metrics import accuracy

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = Path(__file__).parents[2] / "shared" / "data" / "features"

# Means of three draws of plain implementations: closed forms depend on the draw alone and agree to
# rounding; adapters have other weights at their start, hence a tolerance by shots.
COLUMNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("zero-shot", {}),
    ("nearest-class", {}),
    ("tip-adapter", {"alpha": 1.0, "beta": 5.5}),
    ("gda", {"alpha": 0.1}),
    ("gda", {"alpha": 1.0}),
    *(("clip-adapter", {"ratio": ratio}) for ratio in (0.1, 0.2, 0.4, 0.6, 0.8)),
)
REFERENCE = {
    ("caltech101-66.ViT-B-32", 1): (
        96.12,
        82.94,
        96.14,
        96.12,
        96.12,
        96.48,
        96.61,
        96.70,
        96.43,
        96.05,
    ),
    ("caltech101-66.ViT-B-32", 2): (
        96.12,
        90.03,
        96.09,
        93.33,
        91.80,
        96.68,
        96.70,
        96.65,
        96.68,
        96.36,
    ),
    ("caltech101-66.ViT-B-32", 4): (
        96.12,
        93.13,
        96.50,
        95.93,
        94.74,
        96.99,
        96.97,
        96.90,
        96.79,
        96.32,
    ),
    ("caltech101-66.ViT-B-32", 8): (
        96.12,
        94.03,
        96.91,
        97.33,
        96.18,
        97.22,
        97.27,
        97.29,
        97.33,
        97.22,
    ),
    ("caltech101-66.ViT-B-32", 16): (
        96.12,
        94.29,
        97.26,
        97.63,
        96.82,
        97.15,
        97.40,
        97.47,
        97.56,
        97.34,
    ),
    ("whu-rs19.RN50", 1): (69.76, 69.22, 72.92, 69.76, 69.76, 82.51, 83.00, 80.87, 80.51, 81.24),
    ("whu-rs19.RN50", 2): (69.76, 82.64, 75.29, 86.46, 85.37, 87.07, 87.74, 88.22, 88.04, 87.01),
    ("whu-rs19.RN50", 4): (69.76, 87.19, 78.87, 91.26, 90.89, 89.37, 90.65, 91.07, 90.95, 91.14),
    ("whu-rs19.RN50", 8): (69.76, 89.01, 82.57, 95.20, 94.90, 91.32, 92.65, 93.44, 93.93, 93.81),
    ("whu-rs19.RN50", 16): (69.76, 91.62, 87.07, 96.42, 96.96, 94.84, 95.99, 96.36, 96.66, 96.17),
    ("whu-rs19.ViT-B-32", 1): (
        80.87,
        77.41,
        83.24,
        80.87,
        80.87,
        87.80,
        89.86,
        89.80,
        90.10,
        87.61,
    ),
    ("whu-rs19.ViT-B-32", 2): (
        80.87,
        88.40,
        84.58,
        91.62,
        90.41,
        90.53,
        92.77,
        93.81,
        93.62,
        92.77,
    ),
    ("whu-rs19.ViT-B-32", 4): (
        80.87,
        91.38,
        87.13,
        94.54,
        93.75,
        92.11,
        93.50,
        94.54,
        94.41,
        94.05,
    ),
    ("whu-rs19.ViT-B-32", 8): (
        80.87,
        92.35,
        90.41,
        97.15,
        96.96,
        93.02,
        95.08,
        95.87,
        95.81,
        96.05,
    ),
    ("whu-rs19.ViT-B-32", 16): (
        80.87,
        94.78,
        93.75,
        98.48,
        98.54,
        95.93,
        96.60,
        97.39,
        97.51,
        97.63,
    ),
    ("imagenet-dogs.ViT-B-32", 1): (
        55.24,
        8.88,
        54.86,
        55.24,
        55.24,
        56.94,
        55.52,
        52.50,
        48.44,
        45.33,
    ),
    ("imagenet-dogs.ViT-B-32", 2): (
        55.24,
        13.69,
        54.49,
        34.66,
        23.23,
        56.85,
        56.75,
        52.79,
        50.90,
        49.48,
    ),
    ("imagenet-dogs.ViT-B-32", 4): (
        55.24,
        20.40,
        54.96,
        52.97,
        39.66,
        56.75,
        54.58,
        51.56,
        51.37,
        49.48,
    ),
    ("imagenet-food.ViT-B-32", 1): (
        81.25,
        47.17,
        81.10,
        81.25,
        81.25,
        81.40,
        80.65,
        79.17,
        77.98,
        75.89,
    ),
    ("imagenet-food.ViT-B-32", 2): (
        81.25,
        61.31,
        81.25,
        71.88,
        65.03,
        81.99,
        81.10,
        79.76,
        79.61,
        79.17,
    ),
    ("imagenet-food.ViT-B-32", 4): (
        81.25,
        70.09,
        82.14,
        80.36,
        75.45,
        81.99,
        82.14,
        81.25,
        81.40,
        79.32,
    ),
}


def reference_draw(labels: torch.Tensor, shots: int, seed: int) -> torch.Tensor:
    """The draws that the reference means were made with."""
    generator, y = np.random.default_rng(seed), labels.numpy()
    rows = [generator.permutation(np.flatnonzero(y == c))[:shots] for c in range(int(y.max()) + 1)]
    return torch.from_numpy(np.concatenate(rows))


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


def mean_accuracy(
    name: str,
    shots: int,
    method: str,
    settings: dict[str, Any],
    draw: Any = draw_shots,
    seeds: tuple[int, ...] = (0, 1, 2),
    starts: int = 1,
) -> float:
    """The mean over draws, and over so many initial weights of each."""
    text, splits = load(name)
    train, test = splits["train"], splits["test"]
    sets = [TrainingSet(train[draw(train.y, shots, seed)], text) for seed in seeds]
    heads = make_method(method, Context(), settings).fit_many(
        [
            Job(train_set, seed=100 * start + seed)
            for start in range(starts)
            for train_set, seed in zip(sets, seeds, strict=True)
        ]
    )
    return float(np.mean([accuracy(head.logits(test.x), test.y) for head in heads]))


@pytest.mark.parametrize(("name", "shots"), REFERENCE)
def test_closed_forms_give_the_reference_means(name: str, shots: int) -> None:
    for (method, settings), expected in zip(COLUMNS[:5], REFERENCE[name, shots][:5], strict=True):
        found = mean_accuracy(name, shots, method, settings, reference_draw, (1, 2, 3))
        assert found == pytest.approx(expected, abs=0.1), (method, settings)


@pytest.mark.parametrize("name", sorted({name for name, _ in REFERENCE}))
@pytest.mark.parametrize("shots", [1, 4, 16])
def test_adapters_are_near_the_reference_means(name: str, shots: int) -> None:
    if (name, shots) not in REFERENCE:
        pytest.skip("no class has so many images")
    tolerance = 2 if shots == 1 or "imagenet" in name else 1 if shots <= 8 else 0.5
    starts = 2 if shots == 16 else 1  # initial weights alone move a mean of three by 0.35 points
    for (method, settings), expected in zip(COLUMNS[5:], REFERENCE[name, shots][5:], strict=True):
        found = mean_accuracy(name, shots, method, settings, reference_draw, (1, 2, 3), starts)
        assert found == pytest.approx(expected, abs=tolerance), (method, settings)


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


@pytest.mark.parametrize("method", ["tip-adapter", "tip-adapter-f"])
def test_unequal_shots_are_no_loss_where_classes_are_balanced(method: str) -> None:
    text, splits = load("whu-rs19.ViT-B-32")
    pool, test, found = splits["train"], splits["test"], []
    for balance in (False, True):
        heads = []
        for seed in (0, 1):
            counts = np.random.default_rng(seed).permutation(19) * 20 // 18  # 0 to 20 a class
            rows = [torch.nonzero(pool.y == c).flatten()[:k] for c, k in enumerate(counts)]
            train = TrainingSet(pool[torch.cat(rows)], text)
            settings = {"balance": balance}
            heads.append(make_method(method, Context(precision="fp32"), settings).fit(train))
        found.append(np.mean([accuracy(head.logits(test.x), test.y) for head in heads]))
    plain, balanced = found
    assert balanced > 80.87 + 8  # zero-shot's
    assert balanced > plain + 4
