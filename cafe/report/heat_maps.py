"""Validation accuracy of a grid over ratio and bottleneck."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cafe.features.splits import Shots
from cafe.results.page import GridRow, read_grid_rows
from cafe.results.record import Record

Cell = tuple[float, str]
"""A ratio and a bottleneck."""


class HeatMap(NamedTuple):
    """Validation accuracy over ratio and bottleneck at one shot count.

    Attributes
    ----------
    shots : int or "all"
    cells : dict
        (ratio, bottleneck) -> its runs, one per seed, at the learning rate with the best mean.
    chosen : (ratio, bottleneck)
        What validation chose.
    """

    shots: Shots
    cells: dict[Cell, Sequence[GridRow]]
    chosen: Cell

    @property
    def ratios(self) -> list[float]:
        """Ratios, the smallest first."""
        return sorted({ratio for ratio, _ in self.cells})

    @property
    def bottlenecks(self) -> list[str]:
        """Bottlenecks in the order of the grid."""
        return list(dict.fromkeys(bottleneck for _, bottleneck in self.cells))

    def mean(self, ratio: float, bottleneck: str) -> float | None:
        """Mean validation accuracy of a cell in percent; None where the grid has no such cell."""
        runs = self.cells.get((ratio, bottleneck))
        return None if runs is None else _mean_validation(runs)

    def key(self, ratio: float, bottleneck: str) -> str:
        """A cell's name in the page's data."""
        return f"{self.shots}|{ratio:g}|{bottleneck}"


def _mean_validation(runs: Sequence[GridRow]) -> float:
    return float(sum(run["val"] for run in runs) / len(runs))


def read_heat_maps(folder: Path, record: Record) -> list[HeatMap]:
    """The heat maps of a grid, one per shot count; none where the run is no grid."""
    rows = read_grid_rows(folder)
    chosen = {best.shots: (best.ratio, best.bottleneck) for best in record.best_per_shots or ()}
    return [
        HeatMap(shots, _cells([row for row in rows if row["shots"] == shots]), chosen[shots])
        for shots in dict.fromkeys(row["shots"] for row in rows)
        if shots in chosen
    ]


def _cells(rows: Sequence[GridRow]) -> dict[Cell, Sequence[GridRow]]:
    """Cells with their runs, of several learning rates the one with the best mean."""
    rates: dict[Cell, dict[float, list[GridRow]]] = defaultdict(dict)
    for row in rows:
        rates[row["ratio"], row["bottleneck"]].setdefault(row["lr"], []).append(row)
    return {cell: max(by_rate.values(), key=_mean_validation) for cell, by_rate in rates.items()}
