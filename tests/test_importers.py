"""Features from elsewhere: good archives become caches, bad ones one clear error and no file."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cafe.errors import BusyError, CacheFormatError, CafeError, InputError
from cafe.extract.importers import import_features
from cafe.extract.importers.classes import TextFeatures
from cafe.store import FeatureCache, lock_cache, verify_cache
from cafe.store.key import canonical

SHARED = Path(__file__).parents[2] / "shared" / "data" / "features"


def arrays(**changes: Any) -> dict[str, Any]:
    noise = np.random.default_rng(0)
    good = {
        "train_features": noise.standard_normal((6, 5)).astype(np.float16),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_features": noise.standard_normal((4, 5)).astype(np.float16),
        "test_labels": np.array([2, 1, 0, 0]),
        "text_prompts": noise.standard_normal((3, 2, 5)).astype(np.float16),
        "class_names": np.array(["cat", "dog", "日本"]),
        "logit_scale": np.float32(99.5),
    }
    merged = {**good, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def archive(tmp_path: Path, **changes: Any) -> Path:
    np.savez(tmp_path / "x.npz", **arrays(**changes))
    return tmp_path / "x.npz"


def test_an_archive_becomes_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "home" / "pets" / "ViT-B-32.openai.h5"
    cache = import_features(archive(tmp_path), path)
    header, given = cache.header, arrays()
    assert (header.dataset, header.model, header.pretrained) == ("pets", "ViT-B-32", "openai")
    assert header.class_names == ("cat", "dog", "日本")
    assert header.logit_scale == 99.5
    assert dict(cache.counts) == {"train": 6, "test": 4}
    assert np.array_equal(header.text_features, given["text_prompts"].astype(np.float32))
    read = cache.read("train")
    assert read.features.dtype == np.float16
    assert np.array_equal(read.features, given["train_features"])
    assert read.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert verify_cache(path).problems == ()


def test_the_key_holds_what_the_file_does_not(tmp_path: Path) -> None:
    source, path = archive(tmp_path), tmp_path / "home" / "pets" / "a.b.h5"
    (tmp_path / "names.txt").write_text("cat\nhound\n日本\n", encoding="utf-8")
    changes: list[dict[str, Any]] = [
        {},
        {"logit_scale": 5.0},
        {"classes": tmp_path / "names.txt"},
        {"text": TextFeatures("ones", np.ones((3, 5), np.float32))},
    ]
    caches = [import_features(source, path, **change) for change in changes]
    keys = [canonical(cache.header.key) for cache in caches]
    assert len(set(keys)) == len({cache.content_sha256 for cache in caches}) == len(changes)
    assert canonical(import_features(source, path).header.key) == keys[0]


def test_a_cache_that_is_there_is_replaced_or_not(tmp_path: Path) -> None:
    source, path = archive(tmp_path), tmp_path / "home" / "pets" / "a.b.h5"
    import_features(source, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="is there already; choose another name, or use replace="):
        import_features(source, path, logit_scale=5.0, replace=False)
    with lock_cache(path), pytest.raises(BusyError, match="another process is writing"):
        import_features(source, path, logit_scale=5.0)
    assert path.read_bytes() == before
    assert import_features(source, path, logit_scale=5.0).header.logit_scale == 5
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_refused_import_leaves_no_folder(tmp_path: Path) -> None:
    source = archive(tmp_path, train_labels=np.arange(5))
    with pytest.raises(CacheFormatError):
        import_features(source, tmp_path / "home" / "pets" / "a.b.h5")
    assert not (tmp_path / "home").exists()


def test_one_prompt_a_class_may_come_without_its_axis(tmp_path: Path) -> None:
    text = np.ones((3, 5), np.float32)
    cache = import_features(archive(tmp_path, text_prompts=text), tmp_path / "home/a/b.c.h5")
    assert cache.header.text_features.shape == (3, 1, 5)


def test_no_logit_scale_is_clips(tmp_path: Path) -> None:
    cache = import_features(archive(tmp_path, logit_scale=None), tmp_path / "home/a/b.c.h5")
    assert cache.header.logit_scale == 100.0


def test_doubles_are_stored_in_single_precision(tmp_path: Path) -> None:
    changes = {name: np.ones((n, 5)) for name, n in (("train_features", 6), ("test_features", 4))}
    assert import_features(archive(tmp_path, **changes), tmp_path / "h/a/b.c.h5").dtype == "float32"


NAN = np.full((6, 5), np.nan, np.float32)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "pickled names": ({"class_names": np.array(["a", "b", None])}, "not a readable npz file"),
    "no names": ({"class_names": None}, "has no class_names; found logit_scale, test_features"),
    "no split": (
        {"train_features": None, "test_features": None},
        "has no split: it needs train_features",
    ),
    "no labels": ({"test_labels": None}, "need as many test_labels; found none"),
    "too few labels": ({"test_labels": np.array([0])}, "need as many test_labels; found (1,)"),
    "no images": (
        {"test_features": np.ones((0, 5), np.float32), "test_labels": np.ones(0, int)},
        "test_features hold no image",
    ),
    "labels without names": (
        {"test_labels": np.array([0, 1, 3, 2])},
        "must be integers from 0 to 2, one for each of the 3 class_names; found int64 from 0 to 3",
    ),
    "negative labels": ({"test_labels": np.array([0, -1, 1, 2])}, "found int64 from -1 to 2"),
    "labels in words": (
        {"test_labels": np.array(["cat"] * 4)},
        "must be integers from 0 to 2, one for",
    ),
    "float labels": ({"test_labels": np.ones(4)}, "must be integers from 0 to 2"),
    "another width": (
        {"test_features": np.ones((4, 6), np.float32)},
        "test_features must be floats (N, 5) as wide as text_prompts; found width 6",
    ),
    "integers": ({"test_features": np.ones((4, 5), int)}, "must be floats (N, D)"),
    "three axes": ({"test_features": np.ones((4, 5, 1))}, "must be floats (N, D)"),
    "no axis": ({"test_features": np.float32(1)}, "must be floats (N, D)"),
    "not finite": ({"train_features": NAN}, "train_features hold values that are not finite"),
    "too large": ({"train_features": np.full((6, 5), 1e300)}, "not finite"),
    "text not finite": ({"text_prompts": np.full((3, 5), np.inf)}, "text_prompts hold values"),
    "text in words": ({"text_prompts": np.full((3, 5), "x")}, "text_prompts must be floats"),
    "text of other classes": (
        {"text_prompts": np.ones((4, 2, 5))},
        "has 4 classes and there are 3 class names",
    ),
    "one class": (
        {"text_prompts": np.ones((1, 2, 5)), "class_names": np.array(["a"])},
        "has 1 class; at least 2 are needed",
    ),
    "names in a table": ({"class_names": np.array([["a", "b", "c"]])}, "must be text (C,)"),
    "no scale": ({"logit_scale": np.float32(0)}, "a logit_scale of 0.0; it must be above 0"),
    "scale not finite": (
        {"logit_scale": np.float32(np.nan)},
        "a logit_scale of nan; it must be above 0",
    ),
    "many scales": ({"logit_scale": np.ones(3)}, "logit_scale must be one number; found (3,)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_archive(kind: str, tmp_path: Path) -> None:
    changes, message = BAD[kind]
    with pytest.raises(CacheFormatError, match=re.escape(message)) as caught:
        import_features(archive(tmp_path, **changes), tmp_path / "home" / "a" / "b.c.h5")
    assert str(tmp_path / "x.npz") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY", b"text"])
def test_not_an_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CacheFormatError, match=r"not a readable npz file .*save it with numpy"):
        import_features(tmp_path / "x.npz", tmp_path / "home" / "a" / "b.c.h5")


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CafeError, match=r"no file or folder '.*x.npz'; give"):
        import_features(tmp_path / "x.npz", tmp_path / "home" / "a" / "b.c.h5")


def test_an_array_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(CacheFormatError, match="File is not a zip file"):
        import_features(tmp_path / "x.npy", tmp_path / "home" / "a" / "b.c.h5")


def test_an_archive_that_unpacks_to_far_more_than_it_is(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", **arrays(junk=np.zeros(100 << 20, np.uint8)))
    with pytest.raises(
        CacheFormatError, match=r"unpacks to 104,\d+,\d+ bytes\); save it with numpy"
    ):
        import_features(tmp_path / "x.npz", tmp_path / "home" / "a" / "b.c.h5")


def test_compressed_archives_are_fine(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", **arrays())
    assert import_features(tmp_path / "x.npz", tmp_path / "home" / "a" / "b.c.h5").width == 5


@pytest.mark.skipif(not SHARED.is_dir(), reason="real features are not at hand")
@pytest.mark.parametrize("name", ["whu-rs19.RN50.openai", "imagenet-food.ViT-B-32.openai"])
def test_real_features(name: str, tmp_path: Path) -> None:
    dataset, _, encoder = name.partition(".")
    path = tmp_path / dataset / f"{encoder}.h5"
    cache = import_features(SHARED / f"{name}.npz", path)
    assert cache.counts["train"] in (380, 300)
    assert FeatureCache.open(path).header.logit_scale == pytest.approx(100, abs=0.01)
    assert verify_cache(path).problems == ()
