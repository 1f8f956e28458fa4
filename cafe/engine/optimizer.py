"""AdamW over the stacked parameters of many runs, each with its own learning rate and decay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from cafe.engine.recipe import Recipe


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
        for (lr, decay), first, end in _neighbours(recipes):
            for name, stacked in params.items():
                # both are views: the step updates the stacked weights, from the gradients in place
                weights = stacked.flatten(0, 1)[first:end]  # (runs, ...)
                weights.grad = grads[name].flatten(0, 1)[first:end]
                rate = 0.0 if name in undecayed else decay
                groups.append({"params": [weights], "lr": lr, "weight_decay": rate})
                self._rates.append(lr)
        # fused: one pass reads and writes weight, gradient and moments, which do not fit a cache
        self._optimizer = torch.optim.AdamW(groups, fused=True)

    def step(self, factor: float) -> None:
        """One update, with every learning rate times `factor`."""
        for group, lr in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = lr * factor
        self._optimizer.step()


def _neighbours(recipes: Sequence[Recipe]) -> list[tuple[tuple[float, float], int, int]]:
    """Stretches of runs with one (learning rate, decay): the pair, first run, end."""
    stretches = []
    first = 0
    for pair, stretch in groupby((r.lr, r.weight_decay) for r in recipes):
        end = first + len(list(stretch))
        stretches.append((pair, first, end))
        first = end
    return stretches
