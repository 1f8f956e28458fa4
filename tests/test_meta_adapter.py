"""Meta-Adapter against sums by hand, its limits, its training, its file and its commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import CLASSES, WIDTH, draw_images, draw_task, draw_text
from making import make_header
from needing import ABOUT, meta_file
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import cafe
from cafe.engine import Recipe
from cafe.errors import CafeError, InputError
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.meta_adapter.meta_adapter import MetaAdapter, refine
from cafe.methods.meta_adapter.training import (
    PUBLISHED,
    Episodes,
    Queries,
    Shelves,
    episode_loss,
    train_meta,
)
from cafe.methods.meta_adapter.weights import MetaWeights, load_meta, save_meta
from cafe.report import collect
from cafe.store import Block, FeatureCache, write_cache
from cafe_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")

TEST = draw_images()
FAST = Recipe(lr=1e-3, epochs=2, batch_size=8)


def random_weights(seed: int = 0) -> MetaWeights:
    """Projections large enough that attention is far from even."""
    start = MetaWeights.initial(WIDTH, seed)
    return replace(start, query=6 * start.query, gate=4 * start.gate)


def by_hand(weights: MetaWeights, text: Tensor, shots: Tensor) -> np.ndarray:
    """One class in float64, shot by shot."""
    query, key, gate, bias = (t.double().numpy() for t in weights.tensors().values())
    seen = [text.double().numpy(), *shots.double().numpy()]
    asked = query @ seen[0]
    scores = np.array([asked @ (key @ one) for one in seen]) / np.sqrt(len(asked))
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    attention = sum(share * one for share, one in zip(shares, seen, strict=True))
    blend = seen[0] + attention / (1 + np.exp(-(gate @ seen[0] + bias)))
    return np.asarray(blend / np.linalg.norm(blend))


@pytest.mark.parametrize("counts", [(1,) * CLASSES, (1, 7, 2, 4, 3), (0, 3, 0, 1, 2)])
def test_weights_are_the_sums_by_hand(counts: tuple[int, ...]) -> None:
    train, weights = draw_task(counts), random_weights()
    refined = refine(weights, train)
    for label in range(CLASSES):
        own = train.features.unit[train.features.y == label]
        expected = by_hand(weights, train.text.weights[label], own)
        np.testing.assert_allclose(refined[label].numpy(), expected, atol=2e-6)


def test_padding_changes_nothing() -> None:
    train, weights = draw_task((1, 3, 2, 0, 4)), random_weights()
    shots = torch.full((CLASSES, 4, WIDTH), 7.0)
    filled = torch.zeros(CLASSES, 4, dtype=torch.bool)
    for label in range(CLASSES):
        own = train.features.unit[train.features.y == label]
        shots[label, : len(own)], filled[label, : len(own)] = own, True
    padded = weights.adapt(train.text.weights, shots, filled)
    torch.testing.assert_close(padded, refine(weights, train), atol=1e-6, rtol=0)


def test_a_closed_gate_is_zero_shot() -> None:
    train = draw_task()
    closed = replace(random_weights(), bias=torch.tensor(-200.0))
    torch.testing.assert_close(refine(closed, train), train.text.weights)


def test_a_class_without_shots_keeps_its_text() -> None:
    train = draw_task((4, 0, 4, 0, 4))
    refined = refine(random_weights(), train)
    torch.testing.assert_close(refined[[1, 3]], train.text.weights[[1, 3]])
    assert (refined[[0, 2, 4]] - train.text.weights[[0, 2, 4]]).abs().max() > 0.01


def test_a_class_does_not_see_the_shots_of_others() -> None:
    weights, train = random_weights(), draw_task()
    fewer = train.features[train.features.y != 2]
    kept = [0, 1, 3, 4]
    alone = refine(weights, TrainingSet(fewer, train.text))
    torch.testing.assert_close(alone[kept], refine(weights, train)[kept])


def test_the_head_is_linear_in_the_refined_texts() -> None:
    train, meta = draw_task(bias=-3.0), meta_file()
    head = MetaAdapter(meta.path).fit(train)
    expected = 20.0 * TEST.unit @ refine(meta.weights, train).mT - 3.0
    torch.testing.assert_close(head.logits(TEST.x), expected, atol=1e-4, rtol=1e-5)
    assert head.params["meta_sha256"] == meta.sha256
    assert head.params["meta_trained_on"] == "noise (1 class)"


def test_the_start_is_xavier_s() -> None:
    weights = MetaWeights.initial(200, seed=1)
    for value, bound in ((weights.query, (3 / 200) ** 0.5), (weights.gate, (6 / 201) ** 0.5)):
        assert value.abs().max() <= bound
        assert value.abs().max() > 0.95 * bound
    assert weights.bias == 1
    assert not torch.equal(weights.query, weights.key)


def test_a_query_is_not_on_the_shelf_that_it_is_classified_by() -> None:
    train = draw_task((5,) * CLASSES)
    for shots in (1, 3, 5):
        episodes = Episodes(train, shots, FAST, seed=0)
        for queries in episodes.epoch():
            keys, taken = episodes.shelves.of_queries(queries)
            alike = torch.isclose(keys, queries.x[:, None]).all(dim=-1)  # (B, K + 1)
            assert not (alike & taken).any()
            assert (taken.sum(dim=-1) == min(shots, 4)).all()
            episodes.shelves.refresh(queries)


def test_shelves_hold_the_newest_first_and_each_image_once() -> None:
    x = normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    features = Features(x, torch.tensor([0, 0, 0, 1]))
    shelves = Shelves(features, classes=2, shots=1, seed=0)
    first, second = shelves.images[0].tolist()
    (third,) = {0, 1, 2} - {first, second}
    put(shelves, features, third)
    assert shelves.images.tolist() == [[third, first], [3, -1]]
    put(shelves, features, first)
    assert shelves.images.tolist() == [[first, third], [3, -1]]
    assert torch.equal(shelves.keys[0], x[[first, third]])
    keys, there = shelves.of_classes()
    assert keys.shape == (2, 1, 6)
    assert there.all()


def put(shelves: Shelves, features: Features, image: int) -> None:
    rows = torch.tensor([image])
    shelves.refresh(Queries(features.x[rows], features.y[rows], rows))


def test_the_loss_is_that_of_each_query_alone() -> None:
    train, weights = draw_task((4, 4, 2, 3, 4)), random_weights()
    episodes = Episodes(train, 3, FAST, seed=0)
    queries = next(episodes.epoch())
    found = episode_loss(weights, train.text, episodes.shelves, queries)
    losses, images = [], episodes.shelves.images
    for x, label, number in zip(queries.x, queries.y, queries.images, strict=True):
        w = []
        for c in range(CLASSES):
            rows = [i for i in images[c].tolist() if i not in (-1, int(number))][:3]
            w.append(torch.from_numpy(by_hand(weights, train.text.weights[c], unit(train, rows))))
        logits = 20.0 * x.double() @ torch.stack(w).mT
        losses.append(cross_entropy(logits[None], label[None]))
    torch.testing.assert_close(found.double(), torch.stack(losses).mean(), atol=1e-5, rtol=0)


def unit(train: TrainingSet, rows: list[int]) -> Tensor:
    return train.features.unit[rows]


def test_training_lowers_the_loss_and_depends_on_its_seed_alone() -> None:
    trains = [draw_task((6,) * CLASSES, seed=3), draw_task((3,) * CLASSES, seed=4)]
    torch.manual_seed(1)
    weights, loss = train_meta(trains, shots=4, recipe=FAST)
    torch.manual_seed(2)
    again, same = train_meta(trains, shots=4, recipe=FAST)
    assert loss == same
    assert all(torch.equal(a, b) for a, b in pairs(weights, again))
    other, _ = train_meta(trains, shots=4, recipe=FAST, seed=1)
    assert not torch.equal(weights.query, other.query)
    longer, later = train_meta(trains, shots=4, recipe=replace(FAST, epochs=30))
    assert later < loss
    assert not longer.query.requires_grad


def pairs(one: MetaWeights, other: MetaWeights) -> Any:
    return zip(one.tensors().values(), other.tensors().values(), strict=True)


@pytest.mark.parametrize(("noise", "distance", "opens"), [(1.5, 0.0, False), (0.3, 2.0, True)])
def test_the_gate_learns_what_a_shot_is_worth(noise: float, distance: float, opens: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    text, y = draw_text(), torch.arange(CLASSES).repeat(20)
    away = distance * torch.randn(CLASSES, WIDTH, generator=generator) / WIDTH**0.5
    centres = normalize(text.weights + away, dim=-1)
    x = centres[y] + noise * torch.randn(len(y), WIDTH, generator=generator) / WIDTH**0.5
    recipe = Recipe(lr=1e-2, epochs=20, batch_size=20)
    weights, _ = train_meta([TrainingSet(Features(x, y), text)], shots=1, recipe=recipe)
    assert (weights.bias > 1.1) if opens else (weights.bias < 0.9)


def test_views_are_asked_one_at_a_time_and_their_means_answer() -> None:
    train = draw_task((3,) * CLASSES, views=3)
    episodes = Episodes(train, 2, PUBLISHED, seed=0)
    asked = torch.cat([queries.x for queries in episodes.epoch()])
    assert train.features.views is not None
    alike = torch.cdist(asked, normalize(train.features.views, dim=-1).flatten(0, 1)).argmin(1)
    assert len(set((alike % 3).tolist())) > 1
    assert len(set((alike // 3).tolist())) == len(train.features)


def test_nothing_to_ask() -> None:
    with pytest.raises(InputError, match="needs a class with two images"):
        train_meta([draw_task((1,) * CLASSES)])


# the file


def test_a_file_read_back_is_the_same(tmp_path: Path) -> None:
    weights = random_weights()
    saved = save_meta(tmp_path / "m.safetensors", weights, ABOUT)
    assert all(torch.equal(a, b) for a, b in pairs(saved.weights, weights))
    assert saved.encoder == "drawn.none"
    assert [one.name for one in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CafeError, match=r"cannot write .*choose another -o"):
        save_meta(tmp_path / "file" / "m.safetensors", random_weights(), ABOUT)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


Change = Callable[[dict[str, Tensor], dict[str, Any]], object]
HOSTILE: dict[str, tuple[Change, str]] = {
    "another format": (lambda _, about: about.update(format=2), "its format is 2"),
    "no format": (lambda _, about: about.pop("format"), "'format'"),
    "no encoder": (lambda _, about: about.pop("encoder"), "'encoder'"),
    "no caches": (lambda _, about: about.update(caches=[]), "what it was trained on"),
    "a name that is none": (
        lambda _, about: about.update(encoder={"model": 3, "pretrained": "x"}),
        "what it was trained on",
    ),
    "shots that are none": (lambda _, about: about.update(shots="4"), "how many shots"),
    "one too few": (lambda tensors, _: tensors.pop("gate"), "it holds bias, key, query"),
    "one too many": (lambda tensors, _: tensors.update(more=torch.ones(1)), "it holds bias, "),
    "not square": (lambda tensors, _: tensors.update(key=torch.ones(WIDTH, 3)), "its key is"),
    "empty": (
        lambda tensors, _: tensors.update(
            query=torch.ones(0, 0), key=torch.ones(0, 0), gate=torch.ones(0)
        ),
        "its query is",
    ),
    "half precision": (
        lambda tensors, _: tensors.update(gate=torch.ones(WIDTH, dtype=torch.float16)),
        "'gate' has type torch.float16",
    ),
    "not finite": (
        lambda tensors, _: tensors.update(bias=torch.tensor(torch.nan)),
        "'bias' holds numbers that are not finite",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files(tmp_path: Path, what: str) -> None:
    change, text = HOSTILE[what]
    tensors, about = dict(random_weights().tensors()), {"format": 1, **ABOUT}
    change(tensors, about)
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"cafe_meta": json.dumps(about)})
    with pytest.raises(InputError, match="is no file of 'cafe meta-train'") as caught:
        load_meta(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no file of 'cafe meta-train'"):
        MetaAdapter(path)


@pytest.mark.parametrize("told", ["[]", "{", "[" * 100_000, '{"format": 1}', "7"])
def test_metadata_of_another_kind(tmp_path: Path, told: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file(random_weights().tensors(), path, metadata={"cafe_meta": told})
    with pytest.raises(InputError, match="is no file of 'cafe meta-train'"):
        load_meta(path)


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'cafe meta-train CACHE -o meta.safetensors' makes them"):
        MetaAdapter()
    with pytest.raises(InputError, match=r"no meta file '.*gone.safetensors'; 'cafe meta-train"):
        MetaAdapter(tmp_path / "gone.safetensors")


def test_another_width_is_refused() -> None:
    text = draw_text()
    narrow = replace(text, features=text.features[..., :8])
    train = TrainingSet(Features(TEST.x[:, :8], TEST.y), narrow)
    with pytest.raises(InputError, match=r"features of width 24 \(drawn.none\); these are 8 wide"):
        MetaAdapter(meta_file().path).fit(train)


# caches and commands


def write_drawn(path: Path, seed: int, **header: Any) -> FeatureCache:
    """Six training and four test images of each drawn class."""
    text = draw_text()
    splits = {}
    for split, count in (("train", 6), ("test", 4)):
        features = draw_task((count,) * CLASSES, seed=seed).features
        ids = [f"{split}/{row}.png" for row in range(len(features))]
        y = features.y.numpy().astype(np.int32)
        splits[split] = [Block(ids, y, features.x.numpy())]
        seed += 100
    about = {"dataset": path.parent.name, "class_names": text.names, "logit_scale": 20.0, **header}
    sentences = tuple(tuple(f"{name} {p}" for p in range(3)) for name in text.names)
    write_cache(
        path, make_header(text_features=text.features.numpy(), sentences=sentences, **about), splits
    )
    return FeatureCache.open(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    write_drawn(folder / "one" / "tiny.none.h5", 1)
    write_drawn(folder / "two" / "tiny.none.h5", 2)
    key = {"weights_sha256": "1" * 64, "precision": "fp32"}
    write_drawn(folder / "three" / "other.none.h5", 3, model="other", key=key)
    return folder


@pytest.fixture(scope="module")
def trained(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meta") / "m.safetensors"
    cafe.meta_train(home / "one" / "tiny.none.h5", output=path, shots=4, epochs=2)
    return path


def test_the_file_says_what_it_was_trained_on(home: Path, trained: Path) -> None:
    about = load_meta(trained).about
    source = FeatureCache.open(home / "one" / "tiny.none.h5")
    assert about["caches"] == [
        {
            "dataset": "one",
            "content_sha256": source.content_sha256,
            "class_names": [f"class {c}" for c in range(CLASSES)],
            "images": 30,
        }
    ]
    assert about["encoder"] == {"model": "tiny", "pretrained": "none", "weights_sha256": "0" * 64}
    assert (about["shots"], about["seed"], about["recipe"]["epochs"]) == (4, 0, 2)


def test_fit_takes_it_and_says_what_it_saw(home: Path, trained: Path, tmp_path: Path) -> None:
    def words(cache: Path) -> str:
        record = cafe.fit(
            cache, method="meta-adapter", shots=2, seeds=2, runs=tmp_path, meta=trained
        )
        assert record.results[-1].method == "meta-adapter"
        assert record.json["results"][-1]["params"]["meta_shots"] == 4
        return str(record.json["protocol"]["words"])

    assert "meta-adapter" not in words(home / "two" / "tiny.none.h5")
    assert "trained on all training images of one" in words(home / "one" / "tiny.none.h5")
    assert "features of tiny.none, these are of other.none" in words(
        home / "three" / "other.none.h5"
    )


def test_compare_takes_it_too(home: Path, trained: Path) -> None:
    two = home / "two" / "tiny.none.h5"
    names = ["zero-shot", "meta-adapter"]
    found = cafe.compare(two, methods=names, shots=[2], seeds=1, runs=None, meta=trained)
    assert [row["method"] for row in found.json["results"]] == names
    with pytest.raises(InputError, match="meta-adapter is not among the methods"):
        cafe.compare(two, methods=["gda"], runs=None, meta=trained)
    with pytest.raises(InputError, match="meta-adapter needs weights"):
        cafe.compare(two, methods=["meta-adapter"], shots=[2], runs=None)
    with pytest.raises(InputError, match="meta-adapter cannot take new classes"):
        cafe.compare(two, methods=["meta-adapter"], runs=None, meta=trained, base_to_new=True)


def test_a_report_does_without_a_file_that_is_gone(
    home: Path, trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "m.safetensors"
    copy.write_bytes(trained.read_bytes())
    found = cafe.compare(
        home / "two" / "tiny.none.h5",
        methods=["zero-shot", "meta-adapter"],
        shots=[2],
        seeds=1,
        runs=tmp_path,
        meta=copy,
    )
    assert found.folder is not None
    record = found.folder / "record.json"
    values = json.loads(record.read_text())
    for result in values["results"]:  # version 0.1 fitted no temperature here
        del result["calibration"]
    record.write_text(json.dumps(values))
    (first,) = collect([found.folder], method="meta-adapter")
    copy.unlink()
    (second,) = collect([found.folder], method="meta-adapter")
    assert not any("temperature" in note for note in first.notes)
    assert any("No temperature was fitted: no meta file" in note for note in second.notes)


def test_caches_of_two_encoders_are_refused(home: Path, tmp_path: Path) -> None:
    caches = [home / "one" / "tiny.none.h5", home / "three" / "other.none.h5"]
    with pytest.raises(InputError, match=r"is of tiny.none and .* of other.none; meta-train on"):
        cafe.meta_train(caches, output=tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shots": 0}, "shots must be a whole number of at least 1; got 0"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"lr": -1.0}, "learning rate must be a number from 0 up; got -1"),
        ({"seed": -1}, "seeds must be at least 0; got -1"),
        ({"output": "gone/m.safetensors"}, "no folder 'gone' to write 'm.safetensors' to"),
    ],
)
def test_bad_settings(home: Path, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        cafe.meta_train(home / "one" / "tiny.none.h5", **settings)


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def work(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAFE_CACHE", str(home))
    return tmp_path


def test_the_commands(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["one/tiny.none", "two/tiny.none", "--shots", "2", "--epochs", "1", "-o", "m.st"]
    assert call(monkeypatch, "meta-train", *words) == 0
    out = capsys.readouterr().out
    assert " kB, trained on one (5 classes), two (5 classes) of tiny.none, loss" in out
    assert "--method meta-adapter --meta m.st" in out
    fit = ["fit", "three/other.none", "--method", "meta-adapter", "--shots", "1", "--seeds", "1"]
    assert call(monkeypatch, *fit, "--meta", "m.st", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["results"][-1]["method"] == "meta-adapter"
    assert "cafe: meta-adapter's weights were trained on features of tiny.none" in captured.err
    assert call(monkeypatch, *fit) == 2
    assert "'cafe meta-train CACHE -o meta.safetensors' makes them" in capsys.readouterr().err
    assert call(monkeypatch, "fit", "--meta", "m.st") == 2
    assert "clip-adapter has no setting 'meta'" in capsys.readouterr().err


def test_an_interrupt_leaves_no_half_file(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cafe.methods.meta_adapter.training.episode_loss", stop)
    assert call(monkeypatch, "meta-train", "one/tiny.none", "-o", "m.safetensors") == 130
    assert "interrupted; 'm.safetensors' was not written" in capsys.readouterr().err
    assert list(work.iterdir()) == []
