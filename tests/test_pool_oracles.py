"""TransCLIP, StatA and ZLaP against their formulas, an image, a class and a number at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawing import CLASSES, WIDTH, draw_images, draw_task
from numpy.typing import NDArray

from cafe.features.pool import Pool
from cafe.methods.base import Context
from cafe.methods.catalog import make_method

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[np.float64]
TRAIN = draw_task((2,) * CLASSES)
TEXT = TRAIN.text.weights.double().numpy()  # (C, D)
POOLS = {
    "all classes": draw_images(5, seed=31),
    "one class": draw_images(9, seed=32)[draw_images(9).y == 2],
    "two images": draw_images(1, seed=33)[draw_images(1).y < 2],
}


def softmax(a: Array) -> Array:
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def unit(a: Array) -> Array:
    return np.asarray(a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-12))


def nearest(x: Array, i: int, k: int) -> list[int]:
    """The k images most alike to image i, without itself."""
    return [int(j) for j in np.argsort(-(x @ x[i]), kind="stable") if j != i][:k]


def zero_shot(x: Array) -> Array:
    return softmax(TRAIN.text.logit_scale * x @ TEXT.T)


def log_normal(x: Array, mu: Array, variance: Array) -> float:
    """Log-density but for the constant."""
    return float(-0.5 * sum((x - mu) ** 2 / variance + np.log(variance)))


def answers(x: Array, p: Array, z: Array, mu: Array, variance: Array) -> Array:
    """Five steps of `z_i ~ p_i exp(log N / 50 + sum_j (w_ij + w_ji) z_j / 2k)`."""
    k = min(3, len(x) - 1)
    w = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in nearest(x, i, k):
            w[i, j] = max(0.0, x[i] @ x[j])
    for _ in range(5):
        scores = np.zeros_like(z)
        for i in range(len(x)):
            for c in range(CLASSES):
                votes = sum((w[i, j] + w[j, i]) * z[j, c] for j in range(len(x))) / (2 * k)
                density = log_normal(x[i], mu[c], variance[c]) / 50
                scores[i, c] = np.log(p[i, c]) + density + votes
        z = softmax(scores)
    return z


def spread(x: Array, z: Array, mu: Array) -> Array:
    """One variance for all classes. (C, D)"""
    total = sum(z[i, c] * (x[i] - mu[c]) ** 2 for i in range(len(x)) for c in range(CLASSES))
    return np.tile(np.maximum(total / len(x), 1e-6), (CLASSES, 1))


def transclip(x: Array, p: Array) -> tuple[Array, Array, Array]:
    best = [np.argsort(-p[:, c], kind="stable")[:8] for c in range(CLASSES)]
    mu = unit(np.stack([sum(p[i, c] * x[i] for i in best[c]) for c in range(CLASSES)]))
    variance, z = np.full((CLASSES, WIDTH), 1 / WIDTH), answers(
        x, p, p, mu, np.full((CLASSES, WIDTH), 1 / WIDTH)
    )  # fmt: skip
    for _ in range(10):
        mu = unit(np.stack([sum(z[i, c] * x[i] for i in range(len(x))) for c in range(CLASSES)]))
        variance = spread(x, z, mu)
        z = answers(x, p, z, mu, variance)
    return z, mu, variance


def stata(x: Array, p: Array) -> tuple[Array, Array, Array]:
    anchor, held = TEXT, spread(x, p, TEXT)
    mu, variance = anchor, held
    z = answers(x, p, p, mu, variance)
    for _ in range(10):
        rows_mu, rows_variance = [], []
        for c in range(CLASSES):
            count = sum(int(z[i].argmax()) == c for i in range(len(x)))
            b = count / (count + 1)
            own = unit(sum(z[i, c] * x[i] for i in range(len(x))))
            mean = unit(b * own + (1 - b) * anchor[c])
            around = sum(z[i, c] * (x[i] - mean) ** 2 for i in range(len(x))) / z[:, c].sum()
            rows_mu.append(mean)
            rows_variance.append(b * around + (1 - b) * (held[c] + (anchor[c] - mean) ** 2))
        mu, variance = np.stack(rows_mu), np.maximum(np.stack(rows_variance), 1e-6)
        z = answers(x, p, z, mu, variance)
    return z, mu, variance


def fit(name: str, x: Array, **settings: Any) -> Any:
    pool = Pool.of(x.astype(np.float32))
    return make_method(name, Context(), {"pool": pool, **settings}).fit(TRAIN)


@pytest.mark.parametrize("pool", ["all classes", "one class", "two images"])
@pytest.mark.parametrize("name", ["transclip", "stata"])
def test_mixtures(name: str, pool: str) -> None:
    x = POOLS[pool].unit.double().numpy()
    z, mu, variance = (transclip if name == "transclip" else stata)(x, zero_shot(x))
    head = fit(name, x, start="zero-shot")
    np.testing.assert_allclose(head.answers.numpy(), z, atol=2e-3)
    np.testing.assert_allclose(head(POOLS[pool].x).softmax(-1).numpy(), z, atol=2e-3)
    # an image that is not in the pool: its prior, the Gaussians, and its neighbours' answers
    new = draw_images(2, seed=40)
    for a, found in zip(new.unit.double().numpy(), head(new.x).double().numpy(), strict=True):
        near = np.argsort(-(x @ a), kind="stable")[:3]
        votes = sum(max(0.0, x[j] @ a) * z[j] for j in near) / min(3, len(x))
        density = np.array([log_normal(a, mu[c], variance[c]) for c in range(CLASSES)]) / 50
        expected = softmax(np.log(zero_shot(a[None])[0]) + density + votes)
        np.testing.assert_allclose(softmax(found), expected, atol=5e-3)


@pytest.mark.parametrize("pool", ["all classes", "one class", "two images"])
def test_label_propagation(pool: str) -> None:
    x, alpha, k = POOLS[pool].unit.double().numpy(), 0.3, 3
    n = len(x)
    w = np.zeros((n + CLASSES, n + CLASSES))
    for i in range(n):
        for j in nearest(x, i, k):
            w[i, j] += max(0.0, x[i] @ x[j]) ** 5
        for c in np.argsort(-(TEXT @ x[i]), kind="stable")[:k]:
            w[i, n + c] += max(0.0, x[i] @ TEXT[c]) ** 5
    w = w + w.T
    root = np.sqrt(np.maximum(w.sum(axis=1), 1e-12))
    y = np.vstack([np.zeros((n, CLASSES)), np.eye(CLASSES)])
    f = np.linalg.solve(np.eye(n + CLASSES) - alpha * w / np.outer(root, root), y)[:n]
    expected = f / f.sum(axis=1, keepdims=True)
    head = fit("zlap", x, k=k, alpha=alpha)
    np.testing.assert_allclose(head.answers.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(head(POOLS[pool].x).softmax(-1).numpy(), expected, atol=1e-4)
