"""CoOp against a plain loop, its limits, its schedule, and how it is asked for."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_run import call, digits_run
from drawing import CLASSES, DrawnTower, draw_images, draw_task
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import cafe
from cafe.encoders.encoder import Encoder
from cafe.encoders.text_tower import EncoderTower, load_tower
from cafe.engine import BatchOrder, Recipe
from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.prompt_learning.coop import INITIAL_STD, Coop, PromptHead
from cafe.methods.prompt_learning.prompts import Prompts
from cafe.methods.prompt_learning.training import WARM_UP, rate

pytestmark = pytest.mark.usefixtures("one_thread")

FP32 = Context(precision="fp32")
NAMES = ("cat", "sea_lion", "barn owl")
RECIPE = Recipe(lr=0.05, weight_decay=5e-4, epochs=5, batch_size=8)


def draw_tiny_task(shots: int = 4, seed: int = 0) -> TrainingSet:
    """Noise of the tiny encoder's width."""
    noise = torch.Generator().manual_seed(seed)
    y = torch.arange(len(NAMES)).repeat(shots)
    x = torch.randn(len(y), 16, generator=noise)
    text = ClassText(torch.randn(len(NAMES), 1, 16, generator=noise), NAMES, 20.0)
    return TrainingSet(Features(x, y), text)


class PlainCoop(torch.nn.Module):
    """CoOp as one writes it, for open_clip's CLIP: whole sentences, one run, a torch optimiser."""

    def __init__(self, encoder: Encoder, context: Tensor) -> None:
        super().__init__()
        self.clip = encoder._network
        sentences = [f"{'x ' * len(context)}{name.replace('_', ' ')}." for name in NAMES]
        self.tokens = encoder.token_ids(sentences)
        self.embedded = self.clip.token_embedding(self.tokens)
        self.context = torch.nn.Parameter(context.clone())

    def forward(self, x: Tensor) -> Tensor:
        size = len(self.context)
        shared = self.context.expand(len(NAMES), -1, -1)
        h = torch.cat([self.embedded[:, :1], shared, self.embedded[:, 1 + size :]], dim=1)
        h = self.clip.transformer(h + self.clip.positional_embedding, attn_mask=self.clip.attn_mask)
        h = self.clip.ln_final(h)[torch.arange(len(NAMES)), self.tokens.argmax(-1)]
        return 20.0 * normalize(x, dim=-1) @ normalize(h @ self.clip.text_projection, dim=-1).T


def plain_logits(encoder: Encoder, train: TrainingSet, recipe: Recipe, x: Tensor) -> Tensor:
    noise = Coop(4, tower=EncoderTower(encoder))._start(_prompts(encoder), seed=3)
    model = PlainCoop(encoder, noise[0])
    optimizer = torch.optim.SGD(
        [model.context], recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay
    )
    order = BatchOrder(3, len(train.features))
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = rate(epoch, recipe)
        for rows in order.epoch().split(recipe.batch_size):
            batch = train.features[rows]
            optimizer.zero_grad()
            cross_entropy(model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model(x).detach()


def _prompts(encoder: Encoder) -> Prompts:
    return Prompts(EncoderTower(encoder), NAMES, 4, torch.device("cpu"))


@pytest.mark.parametrize("epochs", [1, 5])
def test_it_is_a_plain_loop(tiny: Encoder, epochs: int) -> None:
    train, recipe = draw_tiny_task(), replace(RECIPE, epochs=epochs)
    method = Coop(4, tower=EncoderTower(tiny), recipe=recipe, context=FP32)
    x = torch.randn(7, 16)
    found = method.fit(train, seed=3).logits(x)
    torch.testing.assert_close(found, plain_logits(tiny, train, recipe, x), atol=2e-4, rtol=1e-4)


def test_one_step_has_the_plain_gradient(tiny: Encoder) -> None:
    train, prompts = draw_tiny_task(), _prompts(tiny)
    start = torch.randn(1, *prompts.shape)
    plain = PlainCoop(tiny, start[0])
    cross_entropy(plain(train.features.x), train.features.y).backward()  # type: ignore[no-untyped-call]
    leaf = start.clone().requires_grad_()
    classes = normalize(prompts.features(leaf[None]), dim=-1)
    loss = Coop(4, tower=prompts.tower).objective(train.text)(
        classes, train.features.unit[None], train.features.y[None]
    )
    (gradient,) = torch.autograd.grad(loss.sum(), [leaf])
    assert plain.context.grad is not None
    torch.testing.assert_close(gradient[0], plain.context.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("class_specific", [False, True])
def test_untrained_words_are_zero_shot(tiny: Encoder, class_specific: bool) -> None:
    train = draw_tiny_task()
    tower = EncoderTower(tiny)
    still = Recipe(lr=0.0, epochs=1)
    method = Coop("a photo of a", class_specific=class_specific, tower=tower, recipe=still)
    sentences = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    expected = 20.0 * train.features.unit @ normalize(tiny.encode_text(sentences), dim=-1).T
    found = method.fit(train).logits(train.features.x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_class_specific_contexts_part(tiny: Encoder) -> None:
    method = Coop("a photo", class_specific=True, tower=EncoderTower(tiny), recipe=RECIPE)
    context = method.fit(draw_tiny_task()).tensors()["context"]
    assert context.shape == (3, 2, 16)
    assert not torch.allclose(context[0], context[1], atol=1e-3)


def test_the_saved_context_gives_the_head_again(tiny: Encoder) -> None:
    head = Coop(4, tower=EncoderTower(tiny), recipe=RECIPE, context=FP32).fit(draw_tiny_task())
    assert isinstance(head, PromptHead)
    features = _prompts(tiny).features(head.context[None])[0]
    torch.testing.assert_close(20.0 * normalize(features, dim=-1), head.weights)


@pytest.mark.parametrize("budget", [1, 40_000, 10**9])
def test_a_small_memory_changes_nothing(tiny: Encoder, budget: int) -> None:
    jobs, tower = [Job(draw_tiny_task(seed=seed), seed=seed) for seed in (0, 1)], EncoderTower(tiny)
    small = Context(precision="fp32", memory_budget=budget)
    found, expected = (
        Coop(4, tower=tower, recipe=RECIPE, context=context).fit_many(jobs)
        for context in (small, FP32)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.tensors(), other.tensors(), atol=1e-4, rtol=1e-4)


def test_the_start_is_a_small_draw() -> None:
    method = Coop(16, tower=DrawnTower(), class_specific=True)
    prompts = Prompts(DrawnTower(), draw_task().text.names, 16, torch.device("cpu"))
    start = method._start(prompts, seed=0)
    assert start.shape == (CLASSES, 16, 24)
    assert float(start.std()) == pytest.approx(INITIAL_STD, rel=0.05)
    assert not torch.equal(start, method._start(prompts, seed=1))


def test_the_schedule_is_one_flat_epoch_and_a_cosine() -> None:
    recipe = Coop.published
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], recipe.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    expected = [WARM_UP]
    for _ in range(recipe.epochs - 1):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [rate(epoch, recipe) for epoch in range(recipe.epochs)] == pytest.approx(expected)


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (8, 200), (16, 200)])
def test_it_trains_as_long_as_the_authors(shots: int, epochs: int) -> None:
    train = draw_task((shots,) * CLASSES)
    assert Coop(tower=DrawnTower()).recipe_for(train).epochs == epochs
    assert Coop(tower=DrawnTower(), recipe=RECIPE).recipe_for(train) == RECIPE


