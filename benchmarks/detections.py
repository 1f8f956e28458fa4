"""From proposals to AP50 on blood cells (BCCD) under nano, with and without self-training.

    python benchmarks/detections.py ../shared/data/images/bccd.zip [-o FILE]

The published lists make the splits. Of the training images, `LABELLED` keep their labels; the
`UNLABELLED` after them are what self-training chooses from. Proposals are made
here of the annotations, with a seed: every box, its sides moved by a tenth, and as many
random boxes of the same sizes. Test images are looked at once, by heads that are fitted and
calibrated. nano has never seen a cell: the numbers say that the way works, not how good CLIP is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from grid import machine
from numpy.typing import NDArray
from torch import Tensor

import cafe
from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.boxes.place import place_boxes
from cafe.datasets.boxes.read import read_boxes
from cafe.detection.average_precision import average_precision, coco_truth
from cafe.detection.detect import box_scores, contexts_of
from cafe.detection.detections import (
    DetectOptions,
    background_of,
    choose_detections,
    coco_categories,
    coco_results,
)
from cafe.detection.encode_boxes import encode_boxes
from cafe.extract.encode import LoaderOptions
from cafe.results.saved_head import SavedHead

METHODS = ("nearest-class", "linear-probe", "lda-prior", "auto")
SHOTS, SEEDS = (1, 4, 16), 3
LABELLED, UNLABELLED, JITTER, COPIES = 40, 40, 0.1, 1
K, ROUNDS = 32, 2
OPTIONS = DetectOptions(nms=0.5)
RESULTS = Path(__file__).parent / "results" / "detections"


class Test(NamedTuple):
    """The proposals of the test images, with their features, and the true boxes."""

    boxes: Boxes
    features: Tensor
    truth: Boxes
    seconds: float


def propose(boxes: Boxes, image: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Jittered and random boxes on an image. (n, 4)"""
    own = boxes.xywh[boxes.image == image]
    near = np.repeat(own, COPIES, axis=0)
    near = near + rng.normal(0, JITTER, near.shape) * np.tile(near[:, 2:], 2)
    sizes = boxes.xywh[rng.integers(len(boxes), size=len(near)), 2:]
    corners = rng.random((len(near), 2)) * (boxes.sizes[image] - sizes).clip(min=1)
    return np.concatenate([near, np.concatenate([corners, sizes], axis=1)])


def write_files(root: Path, folder: Path) -> Boxes:
    """Write labels of each split and proposals as COCO files; gives all true boxes."""
    boxes = place_boxes(read_boxes(root), root).boxes
    splits, rng = np.array(boxes.splits), np.random.default_rng(0)
    train = rng.permutation(np.flatnonzero(splits == "train"))
    chosen = {"train": train[:LABELLED]}
    chosen |= {split: np.flatnonzero(splits == split) for split in ("val", "test")}
    content = coco_truth(boxes)
    listed = [
        {"id": int(number), "file_name": name}
        for number, name in zip(boxes.image_ids, boxes.images, strict=True)
    ]
    (folder / "labels").mkdir()
    for split, images in chosen.items():
        ids = {int(boxes.image_ids[image]) for image in images}
        part = {
            **content,
            "images": [row for row in listed if row["id"] in ids],
            "annotations": [row for row in content["annotations"] if row["image_id"] in ids],
        }
        (folder / "labels" / f"instances_{split}.json").write_text(json.dumps(part))
    asked = {*train[: LABELLED + UNLABELLED], *chosen["val"], *chosen["test"]}
    annotations = [
        {"id": 1000 * image + place, "image_id": int(number), "bbox": xywh.tolist()}
        for image, number in enumerate(boxes.image_ids)
        if image in asked
        for place, xywh in enumerate(propose(boxes, image, rng))
    ]
    proposals = {"images": listed, "annotations": annotations, "categories": []}
    (folder / "proposals.json").write_text(json.dumps(proposals))
    return boxes


