"""Folders of images as people have them."""

import os
from collections import Counter
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import cafe
from cafe.datasets import Dataset, load_dataset
from cafe.datasets.dataset import are_unlabelled
from cafe.datasets.image_list import Entry
from cafe.datasets.list_folder import images_below
from cafe.datasets.make_split import assign_splits, hold_out_validation, make_split
from cafe.errors import DatasetError, InputError, MissingFilesError


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"image")
    return root


def ids(dataset: Dataset, split: str) -> list[str]:
    return [item.id for item in dataset.splits.get(split, ())]


def test_only_images_count(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "a/1.JPG",
        "a/2.jpeg",
        "a/.hidden.jpg",
        "a/._3.jpg",
        "a/notes.txt",
        "a/Thumbs.db",
        "a/noextension",
        "a/deeper/4.WebP",
        "b/5.png",
        ".git/6.png",
        "__MACOSX/b/7.png",
        "empty/readme.md",
    )
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("a", "b")
    found = sorted(i.id for items in dataset.splits.values() for i in items)
    assert found == ["a/1.JPG", "a/2.jpeg", "a/deeper/4.WebP", "b/5.png"]


def test_names_in_any_script(tmp_path: Path) -> None:
    plant(tmp_path, "кошка/фото 1.jpg", "犬/写真.png", "dog_ñ/été.jpg", "a'b/50%.png")
    dataset = load_dataset(tmp_path)
    assert set(dataset.class_names) == {"кошка", "犬", "dog ñ", "a'b"}
    assert len(dataset.fingerprint()) == 64


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png")
    try:
        (tmp_path / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"image")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = load_dataset(tmp_path)
    found = {item.id for items in dataset.splits.values() for item in items}
    assert os.fsdecode(b"a/\xff.png") in found
    assert len(dataset.fingerprint()) == 64


