"""Boxes as a dataset, and their crops in a cache."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from making import draw_image
from PIL import Image, ImageOps
from typer.testing import CliRunner

import cafe
from cafe.datasets.boxes.dataset import BoxDataset
from cafe.datasets.boxes.load import load_boxes
from cafe.datasets.boxes.place import place_boxes
from cafe.datasets.boxes.read import read_boxes
from cafe.datasets.dataset import Dataset
from cafe.errors import CacheFormatError, CafeError, DatasetError, InputError, MissingFilesError
from cafe.extract.crops import crop_square
from cafe.features.task import load_task
from cafe.features.tensors import ClassText, Features, TrainingSet, join
from cafe.methods.base import Job, Validation
from cafe.methods.stacking import weighing_folds
from cafe.methods.validation import folds_for
from cafe.store import FeatureCache
from cafe.store.merge import merge_caches
from cafe_cli.main import app

Photos = Callable[..., Path]
BOXES = [[2, 3, 10, 8], [15, 10, 20, 20], [0, 0, 40, 36]]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Folders of images with three boxes of two classes on each, and a COCO file of them."""

    def make(count: int = 12, boxes: Any = BOXES, **changes: Any) -> Path:
        folder = tmp_path / "photos"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            name = f"{number}.png"
            if not (folder / "images" / name).exists():
                draw_image(number).save(folder / "images" / name)
            images.append({"id": number + 5, "file_name": name, "width": 40, "height": 36})
            for box in boxes:
                row = len(annotations)
                category = 1 + row % 2
                annotations.append(
                    {"id": row, "image_id": number + 5, "category_id": category, "bbox": box}
                )
        categories = [{"id": 1, "name": "RedCell"}, {"id": 2, "name": "b"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "boxes.json").write_text(json.dumps(content | changes))
        return folder

    return make


def extract(folder: Path, **options: Any) -> tuple[FeatureCache, Any]:
    extractor = cafe.Extractor("nano", device="cpu")
    boxes = folder.parent / "boxes.json"
    how = {"cache": folder.parent / "cache", **options}
    cache = extractor.extract(folder, boxes=boxes, **how)
    return cache, extractor.extraction_


def test_every_box_is_an_item_and_no_image_is_in_two_splits(photos: Photos) -> None:
    folder = photos(40)
    dataset = load_boxes(folder, folder.parent / "boxes.json")
    images = {s: {dataset.image_of(i.id) for i in items} for s, items in dataset.splits.items()}
    assert sum(map(len, dataset.splits.values())) == 120
    assert set(images) == {"train", "val", "test"}
    assert sum(map(len, images.values())) == len(set().union(*images.values())) == 40
    ids = {item.id for items in dataset.splits.values() for item in items}
    assert {"images/0.png#0", "images/0.png#1", "images/0.png#2"} <= ids
    assert dataset.class_names == ("RedCell", "b")
    assert dataset.words == ("red cell", "b")
    assert "no image has boxes in two" in dataset.source


def test_a_cache_holds_the_boxes_and_the_mean_of_the_crops(photos: Photos) -> None:
    cache, done = extract(photos())
    assert cache.noun == "box"
    assert done.images == 36
    boxes, train = cache.boxes("train"), cache.read("train")
    assert boxes is not None
    assert train.views is not None
    assert train.views.shape[1] == 3  # the mean, and the crops
    assert np.allclose(train.views[:, 1:].mean(axis=1), train.features, atol=1e-5)
    first = cache.ids("train")[0]
    number = int(Path(first.partition("#")[0]).stem)
    assert boxes["xywh"][0].tolist() == BOXES[0]
    assert boxes["image_id"][0] == number + 5
    assert boxes["box_id"][0] == 3 * number
    assert boxes["area"][0] == 80
    assert cache.header.key["boxes"] == {"context": [1.0, 1.5], "padding": "square, mean colour"}
    with h5py.File(cache.path) as file:
        assert file.attrs["cafe_format"] == 4


def test_a_feature_is_that_of_crops_cut_by_hand(photos: Photos) -> None:
    cache, _ = extract(photos(), context=[1.5])
    encoder = cafe.Extractor("nano", device="cpu").encoder()
    name, number = cache.ids("train")[0].split("#")
    pixels = np.asarray(Image.open(cache.path.parents[2] / "photos" / name).convert("RGB"))
    box = tuple(map(float, BOXES[int(number)]))
    crop = crop_square(pixels, box, 1.5, encoder.preprocess)  # type: ignore[arg-type]
    feature = cafe.Extractor("nano", device="cpu").encode([crop])[0]
    assert np.allclose(feature, cache.read("train", [0]).features[0], atol=1e-4)
    assert cache.views == 1


def test_a_crop_lies_in_the_middle_of_a_square_of_the_mean_colour(photos: Photos) -> None:
    preprocess = cafe.Extractor("nano", device="cpu").encoder().preprocess
    fill = np.round(255 * np.asarray(preprocess.config["mean"])).astype(np.uint8)
    pixels = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)
    square = np.asarray(crop_square(pixels, (4, 6, 10, 4), 1.0, preprocess))
    assert square.shape == (10, 10, 3)
    assert np.array_equal(square[3:7], pixels[6:10, 4:14])
    assert (square[:3] == fill).all()
    assert (square[7:] == fill).all()
    corner = np.asarray(crop_square(pixels, (0, 0, 4, 4), 2.0, preprocess))  # beyond two edges
    assert np.array_equal(corner[2:, 2:], pixels[:6, :6])
    assert (corner[:2] == fill).all()
    sliver = np.asarray(crop_square(pixels, (4, 6, 1e-9, 1e-9), 1.5, preprocess))
    assert np.array_equal(sliver, pixels[6:7, 4:5])