def encode_test(root: Path, folder: Path, truth: Boxes, contexts: Any) -> Test:
    """Features of the proposals on test images, once for all heads."""
    placed = place_boxes(read_boxes(folder / "proposals.json"), root).boxes
    is_test = np.array(truth.splits)[placed.image] == "test"
    boxes = placed.take(np.flatnonzero(is_test & (placed.xywh[:, 2:] > 0).all(axis=1)))
    start = time.perf_counter()
    encoder = cafe.Extractor("nano", device="cpu", precision="fp32", decode="exact").encoder()
    features = torch.zeros(len(boxes), encoder.width)
    for part in encode_boxes(encoder, boxes, root, contexts, LoaderOptions()):
        features[torch.from_numpy(part.rows)] = part.features
    return Test(boxes, features, truth, time.perf_counter() - start)


def precision_of(saved: SavedHead, test: Test) -> tuple[float, float]:
    """AP and AP50 of a head on the test images, in percent."""
    background = background_of(saved.class_names)
    scores = box_scores(saved, test.features, background).numpy()

    def found() -> Iterator[Any]:
        for image in np.unique(test.boxes.image):
            rows = np.flatnonzero(test.boxes.image == image)
            part = test.boxes.xywh[rows], scores[rows]
            yield choose_detections(int(image), rows, *part, background, OPTIONS)

    categories = coco_categories(saved.class_names, test.truth)
    results = [*coco_results(found(), test.boxes, test.truth.image_ids.tolist(), categories)]
    judged = test.truth.image_ids[np.array(test.truth.splits) == "test"].tolist()
    ap = average_precision(test.truth, results, judged)
    return ap.ap or 0.0, ap.ap50 or 0.0


def measure(cache: cafe.FeatureCache, test: Test, self_train: int | None) -> list[dict[str, Any]]:
    """Every method at every shot count: box accuracy, AP and AP50, means over seeds."""
    how: dict[str, Any] = {"self_train": self_train, "self_train_rounds": ROUNDS}
    record = cafe.fit(
        cache, method=METHODS, shots=SHOTS, seeds=SEEDS, device="cpu", runs=None, **how
    )
    rows = []
    for result in record.results:
        if result.method not in METHODS or result.calibration is None:
            continue
        calibration = {"temperature": result.calibration.temperature}
        about = {"class_names": list(cache.header.class_names), "calibration": calibration}
        precisions = [precision_of(SavedHead(head, about), test) for head in result.heads]
        ap, ap50 = (round(mean(values), 2) for values in zip(*precisions, strict=True))
        trained = [head.params.get("self_training", {}) for head in result.heads]
        rows.append(
            {
                "method": result.method,
                "shots": result.shots,
                "accuracy": round(result.accuracy.mean, 2),
                "ap": ap,
                "ap50": ap50,
                "rounds_kept": [one.get("kept") for one in trained],
            }
        )
    return rows


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [
        "| method | shots | box accuracy % | AP50 % | AP50 % with self-training | kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for plain, own in zip(results["plain"], results["self-training"], strict=True):
        kept = sum(bool(rounds) for rounds in own["rounds_kept"])
        lines.append(
            f"| {plain['method']} | {plain['shots']} | {plain['accuracy']:.1f} | "
            f"{plain['ap50']:.1f} | {own['ap50']:.1f} | {kept} of {SEEDS} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write FILE.json and FILE.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        zipfile.ZipFile(given.archive).extractall(folder)
        root = folder / "BCCD"
        truth = write_files(root, folder)
        notes: list[str] = []
        cache = cafe.Extractor("nano", device="cpu", precision="fp32").extract(
            root,
            boxes=folder / "labels",
            proposals=folder / "proposals.json",
            cache=folder / "cache",
            note=notes.append,
        )
        contexts = contexts_of(SavedHead(None, {"cache_key": cache.header.key}))  # type: ignore[arg-type]
        test = encode_test(root, folder, truth, contexts)
        results = {
            "boxes": dict(cache.counts),
            "notes": notes,
            "test_proposals": len(test.boxes),
            "proposals_per_second": round(len(test.boxes) / test.seconds, 1),
            "self_train": {"most": K, "rounds": ROUNDS},
            "seeds": SEEDS,
            "plain": measure(cache, test, None),
            "self-training": measure(cache, test, K),
            "machine": machine(torch.device("cpu")),
        }
    print(table(results))
    given.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    given.output.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
