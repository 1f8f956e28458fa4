"""GDA against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawing import CLASSES, WIDTH, draw_images, draw_task, draw_validation_set
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Validation
from cafe.methods.gda import ALPHAS, Gda
from cafe.methods.zero_shot import ZeroShot

pytestmark = pytest.mark.usefixtures("one_thread")

TEST = draw_images()


def unit(x: torch.Tensor) -> NDArray[np.float64]:
    x64: NDArray[np.float64] = x.double().numpy()
    return np.asarray(x64 / np.linalg.norm(x64, axis=-1, keepdims=True))


def formula(train: TrainingSet, x: torch.Tensor, alpha: float) -> NDArray[np.float64]:
    """Equations 4 to 6 with `pinv` and `cov` as they stand."""
    f, y = unit(train.features.x), train.features.y.numpy()
    mu = np.stack([f[y == c].mean(axis=0) for c in range(CLASSES)])
    centred = f - mu[y]
    cov = np.cov(centred.T)
    inverse = WIDTH * np.linalg.pinv((len(f) - 1) * cov + np.trace(cov) * np.eye(WIDTH))
    w = mu @ inverse
    c = np.log(1 / CLASSES) - np.einsum("nd,dc,nc->n", mu, inverse, mu) / 2
    text = train.text
    zero_shot = text.logit_scale * unit(x) @ text.weights.double().numpy().T
    result: NDArray[np.float64] = zero_shot + alpha * (unit(x) @ w.T + c)
    return result


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("counts", [(4,) * CLASSES, (1, 5, 2, 9, 3)])
def test_is_the_formula(alpha: float, counts: tuple[int, ...]) -> None:
    train = draw_task(counts)
    logits = Gda(alpha).fit(train).logits(TEST.x)
    np.testing.assert_allclose(logits.numpy(), formula(train, TEST.x, alpha), atol=1e-3)


def test_one_shot_is_zero_shot() -> None:
    train = draw_task((1,) * CLASSES)
    expected = ZeroShot().fit(train).logits(TEST.x).softmax(dim=-1)
    torch.testing.assert_close(Gda(1.0).fit(train).logits(TEST.x).softmax(dim=-1), expected)


def test_views_are_samples() -> None:
    train = draw_task(views=3)
    assert train.features.views is not None
    y = train.features.y.repeat_interleave(3)
    flat = TrainingSet(Features(train.features.views.flatten(0, 1), y), train.text)
    torch.testing.assert_close(
        Gda().fit(train).logits(TEST.x), Gda().fit(flat).logits(TEST.x), atol=1e-4, rtol=0
    )


def test_a_class_without_a_shot_still_goes_by_its_text() -> None:
    train = draw_task((4, 4, 0, 4, 4))
    # No other class gains on the missing one on average over images of no class.
    head = Gda(1.0).fit(train)
    share = (head.logits(TEST.x).argmax(dim=-1) == 2).float().mean()
    assert 0 < share < 0.6


def test_validation_takes_the_best_weight() -> None:
    train, held = draw_task(), draw_validation_set()
    assert held.features is not None
    alpha = Gda().fit(train, validation=held).params["alpha"]
    assert alpha in ALPHAS

    def score(candidate: float) -> tuple[float, float]:
        assert held.features is not None
        logits = torch.from_numpy(formula(train, held.features.x, candidate))
        hits = (logits.argmax(dim=-1) == held.features.y).double().mean().item()
        nll = torch.nn.functional.cross_entropy(logits, held.features.y).item()
        return hits, -nll

    assert alpha == max(ALPHAS, key=score)


def test_refuses_a_negative_weight() -> None:
    with pytest.raises(InputError, match=r"alpha must be a number of at least 0; got -1\."):
        Gda(-1)


def test_folds_of_one_image_a_class_choose_the_most_conservative() -> None:
    # One image per class leaves no covariance, so that every candidate gives zero-shot's answer.
    train = draw_task((2,) * CLASSES)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        head = Gda().fit(train, validation=Validation("cv"))
        assert head.params["alpha"] == min(ALPHAS)
