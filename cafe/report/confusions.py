"""Which classes a method takes for which, as a table for a heat map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cafe.errors import InputError
from cafe.results.page import Confusion
from cafe.results.predictions import HeadName, read_pairs
from cafe.results.result import Result

MOST_CLASSES = 20
"""Classes of a heat map; of more those of the most confused pairs are shown."""

Shares = Mapping[tuple[int, int], float]
"""Label and guess -> share of the label's images in percent, where there are such."""


class ConfusionMap(NamedTuple):
    """Some classes and how often each is taken for another.

    Attributes
    ----------
    classes : list of int
        What is shown; few classes in their order, of many those of one pair side by side.
    total : int
        How many classes there are.
    shares : Shares
        Of wrong answers alone.
    """

    classes: list[int]
    total: int
    shares: Shares


def read_confusions(
    folder: Path, result: Result, seeds: Sequence[int], class_names: Sequence[str]
) -> ConfusionMap | None:
    """The confusions of a result over all seeds; None where nothing is confused or known.

    They are counted in the run's predictions; runs without these have the most confused pairs.
    """
    pairs = result.page.get("confusions", ())
    if not pairs:
        return None
    shares = _counted_shares(folder, result, seeds, class_names) or {
        (pair["label"], pair["predicted"]): pair["share"] for pair in pairs
    }
    return ConfusionMap(_shown(pairs, len(class_names)), len(class_names), shares)


def _shown(pairs: Sequence[Confusion], total: int) -> list[int]:
    if total <= MOST_CLASSES:
        return list(range(total))
    both = (label for pair in pairs for label in (pair["label"], pair["predicted"]))
    return list(dict.fromkeys(both))[:MOST_CLASSES]


def _counted_shares(
    folder: Path, result: Result, seeds: Sequence[int], class_names: Sequence[str]
) -> dict[tuple[int, int], float]:
    heads = [HeadName(result.method, result.shots, seed) for seed in seeds]
    try:
        found, _ = read_pairs(folder, heads, class_names, len(class_names))
    except InputError:  # an earlier version made the run, or it is an average
        return {}
    number = {name: place for place, name in enumerate(class_names)}
    images, wrong = Counter[int](), Counter[tuple[int, int]]()
    for pairs in found.values():
        for (name, guess), count in pairs.items():
            images[number[name]] += count
            if name != guess:
                wrong[number[name], number[guess]] += count
    return {pair: 100 * count / images[pair[0]] for pair, count in wrong.items()}
