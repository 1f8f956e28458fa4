"""The cache file: what is written is read, bit for bit; what is not a cache is refused."""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from making import make_block, make_header

from cafe.errors import (
    CacheError,
    CacheFormatError,
    CacheNotFoundError,
    InputError,
    UnknownNameError,
)
from cafe.store import Block, FeatureCache, Header, verify_cache, write_cache

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@st.composite
def caches(draw: st.DrawFn) -> tuple[Header, dict[str, list[Block]]]:
    classes, prompts, width = (
        draw(st.integers(2, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 9)),
    )
    text = draw(
        hnp.arrays(np.float32, (classes, prompts, width), elements=st.floats(-9, 9, width=32))
    )
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    views = draw(st.sampled_from([0, 3]))
    names = st.lists(TEXT, min_size=classes, max_size=classes)
    header = Header(
        key=draw(st.dictionaries(TEXT, st.one_of(st.none(), TEXT, st.integers()), max_size=3)),
        dataset=draw(TEXT),
        model=draw(TEXT),
        pretrained=draw(TEXT),
        class_names=tuple(draw(names)),
        sentences=tuple(tuple(draw(TEXT) for _ in range(prompts)) for _ in range(classes)),
        text_features=text,
        logit_scale=draw(st.floats(0.1, 200)),
        logit_bias=draw(st.one_of(st.none(), st.floats(-20, 20))),
        source=draw(TEXT),
        missing=tuple(draw(st.lists(TEXT, max_size=3))),
        skipped=tuple(draw(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=3))),
        versions=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        created=draw(TEXT),
    )
    splits = {}
    for split in draw(st.sampled_from([("train",), ("train", "test"), ("train", "val", "test")])):
        blocks = []
        for rows in draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)):
            values = hnp.arrays(
                dtype, (rows, views or 1, width), elements=st.floats(-60, 60, width=16)
            )
            array = draw(values)
            blocks.append(
                Block(
                    [draw(TEXT) for _ in range(rows)],
                    draw(hnp.arrays(np.int32, rows, elements=st.integers(0, classes - 1))),
                    array[:, 0],
                    array if views and split == "train" else None,
                )
            )
        splits[split] = blocks
    return header, splits


@given(content=caches())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_is_read_bit_for_bit(
    content: tuple[Header, dict[str, list[Block]]], tmp_path: Path
) -> None:
    header, splits = content
    path = tmp_path / "a" / "b.h5"
    write_cache(path, header, splits)
    cache = FeatureCache.open(path)
    for field in dataclasses.fields(Header):
        found, written = getattr(cache.header, field.name), getattr(header, field.name)
        if field.name == "text_features":
            assert found.dtype == np.float32
            assert found.tobytes() == written.tobytes()
        else:
            assert found == written
    for split, blocks in splits.items():
        arrays = cache.read(split)
        assert cache.ids(split) == tuple(name for block in blocks for name in block.ids)
        assert arrays.labels.tolist() == [x for block in blocks for x in block.labels.tolist()]
        features = np.concatenate([block.features for block in blocks])
        assert arrays.features.dtype == features.dtype
        assert arrays.features.tobytes() == features.tobytes()
        if blocks[0].views is not None:
            views = [block.views for block in blocks if block.views is not None]
            assert arrays.views is not None
            assert arrays.views.tobytes() == np.concatenate(views).tobytes()
    # a name may come twice in what is drawn here: only that may be found
    assert all("more than once" in problem for problem in verify_cache(path).problems)


def test_the_header_says_counts_width_type_and_views(noise_cache: Path) -> None:
    cache = FeatureCache.open(noise_cache)
    assert dict(cache.counts) == {"train": 40, "val": 6, "test": 9}
    assert (cache.width, cache.dtype, cache.views) == (8, "float32", 2)


@pytest.mark.parametrize("rows", [[], [0], [39, 0, 7, 7], list(range(39, -1, -1))])
def test_rows_are_read_in_the_order_asked_for(noise_cache: Path, rows: list[int]) -> None:
    cache = FeatureCache.open(noise_cache)
    whole, some = cache.read("train"), cache.read("train", rows, dtype=np.float64)
    assert some.features.dtype == np.float64
    assert np.array_equal(some.features, whole.features[rows])
    assert np.array_equal(some.labels, whole.labels[rows])
    assert whole.views is not None
    assert some.views is not None
    assert np.array_equal(some.views, whole.views[rows])
    assert cache.read("train", rows, views=False).views is None


