"""How the engine's time grows with runs, shots, classes and width, on random features.

Each row changes one thing of 27 runs in 3 streams of bottleneck D/4 on 100 classes, 16 shots,
D = 512, 5 epochs of batch 256; with the classes the shots change, so that the images do not. Clock
seconds suffer from whatever else the machine does, processor seconds less so.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from grid import machine

from cafe.engine import Recipe, Run, train
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.clip_adapter.architecture import VisualAdapter

BASE = {"runs": 27, "shots": 16, "classes": 100, "width": 512}
ROWS = {
    "runs": (1, 3, 9, 27, 81),
    "shots": (1, 2, 4, 8, 16),
    "classes": (10, 100, 400, 1000),
    "width": (256, 512, 768, 1024),
}
SEEDS = 3


def make_runs(
    runs: int, shots: int, classes: int, width: int, device: torch.device
) -> tuple[list[Run], list[TrainingSet]]:
    """Random features around random class texts, and runs in a stream per seed."""
    generator = torch.Generator().manual_seed(0)
    text = ClassText(
        torch.randn(classes, 1, width, generator=generator), tuple(map(str, range(classes))), 100.0
    )
    y = torch.arange(classes * shots) % classes
    sets = []
    for _ in range(SEEDS):
        noise = torch.randn(len(y), width, generator=generator) / width**0.5
        features = Features(text.weights[y] + 2 * noise, y).to(device)
        sets.append(TrainingSet(features, text.to(device)))
    recipe = Recipe(epochs=5)
    made = [
        Run(
            VisualAdapter(width // 4), i % SEEDS, i % SEEDS, recipe, {"ratio": 0.1 + i / (2 * runs)}
        )
        for i in range(runs)
    ]
    return made, sets


def measure(setting: dict[str, int], precision: str, device: torch.device) -> dict[str, Any]:
    """Clock and processor seconds of one setting, the better of two tries."""
    made, sets = make_runs(**setting, device=device)
    best = (float("inf"), float("inf"))
    for _ in range(2):
        start, busy = time.perf_counter(), time.process_time()
        train(made, sets, precision=precision)  # type: ignore[arg-type]
        spent = time.perf_counter() - start, time.process_time() - busy
        best = min(best[0], spent[0]), min(best[1], spent[1])
    return {**setting, "precision": precision, "seconds": best[0], "processor_seconds": best[1]}


def line(row: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    numbers = " | ".join(str(row[name]) for name in BASE)
    each = 1000 * row["processor_seconds"] / row["runs"]
    return f"| {numbers} | {row['precision']} | {row['seconds']:.2f} | {each:.0f} |"


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--out", type=Path, help="where to write .json and .md, without suffix")
    args = parser.parse_args()
    host, rows = machine(args.device), []
    heads = [*BASE, "precision", "seconds", "processor ms a run"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    print("\n".join(lines))
    for name, values in ROWS.items():
        for value in values:
            for precision in args.precision:
                setting = {**BASE, name: value}
                if name == "classes":
                    setting["shots"] = max(1, BASE["shots"] * BASE["classes"] // value)
                rows.append(measure(setting, precision, args.device))
                lines.append(line(rows[-1]))
                print(lines[-1], flush=True)
    if args.out:
        body = json.dumps({"machine": host, "results": rows}, indent=2)
        args.out.with_suffix(".json").write_text(body + "\n")
        table = "\n".join(lines)
        args.out.with_suffix(".md").write_text(f"# Growth\n\n{host}\n\n{table}\n")


if __name__ == "__main__":
    main()
