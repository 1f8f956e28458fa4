"""Measure heads on large pools of unlabelled images: time, memory, and what the search misses.

    python benchmarks/large_pools.py [--features DIR] [--images N ...] [--jobs 1] [-o FILE]

Each head is fitted on 1,000 classes x 512 numbers, two shots a class, beside one fit of `auto`, in
a process of its own; the images are made up: classes of four clusters each, whose spread has a
spectrum that falls like that of real features. The time is that of the pool alone. Beside it stands
the time of one product (N, 512) x (512, 1000) in the same process: their ratio hangs little on what
else the machine does.

Also: how many of the nearest neighbours that an exact search finds faiss finds in a few cells,
among real features (all development caches of ViT-B/32 together) and made-up ones.

Asserts that the largest pool stays within 4 GiB and that an image of it costs no more than 1.5
times what an image of the smallest does, in processor time. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import make_parser
from grid import machine
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.pool import Pool
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.head import Head
from cafe.methods.transductive.graph import index_of, search

HEADS = ("auto", "lda-prior-pooled", "transclip", "stata", "zlap")
SIZES = (10_000, 30_000, 100_000)
CLASSES, WIDTH, SHOTS, CLUSTERS = 1000, 512, 2, 4
BLOCK = 4096
QUERIES, K = 2000, 3
MOST_GIB, MOST_GROWTH = 4.0, 1.5
REAL = (
    "caltech101.ViT-B-32.openai-notext",
    "oxford_flowers.ViT-B-32.openai-notext",
    "whu-rs19.ViT-B-32.openai",
    "imagenet-dogs.ViT-B-32.openai",
    "imagenet-food.ViT-B-32.openai",
)


class Images:
    """Made-up features: classes, clusters within them, and a spread of few strong directions."""

    def __init__(self) -> None:
        self.make = torch.Generator().manual_seed(0)
        spectrum = torch.arange(1, WIDTH + 1).pow(-0.6)
        self.scale = spectrum * (WIDTH / spectrum.square().sum()).sqrt()
        self.classes = self._noise(CLASSES)
        self.clusters = self.classes[:, None] + 0.8 * self._noise(CLASSES * CLUSTERS).reshape(
            CLASSES, CLUSTERS, WIDTH
        )

    def _noise(self, rows: int) -> Tensor:
        return torch.randn(rows, WIDTH, generator=self.make) * self.scale

    def draw(self, y: Tensor) -> Tensor:
        """Features of images of these classes, a block at a time. (N, D)"""
        x = torch.empty(len(y), WIDTH)
        for first in range(0, len(y), BLOCK):
            own = y[first : first + BLOCK]
            cluster = torch.randint(CLUSTERS, (len(own),), generator=self.make)
            x[first : first + BLOCK] = self.clusters[own, cluster] + 0.8 * self._noise(len(own))
        return x

    def text(self) -> ClassText:
        """Class texts that are the classes' centres, moved."""
        moved = self.classes + 0.5 * torch.randn(CLASSES, WIDTH, generator=self.make)
        return ClassText(moved[:, None], tuple(map(str, range(CLASSES))), 100.0)


def time_product(x: Tensor, w: Tensor) -> tuple[float, float]:
    """Seconds and processor seconds of the reference, a block at a time."""
    start, used = time.perf_counter(), time.process_time()
    for rows in torch.split(x, BLOCK):
        torch.mm(rows, w)
    return time.perf_counter() - start, time.process_time() - used


def draw_shots(images: Images) -> TrainingSet:
    """Two shots of every class."""
    y = torch.arange(CLASSES).repeat(SHOTS)
    return TrainingSet(Features(images.draw(y), y), images.text())


