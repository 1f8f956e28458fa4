"""Measure methods that choose nothing, and whether each would lift `auto`.

    python benchmarks/anchors.py [--features DIR] [--seeds 3] [-o FILE]
    python benchmarks/anchors.py --cache FILE... [--seeds 3] [-o FILE]

A cell is one feature file at one shot count; the 21 cells of `benchmarks/auto.py`, on the same
draws. Each method has its defaults, looks at no label but the shots, and is tested once per seed.
"auto + NAME" is the mean of probabilities, 70 % of `auto`'s and 30 % of the method's. Writes
FILE.json and FILE.md.

`prolip` needs features before the projection, which no feature file has. With --cache its cells
are caches of `cafe extract --pre-projection`, at 1 to 16 shots.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from auto import Measured, table
from cells import CELLS, draw_sets, make_parser, percent_right
from grid import machine, read_features

from cafe import FeatureCache
from cafe.features.task import load_task
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.head import predict

ANCHORS = ("rla", "lp++", "proker")
WITH_PROLIP = ("prolip", "rla")
SHOTS = (1, 2, 4, 8, 16)
BESIDE = ("zero-shot", "clip-adapter", "clap", "auto")
SHARE = 0.3


def measure_cell(
    trains: list[TrainingSet], test: Features, seeds: list[int], anchors: Sequence[str] = ANCHORS
) -> dict[str, Measured]:
    """Every method and every mixture on the draws of one cell."""
    right: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for train, seed in zip(trains, seeds, strict=True):
        answers = {}
        for name in (*BESIDE, *anchors):
            start = time.perf_counter()
            head = make_method(name, Context(), {}).fit(train, seed=seed)
            seconds[name] += (time.perf_counter() - start) / len(seeds)
            answers[name] = predict(head, test).softmax(dim=-1)
        for name in anchors:
            mixed = (1 - SHARE) * answers["auto"] + SHARE * answers[name]
            answers[f"auto + {name}"] = mixed
        for name, answer in answers.items():
            right[name].append(percent_right(answer, test.y))
    return {name: Measured(found, round(seconds[name], 3)) for name, found in right.items()}


def measure(folder: Path, seeds: list[int]) -> dict[str, dict[str, Measured]]:
    """Every cell."""
    cells = {}
    for name, counts in CELLS.items():
        text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
        pool = splits["train"]
        for shots in counts:
            trains = draw_sets(pool, text, shots, seeds)
            cell = measure_cell(trains, splits["test"], seeds)
            cells[f"{name} {shots}"] = tell(name, shots, cell)
    return cells


def measure_caches(files: list[Path], seeds: list[int]) -> dict[str, dict[str, Measured]]:
    """Every cache with features before the projection at every number of shots."""
    cells = {}
    for file in files:
        task = load_task(FeatureCache.open(file))
        pool, test = task.splits["train"], task.splits["test"].to("cpu")
        for shots in SHOTS:
            trains = draw_sets(pool, task.text, shots, seeds)
            cell = measure_cell(trains, test, seeds, WITH_PROLIP)
            cells[f"{task.name} {shots}"] = tell(task.name, shots, cell)
    return cells


def tell(name: str, shots: int, cell: dict[str, Measured]) -> dict[str, Measured]:
    """Print a cell."""
    words = ", ".join(f"{n} {mean(m.accuracies):.2f}" for n, m in cell.items())
    print(f"{name}, {shots} shots: {words}", flush=True)
    return cell


def by_shots(cells: dict[str, dict[str, Measured]]) -> str:
    """A Markdown table: averages over the files that have each number of shots."""
    counts = sorted({int(cell.split()[-1]) for cell in cells})
    lines = [f"| shots | {' | '.join(map(str, counts))} |", "| --- " * (1 + len(counts)) + "|"]
    for label in next(iter(cells.values())):
        found = [
            mean(mean(row[label].accuracies) for c, row in cells.items() if c.split()[-1] == str(n))
            for n in counts
        ]
        lines.append(f"| {label} | {' | '.join(f'{value:.2f}' for value in found)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("--cache", type=Path, nargs="+")
    given = parser.parse_args()
    if given.cache is None and not given.features.is_dir():
        sys.exit(f"no feature files in {given.features}; say where with --features DIR.")
    seeds = list(range(given.seeds))
    cells = (
        measure(given.features, seeds) if not given.cache else measure_caches(given.cache, seeds)
    )
    words = f"{by_shots(cells)}\n\n{table(cells)}"
    print(words)
    if given.output:
        about = machine(torch.device("cpu"))
        rows = {cell: {c: m._asdict() for c, m in row.items()} for cell, row in cells.items()}
        record = {"seeds": seeds, "machine": about, "share": SHARE, "cells": rows}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        given.output.with_suffix(".md").write_text(
            f"Seeds 0 to {seeds[-1]}; {about}. Averages over the files of each number of shots, "
            f"then every cell.\n\n{words}\n"
        )


if __name__ == "__main__":
    main()
