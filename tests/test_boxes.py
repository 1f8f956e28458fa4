"""Boxes as columns, and the readers of COCO, Pascal VOC, CSV and YOLO."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.datasets.boxes.coco import read_coco
from cafe.errors import DatasetError

Write = Callable[..., Path]


def coco(**changes: Any) -> dict[str, Any]:
    """A COCO file of two images, three boxes and two categories."""
    content = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "sub/b.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 20, "bbox": [1, 2, 10, 5], "area": 33.5},
            {"id": 5, "image_id": 3, "category_id": 10, "bbox": [0, 0, 4, 4], "iscrowd": 1},
            {"id": 2, "image_id": 7, "category_id": 10, "bbox": [3.5, 0, 4, 4], "score": 0.5},
        ],
        "categories": [{"id": 20, "name": "dog"}, {"id": 10, "name": "cat"}],
    }
    return content | changes


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: Any, name: str = "boxes.json") -> Path:
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_coco_is_read_as_columns(write: Write) -> None:
    boxes = read_coco(write(coco()))
    assert boxes.images == ("a.png", "sub/b.png")
    assert boxes.image.tolist() == [0, 1, 0]
    assert boxes.xywh.tolist() == [[1, 2, 10, 5], [0, 0, 4, 4], [3.5, 0, 4, 4]]
    assert boxes.class_names == ("cat", "dog")  # in the order of COCO's ids
    assert boxes.labels.tolist() == [1, 0, 0]
    assert boxes.areas.tolist() == [33.5, 16, 16]
    assert boxes.is_crowd.tolist() == [False, True, False]
    assert boxes.box_ids.tolist() == [1, 5, 2]
    assert boxes.image_ids.tolist() == [7, 3]
    assert boxes.category_ids.tolist() == [10, 20]
    assert boxes.sizes.tolist() == [[40, 30], [0, 0]]
    assert boxes.numbers.tolist() == [0, 0, 1]
    assert boxes.scores is None


def test_a_list_of_results_is_about_the_images_of_another_file(write: Write) -> None:
    like = read_coco(write(coco()))
    rows = [{"image_id": 3, "bbox": [1, 1, 2, 2], "score": 0.25}]
    found = read_coco(write(rows, "results.json"), like)
    assert found.image.tolist() == [1]
    assert found.labels.tolist() == [-1]
    assert found.scores.tolist() == [0.25]
    with pytest.raises(DatasetError, match="a list of results, which names no images"):
        read_coco(write(rows, "results.json"))
    # a class-agnostic detector has a category of its own, which says nothing
    rows = [row | {"category_id": number} for row in rows for number in (1, 20)]
    assert read_coco(write(rows, "results.json"), like).labels.tolist() == [-1, 1]


def test_annotations_may_say_the_name_of_their_image(write: Write) -> None:
    named = [row | {"file_name": "a.png"} for row in coco()["annotations"]]
    assert len(read_coco(write(coco(annotations=named)))) == len(named)


OTHER = {"id": 3, "file_name": "b.png"}
ANNOTATION = {"id": 9, "image_id": 7, "category_id": 10, "bbox": [1, 1, 2, 2]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 10, "name": " "}, {"id": 20, "name": "dog"}]}, "has no 'name'"),
        ({"categories": [{"id": 10}, {"id": 20, "name": "dog"}]}, "category 10 has no 'name'"),
        ({"categories": [{"id": 10, "name": "dog"}, {"id": 20, "name": "dog"}]}, "two categories"),
        ({"categories": [{"id": 10, "name": "cat"}]}, "1 annotation of category 20, which is not"),
        ({"categories": [{"id": 20, "name": "a"}, {"id": 20, "name": "b"}]}, "category 10"),
        ({"images": [{"id": 7, "file_name": "a.png"}]}, "1 annotation of image 3, which is not"),
        ({"images": [{"id": i, "file_name": "a.png"} for i in (7, 3)]}, "listed twice: 'a.png'"),
        ({"images": [{"id": 7, "file_name": n} for n in ("a", "b")]}, "image 3"),
        ({"images": [{"id": i, "file_name": f} for i, f in ((7, "x/b"), (3, "x\\b"))]}, "twice"),
        ({"images": [{"id": 7, "file_name": "../a.png"}, OTHER]}, "leads out of its root"),
        ({"images": [{"id": 7, "file_name": "/a.png"}, OTHER]}, "is absolute"),
        ({"images": [{"id": 7, "file_name": 5}]}, "image 7 has no 'file_name'"),
        ({"images": [{"file_name": "a.png"}]}, "no whole number as 'id'"),
        ({"images": None}, "is no COCO file: it has no list 'images'"),
        ({"annotations": [ANNOTATION, ANNOTATION]}, "1 box id is given twice: 9"),
        ({"annotations": [ANNOTATION | {"bbox": [1, 2, 3]}]}, "annotation 0 is not usable"),
        ({"annotations": [ANNOTATION | {"bbox": ["1", 2, 3, 4]}]}, "annotation 0 is not usable"),
        ({"annotations": [ANNOTATION | {"bbox": [1, 2, 3, 10**400]}]}, "annotation 0 is not"),
        ({"annotations": [ANNOTATION | {"bbox": None}]}, "annotation 0 is not usable"),
        ({"annotations": [ANNOTATION | {"image_id": 1 << 70}]}, "annotation 0 is not usable"),
        ({"annotations": [ANNOTATION | {"bbox": [1, float("nan"), 3, 4]}]}, "not finite"),
        ({"annotations": [ANNOTATION | {"bbox": [1, 2, float("inf"), 4]}]}, "not finite"),
        ({"annotations": [{"id": 1, "image_id": 7}]}, "no 'bbox' and 'image_id'"),
        ({"annotations": [7]}, "outside of .annotations"),
        ({"info": ANNOTATION}, "1 box lies outside of 'annotations'"),
    ],
)
def test_a_bad_coco_file_is_refused_in_one_line(
    write: Write, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_coco(write(coco(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not usable JSON"),
        ('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", "is not usable JSON"),
        ('{"images": [], "images": []}', "names 'images' twice"),
        ("3", "an object or a list is expected"),
    ],
)
def test_a_file_that_is_no_coco_is_refused(write: Write, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_coco(write(text))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4),
            st.integers(0, 2),
            st.booleans(),
        )
    )
)
def test_what_coco_says_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("coco") / "boxes.json"
    annotations = [
        {"id": 10 * n, "image_id": 100 + i, "category_id": c, "bbox": b, "iscrowd": int(crowd)}
        for n, (i, b, c, crowd) in enumerate(rows)
    ]
    images = [{"id": 100 + i, "file_name": f"{i}.png"} for i in range(5)]
    categories = [{"id": c, "name": f"class {c}"} for c in range(3)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    boxes = read_coco(path)
    assert boxes.xywh.tolist() == [b for _, b, _, _ in rows]
    assert boxes.image.tolist() == [i for i, _, _, _ in rows]
    assert boxes.labels.tolist() == [c for _, _, c, _ in rows]
    assert boxes.is_crowd.tolist() == [crowd for _, _, _, crowd in rows]
    for image in range(5):
        numbers = boxes.numbers[boxes.image == image]
        assert numbers.tolist() == list(range(len(numbers)))


MILLION = """
import sys
from pathlib import Path
from cafe.datasets.boxes.coco import read_coco
boxes = read_coco(Path(sys.argv[1]))
# not getrusage's peak, in which a process that was forked has its parent's memory
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(len(boxes), peak * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
def test_a_million_boxes_are_read_within_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    images, count = 100_000, 1_000_000
    polygon = list(range(100, 120))
    with path.open("w") as stream:
        stream.write('{"categories": [{"id": 1, "name": "x"}], "images": [')
        rows = ({"id": i, "file_name": f"{i}.jpg", "width": 640} for i in range(images))
        stream.write(",".join(map(json.dumps, rows)) + '], "annotations": [')
        for part in range(0, count, 1000):
            box = f'"category_id": 1, "bbox": [1.5, 2.5, 3.5, 4.5], "segmentation": [{polygon}]'
            ids = range(part, part + 1000)
            lines = [f'{{"id": {i}, "image_id": {i % images}, {box}}}' for i in ids]
            stream.write(("," if part else "") + ",".join(lines))
        stream.write("]}")
    run = subprocess.run(
        [sys.executable, "-c", MILLION, path], capture_output=True, text=True, check=True
    )
    boxes, peak = map(int, run.stdout.split())
    assert boxes == count
    assert peak < 2_000_000_000


def test_the_boxes_of_some_rows(write: Write) -> None:
    boxes = read_coco(write(coco()))
    some = boxes.take(boxes.labels == 0)
    assert some.box_ids.tolist() == [5, 2]
    assert some.images == boxes.images
    assert np.array_equal(some.xywh, boxes.xywh[1:])


def test_what_is_null_in_coco_is_not_known(write: Write) -> None:
    content = coco()
    for row in content["annotations"]:
        row |= {"area": None, "score": None, "iscrowd": "0"}
    content["annotations"][0] |= {"category_id": None, "iscrowd": "1"}
    boxes = read_coco(write(content))
    assert boxes.labels[0] == -1
    assert (boxes.labels[1:] >= 0).all()
    assert boxes.is_crowd.tolist() == [True] + [False] * (len(boxes) - 1)
    assert boxes.areas.tolist() == (boxes.xywh[:, 2] * boxes.xywh[:, 3]).tolist()
