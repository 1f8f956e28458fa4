"""Base to new: fit on half of the classes, test on the other half by their text alone.

As CoCoOp (Zhou et al. 2022, arXiv 2203.05557) does with CoOp's order: the first half of the labels
is the base half, ceil(C / 2) classes; each half is tested among its own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.features.task import StoredFeatures, Task
from cafe.features.tensors import ClassText, Features
from cafe.methods.base import Context
from cafe.methods.catalog import CATALOG, find_method
from cafe.methods.head import Head
from cafe.progress import Progress
from cafe.results.metrics import summarize
from cafe.results.predictions import Predictions
from cafe.results.record import Halves
from cafe.results.result import Result
from cafe.study.plan import StudyPlan, check_plan
from cafe.study.runner import run_study
from cafe.study.score_head import score_head


def supports_new_classes(methods: Sequence[str]) -> list[str]:
    """Those of the methods that can take new classes.

    Raises
    ------
    InputError
        If none can.
    """
    able = [name for name in methods if not find_method(name).no_new_classes]
    if not able:
        known = [name for name in CATALOG if not find_method(name).no_new_classes]
        raise InputError(
            f"{', '.join(methods)} cannot take new classes; base-to-new works for "
            f"{', '.join(known)}."
        )
    return able


def left_out(methods: Sequence[str]) -> dict[str, str]:
    """Methods that cannot take new classes, each with the reason."""
    reasons = {name: find_method(name).no_new_classes for name in methods}
    return {name: reason for name, reason in reasons.items() if reason}


def base_and_new(
    task: Task, plan: StudyPlan, context: Context, progress: Progress | None = None
) -> tuple[Task, list[Result], Halves]:
    """Fit on the base half and test on both.

    Parameters
    ----------
    task : Task
    plan : StudyPlan
        Its methods must be among those of `supports_new_classes`.
    context : Context
    progress : callable, optional

    Returns
    -------
    (Task, list of Result, Halves)
        The base half; results, whose accuracy is that on the base half and which have `new` and
        `harmonic_mean` too; and the sizes of the halves.
    """
    classes = len(task.text.names)
    middle = (classes + 1) // 2
    base, new = _half(task, 0, middle), _half(task, middle, classes)
    check_plan(base, plan)
    for half in (base, new):
        if not len(half.splits["test"]):
            raise InputError(f"half of the classes of {task.name} have no test image.")
    test, text = new.splits["test"].to(context.device), new.text.to(context.device)
    results = run_study(base, plan, context=context, progress=progress)
    labels = task.splits["test"].y.numpy()
    tested = [_test_on_new(result, text, test, labels, middle) for result in results]
    return base, tested, Halves(middle, classes - middle)


def _test_on_new(
    result: Result, text: ClassText, test: Features, labels: NDArray[np.int64], middle: int
) -> Result:
    """The result with its accuracy on the new half and the harmonic mean of both halves."""
    new, predictions = [], []
    for head, of_base in zip(result.heads, result.predictions, strict=True):
        scores = score_head(with_classes(head, text), test, len(text.names))
        new.append(scores.accuracy)
        predictions.append(_both_halves(of_base, Predictions.of(scores), labels, middle))
    # seed by seed: the harmonic mean of the means would hide how the halves vary together
    pairs = zip(result.accuracy.per_seed, new, strict=True)
    means = [2 * a * b / (a + b) if a + b else 0.0 for a, b in pairs]
    both = tuple(predictions)
    return replace(result, new=summarize(new), harmonic_mean=summarize(means), predictions=both)


def _both_halves(
    base: Predictions, new: Predictions, labels: NDArray[np.int64], middle: int
) -> Predictions:
    """The predictions of both halves, in the order of all test images."""
    is_new = labels >= middle
    guesses = np.empty(len(labels), np.int32)
    probabilities = np.empty(len(labels), np.float32)
    guesses[~is_new], guesses[is_new] = base.guesses, new.guesses + middle
    probabilities[~is_new], probabilities[is_new] = base.probabilities, new.probabilities
    return Predictions(labels, guesses, probabilities)


def _half(task: Task, start: int, stop: int) -> Task:
    """The task of the classes from `start` to `stop`, numbered from 0."""
    features, names = task.text.features[start:stop], task.text.names[start:stop]
    text = replace(task.text, features=features, names=names)
    splits = {name: _classes(split, start, stop) for name, split in task.splits.items()}
    return replace(task, text=text, splits=splits)


def _classes(features: Features | StoredFeatures, start: int, stop: int) -> Features:
    rows = torch.nonzero((features.y >= start) & (features.y < stop)).flatten()
    part = features[rows]
    # labels count from 0 in either half
    return Features(part.x, part.y - start, part.views, groups=part.groups)


def with_classes(head: Head, text: ClassText) -> Head:
    """The same head over other classes: their text weights take the place of its own."""
    changed: dict[str, Any] = {"weights": text.weights}
    return replace(head, **changed)
