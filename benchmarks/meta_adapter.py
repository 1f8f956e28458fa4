"""Measure Meta-Adapter where it was not trained: on other datasets, and on other classes of one.

    python benchmarks/meta_adapter.py [--features DIR] [--seeds 3] [-o FILE]

Across datasets: weights are trained on all training images of `caltech101-66.ViT-B-32`, and used on
the other datasets of that encoder at 1, 4 and 16 shots as far as these reach; then, for each of
these, trained on all others together. Across classes: they are trained on the first half of a
dataset's classes, and used on the other half's shots. In all of it each seed is another training
and another draw of shots, nothing is fitted on the target, and a test set is looked at once per
seed. The weights are trained by the authors' recipe (5 epochs at 1e-4) and by a longer one. Beside
them stand zero-shot CLIP, methods that are fitted on the same shots, and the same network
untrained, which says what the training is worth.

Asserts that no class without shots moves, and that trained weights are on average above zero-shot.
Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from cells import draw_sets, make_parser, percent_right
from grid import machine, read_features

from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.methods.linear import LinearHead
from cafe.methods.meta_adapter.meta_adapter import refine
from cafe.methods.meta_adapter.training import PUBLISHED, train_meta
from cafe.methods.meta_adapter.weights import MetaWeights

SOURCE = "caltech101-66.ViT-B-32"
TARGETS = {
    "whu-rs19.ViT-B-32": (1, 4, 16),
    "imagenet-dogs.ViT-B-32": (1, 4),
    "imagenet-food.ViT-B-32": (1, 4),
}
HALVED = {"caltech101-66.ViT-B-32": (1, 4, 16), "whu-rs19.ViT-B-32": (1, 4, 16)}
PEERS = ("zero-shot", "tip-adapter", "clip-adapter", "gda", "lda-prior")
SHOTS = 16
RECIPES = {
    "meta-adapter": PUBLISHED,
    "meta-adapter, 20 epochs at 1e-3": replace(PUBLISHED, epochs=20, lr=1e-3),
}
PARTS = {
    "datasets": f"Across datasets, trained on {SOURCE}:",
    "others": "Across datasets, trained on the three others:",
    "classes": "Across classes, trained on the first half, used on the second:",
}


class Data(NamedTuple):
    """The classes' text, and images to draw shots from and to test on."""

    text: ClassText
    train: Features
    test: Features


def load(folder: Path, name: str) -> Data:
    """One feature file."""
    text, splits = read_features(folder / f"{name}.openai.npz", torch.device("cpu"))
    return Data(text, splits["train"], splits["test"])


def half(data: Data, start: int, stop: int) -> Data:
    """The classes from `start` to `stop`, numbered from 0."""

    def part(features: Features) -> Features:
        found = features[(features.y >= start) & (features.y < stop)]
        return Features(found.x, found.y - start, found.views)

    text = data.text
    classes = replace(text, features=text.features[start:stop], names=text.names[start:stop])
    return Data(classes, part(data.train), part(data.test))


def refined(weights: MetaWeights, train: TrainingSet) -> LinearHead:
    """The head of meta-adapter, without a file between."""
    w = train.text.logit_scale * refine(weights, train)  # (C, D)
    return LinearHead(w, torch.zeros(len(w)))


def cell(
    target: Data, shots: int, seeds: Sequence[int], metas: dict[str, list[MetaWeights]]
) -> dict[str, list[float]]:
    """Accuracies of all heads on the draws of one target at one shot count."""
    sets = draw_sets(target.train, target.text, shots, seeds)
    test, found = target.test, {}
    for name in PEERS:
        method = make_method(name, Context(), {})
        heads = [method.fit(train, seed=seed) for train, seed in zip(sets, seeds, strict=True)]
        found[name] = [percent_right(head.logits(test.x), test.y) for head in heads]
    for label, trained in metas.items():
        lines = [refined(weights, train) for weights, train in zip(trained, sets, strict=True)]
        found[label] = [percent_right(head.logits(test.x), test.y) for head in lines]
    return found


