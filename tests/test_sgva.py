"""SgVA-CLIP against numpy and a plain training loop, at its limits, and its choice of weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import CLASSES, WIDTH, draw_images, draw_task, draw_validation_set
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from cafe.engine import BatchOrder, Recipe, linear_weights
from cafe.errors import InputError
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Job, Validation
from cafe.methods.prompt_learning.coop import PromptHead
from cafe.methods.sgva.sgva import Sgva
from cafe.methods.zero_shot import ZeroShot, ZeroShotHead
from cafe.results.saved_head import save_head

pytestmark = pytest.mark.usefixtures("one_thread")

TEST = draw_images()
FP32 = Context(precision="fp32")
STILL = Recipe(lr=0.0, weight_decay=0.0, epochs=1)


def class_means(train: TrainingSet, f: np.ndarray) -> np.ndarray:
    y = train.features.y.numpy()
    return np.stack([f[y == c].mean(axis=0) for c in range(CLASSES)])


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_without_mix_it_is_prototypes_and_text_of_plain_features(alpha: float) -> None:
    train = draw_task((2, 3, 4, 5, 6))
    head = Sgva(alpha, mix=0.0, recipe=STILL, context=FP32).fit(train)
    shots, x = unit(train.features.x.numpy()), unit(TEST.x.numpy())
    w = train.text.weights.numpy()
    expected = 20 * (alpha * x @ class_means(train, shots).T + (1 - alpha) * x @ w.T)
    np.testing.assert_allclose(head.logits(TEST.x).numpy(), expected, atol=1e-4)


def saved_words(path: Path, weights: Tensor, names: tuple[str, ...], method: str = "coop") -> str:
    head = PromptHead(20 * weights, torch.zeros(len(weights)), torch.zeros(1, 2, 3), method="coop")
    save_head(path, head, {"class_names": list(names)})
    if method != "coop":
        save_head(
            path,
            ZeroShotHead(weights, torch.tensor([20.0, 0.0]), method="zero-shot"),
            {"class_names": list(names)},
        )
    return str(path)


def test_learned_words_stand_for_the_prompts(tmp_path: Path) -> None:
    train = draw_task()
    own = saved_words(tmp_path / "own.safetensors", train.text.weights, train.text.names)
    plain = Sgva(recipe=Recipe(epochs=3), context=FP32).fit(train)
    same = Sgva(words=own, recipe=Recipe(epochs=3), context=FP32).fit(train)
    torch.testing.assert_close(same.logits(TEST.x), plain.logits(TEST.x), atol=1e-3, rtol=0)
    assert same.params["words"] == own
    other = saved_words(tmp_path / "o.safetensors", train.text.weights.flip(0), train.text.names)
    head = Sgva(0.0, words=other, recipe=Recipe(epochs=3), context=FP32).fit(train)
    expected = ZeroShot().fit(train).logits(TEST.x).flip(1)
    torch.testing.assert_close(head.logits(TEST.x), expected, atol=1e-4, rtol=0)


def test_words_of_other_classes_or_no_words_are_refused(tmp_path: Path) -> None:
    train, file = draw_task(), tmp_path / "words.safetensors"
    weights = train.text.weights
    for names in (train.text.names[::-1], ("a", "b")):
        saved_words(file, weights[: len(names)], names)
        with pytest.raises(InputError, match="fit coop on this cache"):
            Sgva(words=str(file), context=FP32).fit(train)
    saved_words(file, weights, train.text.names, "zero-shot")
    with pytest.raises(InputError, match="is a head of 'zero-shot'; learned words are in one of"):
        Sgva(words=str(file), context=FP32).fit(train)
    for content in (b"", b"nonsense"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="is no saved head with learned words"):
            Sgva(words=str(file), context=FP32).fit(train)


def test_no_weight_on_prototypes_is_zero_shot() -> None:
    train = draw_task(bias=-4.0)
    head = Sgva(0.0, recipe=Recipe(epochs=3), context=FP32).fit(train)
    torch.testing.assert_close(head.logits(TEST.x), ZeroShot().fit(train).logits(TEST.x))


def test_the_score_is_the_formula() -> None:
    train = draw_task((2, 3, 4, 5, 6))
    head = Sgva(0.4, bottleneck=7, recipe=Recipe(epochs=3), context=FP32).fit(train)
    own = {name: value.double().numpy() for name, value in head.tensors().items()}
    mix = head.params["learned_mix"]

    def adapted(x: Tensor) -> np.ndarray:
        v = unit(x.double().numpy())
        hidden = np.maximum(v @ own["down"].T, 0)
        return unit(mix * hidden @ own["up"] + (1 - mix) * v)

    assert own["down"].shape == (7, WIDTH)
    np.testing.assert_allclose(
        own["prototypes"], class_means(train, adapted(train.features.x)), atol=1e-6
    )
    text = unit(TEST.x.double().numpy()) @ own["weights"].T
    expected = 20 * (0.4 * adapted(TEST.x) @ own["prototypes"].T + 0.6 * text)
    np.testing.assert_allclose(head.logits(TEST.x).numpy(), expected, atol=1e-4)


def plain_loop(train: TrainingSet, recipe: Recipe, seed: int, temperature: float) -> Any:
    """The three losses, written out for one run."""
    x, y, w = train.features.unit, train.features.y, train.text.weights
    down, up = linear_weights(seed, (2 * WIDTH, WIDTH), (WIDTH, 2 * WIDTH))
    up, mix = up.mT.contiguous(), torch.tensor(0.5)
    leaves = [value.requires_grad_() for value in (down, up, mix)]
    groups = [
        {"params": leaves[:2], "weight_decay": recipe.weight_decay},
        {"params": leaves[2:], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    order = BatchOrder(seed, len(y))
    steps = recipe.epochs * -(-len(y) // recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def adapted(v: Tensor) -> Tensor:
        return normalize(mix * torch.relu(v @ down.mT) @ up + (1 - mix) * v, dim=-1)

    for _ in range(recipe.epochs):
        for rows in torch.split(order.epoch(), recipe.batch_size):
            f = adapted(x)
            means = torch.stack([f[y == c].mean(dim=0) for c in range(CLASSES)])
            by_image, by_text = 20 * f[rows] @ means.mT, 20 * f[rows] @ w.mT
            teacher = (20 * x[rows] @ w.mT / temperature).softmax(dim=-1)
            loss = cross_entropy(by_image, y[rows]) + cross_entropy(by_text, y[rows])
            loss = loss + cross_entropy(by_text / temperature, teacher)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    return down.detach(), up.detach(), mix.item()


@pytest.mark.parametrize("batch_size", [256, 7])
def test_training_is_a_plain_loop(batch_size: int) -> None:
    train, recipe = draw_task((2, 3, 4, 5, 6)), Recipe(epochs=8, batch_size=batch_size)
    head = Sgva(temperature=3.0, recipe=recipe, context=FP32).fit(train, seed=4)
    down, up, mix = plain_loop(train, recipe, 4, 3.0)
    torch.testing.assert_close(head.tensors()["down"], down, atol=2e-4, rtol=0)
    torch.testing.assert_close(head.tensors()["up"], up, atol=2e-4, rtol=0)
    assert head.params["learned_mix"] == pytest.approx(mix, abs=1e-4)
    assert head.params["learned_mix"] != 0.5


def test_low_precision_is_near() -> None:
    train = draw_task()
    recipe = Recipe(epochs=5)
    wide, low = (
        Sgva(recipe=recipe, context=Context(precision=p)).fit(train).logits(TEST.x).softmax(-1)
        for p in ("fp32", "bf16")
    )
    torch.testing.assert_close(low, wide, atol=0.02, rtol=0)


def test_members_average_each_class_and_a_missing_one_takes_the_mean_of_means() -> None:
    train = draw_task((1, 4, 0, 2, 3))
    found = train.averages
    shots = one_hot(train.features.y, CLASSES).float()
    expected = shots / shots.sum(dim=0).clamp_min(1)
    expected[:, 2] = expected[:, [0, 1, 3, 4]].mean(dim=1)
    torch.testing.assert_close(found, expected.mT)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(CLASSES))


@pytest.mark.parametrize("protocol", ["full", "cv"])
def test_validation_chooses_as_single_fits_would(protocol: Any) -> None:
    train, held = draw_task((4, 4, 3, 5, 4)), draw_validation_set().features
    assert held is not None
    alphas = (0.0, 0.2, 0.5, 0.8, 1.0)
    method = Sgva(alphas=alphas, recipe=Recipe(epochs=4), context=FP32)
    chosen = method.fit(
        train, validation=Validation(protocol, held if protocol == "full" else None)
    )
    assert chosen.params["alpha"] in alphas
    if protocol == "full":
        assert chosen.params["alpha"] == max(
            alphas, key=lambda alpha: score(train, alpha, held.x, held.y)
        )
    fixed = replace_alpha(train, chosen.params["alpha"])
    torch.testing.assert_close(chosen.logits(TEST.x), fixed.logits(TEST.x), atol=1e-3, rtol=0)


def replace_alpha(train: TrainingSet, alpha: float) -> Any:
    return Sgva(alpha, recipe=Recipe(epochs=4), context=FP32).fit(train)


def score(train: TrainingSet, alpha: float, x: Tensor, y: Tensor) -> tuple[float, float]:
    logits = replace_alpha(train, alpha).logits(x)
    hits = (logits.argmax(dim=-1) == y).double().mean().item()
    return hits, -cross_entropy(logits, y).item()


def test_the_weight_of_prototypes_grows_with_the_shots() -> None:
    method = Sgva(recipe=STILL, context=FP32)
    for most, alpha in ((1, 0.05), (3, 0.075), (4, 0.1), (15, 0.22), (20, 0.27)):
        train = draw_task((1, most, 1, 1, 0))
        assert method.fit(train).params["alpha"] == alpha


def test_jobs_of_many_sizes_train_as_if_alone() -> None:
    trains = [draw_task((k,) * CLASSES, seed=k) for k in (1, 2, 5)]
    method = Sgva(recipe=Recipe(epochs=4), context=FP32)
    many = method.fit_many([Job(train, seed=3 + i) for i, train in enumerate(trains)])
    for head, train, seed in zip(many, trains, (3, 4, 5), strict=True):
        alone = method.fit(train, seed=seed)
        torch.testing.assert_close(head.logits(TEST.x), alone.logits(TEST.x), atol=1e-3, rtol=0)


def test_a_small_budget_changes_nothing() -> None:
    trains = [draw_task(seed=s) for s in range(3)]
    recipe = Recipe(epochs=3)
    found = [
        Sgva(recipe=recipe, context=replace(FP32, memory_budget=budget)).fit_many(
            [Job(train, seed=seed) for seed, train in enumerate(trains)]
        )
        for budget in (None, 1 << 20)
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.logits(TEST.x), other.logits(TEST.x), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"alpha": 1.5}, "alpha must be a number from 0 to 1; got 1.5"),
        ({"alphas": (0.1, -1)}, "alpha must be a number from 0 to 1; got -1"),
        ({"mix": "much"}, "mix must be a number from 0 to 1; got much"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"bottleneck": "D/x"}, "bottleneck must be a whole number"),
    ],
)
def test_bad_settings(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Sgva(**settings)
