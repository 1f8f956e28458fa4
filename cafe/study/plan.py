"""What a study compares, under which protocol: read from arguments, and refused before a fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cafe.errors import InputError, counted, verb
from cafe.features.pool import INDUCTIVE
from cafe.features.splits import Shots
from cafe.features.task import Task
from cafe.methods.base import Protocol
from cafe.methods.catalog import CATALOG, find_method
from cafe.methods.prompt_weighting import SETTING as WEIGHTING
from cafe.methods.self_training import SETTING
from cafe.results.record import RecordedProtocol
from cafe.store import FeatureCache
from cafe.store.key import say_items
from cafe.study.equal_texts import check_texts
from cafe.study.pool import learning_in_words
from cafe.study.prompt_weighting import check_weighting, weighting_in_words

COMMON_SETTINGS = ("ratio", "bottleneck", "epochs", "lr", "weight_decay", "batch_size")
"""Hyper-parameters that `fit`, `compare` and `AdapterClassifier` name in their signatures."""


def open_caches(
    caches: Sequence[FeatureCache | Path | str] | FeatureCache | Path | str | None,
) -> list[FeatureCache]:
    """Open one cache or several, each as `FeatureCache.open` does."""
    if caches is None or isinstance(caches, FeatureCache | Path | str):
        return [FeatureCache.open(caches)]
    return [FeatureCache.open(cache) for cache in caches]


def check_joinable(methods: Sequence[str], asked: Mapping[str, bool], caches: int) -> None:
    """Refuse what needs more than features, or one encoder, where several caches make one head."""
    if caches == 1:
        return
    for name in methods:
        if need := find_method(name).needs:
            raise InputError(f"{name} needs {need} of one encoder; give one cache, not {caches}.")
    for what, is_asked in asked.items():
        if is_asked:
            raise InputError(f"{what} is for a head of one encoder; give one cache, not {caches}.")


def resolve_shots(
    shots: Shots | Sequence[Shots] | None, default: Sequence[Shots] = ()
) -> list[Shots]:
    """One shot count or several as a list, each once; None takes the default."""
    if shots is None:
        return list(default)
    return [shots] if isinstance(shots, int | str) else list(dict.fromkeys(shots))


def resolve_seeds(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that are meant: a count n is 0 to n - 1, a sequence is itself.

    Raises
    ------
    InputError
        If there is none, one is negative, or one is named twice.
    """
    resolved = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not resolved:
        raise InputError(f"at least one seed is needed; got seeds {seeds}.")
    if min(resolved) < 0:
        raise InputError(f"seeds must be at least 0; got {min(resolved)}.")
    if len(set(resolved)) < len(resolved):
        raise InputError(f"a seed is named twice in {', '.join(map(str, resolved))}.")
    return resolved


def resolve_settings(
    methods: Sequence[str], common: Sequence[Any], special: Mapping[str, Any]
) -> dict[str, Any]:
    """The hyper-parameters that are set, by name.

    Parameters
    ----------
    methods : sequence of str
    common : sequence
        A value for each of `COMMON_SETTINGS`; None takes the method's own.
    special : mapping
        Those of one method alone.

    Raises
    ------
    InputError
        If one is known to none of the methods: it would change nothing.
    """
    pairs = zip(COMMON_SETTINGS, common, strict=True)
    settings = {name: value for name, value in pairs if value is not None} | dict(special)
    known = {name for method in methods for name in find_method(method).settings()}
    unknown = [name for name in settings if name not in {*known, SETTING, WEIGHTING}]
    if unknown:
        others = [name for name in CATALOG if unknown[0] in find_method(name).settings()]
        whose = f" '{unknown[0]}' is of {', '.join(others)}." if others else ""
        raise InputError(
            f"{', '.join(methods)} {verb(len(methods), 'have')} no setting '{unknown[0]}'; "
            f"{'it has' if len(methods) == 1 else 'they have'} "
            f"{', '.join(sorted(known)) or 'none'}.{whose}"
        )
    return settings


@dataclass(frozen=True)
class StudyPlan:
    """What is compared, and under which protocol.

    Attributes
    ----------
    methods : sequence of str
        Names of the catalog.
    shots : sequence of int or "all"
        Images per class, one or several counts.
    seeds : sequence of int
        One fit per seed; a seed fixes the draw, the initial weights and the batch order.
    validation : {"none", "few-shot", "full", "cv"}
        What hyper-parameters are chosen on.
    settings : mapping
        Hyper-parameters; each method takes those that it knows.
    """

    methods: Sequence[str]
    shots: Sequence[Shots]
    seeds: Sequence[int]
    validation: Protocol = "none"
    settings: Mapping[str, Any] = field(default_factory=dict)


