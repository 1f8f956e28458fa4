"""The linear adapter, LP++ and ProKeR against their formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawing import CLASSES, WIDTH, draw_images, draw_task, draw_validation_set
from sklearn.kernel_ridge import KernelRidge
from torch.nn.functional import cross_entropy, normalize

from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Validation
from cafe.methods.lp_plus_plus import LpPlusPlus
from cafe.methods.proker import PUBLISHED, Proker
from cafe.methods.rla import Rla
from cafe.methods.zero_shot import ZeroShot

pytestmark = pytest.mark.usefixtures("one_thread")

TEST = draw_images()
FP32 = Context(precision="fp32")
UNEQUAL = (1, 5, 2, 4, 3)


def adapter_by_adam(train: TrainingSet, penalty: float, steps: int, lr: float) -> torch.Tensor:
    x, y, text = train.features.unit, train.features.y, train.text
    w = torch.eye(WIDTH).requires_grad_()
    adam = torch.optim.Adam([w], lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        logits = text.logit_scale * normalize(x @ w.T, dim=-1) @ text.weights.T
        loss = cross_entropy(logits, y) + penalty * (w - torch.eye(WIDTH)).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        decay.step()
    return w.detach()


@pytest.mark.parametrize(("counts", "penalty"), [((4,) * CLASSES, 1 / 4), (UNEQUAL, 1 / 5)])
def test_linear_adapter_is_a_plain_loop(counts: tuple[int, ...], penalty: float) -> None:
    train = draw_task(counts)
    head = Rla(recipe=Recipe(lr=2e-3, weight_decay=0.0, epochs=40), context=FP32).fit(train)
    w = adapter_by_adam(train, penalty, 40, 2e-3)
    assert head.params["penalty"] == penalty
    expected = train.text.logit_scale * normalize(TEST.unit @ w.T, dim=-1) @ train.text.weights.T
    torch.testing.assert_close(head.logits(TEST.x), expected, atol=1e-3, rtol=0)


def test_a_strong_penalty_leaves_zero_shot() -> None:
    train = draw_task()
    head = Rla(1e6, context=FP32).fit(train)
    expected = ZeroShot().fit(train).logits(TEST.x)
    torch.testing.assert_close(head.logits(TEST.x), expected, atol=0.02, rtol=0)


def test_linear_adapter_chooses_a_penalty() -> None:
    method = Rla(penalties=(1.0, 0.01), context=FP32)
    assert method.fit(draw_task(), validation=draw_validation_set()).params["penalty"] in (1, 0.01)
    assert method.fit(draw_task(), validation=Validation("none")).params["penalty"] == 0.25


@pytest.mark.parametrize("counts", [(4,) * CLASSES, UNEQUAL])
def test_lp_plus_plus_is_a_plain_loop(counts: tuple[int, ...]) -> None:
    """`torch.optim.SGD` on prototypes and intercepts, and a step of the multipliers every tenth."""
    train = draw_task(counts)
    x, y, text = train.features.unit, train.features.y, train.text
    n, t = len(x), text.weights
    top = float(np.linalg.eigvalsh((x.T @ x).double().numpy())[-1])
    step = n / (4 * float(((x @ t.T) ** 2).sum(dim=0).max()))
    means = torch.stack([x[y == c].mean(dim=0) for c in range(CLASSES)])
    v = torch.stack([x[y == c].sum(dim=0) for c in range(CLASSES)]).requires_grad_()
    b = torch.zeros(CLASSES, requires_grad=True)
    start = 2.5 * text.logit_scale * float((means @ t.T).mean())
    alpha = torch.full((CLASSES,), start, requires_grad=True)
    sgd = torch.optim.SGD([v, b], lr=4 * n / top, momentum=0.9)
    for number in range(1, 31):
        loss = cross_entropy(x @ v.T + b + alpha * (x @ t.T), y)
        sgd.zero_grad()
        alpha.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        if number % 10 == 0:
            assert alpha.grad is not None
            alpha.data -= step * alpha.grad
    expected = (TEST.unit @ v.T + b + alpha * (TEST.unit @ t.T)).detach()
    logits = LpPlusPlus(30).fit(train).logits(TEST.x)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("counts", [(4,) * CLASSES, UNEQUAL])
def test_proker_is_ridge_regression_on_the_residual(counts: tuple[int, ...]) -> None:
    """With K the kernel, `K (I + K / p)^-1 R` is p times the ridge regression of R."""
    train, beta, penalty = draw_task(counts), 2.0, 0.3
    x, text = train.features.unit.double().numpy(), train.text
    t, asked = text.weights.double().numpy(), TEST.unit.double().numpy()
    residual = np.eye(CLASSES)[train.features.y.numpy()] - x @ t.T
    # |a - b|^2 = 2 - 2 a b on unit features, so that gamma is half of beta
    ridge = KernelRidge(alpha=penalty, kernel="rbf", gamma=beta / 2).fit(x, residual)
    expected = text.logit_scale * (asked @ t.T + penalty * ridge.predict(asked))
    head = Proker(beta, penalty).fit(train)
    np.testing.assert_allclose(head.logits(TEST.x).numpy(), expected, atol=1e-3)


def test_proker_takes_the_published_pair_of_the_nearest_shots() -> None:
    for shots, nearest in ((1, 1), (2, 2), (5, 4), (40, 16)):
        params = Proker().fit(draw_task((shots,) * CLASSES)).params
        assert (params["beta"], params["penalty"]) == PUBLISHED[nearest]
    assert Proker(penalty=0.7).fit(draw_task()).params["penalty"] == 0.7


def test_proker_chooses_as_single_fits_would() -> None:
    train, held = draw_task(), draw_validation_set().features
    assert held is not None
    head = Proker(betas=(0.5, 3.0), penalties=(1.0, 0.01)).fit(
        train, validation=draw_validation_set()
    )

    def score(beta: float, penalty: float) -> tuple[float, float]:
        logits = Proker(beta, penalty).fit(train).logits(held.x)
        hits = float((logits.argmax(dim=-1) == held.y).double().mean())
        return hits, -float(cross_entropy(logits, held.y))

    best = max(((b, p) for p in (1.0, 0.01) for b in (0.5, 3.0)), key=lambda pair: score(*pair))
    assert (head.params["beta"], head.params["penalty"]) == best


def test_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match=r"penalty must be a number above 0; got 0\."):
        Rla(0)
    with pytest.raises(InputError, match=r"steps must be a whole number of at least 1; got 0\."):
        LpPlusPlus(0)
    with pytest.raises(InputError, match=r"beta must be a number above 0; got -1\."):
        Proker(-1)