def test_it_tells_how_far_it_is() -> None:
    heard: list[tuple[int, int]] = []
    context = Context(precision="fp32", tell=lambda done, total: heard.append((done, total)))
    method = Coop(2, tower=DrawnTower(), recipe=replace(RECIPE, epochs=3), context=context)
    method.fit_many([Job(draw_task()), Job(draw_task((2,) * CLASSES), seed=1)])
    assert heard == [(done, 6) for done in range(1, 7)]


def test_small_products_take_one_thread() -> None:
    torch.set_num_threads(2)  # the fixture puts it back
    seen: list[int] = []
    context = Context(precision="fp32", tell=lambda *_: seen.append(torch.get_num_threads()))
    Coop(2, tower=DrawnTower(), recipe=RECIPE, context=context).fit(draw_task())
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


class EndIsPadding(DrawnTower):
    """Sentences without a start, padded with their end, as SigLIP's tokenizers write them."""

    def tokens(self, sentences: Sequence[str]) -> Tensor:
        rows = [[*map(ord, text)] for text in sentences]
        return torch.tensor([row + [self.end] * (self.length - len(row)) for row in rows])


@pytest.mark.parametrize("kind", [DrawnTower, EndIsPadding])
def test_words_stand_where_the_tokenizer_puts_them(kind: type[DrawnTower]) -> None:
    tower = kind()
    prompts = Prompts(tower, ("a_b", "cde"), "one two ", torch.device("cpu"))
    expected = tower.trim(tower.tokens(["one two a b.", "one two cde."]))
    assert torch.equal(prompts.tokens, expected)
    assert torch.equal(prompts.words, tower.table[[*map(ord, "one two ")]])


def test_refuses_what_cannot_be_meant(tiny: Encoder) -> None:
    with pytest.raises(InputError, match=r"none was given; pass tower=load_tower\(cache"):
        Coop()
    with pytest.raises(InputError, match="'Encoder' was given"):
        Coop(tower=tiny)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"prompt must be a whole number of at least 1; got 0\."):
        Coop(0, tower=DrawnTower())
    with pytest.raises(InputError, match="prompt '' has no words"):
        Coop("", tower=DrawnTower()).fit(draw_task())
    with pytest.raises(InputError, match=r"40 learned tokens and the 8 of 'class 0' does not fit"):
        Coop(40, tower=DrawnTower()).fit(draw_task())
    with pytest.raises(InputError, match="features of width 16 and the cache holds 24"):
        Coop(4, tower=EncoderTower(tiny)).fit(draw_task())


