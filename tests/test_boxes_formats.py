"""Boxes in Pascal VOC, CSV and YOLO files, folders of COCO's, and the images that they are on."""

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import draw_image

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.boxes.load import load_boxes
from cafe.datasets.boxes.place import place_boxes
from cafe.datasets.boxes.read import read_boxes
from cafe.datasets.make_split import assign_splits
from cafe.errors import DatasetError, InputError, MissingFilesError

BCCD = Path(__file__).parents[2] / "shared/data/images/bccd.zip"
Files = Callable[[dict[str, str]], Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    def write(texts: dict[str, str]) -> Path:
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw_image(number).save(root / name)


def voc(*objects: tuple[str, float, float, float, float], difficult: int = 0) -> str:
    texts = [
        f"<object><name>{escape(name)}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        "</bndbox></object>"
        for name, x, y, right, bottom in objects
    ]
    size = "<size><width>40</width><height>36</height></size>"
    return f"<annotation><filename>wrong.jpg</filename>{size}{''.join(texts)}</annotation>"


def test_pascal_voc_with_published_lists(files: Files) -> None:
    root = files(
        {
            "Annotations/a.xml": voc(("dog", 1, 1, 10, 5), ("cat", 3, 3, 3, 8), difficult=1),
            "Annotations/b.xml": voc(("cat", 2, 2, 8, 8)),
            "Annotations/c.xml": voc(("dog", 2, 2, 8, 8)),
            "ImageSets/Main/train.txt": "a\nb -1\n",
            "ImageSets/Main/test.txt": "c\n",
            "ImageSets/Main/trainval.txt": "a\nb\nc\n",
            "ImageSets/Main/dog_train.txt": "a 1\n",
        }
    )
    images(root, "JPEGImages/a.jpg", "JPEGImages/b.png", "JPEGImages/c.jpeg")
    boxes = read_boxes(root)
    assert boxes.class_names == ("cat", "dog")
    assert boxes.xywh.tolist()[:2] == [[0, 0, 10, 5], [2, 2, 0, 6]]
    assert boxes.is_difficult.tolist() == [True, True, False, False]
    assert boxes.splits == ("train", "train", "test")
    assert boxes.sizes.tolist() == [[40, 36]] * 3
    placed = place_boxes(read_boxes(root / "Annotations"), root).boxes
    assert placed.images == ("JPEGImages/a.jpg", "JPEGImages/b.png", "JPEGImages/c.jpeg")
    assert any("empty" in note for note in placed.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a document type"),
        ("<annotation>&undeclared;</annotation>", "is no usable XML"),
        ("<annotation>", "is no usable XML"),
        ("", "is no usable XML"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "is no usable XML"),
        ("<other/>", "begins with 'other'"),
        (voc(("", 1, 1, 2, 2)), "an object has no <name>"),
        (voc(("dog", 1, 1, 2, 2)).replace("<xmin>1</xmin>", ""), "no <bndbox> of four numbers"),
        (voc(("dog", 1, 1, 2, 2)).replace(">1<", ">one<"), "no <bndbox> of four numbers"),
        (voc(("dog", 1, 1, float("nan"), 2)), "not finite"),
        (voc(("dog", 1, 1, float("inf"), 2)), "not finite"),
    ],
)
def test_bad_xml_is_refused_in_one_line(files: Files, text: str, message: str) -> None:
    root = files({"a.xml": text})
    with pytest.raises(DatasetError, match=message) as caught:
        read_boxes(root)
    assert "\n" not in str(caught.value)


def test_a_bomb_of_entities_is_not_unfolded(files: Files) -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "x">{levels}]><annotation>&e11;</annotation>'
    with pytest.raises(DatasetError, match="declares a document type"):
        read_boxes(files({"a.xml": bomb}))
    deep = "<annotation>" + "<a>" * 50_000 + "</a>" * 50_000 + "</annotation>"
    assert len(read_boxes(files({"a.xml": deep}))) == 0


