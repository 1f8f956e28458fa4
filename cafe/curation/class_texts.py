"""What the classes' texts say: which are nearly equal, far from their images, or of no use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cafe.features.tensors import ClassText, Features

_NEARLY_EQUAL = 0.97
_MOST = 50  # pairs of texts


class ClassReport(TypedDict):
    """One class: its images by split, and how its text serves them.

    `zero_shot` is the accuracy of zero-shot CLIP on its images in percent; `taken_for` the class
    that most of the others are taken for; `nearer_texts` how many other classes' texts are nearer
    to the mean of its images than its own; `worst_prompt` the sentence that is farthest from it.
    """

    name: str
    images: dict[str, int]
    zero_shot: float | None
    at_chance: bool
    taken_for: str | None
    nearer_texts: int | None
    far_from_images: bool
    worst_prompt: str | None


def near_texts(text: ClassText) -> list[tuple[int, int, float]]:
    """Pairs of classes whose texts are nearly equal, with their cosine, the nearest first."""
    if not bool(text.weights.any()):
        return []
    found = []
    for start in range(0, len(text.names), 1024):
        cosines = text.weights[start : start + 1024] @ text.weights.T  # (n, C)
        first, second = (cosines >= _NEARLY_EQUAL).nonzero(as_tuple=True)
        later = second > first + start
        pairs = zip(first[later] + start, second[later], strict=True)
        found += [(int(a), int(b), float(cosines[int(a) - start, int(b)])) for a, b in pairs]
    return sorted(found, key=lambda pair: -pair[2])[:_MOST]


def report_classes(
    images: Features,
    splits: Sequence[str],
    text: ClassText,
    names: Sequence[str],
    sentences: Sequence[Sequence[str]],
) -> tuple[list[ClassReport], float | None]:
    """Every class, and the accuracy of zero-shot CLIP on all images; None without texts."""
    classes = len(names)
    has_text = bool(text.weights.any()) and classes > 1
    guesses = guess_by_text(images, text) if has_text else None
    counts = {
        split: torch.bincount(
            images.y[[i for i, own in enumerate(splits) if own == split]], minlength=classes
        )
        for split in dict.fromkeys(splits)
    }
    reports = [
        ClassReport(
            name=name,
            images={split: int(count[label]) for split, count in counts.items()},
            zero_shot=None,
            at_chance=False,
            taken_for=None,
            nearer_texts=None,
            far_from_images=False,
            worst_prompt=None,
        )
        for label, name in enumerate(names)
    ]
    if guesses is None:
        return reports, None
    for label, rows in _rows_by_class(images.y):
        reports[label].update(_judge(label, images, rows, guesses[rows], text, names, sentences))  # type: ignore[typeddict-item]
    return reports, 100 * float((guesses == images.y).double().mean())


def guess_by_text(images: Features, text: ClassText) -> Tensor:
    """Zero-shot CLIP's class of each image. (N,)"""
    blocks = (normalize(x, dim=-1) @ text.weights.T for x in images.blocks(4096))
    return torch.cat([cosines.argmax(dim=1) for cosines in blocks])[: len(images)]


def _rows_by_class(y: Tensor) -> list[tuple[int, Tensor]]:
    order = y.argsort(stable=True)
    labels, counts = torch.unique_consecutive(y[order], return_counts=True)
    return list(zip(labels.tolist(), torch.split(order, counts.tolist()), strict=True))


def _judge(
    label: int,
    images: Features,
    rows: Tensor,
    guesses: Tensor,
    text: ClassText,
    names: Sequence[str],
    sentences: Sequence[Sequence[str]],
) -> dict[str, object]:
    classes = len(names)
    accuracy = float((guesses == label).double().mean())
    others = torch.bincount(guesses[guesses != label], minlength=classes)
    mean = normalize(images[rows].unit.mean(dim=0), dim=0)  # (D,)
    cosines = text.weights @ mean  # (C,)
    nearer = int((cosines > cosines[label]).sum())
    at_chance, far = accuracy <= 1 / classes, nearer >= max(1, (classes - 1) / 2)
    prompts = normalize(text.features[label].float(), dim=-1) @ mean  # (P,)
    said = [place for place, sentence in enumerate(sentences[label]) if sentence]
    worst = min(said, key=lambda place: float(prompts[place]), default=None)
    is_bad = (at_chance or far) and worst is not None
    return {
        "zero_shot": round(100 * accuracy, 2),
        "at_chance": at_chance,
        "taken_for": names[int(others.argmax())] if others.any() else None,
        "nearer_texts": nearer,
        "far_from_images": far,
        "worst_prompt": sentences[label][worst] if is_bad and worst is not None else None,
    }
