"""Methods x shots x seeds on one cache under one protocol: fit, then look at the test set once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cafe.errors import InputError
from cafe.features.splits import Shots, draw_shots, draw_validation
from cafe.features.task import Task
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import NO_VALIDATION, Context, Protocol, Validation
from cafe.methods.catalog import find_method, make_method
from cafe.methods.head import Head, predict
from cafe.results.metrics import accuracy, summarize
from cafe.results.plan import Result, StudyPlan
from cafe.study.diagnostics import diagnose

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the fits done and the fits in all."""


def run(
    task: Task, plan: StudyPlan, *, context: Context | None = None, progress: Progress | None = None
) -> list[Result]:
    """Fit every method at every shot count with every seed, and test each head once.

    Parameters
    ----------
    task : Task
        Features of one cache; needs the splits "train" and "test".
    plan : StudyPlan
    context : Context, optional
        Where it computes; None is the CPU.
    progress : callable, optional

    Returns
    -------
    list of Result
        Shot counts in the order of the plan, within them the methods.

    Raises
    ------
    InputError
        If the plan asks for what the cache does not have; nothing is fitted.
    """
    context = context or Context()
    stage = ""

    def tell(done: int, in_all: int) -> None:
        if progress is not None:
            progress(f"{stage}, epoch {done} of {in_all}", len(results), total)

    context = replace(context, tell=tell)
    check_plan(task, plan)
    methods = [make_method(name, context, plan.settings) for name in plan.methods]
    test = task.splits["test"].to(context.device)
    results: list[Result] = []
    total = len(plan.shots) * len(methods)
    for shots in plan.shots:
        trains, validations = _draws(task, plan, shots, context.device)
        for method in methods:
            stage = f"{method.name}, {shots} shots"
            if progress is not None:
                progress(stage, len(results), total)
            start = time.perf_counter()
            heads = method.fit_many(trains, validations=validations, seeds=plan.seeds)
            seconds = time.perf_counter() - start
            results.append(_judged(method.name, shots, heads, test, seconds))
    if progress is not None:
        progress("done", total, total)
    return results


def _judged(
    method: str, shots: Shots, heads: Sequence[Head], test: Features, seconds: float
) -> Result:
    """Look at the test set, once for each head."""
    scores: list[float] = []

    def logits() -> Iterator[Tensor]:
        for head in heads:
            z = predict(head, test)  # (N, C)
            scores.append(accuracy(z, test.y))
            yield z

    found = diagnose(logits(), test.y)
    score = summarize(scores)
    return Result(method, shots, tuple(heads), score, seconds, found.metrics, found.page)


def _draws(
    task: Task, plan: StudyPlan, shots: Shots, device: torch.device
) -> tuple[list[TrainingSet], list[Validation]]:
    train, text = task.splits["train"], task.text.to(device)
    draws = plan.seeds if shots != "all" else plan.seeds[:1]  # all is the same for every seed
    trains = [
        TrainingSet(train[draw_shots(train.y, shots, seed)].to(device), text) for seed in draws
    ]
    trains *= len(plan.seeds) // len(trains)
    return trains, [validation_for(task, plan.validation, shots, s, device) for s in plan.seeds]


def validation_for(
    task: Task, protocol: Protocol, shots: Shots, seed: int, device: torch.device | str = "cpu"
) -> Validation:
    """What a protocol may look at beside the shots of one draw."""
    if protocol == "none":
        return NO_VALIDATION
    if protocol == "cv":
        return Validation("cv")
    stored = task.splits["val"]
    rows = draw_validation(stored.y, shots if protocol == "few-shot" else "all", seed)
    return Validation(protocol, stored[rows].to(device))


def check_plan(task: Task, plan: StudyPlan) -> None:
    """Refuse a plan that a cache cannot serve, before anything is fitted."""
    for name in plan.methods:
        if find_method(name).needs == "spatial features" and not task.spatial_size:
            raise InputError(
                f"{name} needs spatial features, which the cache of {task.name} has none of: "
                f"cafe extract --dataset {task.name} --model {task.model} --spatial --rebuild"
            )
    if not plan.seeds or not plan.shots or not plan.methods:
        raise InputError("a study needs at least one method, one shot count and one seed.")
    for split in ("train", "test"):
        if split not in task.splits:
            raise InputError(
                f"the cache of {task.name} has no {split} split, only {', '.join(task.splits)}."
            )
    if plan.validation in ("few-shot", "full") and "val" not in task.splits:
        raise InputError(
            f"--validation {plan.validation} needs a validation split, and {task.name} has none; "
            "use cv (inside the training shots) or none."
        )
    largest = int(class_counts(task).max())
    for shots in plan.shots:
        if shots == "all":
            continue
        if not 1 <= shots <= largest:
            raise InputError(
                f"shots must be from 1 to {largest}, the largest class of {task.name}, or 'all'; "
                f"got {shots}."
            )


def class_counts(task: Task) -> Tensor:
    """Training images of every class. (C,)"""
    return torch.bincount(task.splits["train"].y, minlength=len(task.text.names))


def protocol_in_words(task: Task, plan: StudyPlan) -> str:
    """The protocol of a study in one paragraph, for people."""
    counts, words = class_counts(task), []
    for shots in plan.shots:
        short = 0 if shots == "all" else int((counts < shots).sum())
        if short:
            words.append(f"{short} of {len(counts)} classes have fewer than {shots}: all taken.")
    drawn = ", ".join(map(str, plan.shots))
    seeds = ", ".join(map(str, plan.seeds))
    return " ".join(
        [
            f"{drawn} shots per class from the training split, drawn anew for each of the seeds "
            f"{seeds} (nested draws).",
            *words,
            *_choice_in_words(plan, int(counts.max())),
            f"Top-1 accuracy on all {len(task.splits['test'])} test images, which are looked at "
            "once, after everything is chosen.",
            "Intervals are 95 % (Student's t over seeds).",
        ]
    )


def _choice_in_words(plan: StudyPlan, largest: int) -> Iterator[str]:
    """How hyper-parameters come about; `largest` is the number of images of the largest class."""
    yield {
        "none": "No validation image is looked at: hyper-parameters are fixed, or (auto) weighed "
        "inside the training shots.",
        "few-shot": "Hyper-parameters are chosen on min(K, 4) validation images per class.",
        "full": "Hyper-parameters are chosen on the whole validation split.",
        "cv": "Hyper-parameters are chosen by cross-validation inside the training shots.",
    }[plan.validation]
    drawn = [largest if shots == "all" else min(shots, largest) for shots in plan.shots]
    if plan.validation == "cv" and min(drawn) < 2:
        yield "One shot leaves nothing to hold out: there every method keeps its defaults."
    weighs = "auto" in plan.methods or plan.settings.get("ratio") == "auto"
    if plan.validation != "none" and weighs:
        yield "The members of auto are weighed inside the training shots."
