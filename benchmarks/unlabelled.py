"""Measure what images without labels give: heads with a pool beside the same head without.

    python benchmarks/unlabelled.py [--features DIR] [--seeds 5] [--memory] [-o FILE]

A cell is one feature file at one shot count; the 21 cells of `benchmarks/auto.py`. Every head is
fitted on the same draws. Two regimes, always apart:

- all classes: the pool is the whole test split, without its labels.
- few classes: every pool is a batch of at most 64 test images, of 1 to 4 classes ("batches"), or
  the next 64 of a stream whose classes come in bursts (Dirichlet, concentration 0.1; "stream").

Labels of the pool are used for the final score alone. With `--memory` it also measures the time and
memory of 25,000 to 100,000 images of noise in 1,000 classes, one process each.

Asserts that pooled `auto` is at least 88.2 on average with no cell below zero-shot, and in no cell
and regime more than 1 point below `auto` without a pool. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from auto import CELLS, ROOT
from grid import machine, read_features
from numpy.typing import NDArray

from cafe.features.pool import Pool
from cafe.features.splits import draw_shots
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.head import Head

BATCH = 64
BATCHES = 3
CONCENTRATION = 0.1
BASE = "auto"
POOLED = {
    "auto, pool": ("auto", {}),
    "lda-prior-pooled": ("lda-prior-pooled", {}),
    "transclip": ("transclip", {}),
    "stata": ("stata", {}),
    "zlap": ("zlap", {}),
}
REGIMES = ("all classes", "batches", "stream")
Rows = NDArray[np.int64]
Counts = dict[str, list[int]]
"""Head -> images right, of each seed."""


def batches_of_few(y: Rows, draw: np.random.Generator) -> list[Rows]:
    """Batches of images of 1 to 4 classes."""
    found = []
    for _ in range(BATCHES):
        classes = draw.choice(np.unique(y), draw.integers(1, 5), replace=False)
        rows = draw.permutation(np.flatnonzero(np.isin(y, classes)))
        found.append(rows[:BATCH])
    return found


def stream(y: Rows, draw: np.random.Generator) -> list[Rows]:
    """All images in an order in which classes come in bursts, cut into batches."""
    slots = max(1, len(y) // BATCH)
    parts: list[list[Rows]] = [[] for _ in range(slots)]
    for c in np.unique(y):
        rows = draw.permutation(np.flatnonzero(y == c))
        shares = draw.dirichlet([CONCENTRATION] * slots)
        cuts = (np.cumsum(shares)[:-1] * len(rows)).round().astype(int)
        for part, some in zip(parts, np.split(rows, cuts), strict=True):
            part.append(some)
    order = np.concatenate([draw.permutation(np.concatenate(part)) for part in parts])
    return list(np.split(order, range(BATCH, len(order), BATCH)))[:BATCHES]


def pools_of(regime: str, y: Rows, seed: int) -> list[Rows]:
    """The rows of each pool of a regime."""
    draw = np.random.default_rng(seed)
    if regime == "all classes":
        return [np.arange(len(y))]
    return batches_of_few(y, draw) if regime == "batches" else stream(y, draw)


def right(head: Head, part: Features) -> int:
    """Images of a part that a head gets right."""
    return int((head(part.x).argmax(dim=-1) == part.y).sum())


class Tally:
    """Images right and images asked, and seconds, of every head in every regime of one cell."""

    def __init__(self) -> None:
        self.right: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, regime: str, head: str, hits: int, images: int) -> None:
        """One seed's share of images right, in percent."""
        self.right[regime, head].append(100 * hits / images)


