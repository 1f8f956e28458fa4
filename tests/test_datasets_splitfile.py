"""CoOp's split files: the six published ones, and broken ones."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe.datasets import load_dataset
from cafe.datasets.catalog import BY_NAME
from cafe.datasets.coop_split import read_coop_split
from cafe.errors import CafeError, DatasetError

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "splits"
COUNTS = {
    "caltech101": (100, 4_128, 1_649, 2_465),
    "dtd": (47, 2_820, 1_128, 1_692),
    "eurosat": (10, 13_500, 5_400, 8_100),
    "oxford_flowers": (102, 4_093, 1_633, 2_463),
    "oxford_pets": (37, 2_944, 736, 3_669),
    "ucf101": (101, 7_639, 1_898, 3_783),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_split(name: str) -> None:
    path = PUBLISHED / str(BY_NAME[name].split_file)
    if not path.is_file():
        pytest.skip(f"CoOp's split file of {name} is not there: {path.name}")
    listing = read_coop_split(path)
    sizes = tuple(len(listing.rows[split]) for split in ("train", "val", "test"))
    assert (len(listing.class_names), *sizes) == COUNTS[name]
    assert not any("_" in class_name for class_name in listing.class_names)
    row = BY_NAME[name]
    assert (row.classes, row.sizes) == (len(listing.class_names), sizes)


def test_sizes_in_the_catalog_add_up_to_those_of_coop() -> None:
    assert {row.name: row.sizes for row in BY_NAME.values() if row.name not in COUNTS} == {
        "imagenet": (1_281_167, 0, 50_000),
        "stanford_cars": (6_509, 1_635, 8_041),
        "food101": (50_500, 20_200, 30_300),
        "fgvc_aircraft": (3_334, 3_333, 3_333),
        "sun397": (15_880, 3_970, 19_850),
    }


def write(folder: Path, content: object) -> Path:
    path = folder / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_order_of_the_file_is_kept(tmp_path: Path) -> None:
    rows = [["b/1.png", 1, "dog_breed"], ["a/./1.png", 0, "cat"]]
    listing = read_coop_split(write(tmp_path, {"train": rows}))
    assert listing.rows == {"train": [("b/1.png", 1), ("a/1.png", 0)]}
    assert listing.class_names == ("cat", "dog breed")


def test_two_labels_may_share_a_name(tmp_path: Path) -> None:
    rows = [["1.png", 0, "crane"], ["2.png", 1, "crane"]]
    assert read_coop_split(write(tmp_path, {"train": rows})).class_names == ("crane", "crane")


def test_class_names_from_the_caller(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": [["1.png", 0], ["2.png", 1]]})
    assert read_coop_split(path, ["a", "b"]).class_names == ("a", "b")
    with pytest.raises(DatasetError, match="2 labels have no class name"):
        read_coop_split(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not usable JSON"),
        ("[1]", "is not a split file"),
        ({}, "is not a split file"),
        ({"train": []}, "names no images"),
        ({"train": {}}, "split 'train' is {}, not a list"),
        ({"extra": []}, "splits called 'extra'; known: train, val, test"),
        ({"val": [], "valid": []}, "names one split twice"),
        ({"train": [1]}, "train[0]: 1 is not [path, label, class name]"),
        ({"train": [["1.png"]]}, "is not [path, label"),
        ({"train": [["1.png", "0", "a"]]}, "label '0' is not a whole number"),
        ({"train": [["1.png", True, "a"]]}, "label True is not a whole number"),
        ({"train": [["1.png", -1, "a"]]}, "label -1 is out of range"),
        ({"train": [["1.png", 0, None]]}, "class name None is not a text"),
        ({"train": [["1.png", 0, " "]]}, "class 0 has no usable name"),
        ({"train": [["1.png", 0, "a"], ["2.png", 0, "b"]]}, "class 0 is called 'a' and 'b'"),
        ({"train": [["1.png", 0, "a"], ["2.png", 10**30, "b"]]}, "(the first: 1)"),
        ({"train": [["/1.png", 0, "a"]]}, "'/1.png' is absolute"),
        ({"train": [["\\\\server\\1.png", 0, "a"]]}, "is absolute"),
        ({"train": [["c:/1.png", 0, "a"]]}, "is absolute"),
        ({"train": [["a/../../1.png", 0, "a"]]}, "leads out of its root"),
        ({"train": [["", 0, "a"]]}, "is not the path of an image"),
        ({"train": [["a\0b", 0, "a"]]}, "cannot be a file's name"),
        (
            {"train": [["1.png", 0, "a"], ["2.png", 1, "b"]], "test": [["1.png", 0, "a"]]},
            "1 image is named twice: '1.png (train, test)'",
        ),
        (
            {"train": [["1.png", 0, "a"]], "test": [["2.png", 1, "b"]]},
            "1 class has no training image: 'b'",
        ),
    ],
)
def test_bad_split_file(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CafeError) as caught:
        read_coop_split(write(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_split_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot read .*No such file"):
        load_dataset(tmp_path, split_file=tmp_path / "split.json")


def one_line(error: CafeError) -> None:
    assert len(str(error).splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
ROW = st.one_of(
    st.tuples(
        st.sampled_from(["a.png", "b/c.png", "../d", "/e", "f\\g", "é.png"]),
        st.integers(-1, 3),
        st.sampled_from(["a", "b", "c_d", ""]),
    ),
    JSON,
)
CONTENT = st.one_of(
    st.dictionaries(st.sampled_from(["train", "val", "Test", "x"]), st.lists(ROW, max_size=4)),
    JSON,
)


@settings(max_examples=250, deadline=None)
@given(CONTENT)
def test_any_json_gives_a_dataset_or_an_error(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), content)
        for name in ("a.png", "é.png"):
            (Path(folder) / name).touch()
        try:
            dataset = load_dataset(folder, split_file=path, allow_missing=True)
        except CafeError as error:
            one_line(error)
        else:
            labels = {item.label for items in dataset.splits.values() for item in items}
            assert labels == set(range(len(dataset.class_names)))
