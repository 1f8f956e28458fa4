"""Measure methods that choose nothing, and whether each would lift `auto`.

    python benchmarks/anchors.py [--features DIR] [--seeds 3] [-o FILE]

A cell is one feature file at one shot count; the 21 cells of `benchmarks/auto.py`, on the same
draws. Each method has its defaults, looks at no label but the shots, and is tested once per seed.
"auto + NAME" is the mean of probabilities, 70 % of `auto`'s and 30 % of the method's. Writes
FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from auto import CELLS, ROOT, Measured, table
from grid import machine, read_features

from cafe.features.splits import draw_shots
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method

ANCHORS = ("rla", "lp++", "proker")
BESIDE = ("zero-shot", "clip-adapter", "clap", "auto")
SHARE = 0.3


def measure_cell(
    trains: list[TrainingSet], test: Features, seeds: list[int]
) -> dict[str, Measured]:
    """Every method and every mixture on the draws of one cell."""
    right: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for train, seed in zip(trains, seeds, strict=True):
        answers = {}
        for name in (*BESIDE, *ANCHORS):
            start = time.perf_counter()
            head = make_method(name, Context(), {}).fit(train, seed=seed)
            seconds[name] += (time.perf_counter() - start) / len(seeds)
            answers[name] = head(test.x).softmax(dim=-1)
        for name in ANCHORS:
            mixed = (1 - SHARE) * answers["auto"] + SHARE * answers[name]
            answers[f"auto + {name}"] = mixed
        for name, answer in answers.items():
            hits = (answer.argmax(dim=-1) == test.y).float().mean()
            right[name].append(round(100 * float(hits), 2))
    return {name: Measured(found, round(seconds[name], 3)) for name, found in right.items()}


def measure(folder: Path, seeds: list[int]) -> dict[str, dict[str, Measured]]:
    """Every cell."""
    cells = {}
    for name, counts in CELLS.items():
        text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
        pool = splits["train"]
        for shots in counts:
            trains = [TrainingSet(pool[draw_shots(pool.y, shots, s)], text) for s in seeds]
            cell = measure_cell(trains, splits["test"], seeds)
            cells[f"{name} {shots}"] = cell
            words = ", ".join(f"{n} {mean(m.accuracies):.2f}" for n, m in cell.items())
            print(f"{name}, {shots} shots: {words}", flush=True)
    return cells


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--features", type=Path, default=ROOT.parent / "shared/data/features")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    if not given.features.is_dir():
        sys.exit(f"no feature files in {given.features}; say where with --features DIR.")
    seeds = list(range(given.seeds))
    cells = measure(given.features, seeds)
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
