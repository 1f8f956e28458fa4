"""The official splits, each written in the format in which it is published."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cafe.datasets import Dataset, load_dataset
from cafe.datasets.catalog import BY_NAME
from cafe.errors import DatasetError


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"image")
    return root


def lines(path: Path, *text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")


Shrink = Callable[[str, int], None]


@pytest.fixture
def shrink(monkeypatch: pytest.MonkeyPatch) -> Shrink:
    """Make a row of the catalog expect fewer classes."""

    def apply(name: str, classes: int) -> None:
        row = dataclasses.replace(BY_NAME[name], classes=classes)
        monkeypatch.setitem(BY_NAME, name, row)

    return apply


def found(dataset: Dataset) -> dict[str, list[tuple[str, str]]]:
    return {
        split: [(item.id, dataset.class_names[item.label]) for item in items]
        for split, items in dataset.splits.items()
    }


def test_dtd_official(tmp_path: Path, shrink: Shrink) -> None:
    shrink("dtd", 2)
    for split, number in (("train", 1), ("val", 2), ("test", 3)):
        paths = [f"{c}/{c}_{number}.jpg" for c in ("banded", "dotted")]
        plant(tmp_path / "dtd/dtd/images", *paths)
        lines(tmp_path / f"dtd/dtd/labels/{split}1.txt", *paths)
    dataset = load_dataset("dtd", data_root=tmp_path)  # torchvision's layout
    assert found(dataset)["val"] == [
        ("banded/banded_2.jpg", "banded"),
        ("dotted/dotted_2.jpg", "dotted"),
    ]
    assert dataset.source.startswith("the official split (labels/train1.txt")


def test_food_official_holds_a_val_out(tmp_path: Path, shrink: Shrink) -> None:
    shrink("food101", 2)
    train = [f"{c}/{i}" for c in ("apple_pie", "ramen") for i in range(10)]
    plant(tmp_path / "food-101/images", *(f"{p}.jpg" for p in [*train, "ramen/99"]))
    lines(tmp_path / "food-101/meta/train.txt", *train)
    lines(tmp_path / "food-101/meta/test.txt", "ramen/99")
    dataset = load_dataset("food101", data_root=tmp_path)
    assert {s: len(items) for s, items in dataset.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 1,
    }
    assert dataset.class_names == ("apple pie", "ramen")
    assert "val is 20 % of each class of train" in dataset.source


def test_pets_official(tmp_path: Path, shrink: Shrink) -> None:
    shrink("oxford_pets", 2)
    names = ["Abyssinian_1", "american_bulldog_10"]
    plant(tmp_path / "oxford-iiit-pet/images", *(f"{n}.jpg" for n in names))
    lines(tmp_path / "oxford-iiit-pet/annotations/trainval.txt", *(f"{n} 1 1 1" for n in names))
    lines(tmp_path / "oxford-iiit-pet/annotations/test.txt")
    dataset = load_dataset("oxford_pets", data_root=tmp_path)
    assert dataset.class_names == ("abyssinian", "american bulldog")


def test_aircraft_official(tmp_path: Path, shrink: Shrink) -> None:
    shrink("fgvc_aircraft", 2)
    for split, number in (("train", "001"), ("val", "002"), ("test", "003")):
        plant(tmp_path / "fgvc_aircraft/images", f"1{number}.jpg", f"2{number}.jpg")
        text = [f"1{number} 707-320", f"2{number} F/A-18 Hornet"]
        lines(tmp_path / f"fgvc_aircraft/images_variant_{split}.txt", *text)
    dataset = load_dataset("fgvc_aircraft", data_root=tmp_path)
    assert dataset.class_names == ("707-320", "F/A-18 Hornet")
    assert found(dataset)["test"][0] == ("1003.jpg", "707-320")


def test_sun_official_and_by_folder(tmp_path: Path, shrink: Shrink) -> None:
    shrink("sun397", 2)
    paths = ["a/apse/indoor/sun_1.jpg", "b/bus_depot/sun_2.jpg"]
    plant(tmp_path / "SUN397", *paths)  # torchvision's layout has no lists
    by_folder = load_dataset("sun397", data_root=tmp_path)
    assert by_folder.class_names == ("indoor apse", "bus depot")
    assert "cafe's split" in by_folder.source
    lines(tmp_path / "sun397/Training_01.txt", *(f"/{p}" for p in paths))
    lines(tmp_path / "sun397/Testing_01.txt")
    (tmp_path / "SUN397").rename(tmp_path / "sun397" / "SUN397")
    official = load_dataset("sun397", data_root=tmp_path)
    assert official.class_names == by_folder.class_names
    assert "official" in official.source


def test_ucf_official(tmp_path: Path, shrink: Shrink) -> None:
    shrink("ucf101", 2)
    plant(tmp_path / "ucf101/UCF-101-midframes", "Yo_Yo/v_1.jpg", "Tai_Chi/v_2.jpg")
    lines(
        tmp_path / "ucf101/ucfTrainTestlist/trainlist01.txt", "YoYo/v_1.avi 1", "TaiChi/v_2.avi 2"
    )
    lines(tmp_path / "ucf101/ucfTrainTestlist/testlist01.txt")
    dataset = load_dataset("ucf101", data_root=tmp_path)
    assert dataset.class_names == ("Tai Chi", "Yo Yo")


def test_caltech_by_folder(tmp_path: Path, shrink: Shrink) -> None:
    shrink("caltech101", 2)
    folders = ("Faces", "Faces_easy", "BACKGROUND_Google", "car_side")
    plant(tmp_path, *(f"caltech101/101_ObjectCategories/{f}/image_0001.jpg" for f in folders))
    assert load_dataset("caltech101", data_root=tmp_path).class_names == ("face", "car side")


def test_eurosat_by_folder(tmp_path: Path, shrink: Shrink) -> None:
    shrink("eurosat", 2)
    plant(tmp_path, "eurosat/2750/SeaLake/1.jpg", "eurosat/2750/Forest/1.jpg")
    assert load_dataset("eurosat", data_root=tmp_path).class_names == ("Forest", "Sea or Lake")


def flowers(root: Path, labels: list[int]) -> None:
    plant(root / "jpg", *(f"image_{i + 1:05d}.jpg" for i in range(len(labels))))
    savemat(root / "imagelabels.mat", {"labels": np.array([labels])})
    ids = {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 4]]), "tstid": np.array([[5, 6]])}
    savemat(root / "setid.mat", ids)


def test_flowers_official(tmp_path: Path, shrink: Shrink) -> None:
    shrink("oxford_flowers", 2)
    flowers(tmp_path / "flowers-102", [1, 2] * 3)
    dataset = load_dataset("oxford_flowers", data_root=tmp_path)
    assert dataset.class_names == ("pink primrose", "hard-leaved pocket orchid")
    assert found(dataset)["val"][0] == ("image_00003.jpg", "pink primrose")


def test_flowers_whose_files_disagree(tmp_path: Path) -> None:
    flowers(tmp_path / "flowers-102", [1, 2])
    with pytest.raises(DatasetError, match="do not fit together"):
        load_dataset("oxford_flowers", data_root=tmp_path)
    (tmp_path / "flowers-102" / "setid.mat").write_bytes(b"no matlab")
    with pytest.raises(DatasetError, match=r"cannot read .*setid\.mat"):
        load_dataset("oxford_flowers", data_root=tmp_path)


def test_cars_official(tmp_path: Path, shrink: Shrink) -> None:
    shrink("stanford_cars", 2)
    root = tmp_path / "stanford_cars"
    plant(root, *(f"cars_{s}/0000{i}.jpg" for s in ("train", "test") for i in (1, 2)))
    kind = [("fname", object), ("class", object)]
    rows = np.array([[("00001.jpg", 1), ("00002.jpg", 2)]], dtype=kind)
    names = np.array([["Audi S4 Sedan 2012", "BMW M3 2011"]], dtype=object)
    (root / "devkit").mkdir()
    savemat(root / "devkit/cars_meta.mat", {"class_names": names})
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": rows})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": rows})
    dataset = load_dataset("stanford_cars", data_root=tmp_path)
    assert dataset.class_names == ("2012 Audi S4 Sedan", "2011 BMW M3")
    assert found(dataset)["test"][1] == ("cars_test/00002.jpg", "2011 BMW M3")


def test_imagenet(tmp_path: Path, shrink: Shrink) -> None:
    shrink("imagenet", 2)
    root = tmp_path / "imagenet"
    plant(root, *(f"images/{s}/{w}/1.JPEG" for s in ("train", "val") for w in ("n01", "n02")))
    with pytest.raises(DatasetError, match=r"no split .*classnames\.txt"):
        load_dataset("imagenet", data_root=tmp_path)
    lines(root / "classnames.txt", "n01 tench", "n02 great white shark")
    dataset = load_dataset("imagenet", data_root=tmp_path)
    assert dataset.class_names == ("tench", "great white shark")
    assert set(dataset.splits) == {"train", "test"}
    assert found(dataset)["test"][0] == ("val/n01/1.JPEG", "tench")
    assert "the validation images are the test set" in dataset.source
    lines(root / "classnames.txt", "n01 tench")
    with pytest.raises(DatasetError, match="no name for 'n02'"):
        load_dataset("imagenet", data_root=tmp_path)


def test_imagenet_whose_validation_images_are_not_sorted(tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    plant(root, "images/train/n01/1.JPEG", "images/val/1.JPEG")
    lines(root / "classnames.txt", "n01 tench")
    with pytest.raises(DatasetError, match="has no class folders"):
        load_dataset("imagenet", data_root=tmp_path)
    (root / "images/val/1.JPEG").unlink()
    (root / "images/val").rmdir()
    with pytest.raises(DatasetError, match="lacks the folder train or val"):
        load_dataset("imagenet", data_root=tmp_path)


def test_line_that_names_no_image(tmp_path: Path) -> None:
    plant(tmp_path, "food-101/images/a/0.jpg")
    lines(tmp_path / "food-101/meta/train.txt", "a/0", "b")
    lines(tmp_path / "food-101/meta/test.txt")
    with pytest.raises(DatasetError, match=r"train\.txt:2: 'b' does not name an image"):
        load_dataset("food101", data_root=tmp_path)
    lines(tmp_path / "food-101/meta/train.txt", "a/../../0")
    with pytest.raises(DatasetError, match="leads out of its root"):
        load_dataset("food101", data_root=tmp_path)