def measure_one(method: str, count: int, base: Head) -> dict[str, Any]:
    """One head on one pool, in this process, beside a head without a pool."""
    images = Images()
    train = draw_shots(images)
    y = torch.randint(CLASSES, (count,), generator=images.make)
    pool = Pool(images.draw(y))
    w = train.text.weights.mT.contiguous()
    references = [time_product(pool.x, w)]
    start, used = time.perf_counter(), time.process_time()
    pooled: Any = make_method(method, Context(), {"pool": pool})
    head = pooled.fit_beside(base, train)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    references.append(time_product(pool.x, w))
    wall, processor = (sum(each) / 2 for each in zip(*references, strict=True))
    rows = torch.arange(0, count, count // QUERIES)
    right = (head(pool.x[rows]).argmax(dim=-1) == y[rows]).float().mean()
    before = (base(pool.x[rows]).argmax(dim=-1) == y[rows]).float().mean()
    return {
        "method": method,
        "images": count,
        "seconds": round(seconds, 1),
        "processor_seconds": round(used, 1),
        "ms_an_image": round(1000 * used / count, 3),
        "products": round(used / processor),
        "product_seconds": round(wall, 2),
        "GiB": round(peak, 2),
        "accuracy": round(100 * float(right), 1),
        "accuracy_of_auto": round(100 * float(before), 1),
        "load": round(os.getloadavg()[0], 1),
    }


def measure_large(sizes: Sequence[int], jobs: int) -> list[dict[str, Any]]:
    """Every head on every size of pool, each in a process of its own."""

    def run(pair: tuple[int, str]) -> dict[str, Any]:
        words = [sys.executable, __file__, "--one", pair[1], "--images", str(pair[0])]
        done = subprocess.run([*words, "--base", file], check=True, capture_output=True, text=True)  # noqa: S603
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(row, flush=True)
        return row

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as workers:
        file = str(Path(folder) / "auto.pt")
        torch.save(make_method("auto", Context(), {}).fit(draw_shots(Images())), file)
        return list(workers.map(run, product(sizes, HEADS)))


def recall(x: Tensor, of: str) -> dict[str, Any]:
    """The share of the exact nearest neighbours that a search of few cells finds."""
    unit = normalize(x, dim=-1)
    rows = torch.linspace(0, len(unit) - 1, QUERIES).long()
    exact, near = (
        search(index_of(unit, exact=limit), unit[rows], K + 1)[1] for limit in (len(unit), 0)
    )
    found = (exact[:, :, None] == near[:, None]).any(dim=2)  # (QUERIES, K + 1)
    others = exact != rows[:, None]
    return {"of": of, "images": len(x), "recall": round(float(found[others].float().mean()), 4)}


def measure_recall(folder: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Of real features and of made-up ones."""
    parts = []
    for name in REAL:
        with np.load(folder / f"{name}.npz") as file:
            names = [f"{split}_features" for split in ("train", "val", "test")]
            parts += [torch.from_numpy(file[n].astype(np.float32)) for n in names if n in file]
    rows = [recall(torch.cat(parts), "real features, ViT-B/32")]
    for count in sizes:
        images = Images()
        made = images.draw(torch.randint(CLASSES, (count,), generator=images.make))
        rows.append(recall(made, "made-up features"))
    print(rows, flush=True)
    return rows


def check(rows: list[dict[str, Any]]) -> list[str]:
    """What does not hold of what was aimed at; nothing where all does."""
    broken, sizes = [], sorted({row["images"] for row in rows})
    cost = {(row["method"], row["images"]): row for row in rows}
    for method in HEADS:
        least, most = cost[method, sizes[0]], cost[method, sizes[-1]]
        if most["GiB"] > MOST_GIB:
            broken.append(f"{method}: {most['GiB']} GiB for {most['images']:,} images")
        growth = most["ms_an_image"] / least["ms_an_image"]
        if growth > MOST_GROWTH:
            broken.append(f"{method}: an image costs {growth:.2f} times as much in a large pool")
    return broken


def tables(rows: list[dict[str, Any]], recalls: list[dict[str, Any]]) -> str:
    """Markdown tables of `measure_large` and `measure_recall`."""
    lines = [
        "| head | pool images | seconds | processor seconds | ms an image | products | s of one | "
        "GiB at most | load |",
        "| --- " * 9 + "|",
    ]
    lines += [
        f"| {r['method']} | {r['images']:,} | {r['seconds']} | {r['processor_seconds']} | "
        f"{r['ms_an_image']} | {r['products']} | {r['product_seconds']} | {r['GiB']} | "
        f"{r['load']} |"
        for r in rows
    ]
    lines += ["", f"| {K} nearest neighbours | images | found by few cells |", "| --- " * 3 + "|"]
    lines += [f"| {r['of']} | {r['images']:,} | {100 * r['recall']:.1f} % |" for r in recalls]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, assert."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--one", choices=HEADS, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    given = parser.parse_args()
    if given.one:
        base = torch.load(given.base, weights_only=False)  # of the process that started this one
        print(json.dumps(measure_one(given.one, given.images[0], base)))
        return
    about = str(machine(torch.device("cpu")))
    rows, recalls = (
        measure_large(given.images, given.jobs),
        measure_recall(given.features, given.images[1:]),
    )
    broken, text = check(rows), tables(rows, recalls)
    print(text)
    if given.output:
        record = {"about": about, "large": rows, "recall": recalls, "broken": broken}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        given.output.with_suffix(".md").write_text(f"{about}\n\n{text}\n")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
