"""Training many runs side by side; knows no head by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from cafe.devices import ProductPrecision, out_of_memory, resolve_precision, torch_threads
from cafe.engine.architecture import Architecture, Batch, Run, Trained
from cafe.engine.chunks import Chunk, budget_bytes, plan_chunks
from cafe.engine.kernels import Kernels, load_kernels
from cafe.engine.optimizer import KernelAdamW, StackedAdamW, cosine
from cafe.engine.replay import ReplayedStep
from cafe.engine.stack import BatchLoader, stack_scalars, stack_tensors
from cafe.engine.workers import run_jobs
from cafe.engine.workspace import Workspace
from cafe.features.tensors import TrainingSet

CHUNK_BYTES = 96 << 20
"""Bytes of a chunk on a CPU. Measured: a step costs 0.2 ms beside its kernels, which 9 wide heads
share where chunks of 48 MiB hold 5 (5 % of their time); larger chunks gain nothing."""

WORTH = 2e7
"""Numbers of images and weights over all steps from which kernels are worth the second that they
take to build, once."""

SHARED = {torch.float32: 2e8, torch.bfloat16: 1.6e9}
"""Operations of a step from which its products are worth several threads; both take 1 to 2 ms of a
core with AMX. With fewer, threads that wait for each other cost up to what they gain."""

Progress = Callable[[int, int], None]
"""Takes the run-epochs that are done and those there are."""


def train(
    runs: Sequence[Run],
    training_sets: Sequence[TrainingSet],
    *,
    device: torch.device | None = None,
    precision: ProductPrecision = "auto",
    memory_budget: int | None = None,
    progress: Progress | None = None,
    on_finished: Callable[[int, Trained], None] | None = None,
    keep: bool = True,
) -> list[Trained]:
    """Train runs side by side, in as many chunks as the memory budget asks for.

    A run's result is a function of the run and its training set: neither its neighbours nor the
    chunking nor its place in the list change it beyond rounding. (Rounding may grow: where a ReLU's
    input is 0 to the last bit, two orders of summation can disagree on its side; after 50 epochs
    weights may then differ by some 1e-3, as those of a plain loop do in float32 and float64.)

    Parameters
    ----------
    runs : sequence of Run
        What to train, in any mix.
    training_sets : sequence of TrainingSet
        What `Run.data` points into: few-shot draws, folds, whole splits.
    device : torch.device or None
        Where to train; None is where the first training set lies.
    precision : {"auto", "fp32", "bf16"}
        Precision of matrix products; "auto" takes bf16 where the CPU is faster at it.
    memory_budget : int or None
        Bytes that runs side by side may take; None takes half of what is free.
    progress : callable or None
        Called with (run-epochs done, run-epochs in all) after every epoch of a chunk.
    on_finished : callable or None
        Called with (index of the run, its result) as soon as its chunk is done, so that an
        interrupt loses the chunk in flight and nothing else.
    keep : bool
        Whether to return the results; the weights of some ten thousand runs do not fit.

    Returns
    -------
    list of Trained
        One per run, in the order of `runs`; empty without `keep`.

    Raises
    ------
    InputError
        If one run alone does not fit the budget, or `precision` is unknown.
    """
    if not runs:
        return []
    device = device or training_sets[runs[0].data].features.x.device
    product = resolve_precision(precision, device)
    budget = budget_bytes(device, memory_budget)
    on_cpu = device.type == "cpu"
    chunks, workers = plan_chunks(
        runs,
        training_sets,
        budget=budget,
        chunk_bytes=CHUNK_BYTES if on_cpu else budget,
        workers=torch.get_num_threads() if on_cpu else 1,
    )
    kernels = load_kernels() if on_cpu and _is_worth(runs, training_sets) else None
    fixed = runs, training_sets, device, product, kernels
    jobs = [partial(_train_or_halve, chunk, *fixed) for chunk in chunks]
    total, done = sum(run.recipe.epochs for run in runs), 0  # in run-epochs
    results: dict[int, Trained] = {}

    def on_progress(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def on_result(finished: dict[int, Trained]) -> None:
        if keep:
            results.update(finished)
        if on_finished is not None:
            for index, result in finished.items():
                on_finished(index, result)

    run_jobs(jobs, workers, on_progress=on_progress, on_result=on_result)
    return [results[index] for index in sorted(results)]


def _is_worth(runs: Sequence[Run], training_sets: Sequence[TrainingSet]) -> bool:
    """Whether runs that take kernels go through more than `WORTH` numbers in all steps."""
    numbers, weights = 0, dict[Architecture, int]()
    for run in runs:
        architecture, train = run.architecture, training_sets[run.data]
        if not architecture.takes_kernels():
            continue
        if architecture not in weights:
            initial = architecture.initial(run, train)
            weights[architecture] = sum(value.numel() for value in initial.values())
        steps = -(-len(train.features) // run.recipe.batch_size)
        each_epoch = train.features.x.numel() + steps * weights[architecture]
        numbers += run.recipe.epochs * each_epoch
        if numbers > WORTH:
            return True
    return False


def _threads(
    runs: Sequence[Run], train: TrainingSet, params: Mapping[str, Tensor], work: Workspace
) -> int:
    """Torch's threads for a chunk: one beside kernels, unless a step multiplies enough for more."""
    if work.kernels is None:
        return torch.get_num_threads()
    rows = min(runs[0].recipe.batch_size, len(train.features))
    weights = sum(value.numel() for value in params.values())
    operations = rows * (6 * weights + 4 * len(runs) * train.text.weights.numel())
    return torch.get_num_threads() if operations > SHARED[work.product] else 1


