"""Measure what `auto` costs beside one fit of `clip-adapter`, from 10 classes to 1,000.

    python benchmarks/auto_cost.py [--tries 3] [--only 1000x16] [-o FILE]

Features are made up: noise about one centre a class, 512 wide. Such tasks leave little open, so
that `auto` trains its adapters short. Both methods take their defaults and turns, so that a machine
that is busy for a while slows both; ratios are of each turn, and their median is printed. Writes
FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from grid import machine
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.catalog import find_method

SIZES = ((10, 16), (66, 1), (66, 4), (66, 16), (100, 16), (1000, 1), (1000, 4), (1000, 16))
WIDTH, SPREAD = 512, 0.08


def made_up(classes: int, shots: int) -> TrainingSet:
    """Shots about their class's centre, and texts near it."""
    draw = torch.Generator().manual_seed(0)

    def noise(count: int) -> Tensor:
        return torch.randn(count, WIDTH, generator=draw)

    centres = normalize(noise(classes), dim=-1)
    y = torch.arange(classes).repeat_interleave(shots)
    x = centres[y] + SPREAD * noise(classes * shots)
    texts = (centres + SPREAD * noise(classes))[:, None]
    return TrainingSet(Features(x, y), ClassText(texts, tuple(map(str, range(classes))), 100.0))


def spent(method: str, train: TrainingSet) -> tuple[float, float]:
    """Seconds of one fit, of the clock and of processors."""
    fit = find_method(method)().fit
    start, busy = time.perf_counter(), time.process_time()
    fit(train, seed=0)
    return time.perf_counter() - start, time.process_time() - busy


def measure(classes: int, shots: int, tries: int) -> dict[str, Any]:
    """Turns of both methods at one size."""
    train, rows = made_up(classes, shots), []
    for _ in range(tries):
        fit, auto = spent("clip-adapter", train), spent("auto", train)
        rows.append({"load": os.getloadavg()[0], "fit": fit, "auto": auto})
    ratios = [median(row["auto"][clock] / row["fit"][clock] for row in rows) for clock in (0, 1)]
    return {"seconds_ratio": ratios[0], "processor_ratio": ratios[1], "turns": rows}


def table(sizes: dict[str, Any]) -> str:
    """A Markdown table: a row per size, medians."""
    lines = [
        "| classes x shots | fit, s | auto, s | auto / fit | of processor seconds | load |",
        "| --- " * 6 + "|",
    ]
    for name, found in sizes.items():
        fit, auto = (median(row[k][0] for row in found["turns"]) for k in ("fit", "auto"))
        load = median(row["load"] for row in found["turns"])
        ratios = f"{found['seconds_ratio']:.1f} | {found['processor_ratio']:.1f}"
        lines.append(f"| {name} | {fit:.2f} | {auto:.2f} | {ratios} | {load:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[f"{c}x{k}" for c, k in SIZES])
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    host, found = machine(torch.device("cpu")), {}
    measure(10, 16, 1)  # warms torch up
    for classes, shots in SIZES:
        name = f"{classes}x{shots}"
        if given.only is None or name in given.only:
            found[name] = measure(classes, shots, given.tries)
            print(table({name: found[name]}).splitlines()[-1], flush=True)
    if given.output:
        body = json.dumps({"machine": host, "sizes": found}, indent=1)
        given.output.with_suffix(".json").write_text(body + "\n")
        given.output.with_suffix(".md").write_text(f"# auto\n\n{host}\n\n{table(found)}\n")


if __name__ == "__main__":
    main()
