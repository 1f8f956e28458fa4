"""Measure SgVA-CLIP on the reference features, beside CLIP-Adapter and zero-shot.

    python benchmarks/sgva.py [--features DIR] [--seeds 3] [--cell CELL ...] [-o FILE]

Cells, draws and table are those of `auto.py`: every head is fitted on the same draws and tested
once per seed. `sgva, cv` chooses the weight of the prototypes inside the shots. Asserts that this
is above zero-shot on average. Writes FILE.json and FILE.md; with `--cell` (as the JSON names them)
only these are measured, and the others stay as FILE.json has them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import torch
from auto import CELLS, ROOT, Choice, Measured, measure_cell, table
from grid import machine, read_features

from cafe.features import TrainingSet
from cafe.splits import draw_shots

CHOICES = {
    "zero-shot": Choice("zero-shot", {}),
    "ratio 0.2": Choice("clip-adapter", {}),
    "sgva": Choice("sgva", {}),
    "sgva, cv": Choice("sgva", {}, "cv"),
}


def measure(path: Path, shots: int, seeds: list[int]) -> dict[str, Measured]:
    """One cell."""
    text, splits = read_features(path, torch.device("cpu"))
    pool = splits["train"]
    trains = [TrainingSet(pool[draw_shots(pool.y, shots, s)], text) for s in seeds]
    return measure_cell(trains, splits["test"], seeds, CHOICES)


def main() -> None:
    """Measure, print, write, assert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--features", type=Path, default=ROOT.parent / "shared/data/features")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cell", action="append", default=[])
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    seeds, cells = list(range(given.seeds)), {}
    about = {"seeds": seeds, "machine": machine(torch.device("cpu"))}
    if given.cell:
        before = json.loads(given.output.with_suffix(".json").read_text())["cells"]
        cells = {cell: {c: Measured(**m) for c, m in row.items()} for cell, row in before.items()}
    for name, counts in CELLS.items():
        for shots in counts:
            cell = f"{name} {shots}"
            if not given.cell or cell in given.cell:
                cells[cell] = measure(given.features / f"{name}.openai.npz", shots, seeds)
                print(f"{cell} shots: {mean(cells[cell]['sgva'].accuracies):.2f}", flush=True)
    print(table(cells))
    if given.output:
        rows = {cell: {c: m._asdict() for c, m in row.items()} for cell, row in cells.items()}
        record = {**about, "cells": rows}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        words = f"Seeds {seeds[0]} to {seeds[-1]}; {about['machine']}\n\n{table(cells)}\n"
        given.output.with_suffix(".md").write_text(words)
    gains = [
        mean(row["sgva, cv"].accuracies) - mean(row["zero-shot"].accuracies)
        for row in cells.values()
    ]
    assert mean(gains) > 0, f"sgva, cv is {mean(gains):+.2f} to zero-shot"


if __name__ == "__main__":
    main()
