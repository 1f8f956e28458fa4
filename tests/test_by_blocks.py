"""Export, import and merge hold some megabytes, however many features there are."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from making import make_block, make_header
from safetensors.numpy import load_file

from cafe.errors import CacheFormatError, InputError
from cafe.extract.importers import import_features
from cafe.store import Block, FeatureCache, write_cache
from cafe.store.conversion import export_cache
from cafe.store.merge import merge_caches

WIDTH, ROWS = 256, 48_000  # 49 MB of float32
MOST = 32 << 20


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST


def blocks(first: int) -> Iterator[Block]:
    for start in range(first, first + ROWS, ROWS // 12):
        yield make_block(ROWS // 12, width=WIDTH, start=start)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    path = tmp_path_factory.mktemp("large") / "noise/tiny.none.h5"
    write_cache(
        path, make_header(width=WIDTH), {"train": blocks(0), "test": [make_block(9, WIDTH)]}
    )
    return FeatureCache.open(path)


def test_the_measure_sees_features_in_memory(large: FeatureCache) -> None:
    with pytest.raises(AssertionError), little_memory():
        large.read("train")


def test_an_npz_is_written_and_read_by_blocks(large: FeatureCache, tmp_path: Path) -> None:
    file, whole = tmp_path / "x.npz", large.read("train")
    with little_memory():
        export_cache(large, file)
    with np.load(file) as archive:
        assert np.array_equal(archive["train_features"], whole.features)
        assert np.array_equal(archive["train_labels"], whole.labels)
    with little_memory():
        again = import_features(file, tmp_path / "again/noise/tiny.none.h5")
    assert np.array_equal(again.read("train").features, whole.features)


def test_a_compressed_npz_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cafe.extract.importers.split_features._BLOCK_ROWS", 7)
    block = make_block(30, dtype="float16")
    arrays = {"train_features": block.features, "train_labels": block.labels}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    again = import_features(tmp_path / "x.npz", tmp_path / "again/noise/tiny.none.h5").read("train")
    assert again.features.dtype == np.float16
    assert np.array_equal(again.features, block.features)


def test_safetensors_are_written_by_blocks(
    large: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with little_memory():
        export_cache(large, tmp_path / "x.safetensors")
    arrays = load_file(tmp_path / "x.safetensors")
    assert np.array_equal(arrays["train_features"], large.read("train").features)
    assert arrays["logit_scale"] == 100
    monkeypatch.setattr("cafe.store.conversion._LONGEST_HEADER", 1000)
    with pytest.raises(InputError, match=r"takes 1,000 bytes of names, .* in \.npz"):
        export_cache(large, tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


def test_caches_are_merged_by_blocks(large: FeatureCache, tmp_path: Path) -> None:
    other = tmp_path / "other/tiny.none.h5"
    write_cache(other, large.header, {"train": [make_block(9, WIDTH, start=ROWS)]})
    with little_memory():
        both = merge_caches([large, FeatureCache.open(other)], tmp_path / "both/tiny.none.h5")
    assert both.counts == {"train": ROWS + 9, "test": 9}


def test_a_folder_of_arrays_is_read_by_blocks(large: FeatureCache, tmp_path: Path) -> None:
    import torch

    whole = large.read("train")
    torch.save(torch.from_numpy(whole.features), tmp_path / "features_train.pt")
    torch.save(torch.from_numpy(whole.labels), tmp_path / "targets_train.pt")
    with little_memory():
        again = import_features(tmp_path, tmp_path / "again/noise/tiny.none.h5")
    assert np.array_equal(again.read("train").features, whole.features)


def npy(header: str, data: bytes) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("shape", "data", "why"),
    [
        ("(4, 8)", bytes(96), "does not hold the .*4, 8"),
        ("(-4, -8)", bytes(128), "does not hold the .*-4, -8"),
        ("(4000000000, 4000000000)", bytes(64), "does not hold the"),
    ],
)
def test_an_array_that_its_header_belies(shape: str, data: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, train_labels=np.zeros(4, np.int64))
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("train_features.npy", npy(head, data))
    with pytest.raises(CacheFormatError, match=why):
        import_features(file, tmp_path / "again/noise/tiny.none.h5")


def test_columns_one_after_another_and_objects(tmp_path: Path) -> None:
    x, y = make_block(6, 8).features, np.arange(6) % 3
    np.savez(tmp_path / "x.npz", train_features=np.asfortranarray(x), train_labels=y)
    again = import_features(tmp_path / "x.npz", tmp_path / "again/noise/tiny.none.h5")
    assert np.array_equal(again.read("train").features, x)
    np.savez(tmp_path / "x.npz", train_features=x.astype(object), train_labels=y)
    with pytest.raises(CacheFormatError, match="its 'train_features' holds objects"):
        import_features(tmp_path / "x.npz", tmp_path / "other/noise/tiny.none.h5")
