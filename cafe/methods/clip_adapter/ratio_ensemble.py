"""`--ratio auto`: adapters of several ratios, pooled by how likely they make held-out shots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cafe.engine import Run, Trained, logit_blocks, train
from cafe.features.tensors import TrainingSet
from cafe.methods.base import Context, Head
from cafe.methods.clip_adapter.family import AdapterFamily
from cafe.methods.clip_adapter.head import AdapterHead
from cafe.methods.ensemble import Member, make_ensemble
from cafe.methods.stacking import Part, held_out_labels, log_likelihood, parts_to_judge


class Adapter(Protocol):
    """What is trained at every ratio; `ClipAdapter` is one."""

    name: ClassVar[str]
    family: ClassVar[type[AdapterFamily]]
    context: Context

    def run_for(self, train: TrainingSet, job: int, seed: int, ratio: float) -> Run:
        """The engine's run for one training set, seed and ratio."""

    def head_for(self, trained: Trained, train: TrainingSet) -> AdapterHead:
        """The head of a run that is done."""


RATIOS = (0.05, 0.2, 0.8)
"""Each four times the last; twice as many between them change nothing, mixed. Zero-shot, ratio 0,
is a member too and costs nothing."""


def fit_ratio_ensembles(
    adapter: Adapter, trains: Sequence[TrainingSet], seeds: Sequence[int]
) -> list[Head]:
    """One pool of ratios per training set.

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
    parts = [parts_to_judge(one, seed) for one, seed in zip(trains, seeds, strict=True)]
    found = ratio_members(adapter, trains, parts, seeds)
    return [
        make_ensemble(members, held_out_labels(part, one), one.text, params)
        for (members, params), part, one in zip(found, parts, trains, strict=True)
    ]


def ratio_members(
    adapter: Adapter,
    trains: Sequence[TrainingSet],
    parts: Sequence[Sequence[Part]],
    seeds: Sequence[int],
) -> list[tuple[list[Member], dict[str, Any]]]:
    """Train every ratio on every training set and on every part of it, in one call of the engine.

    Parameters
    ----------
    adapter : Adapter
        What to train, but for its ratio.
    trains : sequence of TrainingSet
        The jobs' training sets.
    parts : sequence of sequence of Part
        Where each job's members are judged.
    seeds : sequence of int
        One per job.

    Returns
    -------
    list of (list of Member, dict)
        For each job zero-shot and the adapters, and the params that a pool of them starts from.
    """
    sets: list[TrainingSet] = []
    runs = []
    for whole, job_parts, seed in zip(trains, parts, seeds, strict=True):
        for subset in (whole, *(part.train for part in job_parts)):
            runs += [adapter.run_for(subset, len(sets), seed, ratio) for ratio in RATIOS]
            sets.append(subset)
    context = adapter.context
    trained = iter(
        train(
            runs,
            sets,
            device=context.device,
            precision=context.precision,
            memory_budget=context.memory_budget,
        )
    )
    jobs = []
    for whole, job_parts in zip(trains, parts, strict=True):
        kept = [next(trained) for _ in RATIOS]
        evidence = [_judge([next(trained) for _ in RATIOS], part) for part in job_parts]
        jobs.append(_members(adapter, kept, whole, job_parts, evidence))
    return jobs


def _judge(trained: Sequence[Trained], part: Part) -> Tensor:
    """Log-likelihood of held-out images under each ratio. (M, n)"""
    blocks, start = [], 0
    for logits in logit_blocks(trained, part.train, part.held_out):  # (M, n', C)
        rows = torch.arange(start, start := start + logits.shape[1], device=logits.device)
        blocks.append(log_likelihood(logits, part._replace(held_out=part.held_out[rows])))
    return torch.cat(blocks, dim=-1)


def _members(
    adapter: Adapter,
    trained: Sequence[Trained],
    whole: TrainingSet,
    parts: Sequence[Part],
    judged: Sequence[Tensor],
) -> tuple[list[Member], dict[str, Any]]:
    """Zero-shot and the adapters of one job, with the params that they share."""
    text = whole.text
    zero_shot = [
        log_likelihood(text.logit_scale * part.held_out.unit @ text.weights.mT, part)
        for part in parts
    ]
    nothing = whole.features.x.new_zeros(0, dtype=torch.float64)
    none = {f"{prefix}ratio": 0.0 for prefix in adapter.family.branches}
    members = [Member({"kind": "zero-shot", **none}, {}, torch.cat([nothing, *zero_shot]))]
    heads = [adapter.head_for(one, whole) for one in trained]
    for i, head in enumerate(heads):
        ratios = {name: v for name, v in head.params.items() if name.endswith("ratio")}
        tensors = {name: t for name, t in head.tensors().items() if name != "weights"}
        evidence = torch.cat([nothing, *(table[i] for table in judged)])  # (J,)
        members.append(Member({"kind": "adapter", **ratios}, tensors, evidence))
    params = {**heads[0].params, "adapter": adapter.name, "ratio": "auto"}
    params.pop("text_ratio", None)
    return members, params
