"""Accuracy and likelihood of many trained runs side by side; knows no head by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cafe.engine.architecture import Trained
from cafe.engine.chunks import budget_bytes
from cafe.engine.stack import make_batch, stack_constants, stack_scalars, stack_tensors
from cafe.features.tensors import Features, TrainingSet


@dataclass(frozen=True)
class Score:
    """How well a run does on held-out images.

    Attributes
    ----------
    accuracy : float
        Share of images whose highest logit is their class's, from 0 to 1.
    nll : float
        Mean negative log-likelihood, in nats.
    """

    accuracy: float
    nll: float


def evaluate(
    trained: Sequence[Trained],
    training_sets: Sequence[TrainingSet],
    held_out: Sequence[Features],
    held_out_of: Sequence[int] | None = None,
    *,
    memory_budget: int | None = None,
) -> list[Score]:
    """Score runs on held-out images, in blocks that fit a budget; products are float32.

    Parameters
    ----------
    trained : sequence of Trained
        Runs that are done.
    training_sets : sequence of TrainingSet
        What their `Run.data` points into.
    held_out : sequence of Features
        Images to score on.
    held_out_of : sequence of int or None
        For each run, the index into `held_out`; None scores every run on the first.
    memory_budget : int or None
        Bytes that a block may take; None takes half of what is free.

    Returns
    -------
    list of Score
        One per run, in their order.
    """
    held_out_of = [0] * len(trained) if held_out_of is None else held_out_of
    # runs of one architecture and training set share every product with the images
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, (result, held) in enumerate(zip(trained, held_out_of, strict=True)):
        run = result.run
        groups[run.architecture, run.data, tuple(sorted(run.scalars)), held].append(index)
    scores: dict[int, Score] = {}
    for members in groups.values():
        group, features = [trained[i] for i in members], held_out[held_out_of[members[0]]]
        train = training_sets[group[0].run.data]
        scores.update(zip(members, _score(group, train, features, memory_budget), strict=True))
    return [scores[index] for index in range(len(trained))]


def _score(
    group: Sequence[Trained], train: TrainingSet, features: Features, memory_budget: int | None
) -> list[Score]:
    # float64: a float32 sum over a million images loses the digits in which runs differ
    right = torch.zeros(len(group), dtype=torch.float64, device=features.x.device)  # (M,)
    nats = torch.zeros_like(right)
    start = 0
    for logits in logit_blocks(group, train, features, memory_budget=memory_budget):  # (M, n, C)
        y = features.y[start : (start := start + logits.shape[1])]  # (n,)
        right += (logits.argmax(-1) == y).sum(-1)
        labels = y.expand(len(group), -1)  # (M, n)
        nats += cross_entropy(logits.mT, labels, reduction="none").sum(-1, dtype=torch.float64)
    count = len(features)
    return [Score(r / count, n / count) for r, n in zip(right.tolist(), nats.tolist(), strict=True)]


@torch.no_grad()
def logit_blocks(
    group: Sequence[Trained],
    train: TrainingSet,
    features: Features,
    *,
    memory_budget: int | None = None,
) -> Iterator[Tensor]:
    """Logits of runs of one architecture and one training set, a block of images at a time.

    Parameters
    ----------
    group : sequence of Trained
        M runs.
    train : TrainingSet
        What they were trained on.
    features : Features
        The images.
    memory_budget : int or None
        Bytes that a block may take; None takes half of what is free.

    Yields
    ------
    Tensor
        Logits of the next n images. (M, n, C)
    """
    device, runs = features.x.device, [result.run for result in group]
    architecture = runs[0].architecture
    params = stack_tensors([result.tensors for result in group], 1, device)  # (1, M, ...)
    scalars = stack_scalars(runs, 1, device)  # (1, M, 1, 1)
    constants = stack_constants(architecture, [train], device)
    text = train.text.to(device)
    most = _rows_in(budget_bytes(device, memory_budget), group, train)
    for block in features.blocks(most, spatial=architecture.spatial):
        rows = {
            name: value[None] for name, value in architecture.rows(block, text).items()
        }  # (1, n, ..)
        rows["y"] = torch.zeros(1, len(block), dtype=torch.int64, device=device)  # not looked at
        yield architecture.logits(params, make_batch(rows, scalars, constants, text))[0]


def _rows_in(budget: int, group: Sequence[Trained], train: TrainingSet) -> int:
    """Images in a block: one more image costs what `Architecture.activations` grows by."""
    classes, _, width = train.text.features.shape
    parameters = sum(value.numel() for value in group[0].tensors.values())
    architecture = group[0].run.architecture
    of_one, of_two = (architecture.activations(parameters, rows, classes, width) for rows in (1, 2))
    row = len(group) * max(of_two - of_one, 1) + (
        architecture.row_numbers(width) if architecture.spatial else 0
    )
    return max(1, int(budget // (4 * row)))
