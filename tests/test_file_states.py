"""A cache knows the content of its images' files: replaced ones are noticed, others not read."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from making import make_block, make_dataset, make_header

from cafe.datasets.dataset import Dataset
from cafe.datasets.open_image import NO_STATE
from cafe.encoders.encoder import Encoder
from cafe.errors import CacheFormatError, CacheMismatchError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.extract import Extraction, extract
from cafe.extract.file_states import changed_images, state_array
from cafe.extract.reencode import reencode_sample
from cafe.extract.resume import Failure
from cafe.store import FILE_STATE, FeatureCache, verify_cache, write_cache

SENTENCES = (("a disc.",), ("a square.",))
SMALL = ExtractOptions(batch_size=2, workers=2)
OLD = 1_000_000_000_000_000_000  # in ns: long before any test


def run(dataset: Dataset, encoder: Encoder, path: Path, **changes: Any) -> Extraction:
    return extract(dataset, encoder, path, **{"sentences": SENTENCES, "options": SMALL, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "shapes" / "tiny.local.h5"


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """Images of one size in bytes, whose files are all of one time."""
    dataset = make_dataset(tmp_path / "images", {"train": 6, "test": 4})
    splits = {}
    for split, items in dataset.splits.items():
        for item in items:
            file = tmp_path / "images" / item.id
            file.write_bytes(file.read_bytes().ljust(3000, b"\0"))
            os.utime(file, ns=(OLD, OLD))
        splits[split] = tuple(item._replace(size=3000) for item in items)
    return dataclasses.replace(dataset, splits=splits)


def file(dataset: Dataset, image: str) -> Path:
    assert dataset.root is not None
    return dataset.root / image


def swap(dataset: Dataset) -> None:
    """As a folder is put right: names and sizes stay, times and inodes move with the files."""
    train, other = file(dataset, "train"), file(dataset, "other")
    (train / "0.png").rename(other)
    (train / "1.png").rename(train / "0.png")
    other.rename(train / "1.png")


def write_over(dataset: Dataset) -> None:
    """As `exiftool -P` does: size, time and inode stay."""
    path = file(dataset, "train/0.png")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as stream:
        stream.write(data)
    os.utime(path, ns=(OLD, OLD))


@pytest.mark.parametrize("change", [swap, write_over])
def test_files_replaced_in_place_are_noticed(
    change: Any, photos: Dataset, tiny: Encoder, path: Path
) -> None:
    run(photos, tiny, path)
    before = path.read_bytes()
    change(photos)
    with pytest.raises(CacheMismatchError, match=r"[12] images? of 'shapes' ha(s|ve) changed"):
        reencode_sample(FeatureCache.open(path), photos, tiny, 2)
    assert path.read_bytes() == before
    again = run(photos, tiny, path)
    assert not again.was_there
    assert again.changes.replaced == (2 if change is swap else 1)
    assert again.images == (0 if change is swap else 1)  # swapped: both contents are known
    kept = FeatureCache.open(path).read("train").features
    assert run(photos, tiny, path).was_there
    again = run(photos, tiny, path, rebuild=True)
    assert (again.images, again.was_there) == (10, False)
    np.testing.assert_allclose(FeatureCache.open(path).read("train").features, kept, atol=1e-5)


def test_a_broken_image_that_was_mended_is_noticed(
    photos: Dataset, tiny: Encoder, path: Path
) -> None:
    broken, whole = file(photos, "train/3.png"), file(photos, "train/3.png").read_bytes()
    broken.write_bytes(bytes(3000))
    assert run(photos, tiny, path).skipped == 1
    assert run(photos, tiny, path).was_there
    broken.write_bytes(whole)
    again = run(photos, tiny, path)
    assert (again.images, again.skipped, str(again.changes)) == (1, 0, "1 replaced")


def test_files_that_only_moved_or_were_touched_are_the_same(
    photos: Dataset, tiny: Encoder, path: Path, tmp_path: Path
) -> None:
    run(photos, tiny, path)
    os.utime(file(photos, "train/0.png"))
    file(photos, "train/1.png").chmod(0o600)
    assert run(photos, tiny, path).was_there
    assert photos.root is not None
    (tmp_path / "copy").mkdir()
    os.system(f"cp -r '{photos.root}'/* '{tmp_path}/copy/'")  # noqa: S605
    copied = dataclasses.replace(photos, root=tmp_path / "copy")
    assert run(copied, tiny, path).was_there


def test_unchanged_files_are_not_read_again(
    photos: Dataset, tiny: Encoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cafe.datasets.open_image._YOUNG", 0)  # as if they were there for long
    run(photos, tiny, path)
    monkeypatch.setattr("cafe.datasets.dataset.state_now", None)
    done = run(photos, tiny, path)
    assert (done.was_there, done.by_content) == (True, True)


def test_what_a_cache_knows_of_its_files(photos: Dataset, tiny: Encoder, path: Path) -> None:
    file(photos, "test/1.png").write_bytes(b"no image".ljust(3000))
    run(photos, tiny, path)
    cache = FeatureCache.open(path)
    states = cache.files("train")
    assert states is not None
    assert states.dtype == FILE_STATE
    assert states["size"].tolist() == [3000] * 6
    assert len({row.tobytes() for row in states["sha256"]}) == 6
    assert cache.header.skipped_files is not None
    assert len(cache.header.skipped_files) == 1
    assert verify_cache(path).problems == ()
    with h5py.File(path) as opened:
        assert opened.attrs["cafe_format"] == 3
        assert opened["splits/train/files"].dtype == FILE_STATE
    assert next(cache.blocks("train")).files is None  # of no use outside of its folder


def test_the_digest_is_of_the_features_alone(photos: Dataset, tiny: Encoder, path: Path) -> None:
    run(photos, tiny, path)
    first = FeatureCache.open(path).content_sha256
    os.utime(file(photos, "train/0.png"))
    run(photos, tiny, path, rebuild=True)
    assert FeatureCache.open(path).content_sha256 == first
    cache = FeatureCache.open(path)
    copied = {split: cache.blocks(split) for split in cache.counts}
    write_cache(path.with_name("bare.x.h5"), cache.header, copied)  # blocks know no files
    assert FeatureCache.open(path.with_name("bare.x.h5")).content_sha256 == first


def test_a_cache_that_knows_names_and_sizes_alone(
    photos: Dataset, tiny: Encoder, path: Path
) -> None:
    run(photos, tiny, path)
    cache = FeatureCache.open(path)
    write_cache(path, cache.header, {split: cache.blocks(split) for split in cache.counts})
    assert changed_images(FeatureCache.open(path), photos) is None
    done = run(photos, tiny, path)
    assert (done.was_there, done.by_content) == (True, False)


def test_images_in_memory_have_no_files(tiny: Encoder, path: Path) -> None:
    from cafe.datasets import load_dataset

    digits = load_dataset("digits")
    few = {name: items[::30] for name, items in digits.splits.items()}
    digits = dataclasses.replace(digits, splits=few)
    sentences = [[name] for name in digits.class_names]
    run(digits, tiny, path, sentences=sentences)
    assert FeatureCache.open(path).files("train") is None
    again = run(digits, tiny, path, sentences=sentences)
    assert (again.was_there, again.by_content) == (True, True)


def test_finished_blocks_of_files_that_changed_are_encoded_again(
    photos: Dataset, tiny: Encoder, path: Path
) -> None:
    def stop(_split: str, done: int, _total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    options = dataclasses.replace(SMALL, batch_size=1, progress=stop)
    many = make_dataset(photos.root or Path(), {"train": 12, "test": 4})
    with pytest.raises(KeyboardInterrupt):
        run(many, tiny, path, options=options)
    swap(many)
    first, second = file(many, "train/0.png"), file(many, "train/1.png")
    sizes = {"train/0.png": first.stat().st_size, "train/1.png": second.stat().st_size}
    assert sizes["train/0.png"] != sizes["train/1.png"]
    done = run(many, tiny, path, options=dataclasses.replace(options, progress=None))
    assert done.images == 16  # the first block of 8 is not taken over
    whole = path.with_name("whole.h5")
    run(many, tiny, whole, options=dataclasses.replace(options, progress=None))
    assert np.array_equal(
        FeatureCache.open(path).read("train").features,
        FeatureCache.open(whole).read("train").features,
    )


def test_failures_keep_the_state_of_their_file() -> None:
    for failure in (Failure("a", "b"), Failure("a", "b", NO_STATE._replace(size=3, inode=9))):
        assert Failure.from_json(*failure.json()) == failure


def states(count: int) -> np.ndarray[Any, Any]:
    return state_array(NO_STATE._replace(size=size) for size in range(count))


BAD = {
    "files of one split alone": ({"train": states(12), "val": None}, states(0)),
    "files of the splits alone": ({"train": states(12), "val": states(12)}, None),
    "too many of the skipped": ({"train": states(12), "val": states(12)}, states(2)),
}


@pytest.mark.parametrize("kind", BAD)
def test_states_of_some_files_alone_are_refused(kind: str, noise_cache: Path) -> None:
    files, skipped = BAD[kind]
    blocks = {s: [dataclasses.replace(make_block(12), files=f)] for s, f in files.items()}
    write_cache(noise_cache, make_header(skipped_files=skipped), blocks)
    with pytest.raises(CacheFormatError, match=r"it has format|are not complete"):
        FeatureCache.open(noise_cache)


@pytest.mark.parametrize("dtype", ["<i8", "S64", np.dtype([("sha256", "<i8"), ("x", "<i8", (7,))])])
def test_states_of_another_type_are_refused(dtype: Any, noise_cache: Path) -> None:
    block = dataclasses.replace(make_block(12), files=np.zeros(12, dtype))
    header = make_header(skipped_files=states(0))
    write_cache(noise_cache, header, {"train": [block]})
    with pytest.raises(CacheFormatError, match="'splits/train/files' has type"):
        FeatureCache.open(noise_cache)


def test_a_damaged_state_is_found(noise_cache: Path) -> None:
    block = dataclasses.replace(make_block(12), files=states(12))
    write_cache(noise_cache, make_header(skipped_files=states(0)), {"train": [block]})
    cache = FeatureCache.open(noise_cache)
    data = noise_cache.read_bytes()
    place = data.index(
        (7).to_bytes(8, "little") + bytes(24) + bytes(32) + (8).to_bytes(8, "little")
    )
    noise_cache.write_bytes(data[:place] + b"\x09" + data[place + 1 :])
    assert len(verify_cache(noise_cache).problems) == 1
    with pytest.raises(CacheFormatError):
        cache.files("train")