def measure_cell(
    train: TrainingSet, test: Features, seed: int, heads: dict[str, Any], tally: Tally
) -> None:
    """Every head in every regime on one draw."""
    base = make_method(BASE, Context(), {}).fit(train, seed=seed)
    zero_shot = make_method("zero-shot", Context(), {}).fit(train)
    for regime in REGIMES:
        pools = [test[torch.from_numpy(r)] for r in pools_of(regime, test.y.numpy(), seed)]
        images = sum(map(len, pools))
        for name, head in (("zero-shot", zero_shot), (BASE, base)):
            tally.add(regime, name, sum(right(head, part) for part in pools), images)
        for name, (method, settings) in heads.items():
            if name == "lda-prior-pooled" and regime != REGIMES[0]:
                continue  # half of pooled auto, which is measured there
            start, hits = time.perf_counter(), 0
            for part in pools:
                own = {"pool": Pool(part.x), **settings}
                hits += right(fit_pooled(method, own, train, seed, base), part)
            tally.add(regime, name, hits, images)
            tally.seconds[regime, name].append((time.perf_counter() - start) / len(pools))


def fit_pooled(
    method: str, settings: dict[str, Any], train: TrainingSet, seed: int, base: Head
) -> Head:
    """A head with a pool; it starts from one fit of `auto`, which is not repeated per pool."""
    made: Any = make_method(method, Context(), settings)
    return (
        made.fit_beside(base, train) if hasattr(made, "fit_beside") else made.fit(train, seed=seed)
    )


def measure(
    folder: Path, seeds: list[int], heads: dict[str, Any], files: list[str]
) -> dict[str, Tally]:
    """Every cell of some of the files."""
    cells = {}
    for name, counts in ((name, CELLS[name]) for name in files):
        text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
        labelled = splits["train"]
        for shots in counts:
            tally = cells[f"{name} {shots}"] = Tally()
            for seed in seeds:
                rows = draw_shots(labelled.y, shots, seed)
                train = TrainingSet(labelled[rows], text)
                measure_cell(train, splits["test"], seed, heads, tally)
            figures = {h: round(mean(v), 1) for (r, h), v in tally.right.items() if r == REGIMES[0]}
            print(name, shots, figures, flush=True)
    return cells


def accuracies(cells: dict[str, Tally], regime: str) -> dict[str, list[float]]:
    """Head -> mean accuracy in each cell."""
    heads = [h for r, h in next(iter(cells.values())).right if r == regime]
    return {h: [mean(tally.right[regime, h]) for tally in cells.values()] for h in heads}


def check(cells: dict[str, Tally]) -> list[str]:
    """What does not hold of what was aimed at; nothing where all does."""
    broken = []
    for regime in REGIMES:
        found, names = accuracies(cells, regime), list(cells)
        pooled, base, text = found["auto, pool"], found[BASE], found["zero-shot"]
        for name, own, without, zero in zip(names, pooled, base, text, strict=True):
            if own < without - 1:
                broken.append(f"{regime}, {name}: {own - without:+.2f} to auto without a pool")
            if regime == REGIMES[0] and own < zero:
                broken.append(f"{regime}, {name}: {own - zero:+.2f} to zero-shot")
        if regime == REGIMES[0] and mean(pooled) < 88.2:
            broken.append(f"auto with a pool is {mean(pooled):.2f} on average")
    return broken


def table(cells: dict[str, Tally], regime: str) -> str:
    """A Markdown table of a regime: a row per head, averages first, then every cell."""
    found = accuracies(cells, regime)
    short = [cell.replace(".ViT-B-32", "").replace("imagenet-", "") for cell in cells]
    lines = [
        f"| {regime} | average | worst to zero-shot | worst to auto | s a pool | "
        f"{' | '.join(short)} |",
        "| --- " * (5 + len(cells)) + "|",
    ]
    for head, row in found.items():
        gaps = [min(map(float.__sub__, row, found[to])) for to in ("zero-shot", BASE)]
        spent = [s for tally in cells.values() for s in tally.seconds[regime, head]]
        figures = " | ".join(f"{a:.2f}" for a in row)
        seconds = f"{mean(spent):.2f}" if spent else "-"
        kind = "inductive" if head in ("zero-shot", BASE) else "transductive"
        lines.append(
            f"| {head} ({kind}) | {mean(row):.2f} | {gaps[0]:+.2f} | {gaps[1]:+.2f} | {seconds} | "
            f"{figures} |"
        )
    return "\n".join(lines)


