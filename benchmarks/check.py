"""Measure what `cafe check` finds at its defaults: flipped labels, and planted copies.

    python benchmarks/check.py [--data DIR] [--seeds 3] [-o FILE]

A tenth of the labels of WHU-RS19 and of 66 classes of Caltech101 (ViT-B/32) is flipped to another
class at random. What is found is set beside as many images with the largest loss of a logistic
regression on all of them. In 2,700 images of EuroSAT 50 copies are planted: a third re-encoded, a
third resized too, a third cropped by up to a tenth on each side too. Found are those in a group
with their original. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import zipfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from grid import machine
from PIL import Image
from sklearn.linear_model import LogisticRegression

import cafe
from cafe.curation.label_errors import find_label_errors, fit_judges, usual_method
from cafe.curation.near_duplicates import find_neighbours, find_pairs
from cafe.features.tensors import ClassText, Features, join

ROOT = Path(__file__).parents[1]
SETS = ("whu-rs19.ViT-B-32", "caltech101-66.ViT-B-32")
PLANTED = 50


def precision_recall(found: set[int], wrong: set[int]) -> dict[str, float]:
    """In percent."""
    hits = len(found & wrong)
    return {
        "precision": 100 * hits / max(1, len(found)),
        "recall": 100 * hits / max(1, len(wrong)),
    }


def read_all(path: Path) -> tuple[Features, ClassText]:
    """The images of all splits, and the classes' text."""
    with np.load(path) as file:
        arrays = {k: torch.from_numpy(file[k]) for k in file if k != "class_names"}
        names = tuple(str(name) for name in file["class_names"])
    splits = [name for name in ("train", "val", "test") if f"{name}_labels" in arrays]
    images = join(
        [Features(arrays[f"{s}_features"].float(), arrays[f"{s}_labels"]) for s in splits]
    )
    return images, ClassText(arrays["text_prompts"].float(), names, float(arrays["logit_scale"]))


def flipped_labels(features: Path, name: str, seed: int) -> dict[str, Any]:
    """One draw: what the check finds, and the probe with as many picks."""
    images, text = read_all(features / f"{name}.openai.npz")
    draw, classes = np.random.default_rng(seed), len(text.names)
    rows = draw.choice(len(images), round(0.1 * len(images)), replace=False)
    y = images.y.numpy().copy()
    y[rows] = (y[rows] + draw.integers(1, classes, len(rows))) % classes
    noisy = Features(images.x, torch.from_numpy(y))
    method = usual_method(noisy, text)
    errors = find_label_errors(fit_judges(noisy, text, method), noisy.y)
    x = 10 * images.unit.numpy()
    probe = LogisticRegression(max_iter=1000).fit(x, y).predict_proba(x)[np.arange(len(y)), y]
    wrong = set(rows.tolist())
    right = [e.proposed == int(images.y[e.row]) for e in errors if e.row in wrong]
    return {
        "method": method,
        "images": len(y),
        "flipped": len(rows),
        "found": len(errors),
        "check": precision_recall({e.row for e in errors}, wrong),
        "probe": precision_recall(set(np.argsort(probe)[: len(errors)].tolist()), wrong),
        "proposed right": 100 * mean(right),
    }


