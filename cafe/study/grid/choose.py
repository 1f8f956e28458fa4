"""Which configuration of a grid is chosen: the best on validation images, else the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cafe.features.splits import Shots
from cafe.methods.checks import parse_bottleneck
from cafe.methods.clip_adapter.method import ClipAdapter
from cafe.methods.validation import pick_best
from cafe.results.page import GridRow
from cafe.study.grid.space import Cell, Configuration, GridSpace


def choose(rows: Mapping[Cell, GridRow], space: GridSpace, shots: Shots) -> Configuration | None:
    """The configuration that does best on average over seeds; None where no run was judged.

    Of equals it is the one with the smaller ratio; see `cafe.methods.validation.pick_best`.
    """
    # the first of equals wins, so the smaller ratio stands first
    points = sorted(space.points, key=lambda point: point.ratio)
    if Cell(shots, space.seeds[0], points[0]) not in rows:
        return None
    accuracies = [mean_over_seeds("val", rows, space, shots, point) for point in points]
    losses = [mean_over_seeds("val_nll", rows, space, shots, point) for point in points]
    return points[pick_best(accuracies, losses)]


def mean_over_seeds(
    name: Literal["val", "val_nll"],
    rows: Mapping[Cell, GridRow],
    space: GridSpace,
    shots: Shots,
    point: Configuration,
) -> float:
    """Mean over seeds of a value of a configuration's rows."""
    values = [rows[Cell(shots, seed, point)][name] for seed in space.seeds]
    return sum(values) / len(values)


def nearest_to_defaults(space: GridSpace, width: int) -> Configuration:
    """The configuration nearest to CLIP-Adapter's defaults: in ratio, then in width, then in rate.

    Parameters
    ----------
    space : GridSpace
    width : int
        Feature width D.
    """
    default = ClipAdapter()
    hidden = parse_bottleneck(default.bottleneck, width)
    return min(
        space.points,
        key=lambda point: (
            abs(point.ratio - default.ratio),
            abs(parse_bottleneck(point.bottleneck, width) - hidden),
            abs(point.lr - default.recipe.lr),
        ),
    )
