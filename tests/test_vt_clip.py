"""VT-CLIP: the formula, its limits, and how it trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drawing import CLASSES, WIDTH, draw_images, draw_task
from torch import Tensor
from torch.nn.functional import normalize

from cafe.engine import Recipe
from cafe.errors import InputError
from cafe.features.stored_rows import StoredRows
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Validation
from cafe.methods.head import predict
from cafe.methods.vt_clip import PARTS, VtClip, VtClipHead, guided_cosines
from cafe.methods.zero_shot import ZeroShot

pytestmark = pytest.mark.usefixtures("one_thread")
TEST = draw_images()
CPU = Context(precision="fp32")


def fit(gate: float = 1.0, train: TrainingSet | None = None, epochs: int = 20) -> VtClipHead:
    method = VtClip(gate, 8, recipe=Recipe(epochs=epochs, batch_size=32), context=CPU)
    head = method.fit(train or draw_task())
    assert isinstance(head, VtClipHead)
    return head


def parts(seed: int = 0, hidden: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(1, 1, hidden, WIDTH, generator=generator, dtype=torch.float64)
        for name in PARTS
    }


def plainly(x: Tensor, tokens: Tensor, w: Tensor, p: dict[str, Tensor], gate: float) -> Tensor:
    """The same, image by image and class by class, with every vector of size D."""
    query, key, down, up = (p[name][0, 0] for name in PARTS)
    rows = []
    for image, seen in zip(x, tokens, strict=True):
        row = []
        for text in w:
            scores = (seen @ key.mT) @ (query @ text) * WIDTH / len(query) ** 0.5
            found = up.mT @ (torch.softmax(scores, 0) @ (seen @ down.mT))
            row.append(image @ normalize(text + gate * found, dim=0))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("gate", [0.0, 0.3, 2.0])
def test_the_products_are_the_formula(gate: float) -> None:
    x, tokens, w = unit(4, WIDTH, seed=1), unit(4, 7, WIDTH, seed=2), unit(5, WIDTH, seed=3)
    found = guided_cosines(x[None], tokens[None], w, parts(), gate)[0, 0]
    torch.testing.assert_close(found, plainly(x, tokens, w, parts(), gate))
    assert found.abs().max() <= 1 + 1e-12


def test_one_token_leaves_attention_no_choice() -> None:
    """A map of one token, which is the feature: every class gets the same residual of the image."""
    x, w, p = unit(4, WIDTH, seed=1), unit(5, WIDTH, seed=3), parts()
    found = guided_cosines(x[None], x[None, :, None], w, p, 0.5)[0, 0]
    residual = x @ p["down"][0, 0].mT @ p["up"][0, 0]  # (4, D)
    moved = normalize(w + 0.5 * residual[:, None], dim=-1)  # (4, 5, D)
    torch.testing.assert_close(found, (moved * x[:, None]).sum(-1))
    others = {**p, "query": parts(7)["query"], "key": parts(8)["key"]}
    torch.testing.assert_close(
        found, guided_cosines(x[None], x[None, :, None], w, others, 0.5)[0, 0]
    )


def test_without_the_gate_it_is_zero_shot() -> None:
    zero_shot = predict(ZeroShot().fit(draw_task()), TEST)
    torch.testing.assert_close(predict(fit(0.0), TEST), zero_shot, atol=1e-4, rtol=0)


def test_it_starts_at_zero_shot() -> None:
    train = draw_task()
    method = VtClip(context=CPU, bottleneck=4, recipe=Recipe(lr=0.0, epochs=1))
    torch.testing.assert_close(
        predict(method.fit(train), TEST), predict(ZeroShot().fit(train), TEST), atol=1e-4, rtol=0
    )


def test_it_finds_what_only_the_map_shows() -> None:
    """Features are between two classes; a token tells which of them the image is of."""
    text = draw_task().text
    w = text.weights

    def draw(count: int, seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(CLASSES).repeat(count)
        other = (y + torch.randint(1, CLASSES, (len(y),), generator=generator)) % CLASSES
        maps = 0.1 * torch.randn(len(y), 4, WIDTH, generator=generator)
        maps[torch.arange(len(y)), torch.randint(4, (len(y),), generator=generator)] += w[y]
        x = w[y] + w[other] + 0.1 * torch.randn(len(y), WIDTH, generator=generator)
        return Features(x, y, spatial_maps=StoredRows.of(maps))

    train, test = TrainingSet(draw(16, 0), text), draw(40, 1)
    recipe = Recipe(lr=5e-3, epochs=40, batch_size=64)
    head = VtClip(1.0, 16, recipe=recipe, context=CPU).fit(train)
    plain = predict(ZeroShot().fit(train), test).argmax(1).eq(test.y).float().mean()
    guided = predict(head, test).argmax(1).eq(test.y).float().mean()
    assert plain < 0.6
    assert guided > 0.8


def test_gates_are_chosen_under_validation() -> None:
    method = VtClip(gates=(0.0, 1.0), bottleneck=4, recipe=Recipe(epochs=3), context=CPU)
    head = method.fit(draw_task(), validation=Validation("cv"))
    assert head.params["gate"] in (0.0, 1.0)
    assert head.params["tokens"] == 4


def test_what_cannot_be_meant() -> None:
    train = draw_task()
    without = TrainingSet(replace(train.features, spatial_maps=None), train.text)
    with pytest.raises(InputError, match=r"vt-clip needs spatial features, .*extract --spatial"):
        fit(train=without)
    assert not VtClip(recipe=Recipe(views=True)).recipe.views
    with pytest.raises(InputError, match="gate must be a number of at least 0"):
        VtClip(-1)
    with pytest.raises(InputError, match=r"takes \(N, 1 \+ T, D\).*got \(30, 24\)"):
        fit(epochs=1).logits(TEST.x)
    with pytest.raises(InputError, match="no spatial features"):
        replace(TEST, spatial_maps=None).inputs(spatial=True)


def test_memory_is_bounded_by_the_budget() -> None:
    with pytest.raises(InputError, match="one run needs"):
        VtClip(context=Context(precision="fp32", memory_budget=10_000)).fit(draw_task())