def plant(archive: Path, target: Path) -> dict[str, str]:
    """2,700 images and the copies; id of a copy -> id of its original."""
    draw, planted = np.random.default_rng(0), {}
    with zipfile.ZipFile(archive) as packed:
        names = sorted(n for n in packed.namelist() if n.endswith(".jpg"))
        by_class: dict[str, list[str]] = {}
        for name in names:
            by_class.setdefault(name.split("/")[-2], []).append(name)
        chosen = [
            every[i]
            for every in by_class.values()
            for i in sorted(draw.choice(len(every), 270, replace=False))
        ]
        for name in chosen:
            path = target / "/".join(name.split("/")[-2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed.read(name))
        for number, place in enumerate(draw.choice(len(chosen), PLANTED, replace=False)):
            label, file = chosen[place].split("/")[-2:]
            image = Image.open(io.BytesIO(packed.read(chosen[place]))).convert("RGB")
            copy = _changed(image, number % 3, draw)
            name = f"{label}/copy{number % 3}-{file}"
            copy.save(target / name, quality=int(draw.integers(50, 90)))
            planted[name] = f"{label}/{file}"
    return planted


def _changed(image: Image.Image, kind: int, draw: np.random.Generator) -> Image.Image:
    if kind == 2:
        left, top, right, bottom = (draw.uniform(0, 0.1, 4) * image.width).round().astype(int)
        image = image.crop((left, top, image.width - right, image.height - bottom))
    if kind >= 1:
        factor = draw.uniform(0.6, 1.6)
        image = image.resize((round(image.width * factor), round(image.height * factor)))
    return image


def copies(archive: Path) -> dict[str, Any]:
    """Copies that are found with pixels, and by features alone; pairs that are none of them."""
    with tempfile.TemporaryDirectory() as work:
        planted = plant(archive, Path(work) / "eurosat")
        how: dict[str, Any] = {"model": "nano", "cache": work, "method": "lda-prior"}
        found = cafe.check(Path(work) / "eurosat", **how)
        cache = cafe.Extractor("nano").extract(Path(work) / "eurosat", cache=work)
        images = join([s.to("cpu") for s in cafe.load_task(cache).splits.values()])
        ids = [name for split in cache.counts for name in cache.ids(split)]
        pairs = find_pairs(find_neighbours(images.x))
        alone = [{ids[pair.first], ids[pair.second]} for pair in pairs]
        grouped = [{image.id for image in group.images} for group in found.copies]
    return {
        "images": found.images,
        "planted": len(planted),
        "with pixels": _score(grouped, planted),
        "features alone": _score(alone, planted),
    }


def _score(groups: list[set[str]], planted: dict[str, str]) -> dict[str, Any]:
    pairs = [set(pair) for pair in planted.items()]
    return {
        "found": sum(any(pair <= group for group in groups) for pair in pairs),
        "by kind": [
            sum(any({c, o} <= g for g in groups) for c, o in planted.items() if f"copy{k}" in c)
            for k in range(3)
        ],
        "false": sum(not any(pair <= group for pair in pairs) for group in groups),
    }


def table(draws: dict[str, list[dict[str, Any]]], found: dict[str, Any] | None) -> str:
    """Two Markdown tables."""
    lines = [
        "| labels flipped | images | flipped | found | precision % | recall % | proposed right % "
        "| probe precision % | probe recall % |",
        "| --- " * 9 + "|",
    ]
    for name, rows in draws.items():
        values = [
            mean(r[key][part] if part else r[key] for r in rows)
            for key, part in (
                ("found", ""),
                ("check", "precision"),
                ("check", "recall"),
                ("proposed right", ""),
                ("probe", "precision"),
                ("probe", "recall"),
            )
        ]
        cells = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {name} | {rows[0]['images']} | {rows[0]['flipped']} | {cells} |")
    if found is None:
        return "\n".join(lines)
    lines += ["", "| copies in EuroSAT | planted | found | false groups |", "| --- " * 4 + "|"]
    lines += [
        f"| {kind} | {found['planted']} | {found[kind]['found']} | {found[kind]['false']} |"
        for kind in ("with pixels", "features alone")
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    draws = {
        name: [flipped_labels(given.data / "features", name, seed) for seed in range(given.seeds)]
        for name in SETS
    }
    archive = given.data / "images/eurosat.zip"
    found = copies(archive) if archive.is_file() else None
    print(table(draws, found))
    if given.output:
        record = {"machine": machine(torch.device("cpu")), "labels": draws, "copies": found}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        words = f"{given.seeds} draws; what `cafe check` finds at its defaults.\n\n"
        given.output.with_suffix(".md").write_text(f"{words}{table(draws, found)}\n")


if __name__ == "__main__":
    main()
