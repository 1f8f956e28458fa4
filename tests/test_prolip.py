"""`prolip`, and the features before the projection that it takes: stored, kept, used on images."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from digits_run import Answer, call
from drawing import CLASSES, draw_images, draw_task
from test_spatial import RESNET, load, pixels
from torch.nn.functional import cross_entropy, normalize

import cafe
from cafe.datasets.dataset import Dataset
from cafe.datasets.prompts import fill
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.projection import PreProjectionTower, encode_both, projection_of
from cafe.engine import Recipe
from cafe.errors import CacheFormatError, CacheMismatchError, InputError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.encode_images import pixel_inputs
from cafe.extract.extract import extract
from cafe.features.task import load_task
from cafe.features.tensors import TrainingSet
from cafe.inference.graphs import ImageGraph
from cafe.methods.base import Context, Job, Validation
from cafe.methods.prolip import ProLip
from cafe.results.runs import HeadSelector, find_head
from cafe.store import Block, FeatureCache, verify_cache, write_cache
from cafe.store.merge import merge_caches

TEST = draw_images()
UNEQUAL = (1, 5, 2, 4, 3)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load(tmp_path_factory.mktemp("towers") / "resnet", RESNET)


@pytest.mark.parametrize("kind", ["tiny", "resnet"])
def test_the_projection_gives_the_feature(kind: str, request: pytest.FixtureRequest) -> None:
    encoder: Encoder = request.getfixturevalue(kind)
    plain = encoder.encode_pixels(pixels(encoder))
    features, h = encode_both(encoder, pixels(encoder))
    assert torch.equal(features, plain)
    weight, bias = projection_of(encoder)
    assert h.shape == (3, len(weight))
    torch.testing.assert_close(h @ weight + bias, features)
    assert (kind == "resnet") == bool(bias.any())
    with torch.no_grad():
        alone = PreProjectionTower(encoder, only=True)(encoder.standardized(pixels(encoder)))
    torch.testing.assert_close(alone, h)
    assert torch.equal(encoder.encode_pixels(pixels(encoder)), plain)  # nothing was changed in it


def test_towers_without_one_matrix_in_the_end(tiny: Encoder) -> None:
    bare = copy.deepcopy(tiny._network)
    bare.visual.proj = None
    for encoder in (
        replace(tiny, _network=bare),
        load_encoder("timm:test_vit", "none", device="cpu"),
    ):
        with pytest.raises(
            InputError, match=r"knows no linear last projection of .*'s image tower"
        ):
            projection_of(encoder)


def encode(dataset: Dataset, encoder: Encoder, path: Path, **options: object) -> FeatureCache:
    sentences = fill(dataset.class_names, dataset.templates)
    chosen = ExtractOptions(**{"pre_projection": True, **options})  # type: ignore[arg-type]
    extract(dataset, encoder, path, sentences=sentences, options=chosen)
    return FeatureCache.open(path)


@pytest.fixture
def stored(dataset: Dataset, tiny: Encoder, tmp_path: Path) -> FeatureCache:
    return encode(dataset, tiny, tmp_path / "cache/shapes/tiny.local.h5")


def test_a_cache_says_and_holds_what_the_encoder_gives(
    stored: FeatureCache, dataset: Dataset, tiny: Encoder, tmp_path: Path
) -> None:
    weight, _ = projection_of(tiny)
    assert stored.pre_projection_size == len(weight)
    assert stored.header.key["pre_projection"] == {"width": len(weight)}
    assert stored.header.projection is not None
    assert np.array_equal(stored.header.projection, weight.numpy())
    shown = [
        tiny.preprocess.pixels(dataset.open_image(i).convert("RGB")) for i in dataset.splits["test"]
    ]
    _, h = encode_both(tiny, torch.from_numpy(np.stack(shown)))
    np.testing.assert_allclose(stored.read_pre_projection("test")[:, 0], h, atol=1e-5)
    assert np.array_equal(
        stored.read_pre_projection("train", [3, 0]), stored.read_pre_projection("train")[[3, 0]]
    )
    plain = encode(dataset, tiny, tmp_path / "plain.h5", pre_projection=False)
    for split in plain.counts:
        assert np.array_equal(plain.read(split).features, stored.read(split).features)
    with pytest.raises(InputError, match="has no features before the projection"):
        plain.read_pre_projection("test")
    with pytest.raises(CacheMismatchError, match="pre_projection is null, asked for"):
        encode(dataset, tiny, plain.path)
    with h5py.File(stored.path) as file:
        assert file.attrs["cafe_format"] == 5
    with pytest.raises(InputError, match="ask for one"):
        ExtractOptions(pre_projection=True, spatial=7)


def test_an_older_cafe_refuses_it(stored: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cafe.store.structure.NEWEST_FORMAT", 4)
    with pytest.raises(CacheFormatError, match="it has format 5, this cafe reads up to 4"):
        FeatureCache.open(stored.path)


def test_an_interrupted_extraction_ends_with_the_same_file(
    dataset: Dataset, tiny: Encoder, tmp_path: Path
) -> None:
    path, views = tmp_path / "again.h5", Augmentation(3, 0)

    def stop(_: str, done: int, __: int) -> None:
        if done > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(dataset, tiny, path, batch_size=1, augmentation=views, progress=stop)
    whole = encode(dataset, tiny, path, batch_size=1, augmentation=views)
    other = encode(dataset, tiny, tmp_path / "other.h5", batch_size=1, augmentation=views)
    assert whole.content_sha256 == other.content_sha256
    assert verify_cache(path).problems == ()
    h, x = whole.read_pre_projection("train"), whole.read("train").views
    assert whole.read_pre_projection("test").shape[1] == 1
    assert x is not None
    np.testing.assert_allclose(h @ whole.header.projection, x, atol=1e-4)  # of every view


def test_added_images_leave_the_others_as_they_are(
    stored: FeatureCache, dataset: Dataset, tiny: Encoder
) -> None:
    fewer = replace(dataset, splits={**dataset.splits, "train": dataset.splits["train"][5:]})
    path = stored.path.with_name("grown.local.h5")
    encode(fewer, tiny, path)
    grown = encode(dataset, tiny, path)
    assert np.array_equal(
        grown.read_pre_projection("train", range(5, 20)),
        stored.read_pre_projection("train", range(5, 20)),
    )
    assert verify_cache(path).problems == ()


def test_a_merge_keeps_them_and_a_wrong_row_is_found(stored: FeatureCache, tmp_path: Path) -> None:
    def copied(name: str, order: slice) -> FeatureCache:
        splits = {
            split: [
                Block(
                    [f"{name} {n}" for n in b.ids],
                    b.labels,
                    b.features,
                    pre_projection=None if b.pre_projection is None else b.pre_projection[order],
                )
                for b in stored.blocks(split)
            ]
            for split in stored.counts
        }
        write_cache(tmp_path / f"{name}.h5", stored.header, splits)
        return FeatureCache.open(tmp_path / f"{name}.h5")

    other = copied("other", slice(None))
    joined = merge_caches([stored, other], tmp_path / "all/tiny.local.h5")
    h = stored.read_pre_projection("test")
    assert np.array_equal(joined.read_pre_projection("test"), np.concatenate([h, h]))
    assert joined.header.projection is not None
    assert verify_cache(joined.path).problems == ()
    (problem, *_) = verify_cache(copied("turned", slice(None, None, -1)).path).problems
    assert problem == "'splits/train/pre_projection' does not give the features when projected."
    without = replace(stored.header, projection=None, projection_bias=None)
    write_cache(tmp_path / "bare.h5", without, {"train": stored.blocks("train")})
    with pytest.raises(CacheFormatError, match="or the features before it, are not complete"):
        FeatureCache.open(tmp_path / "bare.h5")


def projection_by_adam(train: TrainingSet, penalty: float, steps: int, lr: float) -> torch.Tensor:
    """The authors' loop on one view."""
    before, text = train.features.before_projection, train.text
    h, start = before.rows.tensor()[:, 0], before.weight
    w = start.clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        logits = text.logit_scale * normalize(h @ w + before.bias, dim=-1) @ text.weights.T
        loss = cross_entropy(logits, train.features.y) + penalty * (w - start).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        decay.step()
    return w.detach()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("counts", "penalty"), [((4,) * CLASSES, 1 / 4), (UNEQUAL, 1 / 5)])