def test_lists_that_do_not_fit_are_refused(files: Files) -> None:
    root = files({"Annotations/a.xml": voc(("x", 1, 1, 5, 5)), "ImageSets/Main/train.txt": "a\nb"})
    with pytest.raises(DatasetError, match="names 1 image without annotations \\('b'\\)"):
        read_boxes(root)
    files({"ImageSets/Main/train.txt": "a", "ImageSets/Main/test.txt": "a"})
    with pytest.raises(DatasetError, match="in the list of"):
        read_boxes(root)


def test_lists_tell_images_of_one_name_apart_by_their_folders(files: Files) -> None:
    box = voc(("x", 1, 1, 5, 5))
    root = files(
        {
            "Annotations/one/1.xml": box,
            "Annotations/two/1.xml": box,
            "ImageSets/Main/train.txt": "./one/1.jpg",
            "ImageSets/Main/test.txt": "/data/JPEGImages/two/1",
        }
    )
    boxes = read_boxes(root)
    assert dict(zip(boxes.images, boxes.splits or (), strict=True)) == {
        "one/1": "train",
        "two/1": "test",
    }
    files({"ImageSets/Main/test.txt": "1"})  # both are meant
    with pytest.raises(DatasetError, match="an image is in one split"):
        read_boxes(root)


def test_yolo_folders_and_lists_with_a_year(files: Files) -> None:
    text, names = "0 0.5 0.5 0.5 0.5\n", {"classes.txt": "cat\n"}
    root = files({**names, "labels/train2017/a.txt": text, "labels/val2017/b.txt": text})
    assert read_boxes(root).splits == ("train", "val")
    lists = {"train2017.txt": "./images/x/a.jpg\n", "val2017.txt": "./images/y/a.jpg\n"}
    root = files({f"more/{name}": text for name, text in (names | lists).items()}) / "more"
    files({f"more/labels/{name}/a.txt": text for name in "xy"})
    assert read_boxes(root).splits == ("train", "val")


TABLE = "path,x,y,w,h,label,split\na/1.png,1,2,3,4,dog,train\na\\1.png,0,0,9,9,cat,train\n"


