"""Choosing among candidate runs by validation, all candidates of all jobs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cafe.engine import Run, Score, Trained, evaluate, train
from cafe.errors import InputError
from cafe.features.splits import MOST_FOLDS, draw_class_halves, draw_folds
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Validation

Candidates = Sequence[Sequence[Run]]
"""For each job, the runs to choose among; their `data` is the job's number."""


def train_selected(
    candidates: Candidates,
    trains: Sequence[TrainingSet],
    validations: Sequence[Validation],
    context: Context,
) -> list[Trained]:
    """Train every candidate of every job and keep each job's best.

    The best has the highest validation accuracy and, of equals, the lowest negative
    log-likelihood. Under cross-validation the winner is trained again on all of its job's images.

    Parameters
    ----------
    candidates : sequence of sequence of Run
        For each job, the runs to choose among; several of them need a validation protocol.
    trains : sequence of TrainingSet
        The jobs' training sets.
    validations : sequence of Validation
        What each job may look at.
    context : Context
        Where and how to compute.

    Returns
    -------
    list of Trained
        One per job.

    Raises
    ------
    InputError
        If a job has candidates and nothing to choose by.
    """
    candidates = _narrow_by_folds(candidates, trains, validations, context)
    trained = _train([run for runs in candidates for run in runs], trains, context)
    per_job = _regroup(trained, candidates)
    open_jobs = [job for job, runs in enumerate(per_job) if len(runs) > 1]
    scores = _validate([per_job[job] for job in open_jobs], trains, validations)
    best = {job: _best(found) for job, found in zip(open_jobs, scores, strict=True)}
    return [runs[best.get(job, 0)] for job, runs in enumerate(per_job)]


def _train(runs: Sequence[Run], sets: Sequence[TrainingSet], context: Context) -> list[Trained]:
    return train(
        runs,
        sets,
        device=context.device,
        precision=context.precision,
        memory_budget=context.memory_budget,
    )


def _regroup(trained: Sequence[Trained], like: Candidates) -> list[list[Trained]]:
    """A flat list cut into jobs again."""
    flat = iter(trained)
    return [[next(flat) for _ in runs] for runs in like]


def _validate(
    groups: Sequence[Sequence[Trained]],
    trains: Sequence[TrainingSet],
    validations: Sequence[Validation],
) -> list[list[Score]]:
    """Scores on each job's held-out images."""
    flat = [one for group in groups for one in group]
    held_out: dict[int, Features] = {}
    for job in {one.run.data for one in flat}:
        features = validations[job].features
        if features is None:
            raise InputError(
                f"{len(groups[0])} candidates and validation protocol "
                f"'{validations[job].protocol}' give nothing to choose by; "
                "pass validation images, or take protocol 'cv'."
            )
        held_out[job] = features
    numbers = sorted(held_out)
    which = [numbers.index(one.run.data) for one in flat]
    scores = iter(evaluate(flat, trains, [held_out[job] for job in numbers], which))
    return [[next(scores) for _ in group] for group in groups]


def _best(scores: Sequence[Score]) -> int:
    """Highest accuracy, of equals the lowest negative log-likelihood, of equals the first."""
    return max(range(len(scores)), key=lambda i: (scores[i].accuracy, -scores[i].nll))


def _narrow_by_folds(
    candidates: Candidates,
    trains: Sequence[TrainingSet],
    validations: Sequence[Validation],
    context: Context,
) -> list[Sequence[Run]]:
    """For jobs under cross-validation, leave only the candidate that does best on the folds."""
    narrowed = list(candidates)
    sets: list[TrainingSet] = []
    held_out: list[Features] = []
    runs: list[Run] = []
    spans: dict[int, list[int]] = {}
    for job, options in enumerate(candidates):
        if validations[job].protocol != "cv" or len(options) < 2:
            continue
        folds = folds_of(trains[job], options[0].seed)
        spans[job] = [len(sets) + i for i in range(len(folds))]
        for kept, out in folds:
            runs += [replace(option, data=len(sets)) for option in options]
            sets.append(TrainingSet(kept, trains[job].text))
            held_out.append(out)
    trained = _train(runs, sets, context)
    scores = iter(evaluate(trained, sets, held_out, [run.data for run in runs]))
    for job, span in spans.items():
        table = [[next(scores) for _ in candidates[job]] for _ in span]  # folds x candidates
        sizes = [len(held_out[number]) for number in span]
        pooled = [pool(column, sizes) for column in zip(*table, strict=True)]
        narrowed[job] = [candidates[job][_best(pooled)]]
    return narrowed


def folds_of(train_set: TrainingSet, seed: int) -> list[tuple[Features, Features]]:
    """Folds of a training set: min(K, 4) stratified ones for K images in its largest class.

    With one image per class there is nothing to deal within a class, so classes are held out: the
    shots of half of them against the other half's.
    """
    features = train_set.features
    largest = int(features.y.bincount().max())
    if largest < 2:
        folds = draw_class_halves(features.y, seed)
    else:
        folds = draw_folds(features.y, min(largest, MOST_FOLDS), seed)
    return [(features[kept], features[out]) for kept, out in folds]


def pool(scores: Sequence[Score], sizes: Sequence[int]) -> Score:
    """Scores on the folds as one score on all of their images."""
    total = sum(sizes)
    return Score(
        sum(s.accuracy * n for s, n in zip(scores, sizes, strict=True)) / total,
        sum(s.nll * n for s, n in zip(scores, sizes, strict=True)) / total,
    )
