"""The graph of a pool, what travels over it, and the search of large pools, against dense ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from drawing import CLASSES, draw_images, draw_task
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.pool import Pool
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.knn import flat_index
from cafe.methods.transductive.graph import Cells, index_of, neighbour_graph, search
from cafe.methods.transductive.soft_labels import LEAST_SHARE, blocks, soft_labels

pytestmark = pytest.mark.usefixtures("one_thread")


def nearest(cosines: Tensor, k: int) -> Tensor:
    """A dense matrix with the k largest cosines of each row, negative ones as 0."""
    values, rows = cosines.topk(k, dim=1)
    return torch.zeros_like(cosines).scatter_(1, rows, values.clamp_min(0))


def unit_pool(per_class: int = 6) -> tuple[Pool, Tensor]:
    pool = Pool(draw_images(per_class).x)
    return pool, pool.unit.double()


def fit(name: str, settings: dict[str, Any]) -> Any:
    return make_method(name, Context(), settings).fit(draw_task((2,) * CLASSES))


def test_transclip_is_the_formula_of_its_docstring() -> None:
    pool, x = unit_pool()
    train = draw_task((2,) * CLASSES)
    start = make_method("lda-prior", Context(), {}).fit(train)
    p = start.logits(pool.x).double().softmax(dim=-1)
    w = nearest(x @ x.mT - 9 * torch.eye(len(x)), 3)
    graph = (w + w.mT) / 6
    weights, rows = p.topk(8, dim=0)
    mu = normalize(torch.einsum("kc,kcd->cd", weights, x[rows]), dim=-1)
    variance, z = torch.full((x.shape[1],), 1 / x.shape[1], dtype=torch.float64), p
    for done in range(11):
        if done:
            mu = normalize(z.mT @ x, dim=-1)
            away = (x[:, None] - mu).square()  # (N, C, D)
            variance = torch.einsum("nc,ncd->d", z, away) / len(x)
        spread = ((x[:, None] - mu).square() / variance).sum(dim=-1) + variance.log().sum()
        for _ in range(5):
            z = (p.clamp_min(1e-12).log() - spread / 100 + graph @ z).softmax(dim=-1)
    found = fit("transclip", {"pool": pool, "start": "lda-prior"})
    torch.testing.assert_close(found.answers.double(), z, atol=2e-4, rtol=0)
    torch.testing.assert_close(found.mu.double(), mu, atol=2e-4, rtol=0)


@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_zlap_is_the_inverse_of_its_docstring(alpha: float) -> None:
    pool, x = unit_pool()
    text = draw_task((2,) * CLASSES).text.weights.double()
    near = torch.zeros(len(x) + CLASSES, len(x) + CLASSES, dtype=torch.float64)
    near[: len(x), : len(x)] = nearest(x @ x.mT - 9 * torch.eye(len(x)), 5)
    near[: len(x), len(x) :] = nearest(x @ text.mT, 5)
    w = (near + near.mT) ** 5 * torch.where((near > 0) & (near.mT > 0), 2.0**-4, 1.0)
    scale = w.sum(dim=1).rsqrt()
    w = scale[:, None] * w * scale
    f = torch.linalg.inv(torch.eye(len(w)) - alpha * w)[: len(x), len(x) :]
    found = fit("zlap", {"pool": pool, "alpha": alpha})
    wanted = f / f.sum(dim=1, keepdim=True)
    torch.testing.assert_close(found.answers.double(), wanted, atol=1e-5, rtol=0)


def test_cells_find_what_an_exact_search_finds() -> None:
    make = torch.Generator().manual_seed(0)
    centres = torch.randn(120, 16, generator=make)
    x = centres.repeat_interleave(50, dim=0) + 0.3 * torch.randn(6000, 16, generator=make)
    unit = normalize(x, dim=-1)
    exact = neighbour_graph(index_of(unit), unit, 3)[1]
    index = index_of(unit, exact=1000)
    assert isinstance(index, Cells)
    cosines, rows = neighbour_graph(index, unit, 3)
    assert (exact[:, :, None] == rows[:, None]).any(dim=2).float().mean() > 0.95
    torch.testing.assert_close(cosines, (unit[:, None] * unit[rows]).sum(dim=-1))


def test_cells_with_too_few_images_give_what_they_have() -> None:
    unit = normalize(draw_images(4).x, dim=-1)
    found = [search(index, unit, 30) for index in (flat_index(unit), Cells(unit.numpy()))]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    index = Cells(np.repeat(unit[:2].numpy(), 400, axis=0))
    index.members = [rows[:1] for rows in index.members]
    cosines, rows = search(index, unit[:1], 5)
    assert cosines[0, 0] == pytest.approx(1)
    assert cosines[0, 4] == 0
    assert rows.min() == 0


def test_soft_labels_are_a_softmax_without_denormal_numbers() -> None:
    logits = torch.tensor([[0.0, -3.0, -95.0, -300.0]])
    found = soft_labels(logits)
    torch.testing.assert_close(found, logits.softmax(dim=-1), atol=LEAST_SHARE, rtol=1e-5)
    assert found.min() == pytest.approx(LEAST_SHARE)
    assert [part.stop - part.start for part in blocks(10, 4, 12)] == [3, 3, 3, 1]
    assert math.isclose(float(found.sum()), 1, rel_tol=1e-6)


@pytest.mark.parametrize("name", ["transclip", "stata", "zlap", "lda-prior-pooled"])
def test_a_pool_of_one_image(name: str) -> None:
    start = {"start": "lda-prior"} if name in ("transclip", "stata") else {}
    head = fit(name, {"pool": Pool(draw_images().x[:1]), **start})
    assert head(draw_images().x).isfinite().all()
