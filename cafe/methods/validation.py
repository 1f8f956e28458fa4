"""Choosing hyper-parameters on held-out images, by one rule for every method and for the grid.

- "few-shot" and "full": candidates are fitted on all shots and judged on the validation images.
- "cv": they are fitted on min(K, 4) stratified folds of the K shots, and judged on what each leaves
  out. One shot leaves nothing to hold out, so a method keeps its defaults: judging on classes that
  were held out rewards candidates that do little (`docs/research/auto.md`).
- "none": a method keeps its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.engine import Run, Score, Trained, evaluate
from cafe.features.splits import Rows, draw_folds
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Context, Job

Candidate = TypeVar("Candidate")

_ROUNDING = 1e-5  # relative, of a mean of float32 losses
_NO_LOSS = 0.01  # nats an image; smaller losses are compared as if they were this large


class Fold(NamedTuple):
    """Candidates are fitted on `train` and judged on `held_out`."""

    train: TrainingSet
    held_out: Features


def folds_for(job: Job) -> list[Fold]:
    """Where the candidates of a method are judged.

    Parameters
    ----------
    job : Job
        The shots, what may be looked at, and the seed of the folds.

    Returns
    -------
    list of Fold
        Under "few-shot" and "full" one, all shots against the validation images; under "cv"
        min(K, 4) for K images in the largest class. None under "none", and none where K is 1.
    """
    train, validation, seed = job
    if validation.features is not None and len(validation.features):
        return [Fold(train, validation.features)]
    if validation.protocol != "cv":
        return []
    return make_folds(train, draw_folds(train.features.y, seed, groups=train.features.groups))


def make_folds(train: TrainingSet, rows: Rows) -> list[Fold]:
    """Folds of a training set from the rows that each keeps and holds out."""
    features = train.features
    return [Fold(train.part(kept), features[out]) for kept, out in rows]


def train_with_folds(
    runs_for: Callable[[TrainingSet, int, int], Sequence[Run]],
    jobs: Sequence[Job],
    folds: Sequence[Sequence[Fold]],
    context: Context,
) -> list[tuple[list[Trained], list[tuple[Fold, list[Trained]]]]]:
    """Train every job on its shots and on its folds, in one call of the engine.

    Parameters
    ----------
    runs_for : callable
        The runs of a training set, its number and the seed of its job.
    jobs : sequence of Job
        The jobs.
    folds : sequence of sequence of Fold
        Each job's folds. One that trains on all shots is not trained again.
    context : Context
        Where and how to compute.

    Returns
    -------
    list of (list of Trained, list of (Fold, list of Trained))
        For each job the runs on all of its shots, and those on each of its folds.
    """
    wanted = [(job.train, job.seed) for job in jobs]
    wanted += [
        (fold.train, job.seed)
        for job, job_folds in zip(jobs, folds, strict=True)
        for fold in job_folds
    ]
    sets = {(id(train), seed): train for train, seed in wanted}  # what is wanted twice, once
    runs = [runs_for(train, place, seed) for place, ((_, seed), train) in enumerate(sets.items())]
    trained = iter(context.train([run for some in runs for run in some], list(sets.values())))
    fitted = {key: [next(trained) for _ in some] for key, some in zip(sets, runs, strict=True)}
    in_order = iter([fitted[id(train), seed] for train, seed in wanted])
    fits = [next(in_order) for _ in jobs]  # on all shots
    of_folds = [[(fold, next(in_order)) for fold in job_folds] for job_folds in folds]
    return list(zip(fits, of_folds, strict=True))


def pick_best(accuracies: Sequence[float] | Tensor, losses: Sequence[float] | Tensor) -> int:
    """Choose a candidate: highest accuracy, of equals the lowest loss, of equals the first.

    Candidates are listed from the most conservative on. Two that do the same are equal, whatever
    the order of summation made of their loss.

    Parameters
    ----------
    accuracies : sequence of float, or Tensor
        Of each candidate on the same held-out images, in any unit. (G,)
    losses : sequence of float, or Tensor
        Mean negative log-likelihoods on these images, in nats. (G,)

    Returns
    -------
    int
        Its place in the list.

    Examples
    --------
    >>> pick_best([80, 81, 81, 81], [0.3, 0.5, 0.4, 0.4])
    2
    """
    accuracy = torch.as_tensor(accuracies, dtype=torch.float64)
    loss = torch.as_tensor(losses, dtype=torch.float64)
    best = accuracy >= accuracy.max() * (1 - 1e-9)
    lowest = loss[best].min()
    equal = best & (loss <= lowest + _ROUNDING * lowest.clamp_min(_NO_LOSS))
    return int(equal.nonzero()[0])


def choose(
    candidates: Sequence[Candidate],
    default: Candidate,
    folds: Sequence[Fold],
    logits: Iterable[Tensor],
) -> Candidate:
    """The best of G candidates by their logits on the held-out images of all folds together.

    Parameters
    ----------
    candidates : sequence
        From the most conservative on.
    default : candidate
        What is taken where there is no fold or no candidate.
    folds : sequence of Fold
        Where candidates are judged.
    logits : iterable of Tensor
        For each fold those of all candidates, computed only if there is something to choose.
        (G, n, C)

    Returns
    -------
    candidate
        See `pick_best`.
    """
    if not folds or not candidates:
        return default
    hits = torch.zeros(len(candidates), dtype=torch.float64)
    nats = torch.zeros_like(hits)
    for z, fold in zip(logits, folds, strict=True):
        y = fold.held_out.y  # (n,)
        hits += (z.argmax(dim=-1) == y).sum(dim=-1).cpu()
        labels = y.expand(len(z), -1)  # (G, n)
        nats += cross_entropy(z.mT, labels, reduction="none").double().sum(dim=-1).cpu()
    images = sum(len(fold.held_out) for fold in folds)
    return candidates[pick_best(hits / images, nats / images)]


def mean_score(scores: Sequence[Score], folds: Sequence[Fold]) -> Score:
    """Scores on the folds as one score on all of their images."""
    sizes = [len(fold.held_out) for fold in folds]
    pairs = list(zip(scores, sizes, strict=True))
    accuracy, nats = sum(s.accuracy * n for s, n in pairs), sum(s.nll * n for s, n in pairs)
    return Score(accuracy / sum(sizes), nats / sum(sizes))


def train_best(
    defaults: Sequence[Run],
    candidates: Sequence[Sequence[Run]],
    jobs: Sequence[Job],
    context: Context,
) -> list[Trained]:
    """Train the best candidate of every job, all candidates of all jobs side by side.

    Parameters
    ----------
    defaults : sequence of Run
        For each job, the run to train where nothing can be chosen; its `data` is the job's number.
    candidates : sequence of sequence of Run
        For each job, the runs to choose among, from the most conservative on; may be empty.
    jobs : sequence of Job
        The jobs.
    context : Context
        Where and how to compute.

    Returns
    -------
    list of Trained
        One per job, trained on all of its shots.
    """
    folds = [folds_for(j) if some else [] for j, some in zip(jobs, candidates, strict=True)]
    trials = iter(_try(candidates, folds, context))
    best: list[Run | Trained] = list(defaults)
    for i, (options, job_folds) in enumerate(zip(candidates, folds, strict=True)):
        table = [[next(trials) for _ in options] for _ in job_folds]  # folds x candidates
        if not table:
            continue
        scores = [
            mean_score([s for _, s in column], job_folds) for column in zip(*table, strict=True)
        ]
        place = pick_best([s.accuracy for s in scores], [s.nll for s in scores])
        best[i] = options[place]
        if job_folds[0].train is jobs[i].train:  # trained on all shots already
            best[i] = replace(table[0][place][0], run=options[place])
    trains = [job.train for job in jobs]
    rest = iter(context.train([run for run in best if isinstance(run, Run)], trains))
    return [next(rest) if isinstance(run, Run) else run for run in best]


def _try(
    candidates: Sequence[Sequence[Run]], folds: Sequence[Sequence[Fold]], context: Context
) -> list[tuple[Trained, Score]]:
    """Train and score every candidate on every fold: job by job, within them fold by fold."""
    flat = [fold for job_folds in folds for fold in job_folds]
    of_folds = [
        options for options, job_folds in zip(candidates, folds, strict=True) for _ in job_folds
    ]
    runs = [
        replace(option, data=place) for place, options in enumerate(of_folds) for option in options
    ]
    sets = [fold.train for fold in flat]
    trained = context.train(runs, sets)
    scores = evaluate(trained, sets, [fold.held_out for fold in flat], [run.data for run in runs])
    return list(zip(trained, scores, strict=True))