def test_it_is_a_plain_loop(counts: tuple[int, ...], penalty: float) -> None:
    train = draw_task(counts)
    before = train.features.before_projection
    shifted = replace(before, bias=torch.linspace(-0.5, 0.5, before.weight.shape[1]))
    train = TrainingSet(replace(train.features, pre_projection=shifted), train.text)
    recipe = Recipe(lr=2e-3, weight_decay=0.0, epochs=40)
    method = ProLip(recipe=recipe, context=Context(precision="fp32"))
    head = method.fit_many([Job(train), Job(draw_task((2,) * CLASSES))])[0]
    w = projection_by_adam(train, penalty, 40, 2e-3)
    assert head.params["penalty"] == penalty
    h = TEST.inputs(pre_projection=True)
    expected = (
        train.text.logit_scale * normalize(h @ w + shifted.bias, dim=-1) @ train.text.weights.T
    )
    torch.testing.assert_close(head.logits(h), expected, atol=1e-3, rtol=0)


def test_features_that_are_not_there_are_asked_for() -> None:
    bare = TrainingSet(replace(draw_task().features, pre_projection=None), draw_task().text)
    with pytest.raises(InputError, match="'cafe extract --pre-projection' adds them"):
        ProLip().fit(bare, validation=Validation("cv"))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Answer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return lambda *words: call(monkeypatch, capsys, *words)


