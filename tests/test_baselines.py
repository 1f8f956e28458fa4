"""Zero-shot and the nearest class mean against numpy."""

from __future__ import annotations

import numpy as np
import torch
from drawing import CLASSES, draw_images, draw_task
from numpy.typing import NDArray

from cafe.methods.nearest_class import NearestClass
from cafe.methods.zero_shot import ZeroShot

TEST = draw_images()


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def test_zero_shot() -> None:
    train = draw_task(bias=-3.0)
    w = unit(unit(train.text.features.numpy()).mean(axis=1))
    expected = 20.0 * unit(TEST.x.numpy()) @ w.T - 3.0
    np.testing.assert_allclose(ZeroShot().fit(train).logits(TEST.x), expected, atol=1e-4)


def test_nearest_class_mean() -> None:
    train = draw_task((2, 5, 1, 3, 4))
    f, y = unit(train.features.x.numpy()), train.features.y.numpy()
    means = unit(np.stack([f[y == c].mean(axis=0) for c in range(CLASSES)]))
    expected = 20.0 * unit(TEST.x.numpy()) @ means.T
    np.testing.assert_allclose(NearestClass().fit(train).logits(TEST.x), expected, atol=1e-4)


def test_a_class_without_a_shot_has_cosine_zero() -> None:
    logits = NearestClass().fit(draw_task((3, 3, 0, 3, 3))).logits(TEST.x)
    assert torch.equal(logits[:, 2], torch.zeros(len(TEST)))
