"""The specification of the file: its reader runs, and its tables say what the files hold."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cafe.datasets.dataset import Dataset
from cafe.encoders.augmentation import Augmentation
from cafe.encoders.encoder import Encoder
from cafe.extract.extract import cache_key
from cafe.store import FORMAT, FeatureCache

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cache" / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def rows(title: str) -> dict[str, list[str]]:
    """Rows of a section's table, under each name of their first cell."""
    found = {}
    for line in section(title).splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = cells[1:]
    return found


def test_the_three_line_reader_reads(noise_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", section("Three lines"), re.DOTALL)
    assert len(code.split("\n")) - code.count("\n\n") - 1 == 3  # blank lines aside
    monkeypatch.chdir(noise_cache.parents[2])
    names: dict[str, Any] = {}
    exec(code.replace("digits/nano.glyphs", "noise/tiny.none"), names)  # noqa: S102 - the README's
    read = FeatureCache.open(noise_cache).read("train")
    assert np.array_equal(names["x"], read.features)
    assert np.array_equal(names["y"], read.labels)
    assert names["file"]["class_names"].asstr()[:].tolist() == ["class 0", "class 1", "class 2"]
    names["file"].close()


def test_the_table_of_arrays_is_the_file(noise_cache: Path) -> None:
    table = rows("Arrays")
    with h5py.File(noise_cache) as file:
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, item: found.__setitem__(name, item))
        arrays = {n: a for n, a in found.items() if isinstance(a, h5py.Dataset)}
        described = {re.sub("train|val|test", "<split>", name) for name in arrays}
        assert described == table.keys() - {"sha256", "splits/<split>/spatial"}  # noise has none
        for name, array in arrays.items():
            kind, shape = table[re.sub("train|val|test", "<split>", name)][:2]
            is_text = h5py.check_string_dtype(array.dtype) is not None
            assert (kind == "text") == is_text
            assert is_text or array.dtype.name in kind or kind == "as `features`"
            assert shape.count(",") + (not shape.endswith(",)")) == array.ndim
            assert array.fletcher32
            assert array.attrs["sha256"].decode() == hashlib.sha256(array[:].tobytes()).hexdigest()


def test_the_table_of_attributes_is_the_file(noise_cache: Path) -> None:
    table = rows("Attributes of the file")
    with h5py.File(noise_cache) as file:
        assert {*file.attrs, "logit_bias"} == table.keys()
        assert file.attrs["cafe_format"] == FORMAT
        for name, value in file.attrs.items():
            expected = {"text": np.bytes_, "integer": np.integer, "float64": np.float64}[
                table[name][0]
            ]
            assert isinstance(value, expected), name


def test_the_whole_digest_is_computed_as_it_says(noise_cache: Path) -> None:
    arrays, attributes = {}, {}
    with h5py.File(noise_cache) as file:

        def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                kind = item.dtype.str if item.dtype.kind != "S" else f"|S{item.dtype.itemsize}"
                arrays[name] = [kind, list(item.shape), item.attrs["sha256"].decode()]

        file.visititems(take)
        for name, value in file.attrs.items():
            if name not in ("key_sha256", "content_sha256", "created", "versions"):
                attributes[name] = value.decode() if isinstance(value, bytes) else value.item()
        whole = {"arrays": arrays, "attributes": attributes}
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
        assert file.attrs["content_sha256"].decode() == hashlib.sha256(text.encode()).hexdigest()
        key = file.attrs["key"]
        assert file.attrs["key_sha256"].decode() == hashlib.sha256(key).hexdigest()


def test_the_table_of_the_key_is_the_key(dataset: Dataset, tiny: Encoder) -> None:
    key = cache_key(dataset, tiny, [["a"], ["b"]], Augmentation())
    elsewhere = {"spatial", "imported_from", "imported_sha256", "text_sha256", "merged_sha256"}
    elsewhere |= {"logit_scale", "logit_bias", "label", "images_sha256", "boxes", "pre_projection"}
    assert {*key, *elsewhere} == rows("The key").keys()


@pytest.mark.parametrize("page", ["cache/README.md", "docs/trust.md"])
def test_the_tests_that_it_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:faults/)?(?:test_\w+|benchmarks/\w+)\.py)`", text))
    assert len(named) > 4
    for name in named:
        folder = "" if name.startswith("benchmarks/") else "tests"
        assert (ROOT / folder / name).is_file(), name
