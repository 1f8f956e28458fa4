"""Measure which strategy of `cafe next` gives the most accuracy for the labels that are spent.

    python benchmarks/next.py [--features DIR] [--seeds 5] [--method auto] [-o FILE]

The pool is the training split, its labels hidden until an image is chosen. Each strategy spends one
label per class on average, chosen with the texts alone; then, going by what it has learned, one
more; then two more: 1, 2 and 4 labels per class. After each round the head is fitted on what is
labelled and scored on the test split. Two pools: all training images, which hold the classes in
equal parts, and a long tail, in which the most frequent class has ten times the images of the
rarest. Where a pool holds less than the labels to spend (4 a class of the ImageNet files), all of
it is labelled, and strategies do not differ.

Asserts that the default is no worse than random on average of either pool. Writes FILE.json and
FILE.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from cells import CELLS, make_parser, percent_right
from grid import machine, read_features

from cafe.curation.next_images import WITH_ANSWERS, next_images
from cafe.curation.strategies import STRATEGIES
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method

SPENT = (1, 2, 4)
TAIL = 10  # images of the most frequent class for one of the rarest

Rows = dict[str, dict[str, list[list[float]]]]
"""File -> strategy -> seed -> accuracy after 1, 2 and 4 labels per class."""


def long_tail(features: Features, classes: int) -> Features:
    """Keep ever fewer images of each class, in a random order of the classes."""
    y, kept = features.y.numpy(), []
    for place, label in enumerate(np.random.RandomState(7).permutation(classes)):
        rows = np.flatnonzero(y == label)
        kept.append(rows[: max(1, round(len(rows) * TAIL ** (-place / (classes - 1))))])
    return features[torch.from_numpy(np.sort(np.concatenate(kept)))]


def spend(
    strategy: Any, pool: Features, text: ClassText, test: Features, seed: int, method: str
) -> list[float]:
    """Accuracy after each round, in percent."""
    chosen, accuracies = torch.zeros(0, dtype=torch.int64), []
    for labels in SPENT:
        waiting = torch.ones(len(pool), dtype=torch.bool)
        waiting[chosen] = False
        rest = waiting.nonzero().squeeze(1)
        budget = labels * len(text.names) - len(chosen)
        if len(rest):
            known = pool[chosen]
            found = next_images(
                pool.x[rest], budget, labelled=known, text=text, strategy=strategy, seed=seed
            )
            chosen = torch.cat([chosen, rest[torch.from_numpy(found)]])
        head = make_method(method, Context(), {}).fit(TrainingSet(pool[chosen], text), seed=seed)
        accuracies.append(percent_right(head.logits(test.x), test.y))
    return accuracies


def measure(folder: Path, seeds: int, method: str, *, tail: bool) -> Rows:
    """Every strategy on every file."""
    rows: Rows = {}
    for name in CELLS:
        text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
        pool = Features(splits["train"].x, splits["train"].y)
        pool = long_tail(pool, len(text.names)) if tail else pool
        rows[name] = {
            strategy: [
                spend(strategy, pool, text, splits["test"], seed, method) for seed in range(seeds)
            ]
            for strategy in STRATEGIES
        }
        print(f"{name}: {averages(rows[name][WITH_ANSWERS])}", flush=True)
    return rows


def averages(accuracies: list[list[float]]) -> list[float]:
    """Means over seeds after each round."""
    return [round(mean(column), 2) for column in zip(*accuracies, strict=True)]


def overall(rows: Rows, strategy: str) -> list[float]:
    """Mean over files and rounds for each seed."""
    return [
        mean(map(mean, seed)) for seed in zip(*(r[strategy] for r in rows.values()), strict=True)
    ]


def table(rows: Rows) -> str:
    """A Markdown table: a row per strategy, averages first, then 1 / 2 / 4 labels of each file."""
    short = [n.replace(".ViT-B-32", "").replace("imagenet-", "") for n in rows]
    lines = [f"| | average | over seeds | {' | '.join(short)} |", "| --- " * (3 + len(rows)) + "|"]
    for strategy in sorted(STRATEGIES, key=lambda name: -mean(overall(rows, name))):
        seeds = overall(rows, strategy)
        spread = f"{stdev(seeds):.2f}" if len(seeds) > 1 else "-"
        cells = [" / ".join(f"{a:.1f}" for a in averages(r[strategy])) for r in rows.values()]
        lines.append(f"| {strategy} | {mean(seeds):.2f} | {spread} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, assert."""
    parser = make_parser(__doc__, seeds=5)
    parser.add_argument("--method", default="auto", help="the head that is scored")
    given = parser.parse_args()
    pools = {"equal classes": False, "long tail": True}
    found = {
        words: measure(given.features, given.seeds, given.method, tail=tail)
        for words, tail in pools.items()
    }
    page = "\n\n".join(f"Pool: {words}.\n\n{table(rows)}" for words, rows in found.items())
    print(page)
    about = {"seeds": given.seeds, "method": given.method, "machine": machine(torch.device("cpu"))}
    if given.output:
        given.output.with_suffix(".json").write_text(json.dumps({**about, "pools": found}) + "\n")
        words = f"Accuracy of `{given.method}` in %, {given.seeds} seeds; {about['machine']}"
        given.output.with_suffix(".md").write_text(f"{words}\n\n{page}\n")
    worse = [
        words
        for words, rows in found.items()
        if mean(overall(rows, WITH_ANSWERS)) < mean(overall(rows, "random"))
    ]
    if worse:
        sys.exit(f"{WITH_ANSWERS} is below random: {', '.join(worse)}")


if __name__ == "__main__":
    main()