def _train_or_halve(
    chunk: Chunk,
    runs: Sequence[Run],
    training_sets: Sequence[TrainingSet],
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    kernels: Kernels | None,
    report: Callable[[int], None],
) -> dict[int, Trained]:
    """Train one chunk; where a GPU has no room for it after all, its halves one by one."""
    reported = 0

    def count(epochs: int) -> None:
        nonlocal reported
        reported += epochs
        report(epochs)

    try:
        return _train_chunk(chunk, runs, training_sets, device, precision, kernels, count)
    except torch.cuda.OutOfMemoryError as error:
        if len(chunk.members) == 1:
            raise out_of_memory("one run") from error
    torch.cuda.empty_cache()
    report(-reported)
    finished: dict[int, Trained] = {}
    for half in chunk.halves():
        finished |= _train_or_halve(half, runs, training_sets, device, precision, kernels, report)
    return finished


@torch.no_grad()
def _train_chunk(
    chunk: Chunk,
    runs: Sequence[Run],
    training_sets: Sequence[TrainingSet],
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    kernels: Kernels | None,
    report: Callable[[int], None],
) -> dict[int, Trained]:
    """Train one chunk from its initial weights; reports run-epochs as they are done."""
    members = [runs[index] for index in chunk.members]
    architecture, epochs = members[0].architecture, members[0].recipe.epochs
    count = len(chunk.streams)  # S; the chunk has S * M members
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    work = Workspace(device, low, kernels if architecture.takes_kernels() else None)
    initial = [architecture.initial(run, training_sets[run.data]) for run in members]
    params = stack_tensors(initial, count, device)  # each (S, M, ...)
    kind = torch.float32 if work.kernels is None else low
    grads = {name: torch.zeros_like(value, dtype=kind) for name, value in params.items()}
    leaders = [runs[stream[0]] for stream in chunk.streams]  # (S,)
    loader = BatchLoader(leaders, training_sets, stack_scalars(members, count, device), device)
    optimized = params, grads, [run.recipe for run in members], architecture.undecayed
    optimizer: StackedAdamW | KernelAdamW
    if work.kernels is None:
        optimizer = StackedAdamW(*optimized)
    else:
        optimizer = KernelAdamW(*optimized, work, work.kernels)

    def take_step(batch: Batch) -> None:
        architecture.gradients(params, batch, grads, work)
        optimizer.step()  # weights stay float32: bf16 loses small steps

    take = ReplayedStep(take_step) if device.type == "cuda" else take_step
    step, steps = 0, epochs * loader.steps
    threads = _threads(members, training_sets[leaders[0].data], params, work)
    with torch_threads(threads):
        for _ in range(epochs):
            for batch in loader.epoch():
                optimizer.set_rate(cosine(step, steps))
                take(batch)
                step += 1
            report(len(members))
    flat = {name: value.flatten(0, 1) for name, value in params.items()}  # (S * M, ...)
    return {
        index: Trained(run, {n: v[i].clone() for n, v in flat.items()}, precision)
        for i, (index, run) in enumerate(zip(chunk.members, members, strict=True))
    }
