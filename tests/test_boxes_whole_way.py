"""From a COCO file to detections: extract, fit with background, predict, AP, drawings."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import call
from PIL import Image
from test_detections import EMPTY, PLACES, coco, paste_digits

import cafe
from cafe.errors import CacheMismatchError
from cafe.features.joined import join_caches, take_apart
from cafe.features.tensors import TrainingSet
from cafe.report.analysis import _paths
from cafe.serve.gallery import Gallery
from cafe.serve.pictures import Pictures

IMAGES = 12  # of which two have no label


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos/`, labels in two splits, and proposals: every box moved, and an empty place."""
    folder = tmp_path_factory.mktemp("whole")
    paste_digits(folder / "photos", IMAGES)
    rng = np.random.default_rng(0)
    content = coco(IMAGES)
    rows = []
    for image in range(IMAGES):
        for place in (*PLACES, EMPTY):
            moved = np.array(place) + rng.normal(0, 1, 4)
            rows.append({"id": len(rows) + 1, "image_id": 10 + image, "bbox": moved.tolist()})
    write(folder / "proposals.json", {**content, "annotations": rows, "categories": []})
    (folder / "labels").mkdir()
    for split, images in (("train", range(6)), ("test", range(6, 10))):
        ids = {10 + image for image in images}
        part: dict[str, Any] = {**content}
        part["images"] = [row for row in content["images"] if row["id"] in ids]
        part["annotations"] = [row for row in content["annotations"] if row["image_id"] in ids]
        write(folder / "labels" / f"instances_{split}.json", part)
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def test_from_a_coco_file_to_detections(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools")
    monkeypatch.chdir(work)

    def run(*words: str) -> Any:
        answer = call(monkeypatch, capsys, *words)
        assert answer.code == 0, answer.err
        return answer

    boxes = ("--boxes", "labels", "--proposals", "proposals.json", "--model", "nano")
    made = run("extract", "photos", *boxes, "--device", "cpu")
    assert "12 with the label of a box" in made.err
    assert "6 without a label" in made.err
    cache = cafe.FeatureCache.open("photos/nano.glyphs")
    assert cache.header.class_names == ["one", "zero", "background"]
    assert cache.counts == {"train": 6 * 2 + 6 * 2 + 6, "test": 4 * 2 + 4}
    assert cafe.FeatureCache.open("photos-proposals/nano.glyphs").counts == {"train": 6}

    how = ("--shots", "4", "--seeds", "2", "--device", "cpu")
    fitted = run(
        "fit", "photos/nano.glyphs", "--method", "lda-prior", *how, "--self-train", "3", "--json"
    )
    record = json.loads(fitted.out)
    assert "self-training of lda-prior, 4 shots: " in fitted.err
    assert "join its shots" in record["protocol"]["words"]
    (own,) = (r["params"]["self_training"] for r in record["results"] if r["method"] == "lda-prior")
    assert {one["candidates"] for one in (own if isinstance(own, list) else [own])} == {6}
    assert all("self_training" not in r["params"] for r in record["results"][:2])

    truth = ("--truth", "labels/instances_test.json", "--method", "lda-prior")
    words = ("predict", "runs", "photos", "--boxes", "proposals.json", *truth)
    found = run(*words, "-o", "out.json", "--nms", "0.5", "--draw", "drawn", "--json")
    summary = json.loads(found.out)
    assert summary["ap"]["images"] == 4
    assert summary["ap"]["ap50"] == 100
    assert "8 images" in found.err  # of train and without labels: not scored
    assert len(list(Path("drawn").glob("*.jpg"))) == IMAGES
    results = json.loads(Path("out.json").read_text())
    assert len(results) == summary["detections"]
    assert {result["category_id"] for result in results} == {6, 7}
    assert "AP50 %" in run(*words, "--overlap").out
    again = run("extract", "photos", *boxes, "--device", "cpu")
    assert cafe.FeatureCache.open("photos/nano.glyphs").content_sha256 == cache.content_sha256
    assert "Traceback" not in again.err


def test_train_on_boxes_with_self_training(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    boxes = ("--boxes", "labels", "--proposals", "proposals.json", "--model", "nano")
    how = ("--method", "nearest-class", "--self-train", "3", "--cache", "other", "--device", "cpu")
    answer = call(monkeypatch, capsys, "train", "photos", *boxes, *how)
    assert answer.code == 0, answer.err
    model = cafe.load_model("model")
    assert "Self-training: the likeliest 3 proposals" in model.record.words
    assert model.record.settings == {"self_train": 3, "self_train_rounds": 1}
    assert model.saved.head.params["self_training"]["candidates"] == 6
    card = Path("model/README.md").read_text()
    assert "cafe predict model new-images/ --boxes proposals.json" in card
    assert "each is cut out at 1.0 and 1.5 times its sides" in card
    refused = call(monkeypatch, capsys, "report", "model")
    assert "'model' is a model, and a run is asked for" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("extract", "photos", "--proposals", "proposals.json"), "of boxes; name their file"),
        (("extract", "photos", "--boxes", "labels", "--background", "3"), "is of proposals"),
        (("extract", "photos", "--boxes", "labels", "--proposals", "gone.json"), "gone.json"),
        (("fit", "photos/nano.glyphs", "--self-train", "3", "--proposals", "gone/a.b"), "gone"),
        (("fit", "photos/nano.glyphs", "--self-train", "0"), "--self-train must be at least 1"),
        (("predict", "runs", "photos", "--truth", "labels"), "--truth is for boxes"),
        (("predict", "runs", "a", "b", "--boxes", "proposals.json"), "needs one folder of images"),
        (("predict", "runs", "photos/0.png", "--boxes", "proposals.json"), "is no folder"),
        (("predict", "runs", "photos", "--boxes", "gone.json"), "gone.json"),
        (
            ("predict", "runs", "photos", "--boxes", "proposals.json", "--nms", "2"),
            "must be an IoU",
        ),
        (
            ("predict", "runs", "photos", "--boxes", "proposals.json", "-o", "proposals.json"),
            "is a file that is read",
        ),
        (
            ("predict", "runs", "photos", "--boxes", "proposals.json", "--draw", "photos"),
            "is the folder of the images",
        ),
        (("cache", "verify", "photos", "--sample", "2"), "holds boxes; 'cafe extract' with"),
        (("compare", "--paper", "--self-train", "2"), "--paper takes every cache"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(
    work: Path,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(work)
    answer = call(monkeypatch, capsys, *words)
    assert answer.code in (1, 2)
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""


def test_proposals_of_images_that_judge_now_are_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images of the pool get labels, as the test split."""
    monkeypatch.chdir(work)
    rows = [f"{i}.png,10,20,30,30,{label},train" for i in range(4) for label in ("one", "zero")]
    rows += [f"{i}.png,10,20,30,30,zero,test" for i in range(6, IMAGES)]
    Path("later.csv").write_text("\n".join(["path,x,y,w,h,label,split", *rows]))
    for boxes in (("labels", "--proposals", "proposals.json"), ("later.csv",)):
        words = ("--name", "newer", "--model", "nano", "--device", "cpu")
        assert call(monkeypatch, capsys, "extract", "photos", "--boxes", *boxes, *words).code == 0
    answer = call(monkeypatch, capsys, "fit", "newer", "--shots", "2", "--self-train", "2")
    assert answer.code == 1
    assert "of 'newer-proposals/nano.glyphs' are on validation or test images" in answer.err
    assert "extract the proposals again" in answer.err


def test_compare_takes_self_train_on_the_command_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    words = ("compare", "photos", "--method", "gda", "--shots", "4", "--seeds", "1", "--json")
    answer = call(monkeypatch, capsys, *words, "--self-train", "2", "--self-train-rounds", "2")
    assert answer.code == 0, answer.err
    (result,) = json.loads(answer.out)["results"]
    heads = result["params"]["self_training"]
    about = heads[0] if isinstance(heads, list) else heads
    assert (about["most"], about["rounds"]) == (2, 2)


def test_compare_trains_all_but_the_baselines(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    how: dict[str, Any] = {"shots": 4, "seeds": 1, "device": "cpu", "runs": None}
    names = ["nearest-class", "gda"]
    made = cafe.compare("photos/nano.glyphs", methods=names, self_train=2, **how)
    plain, trained = made.record.results
    assert "self_training" not in plain.params
    assert trained.params["self_training"]["candidates"] == 6
    assert "Self-training" in made.record.protocol.words
    assert trained.learning is not None
    assert trained.learning.startswith("semi-supervised: sees 6 proposals without labels")


def test_what_looks_at_a_cache_of_boxes_says_so_and_shows_them(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    name, pool = "photos/nano.glyphs", "photos-proposals/nano.glyphs"
    pictures = ("--images", "photos")

    def run(*words: str) -> Any:
        return call(monkeypatch, capsys, *words)

    found = run("check", name, *pictures, "--method", "lda-prior", "-o", "check.html")
    assert "42 boxes of 3 classes" in found.out
    assert "images" not in found.out
    assert "data:image/jpeg" in Path("check.html").read_text()
    asked = run("next", name, "--pool", pool, "--budget", "2", "--sheet", "s.html", *pictures)
    assert asked.err == "wrote s.html.\n"
    assert Path("s.html").read_text().count("data:image/jpeg") == 2
    assert "boxes" in run("cache", "ls").out
    cache = cafe.FeatureCache.open(name)
    assert _paths(cache, {3: "0.png#1"}, Path("photos")) == {3: Path("photos/0.png")}
    shown = Pictures(Gallery(cache), "photos").jpeg(0, 640)
    assert shown is not None
    with Image.open(io.BytesIO(shown)) as crop:  # of 30 x 30 on an image of 120 x 90
        assert crop.size in ((45, 45), (46, 46))
    Path("kept.csv").write_text(
        "id,problem,current,proposed,confidence\n0.png#1,label,one,zero,0.9\n"
    )
    for words, said in (
        (("next", name), "every box of cache"),
        (("next", name, "photos"), "holds boxes, beside which whole images are no choice"),
        (("relabel", "kept.csv", "photos"), "is about boxes, of which no label is changed here"),
        (("fit", name, "--loss", "sigmoid"), "'loss' is of linear-probe"),
    ):
        answer = run(*words)
        assert answer.code in (1, 2)
        assert said in answer.err
        assert answer.err.count("\n") == 1


def test_classes_overlap_where_the_head_was_fitted_so(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sigmoid loss is saved with the head, and is what `predict` scores by."""
    monkeypatch.chdir(work)
    how = ("--method", "linear-probe", "--loss", "sigmoid", "--shots", "4", "--seeds", "1")
    fitted = call(monkeypatch, capsys, "fit", "photos", *how, "--device", "cpu", "--runs", "own")
    assert fitted.code == 0, fitted.err
    words = ("predict", "own", "photos", "--boxes", "proposals.json", "--method", "linear-probe")
    counts = []
    for more in ((), ("--no-overlap",)):
        answer = call(monkeypatch, capsys, *words, *more, "-o", "own.json", "--min-score", "0.01")
        assert answer.code == 0, answer.err
        rows = json.loads(Path("own.json").read_text())
        counts.append((len(rows), len({(r["image_id"], *r["bbox"]) for r in rows})))
    (several, boxes), (one, same) = counts
    assert several > boxes
    assert one == same


def test_boxes_under_two_encoders_keep_their_images(
    work: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    caches = [
        cafe.Extractor(model, device="cpu", precision="fp32").extract(
            work / "photos", boxes=work / "labels", cache=tmp_path
        )
        for model in ("nano", str(tiny_folder))
    ]
    task, alone = join_caches(caches).task(), cafe.load_task(caches[0]).splits["train"]
    train = task.splits["train"]
    rows = torch.tensor([5, 0, 7])
    assert alone.groups is not None
    for joined, own in ((train, alone), (train[rows], alone[rows])):
        assert joined.groups.tolist() == own.groups.tolist()  # type: ignore[union-attr]
    for part in take_apart(TrainingSet(train.to("cpu"), task.text)):
        assert part.features.groups.tolist() == alone.groups.tolist()  # type: ignore[union-attr]
    with pytest.raises(CacheMismatchError, match="are on validation or test images of 'photos/"):
        cafe.fit(caches[0], method="gda", self_train=2, proposals=caches[0], runs=None)
    record = cafe.fit(caches, method="gda", shots=2, seeds=1, runs=tmp_path / "runs")
    assert "boxes" in record.protocol.words
    assert "image" not in record.protocol.brief
