"""What a method may judge its candidates by, under each validation protocol, and the judgement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.features.splits import MOST_FOLDS, draw_folds
from cafe.features.tensors import Features, TrainingSet
from cafe.methods.base import Method, Validation

_ROUNDING = 1e-5  # relative, of a sum of float32 losses


class Part(NamedTuple):
    """A candidate is fitted on `train` and judged on `held_out`."""

    train: TrainingSet
    held_out: Features


def parts_of(train: TrainingSet, validation: Validation, seed: int) -> list[Part]:
    """Where a method judges its candidates.

    Parameters
    ----------
    train : TrainingSet
        The shots.
    validation : Validation
        What may be looked at.
    seed : int
        Seed of the deal into folds.

    Returns
    -------
    list of Part
        Under "few-shot" and "full" one part, all shots against the validation images; under "cv"
        one per fold, min(K, 4) of them. No part under "none", nor under "cv" where no class has two
        images: there is nothing to judge by, and a method keeps its published defaults.
    """
    if validation.features is not None and len(validation.features):
        return [Part(train, validation.features)]
    return folds_of(train, seed) if validation.protocol == "cv" else []


def folds_of(train: TrainingSet, seed: int) -> list[Part]:
    """Stratified folds: min(K, 4) for K images in the largest class; none where K is below 2."""
    features = train.features
    largest = int(features.y.bincount().max()) if len(features) else 0
    if largest < 2:
        return []
    folds = draw_folds(features.y, min(largest, MOST_FOLDS), seed)
    return [Part(TrainingSet(features[kept], train.text), features[out]) for kept, out in folds]


def with_parts(
    trains: Sequence[TrainingSet], parts: Sequence[Sequence[Part]]
) -> tuple[list[TrainingSet], list[int], list[list[int]]]:
    """What to train so that every job is fitted, and judged on its parts, in one go.

    Parameters
    ----------
    trains : sequence of TrainingSet
        The jobs.
    parts : sequence of sequence of Part
        Where each job is judged.

    Returns
    -------
    sets : list of TrainingSet
        The jobs' own, then those of their folds; a part that holds all shots is its job's own.
    jobs : list of int
        The job that each set belongs to.
    where : list of list of int
        For each job, the sets of its parts.
    """
    sets, jobs = list(trains), list(range(len(trains)))
    where: list[list[int]] = []
    for job, found in enumerate(parts):
        where.append([])
        for part in found:
            where[job].append(job if part.train is trains[job] else len(sets))
            if part.train is not trains[job]:
                sets.append(part.train)
                jobs.append(job)
    return sets, jobs, where


def best_of(hits: Tensor, nats: Tensor) -> int:
    """The candidate to take: most hits, of equals the lowest likelihood loss, of equals the first.

    Parameters
    ----------
    hits : Tensor
        Held-out images that each candidate classifies rightly; candidates are listed from the most
        conservative on. (G,)
    nats : Tensor
        Negative log-likelihood of each candidate on the same images. (G,)

    Returns
    -------
    int
        Its place in the list.
    """
    ties = torch.nonzero(hits == hits.max()).flatten()  # (T,)
    losses = nats[ties]
    # to rounding: candidates that do the same are equal, whatever the order of summation made of it
    alike = losses <= losses.min() + _ROUNDING * losses.min().abs().clamp_min(1)
    return int(ties[alike][0])


def count_hits(logits: Tensor, y: Tensor) -> Tensor:
    """Images rightly classified by each candidate: (G, N, C) and (N,) to (G,)."""
    return (logits.argmax(dim=-1) == y).sum(dim=-1)


def sum_nats(logits: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of each candidate: (G, N, C) and (N,) to (G,)."""
    labels = y.expand(len(logits), -1)  # (G, N)
    return cross_entropy(logits.mT, labels, reduction="none").double().sum(dim=-1)


def judge(logits: Sequence[Tensor], parts: Sequence[Part]) -> int:
    """The best of G candidates by their logits on every part, pooled over the parts.

    Parameters
    ----------
    logits : sequence of Tensor
        One (G, n, C) for each part.
    parts : sequence of Part
        Where the logits are of, at least one.

    Returns
    -------
    int
        Its place among the G; see `best_of`.
    """
    pairs = [(z, part.held_out.y) for z, part in zip(logits, parts, strict=True)]
    hits = torch.stack([count_hits(z, y) for z, y in pairs]).sum(dim=0)  # (G,)
    return best_of(hits, torch.stack([sum_nats(z, y) for z, y in pairs]).sum(dim=0))


def out_of_fold_logits(method: Method, train: TrainingSet, seed: int) -> tuple[Tensor, Tensor]:
    """Logits for each shot from a head that was fitted without it.

    A temperature can be fitted to them where there are no validation images.

    Parameters
    ----------
    method : Method
        Fitted once per fold, with its hyper-parameters as given.
    train : TrainingSet
        The shots.
    seed : int
        Seed of the deal into folds and of the fits.

    Returns
    -------
    logits : Tensor
        Fold by fold. (N, C); (0, C) where no class has two images.
    labels : Tensor
        Their class indices. (N,)
    """
    parts = folds_of(train, seed)
    if not parts:
        classes = len(train.text.names)
        return train.features.x.new_empty(0, classes), train.features.y[:0]
    heads = method.fit_many(
        [part.train for part in parts],
        validations=[Validation()] * len(parts),
        seeds=[seed] * len(parts),
    )
    logits = [head.logits(part.held_out.x) for head, part in zip(heads, parts, strict=True)]
    return torch.cat(logits), torch.cat([part.held_out.y for part in parts])
