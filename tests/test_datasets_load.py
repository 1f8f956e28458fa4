"""How `load_dataset` understands what it is given, and what it says where it cannot."""

import json
from pathlib import Path

import pytest

from cafe.datasets import DATASET_NAMES, list_datasets, load_dataset, read_class_names
from cafe.errors import DatasetError, InputError, MissingFilesError, UnknownNameError


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"image")
    return root


def test_digits_refuse_a_split_file() -> None:
    with pytest.raises(InputError, match="digits has no image files"):
        load_dataset("digits", split_file=Path("x.json"))


@pytest.mark.parametrize(
    ("name", "near"), [("eurosatt", "eurosat"), ("flowers", "oxford_flowers"), ("aircraft", "fgvc")]
)
def test_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown dataset '{name}'; did you mean.*{near}"):
        load_dataset(name)


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "a\nb", "nothing like it"])
def test_odd_names_are_unknown_in_one_line(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~nobody/x", "m.csv", "m.jsonl"])
def test_path_that_is_not_there(name: str) -> None:
    with pytest.raises(DatasetError, match="no such folder or manifest"):
        load_dataset(name)


def test_file_that_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.xlsx").write_text("")
    with pytest.raises(InputError, match="neither a folder nor a manifest"):
        load_dataset(tmp_path / "m.xlsx")
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(InputError, match="split_file="):
        load_dataset(tmp_path / "m.json")


def test_known_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "digits", "a/0.png", "b/0.png")
    assert load_dataset("digits").root is None
    assert load_dataset("./digits").root == Path("digits")


def test_spelling_of_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_dataset("Digits").name == "digits"
    plant(tmp_path / "Digits", "a/0.png", "b/0.png")
    assert load_dataset("Digits").name == "Digits"  # a folder called so wins


def test_folder_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only these can: caltech101"):
        load_dataset(tmp_path, download=True)


def test_templates_are_checked_and_kept(tmp_path: Path) -> None:
    plant(tmp_path, "a/0.png", "b/0.png")
    assert load_dataset(tmp_path, templates=("a {}",)).templates == ("a {}",)
    assert load_dataset(tmp_path).templates == ("a photo of a {}.",)
    with pytest.raises(InputError, match="exactly once"):
        load_dataset(tmp_path, templates=("a",))


def test_class_names_replace_and_rename(tmp_path: Path) -> None:
    plant(tmp_path, "a_b/0.png", "c/0.png")
    assert load_dataset(tmp_path).class_names == ("a b", "c")
    assert load_dataset(tmp_path, class_names=["x", "y_z"]).class_names == ("x", "y z")
    assert load_dataset(tmp_path, class_names={"a_b": "x"}).class_names == ("x", "c")
    assert load_dataset("digits", class_names={"two": "pair"}).class_names[2] == "pair"
    with pytest.raises(InputError, match="3 class names are given"):
        load_dataset(tmp_path, class_names=["x", "y", "z"])
    with pytest.raises(InputError, match="no class called 'q'"):
        load_dataset(tmp_path, class_names={"q": "x"})
    with pytest.raises(InputError, match="cannot be a class name"):
        load_dataset(tmp_path, class_names=["x", " "])


def test_names_in_order_of_folders_that_have_two_orders(tmp_path: Path) -> None:
    names = ("class 1", "class 2", "class 10")
    plant(tmp_path, *(f"{name}/1.png" for name in names))
    with pytest.raises(InputError, match=r"'class 1', 'class 10', 'class 2' can be .* in two ways"):
        load_dataset(tmp_path, class_names=["one", "two", "ten"])
    renamed = dict(zip(names, ("one", "two", "ten"), strict=True))
    assert load_dataset(tmp_path, class_names=renamed).class_names == ("one", "ten", "two")


def test_class_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("köttur\n hund \n\n", encoding="utf-8")
    assert read_class_names(tmp_path / "n.txt") == ("köttur", "hund")
    (tmp_path / "n.json").write_text('{"a": "b"}')
    assert read_class_names(tmp_path / "n.json") == {"a": "b"}
    (tmp_path / "n.json").write_text('["a", "b"]')
    assert read_class_names(tmp_path / "n.json") == ("a", "b")
    for bad in ("3", "[1]", '{"a": 1}'):
        (tmp_path / "n.json").write_text(bad)
        with pytest.raises(DatasetError, match="expected a list of names"):
            read_class_names(tmp_path / "n.json")


