"""Measure where a training step's time goes, with the engine's kernels and without.

    python benchmarks/grid_steps.py [--single] [-o FILE]

The nine ratios of one bottleneck and seed train side by side in one thread, at 16 shots of 66
made-up classes, 512 wide, batch 256. Processor microseconds per run and step: torch's products
alone in the same shapes (`grid.time_products`), each kernel, and the rest (ReLUs, batches, Python,
and torch's products where `visual_gradients` does not take its own).

`--single` measures fits of one run, bottleneck D/4, with as many threads as torch takes by itself:
seconds of the clock and of processors, over 50 epochs of 66 classes and 5 epochs of 1,000.

Each figure is the least of a few tries, taken in turns, so that other work on the machine counts
little.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from auto_cost import WIDTH, made_up
from grid import PARTS, RATIOS, machine, time_products
from torch import Tensor

from cafe.engine import Recipe, Run, train, trainer
from cafe.engine.kernels import Kernels, load_kernels
from cafe.features.tensors import TrainingSet
from cafe.methods.clip_adapter.architecture import VisualAdapter

EPOCHS, TRIES = 7, 3
SINGLE = {66: 50, 1000: 5}  # epochs by classes
KERNELS = ("visual_gradients", "blend_rows", "class_errors", "blend_gradient", "adamw")
KINDS = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Timed:
    """Kernels that say how long each took, in processor seconds."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels, self.tiles, self.spent = kernels, kernels.tiles, Counter[str]()

    def __call__(self, name: str, dtype: torch.dtype, *arguments: Tensor | float) -> None:
        """Call and count."""
        start = time.thread_time()
        self.kernels(name, dtype, *arguments)
        self.spent[name] += time.thread_time() - start


def step(runs: list[Run], data: TrainingSet, precision: str, timed: Timed | None) -> Counter[str]:
    """Processor microseconds per run and step, less what one epoch takes: that is set-up too."""
    once = [replace(run, recipe=replace(run.recipe, epochs=1)) for run in runs]
    longer, short = (spend(some, data, precision, timed) for some in (runs, once))
    steps = (EPOCHS - 1) * -(-len(data.features) // runs[0].recipe.batch_size)
    return Counter({n: 1e6 * (v - short[n]) / steps / len(runs) for n, v in longer.items()})


def spend(runs: list[Run], data: TrainingSet, precision: str, timed: Timed | None) -> Counter[str]:
    """Processor seconds of training: "all", and each kernel's."""
    trainer.load_kernels = lambda: timed
    start = time.process_time()
    train(runs, [data], precision=precision)  # type: ignore[arg-type]
    spent = Counter(all=time.process_time() - start)
    if timed is not None:
        spent.update(timed.spent)
        timed.spent.clear()
    return spent


def measure(hidden: int, data: TrainingSet, precision: str, kernels: Kernels) -> dict[str, Any]:
    """One bottleneck in one precision."""
    runs = [Run(VisualAdapter(hidden), 0, 0, Recipe(epochs=EPOCHS), {"ratio": r}) for r in RATIOS]
    images = len(data.features) / -(-len(data.features) // 256)  # of a step, on average
    w = data.text.weights.to(KINDS[precision])
    alone, found = [], {"without": [], "with": []}
    for _ in range(TRIES):
        alone += [time_products(len(runs), round(images), hidden, w) for _ in range(5)]
        found["without"].append(step(runs, data, precision, None))
        found["with"].append(step(runs, data, precision, Timed(kernels)))
    without, fused = (min(tries, key=lambda spent: spent["all"]) for tries in found.values())
    products = 1e6 * min(alone) / len(runs)
    passes = {name: fused[name] for name in KERNELS}
    rest = fused["all"] - sum(passes.values())
    return {
        "without": without["all"],
        "with": fused["all"],
        "products": products,
        **passes,
        "rest": rest,
        "share_of_products": products / fused["all"],
    }


def single_fit(run: Run, data: TrainingSet, precision: str, kernels: Kernels | None) -> list[float]:
    """Seconds of the clock and of processors."""
    trainer.load_kernels = lambda: kernels
    start, busy = time.perf_counter(), time.process_time()
    train([run], [data], precision=precision)  # type: ignore[arg-type]
    return [time.perf_counter() - start, time.process_time() - busy]


def measure_single(classes: int, precision: str, kernels: Kernels) -> dict[str, float]:
    """Fits of one run, with kernels and without."""
    recipe = Recipe(epochs=SINGLE[classes])
    run, data = Run(VisualAdapter(WIDTH // 4), 0, 0, recipe, {"ratio": 0.2}), made_up(classes, 16)
    found: dict[str, list[list[float]]] = {"without": [], "with": []}
    for _ in range(TRIES + 1):
        found["without"].append(single_fit(run, data, precision, None))
        found["with"].append(single_fit(run, data, precision, kernels))
    least = {way: map(min, zip(*tries, strict=True)) for way, tries in found.items()}
    return {
        f"{way}, {clock}": round(value, 3)
        for way, values in least.items()
        for clock, value in zip(("seconds", "processor seconds"), values, strict=True)
    }


def single_table(rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a row per precision and number of classes."""
    names = list(next(iter(rows.values())))
    lines = [f"| fit | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    lines += [f"| {k} | {' | '.join(f'{v:.2f}' for v in r.values())} |" for k, r in rows.items()]
    return "\n".join(lines)


def table(rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table: a row per precision and bottleneck."""
    names = list(next(iter(rows.values())))
    lines = [f"| bottleneck | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for label, row in rows.items():
        cells = [f"{100 * v:.0f} %" if "share" in n else f"{v:.0f}" for n, v in row.items()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_steps(kernels: Kernels) -> tuple[dict[str, dict[str, float]], str]:
    """Rows of steps in one thread, and their table."""
    torch.set_num_threads(1)
    data, rows = made_up(66, 16), {}
    for precision in KINDS:
        for part in PARTS[::2]:
            hidden = WIDTH // part
            rows[f"{precision}, {hidden}"] = measure(hidden, data, precision, kernels)
            print(table(rows).splitlines()[-1], flush=True)
    return rows, table(rows)


def measure_singles(kernels: Kernels) -> tuple[dict[str, dict[str, float]], str]:
    """Rows of single fits, and their table."""
    rows = {
        f"{precision}, {classes} classes": measure_single(classes, precision, kernels)
        for classes in SINGLE
        for precision in KINDS
    }
    return rows, single_table(rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--single", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    kernels = load_kernels()
    if kernels is None:
        raise SystemExit("no kernels on this machine; it needs a C++ compiler.")
    host = machine(torch.device("cpu"))
    trainer.WORTH = 0
    rows, lines = (measure_singles if given.single else measure_steps)(kernels)
    print(lines)
    if given.output:
        about = {**host, "load_at_end": os.getloadavg()[0]}
        kind = "single_fits" if given.single else "microseconds"
        body = json.dumps({"machine": about, kind: rows}, indent=1)
        given.output.with_suffix(".json").write_text(body + "\n")
        given.output.with_suffix(".md").write_text(f"# Steps\n\n{about}\n\n{lines}\n")


if __name__ == "__main__":
    main()
