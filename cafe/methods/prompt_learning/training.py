"""Learning contexts side by side: R runs of C prompts go through the text tower as one batch.

The engine trains heads whose parameters meet cached features; here they go through a network
first, and the optimiser is SGD, so the loop is its own. Image features come from the cache: no
image is encoded. A run's result depends on its own images, seed and recipe alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.devices import resolve_precision, torch_threads
from cafe.engine import BatchOrder, Recipe
from cafe.engine.chunks import budget_bytes
from cafe.engine.optimizer import cosine
from cafe.engine.stack import flatten_views
from cafe.features.tensors import ClassText, TrainingSet
from cafe.methods.base import Context
from cafe.methods.prompt_learning.prompts import Prompts

MOMENTUM = 0.9
"""Of SGD: the default of the authors' training library, which CoOp keeps."""

WARM_UP = 1e-5
"""Learning rate of the first epoch in CoOp's published configurations."""


SMALL_PRODUCT = 1 << 27
"""Multiplications of a product that one core does in a few milliseconds."""


@dataclass(frozen=True)
class ContextRun:
    """One context to learn.

    Attributes
    ----------
    start : Tensor
        Where it starts. (1 or C, T, W)
    train : TrainingSet
    seed : int
        Of the batch order.
    recipe : Recipe
    """

    start: Tensor
    train: TrainingSet
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Objective:
    """What R runs minimise side by side; this one is cross-entropy, as CoOp's.

    Attributes
    ----------
    text : ClassText
        Has the logit scale and bias of the runs' encoder.
    """

    text: ClassText

    def see(self, x: Tensor, y: Tensor, train: TrainingSet) -> Tensor:
        """What the loss sees of a run's images, made once: here their unit features x. (N, D)"""
        return x

    def __call__(self, classes: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Each run's loss.

        Parameters
        ----------
        classes : Tensor
            Unit text features under each run's context. (R, C, D)
        x : Tensor
            What `see` gave for the images of a batch. (R, B, D)
        y : Tensor
            Class indices. (R, B)

        Returns
        -------
        Tensor
            Mean over the batch. (R,)
        """
        logits = self.text.logit_scale * x @ classes.mT + self.text.logit_bias  # (R, B, C)
        return cross_entropy(logits.mT, y, reduction="none").mean(dim=-1)


def learn_contexts(
    runs: Sequence[ContextRun], prompts: Prompts, objective: Objective, context: Context
) -> list[Tensor]:
    """Learn every run's context.

    Parameters
    ----------
    runs : sequence of ContextRun
        In any mix; those of equal shapes and recipes train as one tensor program, as many at a time
        as the memory budget takes.
    prompts : Prompts
        The classes' prompts, which all runs share.
    objective : Objective
        Their loss.
    context : Context
        Where and how to compute; `tell` hears of run-epochs.

    Returns
    -------
    list of Tensor
        One context per run. (1 or C, T, W)
    """
    total, done = sum(run.recipe.epochs for run in runs), 0
    found: dict[int, Tensor] = {}

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if context.tell is not None:
            context.tell(done, total)

    for members, block in _chunks(runs, prompts, context):
        chunk = [runs[index] for index in members]
        with torch_threads(_threads(len(chunk), prompts)):
            learned = _learn(chunk, prompts, objective, context, block, tell)
        found.update(zip(members, learned, strict=True))
    return [found[index] for index in range(len(runs))]


def _chunks(
    runs: Sequence[ContextRun], prompts: Prompts, context: Context
) -> Iterator[tuple[list[int], int | None]]:
    """Runs that fit the budget side by side; of one that does not fit alone, prompts that do."""
    budget = budget_bytes(context.device, context.memory_budget)
    cohorts: dict[Hashable, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        features = run.train.features
        views = None if features.views is None else features.views.shape
        cohorts[run.recipe, features.x.shape, views].append(index)
    most = budget // (prompts.cost * len(prompts.tokens))
    block = None if most else max(1, budget // prompts.cost)
    for members in cohorts.values():
        for first in range(0, len(members), max(1, most)):
            yield members[first : first + max(1, most)], block


def _threads(runs: int, prompts: Prompts) -> int:
    """Torch's threads: one where products are small, as they wait for each other after every one.

    Measured with `nano` on two busy cores: ten times slower with two threads than with one.
    """
    width = prompts.shape[-1]
    largest = runs * prompts.tokens.numel() * width * 4 * width  # of a block's inner layer
    return torch.get_num_threads() if largest > SMALL_PRODUCT else 1


def _learn(
    runs: Sequence[ContextRun],
    prompts: Prompts,
    objective: Objective,
    context: Context,
    block: int | None,
    tell: Callable[[int], None],
) -> Tensor:
    """Learn the contexts of one chunk. (R, 1 or C, T, W)"""
    recipe, device = runs[0].recipe, context.device
    low = precision_of(context) == "bf16"
    images = _Images(runs, objective, device)
    contexts = torch.stack([run.start for run in runs]).to(device).requires_grad_()
    optimizer = torch.optim.SGD(
        [contexts], lr=recipe.lr, momentum=MOMENTUM, weight_decay=recipe.weight_decay
    )
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = rate(epoch, recipe)
        for x, y in images.epoch():
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                features = prompts.features(contexts, block)  # (R, C, D)
            losses = objective(normalize(features.float(), dim=-1), x, y)
            # A run's loss depends on its own context only, so the sum's gradient is each run's.
            (contexts.grad,) = torch.autograd.grad(losses.sum(), [contexts])
            optimizer.step()
        tell(len(runs))
    return contexts.detach()


def rate(epoch: int, recipe: Recipe) -> float:
    """Learning rate of an epoch: one epoch of warm-up, then a cosine from the recipe's on.

    As in CoOp's configurations, where the cosine is as long as the training and starts one epoch
    late, so that it ends just above 0.
    """
    if epoch == 0:
        return min(WARM_UP, recipe.lr)
    return recipe.lr * cosine(epoch - 1, recipe.epochs)


def precision_of(context: Context) -> Literal["fp32", "bf16"]:
    """The precision of the tower's products; "auto" is float32 on a CPU.

    There each pass would cast the frozen weights anew: measured 1.1 (W = 512) to 3 times (W = 32)
    slower than float32 on a CPU whose bfloat16 products are 4 times faster.
    """
    if context.precision == "auto" and context.device.type == "cpu":
        return "fp32"
    return resolve_precision(context.precision, context.device)


class _Images:
    """The images of R runs of one shape, in batches."""

    def __init__(
        self, runs: Sequence[ContextRun], objective: Objective, device: torch.device
    ) -> None:
        recipe = runs[0].recipe
        trains = list({id(run.train): run.train for run in runs}.values())
        images = len(trains[0].features)
        flat = [flatten_views(t.features) if recipe.views else t.features for t in trains]
        seen = [objective.see(f.unit, f.y, t) for f, t in zip(flat, trains, strict=True)]
        self._x = torch.stack(seen).to(device)  # (U, N * V, D), each training set once
        self._y = torch.stack([f.y for f in flat]).to(device)  # (U, N * V)
        place = {id(train): number for number, train in enumerate(trains)}
        self._set = torch.tensor([[place[id(run.train)]] for run in runs], device=device)  # (R, 1)
        self._orders = [BatchOrder(run.seed, images, len(flat[0]) // images) for run in runs]
        self._batch = recipe.batch_size

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (R, B, D) and class indices (R, B) of the next epoch's batches."""
        order = torch.stack([order.epoch() for order in self._orders]).to(self._x.device)  # (R, N)
        for chosen in torch.split(order, self._batch, dim=1):
            yield self._x[self._set, chosen], self._y[self._set, chosen]
