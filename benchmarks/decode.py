"""Scaled against exact decoding: seconds, pixels, features and accuracy.

    python benchmarks/decode.py dtd-10.zip [--output benchmarks/results/decode]

Made-up photographs of 12 to 16 megapixels are decoded in both ways in turn, by one thread. Their
noise has as much of every frequency as photographs have, down to single pixels (1/f). The zip holds
real photographs, `dtd/images/<class>/*.jpg`; these are small, and are enlarged to 12 megapixels,
which leaves them smoother than a camera's. Their features are those of `nano` and of an untrained
ViT-B-32.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
import torch
from grid import machine
from numpy.typing import NDArray
from PIL import Image

import cafe
from cafe.encoders.decoding import Decode
from cafe.encoders.encoder import Encoder, load_encoder
from cafe.encoders.preprocess import Preprocess, quiet_pillow
from cafe.encoders.quick_resize import WORTH, build_quick_resize
from cafe.extract.encode_images import decode_source

WAYS: tuple[Decode, Decode] = ("exact", "scaled")
SIZES = ((4000, 3000), (4032, 3024), (3024, 4032), (4608, 3456), (4923, 3261), (3457, 4611))
ROUNDS = 5
ENLARGED = 12_000_000  # pixels
TRAIN = 8  # images of a class; the others are for the test
SHOTS = 4  # half of these, so that seeds draw different ones
CONTRASTS = (0.08, 0.15, 0.25)
METHODS = ("nearest-class", "linear-probe", "gda", "clip-adapter")
Pixels = NDArray[np.uint8]


def made_up(seed: int, width: int, height: int, contrast: float) -> Image.Image:
    """Noise of all frequencies alike, the same in three colours, on a smooth ground of others."""
    generator, size = np.random.default_rng(seed), 4
    grey = np.zeros((height, width), np.float32)
    colour = generator.normal(0, 12, (6, 8, 3))
    while size < 2 * max(width, height):
        noise = generator.integers(0, 256, (size * height // width + 1, size), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        grey += np.asarray(layer, np.float32) - 127
        size *= 2
    tint = Image.fromarray((127 + colour).clip(0, 255).astype(np.uint8)).resize((width, height))
    values = contrast * grey[:, :, None] + np.asarray(tint, np.float32)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def write_photographs(folder: Path, contrast: float) -> list[Path]:
    """The made-up photographs as JPEG of quality 90; every third lies on its side by EXIF."""
    paths = []
    for number, size in enumerate(SIZES):
        paths.append(folder / f"{contrast}-{number}.jpg")
        exif = Image.Exif()
        exif[274] = 6 if number % 3 == 2 else 1
        made_up(number, *size, contrast).save(paths[-1], quality=90, exif=exif)
    return paths


def decoded(preprocess: Preprocess, paths: Sequence[Path]) -> Pixels:
    """The encoder's pixels of the files. (n, S, S, 3)"""
    read = [decode_source(path, preprocess).views for path in paths]
    return np.concatenate([views for views in read if views is not None])


def rms(a: Pixels, b: Pixels) -> list[float]:
    """Root mean square difference of each pair of images, of 255."""
    squares = (a.astype(np.float64) - b) ** 2
    return [round(float(value), 3) for value in np.sqrt(squares.mean(axis=(1, 2, 3)))]


def times(encoder: Encoder, paths: Sequence[Path]) -> dict[str, Any]:
    """Seconds of one core an image, of each way in turn, and how far the pixels are apart."""
    ways = {way: encoder.preprocess.decoding(way) for way in WAYS}
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for way, preprocess in ways.items():
            start = time.thread_time()
            decoded(preprocess, paths)
            taken[way].append((time.thread_time() - start) / len(paths))
    apart = rms(*(decoded(preprocess, paths) for preprocess in ways.values()))
    speed = min(taken["exact"]) / min(taken["scaled"])
    seconds = {way: [round(value, 4) for value in values] for way, values in taken.items()}
    size = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
    return {"MB": round(size, 1), "seconds": seconds, "times faster": round(speed, 2), "rms": apart}


def enlarge(zipped: Path, folder: Path) -> None:
    """Write the photographs of a zip at 12 megapixels, the first of each class for training."""
    seen: dict[str, int] = defaultdict(int)
    with zipfile.ZipFile(zipped) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            factor = (ENLARGED / (image.width * image.height)) ** 0.5
            size = round(image.width * factor), round(image.height * factor)
            label = Path(name).parent.name
            path = folder / ("train" if seen[label] < TRAIN else "test") / label / Path(name).name
            seen[label] += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            image.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def cosines(a: NDArray[Any], b: NDArray[Any]) -> list[float]:
    """Cosine of every pair of rows."""
    x, y = (torch.from_numpy(np.asarray(rows, np.float64)) for rows in (a, b))
    return [float(value) for value in torch.nn.functional.cosine_similarity(x, y)]


