"""Measure what choosing nothing gives: `--ratio auto` and `--method auto` beside all fixed choices.

    python benchmarks/auto.py [--features DIR] [--seeds 9] [--first-seed 0] [--all] [-o FILE]

A cell is one feature file at one shot count. Every head is fitted on the same draws, looks at no
label but the shots, and is tested once per seed. Accuracies are means over seeds, and averages are
over cells. With `--all` the other methods of the catalog stand beside them, with their defaults and
(where that is a fit of seconds) with their hyper-parameters chosen by cross-validation.

Asserts that `--ratio auto` is on average 0.4 above the best fixed ratio and `auto` 0.8 above it and
above every other method, that no cell of either is below zero-shot by more than 0.3, and that
`auto` is within 0.5 of GDA's 98.5 and 96.7 at 16 shots on WHU-RS19. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from cells import CELLS, draw_sets, make_parser, percent_right
from grid import machine, read_features

from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Protocol, Validation
from cafe.methods.catalog import make_method
from cafe.methods.ensemble import EnsembleHead

BEST_SINGLE = "best single of ratio auto"


class Choice(NamedTuple):
    """A method with its settings, under a protocol that needs no label beyond the shots."""

    method: str
    settings: dict[str, Any]
    protocol: Protocol = "none"


FIXED = {
    f"ratio {r}": Choice("clip-adapter", {"ratio": r}) for r in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
}
OURS = {
    "zero-shot": Choice("zero-shot", {}),
    **FIXED,
    "ratio learn": Choice("clip-adapter", {"ratio": "learn"}),
    "ratio auto": Choice("clip-adapter", {"ratio": "auto"}),
    "lda-prior": Choice("lda-prior", {}),
    "map-probe": Choice("map-probe", {}),
    "auto": Choice("auto", {}),
}
OTHERS = {
    **{
        name: Choice(name, {})
        for name in (
            "nearest-class",
            "knn",
            "linear-probe",
            "tip-adapter",
            "tip-adapter-f",
            "gda",
            "cross-modal",
            "taskres",
            "clap",
        )
    },
    **{
        f"{name}, cv": Choice(name, {}, "cv")
        for name in ("tip-adapter", "gda", "lda-prior", "map-probe")
    },
}


class Measured(NamedTuple):
    """One choice in one cell: accuracies in percent, one per seed, and seconds per fit."""

    accuracies: list[float]
    seconds: float


def measure_cell(
    trains: list[TrainingSet], test: Features, seeds: list[int], choices: dict[str, Choice]
) -> dict[str, Measured]:
    """Every choice on the draws of one cell."""
    found = {}
    for label, (name, settings, protocol) in choices.items():
        method = make_method(name, Context(), settings)
        start = time.perf_counter()
        heads = [
            method.fit(train, validation=Validation(protocol), seed=seed)
            for train, seed in zip(trains, seeds, strict=True)
        ]
        seconds = round((time.perf_counter() - start) / len(heads), 3)
        found[label] = Measured(
            [percent_right(head.logits(test.x), test.y) for head in heads], seconds
        )
        pools = [head for head in heads if isinstance(head, EnsembleHead)]
        if label == "ratio auto":
            alone = [percent_right(pool.best_single().logits(test.x), test.y) for pool in pools]
            found[BEST_SINGLE] = Measured(alone, 0.0)
    return found


def measure(folder: Path, seeds: list[int], choices: dict[str, Choice]) -> dict[str, Any]:
    """Every cell, as `{cell: {choice: Measured}}`."""
    cells = {}
    for name, counts in CELLS.items():
        text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
        pool = splits["train"]
        for shots in counts:
            trains = draw_sets(pool, text, shots, seeds)
            cells[f"{name} {shots}"] = measure_cell(trains, splits["test"], seeds, choices)
            auto = mean(cells[f"{name} {shots}"]["auto"].accuracies)
            print(f"{name}, {shots} shots: auto {auto:.2f}", flush=True)
    return cells


def check(cells: dict[str, dict[str, Measured]]) -> list[str]:
    """What does not hold of what was aimed at; nothing where all does."""
    means = {cell: {c: mean(m.accuracies) for c, m in row.items()} for cell, row in cells.items()}
    labels = list(next(iter(means.values())))
    average = {label: mean(row[label] for row in means.values()) for label in labels}
    fixed = max(average[label] for label in FIXED)
    broken = []
    for label, gain in (("ratio auto", 0.4), ("auto", 0.8)):
        if average[label] < fixed + gain:
            broken.append(f"{label} is {average[label] - fixed:+.2f} to the best fixed ratio")
        for cell, row in means.items():
            if row[label] < row["zero-shot"] - 0.3:
                broken.append(f"{label} is {row[label] - row['zero-shot']:+.2f} on {cell} shots")
    broken += [f"{label} is above auto" for label in labels if average[label] > average["auto"]]
    for cell, aim in (("whu-rs19.ViT-B-32 16", 98.5), ("whu-rs19.RN50 16", 96.7)):
        if means[cell]["auto"] < aim - 0.5:
            broken.append(f"auto is {means[cell]['auto']:.2f} on {cell} shots, aimed at {aim}")
    return broken


def table(cells: dict[str, dict[str, Measured]]) -> str:
    """A Markdown table: a row per choice, averages first, then every cell."""
    labels = list(next(iter(cells.values())))
    short = [cell.replace(".ViT-B-32", "").replace("imagenet-", "") for cell in cells]
    lines = [
        f"| | average | worst to zero-shot | s a fit | {' | '.join(short)} |",
        "| --- " * (4 + len(cells)) + "|",
    ]
    for label in labels:
        row = [mean(cell[label].accuracies) for cell in cells.values()]
        worst = min(
            a - mean(c["zero-shot"].accuracies) for a, c in zip(row, cells.values(), strict=True)
        )
        seconds = mean(cell[label].seconds for cell in cells.values())
        figures = " | ".join(f"{a:.2f}" for a in row)
        spent = f"{seconds:.2f}" if seconds else "-"
        lines.append(f"| {label} | {mean(row):.2f} | {worst:+.2f} | {spent} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, assert."""
    parser = make_parser(__doc__, seeds=9)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    seeds = list(range(given.first_seed, given.first_seed + given.seeds))
    about = {"seeds": seeds, "machine": machine(torch.device("cpu"))}
    cells = measure(given.features, seeds, OURS | (OTHERS if given.all else {}))
    broken = check(cells)
    print(table(cells))
    if given.output:
        rows = {cell: {c: m._asdict() for c, m in row.items()} for cell, row in cells.items()}
        record = {**about, "cells": rows, "broken": broken}
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        words = f"Seeds {seeds[0]} to {seeds[-1]}; {about['machine']}\n\n{table(cells)}\n"
        given.output.with_suffix(".md").write_text(words)
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
