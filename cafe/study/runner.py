"""Methods x shots x seeds on one cache under one protocol: fit, then look at the test set once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from cafe.errors import counted
from cafe.features.splits import Shots, draw_shots, draw_validation
from cafe.features.task import StoredFeatures, Task
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Job, Protocol, Validation
from cafe.methods.catalog import make_method
from cafe.methods.head import Head
from cafe.methods.several_encoders import fit_heads
from cafe.progress import Progress
from cafe.results.result import Calibration, Result
from cafe.study.calibration import calibrate
from cafe.study.diagnostics import Diagnostics, diagnose
from cafe.study.plan import StudyPlan, check_plan
from cafe.study.pool import learning_of
from cafe.study.score_head import score_head


def run_study(
    task: Task,
    plan: StudyPlan,
    *,
    context: Context | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Fit every method at every shot count with every seed, and test each head once.

    A temperature is fitted for every result, which may take up to four more fits of one seed.

    Parameters
    ----------
    task : Task
        Features of one cache; needs the splits "train" and "test".
    plan : StudyPlan
    context : Context, optional
        Where it computes; None is the CPU.
    progress : callable, optional
        See `cafe.progress.Progress`; a step is a method at a shot count.

    Returns
    -------
    list of Result
        Shot counts in the order of the plan, within them the methods.

    Raises
    ------
    InputError
        If the plan asks for what the cache does not have; nothing is fitted.
    """
    check_plan(task, plan)
    results: list[Result] = []
    total, done, stage = len(plan.shots) * len(plan.methods), 0, ""

    def report(text: str) -> None:
        if progress is not None:
            progress(text, done, total)

    def tell(epoch: int, epochs: int) -> None:
        report(f"{stage}, epoch {epoch} of {epochs}")

    def tell_tested(images: int, in_all: int) -> None:
        report(f"{stage}, tested on {images:,} of {counted(in_all, 'image')}")

    context = replace(context or Context(), tell=tell)
    methods = [make_method(name, context, plan.settings) for name in plan.methods]
    test, classes = task.splits["test"].to(context.device), len(task.text.names)
    for shots in plan.shots:
        drawn = draw_first(task, plan, shots)
        jobs, fitted = _jobs(task, plan, shots, drawn, context.device), []
        validations = [job.validation for job in jobs]
        for method in methods:
            stage = f"{method.name}, {counted(shots, 'shot')}"
            report(stage)
            start = time.perf_counter()
            heads = fit_heads(method, jobs)
            fitted.append((method.name, heads, time.perf_counter() - start))
            done += 1
        del jobs  # what temperatures are fitted on takes as much memory
        for name, heads, seconds in fitted:
            stage = f"calibrating {name}"
            calibration = calibrate(name, heads, plan, drawn, task.text, validations, context)
            stage = f"{name}, {counted(shots, 'shot')}"
            # the test set is looked at here, once for each head
            look = partial(score_head, images=test, classes=classes, tell=tell_tested)
            tested = diagnose(look(head, temperature=calibration.temperature) for head in heads)
            learning = learning_of(name, plan.settings)
            results.append(_result(name, shots, heads, seconds, calibration, tested, learning))
    report("done")
    return results


def _result(
    method: str,
    shots: Shots,
    heads: Sequence[Head],
    seconds: float,
    calibration: Calibration,
    tested: Diagnostics,
    learning: str,
) -> Result:
    return Result(
        method,
        shots,
        params=_shared_params(heads),
        accuracy=tested.accuracy,
        seconds=seconds,
        metrics=tested.metrics,
        calibration=calibration,
        learning=learning,
        heads=tuple(heads),
        page=tested.page,
        predictions=tested.predictions,
    )


def _shared_params(heads: Sequence[Head]) -> dict[str, Any]:
    """Hyper-parameters of all seeds: the value where they agree, else one value per seed."""
    merged: dict[str, Any] = {}
    for name in heads[0].params:
        values = [head.params.get(name) for head in heads]
        merged[name] = values[0] if all(value == values[0] for value in values) else values
    return merged


def draw_first(task: Task, plan: StudyPlan, shots: Shots) -> Features | StoredFeatures:
    """The shots of the first seed, read once; all images stay where they are."""
    train = task.splits["train"]
    return train if shots == "all" else train[draw_shots(train.y, shots, plan.seeds[0])]


def _jobs(
    task: Task,
    plan: StudyPlan,
    shots: Shots,
    first: Features | StoredFeatures,
    device: torch.device,
) -> list[Job]:
    """What to fit at a shot count: training set and validation of every seed."""
    train, text = task.splits["train"], task.text.to(device)
    # "all" is the same for every seed: read once, and let go of before temperatures are fitted
    seeds = plan.seeds[1:] if shots != "all" else ()
    drawn: list[Features | StoredFeatures] = [
        first if shots != "all" else train[torch.arange(len(train))]
    ]
    drawn += [train[draw_shots(train.y, shots, seed)] for seed in seeds]
    trains = [TrainingSet(part.to(device), text) for part in drawn]
    trains *= len(plan.seeds) // len(trains)  # the same set for every seed, held once
    return [
        Job(train, validation_for(task, plan.validation, shots, seed, device), seed)
        for train, seed in zip(trains, plan.seeds, strict=True)
    ]


def validation_for(
    task: Task, protocol: Protocol, shots: Shots, seed: int, device: torch.device | str = "cpu"
) -> Validation:
    """What a protocol may look at beside the shots of one draw."""
    if protocol in ("none", "cv"):
        return Validation(protocol)
    stored = task.splits["val"]
    if protocol == "full":
        return Validation(protocol, stored.to(device))
    rows = draw_validation(stored.y, shots, seed)
    return Validation(protocol, stored[rows].to(device))
