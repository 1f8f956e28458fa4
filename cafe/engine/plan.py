"""Which runs train side by side: chunks of S streams of M runs that fit a budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch

from cafe.engine.contract import Run
from cafe.engine.memory import in_words
from cafe.errors import InputError
from cafe.features.tensors import LARGE, ClassText, TrainingSet

_T = TypeVar("_T")

MASTER_BYTES = 4 * 4 + 2 * 2
"""Per parameter: weight, gradient and two moments in float32, weight and gradient in bfloat16."""


@dataclass(frozen=True)
class Chunk:
    """Runs that train side by side.

    Attributes
    ----------
    streams : tuple of tuple of int
        Indices of the runs, S streams of M each. The runs of a stream share training set, seed
        and batch size, hence every batch.
    """

    streams: tuple[tuple[int, ...], ...]

    @property
    def members(self) -> list[int]:
        """Indices of the runs, stream by stream. (R,)"""
        return [index for stream in self.streams for index in stream]


@dataclass(frozen=True)
class ChunkPlan:
    """Chunks, dearest first so that no worker is left with a long one, and how many at a time."""

    chunks: tuple[Chunk, ...]
    workers: int


def plan(
    runs: Sequence[Run],
    training_sets: Sequence[TrainingSet],
    *,
    budget: int,
    block: int,
    workers: int,
) -> ChunkPlan:
    """Cut runs into chunks.

    Parameters
    ----------
    runs : sequence of Run
        What to train.
    training_sets : sequence of TrainingSet
        What `Run.data` points into.
    budget : int
        Bytes that the chunks in flight may take together.
    block : int
        Bytes that a chunk had better not exceed.
    workers : int
        Chunks to train at a time, at most; fewer where the budget asks for it.

    Returns
    -------
    ChunkPlan
        Every run once.

    Raises
    ------
    InputError
        If one run alone does not fit the budget.
    """
    texts = _text_numbers(training_sets)
    cohorts: dict[Hashable, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        cohorts[_cohort(run, training_sets[run.data], texts[run.data])].append(index)
    costs = {key: cost(runs[c[0]], training_sets[runs[c[0]].data]) for key, c in cohorts.items()}
    dearest = max(map(sum, costs.values()))
    if dearest > budget:
        raise InputError(
            f"one run needs {in_words(dearest)} and the memory budget is {in_words(budget)}; "
            "raise the budget, or make the batch or the head smaller."
        )
    workers = max(1, min(workers, budget // dearest, len(runs)))
    room, most = min(block, budget // workers), -(-len(runs) // workers)
    chunks = [
        (costs[key][0] * len(chunk.streams) + costs[key][1] * len(chunk.members), chunk)
        for key, members in cohorts.items()
        for chunk in _chunks(_streams(runs, members), costs[key], room, most)
    ]
    chunks.sort(key=lambda pair: -pair[0])
    return ChunkPlan(tuple(chunk for _, chunk in chunks), workers)


def _cohort(run: Run, train: TrainingSet, text: int) -> Hashable:
    """Runs with equal keys step together: equal shapes and an equal number of equal batches."""
    recipe = run.recipe
    schedule = (recipe.epochs, recipe.batch_size, recipe.views)
    views = None if train.features.views is None else train.features.views.shape
    return run.family, tuple(sorted(run.scalars)), schedule, train.features.x.shape, views, text


def _text_numbers(training_sets: Sequence[TrainingSet]) -> list[int]:
    """Number the distinct texts, so that copies of one text are one."""
    known: list[ClassText] = []
    numbers = []
    for train in training_sets:
        found = (i for i, text in enumerate(known) if _same_text(text, train.text))
        number = next(found, len(known))
        if number == len(known):
            known.append(train.text)
        numbers.append(number)
    return numbers


def _same_text(a: ClassText, b: ClassText) -> bool:
    if a is b:
        return True
    scales_agree = (a.logit_scale, a.logit_bias) == (b.logit_scale, b.logit_bias)
    return scales_agree and torch.equal(a.features, b.features)


def _chunks(
    streams: list[tuple[int, ...]], costs: tuple[int, int], room: int, most: int
) -> list[Chunk]:
    """Cut one cohort: streams of equal length lie side by side, and long ones are split."""
    per_stream, per_run = costs
    pieces: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for stream in streams:
        for piece in _split(stream, min(most, (room - per_stream) // per_run)):
            pieces[len(piece)].append(piece)
    chunks = []
    for length, alike in pieces.items():
        side_by_side = min(most // length, room // (per_stream + length * per_run))
        chunks += [Chunk(tuple(part)) for part in _split(tuple(alike), side_by_side)]
    return chunks


def _streams(runs: Sequence[Run], members: list[int]) -> list[tuple[int, ...]]:
    """Runs of equal training set and seed; runs of equal step size lie together within one."""
    streams: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in members:
        streams[runs[index].data, runs[index].seed].append(index)

    def step_size(index: int) -> tuple[float, float]:
        return runs[index].recipe.lr, runs[index].recipe.weight_decay

    return [tuple(sorted(stream, key=step_size)) for stream in streams.values()]


def _split(items: tuple[_T, ...], most: int) -> list[tuple[_T, ...]]:
    """Cut into the fewest parts of at most `most` (or 1), as even as can be."""
    most = max(1, most)
    count = -(-len(items) // most)
    cuts = [round(i * len(items) / count) for i in range(count + 1)]
    return [items[a:b] for a, b in pairwise(cuts)]


def cost(run: Run, train: TrainingSet) -> tuple[int, int]:
    """Bytes that a stream and each of its runs hold while they train: upper estimates."""
    classes, _, width = train.text.features.shape
    images = len(run.family.examples(train))
    views = train.features.views
    rows = images if views is None or not run.recipe.views else images * views.shape[1]
    batch = min(run.recipe.batch_size, images)
    parameters = sum(value.numel() for value in run.family.initial(run, train).values())
    activations = run.family.activations(parameters, batch, classes, width)
    numbers = run.family.row_numbers(width)
    held = 0 if rows * numbers > LARGE else rows  # else the rows of a batch are all that is made
    per_stream = 4 * (held + batch) * (numbers + 2 * classes)
    return per_stream, MASTER_BYTES * parameters + 4 * activations
