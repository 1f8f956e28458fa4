"""What a folder of images holds and cafe does not use is counted and said; two readings refused."""

from __future__ import annotations

import io
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import draw_image
from PIL import Image

from cafe.datasets import Dataset, image_formats, load_dataset
from cafe.errors import DatasetError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def encoded(kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    draw_image(1).save(stream, kind)
    return stream.getvalue()


PNG = encoded()


def plant(root: Path, *paths: str, content: bytes = PNG) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images each."""
    return plant(tmp_path / "root", *(f"{c}/{i}.png" for c in "ab" for i in range(2)))


def ids(dataset: Dataset) -> set[str]:
    return {item.id for items in dataset.splits.values() for item in items}


@pytest.fixture
def no_memory() -> Iterator[None]:
    """Formats are looked up anew, before and after."""
    for function in (image_formats.can_open, image_formats.known_suffixes):
        function.cache_clear()
    yield
    for function in (image_formats.can_open, image_formats.known_suffixes):
        function.cache_clear()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_an_image_under_any_name(kind: str, root: Path) -> None:
    if not image_formats.can_open(kind):
        pytest.skip("this Pillow was built without it")
    names = {f"a/x{suffix}" for suffix in image_formats.SUFFIXES[kind]}
    names |= {f"a/{name}" for name in ("noext", "x.png.bak", "IMG_1.JPEG_large", "x.bin", "UP.PnG")}
    plant(root, *names, content=encoded(kind))
    dataset = load_dataset(root)
    assert names <= ids(dataset)
    assert dataset.notes == ()
    for items in dataset.splits.values():
        for item in items:
            with dataset.open_image(item) as image:
                assert image.size == (40, 36)


def test_hidden_and_system_files(root: Path) -> None:
    kept = ids(load_dataset(root))
    system = ("@eaDir/0.png/THUMB.png", ".thumbnails/0.png", ".@__thumb/0.png", "#recycle/0.png")
    system += ("lost+found/0.png", "__MACOSX/0.png", "@Recycle/x.png", "$RECYCLE.BIN/x.png")
    plant(root, *(f"a/{path}" for path in system), *system)
    plant(root, "a/Thumbs.db", "a/.DS_Store", "desktop.ini", "a/._0.png", ".git/x.png")
    dataset = load_dataset(root)
    assert ids(dataset) == kept
    (line,) = dataset.notes
    assert line.startswith("left out: hidden files, and those of systems and network disks (21: ")
    assert "2 #recycle" in line


def test_files_of_other_kinds_are_counted_by_suffix(root: Path) -> None:
    plant(root, "a/notes.txt", "b/more.txt", "a/BM list", content=b"BMW, P1 and GIF files")
    plant(root, "a/figure.eps", content=b"%!PS-Adobe-3.0 EPSF-3.0\n")
    plant(root, "a/film.mp4", content=b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    plant(root, "a/empty", content=b"")
    plant(root, "a/1.dng", "a/2.NEF", content=b"II*\0 a thumbnail of 160 x 120")
    os.mkfifo(root / "a/pipe.jpg")
    (root / "a/gone").symlink_to("nowhere")
    (root / "a/itself").symlink_to("itself")
    (root / "itself").symlink_to("itself")
    (root / "a/loop").symlink_to("..")
    dataset = load_dataset(root)
    assert len(ids(dataset)) == 4
    assert dataset.notes == (
        "left out: broken links (3: 3 without suffix)",
        "left out: files of no image format that cafe reads (6: 2 without suffix, 2 .txt, .eps, "
        ".mp4)",
        "left out: links to a folder that they lie in (1: a/loop)",
        "left out: raw images of cameras, to be converted first (2: .dng, .nef)",
        "left out: sockets, pipes and devices (1: .jpg)",
    )


def test_a_format_that_needs_a_plugin(
    root: Path, monkeypatch: pytest.MonkeyPatch, no_memory: None
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    plant(root, "a/1.heic", "b/2.HEIC", "b/3", content=HEIC)
    line = (
        "left out: HEIF images, which need 'pip install pillow-heif' (3: 2 .heic, without suffix)"
    )
    assert load_dataset(root).notes == (line,)
    alone = plant(root.parent / "alone", "a/1.heic", "b/1.heic", content=HEIC)
    with pytest.raises(DatasetError, match=r"no images; .*; left out: HEIF .*pillow-heif' \(2: "):
        load_dataset(alone)


def test_a_plugin_that_is_there_is_used(
    root: Path, monkeypatch: pytest.MonkeyPatch, no_memory: None
) -> None:
    plugin = types.ModuleType("pillow_heif")

    def register() -> None:
        Image.register_open("HEIF", lambda fp, _: Image.new("RGB", (3, 4)), lambda head: True)

    plugin.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    plant(root, "a/1.heic", content=HEIC)
    dataset = load_dataset(root)
    assert dataset.notes == ()
    (item,) = (i for items in dataset.splits.values() for i in items if i.id == "a/1.heic")
    assert dataset.open_image(item).size == (3, 4)


def test_empty_class_folders_and_loose_images(root: Path) -> None:
    (root / "c").mkdir()
    plant(root, "labels/1.txt", content=b"text")
    plant(root, "1.png", "2.png", "3")
    assert load_dataset(root).notes == (
        "left out: files of no image format that cafe reads (1: .txt)",
        "left out: folders without images (2: c, labels)",
        "left out: images outside of any class folder (3)",
    )


def test_folders_in_class_folders(tmp_path: Path) -> None:
    plant(tmp_path, "animals/cat/1.png", "animals/2.png", "plants/oak/1.png")
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("animals", "plants")
    assert dataset.notes == (
        "images in folders inside of a class folder (2) count for that class: animals/cat/1.png is "
        "of 'animals'",
    )


def splits(root: Path, *names: str, classes: str = "ab") -> Path:
    return plant(root, *(f"{name}/{c}/{i}.png" for name in names for c in classes for i in "01"))


TWO_WAYS = {
    "a class called train": ("bus/1.png", "plane/1.png", "train/front/1.png", "train/side/1.png"),
    "an unknown split": ("train/a/1.png", "train/b/1.png", "dev/a/1.png", "dev/b/1.png"),
    "an unknown split beside all": (
        *(f"{split}/{c}/1.png" for split in ("train", "val", "test", "holdout") for c in "ab"),
    ),
    "a class beside train": ("train/a/1.png", "train/b/1.png", "c/1.png"),
    "splits of different classes and another": ("train/a/1.png", "test/b/1.png", "c/1.png"),
    "splits without classes": ("train/1.png", "test/1.png"),
    "splits of longer names": ("train2017/a/1.png", "train2017/b/1.png", "val_2017/a/1.png"),
    "no split that is known": ("dev/a/1.png", "eval/a/1.png", "dev/b/1.png", "eval/b/1.png"),
}


@pytest.mark.parametrize("above", ["", "train/"])
def test_the_same_folders_in_each_are_parts_or_classes(above: str, tmp_path: Path) -> None:
    splits(tmp_path, f"{above}art", f"{above}photo", classes="abc")
    plant(tmp_path, f"{above}art/d/1.png")
    with pytest.raises(DatasetError, match=r"in two ways: as the parts 'art', 'photo', .* or"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "paths",
    [
        ("cat/day/1.png", "dog/day/1.png"),
        ("cat/1.png", "cat/x/1.png", "cat/y/1.png", "dog/x/1.png", "dog/y/1.png"),
        ("cat/w/1.png", "cat/x/1.png", "cat/y/1.png", "dog/x/1.png", "dog/z/1.png"),
    ],
)
def test_folders_in_classes_that_are_no_parts(paths: tuple[str, ...], tmp_path: Path) -> None:
    assert load_dataset(plant(tmp_path, *paths)).class_names == ("cat", "dog")


def test_thumbnails_beside_their_images(root: Path) -> None:
    kept = ids(load_dataset(root))
    plant(root, "a/Thumbs/0.png", "b/thumbnails/x/1.png", "b/_thumb/0.png")
    dataset = load_dataset(root)
    assert ids(dataset) == kept
    found = "3: a/Thumbs, b/_thumb, b/thumbnails"
    assert dataset.notes == (f"left out: folders of thumbnails beside images ({found})",)
    plant(root, "thumb/0.png")
    assert "thumb" in load_dataset(root).class_names


@pytest.mark.parametrize("kind", TWO_WAYS)
def test_two_readings_are_refused_with_both(kind: str, tmp_path: Path) -> None:
    plant(tmp_path, *TWO_WAYS[kind])
    with pytest.raises(DatasetError, match=r"can be read in two ways: as .*splits .* or as") as e:
        load_dataset(tmp_path)
    assert "For the first" in str(e.value)
    assert "for the second" in str(e.value)
    assert "\n" not in str(e.value)


def test_what_lies_beside_sure_splits(tmp_path: Path) -> None:
    splits(tmp_path, "train", "test")
    plant(tmp_path, "unlabeled/1.png", "unlabeled/2.png", "logo.png", "train/loose.png")
    (tmp_path / "test/c").mkdir()
    plant(tmp_path, "annotations/boxes.json", content=b"{}")
    dataset = load_dataset(tmp_path)
    assert {k: len(v) for k, v in dataset.splits.items()} == {"train": 4, "test": 4}
    assert dataset.notes == (
        "left out: files of no image format that cafe reads (1: .json)",
        "left out: folders without images (2: annotations, test/c)",
        "left out: images in folders of no split (train, val, test) (2: 2 unlabeled)",
        "left out: images outside of any class folder (2: train/)",
    )


def test_classes_that_are_called_as_splits_are(tmp_path: Path) -> None:
    plant(tmp_path, "Train/1.png", "test/1.png", "bus/1.png")
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("Train", "bus", "test")
    line = "'Train', 'test' as classes, not as splits, as no folders of classes are inside"
    assert dataset.notes == (f"taken: {line}",)


def test_classes_with_the_word_of_a_split(tmp_path: Path) -> None:
    plant(tmp_path, "test tube/1.png", "train station/1.png", "contest/a/1.png", "latest/a/1.png")
    assert len(load_dataset(tmp_path).class_names) == 4


def test_names_of_many_kinds_are_kept(tmp_path: Path) -> None:
    names = ("🐈 cat/a b.png", "犬/写真.png", 'd\'été/50% "x".png', "x.jpg/in a folder.png")
    plant(tmp_path, *names, "Cat/1.png", "cat/1.png")
    assert ids(load_dataset(tmp_path)) == {*names, "Cat/1.png", "cat/1.png"}


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{number}/1.png" for number in range(12)))
    words = [f"the {number}th" for number in range(12)]
    dataset = load_dataset(tmp_path, class_names=words)
    folders = {dataset.class_names[i.label]: i.id for s in dataset.splits.values() for i in s}
    assert folders["the 2th"] == "2/1.png"
    assert folders["the 10th"] == "10/1.png"
    assert dataset.notes == (
        "class names in the order given: 0 -> the 0th, 1 -> the 1th, 2 -> the 2th, "
        "3 -> the 3th and 8 more",
    )
    assert load_dataset(tmp_path).class_names[10] == "10"


def test_names_in_order_are_shown_for_every_kind_of_source(tmp_path: Path, root: Path) -> None:
    expected = ("class names in the order given: a -> ash, b -> birch",)
    assert load_dataset(root, class_names=["ash", "birch"]).notes == expected
    table = root / "m.csv"
    table.write_text("path,label\na/0.png,a\nb/0.png,b\n")
    assert load_dataset(table, class_names=["ash", "birch"]).notes == expected
    table.write_text("path,label\na/0.png,0\nb/0.png,1\n")
    expected = ("class names in the order given: 0 -> ash, 1 -> birch",)
    assert load_dataset(table, class_names=["ash", "birch"]).notes == expected
    split = root / "split_x.json"
    split.write_text('{"train": [["a/0.png", 0], ["b/0.png", 1]]}')
    assert load_dataset(root, class_names=["ash", "birch"]).notes == expected
    digits = load_dataset("digits", class_names=[f"the {n}" for n in range(10)])
    assert digits.notes[0].startswith("class names in the order given: zero -> the 0, one -> the 1")


def test_missing_images_are_said(root: Path) -> None:
    table = root / "m.csv"
    table.write_text("path,label\na/0.png,a\nb/0.png,b\ngone.png,b\n")
    dataset = load_dataset(table, allow_missing=True)
    assert dataset.notes == ("1 missing image left out: 'gone.png'",)