def make_plan(
    task: Task,
    methods: Sequence[str],
    shots: Shots | Sequence[Shots] | None,
    seeds: int | Sequence[int],
    validation: Protocol,
    settings: Mapping[str, Any],
    usual_shots: Sequence[int],
) -> StudyPlan:
    """The plan of a study that its cache can serve.

    Parameters
    ----------
    task : Task
    methods, validation, settings
        As of `StudyPlan`.
    shots : int, "all", a sequence of these, or None
        None takes the usual ones that the classes reach, or else the largest class.
    seeds : int or sequence of int
        See `resolve_seeds`.
    usual_shots : sequence of int

    Raises
    ------
    InputError
        As of `check_plan` and `resolve_seeds`.
    """
    check_splits(task)
    largest = largest_class(task)
    usual = [count for count in usual_shots if count <= largest] or [largest]
    counts = resolve_shots(shots, usual)
    plan = StudyPlan(methods, counts, resolve_seeds(seeds), validation, settings)
    check_plan(task, plan)
    return plan


def check_plan(task: Task, plan: StudyPlan) -> None:
    """Refuse a plan that a cache cannot serve, before anything is fitted."""
    for name in plan.methods:
        if find_method(name).needs == "spatial features" and not task.spatial_size:
            raise InputError(
                f"{name} needs spatial features, which the cache of {task.name} has none of: "
                f"cafe extract {task.name} --model {task.model} --spatial --rebuild"
            )
        if find_method(name).needs == "pre-projection features" and not task.pre_projection_size:
            raise InputError(
                f"{name} needs features before the projection, which the cache of {task.name} has "
                f"none of: cafe extract {task.name} --model {task.model} --pre-projection --rebuild"
            )
    check_texts(task.text, plan.methods, plan.settings, task.name)
    check_weighting(task.text, plan.methods, plan.settings, task.name)
    if not plan.seeds or not plan.shots or not plan.methods:
        raise InputError("a study needs at least one method, one shot count and one seed.")
    check_splits(task)
    if plan.validation in ("few-shot", "full") and "val" not in task.splits:
        raise InputError(
            f'validation="{plan.validation}" needs a validation split, and {task.name} has none; '
            "use cv (inside the training shots) or none."
        )
    largest = largest_class(task)
    for shots in plan.shots:
        if shots != "all" and not 1 <= shots <= largest:
            raise InputError(
                f"shots must be from 1 to {largest}, the largest class of {task.name}, or 'all'; "
                f"got {shots}."
            )


def check_splits(task: Task) -> None:
    """Refuse a cache that lacks what every study needs."""
    for split in ("train", "test"):
        if split not in task.splits:
            raise InputError(
                f"the cache of {task.name} has no {split} split, only {', '.join(task.splits)}."
            )


def largest_class(task: Task) -> int:
    """Training images of the class that has the most."""
    return int(_class_counts(task).max())


def _class_counts(task: Task) -> Tensor:
    """Training images of every class. (C,)"""
    return torch.bincount(task.splits["train"].y, minlength=len(task.text.names))


def describe_protocol(
    task: Task, plan: StudyPlan, notes: Sequence[str] = (), exceptions: Sequence[str] = ()
) -> RecordedProtocol:
    """The protocol of a study as its record tells it.

    Notes and exceptions come last in the words; exceptions are told in the brief line too.
    """
    sizes, short = _class_counts(task), []
    for count in plan.shots:
        classes = 0 if count == "all" else int((sizes < count).sum())
        if classes:
            few = f"{classes} of {len(sizes)} classes {verb(classes, 'have')} fewer than {count}"
            short.append(f"{few}: all taken.")
    images = counted(len(task.splits["test"]), "test image")
    seeds, shots = counted(len(plan.seeds), "seed"), tuple(plan.shots)
    drawn = counted(shots[0] if len(shots) == 1 else ", ".join(map(str, shots)), "shot")
    learning = learning_in_words(plan.methods, plan.settings)
    seen = "transductive" in learning
    looked = "whose labels are looked at once" if seen else "which are looked at once"
    words = [
        f"{drawn} per class from the training split, drawn "
        f"{'anew for each of the seeds' if len(plan.seeds) > 1 else 'with seed'} "
        f"{', '.join(map(str, plan.seeds))} (nested draws).",
        *short,
        *_choice_in_words(plan, int(sizes.max())),
        *weighting_in_words(plan.settings),
        f"Results are {learning}." if learning == INDUCTIVE else f"Learning: {learning}.",
        f"Top-1 accuracy on all {images}, {looked}, after everything is chosen.",
        *([f"Intervals are 95 % (Student's t over {seeds})."] if len(plan.seeds) > 1 else ()),
        *notes,
        *exceptions,
    ]
    line = f"{drawn} per class, {seeds}, validation {plan.validation}; {learning}; {images}, "
    line += f"{looked.removeprefix('which are ')}."
    brief = " ".join([line, *short, *exceptions])
    counts = shots[0] if len(shots) == 1 else shots
    said = (say_items(text, task.noun) for text in (" ".join(words), brief))
    return RecordedProtocol(counts, tuple(plan.seeds), plan.validation, *said)


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
