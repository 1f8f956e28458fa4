from __future__ import annotations

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task, draw_validation_set
from scipy.optimize import minimize as scipy_minimize
from scipy.special import log_softmax

from cafe.errors import InputError
from cafe.methods.lda_prior import measure, posterior
from cafe.methods.map_probe import KAPPA, MapProbe, fit_probes, minimise
from cafe.methods.zero_shot import ZeroShot

TEST = draw_images()

pytestmark = pytest.mark.usefixtures("one_thread")


def test_finds_the_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    z, base = torch.randn(20, 6, generator=generator), torch.randn(20, 3, generator=generator)
    y = torch.arange(20) % 3
    penalties = torch.tensor([0.05, 1.0])
    found = minimise(z, y, base, penalties)
    for v, penalty in zip(found, penalties.tolist(), strict=True):

        def loss(flat: np.ndarray, penalty: float = penalty) -> float:
            logits = base.double().numpy() + z.double().numpy() @ flat.reshape(3, 6).T
            picked = log_softmax(logits, axis=1)[np.arange(20), y.numpy()]
            return float(-picked.sum() + penalty / 2 * (flat**2).sum())

        best = scipy_minimize(loss, np.zeros(18), options={"gtol": 1e-7})
        np.testing.assert_allclose(v.numpy().ravel(), best.x, atol=3e-3)


def test_is_what_the_formula_says() -> None:
    """The head on unit features is the probe on whitened ones."""
    train = draw_task((6,) * CLASSES)
    weights, intercept = fit_probes(train, [0.01, 0.5])
    moments = measure(train.features, train.text.weights)
    factor = torch.linalg.cholesky(posterior(moments, KAPPA)[1])

    def whiten(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(factor, (x.double() - moments.centre).mT).mT

    norm = whiten(train.features.unit).norm(dim=-1).mean()
    z, test = whiten(train.features.unit) / norm, whiten(TEST.unit) / norm
    base = 20 * train.features.unit @ train.text.weights.mT
    v = minimise(z.float(), train.features.y, base, torch.tensor([0.01, 0.5]))
    expected = 20 * TEST.unit @ train.text.weights.mT + test.float() @ v.mT
    found = TEST.unit @ weights.mT + intercept[:, None]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_a_strong_penalty_leaves_zero_shot() -> None:
    train = draw_task(bias=-3.0)
    held = MapProbe(1e6).fit(train).logits(TEST.x)
    torch.testing.assert_close(held, ZeroShot().fit(train).logits(TEST.x), atol=1e-3, rtol=0)


def test_a_weak_penalty_fits_the_shots() -> None:
    train = draw_task((1,) * CLASSES)
    head = MapProbe(1e-3).fit(train)
    assert torch.equal(head.logits(train.features.x).argmax(-1), train.features.y)


def test_validation_chooses_among_the_candidates() -> None:
    train, held_out = draw_task(), draw_validation_set()
    assert held_out.features is not None
    chosen = MapProbe().fit(train, validation=held_out).params["penalty"]
    scores = {}
    for penalty in (0.1, 0.03, 0.01, 0.003):
        logits = MapProbe(penalty).fit(train).logits(held_out.features.x)
        scores[penalty] = int((logits.argmax(-1) == held_out.features.y).sum())
    assert scores[chosen] == max(scores.values())


def test_identical_images_are_no_trouble() -> None:
    train = draw_task((2,) * CLASSES)
    train.features.x[:] = train.features.x[0]
    assert MapProbe().fit(train).logits(TEST.x).isfinite().all()


def test_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="penalty must be a number above 0"):
        MapProbe(0)