_LARGE = """
import resource, sys, time, torch
from cafe.features.pool import Pool
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
method, images = sys.argv[1], int(sys.argv[2])
C, D = 1000, 512
make = torch.Generator().manual_seed(0)
centres = torch.randn(C, D, generator=make)
def draw(y):
    return centres[y] + 1.5 * torch.randn(len(y), D, generator=make)
text = (centres + torch.randn(C, D, generator=make))[:, None]
shots = torch.arange(C).repeat(2)
train = TrainingSet(Features(draw(shots), shots), ClassText(text, tuple(map(str, range(C))), 100.0))
y = torch.randint(C, (images,), generator=make)
pool = Pool(draw(y))
start = time.perf_counter()
settings = {"pool": pool} | ({} if method == "lda-prior-pooled" else {"start": "lda-prior"})
head = make_method(method, Context(), settings).fit(train)
seconds = time.perf_counter() - start
right = (head(pool.x[:2000]).argmax(-1) == y[:2000]).float().mean()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{seconds:.1f} {peak:.2f} {100 * float(right):.1f}")
"""


def measure_large() -> list[dict[str, Any]]:
    """Seconds and GiB of large pools of 1,000 classes of noise, each in a process of its own."""
    rows = []
    for method in list(POOLED)[1:]:
        for images in (25_000, 50_000, 100_000):
            run = [sys.executable, "-c", _LARGE, method, str(images)]
            output = subprocess.run(run, check=True, capture_output=True, text=True)  # noqa: S603
            words = output.stdout.split()
            seconds, peak, accuracy = map(float, words)
            rows.append({"method": method, "images": images, "seconds": seconds, "GiB": peak})
            rows[-1]["accuracy"] = accuracy
            print(rows[-1], flush=True)
    return rows


def large_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of `measure_large`."""
    lines = ["| method | pool images | seconds | GiB at most |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['method']} | {r['images']:,} | {r['seconds']} | {r['GiB']} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, assert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--features", type=Path, default=ROOT.parent / "shared/data/features")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--heads", nargs="*", default=list(POOLED))
    parser.add_argument("--files", nargs="*", default=list(CELLS))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    seeds = list(range(given.seeds))
    heads = {name: POOLED[name] for name in given.heads}
    cells = measure(given.features, seeds, heads, given.files)
    large = measure_large() if given.memory else []
    broken = check(cells)
    tables = "\n\n".join(table(cells, regime) for regime in REGIMES)
    print(tables)
    if given.output:
        write(given.output, seeds, cells, large, broken, tables)
    if broken:
        sys.exit("\n".join(broken))


def write(
    path: Path,
    seeds: list[int],
    cells: dict[str, Tally],
    large: list[dict[str, Any]],
    broken: list[str],
    tables: str,
) -> None:
    """FILE.json and FILE.md."""
    about = f"Seeds {seeds[0]} to {seeds[-1]}; {machine(torch.device('cpu'))}"
    rows = {
        cell: {
            regime: {
                head: {
                    "accuracies": [round(a, 2) for a in tally.right[regime, head]],
                    "seconds": round(mean(tally.seconds[regime, head] or [0.0]), 3),
                }
                for r, head in tally.right
                if r == regime
            }
            for regime in REGIMES
        }
        for cell, tally in cells.items()
    }
    record = {"about": about, "cells": rows, "large": large, "broken": broken}
    path.with_suffix(".json").write_text(json.dumps(record) + "\n")
    more = f"\n\n{large_table(large)}" if large else ""
    path.with_suffix(".md").write_text(f"{about}\n\n{tables}{more}\n")


if __name__ == "__main__":
    main()