def study(sources: Sequence[Data], seeds: Sequence[int]) -> tuple[dict[str, Any], dict[str, float]]:
    """Weights untrained and trained by each recipe, one per seed; and seconds a training."""
    width = sources[0].text.features.shape[-1]
    metas = {"meta-adapter, untrained": [MetaWeights.initial(width, seed) for seed in seeds]}
    trains, seconds = [TrainingSet(one.train, one.text) for one in sources], {}
    for label, recipe in RECIPES.items():
        start = time.perf_counter()
        metas[label] = [
            train_meta(trains, shots=SHOTS, recipe=recipe, seed=seed)[0] for seed in seeds
        ]
        seconds[label] = round((time.perf_counter() - start) / len(seeds), 2)
        check_texts(metas[label][0], sources[0])
    return metas, seconds


def check_texts(weights: MetaWeights, data: Data) -> None:
    """A class without a shot keeps its text."""
    nothing = TrainingSet(data.train[torch.arange(0)], data.text)
    torch.testing.assert_close(refine(weights, nothing), data.text.weights)


def measure(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Every cell of both parts."""
    data = {name: load(folder, name) for name in (SOURCE, *TARGETS)}
    metas, seconds = study([data[SOURCE]], seeds)
    record: dict[str, Any] = {"seconds_a_training": seconds, **{part: {} for part in PARTS}}
    for name, counts in TARGETS.items():
        others, _ = study([data[other] for other in data if other != name], seeds)
        for shots in counts:
            record["datasets"][f"{name} {shots}"] = cell(data[name], shots, seeds, metas)
            record["others"][f"{name} {shots}"] = cell(data[name], shots, seeds, others)
    for name, counts in HALVED.items():
        whole = data[name]
        classes = len(whole.text.names)
        base, new = half(whole, 0, (classes + 1) // 2), half(whole, (classes + 1) // 2, classes)
        metas, _ = study([base], seeds)
        for shots in counts:
            record["classes"][f"{name} {shots}"] = cell(new, shots, seeds, metas)
    return record


def table(cells: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table: a row per head, the average first."""
    labels = list(next(iter(cells.values())))
    short = [name.replace(".ViT-B-32", "").replace("imagenet-", "") for name in cells]
    lines = [f"| | average | {' | '.join(short)} |", "| --- " * (2 + len(cells)) + "|"]
    for label in labels:
        row = [mean(found[label]) for found in cells.values()]
        lines.append(f"| {label} | {mean(row):.2f} | {' | '.join(f'{a:.2f}' for a in row)} |")
    return "\n".join(lines)


def check(cells: dict[str, dict[str, list[float]]]) -> None:
    """Trained weights are above zero-shot on average."""
    gains = [mean(f["meta-adapter"]) - mean(f["zero-shot"]) for f in cells.values()]
    assert mean(gains) > 0, f"meta-adapter is {mean(gains):+.2f} to zero-shot"


def main() -> None:
    """Measure, print, write, assert."""
    given = make_parser(__doc__, seeds=3).parse_args()
    about = {"seeds": list(range(given.seeds)), "machine": machine(torch.device("cpu"))}
    record = {**about, **measure(given.features, range(given.seeds))}
    words = "\n\n".join(
        [
            f"Seeds 0 to {given.seeds - 1}; {about['machine']}",
            f"Seconds a training on {SOURCE}: {record['seconds_a_training']}",
            *[f"{title}\n\n{table(record[part])}" for part, title in PARTS.items()],
        ]
    )
    print(words)
    if given.output:
        given.output.with_suffix(".json").write_text(json.dumps(record) + "\n")
        given.output.with_suffix(".md").write_text(words + "\n")
    for part in PARTS:
        check(record[part])


if __name__ == "__main__":
    main()
