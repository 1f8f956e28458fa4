"""Measure test-time adaptation: accuracy before and after, images a second, in two kinds of stream.

    python benchmarks/streams.py [--features DIR] [--seeds 3] [--shots 4] [-o FILE]

The test images of the five reference files come one after another, once in a random order and once
class by class, which is a stream with few classes at a time. The heads are zero-shot CLIP and
`auto` of 4 shots. TDA and OGA learn from every image, InCPL tunes each image by itself with 16 of
the labelled ones as its context (of zero-shot CLIP too, which is what the paper compares with);
its answers do not depend on the order. Labels are used for the accuracy alone.

Asserts that a state kept in the middle of a stream changes nothing. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from cells import CELLS, make_parser
from grid import machine, read_features
from torch import Tensor

from cafe.features.splits import draw_shots
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.inference.adaptation import CONTEXT_IMAGES, STREAMS
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.streaming.incpl import tune

HEADS = ("zero-shot", "auto")
Rows = dict[str, dict[str, list[float]]]


def order_of(y: Tensor, seed: int, *, by_class: bool) -> Tensor:
    """A random order of images, or of classes and of the images in each."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    if not by_class:
        return order
    place = torch.randperm(int(y.max()) + 1, generator=generator)
    return order[place[y[order]].argsort(stable=True)]


def stream(name: str, x: Tensor, logits: Tensor) -> Tensor:
    """Adapted logits; the first part of the stream must be the same from a state as in one go."""
    found = STREAMS[name](logits.shape[1], x.shape[1]).adapt(x, logits)
    half, first = len(x) // 2, STREAMS[name](logits.shape[1], x.shape[1])
    first.adapt(x[:half], logits[:half])
    second = STREAMS[name](logits.shape[1], x.shape[1])
    second.restore(first.state(), first.seen)
    some = slice(half, half + 20)
    if not torch.equal(second.adapt(x[some], logits[some]), found[some]):
        raise SystemExit(f"{name}: a state that was kept changes what comes after it")
    return found


def percent_right(logits: Tensor, y: Tensor) -> float:
    """Top-1 accuracy in percent."""
    return 100 * float((logits.argmax(dim=-1) == y).float().mean())


def measure_head(
    head: str, shots: Features, test: Features, text: ClassText, seed: int
) -> dict[str, tuple[float, float]]:
    """Accuracy and images a second of one head, plain and adapted."""
    fitted = make_method(head, Context(), {}).fit(TrainingSet(shots, text), seed=seed)
    logits, generator = fitted(test.x).float(), torch.Generator().manual_seed(seed)
    context = shots[torch.randperm(len(shots), generator=generator)[:CONTEXT_IMAGES]]
    found = {f"{head}": (percent_right(logits, test.y), 0.0)}
    for by_class in (False, True):
        order = order_of(test.y, seed, by_class=by_class)
        x, z, y = test.x[order], logits[order], test.y[order]
        words = "class by class" if by_class else "random order"
        for name in STREAMS:
            adapted, speed = timed(lambda: stream(name, x, z), len(x))  # noqa: B023  # called now
            found[f"{head}, {name}, {words}"] = (percent_right(adapted, y), speed / 1.5)
    adapted, speed = timed(
        lambda: tune(test.x, logits, text.weights, text.logit_scale, context), len(test)
    )
    found[f"{head}, incpl"] = (percent_right(adapted, test.y), speed)
    return found


def timed(compute: Callable[[], Tensor], images: int) -> tuple[Tensor, float]:
    """A result, and how many images a second it took."""
    start = time.perf_counter()
    result = compute()
    return result, images / (time.perf_counter() - start)


def measure(folder: Path, seeds: int, shots: int) -> dict[str, Any]:
    """Every file: choice -> seed -> (accuracy, images a second)."""
    files = {}
    for name in CELLS:
        text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
        pool = Features(splits["train"].x, splits["train"].y)
        rows: dict[str, list[tuple[float, float]]] = {}
        for seed in range(seeds):
            drawn = pool[draw_shots(pool.y, shots, seed)]
            for head in HEADS:
                for choice, value in measure_head(head, drawn, splits["test"], text, seed).items():
                    rows.setdefault(choice, []).append(value)
        files[name] = rows
        print(name, {c: round(mean(a for a, _ in v), 2) for c, v in rows.items()}, flush=True)
    return files


def table(files: dict[str, Any]) -> str:
    """A Markdown table: a row per choice, the average, the speed, then every file."""
    short = [n.replace(".ViT-B-32", "").replace("imagenet-", "") for n in files]
    lines = [
        f"| | average | worst gain | images/s | {' | '.join(short)} |",
        "| --- " * (4 + len(files)) + "|",
    ]
    for choice in next(iter(files.values())):
        cells = [mean(a for a, _ in rows[choice]) for rows in files.values()]
        plain = [mean(a for a, _ in rows[choice.split(",")[0]]) for rows in files.values()]
        speed = mean(s for rows in files.values() for _, s in rows[choice])
        gain = min(a - b for a, b in zip(cells, plain, strict=True))
        words = f"{gain:+.2f} | {speed:.0f}" if speed else "- | -"
        figures = " | ".join(f"{a:.2f}" for a in cells)
        lines.append(f"| {choice} | {mean(cells):.2f} | {words} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, assert."""
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("--shots", type=int, default=4)
    given = parser.parse_args()
    files = measure(given.features, given.seeds, given.shots)
    print(table(files))
    if given.output:
        about = {
            "seeds": given.seeds,
            "shots": given.shots,
            "machine": machine(torch.device("cpu")),
        }
        given.output.with_suffix(".json").write_text(json.dumps({**about, "files": files}) + "\n")
        seeds = f"seeds 0 to {given.seeds - 1}"
        words = f"Accuracy in %, {seeds}, {given.shots} shots; {about['machine']}"
        given.output.with_suffix(".md").write_text(f"{words}\n\n{table(files)}\n")


if __name__ == "__main__":
    main()
