"""The eleven by name: CoOp's layout, and what to do where they are absent."""

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cafe.datasets import catalog, list_datasets, load, load_dataset, prompts
from cafe.datasets.catalog import BY_NAME, KNOWN, KnownDataset
from cafe.errors import DatasetError, InputError, MissingFilesError

SHARED = Path(__file__).parents[2] / "shared" / "data"
PAPER = "dtd eurosat caltech101 oxford_flowers oxford_pets food101 fgvc_aircraft stanford_cars"
PAPER += " sun397 ucf101 imagenet"


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"image")
    return root


Shrink = Callable[[str, int], None]


@pytest.fixture
def shrink(monkeypatch: pytest.MonkeyPatch) -> Shrink:
    """Make a row of the catalog expect fewer classes."""

    def apply(name: str, classes: int) -> None:
        row = dataclasses.replace(BY_NAME[name], classes=classes)
        monkeypatch.setitem(BY_NAME, name, row)

    return apply


def test_the_catalog_holds_the_eleven_of_the_paper() -> None:
    assert sorted(row.name for row in KNOWN) == sorted(PAPER.split())
    assert load.BY_NAME is catalog.BY_NAME


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row.name)
def test_every_row_is_complete(row: KnownDataset) -> None:
    assert prompts.templates_for(row.name)
    assert row.split_file or row.official
    assert row.class_folders or row.official
    assert row.url.startswith("https://")
    assert row.classes > 1
    assert sum(row.sizes) > row.classes


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row.name)
def test_absent_dataset_says_where_and_how(row: KnownDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(row.name, data_root=tmp_path)
    message = str(caught.value)
    assert f"{row.name} is not in {tmp_path / row.folders[0] / row.image_folders[0]}" in message
    assert row.url in message
    assert ("download=True" in message) == (row.torchvision is not None)


@pytest.mark.parametrize("where", ["folder", "root", "elsewhere"])
@pytest.mark.parametrize("row", [r for r in KNOWN if r.split_file], ids=lambda row: row.name)
def test_split_of_coop(row: KnownDataset, where: str, tmp_path: Path, shrink: Shrink) -> None:
    shrink(row.name, 2)
    image = f"{row.folders[0]}/{row.image_folders[0]}/x"
    plant(tmp_path, f"{image}/0.jpg", f"{image}/1.jpg")
    split = {"train": [["x/0.jpg", 0, "a_b"], ["x/1.jpg", 1, "c"]], "val": [], "test": []}
    folder = {"folder": tmp_path / row.folders[0], "root": tmp_path, "elsewhere": tmp_path / "o"}
    folder[where].mkdir(exist_ok=True)
    path = folder[where] / str(row.split_file)
    path.write_text(json.dumps(split))
    chosen = path if where == "elsewhere" else None
    dataset = load_dataset(row.name, data_root=tmp_path, split_file=chosen)
    assert dataset.name == row.name
    assert dataset.class_names == ("a b", "c")
    assert dataset.root == tmp_path / row.folders[0] / row.image_folders[0]
    assert dataset.templates == prompts.templates_for(row.name)
    assert path.name in dataset.source
    assert ("not with the published numbers" in dataset.source) == (where != "elsewhere")


def test_too_few_classes_are_not_the_dataset(tmp_path: Path) -> None:
    plant(tmp_path, "eurosat/2750/River/0.jpg", "eurosat/2750/Forest/0.jpg")
    with pytest.raises(DatasetError, match="eurosat has 10 classes but 2 were found"):
        load_dataset("eurosat", data_root=tmp_path)
    dataset = load_dataset("eurosat", data_root=tmp_path, allow_missing=True)
    assert dataset.source.endswith("; 2 of 10 classes found")


def test_what_lies_beside_the_classes_is_said(tmp_path: Path) -> None:
    plant(tmp_path, *(f"eurosat/2750/{name}/0.jpg" for name in ("River", "Forest")))
    plant(tmp_path, "eurosat/2750/loose.jpg", "eurosat/2750/River/._0.jpg")
    (tmp_path / "eurosat/2750/River/list.txt").write_text("a list")
    dataset = load_dataset("eurosat", data_root=tmp_path, allow_missing=True)
    assert dataset.notes == (
        "left out: files of no image format that cafe reads (1: .txt)",
        "left out: hidden files, and those of systems and network disks (1: ._0.jpg)",
        "left out: images outside of any class folder (1)",
    )


def test_missing_files_of_a_split(tmp_path: Path, shrink: Shrink) -> None:
    shrink("dtd", 2)
    plant(tmp_path, "dtd/images/a/0.jpg", "dtd/images/b/0.jpg")
    rows = [[f"{c}/{i}.jpg", n, c] for n, c in enumerate("ab") for i in range(1000)]
    (tmp_path / "split_zhou_DescribableTextures.json").write_text(json.dumps({"train": rows}))
    with pytest.raises(MissingFilesError) as caught:
        load_dataset("dtd", data_root=tmp_path)
    assert "1,998 of the 2,000 images" in str(caught.value)
    assert "'a/1.jpg', 'a/2.jpg', 'a/3.jpg', ..." in str(caught.value)
    dataset = load_dataset("dtd", data_root=tmp_path, allow_missing=True)
    assert len(dataset.missing) == 1998


def test_part_of_dtd(tmp_path: Path) -> None:
    archive, split = (
        SHARED / "images" / "dtd-10.zip",
        SHARED / "splits" / str(BY_NAME["dtd"].split_file),
    )
    if not (archive.is_file() and split.is_file()):
        pytest.skip(f"{archive.name} or {split.name} is not there")
    with zipfile.ZipFile(archive) as images:
        images.extractall(tmp_path)
    shutil.copy(split, tmp_path)
    with pytest.raises(MissingFilesError, match=r"5,480 of the 5,640 images"):
        load_dataset("dtd", data_root=tmp_path)
    dataset = load_dataset("dtd", data_root=tmp_path, allow_missing=True)
    assert {s: len(items) for s, items in dataset.splits.items()} == {
        "train": 80,
        "val": 30,
        "test": 50,
    }
    with dataset.open_image(dataset.splits["test"][0]) as image:
        assert image.convert("RGB").size > (100, 100)


def test_images_without_any_split(tmp_path: Path) -> None:
    plant(tmp_path, "oxford_pets/images/Abyssinian_1.jpg")
    with pytest.raises(DatasetError, match=r"no split .*split_zhou_OxfordPets\.json or annot"):
        load_dataset("oxford_pets", data_root=tmp_path)
    info = {i.name: i for i in list_datasets(tmp_path)}["oxford_pets"]
    assert (info.present, info.images) == (False, tmp_path / "oxford_pets" / "images")


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    with pytest.raises(DatasetError, match="eurosat: no images in class folders"):
        load_dataset("eurosat", data_root=tmp_path)


def test_class_names_of_a_known_dataset(tmp_path: Path, shrink: Shrink) -> None:
    shrink("eurosat", 2)
    plant(tmp_path, "eurosat/2750/SeaLake/1.jpg", "eurosat/2750/Forest/1.jpg")
    renamed = load_dataset("eurosat", data_root=tmp_path, class_names={"Sea or Lake": "water"})
    assert renamed.class_names == ("Forest", "water")
    with pytest.raises(InputError, match="no class called 'SeaLake'"):
        load_dataset("eurosat", data_root=tmp_path, class_names={"SeaLake": "water"})
