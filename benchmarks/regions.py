"""Boxes of blood cells (BCCD) under nano: few-shot accuracy, and what decoding once saves.

python benchmarks/regions.py ../shared/data/images/bccd.zip

It writes benchmarks/results/regions.json. nano has never seen a cell.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

import cafe
from cafe.datasets.boxes.dataset import BoxDataset
from cafe.datasets.boxes.load import load_boxes
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.preprocess import upright_rgb
from cafe.extract.crops import crop_square
from cafe.extract.decode import DecodedImage
from cafe.extract.encode import encode_batch

METHODS = ("nearest-class", "linear-probe", "lda-prior", "auto")
SHOTS, SEEDS = (1, 4, 16), tuple(range(10))
BOXES_IN_LOOP, BATCH = 600, 16
RESULTS = Path(__file__).parent / "results" / "regions.json"


def few_shot(cache: cafe.FeatureCache) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Accuracy on the published test list by method and shots: by seed, and by class."""
    made = cafe.compare([cache], methods=METHODS, shots=SHOTS, seeds=SEEDS, runs=None)
    table: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in METHODS}
    for row in made.record.results:
        if row.method in table:
            by_class = [round(share or 0.0, 2) for share in row.page.get("per_class", ())]
            by_seed = [round(value, 2) for value in row.accuracy.per_seed]
            table[row.method][str(row.shots)] = {"by seed": by_seed, "by class": by_class}
    return table


def plain_loop(dataset: BoxDataset, encoder: Encoder, count: int) -> float:
    """Boxes per second of a loop that opens the image for each box."""
    items = [item for items in dataset.splits.values() for item in items][:count]
    start, waiting = time.perf_counter(), []
    for item in items:
        with dataset.open_image(item) as file:
            pixels = np.asarray(upright_rgb(file))
        box = dataset.box(item.id)
        if min(box[2:]) > 0:
            crops = [crop_square(pixels, box, c, encoder.preprocess) for c in dataset.context]
            waiting += [DecodedImage(encoder.preprocess.pixels(crop)[None]) for crop in crops]
        if len(waiting) >= BATCH:
            encode_batch(encoder, waiting, None)
            waiting = []
    encode_batch(encoder, waiting, None)
    return len(items) / (time.perf_counter() - start)


def main(archive: Path) -> None:
    """Measure, and write the results."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(archive).extractall(folder)
        root = Path(folder) / "BCCD"
        extractor = cafe.Extractor("nano")
        cache = extractor.extract(root, boxes=root, cache=Path(folder) / "cache")
        done = extractor.extraction_
        dataset = load_boxes(root, root)
        loop = plain_loop(dataset, load_encoder("nano", device="cpu"), BOXES_IN_LOOP)
        results = {
            "boxes": dict(cache.counts),
            "classes": list(cache.header.class_names),
            "test boxes by class": np.bincount(cache.labels("test")).tolist(),
            "accuracy": few_shot(cache),
            "boxes_per_second": {"cafe": done.images / done.seconds, "plain loop": loop},
            "threads": torch.get_num_threads(),
            "machine": platform.processor() or platform.machine(),
            "versions": dict(cache.header.versions),
        }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