def test_missing_images_are_counted_named_and_allowed(tmp_path: Path) -> None:
    plant(tmp_path, "0.png", "1.png", "3.png")
    rows = [["0.png", 0, "a"], ["1.png", 1, "b"], ["2.png", 2, "c"]]
    split = {"train": rows, "test": [["3.png", 0, "a"]]}
    (tmp_path / "split_x.json").write_text(json.dumps(split))
    with pytest.raises(MissingFilesError, match=r"1 of the 4 images .*'2.png'.*allow_missing=True"):
        load_dataset(tmp_path)
    dataset = load_dataset(tmp_path, allow_missing=True)
    assert dataset.missing == ("2.png",)
    assert dataset.class_names == ("a", "b")
    assert dataset.source.endswith("1 missing image left out, 2 of 3 classes remain")


def test_labels_close_up_where_a_class_is_missing(tmp_path: Path) -> None:
    plant(tmp_path, "0.png", "2.png")
    rows = [["0.png", 0, "a"], ["1.png", 1, "b"], ["2.png", 2, "c"]]
    (tmp_path / "split_x.json").write_text(json.dumps({"train": rows}))
    dataset = load_dataset(tmp_path, allow_missing=True)
    assert [(i.id, dataset.class_names[i.label]) for i in dataset.splits["train"]] == [
        ("0.png", "a"),
        ("2.png", "c"),
    ]


def test_all_images_missing_is_an_error_even_if_allowed(tmp_path: Path) -> None:
    (tmp_path / "split_x.json").write_text('{"train": [["a/0.png", 0, "a"], ["1.png", 1, "b"]]}')
    with pytest.raises(MissingFilesError, match="2 of the 2 images") as caught:
        load_dataset(tmp_path, allow_missing=True)
    assert "allow_missing" not in str(caught.value)


def test_folder_in_place_of_an_image_is_missing(tmp_path: Path) -> None:
    plant(tmp_path, "0.png", "1.png/x.txt")
    (tmp_path / "split_x.json").write_text('{"train": [["0.png", 0, "a"], ["1.png", 1, "b"]]}')
    with pytest.raises(MissingFilesError, match=r"'1\.png'"):
        load_dataset(tmp_path)


def test_several_split_files_need_a_choice(tmp_path: Path) -> None:
    plant(tmp_path, "0.png", "1.png")
    for name in ("split_a.json", "split_b.json"):
        (tmp_path / name).write_text('{"train": [["0.png", 0, "a"], ["1.png", 1, "b"]]}')
    with pytest.raises(InputError, match=r"2 split files .*split_file="):
        load_dataset(tmp_path)
    dataset = load_dataset(tmp_path, split_file=tmp_path / "split_a.json")
    assert dataset.source == "split file split_a.json"


def test_manifest_serves_as_split_file(tmp_path: Path) -> None:
    plant(tmp_path / "images", "0.png", "1.png")
    (tmp_path / "m.csv").write_text("path,label,split\n0.png,a,train\n1.png,b,train\n")
    dataset = load_dataset(tmp_path / "images", split_file=tmp_path / "m.csv")
    assert dataset.root == tmp_path / "images"
    assert dataset.source == "manifest m.csv"
    with pytest.raises(InputError, match="both give a split"):
        load_dataset(tmp_path / "m.csv", split_file=tmp_path / "m.csv")


def test_list_names_every_dataset(tmp_path: Path) -> None:
    infos = list_datasets(tmp_path)
    assert tuple(info.name for info in infos) == DATASET_NAMES
    assert [info.name for info in infos if info.present] == ["digits"]
    assert all(info.advice for info in infos if not info.present)
    plant(tmp_path, "eurosat/2750/River/0.png")
    found = {info.name: info for info in list_datasets(tmp_path)}["eurosat"]
    assert (found.present, found.split) == (True, "cafe")
    assert found.images == tmp_path / "eurosat" / "2750"


def test_data_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAFE_DATA", str(tmp_path))
    assert tmp_path in list_datasets()[-1].looked_in[0].parents
    monkeypatch.delenv("CAFE_DATA")
    assert list_datasets()[-1].looked_in[0].parts[0] == "data"
