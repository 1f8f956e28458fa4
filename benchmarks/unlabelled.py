"""Measure what images without labels give: heads with a pool beside the same head without.

    python benchmarks/unlabelled.py [--seeds 5] [--journal FILE] [-o FILE]

A cell is one feature file at one shot count; the 21 cells of `benchmarks/auto.py`. Every head is
fitted on the same draws. Two regimes, always apart:

- all classes: the pool is the whole test split, without its labels.
- few classes: every pool is a batch of at most 64 test images, of 1 to 4 classes ("batches"), or
  the next 64 of a stream whose classes come in bursts (Dirichlet, concentration 0.1; "stream").

Labels of the pool are used for the final score alone. With `--journal` a run that was cut off goes
on where it was: cells that the same code has measured are not measured again. Seconds are those of
the processor. Large pools: `benchmarks/large_pools.py`.

Asserts that pooled `auto` is at least 88.2 on average with no cell below zero-shot, and in no cell
and regime more than 1 point below `auto` without a pool. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from cells import CELLS, ROOT, make_parser
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
INDUCTIVE = ("zero-shot", BASE, "lda-prior")
POOLED = {
    "auto, pool": "auto",
    "lda-prior-pooled": "lda-prior-pooled",
    "transclip": "transclip",
    "stata": "stata",
    "zlap": "zlap",
}
FROM_AUTO = ("auto", "transclip", "stata")
WITHOUT = {"lda-prior-pooled": "lda-prior"}  # the same head without a pool; auto for the others
REGIMES = ("all classes", "batches", "stream")
Rows = NDArray[np.int64]
Cell = dict[str, dict[str, dict[str, list[float]]]]
"""Regime -> head -> "accuracies" in percent and "seconds" a pool, of each seed."""


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


def add(cell: Cell, regime: str, head: str, accuracy: float, seconds: float | None = None) -> None:
    """One seed's figures of a head."""
    row = cell[regime].setdefault(head, {"accuracies": [], "seconds": []})
    row["accuracies"].append(round(accuracy, 2))
    row["seconds"] += [] if seconds is None else [round(seconds, 3)]


def measure_seed(cell: Cell, train: TrainingSet, test: Features, seed: int) -> None:
    """Every head in every regime on one draw."""
    plain = {name: make_method(name, Context(), {}).fit(train, seed=seed) for name in INDUCTIVE}
    for regime in REGIMES:
        pools = [test[torch.from_numpy(r)] for r in pools_of(regime, test.y.numpy(), seed)]
        images = sum(map(len, pools))
        for name, head in plain.items():
            add(cell, regime, name, 100 * sum(right(head, part) for part in pools) / images)
        for name, method in POOLED.items():
            start, hits = time.process_time(), 0
            for part in pools:
                hits += right(fit_pooled(method, Pool(part.x), train, seed, plain[BASE]), part)
            spent = (time.process_time() - start) / len(pools)
            add(cell, regime, name, 100 * hits / images, spent)


def fit_pooled(method: str, pool: Pool, train: TrainingSet, seed: int, base: Head) -> Head:
    """A head with a pool; what starts from `auto` takes one fit of it for all pools."""
    made: Any = make_method(method, Context(), {"pool": pool})
    return made.fit_beside(base, train) if method in FROM_AUTO else made.fit(train, seed=seed)


def measure_cell(folder: Path, name: str, shots: int, seeds: list[int]) -> Cell:
    """Every seed of a cell."""
    text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
    labelled, cell = splits["train"], {regime: {} for regime in REGIMES}
    for seed in seeds:
        rows = draw_shots(labelled.y, shots, seed)
        measure_seed(cell, TrainingSet(labelled[rows], text), splits["test"], seed)
    figures = {h: round(mean(row["accuracies"]), 1) for h, row in cell[REGIMES[0]].items()}
    print(name, shots, figures, flush=True)
    return cell


def code_version() -> str:
    """A digest of all that decides the figures."""
    files = [*sorted((ROOT / "cafe").rglob("*.py")), Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def measure(
    folder: Path, seeds: list[int], files: list[str], journal: Path | None
) -> dict[str, Cell]:
    """Every cell of some of the files; those in the journal are taken from it."""
    about = {"code": code_version(), "seeds": seeds}
    lines = journal.read_text().splitlines() if journal and journal.exists() else []
    rows = [json.loads(line) for line in lines]
    known = {row["cell"]: row["found"] for row in rows if row["about"] == about}
    cells = {}
    for name, shots in ((file, shots) for file in files for shots in CELLS[file]):
        key = f"{name} {shots}"
        cells[key] = known.get(key) or measure_cell(folder, name, shots, seeds)
        if journal and key not in known:
            with journal.open("a") as file:
                file.write(json.dumps({"about": about, "cell": key, "found": cells[key]}) + "\n")
    return cells


def accuracies(cells: dict[str, Cell], regime: str) -> dict[str, list[float]]:
    """Head -> mean accuracy in each cell."""
    heads = next(iter(cells.values()))[regime]
    return {h: [mean(cell[regime][h]["accuracies"]) for cell in cells.values()] for h in heads}


def check(cells: dict[str, Cell]) -> list[str]:
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


def table(cells: dict[str, Cell], regime: str) -> str:
    """A Markdown table of a regime: a row per head, averages first, then every cell."""
    found = accuracies(cells, regime)
    short = [cell.replace(".ViT-B-32", "").replace("imagenet-", "") for cell in cells]
    lines = [
        f"| {regime} | average | worst to zero-shot | worst to itself without | worst to auto | "
        f"processor s a pool | {' | '.join(short)} |",
        "| --- " * (6 + len(cells)) + "|",
    ]
    for head, row in found.items():
        others = ("zero-shot", head if head in INDUCTIVE else WITHOUT.get(head, BASE), BASE)
        gaps = " | ".join(f"{min(map(float.__sub__, row, found[to])):+.2f}" for to in others)
        spent = [s for cell in cells.values() for s in cell[regime][head]["seconds"]]
        figures = " | ".join(f"{a:.2f}" for a in row)
        seconds = f"{mean(spent):.2f}" if spent else "-"
        kind = "inductive" if head in INDUCTIVE else "transductive"
        lines.append(f"| {head} ({kind}) | {mean(row):.2f} | {gaps} | {seconds} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, assert."""
    parser = make_parser(__doc__, seeds=5)
    parser.add_argument("--files", nargs="*", default=list(CELLS))
    parser.add_argument("--journal", type=Path)
    given = parser.parse_args()
    about = f"one run of code {code_version()}; {machine(torch.device('cpu'))}"
    seeds = list(range(given.seeds))
    cells = measure(given.features, seeds, given.files, given.journal)
    broken = check(cells)
    text = "\n\n".join(table(cells, regime) for regime in REGIMES)
    print(text)
    words = f"Seeds 0 to {seeds[-1]}; {about}"
    if given.output:
        record = {"about": words, "cells": cells, "broken": broken}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        given.output.with_suffix(".md").write_text(f"{words}\n\n{text}\n")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
