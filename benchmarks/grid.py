"""Measure the engine against a plain loop on one grid, in one process on one machine.

The grid is 9 ratios x 5 bottlenecks x 3 seeds at 16 shots, 50 epochs and batch 256. The plain loop
(`plain.py`) trains the same runs one at a time, in pieces that alternate with the engine, so that a
machine that is busy for a while slows both; and with as many torch threads as serve it best.
Asserts that mean accuracies agree within 0.2 points and prints how many times faster the engine is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from plain import PlainAdapter, PlainRecipe, accuracy, train_plain

from cafe.devices import product_rate
from cafe.engine import Recipe, Run, evaluate, train
from cafe.features.splits import draw_shots
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.clip_adapter.architecture import VisualAdapter

ROOT = Path(__file__).resolve().parent.parent
SETS = ("whu-rs19.ViT-B-32.openai", "caltech101-66.ViT-B-32.openai")
RATIOS = tuple(i / 10 for i in range(1, 10))
PARTS = (2, 4, 8, 16, 32)  # H = D / part
TOLERANCE = 0.2  # points of mean accuracy


@dataclass(frozen=True)
class GridResult:
    """What is trained: the training sets (one per seed), the runs, and where they are tested."""

    sets: list[TrainingSet]
    runs: list[Run]
    test: Features


def read_features(path: Path, device: torch.device) -> tuple[ClassText, dict[str, Features]]:
    """One feature file in memory: the classes' text and the splits that it has."""
    if not path.is_file():
        sys.exit(f"{path} is absent: pass --features a folder that has it, or --set other files.")
    with np.load(path) as file:
        arrays = {
            name: torch.from_numpy(np.asarray(file[name])) for name in file if name != "class_names"
        }
        names = tuple(str(name) for name in file["class_names"])
    text = ClassText(arrays["text_prompts"].float(), names, float(arrays["logit_scale"]))
    splits = {
        split: Features(arrays[f"{split}_features"].float(), arrays[f"{split}_labels"]).to(device)
        for split in ("train", "test")
    }
    return text.to(device), splits


