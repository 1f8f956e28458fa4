"""A cache's split as a dataset of torch and as a table, and what caches show of themselves."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from making import make_block, make_header
from torch.utils.data import DataLoader, Dataset

import cafe
from cafe.errors import CacheError, InputError
from cafe.store import Block, write_cache


@pytest.fixture
def cache(noise_cache: Path) -> cafe.FeatureCache:
    return cafe.FeatureCache.open(noise_cache)


def test_a_split_is_a_dataset(cache: cafe.FeatureCache) -> None:
    train, read = cache.dataset("train"), cache.read("train")
    assert isinstance(train, Dataset)
    assert len(train) == 40
    x, y = train[7]
    assert (x.dtype, x.shape, y) == (torch.float32, (8,), int(read.labels[7]))
    np.testing.assert_array_equal(x, read.features[7])
    assert train[-1][0].equal(train[39][0])
    assert train.targets.tolist() == read.labels.tolist()
    assert train.classes == cache.header.class_names
    for row in (40, -41):
        with pytest.raises(IndexError, match="a split with 40 images"):
            train[row]
    for other in (1.5, slice(2)):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            train[other]  # type: ignore[index]
    assert len(list(train)) == 40  # type: ignore[call-overload]


def test_loaders_get_every_image_once(cache: cafe.FeatureCache) -> None:
    train, read = cache.dataset("train"), cache.read("train")
    torch.manual_seed(0)
    batches = list(DataLoader(train, batch_size=7, shuffle=True))
    assert sum(len(y) for _, y in batches) == 40
    rows = torch.cat([x for x, _ in batches])
    assert sorted(rows.tolist()) == sorted(read.features.tolist())
    copy = pickle.loads(pickle.dumps(train))  # noqa: S301 - as workers get it
    assert copy[3][0].equal(train[3][0])


def test_a_file_that_is_replaced_is_not_read(cache: cafe.FeatureCache) -> None:
    train = cache.dataset("train")
    write_cache(cache.path, make_header(source="new"), {"train": [make_block(40, start=9)]})
    with pytest.raises(CacheError, match="replaced by another"):
        train[0]


def test_a_split_is_a_table(cache: cafe.FeatureCache) -> None:
    read, frame = cache.read("test"), cache.frame("test")
    assert list(frame.columns) == ["id", "split", "label", "y", *(f"f{d}" for d in range(8))]
    np.testing.assert_array_equal(frame.filter(regex=r"^f\d"), read.features)
    assert tuple(frame["id"]) == cache.ids("test")
    assert list(frame["label"]) == [cache.header.class_names[y] for y in read.labels]
    assert list(frame["y"]) == read.labels.tolist()
    whole = cache.frame(features=False)
    assert whole["split"].value_counts().to_dict() == {"train": 40, "test": 9, "val": 6}
    assert list(whole.columns) == ["id", "split", "label", "y"]
    own = cache.frame().query("split == 'test'").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, frame)


def test_other_splits_and_no_pandas(
    cache: cafe.FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="has no split 'tets'"):
        cache.frame("tets")
    with pytest.raises(InputError, match="has no split 'tets'"):
        cache.dataset("tets")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"pip install 'cafe-clip\[pandas\]'"):
        cache.frame("test")


def test_ids_that_are_not_utf8(tmp_path: Path) -> None:
    block = make_block(6)
    odd = Block([f"caf\udce9/{row}.png" for row in range(6)], block.labels, block.features)
    path = tmp_path / "noise" / "tiny.none.h5"
    write_cache(path, make_header(), {"train": [odd]})
    assert cafe.FeatureCache.open(path).frame()["id"][5] == r"caf\xe9/5.png"


def test_float16_is_widened(tmp_path: Path) -> None:
    path = tmp_path / "noise" / "tiny.none.h5"
    write_cache(path, make_header(), {"train": [make_block(6, dtype="float16")]})
    cache = cafe.FeatureCache.open(path)
    assert cache.frame()["f0"].dtype == np.float32
    assert cache.dataset("train")[0][0].dtype == torch.float32


def test_a_cache_shows_itself(cache: cafe.FeatureCache) -> None:
    assert repr(cache).splitlines() == [
        f"FeatureCache '{cache.path}'",
        "  dataset   noise",
        "  encoder   tiny.none",
        "  classes   3: class 0, class 1, class 2",
        "  images    40 train, 6 val, 9 test",
        "  features  8 numbers of float32",
    ]
    assert "<td>40 train, 6 val, 9 test</td>" in cache._repr_html_()


def test_names_do_not_steer_what_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "noise" / "tiny.none.h5"
    names = ("<script>alert(1)</script>", "\x1b[2J", "x" * 500)
    write_cache(path, make_header(class_names=names), {"train": [make_block(6)]})
    cache = cafe.FeatureCache.open(path)
    assert "<script>" not in cache._repr_html_()
    assert "\x1b" not in repr(cache)
    assert max(map(len, repr(cache).splitlines()[1:])) < 80
