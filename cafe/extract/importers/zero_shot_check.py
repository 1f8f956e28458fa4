"""Whether imported features, labels and texts belong together: zero-shot against chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.dataset import are_unlabelled
from cafe.errors import counted
from cafe.store import SPLITS, FeatureCache
from cafe.store.equal_texts import class_weights

_SURE = 3.0
"""Standard deviations above chance from which zero-shot accuracy is not taken for chance."""

_FEW = 2 / 3
"""A split whose accuracy is below this part of the best one's is told."""

_DISTINCT = 0.75
"""Part of the texts that must be nearest to some class: else they are no order of the classes."""

_MOST_CLASSES = 4000
"""More are not sorted out: a table of so many classes by themselves is 128 MB."""


@dataclass(frozen=True)
class ZeroShotCheck:
    """Zero-shot accuracy on a split of a cache.

    Attributes
    ----------
    split : str
    images : int
    accuracy : float
        In percent.
    chance : float
        Accuracy where the same labels are shuffled, in percent.
    luck : float
        Accuracy that lucky shuffling reaches, in percent.
    at_chance : bool
        Whether the accuracy is no more than luck.
    swapped : tuple of (int, int)
        Classes, and those whose texts most of their images are nearest to, where these are the
        classes in another order; the first three.
    """

    split: str
    images: int
    accuracy: float
    chance: float
    luck: float
    at_chance: bool
    swapped: tuple[tuple[int, int], ...] = ()


def check_zero_shot(cache: FeatureCache, split: str | None = None) -> ZeroShotCheck:
    """Classify the images of a split by the class texts.

    The common mistakes of an import are another order of classes in the labels than in the texts,
    and labels in another order than the images. Every array fits then, and the accuracy is that of
    guessing.

    Parameters
    ----------
    cache : FeatureCache
    split : str, optional
        None takes the test split, else another.

    Returns
    -------
    ZeroShotCheck
    """
    split = split or next(name for name in reversed(SPLITS) if name in cache.counts)
    weights = class_weights(cache.header.text_features)  # (C, D)
    answers = [answer(block.features, weights) for block in cache.blocks(split)]
    return judge(split, cache.labels(split), np.concatenate(answers), len(weights))