def test_a_table_of_boxes(files: Files) -> None:
    boxes = read_boxes(files({"b.csv": TABLE + "b.png,1.5,2,3,4,,test\n"}) / "b.csv")
    assert boxes.images == ("a/1.png", "b.png")  # either slash
    assert boxes.image.tolist() == [0, 0, 1]
    assert boxes.xywh.tolist() == [[1, 2, 3, 4], [0, 0, 9, 9], [1.5, 2, 3, 4]]
    assert boxes.class_names == ("cat", "dog")
    assert boxes.labels.tolist() == [1, 0, -1]
    assert boxes.splits == ("train", "test")
    tabs = TABLE.replace(",", ";")
    assert read_boxes(files({"c.csv": tabs}) / "c.csv").xywh.tolist() == boxes.xywh.tolist()[:2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,x,y,label\na.png,1,2,dog\n", "line 2: no 'w' and no 'h'"),
        (TABLE + "c.png,1,2,x,4,dog,test\n", "line 4: w is 'x', and no number"),
        (TABLE + "c.png,1,2,nan,4,dog,test\n", "numbers that are not finite"),
        (TABLE + "c.png,1,2,1e999,4,dog,test\n", "numbers that are not finite"),
        (TABLE + "../c.png,1,2,3,4,dog,test\n", "line 4: '../c.png' leads out of its root"),
        (TABLE + "/c.png,1,2,3,4,dog,test\n", "is absolute"),
        (TABLE + "C:\\c.png,1,2,3,4,dog,test\n", "is absolute"),
        (TABLE + "a/1.png,1,2,3,4,dog,test\n", "in the split 'test' and before in 'train'"),
        (TABLE + "c.png,1,2,3,4,dog,other\n", "none of train, val and test"),
        (TABLE + "c.png,1,2\n", "line 4: as many fields"),
        ("path,x,y,w,h\n", "names no boxes"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(files: Files, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message.replace("\\", "\\\\")) as caught:
        read_boxes(files({"b.csv": text}) / "b.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        {"data.yaml": "names: [cat, dog]\ntrain: images/train\n"},
        {"data.yaml": "names:\n  0: cat\n  1: dog\n"},
        {"classes.txt": "cat\ndog\n"},
    ],
)
def test_yolo(files: Files, names: dict[str, str]) -> None:
    labels = {"labels/train/a.txt": "1 0.5 0.5 0.5 0.25\n0 0.25 0.25 0.5 0.5 0.9\n"}
    root = files({**names, **labels, "labels/val/a.txt": "0 0.1 0.1 0.1 0.1\n"})
    images(root, "images/train/a.png", "images/val/a.png")
    boxes = read_boxes(root)
    assert boxes.is_relative
    placed = place_boxes(boxes, root).boxes
    assert placed.images == ("images/train/a.png", "images/val/a.png")
    assert placed.xywh.tolist()[0] == [10, 13.5, 20, 9]
    assert placed.areas[0] == 180
    assert placed.labels.tolist() == [1, 0, 0]
    assert placed.splits == ("train", "val")


def test_images_without_a_text_file_of_yolo_hold_no_box(files: Files) -> None:
    box, names = "0 0.5 0.5 0.5 0.5\n", {"classes.txt": "cat\n"}
    root = files({**names, "labels/train/a.txt": box, "labels/val/b.txt": box})
    images(root, "images/train/a.png", "images/train/c.png", "images/val/b.png")
    images(root, "images/test/d.png", "preview.png")  # where no image has a file, none is labelled
    placed = place_boxes(read_boxes(root), root).boxes
    assert placed.images == ("images/train/a.png", "images/val/b.png", "images/train/c.png")
    assert placed.splits == ("train", "val", "train")
    assert placed.notes == ("1 image without a text file, taken to hold no box",)
    assert len(placed) == 2


def test_a_root_may_be_inside_of_the_folders_that_images_are_called_by(files: Files) -> None:
    box, names = "0 0.5 0.5 0.5 0.5\n", {"classes.txt": "cat\n"}
    root = files({**names, "labels/train/a.txt": box, "labels/val/a.txt": box})
    images(root, "images/train/a.png", "images/val/a.png")
    placed = place_boxes(read_boxes(root), root / "images").boxes
    assert placed.images == ("train/a.png", "val/a.png")
    with pytest.raises(MissingFilesError):  # one image would be two
        place_boxes(read_boxes(root), root / "images" / "train")


def test_hidden_files_hold_no_boxes(files: Files) -> None:
    one = voc(("cat", 2, 3, 10, 9))
    root = files({"a.xml": one, "._a.xml": "\0", ".ipynb_checkpoints/a-checkpoint.xml": one})
    assert read_boxes(root).images == ("a",)


def test_trainval_is_train_where_there_is_no_other_list(files: Files) -> None:
    lists = {"ImageSets/Main/trainval.txt": "a\n", "ImageSets/Main/test.txt": "b\n"}
    texts = {f"Annotations/{name}.xml": voc(("cat", 2, 3, 10, 9)) for name in "abc"}
    assert read_boxes(files({**lists, **texts})).splits == ("train", "test", "")
    files({"ImageSets/Main/train.txt": "c\n"})
    assert read_boxes(files({})).splits == ("", "test", "train")


def test_images_of_a_yolo_list_without_a_text_file_hold_no_box(files: Files) -> None:
    box = "0 0.5 0.5 0.5 0.5\n"
    listed = {
        "train.txt": "/data/obj/a.png\n/data/obj/c.png\n",
        "test.txt": "./obj/b.png\n",
        "obj.names": "cat\n",
    }
    root = files({**listed, "obj/a.txt": box, "obj/b.txt": box})
    images(root, "obj/a.png", "obj/b.png", "obj/c.png", "obj/d.png")
    placed = place_boxes(read_boxes(root), root).boxes
    assert placed.images == ("obj/a.png", "obj/b.png", "obj/c.png")
    assert placed.splits == ("train", "test", "train")
    (root / "obj" / "c.png").unlink()
    with pytest.raises(MissingFilesError, match="obj/c"):
        place_boxes(read_boxes(root), root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 has no name, as there are 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 has no name"),
        ("dog 0.5 0.5 0.1 0.1", "is no box"),
        ("0 0.5 0.5 0.1", "is no box"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3", "is no box"),  # a polygon
        ("0 0.5 nan 0.1 0.1", "not finite"),
        ("0 20 18 10 10", "holds pixels, it seems"),
        ("0 0.5 inf 0.1 0.1", "not finite"),
    ],
)
def test_a_bad_line_of_yolo_is_refused(files: Files, line: str, message: str) -> None:
    root = files({"classes.txt": "cat\ndog\n", "labels/a.txt": f"0 0.5 0.5 1 1\n{line}\n"})
    with pytest.raises(DatasetError, match=message) as caught:
        read_boxes(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "nothing names the classes"),
        ({"classes.txt": "cat\n\ndog\n"}, "a category has no name"),
        ({"data.yaml": "names: [cat, null]\n"}, "a category has no name"),
        ({"data.yaml": "names: {0: cat, 2: dog}\n"}, "no list 'names'"),
        ({"data.yaml": "names: [cat\n"}, "is not YAML"),
        ({"data.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n"}, "no list 'names'"),
        ({"data.yaml": "[" * 5000}, "is not YAML"),
        ({"data.yaml": "!!python/object/apply:os.system ['true']"}, "is not YAML"),
    ],
)
def test_yolo_without_names_is_refused(files: Files, names: dict[str, str], message: str) -> None:
    root = files({**names, "labels/a.txt": "0 0.5 0.5 1 1\n"})
    with pytest.raises(DatasetError, match=message):
        read_boxes(root)