def test_classes_of_one_name_need_words_of_their_own() -> None:
    train = draw_task()
    names = ("crane", "ibis", "crane", *train.text.names[3:])
    shared = TrainingSet(train.features, replace(train.text, names=names))
    recipe = Recipe(epochs=1)
    with pytest.raises(InputError, match=r"classes 0 'crane' and 2 'crane' have one name for this"):
        Coop(tower=DrawnTower(), recipe=recipe).fit(shared)
    Coop(tower=DrawnTower(), class_specific=True, recipe=recipe).fit(shared)


def test_an_interrupt_stops_it() -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    method = Coop(2, tower=DrawnTower(), recipe=RECIPE, context=Context(tell=stop))
    with pytest.raises(KeyboardInterrupt):
        method.fit(draw_task())


@pytest.fixture
def digits(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = digits_run(tmp_path_factory)
    monkeypatch.chdir(work)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return work


FEW = ["--shots", "2", "--seeds", "1", "--epochs", "2", "--runs"]


def test_from_the_command_line(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--method", "coop", "--prompt", "a photo of the number", *FEW, tmp_path, "--json"]
    answer = call(monkeypatch, capsys, "fit", *words)
    assert answer.code == 0, answer.err
    row = json.loads(answer.out)["results"][-1]
    assert row["method"] == "coop"
    assert row["params"]["prompt"] == "a photo of the number"
    assert row["accuracy"]["mean"] > 60  # zero-shot with this prompt is far above chance
    assert row["calibration"]["source"] == "out-of-fold"
    (folder,) = tmp_path.iterdir()
    saved = cafe.load_head(folder / "coop.2shot.seed0.safetensors")
    assert saved.head.tensors()["context"].shape[-1] == 32
    assert cafe.export_head(folder, "torch", method="coop", output=tmp_path / "x.pt2")


def test_beside_others(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Coop, "recipe_for", lambda *_: replace(RECIPE, epochs=1))
    words = ["--methods", "zero-shot,coop", "--shots", "2", "--seeds", "1", "--runs", tmp_path]
    answer = call(monkeypatch, capsys, "compare", *words, "--json")
    assert answer.code == 0, answer.err
    assert [row["method"] for row in json.loads(answer.out)["results"]] == ["zero-shot", "coop"]
    page = call(
        monkeypatch, capsys, "report", tmp_path, "--method", "coop", "-o", tmp_path / "page.html"
    )
    assert page.code == 0, page.err
    text = (tmp_path / "page.html").read_text()
    assert "coop leaves the image features as they are" in text
    assert "learns prompts" not in text  # it does not try to fit it again


REFUSALS: list[tuple[list[Any], str]] = [
    (["--method", "coop", "--encoder", "no-such-model"], "unknown model 'no-such-model'"),
    (
        ["--method", "coop", "--encoder", "nano", "--pretrained", "none"],
        "is not the encoder of",
    ),
    (["--method", "coop", "--prompt", "0"], "prompt must be a whole number of at least 1; got 0"),
    (["--method", "coop", "--prompt", "30"], "learn fewer with --prompt"),
    (["--encoder", "nano"], "none of these does; to choose a cache"),
    (["--prompt", "16"], "has no setting 'prompt'"),
]


@pytest.mark.parametrize(("words", "text"), REFUSALS, ids=lambda value: str(value)[:40])
def test_refusals_are_one_line(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    text: str,
) -> None:
    answer = call(monkeypatch, capsys, "fit", *words, *FEW, tmp_path)
    assert answer.code in (1, 2)
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert text in answer.err
    assert not list(tmp_path.iterdir())


def test_from_the_library(digits: Path) -> None:
    with pytest.raises(InputError, match="coop learns prompts in the encoder's text tower"):
        cafe.fit(method="coop", runs=None)
    cache = cafe.FeatureCache.open("cache/digits/nano.glyphs.h5")
    heard: list[str] = []
    settings: dict[str, Any] = {"tower": load_tower(cache, device="cpu"), "epochs": 2}
    settings["progress"] = lambda stage, *_: heard.append(stage)
    record = cafe.fit(cache, method="coop", shots=2, seeds=2, runs=None, **settings)
    assert record.json["results"][-1]["params"]["epochs"] == 2
    assert "tower" not in record.json["results"][-1]["params"]
    assert "coop, 2 shots, epoch 4 of 4" in heard
    assert "calibrating coop, epoch 4 of 4" in heard


def test_an_interrupted_fit_says_so_in_one_line(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("cafe.methods.prompt_learning.training.rate", stop)
    answer = call(monkeypatch, capsys, "fit", "--method", "coop", *FEW, tmp_path)
    assert answer.code == 130
    assert answer.err.strip().splitlines()[-1].startswith("cafe: interrupted; nothing was saved")
    assert not list(tmp_path.iterdir())


def test_its_input_is_left_alone() -> None:
    tower = DrawnTower()
    before = copy.deepcopy(tower.table)
    Coop("one two", tower=tower, recipe=RECIPE).fit(draw_task()).logits(draw_images().x)
    assert torch.equal(tower.table, before)
