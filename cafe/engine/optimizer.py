"""How runs are optimised: their recipes, and AdamW over the stacked parameters of many runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from cafe.engine.kernels import Kernels
from cafe.engine.workspace import Workspace
from cafe.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a run is optimised: AdamW with a cosine decay to 0, one decay step a batch.

    Attributes
    ----------
    lr : float
        Learning rate of the first step.
    weight_decay : float
        Decoupled weight decay per unit of learning rate. The default is torch's, so that a plain
        `AdamW(lr=1e-3)` is the reference; over some hundred steps it takes 1e-3 of a weight.
    epochs : int
        Passes over the training set.
    batch_size : int
        B; the last batch of an epoch is smaller where B does not divide N, and is not dropped.
    views : bool
        Take, for each image in each epoch, one of its augmented views at random, where the training
        set has them; False takes the plain features.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-2
    epochs: int = 50
    batch_size: int = 256
    views: bool = True

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch size", self.batch_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1; got {value}.")
        for name, rate in (("learning rate", self.lr), ("weight decay", self.weight_decay)):
            if not 0 <= rate < math.inf:
                raise InputError(f"{name} must be a number from 0 up; got {rate}.")


def cosine(step: int, steps: int) -> float:
    """Factor on the learning rate: from 1 at step 0 towards 0 (Loshchilov and Hutter 2017).

    The same as `torch.optim.lr_scheduler.CosineAnnealingLR` with `T_max=steps`.
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


class StackedAdamW:
    """AdamW (Loshchilov and Hutter 2019) on tensors whose leading axes are runs.

    Neighbouring runs of one learning rate and one decay are updated by one call on one slice. So
    the common case, a grid of one recipe, is one pass over memory.

    Parameters
    ----------
    params, grads : mapping of str to Tensor
        Stacked weights and their gradients. (S, M, ...)
    recipes : sequence of Recipe
        One per run. (S * M,)
    undecayed : frozenset of str
        Names that weight decay leaves alone.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        recipes: Sequence[Recipe],
        undecayed: frozenset[str],
    ) -> None:
        groups: list[dict[str, Any]] = []
        self._rates = []
        on_gpu = next(iter(params.values())).is_cuda
        for (lr, decay), first, end in _neighbours(recipes):
            for name, stacked in params.items():
                # both are views: the step updates the stacked weights, from the gradients in place
                weights = stacked.flatten(0, 1)[first:end]  # (runs, ...)
                weights.grad = grads[name].flatten(0, 1)[first:end]
                rate = 0.0 if name in undecayed else decay
                # a captured step reads its learning rate where it lies, on the GPU
                start = weights.new_tensor(lr) if on_gpu else lr
                groups.append({"params": [weights], "lr": start, "weight_decay": rate})
                self._rates.append(lr)
        # fused: one pass reads and writes weight, gradient and moments, which do not fit a cache
        self._optimizer = torch.optim.AdamW(groups, fused=True, capturable=on_gpu)

    def set_rate(self, factor: float) -> None:
        """Make every learning rate of the next step `factor` times what its recipe says."""
        for group, lr in zip(self._optimizer.param_groups, self._rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * factor)
            else:
                group["lr"] = lr * factor

    def step(self) -> None:
        """One update."""
        self._optimizer.step()


class KernelAdamW:
    """The same as `StackedAdamW`, by a kernel that takes gradients in the type of products.

    `work.mirrors` holds the weights in that type, up to date.

    Parameters
    ----------
    params, grads, recipes, undecayed
        As `StackedAdamW` has them, but for the type of the gradients.
    work : Workspace
        Whose `mirrors` it keeps.
    kernels : Kernels
        Where the step is.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        recipes: Sequence[Recipe],
        undecayed: frozenset[str],
        work: Workspace,
        kernels: Kernels,
    ) -> None:
        self._kernels, self._product = kernels, work.product
        self._steps, self._factor = 0, 1.0
        self._slices = []
        for name, stacked in params.items():
            work.mirrors[name] = stacked.to(work.product)  # in float32 the weights themselves
            tensors = stacked, grads[name], torch.zeros_like(stacked), torch.zeros_like(stacked)
            flat = [value.flatten(0, 1) for value in (*tensors, work.mirrors[name])]
            for (lr, decay), first, end in _neighbours(recipes):
                rate = 0.0 if name in undecayed else decay
                self._slices.append(([value[first:end] for value in flat], lr, rate))

    def set_rate(self, factor: float) -> None:
        """Make every learning rate of the next step `factor` times what its recipe says."""
        self._factor = factor

    def step(self) -> None:
        """One update."""
        self._steps += 1
        beta1, beta2, eps = 0.9, 0.999, 1e-8  # torch's
        correction = (1 - beta2**self._steps) ** -0.5
        for tensors, lr, decay in self._slices:
            rate = lr * self._factor
            numbers = 1 - rate * decay, beta1, beta2, rate / (1 - beta1**self._steps)
            count = tensors[0].numel()
            self._kernels("adamw", self._product, *tensors, count, *numbers, correction, eps)


def _neighbours(recipes: Sequence[Recipe]) -> list[tuple[tuple[float, float], int, int]]:
    """Stretches of runs with one (learning rate, decay): the pair, first run, end."""
    stretches = []
    first = 0
    for pair, stretch in groupby((r.lr, r.weight_decay) for r in recipes):
        end = first + len(list(stretch))
        stretches.append((pair, first, end))
        first = end
    return stretches