def coco(name: str, category: str = "cat") -> str:
    return (
        f'{{"images": [{{"id": 0, "file_name": "{name}"}}], "categories": [{{"id": 1, "name": '
        f'"{category}"}}], "annotations": [{{"id": 0, "image_id": 0, "category_id": 1, "bbox": '
        "[0, 0, 5, 5]}]}"
    )


def test_separate_coco_files_make_the_splits(files: Files) -> None:
    root = files(
        {
            "annotations/instances_train2017.json": coco("1.png"),
            "annotations/instances_val2017.json": coco("2.png"),
            "annotations/captions_val2017.json": "{}",
        }
    )
    images(root, "train2017/1.png", "val2017/2.png", "other/1.png")
    for folder in (root, root / "annotations"):
        boxes = read_boxes(folder)
        assert boxes.splits == ("train", "val")
        assert place_boxes(boxes, root).boxes.images == ("train2017/1.png", "val2017/2.png")


def test_coco_files_among_their_images(files: Files) -> None:
    names = {"train/_annotations.coco.json": "1.png", "valid/_annotations.coco.json": "1.png"}
    root = files({path: coco(name) for path, name in names.items()})
    images(root, "train/1.png", "valid/1.png")
    boxes = place_boxes(read_boxes(root), root).boxes
    assert boxes.images == ("train/1.png", "valid/1.png")
    assert boxes.splits == ("train", "val")
    files({"valid/_annotations.coco.json": coco("1.png", "dog")})
    with pytest.raises(DatasetError, match="category 1 is 'dog', and 'cat' in another file"):
        read_boxes(root)


def test_what_holds_no_boxes_or_two_kinds_is_refused(files: Files) -> None:
    root = files({"sub/a.md": "", "a.pdf": ""})
    with pytest.raises(DatasetError, match="holds no boxes; give COCO JSON"):
        read_boxes(root)
    with pytest.raises(InputError, match="is no file of boxes"):
        read_boxes(root / "a.pdf")
    with pytest.raises(DatasetError, match="no such file or folder of boxes"):
        read_boxes(root / "b.json")
    files({"a.json": coco("1.png"), "b.xml": voc(("dog", 1, 1, 3, 3))})
    with pytest.raises(InputError, match="as COCO and as Pascal VOC files"):
        read_boxes(root)
    (root / "b.xml").unlink()
    files({"b.json": coco("2.png")})
    with pytest.raises(InputError, match="is train, val or test is not clear"):
        read_boxes(root)


