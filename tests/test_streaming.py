"""Test-time adaptation against plain loops in NumPy, and that batches make no difference."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from cafe.errors import InputError
from cafe.features.tensors import Features
from cafe.methods.streaming.incpl import Tuning, tune
from cafe.methods.streaming.oga import Oga, solve_covariance
from cafe.methods.streaming.stream import Stream
from cafe.methods.streaming.tda import Tda

CLASSES, WIDTH, IMAGES = 4, 12, 60


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, zero-shot logits and class weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=-1)
    y = torch.randint(CLASSES, (IMAGES,), generator=generator)
    x = 2 * (weights[y] + 0.4 * torch.randn(IMAGES, WIDTH, generator=generator))
    return x, 8 * normalize(x, dim=-1) @ weights.mT, weights


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


def plain_tda(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The authors' loop: lists of (feature, entropy, probabilities), the worst replaced."""
    positive: dict[int, list[tuple[np.ndarray, float, np.ndarray]]] = {}
    negative: dict[int, list[tuple[np.ndarray, float, np.ndarray]]] = {}

    def update(cache: dict, label: int, item: tuple, places: int) -> None:  # type: ignore[type-arg]
        kept = cache.setdefault(label, [])
        if len(kept) < places:
            kept.append(item)
        elif item[1] < kept[-1][1]:
            kept[-1] = item
        kept.sort(key=lambda entry: entry[1])

    rows = []
    for feature, logits in zip(x / np.linalg.norm(x, axis=1, keepdims=True), z, strict=True):
        p = softmax(logits)
        entropy, label = float(-(p * np.log(p)).sum()), int(p.argmax())
        update(positive, label, (feature, entropy, p), 3)
        if 0.2 < entropy / math.log2(len(p)) < 0.5:
            update(negative, label, (feature, entropy, p), 2)
        out = logits.copy()
        for c, items in positive.items():
            out[c] += sum(2.0 * np.exp(-5.0 * (1 - feature @ key)) for key, _, _ in items)
        for items in negative.values():
            for key, _, q in items:
                out -= 0.117 * np.exp(-(1 - feature @ key)) * ((q > 0.03) & (q < 1.0))
        rows.append(out)
    return np.array(rows)