def test_class_name_that_is_not_utf8(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png")
    try:
        (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    plant(tmp_path, f"{os.fsdecode(b'caf' + bytes([0xE9]))}/1.png")
    with pytest.raises(DatasetError, match=r"caf\\xe9' cannot be a class name, as it is not UTF-8"):
        load_dataset(tmp_path)


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    plant(tmp_path / "elsewhere", "1.png", "2.png")
    plant(tmp_path / "root", "b/1.png")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "b" / "2.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "root" / "b" / "loop").symlink_to(tmp_path / "root" / "b")
    assert images_below(tmp_path / "root") == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    assert load_dataset(tmp_path / "root").class_names == ("a", "b")


def test_broken_link_is_a_missing_image(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(MissingFilesError, match=r"'a/2\.png'"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, allow_missing=True).missing == ("a/2.png",)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no images; put the images of each class"):
        load_dataset(tmp_path)
    plant(tmp_path, "1.png", "2.png", "labels/x.txt")
    with pytest.raises(DatasetError, match="only 2 images outside of any class folder"):
        load_dataset(tmp_path)


def test_images_without_any_folder_are_a_pool(tmp_path: Path) -> None:
    plant(tmp_path, "1.png", "2.png", "notes.txt")
    pool = load_dataset(tmp_path)
    assert are_unlabelled(pool.class_names)
    assert [item.id for item in pool.splits["train"]] == ["1.png", "2.png"]
    assert [*pool.splits] == ["train"]
    with pytest.raises(InputError, match="no class folders, so there are no classes to name"):
        load_dataset(tmp_path, class_names=["a", "b"])
    with pytest.raises(DatasetError, match="has only images outside of any class folder"):
        cafe.train(tmp_path, model="nano")
    with pytest.raises(DatasetError, match="put the images of each class into a folder"):
        cafe.check(tmp_path, model="nano", cache=tmp_path)


def test_one_class(tmp_path: Path) -> None:
    plant(tmp_path, "cat/1.png")
    with pytest.raises(DatasetError, match="images of one class only, 'cat'"):
        load_dataset(tmp_path)


def test_one_folder_too_high(tmp_path: Path) -> None:
    plant(tmp_path, "images/cat/1.png", "images/dog/1.png")
    with pytest.raises(DatasetError, match=r"may be the classes: try .*images\.$"):
        load_dataset(tmp_path)


def test_two_folders_too_high(tmp_path: Path) -> None:
    plant(tmp_path, "data/images/cat/1.png", "data/images/dog/1.png")
    with pytest.raises(DatasetError, match=r"\('cat', 'dog'\) may be the classes: try .*images\.$"):
        load_dataset(tmp_path)
    plant(tmp_path, "one/images/more/1.png")  # nothing but one folder in the other
    with pytest.raises(DatasetError, match="put the images of each class into a folder"):
        load_dataset(tmp_path / "one")


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    plant(tmp_path, "red_fox/1.png", "red fox/1.png")
    with pytest.raises(DatasetError, match="two classes are called 'red fox'"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(tmp_path: Path, val: str | int) -> None:
    plant(tmp_path, *(f"{s}/{c}/1.png" for s in ("train", val, "test") for c in "ab"))
    dataset = load_dataset(tmp_path)
    assert ids(dataset, "train") == ["train/a/1.png", "train/b/1.png"]
    assert ids(dataset, "val") == [f"{val}/a/1.png", f"{val}/b/1.png"]
    assert ids(dataset, "test") == ["test/a/1.png", "test/b/1.png"]
    assert val in dataset.source


def test_val_is_the_test_set_where_there_is_no_other(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{s}/{c}/1.png" for s in ("train", "val") for c in "ab"))
    dataset = load_dataset(tmp_path)
    assert set(dataset.splits) == {"train", "test"}
    assert ids(dataset, "test") == ["val/a/1.png", "val/b/1.png"]
    assert "'val' is the test set" in dataset.source


def test_train_alone_is_split(tmp_path: Path) -> None:
    plant(tmp_path, *(f"train/{c}/{i}.png" for c in "ab" for i in range(10)))
    dataset = load_dataset(tmp_path)
    assert [len(ids(dataset, s)) for s in ("train", "val", "test")] == [7, 7, 6]
    assert "cafe's split" in dataset.source


def test_class_called_train(tmp_path: Path) -> None:
    plant(tmp_path, "train/1.png", "bus/1.png", "test/1.png")
    assert load_dataset(tmp_path).class_names == ("bus", "test", "train")


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{s}/{c}/1.png" for s in ("train", "val", "valid") for c in "ab"))
    with pytest.raises(DatasetError, match="two folders for one split"):
        load_dataset(tmp_path)


def test_class_spelled_differently_in_test(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/Cat/1.png")
    with pytest.raises(DatasetError, match="1 class has no training image: 'Cat'"):
        load_dataset(tmp_path)


def test_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a/1.png", "b/1.png")

    def refuse(_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match=r"cannot read the folder .*Permission denied"):
        load_dataset(tmp_path)


def test_dealt_sizes() -> None:
    entries = [Entry("", f"{c}/{i}.png", c) for c in "ab" for i in range(2000)]
    counts = Counter((entry.key, entry.split) for entry in make_split(entries))
    for label in "ab":
        sizes = [counts[label, split] for split in ("train", "val", "test")]
        assert np.allclose(sizes, [1000, 400, 600], atol=4 * 23)  # four standard deviations


@pytest.mark.parametrize("n", range(1, 8))
def test_small_classes_have_training_images_and_test_images(n: int) -> None:
    for c in range(300):
        splits = [e.split for e in make_split([Entry("", f"{c}/{i}.png", "a") for i in range(n)])]
        assert "train" in splits
        assert "test" in splits or n == 1


def test_a_split_depends_on_the_image_alone() -> None:
    entries = [Entry("", f"{c}/{i}.png", c) for c in "ab" for i in range(20)]
    there = {e.path: e.split for e in make_split(entries)}
    back = {e.path: e.split for e in make_split(entries[::-1])}
    assert there == back
    for gone in ("a/3.png", "b/7.png", "b/19.png"):
        fewer = {e.path: e.split for e in make_split([e for e in entries if e.path != gone])}
        assert fewer.items() <= there.items()


def test_a_split_is_for_ever() -> None:
    entries = [Entry("", f"a/{i}.png", "a") for i in range(10)]
    assert "".join(e.split[1] for e in make_split(entries)) == "rareeaerra"


def test_images_that_are_known_stay() -> None:
    paths = [(f"a/{i}.png", "a") for i in range(4)]
    for known in ({"a/0.png": "val"}, {"a/0.png": "test", "a/1.png": "val"}):
        splits = dict(zip([path for path, _ in paths], assign_splits(paths, known), strict=True))
        assert known.items() <= splits.items()
        assert "train" in splits.values()
    alone = {path: "val" for path, _ in paths}  # the training images of a class are gone
    assert sorted(assign_splits(paths, alone)) == ["train", "val", "val", "val"]
    assert assign_splits(paths[:2], {"a/0.png": "train"}) == ["train", "test"]


def test_validation_is_held_out_of_train_alone() -> None:
    entries = [Entry("train", f"a/{i}", "a") for i in range(10)] + [Entry("test", "a/t", "a")]
    held = hold_out_validation(entries)
    assert Counter(e.split for e in held) == {"train": 8, "val": 2, "test": 1}
    assert [e.path for e in held] == [e.path for e in entries]