def test_from_images_to_predictions(
    run: Callable[..., Answer],
    stored: FeatureCache,
    tiny: Encoder,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    words = ["--method", "prolip", "--shots", "2", "--seeds", "1", "--epochs", "3", "--lr", "0.01"]
    fitted = run("fit", *words, "--validation", "full")
    assert fitted.code == 0, fitted.err
    saved = cafe.load_head(find_head("runs", HeadSelector("prolip")))
    test = load_task(stored).splits["test"].to("cpu")
    expected = saved.probabilities(test.inputs(pre_projection=True))
    assert saved.zero_shot is not None
    assert not torch.allclose(expected, saved.zero_shot(test.x).softmax(-1), atol=1e-3)
    asked = ["images/test", "--model", tiny_folder, "--method", "prolip", "--json"]
    place = {name: row for row, name in enumerate(stored.ids("test"))}
    for how in (["--explain"], ["--adapt", "tda"]):
        answer = run("predict", "runs", *asked, *how)
        assert answer.code == 0, answer.err
        for one in json.loads(answer.out):
            row = expected[place[one["image"].removeprefix("images/")]]
            if how == ["--explain"]:
                assert one["probability"] == pytest.approx(row.max().item(), abs=1e-3)
                assert one["zero_shot"]
    shown = torch.from_numpy(np.zeros((2, *tiny.preprocess.size, 3), np.uint8))
    given = pixel_inputs(tiny, shown, None, pre_projection=True)
    torch.testing.assert_close(
        ImageGraph(saved, tiny)(shown.permute(0, 3, 1, 2)), saved.probabilities(given)
    )
    pool = run("predict", "runs", *asked, "--pool", "self")
    assert (pool.code, pool.err.count("\n")) == (2, 1)
    assert "prolip takes features before the projection, which no pool has" in pool.err


def test_a_cache_without_is_told_how_to_get_them(
    run: Callable[..., Answer], dataset: Dataset, tiny: Encoder, tmp_path: Path
) -> None:
    encode(dataset, tiny, tmp_path / "cache/shapes/tiny.local.h5", pre_projection=False)
    answer = run("fit", "--method", "prolip")
    assert answer.code == 2
    assert "cafe extract shapes --model tiny --pre-projection --rebuild" in answer.err
