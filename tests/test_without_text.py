"""Caches without text of the classes, as encoders of images alone and other people's files give."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cafe
from cafe.errors import InputError
from cafe.extract.importers import import_features
from cafe.features.task import load_task
from cafe.methods.catalog import CATALOG, find_method
from cafe.store import FeatureCache, verify_cache

SHARED = Path(__file__).parents[2] / "shared" / "data" / "features"
WORKS = ("nearest-class", "knn", "linear-probe", "lda", "map-probe", "auto")


def arrays(**changes: Any) -> dict[str, Any]:
    """Three classes about a centre each, ten images of each for training and for the test."""
    noise = np.random.default_rng(0)
    centres, labels = noise.standard_normal((3, 8)), np.arange(30) % 3
    splits = {
        f"{split}_features": (centres[labels] + 0.5 * noise.standard_normal((30, 8))).astype("f4")
        for split in ("train", "test")
    }
    return {**splits, "train_labels": labels, "test_labels": labels, **changes}


def make_cache(tmp_path: Path, **changes: Any) -> FeatureCache:
    np.savez(tmp_path / "x.npz", **arrays(**changes))
    return import_features(tmp_path / "x.npz", tmp_path / "cache" / "pets" / "dino.small.h5")


def test_an_import_without_text_is_whole(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    assert cache.header.text_features.shape == (3, 0, 8)
    assert cache.header.class_names == ("class 0", "class 1", "class 2")
    assert verify_cache(cache.path).problems == ()
    assert not load_task(cache).text.has_text


def test_names_count_for_classes_without_images(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, class_names=np.array(["a", "b", "c", "d"]))
    assert cache.header.class_names == ("a", "b", "c", "d")
    assert cache.header.text_features.shape == (4, 0, 8)


@pytest.mark.parametrize("name", [n for n in CATALOG if find_method(n).needs == ""])
def test_a_method_works_or_says_that_it_needs_text(tmp_path: Path, name: str) -> None:
    cache = make_cache(tmp_path)
    if name in WORKS:
        record = cafe.fit(cache, method=name, shots=4, seeds=1, runs=None)
        assert record.results[-1].accuracy.mean > 60
        assert "zero-shot" not in [result.method for result in record.results]
    else:
        with pytest.raises(InputError, match=f"{re.escape(name)} needs text of the classes"):
            cafe.fit(cache, method=name, shots=4, seeds=1, runs=None)


def test_compare_leaves_out_what_needs_text(tmp_path: Path) -> None:
    record = cafe.compare(make_cache(tmp_path), shots=2, seeds=1, runs=None).record
    assert {result.method for result in record.results} == set(WORKS)
    assert record.left_out is not None
    assert record.left_out["zero-shot"] == "pets/dino.small has no text of the classes"


def test_a_head_is_saved_read_and_exported(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    record = cafe.fit(cache, method="auto", shots=4, seeds=1, runs=tmp_path / "runs")
    assert record.folder is not None
    saved = cafe.load_head(record.folder / "auto.4shot.seed0.safetensors")
    assert (saved.width, saved.zero_shot) == (8, None)
    with pytest.raises(InputError, match=r"features must be \(N, 8\)"):
        saved.probabilities(torch.zeros(2, 5))
    made = cafe.export_head(record.folder, "torch", method="auto", output=tmp_path / "x.pt2")
    assert made.difference < 1e-3


def test_training_works_as_on_any_cache(tmp_path: Path) -> None:
    model = cafe.train(make_cache(tmp_path), output=tmp_path / "model")
    assert model.record.estimate is not None
    assert model.record.estimate.zero_shot is None
    assert model.record.estimate.accuracy > 60
    assert cafe.load_model(tmp_path / "model").saved.width == 8


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_a_pool_lifts_what_has_no_text(tmp_path: Path) -> None:
    source = SHARED / "oxford_flowers.ViT-B-32.openai-notext.npz"
    cache = import_features(source, tmp_path / "flowers" / "ViT-B-32.notext.h5")
    plain, pooled = (
        cafe.fit(cache, method="auto", shots=1, seeds=1, runs=None, pool=pool).results[-1]
        for pool in (None, "test")
    )
    assert pooled.accuracy.mean > plain.accuracy.mean + 5  # 83.6 and 66.1


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(("name", "regression"), [("caltech101", 93.8), ("oxford_flowers", 94.5)])
def test_published_features_without_text(tmp_path: Path, name: str, regression: float) -> None:
    source = SHARED / f"{name}.ViT-B-32.openai-notext.npz"
    cache = import_features(source, tmp_path / name / "ViT-B-32.notext.h5")
    record = cafe.fit(cache, method=["linear-probe", "map-probe"], shots=16, seeds=1, runs=None)
    by_method = {result.method: result.accuracy.mean for result in record.results}
    assert by_method["linear-probe"] > regression
    assert by_method["map-probe"] > by_method["linear-probe"] > by_method["nearest-class"]
