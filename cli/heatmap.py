"""Heat maps of a grid in the terminal: validation accuracy over ratio and bottleneck."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from cafe.study.grid.space import GridSpace

# a perceptually even scale from dark to light (viridis, in the terminal's 256 colours)
_COLOURS = (53, 54, 60, 61, 31, 30, 36, 35, 71, 77, 113, 149, 185, 220)


def print_heatmaps(rows: Sequence[Mapping[str, Any]], space: GridSpace) -> None:
    """Print one map per shot count: mean validation accuracy over seeds, the best marked `*`.

    The best learning rate of the sweep counts for each cell. Piped, the colours are left out.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    for shots in space.shots:
        cells = _means(rows, shots)
        if not cells:  # nothing to choose by at this shot count
            continue
        low, high = min(cells.values()), max(cells.values())
        table = Table(box=None, pad_edge=False, title_justify="left")
        table.title = f"{shots} shots: mean {space.validation} validation accuracy %"
        table.add_column("ratio \\ H")
        for bottleneck in space.bottlenecks:
            table.add_column(bottleneck, justify="right")
        for ratio in space.ratios:
            values = [cells[ratio, bottleneck] for bottleneck in space.bottlenecks]
            table.add_row(f"{ratio:g}", *(_cell(value, low, high) for value in values))
        console.print(table)
        console.print()


def _means(rows: Sequence[Mapping[str, Any]], shots: object) -> dict[tuple[float, str], float]:
    seeds: dict[tuple[float, str, float], list[float]] = defaultdict(list)
    for row in rows:
        if row["shots"] == shots:
            seeds[row["ratio"], row["bottleneck"], row["lr"]].append(row["val"])
    best: dict[tuple[float, str], float] = {}
    for (ratio, bottleneck, _), values in seeds.items():
        mean = sum(values) / len(values)
        best[ratio, bottleneck] = max(mean, best.get((ratio, bottleneck), mean))
    return best


def _cell(value: float, low: float, high: float) -> Text:
    from rich.text import Text

    share = (value - low) / (high - low) if high > low else 1.0
    colour = _COLOURS[round(share * (len(_COLOURS) - 1))]
    ink = "black" if share > 0.55 else "white"
    return Text(f" {value:.2f}{'*' if value == high else ' '}", f"{ink} on color({colour})")
