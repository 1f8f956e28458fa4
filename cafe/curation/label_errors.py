"""Likely label errors: confident learning on probabilities of images that were not fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cafe.curation.class_texts import guess_by_text
from cafe.features.splits import draw_folds
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context, Job
from cafe.methods.catalog import make_method
from cafe.methods.head import Head
from cafe.progress import Progress

MOST_FOR_AUTO = 1 << 20
"""Images times classes up to which `auto` judges; of more, a closed form that takes seconds."""

_MOST_IMAGES = 6000  # for which the adapters of `auto` train within seconds
_HARDLY = 0.1  # of the way from guessing to always right
_BLOCK = 1 << 24  # probabilities at a time


class LabelError(NamedTuple):
    """An image whose label is probably wrong.

    Attributes
    ----------
    row : int
        Of all images.
    proposed : int
        The likeliest class.
    confidence : float
        The probability of that class.
    """

    row: int
    proposed: int
    confidence: float


@dataclass(frozen=True)
class Judges:
    """Heads that judge each image without having been fitted on it.

    Attributes
    ----------
    method : str
    """

    method: str
    images: Features
    parts: tuple[tuple[Head, Tensor], ...]
    classes: int

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (n,) and their probabilities (n, C), some at a time; on the CPU."""
        size = max(1, _BLOCK // max(1, self.classes))
        for head, out in self.parts:
            for rows in torch.split(out, size):
                x = self.images[rows].x.float().to(head.device)
                yield rows, head.logits(x).cpu().double().softmax(dim=-1)


def usual_method(images: Features, text: ClassText) -> str:
    """`auto`; where it would take minutes `lda-prior`, and a probe where the texts are of no use.

    Methods that lean on texts judge badly where zero-shot CLIP is hardly better than guessing:
    there it is `map-probe`, and for many images, or without texts, a linear probe.
    """
    if text.equal or not bool(text.weights.any()):
        return "linear-probe"
    is_small = len(images) <= _MOST_IMAGES and len(images) * len(text.names) <= MOST_FOR_AUTO
    chance = 1 / len(text.names)
    right = float((guess_by_text(images, text) == images.y).double().mean())
    if right <= chance + _HARDLY * (1 - chance):
        return "map-probe" if is_small else "linear-probe"
    return "auto" if is_small else "lda-prior"


def fit_judges(
    images: Features,
    text: ClassText,
    method: str,
    context: Context | None = None,
    progress: Progress | None = None,
) -> Judges:
    """Fit a method on folds of all images; the only image of a class is judged by none."""
    folds = draw_folds(images.y, 0, groups=images.groups) if len(text.names) > 1 else []
    context = context or Context()
    fitted = make_method(method, context, {})
    parts = []
    for number, (kept, out) in enumerate(folds):
        if progress is not None:
            progress(f"labels judged by {method}", number, len(folds))
        train = TrainingSet(images[kept], text).to(context.device)
        parts.append((fitted.fit_many([Job(train)])[0], out))
    return Judges(method, images, tuple(parts), len(text.names))


def find_label_errors(judges: Judges, labels: Tensor) -> list[LabelError]:
    """The images whose labels are probably wrong, the surest first.

    Confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70, section 3.1): an image counts
    for the class `j` that is likeliest among those whose probability is at least `t_j`, the mean
    probability of `j` over the images that are labelled so. These counts, scaled to the images of
    each class (equation 3), say how many labels are wrong; so many images are taken, those with
    the lowest probability of their own label, which must not be the likeliest.

    Parameters
    ----------
    judges : Judges
    labels : Tensor
        Class indices. (N,)
    """
    own = torch.full((len(labels),), torch.nan, dtype=torch.float64)
    best, proposed = own.clone(), torch.zeros(len(labels), dtype=torch.int64)
    for rows, p in judges.blocks():
        own[rows] = p.gather(1, labels[rows, None]).squeeze(1)
        best[rows], proposed[rows] = p.max(dim=1)
    judged = ~own.isnan()
    if not judged.any():
        return []
    thresholds = _class_means(own[judged], labels[judged], judges.classes)
    wrong = _expected_wrong(judges, labels, thresholds, judged)
    candidates = (judged & (proposed != labels)).nonzero().squeeze(1)
    order = candidates[own[candidates].argsort(stable=True)][:wrong]
    return [LabelError(row, int(proposed[row]), float(best[row])) for row in order.tolist()]


def _class_means(own: Tensor, labels: Tensor, classes: int) -> Tensor:
    """t_j; above 1, which nothing reaches, for classes without a judged image. (C,)"""
    counts = torch.bincount(labels, minlength=classes)
    sums = torch.zeros(classes, dtype=torch.float64).index_add(0, labels, own)
    return torch.where(counts > 0, sums / counts.clamp_min(1), 2.0)


def _expected_wrong(judges: Judges, labels: Tensor, thresholds: Tensor, judged: Tensor) -> int:
    """How many labels are wrong by the calibrated confident joint; only its diagonal is needed."""
    counted = torch.zeros(judges.classes, dtype=torch.float64)
    agreeing = counted.clone()
    for rows, p in judges.blocks():
        sure = torch.where(p >= thresholds - 1e-12, p, -1.0)
        value, guess = sure.max(dim=1)
        y = labels[rows]
        counted.index_add_(0, y, (value >= 0).double())
        agreeing.index_add_(0, y, ((value >= 0) & (guess == y)).double())
    images = torch.bincount(labels[judged], minlength=judges.classes).double()
    shares = torch.where(counted > 0, 1 - agreeing / counted.clamp_min(1), 0.0)
    return round(float((images * shares).sum()))
