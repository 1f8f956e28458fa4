"""Measure SgVA-CLIP on the reference features, beside CLIP-Adapter and zero-shot.

    python benchmarks/sgva.py [--features DIR] [--seeds 3] [--cell "NAME SHOTS" ...] -o FILE

Cells, draws and table are those of `auto.py`: every head is fitted on the same draws and tested
once per seed. `sgva, cv` chooses the weight of the prototypes inside the shots. Asserts that this
is above zero-shot on average. Writes FILE.json and FILE.md after every cell, and goes on from what
FILE.json has.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean

import torch
from auto import Choice, Measured, measure_cell, table
from cells import CELLS, draw_sets, make_parser
from grid import machine, read_features

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
    trains = draw_sets(pool, text, shots, seeds)
    return measure_cell(trains, splits["test"], seeds, CHOICES)


def save(output: Path, seeds: list[int], cells: dict[str, dict[str, Measured]]) -> None:
    """The cells so far, as JSON and as a table."""
    rows = {cell: {c: m._asdict() for c, m in row.items()} for cell, row in cells.items()}
    about = {"seeds": seeds, "machine": machine(torch.device("cpu"))}
    output.with_suffix(".json").write_text(json.dumps({**about, "cells": rows}) + "\n")
    words = f"Seeds {seeds[0]} to {seeds[-1]}; {about['machine']}\n\n{table(cells)}\n"
    output.with_suffix(".md").write_text(words)


def read(output: Path, seeds: list[int]) -> dict[str, dict[str, Measured]]:
    """The cells of an earlier run of the same seeds."""
    file = output.with_suffix(".json")
    found = json.loads(file.read_text()) if file.is_file() else {"seeds": seeds, "cells": {}}
    if found["seeds"] != seeds:
        sys.exit(f"{file} is of the seeds {found['seeds']}; name another -o.")
    return {cell: {c: Measured(**m) for c, m in r.items()} for cell, r in found["cells"].items()}


def main() -> None:
    """Measure, print, write, assert."""
    parser = make_parser(__doc__, seeds=3, is_written=True)
    parser.add_argument("--cell", action="append")
    given = parser.parse_args()
    seeds = list(range(given.seeds))
    every = [f"{name} {shots}" for name, counts in CELLS.items() for shots in counts]
    cells = read(given.output, seeds)
    for cell in given.cell or every:
        if cell not in cells:
            name, shots = cell.split()
            cells[cell] = measure(given.features / f"{name}.openai.npz", int(shots), seeds)
            save(given.output, seeds, cells)
            print(f"{cell} shots: {mean(cells[cell]['sgva'].accuracies):.2f}", flush=True)
    print(table(cells))
    gains = [
        mean(row["sgva, cv"].accuracies) - mean(row["zero-shot"].accuracies)
        for row in cells.values()
    ]
    assert mean(gains) > 0, f"sgva, cv is {mean(gains):+.2f} to zero-shot"


if __name__ == "__main__":
    main()
