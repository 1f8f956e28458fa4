"""Files that were made to harm: refused with the reason before anything in them is read."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from making import make_block, make_header

from cafe.errors import CacheFormatError, InputError
from cafe.store import FeatureCache, verify_cache, write_cache
from cafe.store.packed_text import PackedText
from cafe.store.schema import MOST_TEXT, SLAB_BYTES

Change = Callable[[h5py.File], Any]
HUGE = 1 << 40


def put(path: str, make: Callable[[h5py.Group, str], Any]) -> Change:
    """Replace what stands at a path."""

    def change(file: h5py.File) -> None:
        parent, _, name = path.rpartition("/")
        group = file[parent or "/"]
        if name in group:
            del group[name]
        make(group, name)
        if isinstance(group.get(name), h5py.Dataset):
            group[name].attrs["sha256"] = np.bytes_(b"0" * 64)

    return change


def array(**options: Any) -> Callable[[h5py.Group, str], Any]:
    defaults: dict[str, Any] = {"shape": (40, 8), "dtype": "<f4", "chunks": (40, 8)}
    return lambda group, name: group.create_dataset(
        name, **{**defaults, "fletcher32": True, **options}
    )


def filled(**options: Any) -> Callable[[h5py.Group, str], Any]:
    def make(group: h5py.Group, name: str) -> None:
        dataset = array(**options)(group, name)
        dataset[...] = np.zeros(dataset.shape, dataset.dtype)

    return make


def virtual(group: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout((40, 8), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (40, 8))
    group.create_virtual_dataset(name, layout)


def outside(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (40, 8), "<f4", external=[("/etc/passwd", 0, 1280)])


def references(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (40, 8), h5py.ref_dtype, chunks=(40, 8), fletcher32=True)


def link(to: Any) -> Callable[[h5py.Group, str], Any]:
    return lambda group, name: group.__setitem__(name, to)


def attribute(name: str, value: Any) -> Change:
    return lambda file: file.attrs.__setitem__(name, value)


X = "splits/train/features"
HOSTILE: dict[str, tuple[Change, str]] = {
    "external link": (
        put(X, link(h5py.ExternalLink("other.h5", "x"))),
        "is a link out of its group",
    ),
    "external group": (
        put("splits/train", link(h5py.ExternalLink("other.h5", "/"))),
        "is a link out of its group",
    ),
    "soft link": (put(X, link(h5py.SoftLink("/text/features"))), "is a link out of its group"),
    "circle": (lambda file: file["splits"].__setitem__("back", file["/"]), "unknown 'splits/back'"),
    "circle under a known name": (put("splits/val", lambda g, n: g.__setitem__(n, g)), "unknown"),
    "virtual array": (put(X, virtual), "not stored in chunks of this file"),
    "array in another file": (put(X, outside), "not stored in chunks of this file"),
    "in one piece": (
        put(X, filled(chunks=None, fletcher32=False)),
        "not stored in chunks of this file",
    ),
    "packed": (put(X, filled(compression="gzip")), "not stored under the one checksum"),
    "bomb": (
        put(X, array(shape=(HUGE, 8), compression="gzip")),
        "not stored under the one checksum",
    ),
    "shuffled": (put(X, filled(shuffle=True)), "not stored under the one checksum"),
    "scaled": (
        put(X, filled(scaleoffset=2, fletcher32=False)),
        "not stored under the one checksum",
    ),
    "unchecked": (put(X, filled(fletcher32=False)), "not stored under the one checksum"),
    "absurd size": (put(X, array(shape=(HUGE, 8), chunks=(1000, 8))), "claims .* and holds 0"),
    "size that wraps": (
        put(X, array(shape=(1 << 62, 1 << 3), chunks=(10, 8))),
        "claims .* and holds 0",
    ),
    "absurd chunks": (
        put(X, array(shape=(40, 8), chunks=(1 << 22, 8), maxshape=(None, 8))),
        "chunks",
    ),
    "references": (put(X, references), "has type object"),
    "text of any length": (
        put(X, array(dtype=h5py.string_dtype(), fletcher32=False)),
        "has type object",
    ),
    "compound": (put(X, array(dtype=np.dtype([("a", "<f4")]))), "has type"),
    "doubles": (put(X, filled(dtype="<f8")), "has type float64"),
    "big-endian": (put(X, filled(dtype=">f4")), "has type >f4"),
    "integers": (put(X, filled(dtype="<i4")), "has type int32"),
    "three axes": (put(X, filled(shape=(40, 8, 1), chunks=(40, 8, 1))), "3 dimensions"),
    "another length": (put(X, filled(shape=(41, 8), chunks=(41, 8))), "differ in length"),
    "another width": (put(X, filled(shape=(40, 9), chunks=(40, 9))), "from the text in width"),
    "group for an array": (put(X, lambda group, name: group.create_group(name)), "is not an array"),
    "array for a group": (put("splits", filled()), "'splits' is not a group"),
    "no array": (lambda file: file.__delitem__(X), "has no 'splits/train/features'"),
    "no split": (
        lambda file: [file["splits"].__delitem__(name) for name in list(file["splits"])],
        "it has no split",
    ),
    "no group": (lambda file: file.__delitem__("splits"), "has no group 'splits'"),
    "more than is known": (put("extra", filled()), "unknown 'extra'"),
    "no checksum": (lambda file: file[X].attrs.__delitem__("sha256"), "no attribute 'sha256'"),
    "checksums": (lambda f: f[X].attrs.__setitem__("sha256", [b"a", b"b"]), "is not one text"),
    "no key": (lambda file: file.attrs.__delitem__("key"), "has no attribute 'key'"),
    "key in numbers": (attribute("key", 3), "'key' is not one text"),
    "key of any length": (attribute("key", "{}"), "'key' is not one text"),
    "many keys": (attribute("key", [b"{}"] * 9), "'key' is not one text"),
    "key that is no JSON": (attribute("key", np.bytes_(b"{")), "not a readable cafe cache"),
    "deep key": (attribute("key", np.bytes_(b"[" * 60_000)), "not a readable cafe cache"),
    "another key": (attribute("key", np.bytes_(b"{}")), "its key does not have the key's checksum"),
    "another scale": (attribute("logit_scale", 1.0), "does not have the file's checksum"),
    "scale in words": (attribute("logit_scale", "1"), "'logit_scale' is not one number"),
    "many scales": (attribute("logit_scale", np.ones(3)), "'logit_scale' is not one number"),
    "format 0": (attribute("cafe_format", 0), "unknown format 0"),
    "format -1": (attribute("cafe_format", -1), "unknown format -1"),
    "format in words": (attribute("cafe_format", "1"), "'cafe_format' is not one number"),
    "two formats": (attribute("cafe_format", [1, 1]), "'cafe_format' is not one number"),
    "one class": (put("class_names", filled(shape=(1,), dtype="S3", chunks=(1,))), "1 class names"),
    "another name for a class": (
        lambda file: file["class_names"].__setitem__(0, b"other"),
        "'class_names' does not have its checksum",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_refused_with_the_reason(kind: str, noise_cache: Path) -> None:
    change, message = HOSTILE[kind]
    with h5py.File(noise_cache, "r+") as file:
        change(file)
    tracemalloc.start()
    try:
        with pytest.raises(CacheFormatError, match=message) as caught:
            FeatureCache.open(noise_cache)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert str(noise_cache) in text
    assert "\n" not in text
    (problem,) = verify_cache(noise_cache).problems
    assert problem.removesuffix(".") in text


def short_names(*shape: int) -> PackedText[str]:
    """Names of two letters, which are thirty times as large as strings of Python."""
    letters = np.random.default_rng(0).integers(97, 123, (*shape, 2), np.uint8)
    return PackedText(letters.view("S2")[..., 0])


MANY = 400_000
HEADERS: dict[str, dict[str, Any]] = {
    "missing": {"missing": short_names(MANY)},
    "skipped": {"skipped": short_names(MANY // 3, 3)},
    "long name": {"missing": ["x" * 4000, *"abc" * 100]},
    "prompts": {"sentences": short_names(3, MANY), "prompts": MANY, "width": 1},
    "classes": {
        "class_names": short_names(MANY),
        "sentences": short_names(MANY, 1),
        "classes": MANY,
        "width": 1,
        "prompts": 1,
    },
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_takes_no_more_memory_than_its_file(kind: str, tmp_path: Path) -> None:
    header = make_header(**HEADERS[kind])
    path = tmp_path / "long.h5"
    write_cache(path, header, {"test": [make_block(4, header.text_features.shape[-1])]})
    FeatureCache.open(path)  # what is imported when a file is first opened does not count
    tracemalloc.start()
    try:
        opened = FeatureCache.open(path).header
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + 1.2 * SLAB_BYTES
    finally:
        tracemalloc.stop()
    for name in ("class_names", "sentences", "missing", "skipped"):
        assert list(getattr(opened, name)[:9]) == list(getattr(header, name)[:9])
    assert tuple(opened.class_names) == tuple(header.class_names)


@pytest.mark.parametrize("name", ["key", "versions", "source"])
def test_a_text_of_many_megabytes_is_refused_unread(name: str, noise_cache: Path) -> None:
    with h5py.File(noise_cache, "r+", libver="latest") as file:
        size = 20 << 20
        file.attrs.create(name, np.bytes_(b"[" + b"[]," * (size // 3 - 2) + b"[]]"))
    tracemalloc.start()
    try:
        with pytest.raises(CacheFormatError, match=f"'{name}' is 20,97.,... bytes long"):
            FeatureCache.open(noise_cache)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_a_text_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    header = make_header(source="x" * (MOST_TEXT + 1))
    with pytest.raises(InputError, match="'source' is 1,048,577 bytes long; 1,048,576 at most"):
        write_cache(tmp_path / "a.h5", header, {"test": [make_block(4)]})
    assert not list(tmp_path.iterdir())


def test_arrays_that_share_their_bytes(noise_cache: Path) -> None:
    """One array under many names cannot claim more than the file holds."""
    with h5py.File(noise_cache, "r+") as file:
        file[X].resize(3000, axis=0)
        file[X][...] = 1.0
        for split in ("val", "test"):
            for name in list(file["splits"][split]):
                del file["splits"][split][name]
            for name in file["splits/train"]:
                file["splits"][split][name] = file["splits/train"][name]
    with pytest.raises(CacheFormatError, match=r"differ in length|claim .* bytes of a file"):
        FeatureCache.open(noise_cache)


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is a folder and no cache; 'cafe extract "):
        FeatureCache.open(tmp_path)