def plain_oga(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Means and one covariance of the eight surest images of each class, anew for each image."""
    kept: dict[int, list[tuple[float, np.ndarray]]] = {c: [] for c in range(z.shape[1])}
    rows, width = [], x.shape[1]
    for feature, logits in zip(x / np.linalg.norm(x, axis=1, keepdims=True), z, strict=True):
        p = softmax(logits)
        entropy, label = float(-(p * np.log(p)).sum()), int(p.argmax())
        kept[label] = sorted([*kept[label], (entropy, feature)], key=lambda item: item[0])[:8]
        out = logits.copy()
        if max(map(len, kept.values())) >= 3:
            images = {c: np.array([f for _, f in items]) for c, items in kept.items()}
            means = {c: f.mean(axis=0) for c, f in images.items() if len(f) >= 2}
            centred = np.concatenate([images[c] - mean for c, mean in means.items()])
            covariance = np.cov(centred.T)
            n = len(centred)
            ridge = (n - 1) * covariance + np.trace(covariance) * np.eye(width)
            inverse = width * np.linalg.inv(ridge)
            other = np.mean(list(means.values()), axis=0)
            for c in range(len(out)):
                gap = feature - means.get(c, other)
                out[c] -= 0.05 * gap @ inverse @ gap / 2
        rows.append(out)
    return np.array(rows)


@pytest.mark.parametrize(("stream", "plain"), [(Tda, plain_tda), (Oga, plain_oga)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_stream_is_the_plain_loop(stream: type[Stream], plain: object, seed: int) -> None:
    x, z, _ = made(seed)
    found = torch.softmax(stream(CLASSES, WIDTH).adapt(x, z), dim=-1)
    expected = plain(x.double().numpy(), z.double().numpy())  # type: ignore[operator]
    wanted = np.array([softmax(row) for row in expected])
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-4)
    assert np.abs(found.numpy() - torch.softmax(z, dim=-1).numpy()).max() > 0.01


@pytest.mark.parametrize("stream", [Tda, Oga])
def test_batches_and_a_state_make_no_difference(stream: type[Stream]) -> None:
    x, z, _ = made()
    whole = stream(CLASSES, WIDTH).adapt(x, z)
    first = stream(CLASSES, WIDTH)
    parts = [first.adapt(x[i : i + 7], z[i : i + 7]) for i in range(0, 28, 7)]
    second = stream(CLASSES, WIDTH)
    second.restore(first.state(), first.seen)
    parts.append(second.adapt(x[28:], z[28:]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    assert second.seen == IMAGES
    assert stream(CLASSES, WIDTH).adapt(x[:0], z[:0]).shape == (0, CLASSES)


def test_the_order_of_images_matters() -> None:
    x, z, _ = made()
    turned = Tda(CLASSES, WIDTH).adapt(x.flip(0), z.flip(0)).flip(0)
    assert not torch.allclose(Tda(CLASSES, WIDTH).adapt(x, z), turned)


def test_another_streams_state_is_refused() -> None:
    with pytest.raises(InputError, match="state of another stream, or of other classes"):
        Oga(CLASSES, WIDTH).restore(Tda(CLASSES, WIDTH).state(), 1)
    with pytest.raises(InputError, match="state of another stream, or of other classes"):
        Oga(CLASSES, WIDTH).restore(Oga(CLASSES + 1, WIDTH).state(), 1)


@pytest.mark.parametrize("count", [5, 12, 40, 60])
def test_the_covariance_is_solved_in_either_form(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    centred = torch.randn(count, WIDTH, generator=generator)
    means = torch.randn(3, WIDTH, generator=generator)
    n, scatter = count, (centred.mT @ centred).double()
    if n <= 4 * WIDTH:
        trace = scatter.trace() / (n - 1)
        inverse = WIDTH * torch.linalg.inv(scatter + trace * torch.eye(WIDTH))
    else:
        inverse = (n - 1) * torch.linalg.inv(scatter)
    expected = (means.double() @ inverse).float()
    torch.testing.assert_close(solve_covariance(centred, means), expected, rtol=1e-3, atol=1e-3)


def plain_incpl(
    views: torch.Tensor, z: torch.Tensor, w: torch.Tensor, context: Features, tuning: Tuning
) -> torch.Tensor:
    """One image alone, by autograd and torch's Adam."""
    d = torch.zeros(w.shape[1], requires_grad=True)
    r = torch.zeros_like(w, requires_grad=True)
    unit = normalize(views, dim=-1)

    def scores(x: torch.Tensor) -> torch.Tensor:
        return 8 * normalize(x + d, dim=-1) @ normalize(w + r, dim=-1).mT

    plain = 8 * unit[0] @ w.mT
    turns = [torch.optim.Adam([d], tuning.shift_lr), torch.optim.Adam([r], tuning.residual_lr)]
    for _ in range(tuning.cycles):
        for optimizer in turns:
            p = torch.softmax(z - plain + scores(unit), dim=-1)
            each = -(p * p.log()).sum(dim=-1)
            count = max(1, int(tuning.confident * len(p)))
            mean = p[each.argsort()[:count]].mean(dim=0)
            loss = -(mean * mean.log()).sum()
            loss = loss + tuning.context_weight * cross_entropy(scores(context.unit), context.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (z - plain + scores(unit[:1])[0]).detach()


@pytest.mark.parametrize("views", [1, 20])
def test_incpl_is_one_image_after_another(views: int) -> None:
    x, z, w = made()
    generator = torch.Generator().manual_seed(2)
    many = x[:6, None] + 0.1 * torch.randn(6, views, WIDTH, generator=generator)
    many[:, 0] = x[:6]
    context = Features(x[40:46], torch.tensor([0, 1, 2, 3, 0, 1]))
    tuning = Tuning(cycles=3, shift_lr=0.01, residual_lr=0.01)
    given = x[:6] if views == 1 else many
    found = tune(given, z[:6], w, 8.0, context, tuning)
    expected = [plain_incpl(many[i], z[i], w, context, tuning) for i in range(6)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, z[:6], atol=1e-3)
    alone = torch.cat(
        [tune(given[i : i + 1], z[i : i + 1], w, 8.0, context, tuning) for i in range(6)]
    )
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)
    assert tune(given[:0], z[:0], w, 8.0, context).shape == (0, CLASSES)


@pytest.mark.parametrize("stream", [Tda, Oga])
def test_features_that_are_not_finite_teach_nothing(stream: type[Stream]) -> None:
    x, logits, _ = made()
    x[3], logits[3] = math.nan, math.nan
    one, other = (stream(CLASSES, WIDTH) for _ in range(2))
    rows = [row for row in range(IMAGES) if row != 3]
    torch.testing.assert_close(one.adapt(x, logits)[rows], other.adapt(x[rows], logits[rows]))
    assert all(tensor.isfinite().all() for tensor in one.state().values())
