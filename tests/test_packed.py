"""Images in tar shards, Parquet files and datasets of the Hub."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import draw_image

from cafe.datasets import Dataset, load_dataset
from cafe.datasets.prompts import fill
from cafe.datasets.shards import expand
from cafe.encoders.encoder import Encoder
from cafe.errors import DatasetError, InputError
from cafe.extract.blocks import ExtractOptions
from cafe.extract.extract import Extraction, extract
from cafe.store import FeatureCache

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Hub = Callable[[Any], list[Any]]
SMALL = ExtractOptions(batch_size=2, workers=2)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    draw_image(seed).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shards(root: Path, count: int = 2, each: int = 10) -> str:
    for number in range(count):
        members = {}
        for row in range(number * each, (number + 1) * each):
            members |= {
                f"{row:04d}.png": png(row),
                f"{row:04d}.cls": b"ash\n" if row % 2 else b"AnnualCrop",
            }
        write_tar(root / f"{number:03d}.tar", members)
    return f"{root}/{{000..{count - 1:03d}}}.tar"


def run(dataset: Dataset, encoder: Encoder, path: Path, **changes: Any) -> Extraction:
    sentences = fill(dataset.words or dataset.class_names, dataset.templates)
    return extract(dataset, encoder, path, sentences=sentences, options=SMALL, **changes)


def sizes(dataset: Dataset) -> dict[str, int]:
    return {split: len(items) for split, items in dataset.splits.items()}


def test_braces() -> None:
    assert expand("a{0..2}b{x,y}") == ["a0bx", "a0by", "a1bx", "a1by", "a2bx", "a2by"]
    assert expand("{08..10}") == ["08", "09", "10"]
    assert expand("plain") == ["plain"]
    for bad in ("{5..3}", "{0..999999999}"):
        with pytest.raises(DatasetError, match="write a range such as"):
            expand(bad)


def test_shards_are_a_dataset(tiny: Encoder, tmp_path: Path) -> None:
    dataset = load_dataset(shards(tmp_path / "photos"))
    assert dataset.name == "photos"
    assert dataset.class_names == ("AnnualCrop", "ash")
    assert dataset.words == ("annual crop", "ash")
    assert sum(sizes(dataset).values()) == 20
    done = run(dataset, tiny, tmp_path / "cache/photos/tiny.local.h5")
    assert (done.images, done.skipped) == (20, 0)
    assert load_dataset(tmp_path / "photos").fingerprint() == dataset.fingerprint()  # the folder
    assert load_dataset(f"{tmp_path}/photos/*.tar").fingerprint() == dataset.fingerprint()


def test_a_cache_follows_its_shards(tiny: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "cache/photos/tiny.local.h5"
    run(load_dataset(shards(tmp_path / "photos")), tiny, path)
    assert run(load_dataset(shards(tmp_path / "photos")), tiny, path).was_there  # written again
    shards(tmp_path / "photos", 3)
    done = run(load_dataset(tmp_path / "photos"), tiny, path)
    assert (done.images, str(done.changes)) == (10, "10 added")


def test_labels_of_shards(tmp_path: Path) -> None:
    members = {}
    for row in range(4):
        members |= {f"n/{row}.jpg": png(row), f"n/{row}.json": b'{"label": %d, "x": 1}' % (row % 2)}
    path = write_tar(tmp_path / "train-0.tar", members)
    write_tar(tmp_path / "test-0.tar", members)
    with pytest.raises(DatasetError, match="2 labels have no class name"):
        load_dataset(path)
    dataset = load_dataset(f"{tmp_path}/{{train,test}}-0.tar", class_names=("ash", "birch"))
    assert sizes(dataset) == {"train": 4, "test": 4}
    folders = {f"{label}/{row}.png": png(row) for row in range(4) for label in ("ash", "birch")}
    by_folder = load_dataset(
        write_tar(tmp_path / "f.tar", {**folders, "readme.txt": b"", "x.png": png(1)})
    )
    assert by_folder.class_names == ("ash", "birch")
    assert by_folder.notes == (
        "left out: images of shards without a label (1: .png)",
        "left out: members of shards that are no images (1: .txt)",
    )


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.75, "mark"])
def test_a_shard_that_ends_early_is_said(cut: float | str, tiny: Encoder, tmp_path: Path) -> None:
    pattern = shards(tmp_path / "photos")
    shard = tmp_path / "photos/001.tar"
    data = shard.read_bytes()
    end = data.rstrip(b"\0")
    size = -(-len(end) // 512) * 512 if cut == "mark" else int(len(end) * float(cut))
    shard.write_bytes(data[:size])
    with pytest.raises(DatasetError, match=r"001\.tar ends early, after \d+ whole images"):
        load_dataset(pattern)
    dataset = load_dataset(pattern, allow_missing=True)
    assert "left out: the rest of shards that end early (1: 001.tar)" in dataset.notes
    done = run(dataset, tiny, tmp_path / "cache/photos/tiny.local.h5")
    assert done.skipped == 0
    assert 10 < done.images <= 20


def test_shards_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # messages shorten long paths
    pattern = shards(Path("photos"))
    (tmp_path / "photos/001.tar").write_bytes(b"no archive" * 300)
    with pytest.raises(DatasetError, match=r"001\.tar is no plain tar archive"):
        load_dataset(pattern)
    (tmp_path / "photos/001.tar").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 shards are not there \('.*001\.tar'\)"):
        load_dataset(pattern)
    with pytest.raises(InputError, match="compressed archive; unpack it"):
        load_dataset("photos.tar.gz")
    with pytest.raises(DatasetError, match=r"'\.\./x\.png' leads out of its root"):
        load_dataset(write_tar(tmp_path / "evil.tar", {"../x.png": b"", "a/b.png": b""}))


def write_parquet(path: Path, columns: dict[str, Any], about: dict[str, Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if about:
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, path, row_group_size=3)
    return path


def structs(rows: range) -> list[dict[str, Any]]:
    return [{"bytes": png(row), "path": f"{row}.png"} for row in rows]


def test_parquet_as_the_hub_writes_it(tiny: Encoder, tmp_path: Path) -> None:
    about = {"info": {"features": {"label": {"names": ["ash", "birch"]}}}}
    for split, rows in (("train", range(10)), ("test", range(10, 16))):
        columns = {
            "image": structs(rows),
            "label": [row % 2 for row in rows],
            "note": ["x"] * len(rows),
        }
        write_parquet(tmp_path / f"trees/{split}-00000-of-00001.parquet", columns, about)
    dataset = load_dataset(tmp_path / "trees")
    assert dataset.class_names == ("ash", "birch")
    assert sizes(dataset) == {"train": 10, "test": 6}
    assert dataset.notes == ("left out: columns that are not used (2: 2 note)",)
    path = tmp_path / "cache/trees/tiny.local.h5"
    assert run(dataset, tiny, path).images == 16
    folder = tmp_path / "plain"
    for row in range(16):
        where = folder / ("train" if row < 10 else "test") / ("birch" if row % 2 else "ash")
        where.mkdir(parents=True, exist_ok=True)
        draw_image(row).save(where / f"{row:02d}.png")
    run(load_dataset(folder), tiny, tmp_path / "cache/plain/tiny.local.h5")
    plain = FeatureCache.open(tmp_path / "cache/plain/tiny.local.h5")
    features = [cache.read("test").features for cache in (FeatureCache.open(path), plain)]
    assert np.allclose(*(np.sort(array, axis=0) for array in features), atol=1e-4)
    assert run(load_dataset(tmp_path / "trees"), tiny, path).was_there


def test_parquet_of_bytes_and_of_paths(tmp_path: Path) -> None:
    columns = {
        "IMG": [png(row) for row in range(8)] + [None],
        "Class": ["ash", "birch"] * 4 + ["ash"],
        "split": ["train"] * 4 + ["test"] * 4 + ["test"],
    }
    dataset = load_dataset(write_parquet(tmp_path / "photos.parquet", columns))
    assert sizes(dataset) == {"train": 4, "test": 4}
    assert dataset.notes == (
        "left out: rows without an image or without a label (1: photos.parquet)",
    )
    for row in range(4):
        draw_image(row).save(tmp_path / f"{row}.png")
    paths = {"path": [f"{row}.png" for row in range(4)], "label": ["a", "b"] * 2}
    table = load_dataset(write_parquet(tmp_path / "paths.parquet", paths))
    assert sum(sizes(table).values()) == 4
    assert table.root == tmp_path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": structs(range(2)), "caption": [1.0, 2.0]},
            r"one column of labels is needed.*'image \(struct",
        ),
        (
            {"a": [b"", b""], "b": [b"", b""], "label": [0, 1]},
            r"column of images.*'a \(binary\)', 'b \(binary\)', 'label",
        ),
    ],
)
def test_parquet_without_a_column(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(write_parquet(tmp_path / "x.parquet", columns))


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"x\.parquet is no readable Parquet file .*; fetch it"):
        load_dataset(tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"no such file: '.*y\.parquet'"):
        load_dataset(tmp_path / "y.parquet")


class Image:
    """As `datasets.Image`."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    """As `datasets.ClassLabel`."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Value:
    """As `datasets.Value`."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class Rows:
    """As `datasets.Dataset`, as far as cafe uses it."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self._columns, self.features = columns, features
        self._fingerprint = "1"

    def cast_column(self, name: str, feature: Image) -> Rows:
        assert not feature.decode
        return Rows(self._columns, {**self.features, name: feature})

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: column[key] for name, column in self._columns.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Make the library `datasets` give this; returns what it is asked for."""

    def give(content: Any) -> list[Any]:
        asked: list[Any] = []

        def load(*words: Any) -> Any:
            asked.append(words)
            if isinstance(content, Exception):
                raise content
            return content

        library = types.SimpleNamespace(load_dataset=load, Image=Image)
        monkeypatch.setitem(sys.modules, "datasets", library)  # type: ignore[arg-type]
        return asked

    return give


def rows(numbers: range) -> Rows:
    columns = {
        "image": structs(numbers),
        "labels": [number % 2 for number in numbers],
        "n": [*numbers],
    }
    features = {
        "image": Image(),
        "labels": ClassLabel(["bean_rust", "healthy"]),
        "n": Value("int64"),
    }
    return Rows(columns, features)


def test_a_dataset_of_the_hub(hub: Hub, tiny: Encoder, tmp_path: Path) -> None:
    asked = hub({"train": rows(range(10)), "validation": rows(range(4)), "extra": rows(range(2))})
    dataset = load_dataset("hf:AI-Lab/beans:small")
    assert asked == [("AI-Lab/beans", "small")]
    assert sizes(dataset) == {"train": 10, "val": 4}
    assert dataset.class_names == ("bean rust", "healthy")
    assert dataset.notes == ("left out: splits that are none of train, val and test (1: extra)",)
    path = tmp_path / "beans.h5"
    assert run(dataset, tiny, path).images == 14
    assert run(load_dataset("hf:AI-Lab/beans:small"), tiny, path).was_there


def test_a_hub_dataset_of_one_split_gets_one_of_cafe(hub: Hub) -> None:
    hub({"train": rows(range(20))})
    dataset = load_dataset("hf:beans")
    assert set(dataset.splits) == {"train", "val", "test"}
    assert "cafe's split" in dataset.source


def test_a_hub_dataset_that_cannot_be_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    no_image = Rows({"text": ["x"]}, {"text": Value("string"), "label": ClassLabel(["a", "b"])})
    hub({"train": no_image})
    with pytest.raises(
        DatasetError,
        match=r"images is needed.*'text \(string\)', 'label \(ClassLabel\)'",
    ):
        load_dataset("hf:imdb")
    hub({"train": Rows({}, {"image": Image(), "boxes": Value("float32")})})
    with pytest.raises(
        DatasetError, match=r"labels is needed.*'image \(Image\)', 'boxes \(float32\)'"
    ):
        load_dataset("hf:coco")
    hub(ValueError("Config name is missing.\nPick one: a, b"))
    with pytest.raises(DatasetError, match=r"cannot load 'x' from the Hub \(Config name is mis"):
        load_dataset("hf:x")
    with pytest.raises(InputError, match="write hf:NAME or hf:NAME:CONFIG"):
        load_dataset("hf:")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'cafe-clip\[hub\]'"):
        load_dataset("hf:x")