def make_grid(text: ClassText, splits: dict[str, Features], seeds: int, shots: int) -> GridResult:
    """The grid on one feature file."""
    pool, width = splits["train"], text.features.shape[-1]
    sets = [TrainingSet(pool[draw_shots(pool.y, shots, seed)], text) for seed in range(seeds)]
    runs = [
        Run(VisualAdapter(width // part), seed, seed, Recipe(), {"ratio": ratio})
        for part in PARTS
        for seed in range(seeds)
        for ratio in RATIOS
    ]
    return GridResult(sets, runs, splits["test"])


def time_engine(grid: GridResult, precision: str) -> tuple[float, float, list[float]]:
    """Seconds for the whole grid, of the clock and of processors, and each run's accuracy."""
    start, busy = time.perf_counter(), time.process_time()
    trained = train(grid.runs, grid.sets, precision=precision)  # type: ignore[arg-type]
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return (
        seconds,
        busy,
        [100 * score.accuracy for score in evaluate(trained, grid.sets, [grid.test])],
    )


def time_plain(grid: GridResult, run: Run) -> tuple[float, float]:
    """Seconds of one run by the plain loop, and its accuracy in percent."""
    train_set = grid.sets[run.data]
    text, features = train_set.text, train_set.features
    torch.manual_seed(run.seed)
    hidden, ratio = run.architecture.bottleneck, run.scalars["ratio"]  # type: ignore[attr-defined]
    model = PlainAdapter(ratio, hidden, text.weights, text.logit_scale).to(features.x.device)
    start = time.perf_counter()
    train_plain(model, features.unit, features.y, PlainRecipe(), run.seed)
    if features.x.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, accuracy(model, grid.test.unit, grid.test.y)


def best_threads(grid: GridResult) -> int:
    """The number of torch threads that the plain loop is faster with."""
    most = torch.get_num_threads()
    found = {}
    for threads in {1, most}:
        torch.set_num_threads(threads)
        found[threads] = min(time_plain(grid, grid.runs[30])[0] for _ in range(2))
    torch.set_num_threads(most)
    return min(found, key=lambda threads: found[threads])


def operations(grid: GridResult) -> float:
    """Operations of the grid's matrix products: 5 with each layer's weights, 2 with the classes."""
    total = 0
    for run in grid.runs:
        train_set = grid.sets[run.data]
        classes, width = train_set.text.weights.shape
        hidden = run.architecture.bottleneck  # type: ignore[attr-defined]
        images = len(train_set.features) * run.recipe.epochs
        total += 2 * images * width * (5 * hidden + 2 * classes)
    return float(total)


def compare(grid: GridResult, precisions: list[str], pieces: int, stride: int) -> dict[str, Any]:
    """Alternate pieces of the plain loop with the engine, and put both in one record."""
    time_engine(GridResult(grid.sets, grid.runs[:2], grid.test), precisions[0])  # warms torch up
    chosen = list(range(0, len(grid.runs), stride))
    plain: dict[int, tuple[float, float]] = {}
    engine: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in precisions}
    rates: dict[str, list[float]] = {name: [] for name in precisions}
    most, threads = torch.get_num_threads(), []
    for piece in range(pieces):
        threads.append(best_threads(grid))
        torch.set_num_threads(threads[-1])
        plain.update({i: time_plain(grid, grid.runs[i]) for i in chosen[piece::pieces]})
        torch.set_num_threads(most)
        for name in precisions:
            kind = torch.bfloat16 if name == "bf16" else torch.float32
            rates[name].append(product_rate(grid.test.x.device, kind, size=1024))
            engine[name].append(time_engine(grid, name))
    return summary(grid, plain, engine, rates, threads)


def summary(
    grid: GridResult,
    plain: dict[int, tuple[float, float]],
    engine: dict[str, list[tuple[float, float, list[float]]]],
    rates: dict[str, list[float]],
    threads: list[int],
) -> dict[str, Any]:
    """One record: seconds, ratio, runs per second, share of the product rate, accuracies."""
    count = len(grid.runs)
    loop = mean(seconds for seconds, _ in plain.values()) * count
    reference = mean(found for _, found in plain.values())
    record: dict[str, Any] = {
        "runs": count,
        "images": len(grid.sets[0].features),
        "plain_runs_measured": len(plain),
        "plain_threads": threads,
        "plain_seconds": loop,
        "plain_accuracy": reference,
    }
    for name, tries in engine.items():
        seconds = median(spent for spent, _, _ in tries)
        found = mean(tries[-1][2][i] for i in plain)  # the same runs
        record[name] = {
            "seconds": [spent for spent, _, _ in tries],
            "processor_seconds": [busy for _, busy, _ in tries],
            "times_faster": loop / seconds,
            "runs_per_second": count / seconds,
            "share_of_product_rate": operations(grid) / seconds / median(rates[name]),
            "accuracy": found,
        }
        if abs(found - reference) > TOLERANCE:
            sys.exit(f"mean accuracy is {found:.2f} in {name} and {reference:.2f} in the loop.")
    return record


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "load_at_start": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's name and what it multiplies fast."""
    words = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.split(":")[1].strip() for line in words.splitlines() if "model name" in line]
    fast = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in words]
    return f"{names[0] if names else platform.processor()} ({', '.join(fast)})"


def table(records: dict[str, Any]) -> str:
    """The records as a Markdown table."""
    lines = [
        "| features | precision | plain s | engine s | times faster | runs/s | share of rate | "
        "accuracy, plain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, record in records.items():
        for precision in (key for key in ("fp32", "bf16") if key in record):
            r = record[precision]
            lines.append(
                f"| {name} | {precision} | {record['plain_seconds']:.1f} | "
                f"{median(r['seconds']):.1f} | {r['times_faster']:.1f} | "
                f"{r['runs_per_second']:.1f} | {100 * r['share_of_product_rate']:.0f} % | "
                f"{r['accuracy']:.2f}, {record['plain_accuracy']:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=ROOT / "../shared/data/features")
    parser.add_argument("--set", nargs="+", default=SETS, help="file names without .npz")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--pieces", type=int, default=3, help="alternations of loop and engine")
    parser.add_argument("--stride", type=int, default=1, help="the loop takes every n-th run")
    parser.add_argument("--out", type=Path, help="where to write .json and .md, without suffix")
    args = parser.parse_args()
    records, host = {}, machine(args.device)
    for name in args.set:
        text, splits = read_features(args.features / f"{name}.npz", args.device)
        grid = make_grid(text, splits, args.seeds, args.shots)
        records[name] = compare(grid, args.precision, args.pieces, args.stride)
        print(table({name: records[name]}), flush=True)
    if args.out:
        body = json.dumps({"machine": host, "results": records}, indent=2)
        args.out.with_suffix(".json").write_text(body + "\n")
        args.out.with_suffix(".md").write_text(f"# Grid\n\n{host}\n\n{table(records)}\n")


if __name__ == "__main__":
    main()