def test_rows_across_slabs(noise_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache.open(noise_cache)
    whole = cache.read("train").features
    monkeypatch.setattr("cafe.store.schema.SLAB_BYTES", 3 * 8 * 4)
    rows = np.random.default_rng(0).permutation(40)[:25]
    assert np.array_equal(cache.read("train").features, whole)
    assert np.array_equal(cache.read("train", rows).features, whole[rows])


@pytest.mark.parametrize("rows", [[40], [-1]])
def test_rows_that_are_not_there(noise_cache: Path, rows: list[int]) -> None:
    with pytest.raises(InputError, match=r"has the rows 0 to 39; asked for"):
        FeatureCache.open(noise_cache).read("train", rows)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    write_cache(tmp_path / "x.h5", make_header(), {"train": [make_block(3)], "val": []})
    with pytest.raises(InputError, match="has no split 'val'; it has train"):
        FeatureCache.open(tmp_path / "x.h5").read("val")


def test_equal_content_has_an_equal_digest_whatever_the_blocks_and_the_time(tmp_path: Path) -> None:
    whole = make_block(9)
    parts = [
        Block(whole.ids[a:b], whole.labels[a:b], whole.features[a:b]) for a, b in ((0, 2), (2, 9))
    ]
    digests = []
    for name, blocks, created in (("a", [whole], "now"), ("b", parts, "then")):
        write_cache(tmp_path / name, make_header(created=created), {"train": blocks})
        digests.append(FeatureCache.open(tmp_path / name).content_sha256)
    assert digests[0] == digests[1]
    write_cache(tmp_path / "c", make_header(logit_scale=99.0), {"train": [whole]})
    assert FeatureCache.open(tmp_path / "c").content_sha256 != digests[0]


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    header = make_header(class_names=("a\0", "b", "c"))
    with pytest.raises(InputError, match="NUL"):
        write_cache(tmp_path / "x.h5", header, {"train": [make_block(3)]})
    assert list(tmp_path.iterdir()) == []


def test_file_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    block = dataclasses.replace(
        make_block(1), ids=[b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    )
    write_cache(tmp_path / "x.h5", make_header(), {"train": [block]})
    name = FeatureCache.open(tmp_path / "x.h5").ids("train")[0]
    assert name.encode("utf-8", "surrogateescape") == b"caf\xe9.png"


def test_no_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheNotFoundError, match=r"no cache .*x\.h5'; 'cafe cache ls'"):
        FeatureCache.open(tmp_path / "x.h5")


def test_not_hdf5(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"no HDF5 file " * 100)
    with pytest.raises(CacheFormatError, match=r"not a readable cafe cache .*signature not found"):
        FeatureCache.open(tmp_path / "x.h5")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated(noise_cache: Path, share: float) -> None:
    data = noise_cache.read_bytes()
    noise_cache.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CacheFormatError, match=re.escape(str(noise_cache))):
        FeatureCache.open(noise_cache).read("train")


def test_another_programs_hdf5_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = np.zeros((3, 2))
    with pytest.raises(
        CacheFormatError, match=r"an HDF5 file but no cafe cache .*cafe cache import"
    ):
        FeatureCache.open(tmp_path / "x.h5")


def test_a_newer_format(noise_cache: Path) -> None:
    with h5py.File(noise_cache, "r+") as file:
        file.attrs["cafe_format"] = 6
    with pytest.raises(CacheFormatError, match=r"it has format 6, this cafe reads up to 5; update"):
        FeatureCache.open(noise_cache)


