"""Which images to label next, from the features of those with and without a label."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import normalize

from cafe.curation.strategies import STRATEGIES, Pool
from cafe.errors import InputError
from cafe.features.tensors import ClassText, Features, TrainingSet
from cafe.methods.base import Context
from cafe.methods.catalog import make_method

Strategy = Literal["auto", "balanced", "margin", "entropy", "typiclust", "coreset", "random"]

WITH_ANSWERS, WITHOUT = "margin", "typiclust"
"""What "auto" takes where a text or a label tells classes apart, and where nothing does."""


def next_images(
    unlabelled: ArrayLike | Tensor,
    budget: int,
    *,
    labelled: Features | None = None,
    text: ClassText | None = None,
    strategy: Strategy = "auto",
    seed: int = 0,
) -> NDArray[np.int64]:
    """Choose the images that are worth a label.

    Parameters
    ----------
    unlabelled : array or Tensor
        Raw features of the images to choose from. (N, D)
    budget : int
        How many to choose; all where there are fewer.
    labelled : Features, optional
        Features of the images that have a label, with their labels.
    text : ClassText, optional
        The classes' text; without it, class means stand in for it.
    strategy : str
        One of `cafe.curation.strategies.STRATEGIES`, or "auto": "margin" where a text or a label
        tells classes apart, else "typiclust".
    seed : int
        Of k-means, and of "random".

    Returns
    -------
    ndarray
        Rows of `unlabelled`, the most valuable first. (budget,) int64

    Raises
    ------
    InputError
        If there is no image, an argument is out of range, or the strategy needs a head's answers
        and there is neither text nor a label.

    Examples
    --------
    >>> task = cafe.load_task(cafe.FeatureCache.open("cache/digits/nano.glyphs.h5"))
    >>> pool = task.splits["train"].x
    >>> first = cafe.next_images(pool, 20, text=task.text)
    >>> labelled = task.splits["train"][torch.from_numpy(first)]  # a person says what they are
    >>> rest = np.delete(np.arange(len(pool)), first)
    >>> len(rest[cafe.next_images(pool[rest], 20, labelled=labelled, text=task.text)])
    20
    """
    x = torch.as_tensor(unlabelled)
    if x.ndim != 2 or not len(x):
        raise InputError(f"unlabelled images must be features (N, D); got {tuple(x.shape)}.")
    if budget < 1:
        raise InputError(f"budget must be at least 1; got {budget}.")
    known = ("auto", *STRATEGIES)
    if strategy not in known:
        raise InputError(f"strategy must be one of {', '.join(known)}; got '{strategy}'.")
    answers = class_answers(x, labelled, text)
    automatic = WITHOUT if answers is None else WITH_ANSWERS
    pool = _pool(x, labelled, text, answers, seed)
    return STRATEGIES[automatic if strategy == "auto" else strategy](pool, min(budget, len(x)))


def class_answers(
    x: Tensor, labelled: Features | None, text: ClassText | None
) -> NDArray[np.float32] | None:
    """Probabilities of the classes by what is known so far.

    Parameters
    ----------
    x : Tensor
        Raw features. (N, D)
    labelled : Features or None
        The images that have a label.
    text : ClassText or None
        The classes' text.

    Returns
    -------
    ndarray or None
        Those of `lda-prior`, of zero-shot CLIP before the first label; None where nothing tells
        classes apart: there is one class, or neither text nor two labelled classes. (N, C) float32
    """
    if labelled is not None and not len(labelled):
        labelled = None
    if text is None:
        if labelled is None or labelled.y.min() == labelled.y.max():
            return None
        text = _means_as_text(labelled)
    if len(text.names) < 2:
        return None
    shots = labelled or Features(x[:0].float(), torch.zeros(0, dtype=torch.int64))
    method = make_method("zero-shot" if labelled is None else "lda-prior", Context(), {})
    head = method.fit(TrainingSet(shots, text))
    p: NDArray[np.float32] = torch.softmax(head(x), dim=-1).cpu().numpy()
    return p


def _means_as_text(labelled: Features) -> ClassText:
    """Unit class means in the place of class texts."""
    classes = int(labelled.y.max()) + 1
    sums = torch.zeros(classes, labelled.x.shape[1]).index_add_(0, labelled.y, labelled.unit)
    return ClassText(normalize(sums, dim=-1)[:, None], tuple(map(str, range(classes))), 100.0)


def _pool(
    x: Tensor,
    labelled: Features | None,
    text: ClassText | None,
    answers: NDArray[np.float32] | None,
    seed: int,
) -> Pool:
    y = torch.zeros(0, dtype=torch.int64) if labelled is None else labelled.y
    classes = answers.shape[1] if answers is not None else len(text.names) if text else 0
    counts = torch.bincount(y.cpu(), minlength=classes).numpy()
    known = x[:0] if labelled is None else labelled.x
    return Pool(_unit(x), _unit(known), counts, answers, seed)


def _unit(x: Tensor) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = normalize(x.float(), dim=-1).cpu().numpy()
    return unit
