"""Measure the engine against a plain loop on one grid, in one process on one machine.

The grid is 9 ratios x 5 bottlenecks x 3 seeds at 16 shots, 50 epochs and batch 256. The plain loop
(`plain.py`) trains the same runs one at a time, in pieces that alternate with the engine, so that a
machine that is busy for a while slows both; and with as many torch threads as serve it best.
Asserts that mean accuracies agree within 0.2 points. Prints how many times faster the engine is,
and two rooflines: the products' own time, measured alone in the same shapes, as a share of the
engine's (both of the processor, so that other work on the machine counts little); and operations
per second as a share of the rate at which square matrices are multiplied.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from plain import PlainAdapter, PlainRecipe, accuracy, train_plain
from torch import Tensor

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


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_engine(grid: GridResult, precision: str) -> tuple[float, float, list[float]]:
    """Seconds for the whole grid, of the clock and of processors, and each run's accuracy."""
    start, busy = time.perf_counter(), time.process_time()
    trained = train(grid.runs, grid.sets, precision=precision)  # type: ignore[arg-type]
    wait_for(grid.test.x.device)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return (
        seconds,
        busy,
        [100 * score.accuracy for score in evaluate(trained, grid.sets, [grid.test])],
    )


def time_plain(grid: GridResult, run: Run) -> tuple[float, float, float]:
    """Seconds of one run by the plain loop, as of `time_engine`, and its accuracy in percent."""
    train_set = grid.sets[run.data]
    text, features = train_set.text, train_set.features
    torch.manual_seed(run.seed)
    hidden, ratio = run.architecture.bottleneck, run.scalars["ratio"]  # type: ignore[attr-defined]
    model = PlainAdapter(ratio, hidden, text.weights, text.logit_scale).to(features.x.device)
    start, busy = time.perf_counter(), time.process_time()
    train_plain(model, features.unit, features.y, PlainRecipe(), run.seed)
    wait_for(features.x.device)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return seconds, busy, accuracy(model, grid.test.unit, grid.test.y)


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


def product_seconds(grid: GridResult, kind: torch.dtype, tries: int = 7) -> float:
    """Processor seconds of the grid's matrix products alone, in the engine's shapes and layouts.

    One thread multiplies what a step of the runs of one stream does, the median of a few tries.
    """
    before, recipe, w = torch.get_num_threads(), grid.runs[0].recipe, grid.sets[0].text.weights
    streams = Counter((run.architecture.bottleneck, run.seed) for run in grid.runs)  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    steps, total = len(grid.sets[0].features) * recipe.epochs / recipe.batch_size, 0.0
    for (hidden, _), runs in streams.items():
        shape = runs, recipe.batch_size, hidden, w.to(kind)
        total += steps * median(time_products(*shape) for _ in range(tries))
    torch.set_num_threads(before)
    return total


def time_products(runs: int, images: int, hidden: int, w: Tensor) -> float:
    """Processor seconds of the seven products of a step of one stream."""
    classes, width = w.shape
    x, down = w.new_ones(1, images, width), w.new_ones(1, runs * hidden, width)
    up, blend = w.new_ones(runs, hidden, width), w.new_ones(runs, images, width)
    flat, error = blend.view(-1, width), w.new_ones(runs * images, classes)
    inner = torch.empty(1, runs * hidden, images, dtype=w.dtype)  # as the engine lays it out
    of_run = inner.view(runs, hidden, images)
    start = time.thread_time()
    torch.bmm(down, x.mT, out=inner)
    torch.bmm(of_run.mT, up, out=blend)
    torch.mm(flat, w.mT, out=error)
    torch.mm(error, w, out=flat)
    torch.bmm(of_run, blend, out=up)
    torch.bmm(up, blend.mT, out=of_run)
    torch.bmm(inner, x, out=down)
    return time.thread_time() - start


