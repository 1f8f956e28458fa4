"""The trainer: exact against a plain loop, whatever the mix, the neighbours and the chunking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cafe.engine import (
    Architecture,
    Batch,
    BatchOrder,
    Recipe,
    Run,
    Trained,
    evaluate,
    linear_weights,
    logit_blocks,
    shared_product,
    train,
)
from cafe.engine import trainer as trainer_module
from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.clip_adapter.architecture import BothAdapter, TextAdapter, VisualAdapter

C, D = 5, 32
SHORT = Recipe(epochs=3, batch_size=16)


def make_text(classes: int = C, width: int = D) -> ClassText:
    generator = torch.Generator().manual_seed(9)
    features = torch.randn(classes, 2, width, generator=generator)
    return ClassText(features, tuple(map(str, range(classes))), 30.0)


TEXT = make_text()


def make_set(seed: int, images: int = 40, views: int = 0) -> TrainingSet:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(images) % C
    noise = torch.randn(images, max(views, 1), D, generator=generator)
    # Noisy enough to stay hard: AdamW blows up the rounding of gradients that are almost 0.
    x = TEXT.weights[y][:, None] + 0.6 * noise
    return TrainingSet(Features(x[:, 0], y, x if views else None), TEXT)


class Plain(nn.Module):
    """The formula as one writes it, with the weights that the engine starts from."""

    def __init__(self, run: Run, text: ClassText) -> None:
        super().__init__()
        architecture = run.architecture
        assert isinstance(architecture, VisualAdapter | TextAdapter | BothAdapter)
        self.architecture, self.run, self.text = architecture, run, text
        hidden, width = architecture.bottleneck, text.weights.shape[1]
        shapes = [(hidden, width), (width, hidden)] * len(architecture.branches)
        drawn = linear_weights(run.seed, *shapes)
        self.layers = nn.ParameterDict()
        for i, prefix in enumerate(architecture.branches):
            self.layers[f"{prefix}down"] = nn.Parameter(drawn[2 * i].clone())
            self.layers[f"{prefix}up"] = nn.Parameter(drawn[2 * i + 1].clone())
            if architecture.learn_ratio:
                start = torch.logit(torch.tensor(run.scalars[f"{prefix}ratio"])) / 20
                self.layers[f"{prefix}ratio_u"] = nn.Parameter(start.view(1, 1))

    def blend(self, v: Tensor, prefix: str) -> Tensor:
        if prefix not in self.architecture.branches:
            return v
        adapted = torch.relu(v @ self.layers[f"{prefix}down"].T) @ self.layers[f"{prefix}up"].T
        adapted = torch.relu(adapted) if self.architecture.final_relu else adapted
        ratio = self.run.scalars[f"{prefix}ratio"]
        if self.architecture.learn_ratio:
            ratio = torch.sigmoid(20 * self.layers[f"{prefix}ratio_u"])
        return ratio * adapted + (1 - ratio) * v

    def forward(self, x: Tensor) -> Tensor:
        images = normalize(self.blend(x, ""), dim=-1)  # of raw features, as the authors'
        classes = normalize(self.blend(self.text.weights, "text_"), dim=-1)
        return self.text.logit_scale * images @ classes.T + self.text.logit_bias


def plain_loop(run: Run, train_set: TrainingSet) -> dict[str, Tensor]:
    """One run alone: autograd, torch's AdamW and scheduler, the engine's batch order."""
    model, features, recipe = Plain(run, train_set.text), train_set.features, run.recipe
    ratios = [p for n, p in model.layers.items() if n.endswith("_u")]
    layers = [p for n, p in model.layers.items() if not n.endswith("_u")]
    groups = [
        {"params": layers, "weight_decay": recipe.weight_decay},
        {"params": ratios, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    steps = recipe.epochs * -(-len(features) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    views = features.views if recipe.views else None
    x = features.x if views is None else views.flatten(0, 1)
    count = 1 if views is None else views.shape[1]
    order = BatchOrder(run.seed, len(features), count)
    for _ in range(recipe.epochs):
        for rows in order.epoch().split(recipe.batch_size):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), features.y[rows // count]).backward()
            optimizer.step()
            schedule.step()
    found = {name: value.detach() for name, value in model.layers.items()}
    return {name: v.T if name.endswith("up") else v for name, v in found.items()}


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], bound: float = 1e-4) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        error = float((found[name] - value).norm() / value.norm())
        assert error < bound, f"{name} is {error:.1e} away"


def mixed_runs() -> list[Run]:
    """Every thing that may differ, differing."""
    slow = Recipe(lr=3e-4, weight_decay=0.1, epochs=3, batch_size=16)
    return [
        Run(VisualAdapter(8), 0, 0, SHORT, {"ratio": 0.2}),
        Run(VisualAdapter(8), 0, 0, slow, {"ratio": 0.6}),
        Run(VisualAdapter(8), 1, 1, SHORT, {"ratio": 0.2}),
        Run(VisualAdapter(4), 1, 1, SHORT, {"ratio": 0.9}),
        Run(VisualAdapter(8), 2, 5, SHORT, {"ratio": 0.0}),
        Run(VisualAdapter(8), 0, 3, SHORT, {"ratio": 0.2}),
        Run(VisualAdapter(8, final_relu=False), 0, 0, SHORT, {"ratio": 0.4}),
        Run(VisualAdapter(8, learn_ratio=True), 0, 0, SHORT, {"ratio": 0.2}),
        Run(VisualAdapter(8, learn_ratio=True), 1, 0, slow, {"ratio": 0.7}),
        Run(TextAdapter(8), 0, 0, SHORT, {"text_ratio": 0.3}),
        Run(TextAdapter(8, learn_ratio=True), 1, 1, slow, {"text_ratio": 0.5}),
        Run(BothAdapter(8), 0, 2, SHORT, {"ratio": 0.2, "text_ratio": 0.5}),
        Run(BothAdapter(4), 2, 2, slow, {"ratio": 0.1, "text_ratio": 0.5}),
        Run(VisualAdapter(8), 3, 0, Recipe(epochs=2, batch_size=7, views=True), {"ratio": 0.5}),
        Run(VisualAdapter(8), 3, 0, Recipe(epochs=2, batch_size=64), {"ratio": 0.5}),
        Run(VisualAdapter(8), 0, 0, SHORT, {"ratio": 0.8}),
    ]


SETS = [make_set(0), make_set(1), make_set(2, images=23), make_set(3, images=20, views=3)]


@pytest.fixture(scope="module")
def mixed() -> list[Trained]:
    return train(mixed_runs(), SETS, precision="fp32")


@pytest.mark.parametrize("index", range(len(mixed_runs())))
def test_run_in_the_batch_equals_a_plain_loop(mixed: list[Trained], index: int) -> None:
    run = mixed_runs()[index]
    assert mixed[index].run == run
    assert_close(mixed[index].tensors, plain_loop(run, SETS[run.data]))


def test_the_comparison_can_fail(mixed: list[Trained]) -> None:
    other_seed = Run(VisualAdapter(8), 0, 1, SHORT, {"ratio": 0.2})
    with pytest.raises(AssertionError, match="away"):
        assert_close(mixed[0].tensors, plain_loop(other_seed, SETS[0]))


@pytest.mark.parametrize("budget", [40_000, 100_000, 10**9])
def test_chunking_changes_nothing(
    mixed: list[Trained], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "CHUNK_BYTES", budget)
    again = train(mixed_runs(), SETS, precision="fp32", memory_budget=max(budget, 60_000))
    for one, other in zip(mixed, again, strict=True):
        assert_close(one.tensors, other.tensors, 1e-5)


def test_neighbours_and_order_change_nothing(mixed: list[Trained]) -> None:
    runs = mixed_runs()
    alone = train([runs[1]], SETS, precision="fp32")[0]
    assert_close(alone.tensors, mixed[1].tensors, 1e-5)
    backwards = train(runs[::-1], SETS, precision="fp32")
    for one, other in zip(mixed, reversed(backwards), strict=True):
        assert one.run == other.run
        assert_close(one.tensors, other.tensors, 1e-5)


def test_too_small_a_budget_says_what_one_run_needs() -> None:
    with pytest.raises(InputError, match=r"one run needs [\d,]+ bytes and .* budget is 1,000;"):
        train(mixed_runs()[:1], SETS, memory_budget=1000)


def test_no_runs_give_nothing() -> None:
    assert train([], []) == []


def test_progress_counts_run_epochs_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    train(mixed_runs()[:5], SETS, precision="fp32", progress=lambda *pair: seen.append(pair))
    assert seen[-1] == (15, 15)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_interrupt_keeps_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "CHUNK_BYTES", 1)  # one run a chunk
    kept: list[int] = []

    def stop_at_three(index: int, _: Trained) -> None:
        kept.append(index)
        if len(kept) == 3:
            raise KeyboardInterrupt

    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        train(mixed_runs(), SETS, precision="fp32", on_finished=stop_at_three)
    assert len(kept) == 3
    assert torch.get_num_threads() == threads


def test_a_failure_in_a_chunk_is_raised_where_train_was_called() -> None:
    with pytest.raises(KeyError, match="ratio"):
        train([Run(VisualAdapter(8), 0, 0, SHORT, {})], SETS, precision="fp32")


def test_bf16_is_close_to_fp32() -> None:
    runs = [
        Run(VisualAdapter(8), d, 0, Recipe(epochs=20), {"ratio": r})
        for d in (0, 1)
        for r in (0.2, 0.7)
    ]
    runs += [Run(TextAdapter(8), 0, 0, Recipe(epochs=20), {"text_ratio": 0.5})]
    held_out = [make_set(77, images=500).features]
    scores = [
        evaluate(train(runs, SETS, precision=precision), SETS, held_out)
        for precision in ("fp32", "bf16")
    ]
    for exact, rough in zip(*scores, strict=True):
        assert rough.accuracy == pytest.approx(exact.accuracy, abs=0.01)
        assert rough.nll == pytest.approx(exact.nll, rel=0.05)


@dataclass(frozen=True)
class Residual(Architecture):
    """A head by the short form of the contract: a loss with a penalty, and autograd."""

    def initial(self, run: Run, train: TrainingSet) -> dict[str, Tensor]:
        return {"r": torch.zeros_like(train.text.weights)}

    def rows(self, x: Tensor, text: ClassText) -> dict[str, Tensor]:
        return {"x": normalize(x, dim=-1)}

    def constants(self, train: TrainingSet) -> dict[str, Tensor]:
        return {"share": train.features.y.bincount().float() / len(train.features)}

    def logits(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        w = batch.weights + batch.scalars["alpha"] * params["r"]
        return batch.scale * shared_product(batch.rows["x"], normalize(w, dim=-1))

    def penalty(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return (batch.constants["share"] * params["r"].square().sum(-1)).sum(-1)


def test_a_head_by_loss_alone_trains_like_a_plain_loop() -> None:
    runs = [Run(Residual(), d, d, SHORT, {"alpha": a}) for d in (0, 1, 0) for a in (0.5, 1.0)]
    for found in train(runs, SETS, precision="fp32"):
        run, train_set = found.run, SETS[found.run.data]
        r = torch.zeros(C, D, requires_grad=True)
        optimizer = torch.optim.AdamW([r], lr=SHORT.lr, weight_decay=SHORT.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
        order = BatchOrder(run.seed, 40)
        for _ in range(3):
            for rows in order.epoch().split(16):
                w = normalize(TEXT.weights + run.scalars["alpha"] * r, dim=-1)
                logits = 30 * train_set.features.unit[rows] @ w.T
                loss = cross_entropy(logits, train_set.features.y[rows])
                loss = loss + (r.square().sum(-1) / C).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        assert_close(found.tensors, {"r": r.detach()})


def test_evaluation_in_blocks_equals_the_plain_formula(mixed: list[Trained]) -> None:
    held_out = [make_set(50, images=31).features, make_set(51, images=44).features]
    which = [i % 2 for i in range(len(mixed))]
    scores = evaluate(mixed, SETS, held_out, which, memory_budget=20_000)
    for one, held, score in zip(mixed, which, scores, strict=True):
        model = Plain(one.run, TEXT)
        tensors = {n: v.mT if n.endswith("up") else v for n, v in one.tensors.items()}
        model.layers.load_state_dict(tensors)
        logits, y = model(held_out[held].x).detach(), held_out[held].y
        assert score.accuracy == pytest.approx(float((logits.argmax(-1) == y).float().mean()))
        assert score.nll == pytest.approx(float(cross_entropy(logits, y)), rel=1e-4)
    block = next(logit_blocks([mixed[0], mixed[1]], SETS[0], held_out[0]))
    assert block.shape == (2, 31, C)
