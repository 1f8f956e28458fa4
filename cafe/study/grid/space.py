"""What a grid is over: configurations, shot counts and seeds, and what training them will cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from cafe.devices import product_rate
from cafe.engine import Recipe
from cafe.errors import InputError, counted
from cafe.features.splits import MOST_FOLDS, Shots
from cafe.features.task import Task, load_task
from cafe.methods.base import Protocol
from cafe.methods.checks import check_ratio, parse_bottleneck
from cafe.store import FeatureCache

BRANCHES = {"visual": "clip-adapter", "text": "clip-adapter-text", "both": "clip-adapter-both"}
"""Branch of a grid -> the method of the catalog that adapts it."""


class Configuration(NamedTuple):
    """One configuration of the grid."""

    ratio: float
    bottleneck: str
    lr: float


class Cell(NamedTuple):
    """One run of the grid: a configuration at one shot count and seed."""

    shots: Shots
    seed: int
    point: Configuration


@dataclass(frozen=True)
class GridSpace:
    """What a grid is over.

    Attributes
    ----------
    ratios : sequence of float
    bottlenecks : sequence of str
        "D/4" or whole numbers as text.
    lrs : sequence of float
        Learning rates of the first step.
    shots : sequence of int or "all"
    seeds : sequence of int
    validation : {"few-shot", "full", "cv"}
        What configurations are chosen on.
    branch : {"visual", "text", "both"}
    recipe : Recipe
        Everything else of the optimiser.
    """

    ratios: Sequence[float]
    bottlenecks: Sequence[str] = ("D/4",)
    lrs: Sequence[float] = (Recipe.lr,)
    shots: Sequence[Shots] = (16,)
    seeds: Sequence[int] = (0, 1, 2)
    validation: Protocol = "cv"
    branch: str = "visual"
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for name in ("ratios", "bottlenecks", "lrs", "shots", "seeds"):
            if not getattr(self, name):
                raise InputError(f"an empty grid: there are no {name}.")
        if self.validation == "none":
            raise InputError(
                "a grid chooses on validation, never on the test set; use "
                'validation="few-shot", "full" or "cv".'
            )
        if self.branch not in BRANCHES:
            raise InputError(f"unknown branch '{self.branch}'; use visual, text or both.")

    @property
    def points(self) -> list[Configuration]:
        """Every configuration."""
        axes = itertools.product(self.ratios, self.bottlenecks, self.lrs)
        return list(itertools.starmap(Configuration, axes))

    @property
    def cells(self) -> list[Cell]:
        """Every run, shot counts outermost."""
        return list(itertools.starmap(Cell, itertools.product(self.shots, self.seeds, self.points)))


def span(text: str) -> list[float]:
    """Read numbers: "0.2", "0.1,0.4", or "0.1:0.9:0.1" with both ends.

    Parameters
    ----------
    text : str

    Raises
    ------
    InputError
        If a part is no number, or a range has no positive step or more than 10,000 numbers.
    """
    numbers: list[float] = []
    for part in filter(None, text.split(",")):
        try:
            ends = [float(word) for word in part.split(":")]
        except ValueError:
            ends = []
        ends = ends if all(map(math.isfinite, ends)) else []
        if len(ends) == 1:
            numbers += ends
        elif len(ends) == 3 and ends[2] > 0 and ends[1] >= ends[0]:
            # half a step more, so that rounding does not lose the upper end
            count = int((ends[1] - ends[0]) / ends[2] + 1.5)
            if count > _LONGEST_SPAN:
                raise InputError(f"'{part}' is {count:,} numbers; {_LONGEST_SPAN:,} at most.")
            steps = [round(ends[0] + number * ends[2], 10) for number in range(count)]
            numbers += [step for step in steps if step <= ends[1] + 1e-9]
        else:
            raise InputError(
                f"{part!r} is not understood; give a number, a list 0.1,0.4 or a range 0.1:0.9:0.1."
            )
    return numbers


_LONGEST_SPAN = 10_000


def check_space(space: GridSpace, width: int) -> None:
    """Refuse ratios and bottlenecks that cannot be meant, before anything is trained."""
    for ratio in space.ratios:
        check_ratio(ratio)
    for bottleneck in space.bottlenecks:
        parse_bottleneck(bottleneck, width)


def check_size(space: GridSpace, cache: FeatureCache, max_runs: int) -> None:
    """Refuse a grid of more runs than so many; the message says how long it would take."""
    axes = (space.ratios, space.bottlenecks, space.lrs, space.shots, space.seeds)
    count = math.prod(map(len, axes))
    if count <= max_runs:
        return
    rate = product_rate(torch.device("cpu"), torch.float32)
    hours = training_flops(space, load_task(cache)) / rate / 3600
    raise InputError(
        f"this grid is {counted(count, 'run')}, {hours:,.1f} hours or more at this machine's rate "
        "of matrix products in float32; use max_runs=None to go on, or a coarser grid."
    )


def training_flops(space: GridSpace, task: Task) -> float:
    """Floating-point operations of all runs: 6 per weight and image, as forward and backward take.

    An upper estimate: `cv` counts `MOST_FOLDS` folds, each of all images.
    """
    classes, width = task.text.weights.shape
    images = len(task.splits["train"])
    drawn = [images if shots == "all" else min(images, shots * classes) for shots in space.shots]
    hidden = [parse_bottleneck(bottleneck, width) for bottleneck in space.bottlenecks]
    weights = sum(2 * width * units + width * classes for units in hidden)
    folds = MOST_FOLDS if space.validation == "cv" else 1
    fits = len(space.ratios) * len(space.lrs) * len(space.seeds) * folds
    return 6.0 * weights * sum(drawn) * space.recipe.epochs * fits
