"""Base to new: fit on half of the classes, test on the other half by their text alone.

As CoCoOp (Zhou et al. 2022, arXiv 2203.05557) does with CoOp's order: the first half of the labels
is the base half, ceil(C / 2) classes; each half is tested among its own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cafe.errors import InputError
from cafe.features.task import StoredFeatures, Task
from cafe.features.tensors import ClassText, Features
from cafe.methods.base import Context
from cafe.methods.catalog import CATALOG, find_method
from cafe.methods.head import Head, predict_in_blocks
from cafe.results.metrics import Summary, accuracy, summarize
from cafe.results.plan import Result, StudyPlan
from cafe.study.study import Progress, check_plan, run


@dataclass(frozen=True)
class BaseToNew:
    """What fitting on the base half gave.

    Attributes
    ----------
    task : Task
        The base half.
    results : list of Result
        Accuracy on the base half, as of any study.
    transfers : list of dict
        For each result `new`, the accuracy on the other half, and `harmonic_mean` of both.
    halves : dict
        Number of `base` and `new` classes.
    """

    task: Task
    results: list[Result]
    transfers: list[dict[str, Summary]]
    halves: dict[str, int]


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


def base_to_new_in_words(found: BaseToNew) -> str:
    """The protocol in words."""
    base, new = found.halves["base"], found.halves["new"]
    return (
        f"Base to new: heads are fitted on the first {base} classes in the order of their labels, "
        f"and tested on those and on the other {new} classes apart, each half among its own "
        "classes."
    )


def base_and_new(
    task: Task, plan: StudyPlan, context: Context, progress: Progress | None = None
) -> BaseToNew:
    """Fit on the base half and test on both.

    Parameters
    ----------
    task : Task
    plan : StudyPlan
        Its methods must be among those of `supports_new_classes`.
    context : Context
    progress : callable, optional
    """
    classes = len(task.text.names)
    middle = (classes + 1) // 2
    base, new = _half(task, 0, middle), _half(task, middle, classes)
    check_plan(base, plan)
    for half in (base, new):
        if not len(half.splits["test"]):
            raise InputError(f"half of the classes of {task.name} have no test image.")
    test = new.splits["test"].to(context.device)
    text = new.text.to(context.device)
    results = run(base, plan, context=context, progress=progress)
    transfers = []
    for result in results:
        there = [
            accuracy(predict_in_blocks(with_classes(head, text), test.x), test.y)
            for head in result.heads
        ]
        pairs = zip(result.accuracy.per_seed, there, strict=True)
        means = [2 * a * b / (a + b) if a + b else 0.0 for a, b in pairs]
        transfers.append({"new": summarize(there), "harmonic_mean": summarize(means)})
    return BaseToNew(base, results, transfers, {"base": middle, "new": classes - middle})


def _half(task: Task, start: int, stop: int) -> Task:
    """The task of the classes from `start` to `stop`, numbered from 0."""
    text = ClassText(
        task.text.features[start:stop],
        task.text.names[start:stop],
        task.text.logit_scale,
        task.text.logit_bias,
    )
    splits = {name: _classes(features, start, stop) for name, features in task.splits.items()}
    return replace(task, text=text, splits=splits)


def _classes(features: Features | StoredFeatures, start: int, stop: int) -> Features:
    rows = torch.nonzero((features.y >= start) & (features.y < stop)).flatten()
    part = features[rows]
    return Features(part.x, part.y - start, part.views)


def with_classes(head: Head, text: ClassText) -> Head:
    """The same head over other classes: their text weights take the place of its own."""
    changed: dict[str, Any] = {"weights": text.weights}
    return replace(head, **changed)
