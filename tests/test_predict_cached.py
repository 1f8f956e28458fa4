"""`cafe predict` on a cache in the place of images, and `--pool self` on the images themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_run import Answer, call, digits_run
from making import make_dataset

import cafe
from cafe.datasets.prompts import fill
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.errors import CacheMismatchError, InputError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.extract import extract
from cafe.features.task import load_task
from cafe.inference.adaptation import open_adaptation
from cafe.inference.cached_images import CachedImages
from cafe.methods.streaming.incpl import tune
from cafe.results.runs import HeadSelector, find_head
from cafe.store import FeatureCache

Run = Callable[..., Answer]


@pytest.fixture
def run(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.chdir(digits_run(tmp_path_factory))
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    return lambda *words: call(monkeypatch, capsys, *words)


def test_a_model_adapts_with_its_labelled_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cafe.train(FeatureCache.open("digits"), method="nearest-class", output=tmp_path / "model")
    asked = ("predict", tmp_path / "model", "digits/nano.glyphs", "--split", "val", "--json")
    rows = json.loads(run(*asked, "--adapt", "incpl").out)
    assert rows[0]["adapted"] == {"method": "incpl", "context_images": 16}
    answer = run(*asked, "--pool", "test")
    assert "the model was fitted on every labelled image" in answer.err
    answer = run(*asked, "--pool", "digits")
    assert json.loads(answer.out)[0]["learning"].startswith("transductive: sees the 1,797 judged")
    home = Path("cache").absolute()  # the pool's name is of --cache too
    monkeypatch.chdir(tmp_path)
    answer = run(*asked, "--pool", "digits", "--cache", home)
    assert answer.code == 0, answer.err
    fit = ("fit", "digits", "--cache", home, "--shots", "1", "--seeds", "1", "--runs", tmp_path)
    answer = run(*fit, "--method", "lda-prior-pooled", "--pool", "digits", "--json")
    assert answer.code == 0, answer.err
    assert f"--pool {home / 'digits' / 'nano.glyphs.h5'}@" in json.loads(answer.out)["command"]


def test_a_cache_is_asked_as_its_images_are(run: Run) -> None:
    answer = run("predict", "runs/mine", "digits/nano.glyphs", "--json", "--top", "1", "--explain")
    assert answer.code == 0, answer.err
    rows = {row["image"]: row for row in json.loads(answer.out)}
    assert len(rows) == 997
    images = json.loads(run("predict", "runs/mine", "digits", "--json", "--top", "1").out)
    for one in images:
        same = rows[Path(one["image"]).stem]
        assert same["label"] == one["label"]
        assert same["probability"] == pytest.approx(one["probability"], abs=1e-3)
        assert same["zero_shot"]
    few = run("predict", "runs/mine", "cache/digits/nano.glyphs.h5", "--split", "val", "--json")
    assert len(json.loads(few.out)) == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--split", "val"], "--split is of a cache; name one in the place of images"),
        (["digits/nano.glyphs", "photos"], "'digits/nano.glyphs' is a cache; name it alone"),
        (["cache/no.h5"], "no cache"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, words: list[str], message: str) -> None:
    answer = run("predict", "runs/mine", *words)
    assert (answer.code != 0, answer.out) == (True, "")
    assert message in answer.err


def test_pool_self_adapts_to_the_images_that_are_asked(run: Run) -> None:
    plain = json.loads(run("predict", "runs/mine", "digits/nano.glyphs", "--json").out)
    pooled = run("predict", "runs/mine", "digits/nano.glyphs", "--pool", "self", "--json")
    assert pooled.code == 0, pooled.err
    seen = "transductive: sees the 997 images that it is asked about without their labels"
    assert f"zero-shot, {seen}" in pooled.err
    rows = json.loads(pooled.out)
    assert {row["learning"] for row in rows} == {seen}
    assert [row["image"] for row in rows] == [row["image"] for row in plain]
    labels = load_task(FeatureCache.open("digits/nano.glyphs")).splits["test"].y.tolist()
    names = cafe.load_head(find_head("runs/mine")).class_names
    right = [
        sum(names[y] == row["label"] for y, row in zip(labels, some, strict=True))
        for some in (plain, rows)
    ]
    assert right[1] > right[0]  # on digits the pool helps
    # few images, encoded now: all are answered, one that cannot be read is left out of the pool
    Path("photos/broken.png").write_bytes(b"no image")
    try:
        files = run("predict", "runs/mine", "digits", "photos", "--pool", "self", "--json")
    finally:
        Path("photos/broken.png").unlink()
    answers = json.loads(files.out)
    asked = [row for row in answers if not row.get("reason")]
    assert len(answers) == len(asked) + 1
    assert f"sees the {len(asked)} images that it is asked about" in files.err
    assert all(row["label"] for row in asked)


def test_incpl_looks_at_the_views_that_a_cache_has(
    tiny: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = make_dataset(tmp_path / "images", {"train": 12, "test": 6})
    path = tmp_path / "cache/shapes/tiny.local.h5"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFE_CACHE", raising=False)
    options = ExtractOptions(augmentation=Augmentation(11, 0, ("train", "test")))
    extract(
        dataset, tiny, path, sentences=fill(dataset.class_names, dataset.templates), options=options
    )
    cafe.fit(path, method="gda", shots=4, seeds=1)
    file = find_head("runs", HeadSelector("gda"))
    saved, test = cafe.load_head(file), load_task(FeatureCache.open(path)).splits["test"].to("cpu")
    answer = call(
        monkeypatch, capsys, "predict", "runs", "shapes/tiny.local", "--method", "gda",
        "--adapt", "incpl", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)
    context = open_adaptation(saved, "incpl", file=file)._context  # type: ignore[attr-defined]
    assert rows[0]["adapted"] == {"method": "incpl", "context_images": len(context), "views": 11}
    assert test.views is not None
    assert saved.zero_shot is not None
    known = saved.zero_shot.weights, float(saved.zero_shot.logit_scale_bias[0])
    found = tune(test.views, saved.head(test.x), *known, context)
    p = torch.softmax(found / (saved.temperature or 1.0), dim=-1)
    assert [row["probability"] for row in rows] == pytest.approx(p.amax(1).tolist(), abs=1e-4)
    without = tune(test.x, saved.head(test.x), *known, context)
    assert not torch.allclose(found, without, atol=1e-5)
    about = {name: value for name, value in saved.about.items() if name != "seed"}
    model = replace(saved, about={**about, "shots": "all"})  # is fitted on all 18 images
    assert len(open_adaptation(model, "incpl", file=file)._context) == 16  # type: ignore[attr-defined]
    other = {**saved.about["cache_key"], "dataset_sha256": "0"}
    changed = replace(saved, about={**saved.about, "cache_key": other})
    with pytest.raises(CacheMismatchError, match="is not the cache that the head was fitted on"):
        open_adaptation(changed, "incpl", file=file)


@pytest.mark.usefixtures("run")
def test_features_of_another_encoder_are_refused(tiny: Encoder, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "images", {"train": 4, "test": 2})
    path = tmp_path / "shapes/tiny.local.h5"
    extract(dataset, tiny, path, sentences=fill(dataset.class_names, dataset.templates))
    saved = cafe.load_head(find_head("runs/mine"))
    predictor = cafe.Predictor(saved, ())
    with pytest.raises(CacheMismatchError, match="is not of the encoder that the head was fitted"):
        list(predictor.predict(CachedImages(FeatureCache.open(path))))
    with pytest.raises(InputError, match="there is no encoder; give it"):
        list(predictor.predict("photos"))
    with pytest.raises(InputError, match="has no split 'val'; it has train, test"):
        CachedImages(FeatureCache.open(path), "val")
