"""Boxes on images -> COCO results, their average precision, and drawings."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from cafe.datasets import load_dataset
from cafe.datasets.boxes.read import read_boxes
from cafe.detection.average_precision import average_precision
from cafe.detection.box_task import load_task
from cafe.detection.coco_file import detect_file
from cafe.detection.detect import detect
from cafe.detection.detections import DetectOptions, choose_detections, coco_categories
from cafe.detection.draw import LabelledBox, draw_boxes, printable, unprintable
from cafe.detection.encode_boxes import encode_boxes
from cafe.encoders.encoder import load_encoder
from cafe.errors import DatasetError, InputError, MissingFilesError
from cafe.extract.encode import LoaderOptions
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.inference.predictor import Predictor
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.results.saved_head import SavedHead

NAMES = ("zero", "one", "background")
SIZE = 120, 90
PLACES = [(10, 20, 30, 30), (70, 20, 30, 30)]  # a zero and a one on every image
EMPTY = (44, 55, 22, 22)


def paste_digits(root: Path, images: int = 3) -> None:
    """White images with a zero on the left and a one on the right."""
    digits = load_dataset("digits")
    by_label = [[i for i in digits.splits["test"] if i.label == label] for label in (0, 1)]
    root.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        image = Image.new("RGB", SIZE, "black")
        for label, (x, y, w, h) in enumerate(PLACES):
            digit = digits.open_image(by_label[label][number]).convert("RGB").resize((w, h))
            image.paste(digit, (x, y))
        image.save(root / f"{number}.png")


def coco(images: int = 3, **changes: Any) -> dict[str, Any]:
    listed = [
        {"id": 10 + i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]}
        for i in range(images)
    ]
    boxes = [
        {"id": 2 * i + label + 1, "image_id": 10 + i, "category_id": 7 - label, "bbox": list(box)}
        for i in range(images)
        for label, box in enumerate(PLACES)
    ]
    categories = [{"id": 7, "name": "zero"}, {"id": 6, "name": "one"}]
    return {"images": listed, "annotations": boxes, "categories": categories, **changes}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    paste_digits(folder / "images")
    (folder / "truth.json").write_text(json.dumps(coco()))
    return folder


@pytest.fixture(scope="module")
def predictor(root: Path) -> Predictor:
    """The mean feature of each class on the images, and of an empty place for background."""
    encoder = load_encoder("nano", device="cpu", precision="fp32")
    content = coco(categories=[{"id": i, "name": n} for i, n in enumerate(NAMES)])
    content["annotations"] = [
        {"id": 3 * i + label, "image_id": 10 + i, "category_id": label, "bbox": list(box)}
        for i in range(3)
        for label, box in enumerate([*PLACES, EMPTY])
    ]
    (root / "train.json").write_text(json.dumps(content))
    boxes = read_boxes(root / "train.json")
    parts = [*encode_boxes(encoder, boxes, root / "images", (1.0,), LoaderOptions())]
    rows = torch.from_numpy(np.concatenate([part.rows for part in parts]))
    x = torch.cat([part.features for part in parts])
    y = torch.from_numpy(boxes.labels)[rows]
    noise = torch.randn(3, 1, encoder.width, generator=torch.Generator().manual_seed(0))
    train = TrainingSet(Features(x, y), ClassText(noise, NAMES, 100.0))
    about = {
        "class_names": list(NAMES),
        "encoder": {"model": "nano", "pretrained": "glyphs"},
        "cache_key": dict(encoder.key()),
        "dataset": "pasted",
    }
    head = make_method("nearest-class", Context(), {}).fit(train)
    return Predictor(SavedHead(head, about), encoder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any, name: str = "proposals.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


def proposals(*rows: tuple[int, tuple[float, ...]], **changes: Any) -> dict[str, Any]:
    boxes = [{"id": i + 1, "image_id": n, "bbox": list(b)} for i, (n, b) in enumerate(rows)]
    return coco(annotations=boxes, categories=[], **changes)


ALL = [(10 + i, box) for i in range(3) for box in (*PLACES, EMPTY)]


def test_the_whole_way(root: Path, predictor: Predictor, write: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    task = load_task(
        write(proposals(*ALL)), root / "images", root / "truth.json", note=notes.append
    )
    made = tmp_path / "made.json"
    done = detect_file(predictor, task, made, draw=tmp_path / "drawn", note=notes.append)
    results = json.loads(made.read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    best = {(r["image_id"], r["category_id"]) for r in results if r["score"] > 0.5}
    assert best == {(10 + i, c) for i in range(3) for c in (6, 7)}
    assert done.categories == {7: "zero", 6: "one"}
    assert done.boxes == 9
    assert done.ap is not None
    assert done.ap.ap50 == 100
    assert set(done.ap.per_class) == {"zero", "one"}
    with Image.open(tmp_path / "drawn" / "0.png.jpg") as drawn:
        assert min(drawn.size) == 480
    assert notes == []
    json.dumps(done.json)


def test_an_image_is_decoded_once_for_all_of_its_boxes(
    root: Path, predictor: Predictor, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cafe.detection import encode_boxes as module

    opened = []
    monkeypatch.setattr(
        module, "open_image", lambda p, own=module.open_image: opened.append(p.name) or own(p)
    )
    many = [(10, (x, y, 9, 9)) for x in range(0, 100, 2) for y in range(0, 60, 6)]
    boxes = load_task(write(proposals(*many, *ALL)), root / "images").boxes
    loader = LoaderOptions(batch_size=16)
    found = list(detect(predictor, boxes, root / "images", loader=loader))
    assert sorted(opened) == ["0.png", "1.png", "2.png"]
    assert [image.boxes for image in found] == [503, 3, 3]
    alone = next(detect(predictor, boxes.take(boxes.image == 0), root / "images"))
    np.testing.assert_allclose(alone.scores, found[0].scores, atol=1e-4)


def test_images_that_are_not_there(root: Path, write: Any) -> None:
    content = proposals(*ALL, (99, PLACES[0]))
    content["images"].append({"id": 99, "file_name": "gone.png"})
    with pytest.raises(MissingFilesError, match=r"gone\.png"):
        load_task(write(content), root / "images")
    notes: list[str] = []
    task = load_task(write(content), root / "images", allow_missing=True, note=notes.append)
    assert len(task.boxes) == 9
    assert notes == ["proposals.json: 1 image is not there; left out."]


def test_image_ids_that_do_not_agree(root: Path, write: Any) -> None:
    results = [{"image_id": 77, "bbox": [1, 2, 3, 4], "score": 0.5}]
    with pytest.raises(DatasetError, match="of image 77, which is not among its 3"):
        load_task(write(results), root / "images", root / "truth.json")
    with pytest.raises(DatasetError, match="is a list of results, which names no images"):
        load_task(write(results), root / "images")
    other = coco(images=0)
    other["images"] = [{"id": 1, "file_name": "elsewhere/x.png"}]
    with pytest.raises(MissingFilesError, match=r"elsewhere/x\.png"):
        load_task(write(proposals(*ALL)), root / "images", write(other, "other.json"))


def test_results_get_the_numbers_of_the_truth(
    root: Path, predictor: Predictor, write: Any, tmp_path: Path
) -> None:
    content = proposals(*[(i - 10, box) for i, box in ALL])
    for image in content["images"]:
        image["id"] -= 10  # numbered otherwise; the names agree
    task = load_task(write(content), root / "images", root / "truth.json")
    detect_file(predictor, task, tmp_path / "made.json")
    made = json.loads((tmp_path / "made.json").read_text())
    assert {r["image_id"] for r in made} == {10, 11, 12}


def test_boxes_outside_and_without_area_are_told(root: Path, write: Any) -> None:
    odd = [(10, (100, 70, 50, 50)), (10, (500, 500, 5, 5)), (11, (5, 5, 0, 9))]
    notes: list[str] = []
    task = load_task(write(proposals(*odd)), root / "images", note=notes.append)
    assert task.boxes.xywh.tolist() == [[100, 70, 20, 20]]
    assert any("clipped to their images: 1 box" in line for line in notes)
    assert any("empty or outside of their images: 2 boxes" in line for line in notes)
    with pytest.raises(InputError, match="has no box on an image"):
        load_task(write(proposals(*odd[1:])), root / "images")


def test_no_proposals_at_all_and_none_on_an_image(
    root: Path, predictor: Predictor, write: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has no box on an image"):
        load_task(write(proposals()), root / "images")
    task = load_task(write(proposals(*ALL[:3])), root / "images", root / "truth.json")
    done = detect_file(predictor, task, tmp_path / "made.json")
    assert done.ap is not None
    assert done.ap.images == 3  # what is on the two others counts as missed
    assert done.ap.ap50 == pytest.approx(100 / 3, abs=1)


def test_scores_that_are_no_numbers(root: Path, write: Any, tmp_path: Path) -> None:
    content = json.dumps(proposals(*ALL)).replace('"bbox"', '"score": NaN, "bbox"')
    path = tmp_path / "nan.json"
    path.write_text(content)
    assert len(load_task(path, root / "images").boxes) == 9  # they are not looked at
    scores = np.array([[0.9, 0.1], [np.nan, 0.5]])
    rows, xywh = np.arange(2), np.zeros((2, 4))
    assert choose_detections(0, rows, xywh, scores, None, DetectOptions()).rows.tolist() == [0]


def test_all_background_is_no_detection(
    root: Path, predictor: Predictor, write: Any, tmp_path: Path
) -> None:
    task = load_task(write(proposals((10, EMPTY))), root / "images", root / "truth.json")
    options = DetectOptions(min_score=0.5)
    done = detect_file(predictor, task, tmp_path / "made.json", options=options)
    assert json.loads((tmp_path / "made.json").read_text()) == []
    assert done.detections == 0
    assert done.ap is not None
    assert done.ap.ap == 0


def test_categories_are_those_of_names_that_prompts_say_otherwise() -> None:
    like = SimpleNamespace(
        class_names=("10_hearts", "dust", "a_b", "a b"), category_ids=np.r_[:4] + 6
    )
    names = ["a b", "a b", "new", "background", "10 hearts", "newer"]
    found = coco_categories(names, cast("Any", like))
    assert found == {0: 8, 1: 9, 2: 10, 4: 6, 5: 11}


def test_classes_of_the_truth_that_the_head_does_not_know(
    root: Path, predictor: Predictor, write: Any, tmp_path: Path
) -> None:
    truth = coco()
    truth["categories"] += [{"id": 1, "name": "seven"}, {"id": 2, "name": "without a true box"}]
    truth["annotations"].append({"id": 99, "image_id": 10, "category_id": 1, "bbox": [0, 0, 9, 9]})
    notes: list[str] = []
    task = load_task(write(proposals(*ALL)), root / "images", write(truth, "truth.json"))
    done = detect_file(predictor, task, tmp_path / "made.json", note=notes.append)
    assert notes == [
        "the truth has 1 class that the head does not know ('seven'): their average precision is 0."
    ]
    assert done.ap is not None
    assert done.ap.per_class["seven"] == (0, 0)
    assert done.ap.ap50 == pytest.approx(200 / 3, abs=0.1)


def test_an_image_that_cannot_be_read_is_recorded(
    root: Path, predictor: Predictor, write: Any, tmp_path: Path
) -> None:
    paste_digits(tmp_path / "images", 2)
    (tmp_path / "images" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    content = proposals(*ALL[:6])
    content["images"].pop()
    task = load_task(write(content), tmp_path / "images")
    done = detect_file(predictor, task, tmp_path / "made.json", draw=tmp_path / "drawn")
    assert list(done.skipped) == ["1.png"]
    assert done.drawings == 1
    assert json.loads((tmp_path / "made.json").read_text())


def test_what_is_read_is_not_written_over(root: Path, predictor: Predictor, write: Any) -> None:
    path = write(proposals(*ALL))
    before = path.read_bytes()
    with pytest.raises(InputError, match="is a file that is read"):
        detect_file(predictor, load_task(path, root / "images"), path)
    assert path.read_bytes() == before


def test_an_interrupted_call_leaves_the_older_file(
    root: Path, predictor: Predictor, write: Any, tmp_path: Path
) -> None:
    made = tmp_path / "made.json"
    made.write_text("[]")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    task = load_task(write(proposals(*ALL)), root / "images")
    with pytest.raises(KeyboardInterrupt):
        detect_file(predictor, task, made, loader=LoaderOptions(progress=stop))
    assert made.read_text() == "[]"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made.json", "proposals.json"]


def test_without_pycocotools_nothing_is_done(
    root: Path, predictor: Predictor, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    task = load_task(write(proposals(*ALL)), root / "images", root / "truth.json")
    with pytest.raises(InputError, match=r"needs pycocotools, which is not installed: pip install"):
        detect_file(predictor, task, tmp_path / "made.json")
    assert not (tmp_path / "made.json").exists()


SCORES = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.01, 0.02, 0.97]])
XYWH = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 5, 5]], float)


def test_a_box_is_one_detection_or_several_where_classes_overlap() -> None:
    rows = np.array([4, 7, 9])
    found = choose_detections(0, rows, XYWH, SCORES, 2, DetectOptions())
    assert found.rows.tolist() == [4, 7]
    assert found.classes.tolist() == [0, 1]
    assert found.is_likely.tolist() == [True, False]  # background is likelier
    overlap = DetectOptions(overlap=True)
    found = choose_detections(0, rows, XYWH, SCORES, 2, overlap)
    pairs = list(zip(found.rows.tolist(), found.classes.tolist(), strict=True))
    assert pairs == [(4, 0), (4, 1), (7, 1), (7, 0)]
    one = choose_detections(0, rows, XYWH, SCORES, 2, DetectOptions(overlap=True, nms=0.5))
    assert one.rows.tolist() == [4, 4]
    assert len(choose_detections(0, rows, XYWH, SCORES, 2, DetectOptions(most=1)).rows) == 1


def test_scores_of_classes_that_overlap_are_sigmoids(predictor: Predictor, root: Path) -> None:
    from cafe.detection.detect import box_scores

    x = torch.randn(5, 512, generator=torch.Generator().manual_seed(1))
    z = predictor.saved.head(x)
    wanted = torch.sigmoid(z - z[:, 2:])
    assert torch.allclose(box_scores(predictor.saved, x, 2, overlap=True), wanted)
    assert torch.allclose(box_scores(predictor.saved, x, 2).sum(dim=1), torch.ones(5))
    about = {**predictor.saved.about, "class_names": ["zero", "one", "two"]}
    other = Predictor(SavedHead(predictor.saved.head, about), predictor.encoder)
    boxes = read_boxes(root / "truth.json")
    with pytest.raises(InputError, match="this head has none of them"):
        detect(other, boxes, root / "images", DetectOptions(overlap=True))


@pytest.mark.parametrize("how", [{"min_score": 1.5}, {"nms": -0.1}, {"most": 0}])
def test_options_out_of_range_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        DetectOptions(**how)


def test_average_precision_is_that_of_pycocotools(root: Path, tmp_path: Path, capsys: Any) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    results = [
        {
            "image_id": int(10 + rng.integers(3)),
            "category_id": int(6 + rng.integers(2)),
            "bbox": (np.array(PLACES[rng.integers(2)]) + rng.normal(0, 2, 4)).tolist(),
            "score": float(rng.random()),
        }
        for _ in range(40)
    ]
    ours = average_precision(read_boxes(root / "truth.json"), results, [10, 11, 12])
    assert capsys.readouterr().out == ""
    truth = coco()
    for annotation in truth["annotations"]:
        annotation |= {"area": 900, "iscrowd": 0}
    (tmp_path / "t.json").write_text(json.dumps(truth))
    index = coco_module.COCO(str(tmp_path / "t.json"))
    evaluation = COCOeval(index, index.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    wanted = 100 * evaluation.stats[:3]
    assert [ours.ap, ours.ap50, ours.ap75] == pytest.approx(wanted.tolist(), abs=0.01)


def test_difficult_objects_count_neither_for_nor_against(root: Path) -> None:
    pytest.importorskip("pycocotools")
    from dataclasses import replace

    truth = read_boxes(root / "truth.json")
    hard = replace(truth, is_difficult=np.arange(len(truth)) % 2 == 1)
    results = [
        {"image_id": 10 + i, "category_id": 7, "bbox": list(PLACES[0]), "score": 0.9}
        for i in range(3)
    ]
    ap = average_precision(hard, results, [10, 11, 12])
    assert ap.boxes == 3
    assert ap.ap == 100


@pytest.mark.parametrize("size", [(8, 6), (60, 40), (900, 700), (5000, 3000), (4000, 4), (3, 900)])
def test_drawings_are_legible_at_any_size(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "white")
    box = LabelledBox(np.array([size[0] / 4, size[1] / 4, size[0] / 2, size[1] / 2]), "rbc", 0, 0.9)
    drawn = draw_boxes(image, [box, box._replace(label="a" * 300, number=1, score=0.5)])
    assert drawn.size[0] >= 160
    assert drawn.size[1] >= 48
    assert max(drawn.size) <= 2048
    assert len(drawn.getcolors(1 << 24) or []) > 3


def test_names_in_other_scripts() -> None:
    assert printable("rbc", 3) == "rbc"
    odd = unprintable(["rbc", "\U0010fffd"])
    assert odd == ["\U0010fffd"]
    assert printable("\U0010fffd", 3) == "class 3"
    assert "\n" not in printable("two\nlines", 0)


def test_drawings_are_upright(tmp_path: Path) -> None:
    from cafe.detection.draw import save_drawing

    image = Image.new("RGB", (600, 480), "white")
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    save_drawing(tmp_path / "turned.jpg", tmp_path / "out" / "drawn.jpg", [])
    with Image.open(tmp_path / "out" / "drawn.jpg") as drawn:
        assert drawn.size == (480, 600)