def features(model: str, photographs: Path, paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Cosines of features of both ways, and the accuracy of fits on them."""
    pretrained = None if model == "nano" else "none"
    caches, alone, seconds = {}, {}, {}
    for way in WAYS:
        extractor = cafe.Extractor(model, pretrained, precision="fp32", decode=way)
        caches[way] = extractor.extract(photographs, cache=folder / way)
        seconds[way] = round(extractor.extraction_.seconds, 1)
        alone[way] = extractor.encode(list(map(str, paths)))
    splits = [[caches[way].read(split).features for split in ("train", "test")] for way in WAYS]
    exact, scaled = (np.concatenate([a.reshape(len(a), -1) for a in rows]) for rows in splits)
    between = cosines(exact[:-1], exact[1:])
    enlarged, drawn = cosines(exact, scaled), cosines(*alone.values())
    # what all images share tells them apart no better: cosines without it are the harder test
    mean = exact.mean(axis=0)
    centred = cosines(exact - mean, scaled - mean)
    return {
        **{f"seconds of extraction, {way}": seconds[way] for way in WAYS},
        "cosine, worst of the enlarged": round(min(enlarged), 6),
        "cosine, median of the enlarged": round(median(enlarged), 6),
        "cosine, worst of the made-up": round(min(drawn), 6),
        "cosine without the mean feature, worst of the enlarged": round(min(centred), 6),
        "cosine of two different photographs, median": round(median(between), 6),
        "accuracy": {method: accuracies(method, caches, folder) for method in METHODS},
    }


def accuracies(method: str, caches: dict[Any, Any], folder: Path) -> dict[str, list[float]]:
    """Accuracies of three seeds on the caches of both ways, with half of the training images."""
    found = {}
    for way, cache in caches.items():
        record = cafe.fit(cache, method=method, shots=SHOTS, device="cpu", runs=folder / "runs")
        (own,) = (result for result in record.results if result.method == method)
        found[way] = list(own.accuracy.per_seed)
    return found


def page(record: dict[str, Any]) -> str:
    """The results in Markdown."""
    rows = []
    for made in record["made-up"].values():
        best = " | ".join(f"{min(made['seconds'][way]):.3f}" for way in WAYS)
        apart = f"{min(made['rms']):.2f} to {max(made['rms']):.2f}"
        rows.append(f"| {made['MB']} MB | {best} | {made['times faster']:.1f} | {apart} |")
    lines = [
        f"{record['machine']}; Pillow {record['pillow']}",
        f"Made-up JPEGs of 12 to 16 megapixels ({len(SIZES)} of each contrast, quality 90, 1/f "
        "noise), read, decoded and preprocessed to 224 x 224; seconds of one core an image, best "
        f"of {ROUNDS} rounds in turn. What is left is mostly Huffman decoding, which every scale "
        "needs: it grows with the file.",
        "\n".join(
            [
                "| file | s exactly | s scaled | times faster | pixels apart (rms, of 255) |",
                "| --- | --- | --- | --- | --- |",
                *rows,
            ]
        ),
        f"{record['photographs']} real photographs of ten classes of DTD, **enlarged** to 12 "
        "megapixels (bicubic, quality 90): they are smoother than photographs that a camera took "
        "at this size. `nano` was trained on drawn shapes and digits, and the ViT-B-32 is "
        "untrained, so that accuracies are low; what counts is whether both columns agree: 0.42 is "
        "one of 80 test images in one of 3 seeds.",
    ]
    for model, found in record["features"].items():
        rows = [f"| {name} | {value} |" for name, value in found.items() if name != "accuracy"]
        lines.append("\n".join([f"| {model} | |", "| --- | --- |", *rows]))
        fits = [
            f"| {method} | " + " | ".join(f"{np.mean(values[way]):.2f}" for way in WAYS) + " |"
            for method, values in found["accuracy"].items()
        ]
        head = f"| accuracy with {model}, {SHOTS} shots, mean of 3 seeds | exact | scaled |"
        lines.append("\n".join([head, "| --- | --- | --- |", *fits]))
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write, assert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(torch.device("cpu")), "pillow": PIL.__version__}
    with tempfile.TemporaryDirectory() as name, quiet_pillow():
        folder = Path(name)
        paths = {contrast: write_photographs(folder, contrast) for contrast in CONTRASTS}
        encoder = load_encoder("ViT-B-32", "none", device="cpu", precision="fp32")
        build_quick_resize(WORTH)  # as an extraction does
        record["made-up"] = {contrast: times(encoder, paths[contrast]) for contrast in CONTRASTS}
        print(json.dumps(record, indent=1), flush=True)
        enlarge(given.photographs, folder / "photographs")
        record["photographs"] = sum(1 for _ in (folder / "photographs").rglob("*.jpg"))
        record["features"] = {
            model: features(model, folder / "photographs", paths[CONTRASTS[-1]], folder / model)
            for model in ("nano", "ViT-B-32")
        }
    print(page(record))
    if given.output:
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        given.output.with_suffix(".md").write_text(page(record))
    for model, found in record["features"].items():
        worst = found["cosine, worst of the enlarged"]
        assert worst >= 0.999, f"{model}: cosine {worst}"


if __name__ == "__main__":
    main()
