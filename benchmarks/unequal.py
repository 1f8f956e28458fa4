"""Measure what very unequal shots do: 0 to 20 images a class at random, as many as there are.

    python benchmarks/unequal.py [--features DIR] [--seeds 5] [-o FILE]

Every head is fitted on the same draws, looks at no label but the shots, and is tested once per
seed. Asserts that Tip-Adapter with balanced classes is nowhere more than 1 point below zero-shot.
Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from auto import Choice, measure_cell
from cells import CELLS, make_parser
from grid import machine, read_features
from torch import Tensor

from cafe.features.tensors import TrainingSet

MOST = 20
CHOICES = {
    "zero-shot": Choice("zero-shot", {}),
    "clip-adapter, ratio 0.2": Choice("clip-adapter", {"ratio": 0.2}),
    "clip-adapter, ratio auto": Choice("clip-adapter", {"ratio": "auto"}),
    "auto": Choice("auto", {}),
    "tip-adapter": Choice("tip-adapter", {}),
    "tip-adapter, balanced": Choice("tip-adapter", {"balance": True}),
    "tip-adapter-f": Choice("tip-adapter-f", {}),
    "tip-adapter-f, balanced": Choice("tip-adapter-f", {"balance": True}),
    "gda": Choice("gda", {}),
}


def draw(labels: Tensor, seed: int) -> Tensor:
    """Rows of 0 to `MOST` images of each class, or as many as there are."""
    random, y = np.random.default_rng(seed), labels.numpy()
    own = [random.permutation(np.flatnonzero(y == label)) for label in range(int(y.max()) + 1)]
    counts = [random.integers(0, min(MOST, len(rows)) + 1) for rows in own]
    return torch.from_numpy(np.concatenate([r[:k] for r, k in zip(own, counts, strict=True)]))


def measure(folder: Path, seeds: list[int]) -> dict[str, dict[str, float]]:
    """Mean accuracies by set and choice."""
    found = {}
    for name in CELLS:
        text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
        pool = splits["train"]
        trains = [TrainingSet(pool[draw(pool.y, seed)], text) for seed in seeds]
        row = measure_cell(trains, splits["test"], seeds, CHOICES)
        found[name] = {label: round(mean(row[label].accuracies), 2) for label in CHOICES}
        print(name, found[name], flush=True)
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a row per choice, a column per set."""
    lines = [f"| | average | {' | '.join(found)} |", "| --- " * (2 + len(found)) + "|"]
    for label in CHOICES:
        values = [row[label] for row in found.values()]
        lines.append(f"| {label} | {mean(values):.2f} | {' | '.join(f'{v:.2f}' for v in values)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, assert."""
    given = make_parser(__doc__, seeds=5).parse_args()
    found = measure(given.features, list(range(given.seeds)))
    print(table(found))
    if given.output:
        record: dict[str, Any] = {"machine": machine(torch.device("cpu")), "sets": found}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        words = f"0 to {MOST} images a class, {given.seeds} seeds, top-1 accuracy in percent.\n\n"
        given.output.with_suffix(".md").write_text(f"{words}{table(found)}\n")
    lost = [s for s, r in found.items() if r["tip-adapter, balanced"] < r["zero-shot"] - 1]
    if lost:
        sys.exit(f"balanced tip-adapter is below zero-shot on {', '.join(lost)}")


if __name__ == "__main__":
    main()
