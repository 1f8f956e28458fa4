"""`--ratio auto`: an ensemble of adapters of several ratios, weighted on held-out shots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cafe.devices import torch_threads
from cafe.engine import Recipe, Run, Trained, logit_blocks
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Job
from cafe.methods.ensemble import Candidates, Member, make_ensemble
from cafe.methods.head import Head
from cafe.methods.stacking import log_likelihood, weighing_folds
from cafe.methods.validation import Fold, train_with_folds

if TYPE_CHECKING:
    from cafe.methods.clip_adapter.method import ClipAdapter

MoreMembers = Callable[[TrainingSet, Sequence[Fold]], list[Member]]
RecipeBeside = Callable[[Sequence[Member], int], Recipe]

RATIOS = (0.05, 0.2, 0.8)
"""Each four times the last; an ensemble of twice as many is no better. Zero-shot, which is ratio 0,
is a member too and costs nothing."""

SMALL = 1e10
"""Images x width x classes up to which one thread judges members in a second or less."""

ZERO_SHOT_IMAGES = 2.0
"""Imaginary images of zero-shot, where every adapter has one: it cannot overfit, and at one shot,
where nothing is held out, the weights are these (`docs/research/auto.md`)."""


def fit_ratio_ensembles(
    adapter: ClipAdapter, jobs: Sequence[Job], method: str, more_members: MoreMembers | None = None
) -> list[Head]:
    """One ensemble per job; see `ratio_candidates`."""
    candidates = ratio_candidates(adapter, jobs, method, more_members)
    return [make_ensemble(*each) for each in candidates]


def ratio_candidates(
    adapter: ClipAdapter,
    jobs: Sequence[Job],
    method: str,
    more_members: MoreMembers | None = None,
    recipe_beside: RecipeBeside | None = None,
) -> list[Candidates]:
    """Members of one ensemble per job: every ratio is trained on shots and folds in one call.

    Parameters
    ----------
    adapter : ClipAdapter
        What to train, but for its ratio.
    jobs : sequence of Job
        A job's seed is that of the folds, the initial weights and the batch order.
    method : str
        Name of the method that the heads are of.
    more_members : callable or None
        Members beside zero-shot and the adapters, from the shots and the folds.
    recipe_beside : callable or None
        How to optimise the adapters of a job, from zero-shot and these members and the number of
        classes; None does as the adapter does.

    Returns
    -------
    list of Candidates
        One per job.
    """
    folds, others, recipes = [], [], dict[tuple[int, int], Recipe]()
    for job in jobs:
        with _threads_for(job.train):
            own = weighing_folds(job.train, job.seed)
            beside = [_zero_shot(adapter, job.train, own)]
            beside += more_members(job.train, own) if more_members else []
        recipe = adapter.recipe
        if recipe_beside:
            recipe = recipe_beside(beside, len(job.train.text.names))
        trains = job.train, *(fold.train for fold in own)
        recipes |= {(id(train), job.seed): recipe for train in trains}
        folds.append(own)
        others.append(beside)

    def runs_for(train: TrainingSet, place: int, seed: int) -> list[Run]:
        runs = [adapter.run_for(train, place, seed, ratio) for ratio in RATIOS]
        return [replace(run, recipe=recipes[id(train), seed]) for run in runs]

    fitted = train_with_folds(runs_for, jobs, folds, adapter.context)
    candidates = []
    for (train, _, _), beside, (trained, on_folds) in zip(jobs, others, fitted, strict=True):
        with _threads_for(train):
            adapters, params = _members(adapter, trained, train, on_folds)
        members = [beside[0], *adapters, *beside[1:]]
        own = [fold for fold, _ in on_folds]
        candidates.append(Candidates(members, own, train, {**params, "method": method}))
    return candidates


def _threads_for(train: TrainingSet) -> AbstractContextManager[None]:
    """One thread for hundreds of small steps: on a busy machine two wait for each other in each."""
    x = train.features.x
    small = x.device.type == "cpu" and x.numel() * len(train.text.names) < SMALL
    return torch_threads(1) if small else nullcontext()


def _zero_shot(adapter: ClipAdapter, train: TrainingSet, folds: Sequence[Fold]) -> Member:
    text = train.text
    none = {f"{prefix}ratio": 0.0 for prefix in adapter.architecture.branches}
    judged = [
        log_likelihood(text.logit_scale * fold.held_out.unit @ text.weights.mT, fold.held_out.y)
        for fold in folds
    ]
    return Member({"kind": "zero-shot", **none}, {}, judged, ZERO_SHOT_IMAGES)


def _members(
    adapter: ClipAdapter,
    trained: Sequence[Trained],
    train: TrainingSet,
    on_folds: Sequence[tuple[Fold, Sequence[Trained]]],
) -> tuple[list[Member], dict[str, Any]]:
    """The adapters of one job, and the params that an ensemble starts from."""
    members = []
    judged = [_judge(runs, fold) for fold, runs in on_folds]
    heads = [adapter.head_for(run, train) for run in trained]
    for i, head in enumerate(heads):
        ratios = {name: value for name, value in head.params.items() if name.endswith("ratio")}
        tensors = {name: tensor for name, tensor in head.tensors().items() if name != "weights"}
        members.append(Member({"kind": "adapter", **ratios}, tensors, [row[i] for row in judged]))
    shared = {**heads[0].params, "adapter": adapter.name, "ratio": "auto"}
    shared.pop("text_ratio", None)
    return members, shared


def _judge(trained: Sequence[Trained], fold: Fold) -> Tensor:
    """Log-likelihood of held-out images under each ratio. (M, n)"""
    blocks, start = [], 0
    for logits in logit_blocks(trained, fold.train, fold.held_out):  # (M, n', C)
        y = fold.held_out.y[start : (start := start + logits.shape[1])]
        blocks.append(log_likelihood(logits, y))
    return torch.cat(blocks, dim=-1)
