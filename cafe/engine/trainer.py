"""Training many runs side by side; knows no head by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from cafe.engine.contract import Run, Trained, Workspace
from cafe.engine.memory import budget_bytes
from cafe.engine.optimizer import StackedAdamW, cosine
from cafe.engine.plan import Chunk, plan
from cafe.engine.precision import Precision, choose, float32_products
from cafe.engine.stack import Streams, stack_scalars, stack_tensors
from cafe.features import TrainingSet

CACHE_BYTES = 64 << 20
"""Bytes of a chunk on a CPU: beyond it the passes over activations wait for memory."""

Progress = Callable[[int, int], None]
"""Takes the run-epochs that are done and those there are."""


def train(
    runs: Sequence[Run],
    training_sets: Sequence[TrainingSet],
    *,
    device: torch.device | None = None,
    precision: Precision = "auto",
    memory_budget: int | None = None,
    progress: Progress | None = None,
    on_finished: Callable[[int, Trained], None] | None = None,
) -> list[Trained]:
    """Train runs side by side, in as many chunks as the memory budget asks for.

    A run's result is a function of the run and its training set: neither its neighbours nor the
    chunking nor its place in the list change it beyond rounding.

    Parameters
    ----------
    runs : sequence of Run
        What to train, in any mix.
    training_sets : sequence of TrainingSet
        What `Run.data` points into: few-shot draws, folds, whole splits.
    device : torch.device or None
        Where to train; None is where the first training set lies.
    precision : {"auto", "fp32", "bf16"}
        Precision of matrix products; "auto" takes bf16 where the machine is faster at it.
    memory_budget : int or None
        Bytes that runs side by side may take; None takes half of what is free.
    progress : callable or None
        Called with (run-epochs done, run-epochs in all) after every epoch of a chunk.
    on_finished : callable or None
        Called with (index of the run, its result) as soon as its chunk is done, so that an
        interrupt loses the chunk in flight and nothing else.

    Returns
    -------
    list of Trained
        One per run, in the order of `runs`.

    Raises
    ------
    InputError
        If one run alone does not fit the budget, or `precision` is unknown.
    """
    if not runs:
        return []
    device = device or training_sets[runs[0].data].features.x.device
    in_force = choose(precision, device)
    block = CACHE_BYTES if device.type == "cpu" else budget_bytes(device, memory_budget)
    chunks = plan(runs, training_sets, budget_bytes(device, memory_budget), block)
    tell = _Counter(sum(run.recipe.epochs for run in runs), progress)
    results: dict[int, Trained] = {}
    for chunk in chunks:
        done = _train_chunk(chunk, runs, training_sets, device, in_force, tell)
        for index, result in zip(chunk.members, done, strict=True):
            results[index] = result
            if on_finished is not None:
                on_finished(index, result)
    return [results[index] for index in range(len(runs))]


class _Counter:
    """Adds up run-epochs and passes them on."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self._progress = 0, total, progress

    def add(self, count: int) -> None:
        self.done += count
        if self._progress is not None:
            self._progress(self.done, self.total)


@torch.no_grad()
def _train_chunk(
    chunk: Chunk,
    runs: Sequence[Run],
    training_sets: Sequence[TrainingSet],
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    tell: _Counter,
) -> list[Trained]:
    """Train one chunk from its initial weights to its results, run by run as in the chunk."""
    members = [runs[index] for index in chunk.members]
    family, epochs = members[0].family, members[0].recipe.epochs
    count = len(chunk.streams)
    initial = [family.initial(run, training_sets[run.data]) for run in members]
    params = stack_tensors(initial, count, device)
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    leaders = [runs[stream[0]] for stream in chunk.streams]
    streams = Streams(leaders, training_sets, stack_scalars(members, count, device), device)
    optimizer = StackedAdamW(
        {name: value.flatten(0, 1) for name, value in params.items()},
        {name: value.flatten(0, 1) for name, value in grads.items()},
        [run.recipe for run in members],
        family.undecayed,
    )
    work = Workspace(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    losses = torch.zeros(count, len(members) // count, device=device)  # (S, M)
    step, steps = 0, epochs * streams.steps
    with float32_products(precision):
        for epoch in range(epochs):
            for batch in streams.epoch():
                loss = family.gradients(params, batch, grads, work)
                if epoch == epochs - 1:
                    losses += loss() * batch.y.shape[1] / streams.images
                optimizer.step(cosine(step, steps))
                step += 1
            tell.add(len(members))
    return _results(members, params, losses, precision)


def _results(
    members: Sequence[Run],
    params: dict[str, Tensor],
    losses: Tensor,
    precision: Literal["fp32", "bf16"],
) -> list[Trained]:
    flat = {name: value.flatten(0, 1) for name, value in params.items()}
    return [
        Trained(run, {name: v[i].clone() for name, v in flat.items()}, loss, precision)
        for i, (run, loss) in enumerate(zip(members, losses.flatten().tolist(), strict=True))
    ]
