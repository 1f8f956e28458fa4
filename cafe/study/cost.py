"""How long a study trains at the least, said before it starts where that is long."""

from __future__ import annotations

import torch

from cafe.devices import product_rate
from cafe.engine import Recipe
from cafe.errors import counted
from cafe.features.task import Task
from cafe.methods.base import Context
from cafe.methods.catalog import make_method
from cafe.study.plan import StudyPlan

LONG = 120.0
"""Seconds from which on it is said."""

_SLOWEST = 1e10  # operations in a second: what is short at this rate is not measured


def cost_notes(task: Task, plan: StudyPlan, context: Context) -> list[str]:
    """A sentence on the time of training and on what takes less; none where it is short.

    Parameters
    ----------
    task : Task
    plan : StudyPlan
    context : Context
    """
    flops = training_flops(task, plan)
    if flops < LONG * _SLOWEST:
        return []
    dtype = torch.bfloat16 if context.products == "bf16" else torch.float32
    cores = 1 if context.device.type == "cuda" else min(torch.get_num_threads(), len(plan.seeds))
    seconds = flops / product_rate(context.device, dtype) / cores
    if seconds < LONG:
        return []
    return [
        f"training will take {seconds / 60:,.0f} minutes or more at this machine's rate of matrix "
        f"products, with {len(task.text.names):,} classes and {counted(len(plan.seeds), 'seed')}; "
        "fewer seeds, epochs or shots take less."
    ]


def training_flops(task: Task, plan: StudyPlan) -> float:
    """Floating-point operations of the products with the class weights, the largest part."""
    methods = [make_method(name, Context(), plan.settings) for name in plan.methods]
    recipes = [getattr(method, "recipe", None) for method in methods]
    epochs = sum(recipe.epochs for recipe in recipes if isinstance(recipe, Recipe))
    sizes = torch.bincount(task.splits["train"].y)
    drawn = [sizes if shots == "all" else sizes.clamp(max=shots) for shots in plan.shots]
    # where a class has two images, the temperature takes one fit more at the least
    is_held_out = plan.validation in ("none", "cv")
    fits = [len(plan.seeds) + (is_held_out and int(count.max()) > 1) for count in drawn]
    images = sum(int(count.sum()) * times for count, times in zip(drawn, fits, strict=True))
    # forward and back to the images: two products, two operations for each of their numbers
    return 4.0 * len(task.text.names) * task.width * images * epochs
