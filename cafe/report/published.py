"""What papers report on the eleven datasets of CoOp, and how a cache differs from their protocol.

The numbers and their sources are in `published.json`. Shots are text, "0" is zero-shot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from cafe.datasets.catalog import KNOWN
from cafe.datasets.prompts import fill, templates_for
from cafe.store import FeatureCache

_FACTS = json.loads(files("cafe.report").joinpath("published.json").read_text(encoding="utf-8"))

DATASETS = tuple(row.name for row in KNOWN)
"""The eleven datasets, by cafe's names."""

Row = dict[str, Any]


def backbone(model: str) -> str:
    """The image encoder of an open_clip model, whatever its activation."""
    return model.removesuffix("-quickgelu")


def averages(model: str) -> list[Row]:
    """Published averages over the eleven datasets for an encoder.

    Returns
    -------
    list of dict
        `method`: as its paper calls it; `cafe`: the method of cafe that implements it, or None;
        `backbone`; `accuracy`: shots -> percent; `validation`: what hyper-parameters were chosen
        on; `prompts`: "CoOp" for the templates of `cafe.datasets.prompts`, else in words; `source`.
    """
    return [row for row in _FACTS["averages"] if row["backbone"] == backbone(model)]


def methods_with_averages() -> list[str]:
    """Methods of cafe whose average over the eleven datasets is published."""
    return list(dict.fromkeys(row["cafe"] for row in _FACTS["averages"] if row["cafe"]))


def partial_averages(datasets: Iterable[str], model: str) -> dict[str, dict[str, float]]:
    """Published accuracies averaged over some of the datasets: method -> shots -> percent.

    Only methods whose accuracy on each of them is published are averaged.
    """
    by_dataset = _FACTS["per_dataset"].get(backbone(model), {})
    rows: list[dict[str, dict[str, float]]] = [by_dataset.get(name, {}) for name in datasets]
    if not rows or not all(rows):
        return {}
    return {
        method: {s: sum(row[method][s] for row in rows) / len(rows) for s in shots}
        for method, shots in rows[0].items()
    }


def published_beside(datasets: Sequence[str], model: str) -> list[Row]:
    """Published numbers on the same datasets where there are such, else the averages of all eleven.

    Parameters
    ----------
    datasets : sequence of str
        Which of the eleven datasets our numbers are the average of.
    model : str
        The encoder.

    Returns
    -------
    list of dict
        As `averages` gives them, and `over`: the datasets that the accuracy is the average of.
    """
    same = partial_averages(datasets, model) if len(datasets) < len(DATASETS) else {}
    rows = []
    for row in averages(model):
        on_same = row["cafe"] in same
        accuracy = same[row["cafe"]] if on_same else row["accuracy"]
        over = list(datasets) if on_same else list(DATASETS)
        rounded = {shots: round(value, 2) for shots, value in accuracy.items()}
        rows.append({**row, "accuracy": rounded, "over": over})
    return rows


def protocol_differences(cache: FeatureCache, dataset: str) -> list[str]:
    """Where a cache's split, classes, prompts or weights differ from what the papers use."""
    header, classes = cache.header, len(cache.header.class_names)
    (known,) = (row for row in KNOWN if row.name == dataset)
    templates, sizes = templates_for(dataset), split_sizes(cache)
    changes = []
    if known.split_file and known.split_file not in header.source:
        changes.append(f"the split is '{header.source}', the papers use {known.split_file}")
    if sizes != known.sizes:
        ours, theirs = sizes_in_words(sizes), sizes_in_words(known.sizes)
        changes.append(f"train / val / test are {ours} images, theirs {theirs}")
    if classes != known.classes:
        changes.append(f"{classes} classes, theirs {known.classes}")
    if [list(row) for row in header.sentences] != fill(header.class_names, templates):
        changes.append(f"the prompts are like '{header.sentences[0][0]}', theirs '{templates[0]}'")
    if header.pretrained != "openai":
        changes.append(f"the weights are {header.pretrained}, theirs openai")
    return [f"{dataset}: {'; '.join(changes)}."] if changes else []


def split_sizes(cache: FeatureCache) -> tuple[int, ...]:
    """Images of train, val and test."""
    return tuple(cache.counts.get(split, 0) for split in ("train", "val", "test"))


def sizes_in_words(sizes: Iterable[int]) -> str:
    """Sizes of splits, `8,000 / 1,000 / 2,000`."""
    return " / ".join(f"{size:,}" for size in sizes)