def test_an_image_is_decoded_once_for_all_of_its_boxes(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, lock = list[str](), threading.Lock()
    original = Dataset.open_image

    def count(self: Dataset, item: Any) -> Image.Image:
        with lock:
            opened.append(self.image_of(item.id))
        return original(self, item)

    monkeypatch.setattr(Dataset, "open_image", count)
    extract(photos(20, boxes=BOXES * 8))
    assert len(set(opened)) == 20
    assert len(opened) < 24  # an image may lie in two blocks


def test_a_second_run_does_nothing_and_a_changed_box_is_encoded_alone(photos: Photos) -> None:
    first, _ = extract(photos())
    again, done = extract(photos())
    assert done.was_there
    assert again.content_sha256 == first.content_sha256
    path = first.path.parents[2] / "boxes.json"
    content = json.loads(path.read_text())
    content["annotations"][4]["bbox"] = [1, 1, 9, 9]
    path.write_text(json.dumps(content))
    folder = first.path.parents[2] / "photos"
    _, done = extract(folder)
    assert (done.images, done.changes.replaced) == (1, 1)
    content["annotations"][4]["iscrowd"] = 1  # no feature changes
    path.write_text(json.dumps(content))
    cache, done = extract(folder)
    assert (done.images, done.was_there) == (0, False)
    flags = [cache.boxes(split)["is_crowd"] for split in cache.counts]  # type: ignore[index]
    assert np.concatenate(flags).sum() == 1


def test_another_context_is_another_key(photos: Photos) -> None:
    folder = photos()
    extract(folder)
    with pytest.raises(CafeError, match="context"):
        extract(folder, context=[1])
    with pytest.raises(InputError, match="context must be different numbers from 1 to 10"):
        extract(folder, context=[0.5])


def test_an_interrupted_extraction_goes_on(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(60, boxes=BOXES)
    whole, _ = extract(folder, name="whole")
    original, calls = Dataset.open_image, list[str]()

    def stop(self: Dataset, item: Any) -> Image.Image:
        calls.append(item.id)
        if len(calls) > 50:
            raise KeyboardInterrupt
        return original(self, item)

    monkeypatch.setattr(Dataset, "open_image", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(folder, name="parts")
    monkeypatch.undo()
    parts, _ = extract(folder, name="parts")
    for split in whole.counts:
        assert np.array_equal(whole.read(split).features, parts.read(split).features)


KILLED = """
import os, signal, sys
from pathlib import Path
import cafe

def progress(what, done, total):
    if 0 < done < total and list(photos.parent.glob("killed/**/*.npz")):
        os.kill(os.getpid(), signal.SIGKILL)

photos = Path(sys.argv[1])
how = {"boxes": photos.parent / "boxes.json", "cache": photos.parent / "killed"}
cafe.Extractor("nano", device="cpu").extract(photos, **how, progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_a_killed_extraction_goes_on_to_is_what_a_whole_one_makes(photos: Photos) -> None:
    folder = photos(60, boxes=BOXES)
    whole, _ = extract(folder)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    again, done = extract(folder, cache=folder.parent / "killed")
    assert again.content_sha256 == whole.content_sha256
    assert 0 < done.images < 180


def test_boxes_that_reach_out_are_clipped_and_empty_ones_recorded(photos: Photos) -> None:
    boxes = [
        [-5, -5, 20, 20],
        [30, 30, 1e300, 9],
        [5, 5, 0, 4],
        [1e308, 50, 1e308, 4],
        [3, 3, -2, 5],
    ]
    folder = photos(10, boxes=[*boxes, *BOXES])
    notes: list[str] = []
    cache, _ = extract(folder, note=notes.append)
    assert any("clipped to their images: 20 boxes" in note for note in notes)
    assert any("empty or outside of their images: 30 boxes" in note for note in notes)
    kept = np.concatenate([cache.boxes(split)["xywh"] for split in cache.counts])  # type: ignore[index]
    assert len(kept) == 50
    assert [0, 0, 15, 15] in kept.tolist()
    assert [30, 30, 10, 6] in kept.tolist()
    assert len(cache.header.skipped) == 30
    assert {reason for _, _, reason in cache.header.skipped} == {
        "its box is empty or outside of the image"
    }


def test_missing_images_are_the_error_of_a_split_file(photos: Photos) -> None:
    folder = photos()
    (folder / "images" / "3.png").unlink()
    with pytest.raises(MissingFilesError, match="1 of the 12 images that its box file names"):
        load_boxes(folder, folder.parent / "boxes.json")
    dataset = load_boxes(folder, folder.parent / "boxes.json", allow_missing=True)
    assert dataset.missing == ("3.png",)
    assert sum(map(len, dataset.splits.values())) == 33


def test_a_damaged_image_costs_its_own_boxes(photos: Photos) -> None:
    folder = photos()
    (folder / "images" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    cache, _ = extract(folder)
    assert len(cache.header.skipped) == 3
    assert sum(cache.counts.values()) == 33


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_boxes_of_a_turned_image_are_turned(tmp_path: Path, orientation: int) -> None:
    image = Image.new("RGB", (40, 30))
    image.paste((255, 255, 255), (5, 8, 17, 13))
    exif = Image.Exif()
    exif[274] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    content = {
        "images": [{"id": 0, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [5, 8, 12, 5]}],
        "categories": [{"id": 1, "name": "white"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    boxes = place_boxes(read_boxes(tmp_path / "boxes.json"), tmp_path).boxes
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    assert boxes.sizes[0].tolist() == list(upright.size)
    if orientation == 3:  # the sizes do not tell: taken as upright
        return
    x, y, w, h = map(int, boxes.xywh[0])
    white = np.asarray(upright.convert("L")) > 128
    inside = white[y : y + h, x : x + w]
    assert inside.mean() > 0.95
    assert white.sum() == pytest.approx(60, abs=6)


def test_views_maps_and_split_files_are_refused(photos: Photos) -> None:
    folder = photos()
    with pytest.raises(InputError, match="neither augmented views nor spatial maps"):
        extract(folder, views=3)
    with pytest.raises(InputError, match="neither augmented views nor spatial maps"):
        extract(folder, spatial=2)
    with pytest.raises(InputError, match="boxes= takes the folder"):
        extract(folder, split_file=folder / "x.json")
    with pytest.raises(InputError, match="context is of boxes"):
        cafe.Extractor("nano").extract(folder, context=[1])


def test_a_reader_of_older_formats_refuses_boxes_in_one_line(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = extract(photos())
    monkeypatch.setattr("cafe.store.structure.NEWEST_FORMAT", 3)
    with pytest.raises(CacheFormatError, match="has format 4, this cafe reads up to 3") as caught:
        FeatureCache.open(cache.path)
    assert "\n" not in str(caught.value)


def test_unlabelled_boxes_and_empty_classes_are_left_out(photos: Photos) -> None:
    categories = [{"id": i, "name": n} for i, n in ((1, "a"), (2, "b"), (9, "none"))]
    folder = photos(categories=categories)
    path = folder.parent / "boxes.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["category_id"]
    path.write_text(json.dumps(content))
    dataset = load_boxes(folder, path)
    assert dataset.class_names == ("a", "b")
    assert "left out: boxes without a label (1)" in dataset.notes
    assert "left out: classes without a box (1: 'none')" in dataset.notes
    for row in content["annotations"]:
        row.pop("category_id", None)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="none of 36 boxes has a label"):
        load_boxes(folder, path)


def test_caches_of_the_same_boxes_are_not_merged(photos: Photos) -> None:
    folder = photos()
    one, _ = extract(folder, name="north")
    other, _ = extract(folder, name="south")
    with pytest.raises(InputError, match="is the same image"):
        merge_caches([one, other], folder.parent / "merged.h5")


def test_the_command_line_goes_from_boxes_to_a_report(photos: Photos) -> None:
    folder = photos(30)
    cache, runs = folder.parent / "cache", folder.parent / "runs"
    run = CliRunner().invoke
    boxes = ["--boxes", str(folder.parent / "boxes.json"), "--cache", str(cache)]
    made = run(app, ["extract", "--dataset", str(folder), *boxes, "--model", "nano"])
    assert made.exit_code == 0, made.output
    assert "90 boxes encoded" in made.stdout
    how = ["--method", "nearest-class", "--shots", "2", "--seeds", "1", "--runs", str(runs)]
    fitted = run(app, ["fit", "photos", "--cache", str(cache), *how])
    assert fitted.exit_code == 0, fitted.output
    assert "test boxes" in fitted.output
    page = folder.parent / "report.html"
    shown = run(app, ["report", str(runs), "-o", str(page), "--images", str(folder)])
    assert shown.exit_code == 0, shown.output
    text = page.read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in text
    assert "The test boxes in two dimensions" in text
    assert "test images" not in text
    assert "2 training boxes per class" in text
    bad = run(app, ["extract", "--dataset", str(folder), *boxes, "--context", "x"])
    assert "--context x is not understood" in str(bad.exception)


def test_train_folds_by_image(photos: Photos) -> None:
    folder = photos(30)
    model = cafe.train(
        folder, boxes=folder.parent / "boxes.json", model="nano", method="nearest-class",
        cache=folder.parent / "cache", device="cpu",
    )  # fmt: skip
    assert model.record.estimate is not None
    assert "boxes" in model.record.brief


def test_folds_inside_the_shots_are_by_image(photos: Photos) -> None:
    cache, _ = extract(photos(30))
    task = load_task(cache)
    for rows in (torch.arange(len(task.splits["train"])), torch.tensor([2, 0])):
        names = [cache.ids("train")[row].rpartition("#")[0] for row in rows]
        shots = task.splits["train"][rows].to("cpu")
        assert shots.groups is not None
        same = shots.groups[:, None] == shots.groups
        assert (same == (np.array(names)[:, None] == np.array(names))).all()
    everything = join([split.to("cpu") for split in task.splits.values()])
    assert everything.groups is not None
    assert len(np.unique(everything.groups)) == len(
        {name.rpartition("#")[0] for split in cache.counts for name in cache.ids(split)}
    )
    # both copies of a box are held out together, whatever the method
    shots = Features(torch.eye(4, 8), torch.tensor([0, 0, 1, 1]), groups=np.array([5, 5, 7, 7]))
    train = TrainingSet(shots, ClassText(torch.eye(2, 8)[:, None], ("a", "b"), 10.0))
    assert folds_for(Job(train, Validation("cv"))) == weighing_folds(train, 0) == []


def test_a_dataset_of_boxes_is_pickled_for_a_cluster(photos: Photos) -> None:
    import pickle

    folder = photos()
    dataset = load_boxes(folder, folder.parent / "boxes.json")
    copy: BoxDataset = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert copy.fingerprint() == dataset.fingerprint()
