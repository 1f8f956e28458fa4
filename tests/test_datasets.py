"""What every dataset keeps to, and how `load_dataset` understands what it is given."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import cafe.datasets as public
from cafe.datasets import (
    Dataset,
    Item,
    load_dataset,
)
from cafe.datasets.dataset import SPLITS
from cafe.datasets.thumbnails import thumbnails_from_folder


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 3), (10, 200, 30)).save(buffer, "png")
    return buffer.getvalue()


PNG = png()


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PNG)
    return root


def folder_dataset(tmp_path: Path) -> Dataset:
    plant(tmp_path / "f", *(f"{c}/{i}.png" for c in ("a", "b") for i in range(10)))
    return load_dataset(tmp_path / "f")


def divided_dataset(tmp_path: Path) -> Dataset:
    plant(tmp_path / "d", *(f"{s}/{c}/0.png" for s in SPLITS for c in ("a", "b")))
    return load_dataset(tmp_path / "d")


def manifest_dataset(tmp_path: Path) -> Dataset:
    plant(tmp_path, "0.png", "1.png", "2.png", "3.png")
    text = "path,label,split\n0.png,a,train\n1.png,b,train\n2.png,a,test\n3.png,b,test\n"
    (tmp_path / "m.csv").write_text(text)
    return load_dataset(tmp_path / "m.csv")


def split_file_dataset(tmp_path: Path) -> Dataset:
    plant(tmp_path / "s", "img/0.png", "img/1.png")
    split = {"train": [["0.png", 0, "a"], ["1.png", 1, "b"]], "val": []}
    (tmp_path / "s" / "split_x.json").write_text(json.dumps(split))
    return load_dataset(tmp_path / "s")


def digits_dataset(tmp_path: Path) -> Dataset:
    return load_dataset("digits")


Make = Callable[[Path], Dataset]

KINDS: list[Make] = [
    folder_dataset,
    divided_dataset,
    manifest_dataset,
    split_file_dataset,
    digits_dataset,
]


@pytest.mark.parametrize("make", KINDS)
class TestEveryDataset:
    def test_labels_index_class_names(self, make: Make, tmp_path: Path) -> None:
        dataset = make(tmp_path)
        labels = {item.label for items in dataset.splits.values() for item in items}
        assert labels == set(range(len(dataset.class_names)))

    def test_splits_are_known_and_disjoint(self, make: Make, tmp_path: Path) -> None:
        dataset = make(tmp_path)
        assert set(dataset.splits) <= set(SPLITS)
        ids = [item.id for items in dataset.splits.values() for item in items]
        assert len(set(ids)) == len(ids)

    def test_every_image_opens(self, make: Make, tmp_path: Path) -> None:
        dataset = make(tmp_path)
        for items in dataset.splits.values():
            with dataset.open_image(items[0]) as image:
                assert image.size in [(2, 3), (8, 8)]

    def test_loads_the_same_again(self, make: Make, tmp_path: Path) -> None:
        first, again = make(tmp_path), make(tmp_path)
        assert first.fingerprint() == again.fingerprint()
        assert dict(first.splits) == dict(again.splits)

    def test_says_where_its_split_comes_from(self, make: Make, tmp_path: Path) -> None:
        dataset = make(tmp_path)
        assert dataset.source
        assert dataset.missing == ()
        assert all(t.count("{}") == 1 for t in dataset.templates)


def test_fingerprint_sees_name_label_split_and_size() -> None:
    base = Dataset("x", ("a", "b"), {"train": (Item("p", 0, 1),)}, ("{}",), None, "s")
    others = [
        dataclasses.replace(base, class_names=("a", "c")),
        dataclasses.replace(base, splits={"train": (Item("q", 0, 1),)}),
        dataclasses.replace(base, splits={"train": (Item("p", 1, 1),)}),
        dataclasses.replace(base, splits={"train": (Item("p", 0, 2),)}),
        dataclasses.replace(base, splits={"test": (Item("p", 0, 1),)}),
    ]
    assert len({d.fingerprint() for d in [base, *others]}) == 6
    assert dataclasses.replace(base, templates=("x {}",)).fingerprint() == base.fingerprint()


def test_fingerprint_of_the_digits_is_for_ever() -> None:
    assert load_dataset("digits").fingerprint().startswith("59ce357c1cb92aa5")


def test_digits_sizes() -> None:
    digits = load_dataset("digits")
    assert {name: len(items) for name, items in digits.splits.items()} == {
        "train": 600,
        "val": 200,
        "test": 997,
    }


def test_nothing_is_written(tmp_path: Path) -> None:
    folder_dataset(tmp_path)
    before = sorted(os.walk(tmp_path))
    load_dataset(tmp_path / "f")
    assert sorted(os.walk(tmp_path)) == before


def test_all_is_exact() -> None:
    offered = {name for name, value in vars(public).items() if callable(value)} | {"SPLITS"}
    assert set(public.__all__) == {*offered, "DATASET_NAMES"}


def test_import_is_light() -> None:
    code = (
        "import sys, cafe.datasets; heavy = {'torch', 'torchvision', 'sklearn', 'PIL', 'numpy', "
        "'scipy'}; sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_images_that_cannot_be_read_have_no_thumbnail(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    ids = {3: "good.png", 4: "broken.png", 5: "absent.png"}
    uris = thumbnails_from_folder(tmp_path, ids)
    assert list(uris) == [3]
    assert uris[3].startswith("data:image/jpeg;base64,")