def damaged(noise_cache: Path, split: str, name: str, value: Any) -> FeatureCache:
    """A cache whose numbers were wrong when it was written: every checksum is right."""
    block = make_block(12)
    array = getattr(block, name).copy()
    array[5] = value
    write_cache(noise_cache, make_header(), {split: [dataclasses.replace(block, **{name: array})]})
    return FeatureCache.open(noise_cache)


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1])
def test_labels_out_of_range(noise_cache: Path, label: int) -> None:
    cache = damaged(noise_cache, "train", "labels", label)
    for read in (cache.read, cache.labels):
        with pytest.raises(CacheFormatError, match=r"labels from -?\d+ to \d+ for 3 class names"):
            read("train")
    assert verify_cache(noise_cache).problems == (
        "'splits/train/labels' holds 1 labels without a class.",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_not_finite(noise_cache: Path, value: float, dtype: str) -> None:
    block = make_block(12, dtype=dtype)
    block.features[3, 2] = value
    write_cache(noise_cache, make_header(), {"test": [block]})
    with pytest.raises(CacheFormatError, match="features' holds values that are not finite"):
        FeatureCache.open(noise_cache).read("test")
    assert "holds 1 values not finite" in verify_cache(noise_cache).problems[0]


def test_a_file_that_is_replaced_while_in_use(noise_cache: Path) -> None:
    cache = FeatureCache.open(noise_cache)
    write_cache(noise_cache, make_header(), {"train": [make_block(40, start=7)]})
    with pytest.raises(CacheFormatError, match="replaced by another while in use; start again"):
        cache.read("train")


def flip(path: Path, name: str) -> None:
    """Change one byte of an array in the file."""
    with h5py.File(path, "r") as file:
        pattern = file[name][:].tobytes()[:32]
    data = bytearray(path.read_bytes())
    data[data.index(pattern) + 5] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["features", "labels", "views", "ids"], ids=lambda name: f"splits/train/{name}"
)
def test_one_flipped_bit_in_a_split_is_seen_when_it_is_read(noise_cache: Path, name: str) -> None:
    flip(noise_cache, f"splits/train/{name}")
    cache = FeatureCache.open(noise_cache)
    with pytest.raises(CacheFormatError, match="may be truncated or damaged"):
        cache.ids("train") if name == "ids" else cache.read("train")
    assert verify_cache(noise_cache).problems


@pytest.mark.parametrize("name", ["class_names", "text/features", "text/sentences"])
def test_one_flipped_bit_in_the_header_is_seen_when_it_is_opened(
    noise_cache: Path, name: str
) -> None:
    flip(noise_cache, name)
    with pytest.raises(CacheFormatError):
        FeatureCache.open(noise_cache)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot write the cache .*choose another folder"):
        write_cache(tmp_path / "file" / "x.h5", make_header(), {"train": [make_block(3)]})


@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_stops(tmp_path: Path, error: BaseException) -> None:
    def blocks() -> Any:
        yield make_block(3)
        raise error

    write_cache(tmp_path / "x.h5", make_header(), {"train": [make_block(5)]})
    before = (tmp_path / "x.h5").read_bytes()
    with pytest.raises(type(error)):
        write_cache(tmp_path / "x.h5", make_header(), {"train": blocks()})
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    assert (tmp_path / "x.h5").read_bytes() == before


def test_verify_finds_nothing_wrong_and_counts(noise_cache: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    found = verify_cache(noise_cache, lambda *call: calls.append(call))
    assert found.problems == ()
    assert found.bytes == calls[-1][1] > 40 * 8 * 4 * 3


def test_verify_names_duplicate_ids(tmp_path: Path) -> None:
    blocks = [make_block(3), make_block(3)]
    write_cache(tmp_path / "x.h5", make_header(), {"train": blocks})
    assert verify_cache(tmp_path / "x.h5").problems == (
        "'splits/train/ids' has 3 names more than once, such as '0.png'.",
    )


def test_verify_sees_a_checksum_that_is_not_the_arrays(noise_cache: Path) -> None:
    rewrite(noise_cache, lambda file: file["splits/val/labels"].__setitem__(0, 2))
    assert FeatureCache.open(noise_cache).read("val").labels[0] == 2  # HDF5's own check is right
    assert verify_cache(noise_cache).problems == (
        "'splits/val/labels' does not have its checksum.",
    )


def rewrite(path: Path, change: Callable[[h5py.File], Any]) -> None:
    """Change a file through HDF5, which keeps its own checksums right."""
    with h5py.File(path, "r+") as file:
        change(file)


def test_a_cache_opens_by_name_by_file_and_as_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("older", "newer"):
        write_cache(tmp_path / name / "m.tag.h5", make_header(), {"train": [make_block(2)]})
    os.utime(tmp_path / "older" / "m.tag.h5", (1, 1))
    older = FeatureCache.open("older/m.tag", cache_folder=tmp_path)
    assert older.path == tmp_path / "older" / "m.tag.h5"
    assert FeatureCache.open(older) is older
    monkeypatch.setenv("CAFE_CACHE", str(tmp_path))
    assert FeatureCache.open("older/m.tag").path == FeatureCache.open(older.path).path
    assert FeatureCache.open().path.parent.name == "newer"
    with pytest.raises(UnknownNameError, match=r"did you mean older/m\.tag"):
        FeatureCache.open("oldr/m.tag")
