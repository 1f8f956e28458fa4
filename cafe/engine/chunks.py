"""Which runs train side by side: chunks of S streams of M runs that fit a memory budget."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch

from cafe.engine.architecture import Run
from cafe.engine.stack import makes_rows_per_batch
from cafe.errors import InputError
from cafe.features.tensors import ClassText, TrainingSet

_T = TypeVar("_T")

PARAMETER_BYTES = 4 * 4 + 2 * 2
"""Per parameter: weight, gradient and two moments in float32, weight and gradient in bfloat16."""

FREE_SHARE = 0.5
"""Share of the free memory that is taken where no budget is given."""


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
        """Indices of the runs, stream by stream. (S * M,)"""
        return [index for stream in self.streams for index in stream]

    def halves(self) -> tuple[Chunk, Chunk]:
        """Half of the streams each, or half of the runs of the one stream."""
        if len(self.streams) > 1:
            middle = len(self.streams) // 2
            return Chunk(self.streams[:middle]), Chunk(self.streams[middle:])
        (stream,) = self.streams
        middle = len(stream) // 2
        return Chunk((stream[:middle],)), Chunk((stream[middle:],))


def plan_chunks(
    runs: Sequence[Run],
    training_sets: Sequence[TrainingSet],
    *,
    budget: int,
    chunk_bytes: int,
    workers: int,
) -> tuple[list[Chunk], int]:
    """Cut runs into chunks, and decide how many chunks train at a time.

    Parameters
    ----------
    runs : sequence of Run
        What to train.
    training_sets : sequence of TrainingSet
        What `Run.data` points into.
    budget : int
        Bytes that the chunks in flight may take together.
    chunk_bytes : int
        Bytes that a chunk should not exceed; a single run may.
    workers : int
        Chunks to train at a time, at most; fewer where the budget asks for it.

    Returns
    -------
    (list of Chunk, int)
        Chunks that hold every run once, the most expensive first so that no worker starts a long
        one last; and how many to train at a time.

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
    largest = max(map(sum, costs.values()))  # one stream of one run
    if largest > budget:
        raise InputError(
            f"one run needs {largest:,} bytes and the memory budget is {budget:,}; raise the "
            "budget, or make the batch or the head smaller."
        )
    workers = max(1, min(workers, budget // largest, len(runs)))
    # a chunk holds at most one worker's even share of the runs, so that no worker stays idle
    room, most = min(chunk_bytes, budget // workers), -(-len(runs) // workers)
    priced = [
        (costs[key][0] * len(chunk.streams) + costs[key][1] * len(chunk.members), chunk)
        for key, members in cohorts.items()
        for chunk in _chunks(_streams(runs, members), costs[key], room, most)
    ]
    priced.sort(key=lambda pair: -pair[0])
    return [chunk for _, chunk in priced], workers


def _cohort(run: Run, train: TrainingSet, text: int) -> Hashable:
    """Runs with equal keys step together: equal shapes and an equal number of equal batches."""
    recipe = run.recipe
    schedule = (recipe.epochs, recipe.batch_size, recipe.views)
    views = None if train.features.views is None else train.features.views.shape
    return (
        run.architecture,
        tuple(sorted(run.scalars)),
        schedule,
        train.features.x.shape,
        views,
        text,
    )


def _text_numbers(training_sets: Sequence[TrainingSet]) -> list[int]:
    """A number for each set's text. Draws of one cache hold equal copies, which count as one."""
    distinct: list[ClassText] = []
    numbers = []
    for train in training_sets:
        equal = (i for i, text in enumerate(distinct) if _same_text(text, train.text))
        number = next(equal, len(distinct))
        if number == len(distinct):
            distinct.append(train.text)
        numbers.append(number)
    return numbers


def _same_text(a: ClassText, b: ClassText) -> bool:
    if a is b:  # saves a comparison of every number
        return True
    scales_agree = (a.logit_scale, a.logit_bias) == (b.logit_scale, b.logit_bias)
    return scales_agree and torch.equal(a.features, b.features)


def _chunks(
    streams: list[tuple[int, ...]], costs: tuple[int, int], room: int, most: int
) -> list[Chunk]:
    """Cut one cohort. Tensors are (S, M, ...), so the streams of a chunk are equally long."""
    per_stream, per_run = costs
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for stream in streams:
        for piece in _split(stream, min(most, (room - per_stream) // per_run)):
            by_length[len(piece)].append(piece)
    chunks = []
    for length, pieces in by_length.items():
        side_by_side = min(most // length, room // (per_stream + length * per_run))
        chunks += [Chunk(part) for part in _split(tuple(pieces), side_by_side)]
    return chunks


def _streams(runs: Sequence[Run], members: list[int]) -> list[tuple[int, ...]]:
    """Runs of equal training set and seed, hence of equal batches."""
    streams: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in members:
        streams[runs[index].data, runs[index].seed].append(index)

    def step_size(index: int) -> tuple[float, float]:
        return runs[index].recipe.lr, runs[index].recipe.weight_decay

    # neighbours of one step size share one call of the optimiser; see `StackedAdamW`
    return [tuple(sorted(stream, key=step_size)) for stream in streams.values()]


def _split(items: tuple[_T, ...], most: int) -> list[tuple[_T, ...]]:
    """Cut into the fewest parts of at most `most` (or 1), as even as can be."""
    count = -(-len(items) // max(1, most))
    cuts = [round(i * len(items) / count) for i in range(count + 1)]
    return [items[a:b] for a, b in pairwise(cuts)]


def cost(run: Run, train: TrainingSet) -> tuple[int, int]:
    """Bytes that a stream and each of its runs hold while they train: upper estimates."""
    classes, _, width = train.text.features.shape
    images = len(run.architecture.examples(train))
    views = train.features.views
    rows = images if views is None or not run.recipe.views else images * views.shape[1]
    batch = min(run.recipe.batch_size, images)
    parameters = sum(value.numel() for value in run.architecture.initial(run, train).values())
    activations = run.architecture.activations(parameters, batch, classes, width)
    kept = 0 if makes_rows_per_batch(rows, width, run.architecture) else rows
    # what the head needs of each image; of those of a batch, logits and their gradient too
    needed = (kept + batch) * run.architecture.row_numbers(width) + 2 * batch * classes
    per_stream = 4 * (needed + run.architecture.constant_numbers(train))
    return per_stream, PARAMETER_BYTES * parameters + 4 * activations


def free_bytes(device: torch.device) -> int:
    """Bytes free on a device.

    Parameters
    ----------
    device : torch.device
        CPU or CUDA; 4 GiB are assumed of any other kind.

    Returns
    -------
    int
        Free bytes now.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        return 4 << 30


def budget_bytes(device: torch.device, budget: int | None) -> int:
    """Bytes that may be taken: the budget, or half of what is free where that is None."""
    return int(free_bytes(device) * FREE_SHARE) if budget is None else budget