def answer(features: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class whose weights (C, D) are nearest to each feature (n, D); lengths do not matter."""
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers that only an edited file has
        classes: NDArray[np.int64] = (features.astype(np.float32) @ weights.T).argmax(axis=1)
    return classes


_IMPORTED = (
    "the classes of texts and labels are probably in different orders, or the texts are of another "
    "encoder"
)

_UNKNOWN_CLASSES = (
    "this encoder does not know these classes by these words; give it other class names or "
    "prompts, or take another encoder. Methods that read no text do not mind"
)
"""Why zero-shot fails where cafe itself encoded images and texts."""


def doubts_of_extraction(cache: FeatureCache) -> list[str]:
    """What speaks against zero-shot on a cache that cafe made; nothing on a handful of images."""
    if not cache.header.has_text or are_unlabelled(cache.header.class_names):
        return []
    check, classes = check_zero_shot(cache), len(cache.header.class_names)
    by_guessing = check.images / classes
    luck = by_guessing + _SURE * math.sqrt(by_guessing * (1 - 1 / classes))
    is_good = check.accuracy > (100 + check.chance) / 2  # few images cannot prove even that
    return doubts([check], _UNKNOWN_CLASSES) if luck < check.images and not is_good else []


def doubts(checks: Sequence[ZeroShotCheck], at_chance: str = _IMPORTED) -> list[str]:
    """What speaks against features, a sentence each; nothing where all is well.

    Parameters
    ----------
    checks : sequence of ZeroShotCheck
        Of the splits of one cache; none of a cache without text.
    at_chance : str
        The likeliest reason if no split is better than guessing.
    """
    if not checks:
        return []
    best = max(checks, key=lambda check: check.accuracy)
    swapped = next((check for check in checks if check.swapped), None)
    if swapped is not None:
        where = f" of {swapped.split}" if _is_far_below(swapped, best) else ""
        pairs = ", ".join(f"of class {label} that of {text}" for label, text in swapped.swapped)
        return [
            f"{_in_words(swapped)}: the classes of texts and labels{where} are probably in "
            f"different orders; the nearest text of most images is, {pairs}."
        ]
    if all(check.at_chance for check in checks):
        return [f"{_in_words(checks[0])}: {at_chance}."]
    return [
        f"{_in_words(check)}, and {best.accuracy:.1f} % on {best.split}: labels of {check.split} "
        "are probably not those of its features, as where one of them was shuffled."
        for check in checks
        if _is_far_below(check, best) or (check.at_chance and best.accuracy > check.luck)
    ]


def _is_far_below(check: ZeroShotCheck, best: ZeroShotCheck) -> bool:
    """Whether part of the labels may be wrong, as so few right answers are no accident."""
    share = best.accuracy / 100
    noise = 100 * math.sqrt(max(0.0, share * (1 - share)) / check.images)  # 1 to rounding
    return check.accuracy < min(_FEW * best.accuracy, best.accuracy - _SURE * noise)


def _in_words(check: ZeroShotCheck) -> str:
    images = counted(check.images, f"{check.split} image")
    return (
        f"zero-shot accuracy is {check.accuracy:.1f} % on {images}, where guessing gives "
        f"{check.chance:.1f} %"
    )


def judge(
    split: str, labels: NDArray[Any], answers: NDArray[np.int64], classes: int
) -> ZeroShotCheck:
    """Compare answers with labels, and with what they would score on shuffled labels."""
    images, right = len(labels), int((labels == answers).sum())
    expected, deviation = _shuffled(labels, answers, classes)
    luck = expected + _SURE * deviation
    # a handful of images may be no more than luck even where all are right
    at_chance = right <= luck < images
    swapped = _find_swapped(labels, answers, classes) if classes <= _MOST_CLASSES else ()
    percent = 100 / images
    return ZeroShotCheck(
        split, images, percent * right, percent * expected, percent * luck, at_chance, swapped
    )


def _shuffled(
    labels: NDArray[Any], answers: NDArray[np.int64], classes: int
) -> tuple[float, float]:
    """Mean and deviation of the right answers where the labels are shuffled (Hoeffding 1951)."""
    n = len(labels)
    a, b = (np.bincount(x, minlength=classes).astype(np.float64) for x in (labels, answers))
    if a.max() == n:  # of one class, which no shuffling changes: guessing at random
        return n / classes, math.sqrt(n * (1 - 1 / classes) / classes)
    mean = float(a @ b) / n
    variance = (float(a @ b) - float(a @ b**2 + a**2 @ b) / n + mean**2) / max(1, n - 1)
    return mean, math.sqrt(max(0.0, variance))


def _find_swapped(
    labels: NDArray[Any], answers: NDArray[np.int64], classes: int
) -> tuple[tuple[int, int], ...]:
    """The first classes whose images have another class's text, if the texts are in another order.

    On half of the images the likeliest text of each class is found, on the rest it is judged.
    """
    half = np.random.default_rng(0).random(len(labels)) < 0.5  # labels may come in turn
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels[half], answers[half]), 1)
    likeliest = np.where(table.any(axis=1), table.argmax(axis=1), np.arange(classes))  # (C,)
    own = int((answers[~half] == labels[~half]).sum())
    other = int((answers[~half] == likeliest[labels[~half]]).sum())
    is_order = len(np.unique(likeliest)) > _DISTINCT * classes
    is_better = other > 1.5 * own and other - own > _SURE * math.sqrt((own + other) / 2)
    if not (is_order and is_better):
        return ()
    pairs = ((label, int(text)) for label, text in enumerate(likeliest) if label != text)
    return tuple(itertools.islice(pairs, 3))
