"""`--ratio auto`: an ensemble of adapters of several ratios, weighted on held-out shots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cafe.engine import Run, Trained, logit_blocks
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context
from cafe.methods.clip_adapter.architecture import AdapterArchitecture
from cafe.methods.clip_adapter.head import AdapterHead
from cafe.methods.ensemble import Member, make_ensemble
from cafe.methods.head import Head
from cafe.methods.stacking import log_likelihood, weighing_folds
from cafe.methods.validation import Fold, with_folds


class Adapter(Protocol):
    """What is trained at every ratio; `ClipAdapter` is one."""

    name: ClassVar[str]
    architecture: ClassVar[type[AdapterArchitecture]]
    context: Context

    def run_for(self, train: TrainingSet, job: int, seed: int, ratio: float) -> Run:
        """The engine's run for one training set, seed and ratio."""

    def head_for(self, trained: Trained, train: TrainingSet) -> AdapterHead:
        """The head of a run that is done."""


RATIOS = (0.05, 0.2, 0.8)
"""Each four times the last; an ensemble of twice as many is no better. Zero-shot, which is ratio 0,
is a member too and costs nothing."""


def fit_ratio_ensembles(
    adapter: Adapter, trains: Sequence[TrainingSet], seeds: Sequence[int]
) -> list[Head]:
    """One ensemble of ratios per training set.

    Parameters
    ----------
    adapter : Adapter
        What to train, but for its ratio.
    trains : sequence of TrainingSet
        The jobs' training sets.
    seeds : sequence of int
        One per job: of the deal into folds, the initial weights and the batch order.

    Returns
    -------
    list of EnsembleHead
        One per job.
    """
    folds = [weighing_folds(train, seed) for train, seed in zip(trains, seeds, strict=True)]
    return [
        make_ensemble(members, own, train, params)
        for (members, params), own, train in zip(
            ratio_members(adapter, trains, folds, seeds), folds, trains, strict=True
        )
    ]


def ratio_members(
    adapter: Adapter,
    trains: Sequence[TrainingSet],
    folds: Sequence[Sequence[Fold]],
    seeds: Sequence[int],
) -> list[tuple[list[Member], dict[str, Any]]]:
    """Train every ratio on every training set and on all of its folds, in one call of the engine.

    Parameters
    ----------
    adapter : Adapter
        What to train, but for its ratio.
    trains : sequence of TrainingSet
        The jobs' training sets.
    folds : sequence of sequence of Fold
        Where each job's members are judged.
    seeds : sequence of int
        One per job.

    Returns
    -------
    list of (list of Member, dict)
        For each job zero-shot and the adapters, and the params that an ensemble of them starts
        from.
    """
    sets, jobs, places = with_folds(trains, folds)
    runs = [
        adapter.run_for(train, place, seeds[job], ratio)
        for place, (train, job) in enumerate(zip(sets, jobs, strict=True))
        for ratio in RATIOS
    ]
    trained = adapter.context.train(runs, sets)
    count = len(RATIOS)
    by_set = [trained[first : first + count] for first in range(0, len(trained), count)]
    return [
        _members(adapter, by_set[job], train, own, [by_set[place] for place in places[job]])
        for job, (train, own) in enumerate(zip(trains, folds, strict=True))
    ]


def _members(
    adapter: Adapter,
    trained: Sequence[Trained],
    train: TrainingSet,
    folds: Sequence[Fold],
    trained_on_folds: Sequence[Sequence[Trained]],
) -> tuple[list[Member], dict[str, Any]]:
    """Zero-shot and the adapters of one job, with the params that they share."""
    text = train.text
    none = {f"{prefix}ratio": 0.0 for prefix in adapter.architecture.branches}
    zero_shot = [
        log_likelihood(text.logit_scale * fold.held_out.unit @ text.weights.mT, fold)
        for fold in folds
    ]
    members = [Member({"kind": "zero-shot", **none}, {}, zero_shot)]
    judged = [_judge(runs, fold) for runs, fold in zip(trained_on_folds, folds, strict=True)]
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
        rows = slice(start, start := start + logits.shape[1])
        blocks.append(log_likelihood(logits, fold, rows))
    return torch.cat(blocks, dim=-1)