def compare(grid: GridResult, precisions: list[str], pieces: int, stride: int) -> dict[str, Any]:
    """Alternate pieces of the plain loop with the engine, and put both in one record."""
    time_engine(GridResult(grid.sets, grid.runs[:2], grid.test), precisions[0])  # warms torch up
    each = len(grid.runs) // len(PARTS)  # runs of a bottleneck; a piece has as many of each
    chosen = [[part * each + i for part in range(len(PARTS))] for i in range(0, each, stride)]
    record: dict[str, Any] = {
        "runs": len(grid.runs),
        "images": len(grid.sets[0].features),
        "plain_threads": best_threads(grid),
        "pieces": [],
    }
    most = torch.get_num_threads()
    for piece in range(pieces):
        torch.set_num_threads(record["plain_threads"])
        plain = {i: time_plain(grid, grid.runs[i]) for some in chosen[piece::pieces] for i in some}
        torch.set_num_threads(most)
        seconds, busy, found = (mean(column) for column in zip(*plain.values(), strict=True))
        loop = seconds * len(grid.runs), busy * len(grid.runs)
        row: dict[str, Any] = {"load": os.getloadavg()[0], "plain_runs": len(plain)}
        row |= {"plain_seconds": loop[0], "plain_processor_seconds": loop[1]}
        row["plain_accuracy"] = found
        row |= {name: measure(grid, name, list(plain), loop) for name in precisions}
        record["pieces"].append(row)
        print({k: v for k, v in row.items() if not isinstance(v, dict)}, flush=True)
        print({name: row[name] for name in precisions}, flush=True)
    for name in precisions:
        check(record["pieces"], name)
    return record


def measure(
    grid: GridResult, name: str, chosen: list[int], loop: tuple[float, float]
) -> dict[str, Any]:
    """The engine in one precision: seconds, the ratio to the loop's, shares, accuracy."""
    kind = torch.bfloat16 if name == "bf16" else torch.float32
    on_cpu = not grid.test.x.is_cuda
    alone = product_seconds(grid, kind) if on_cpu else None
    rate = product_rate(grid.test.x.device, kind, size=1024 if on_cpu else 8192)
    seconds, busy, found = time_engine(grid, name)
    return {
        "seconds": seconds,
        "processor_seconds": busy,
        "times_faster": loop[0] / seconds,
        "times_less_work": loop[1] / busy,
        "product_seconds": alone,
        "share_of_products": alone / busy if alone else None,
        "square_rate": rate,
        "share_of_square_rate": operations(grid) / seconds / rate,
        "accuracy": mean(found[i] for i in chosen),
    }


def check(pieces: list[dict[str, Any]], name: str) -> None:
    """Exit where mean accuracies differ."""
    found = mean(piece[name]["accuracy"] for piece in pieces)
    reference = mean(piece["plain_accuracy"] for piece in pieces)
    if abs(found - reference) > TOLERANCE:
        sys.exit(f"mean accuracy is {found:.2f} in {name} and {reference:.2f} in the loop.")


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
    """The records as a Markdown table: medians, and ranges over the pieces."""
    lines = [
        "| features | precision | load | plain s | engine s | times faster | times less processor "
        "time | of the products' own time | of the rate of squares | accuracy, plain |",
        "| --- " * 10 + "|",
    ]
    for name, record in records.items():
        pieces = record["pieces"]
        for precision in (key for key in ("fp32", "bf16") if key in pieces[0]):
            rows = [piece[precision] for piece in pieces]
            cells = [
                spread([piece["load"] for piece in pieces], 1),
                spread([piece["plain_seconds"] for piece in pieces], 0),
                spread([row["seconds"] for row in rows], 1),
                spread([row["times_faster"] for row in rows], 1),
                spread([row["times_less_work"] for row in rows], 1),
                spread([100 * (row["share_of_products"] or 0) for row in rows], 0, " %"),
                spread([100 * row["share_of_square_rate"] for row in rows], 0, " %"),
            ]
            accuracy = mean(row["accuracy"] for row in rows)
            plain = mean(piece["plain_accuracy"] for piece in pieces)
            found = f"{accuracy:.2f}, {plain:.2f}"
            lines.append(f"| {name} | {precision} | {' | '.join(cells)} | {found} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int, unit: str = "") -> str:
    """The median and the range, `5.2 (4.9 to 6.1)`."""
    middle, least, most = (f"{v:.{digits}f}" for v in (median(values), min(values), max(values)))
    return f"{middle}{unit} ({least} to {most})"


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=ROOT / "../shared/data/features")
    parser.add_argument("--set", nargs="+", default=SETS, help="file names without .npz")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--pieces", type=int, default=5, help="alternations of loop and engine")
    parser.add_argument(
        "--stride", type=int, default=1, help="the loop takes every n-th run of a bottleneck"
    )
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