def test_a_val_list_without_a_test_list_is_the_test_split(files: Files) -> None:
    root = files({"instances_train.json": coco("1.png"), "instances_val.json": coco("2.png")})
    both = (root / "instances_val.json").read_text().replace('"cat"', '"cat"')
    (root / "instances_val.json").write_text(both)
    images(root, "1.png", "2.png")
    with pytest.raises(DatasetError, match="1 class"):
        load_boxes(root, root)


BOX = st.tuples(*[st.integers(1, 500)] * 4)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(st.lists(st.tuples(NAMES.filter(lambda name: "_" not in name), BOX), max_size=8))
def test_what_voc_says_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, tuple[int, ...]]]
) -> None:
    folder = tmp_path_factory.mktemp("voc")
    objects = [(name, x, y, x + w, y + h) for name, (x, y, w, h) in rows]
    (folder / "a.xml").write_text(voc(*objects), encoding="utf-8")
    boxes = read_boxes(folder / "a.xml")
    assert boxes.xywh.tolist() == [[x - 1, y - 1, w + 1, h + 1] for _, (x, y, w, h) in rows]
    assert [boxes.class_names[label] for label in boxes.labels] == [name for name, _ in rows]


FOUR = st.lists(st.floats(-9, 9), min_size=4, max_size=4)


@given(st.lists(st.tuples(st.sampled_from("ab"), FOUR)))
def test_what_a_table_says_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[float]]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "b.csv"
    lines = [f"{image}.png,{','.join(map(repr, box))},dog" for image, box in rows]
    path.write_text("\n".join(["path,x,y,w,h,label", "z.png,0,0,1,1,cat", *lines]))
    boxes = read_boxes(path)
    assert boxes.xywh.tolist()[1:] == [box for _, box in rows]
    assert [boxes.images[i] for i in boxes.image[1:]] == [f"{image}.png" for image, _ in rows]


SHARE = st.floats(0, 1)


@given(st.lists(st.tuples(st.integers(0, 1), SHARE, SHARE, SHARE, SHARE)))
def test_what_yolo_says_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    (folder / "classes.txt").write_text("cat\ndog")
    (folder / "a.txt").write_text("\n".join(" ".join(map(repr, row)) for row in rows))
    boxes: Boxes = read_boxes(folder)
    expected = [[x - w / 2, y - h / 2, w, h] for _, x, y, w, h in rows]
    assert boxes.xywh.tolist() == expected
    assert boxes.labels.tolist() == [row[0] for row in rows]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3)), min_size=1))
def test_boxes_of_one_image_share_a_split_and_every_class_is_trained(
    pairs: list[tuple[str, int]],
) -> None:
    splits = assign_splits(pairs, {})  # type: ignore[arg-type]
    by_image: dict[str, set[str]] = {}
    for (image, _), split in zip(pairs, splits, strict=True):
        by_image.setdefault(image, set()).add(split)
    assert all(len(found) == 1 for found in by_image.values())
    trained = {label for (_, label), split in zip(pairs, splits, strict=True) if split == "train"}
    assert trained == {label for _, label in pairs}


@pytest.mark.skipif(not BCCD.exists(), reason="the photographs of BCCD are not here")
def test_the_published_lists_of_real_photographs(tmp_path: Path) -> None:
    import zipfile

    zipfile.ZipFile(BCCD).extractall(tmp_path)
    dataset = load_boxes(tmp_path / "BCCD", tmp_path / "BCCD")
    counts = {s: len({dataset.image_of(i.id) for i in own}) for s, own in dataset.splits.items()}
    assert counts == {"train": 205, "val": 87, "test": 72}
    assert sum(map(len, dataset.splits.values())) == 4888
    assert any("2 boxes" in note for note in dataset.notes)
