"""Heat maps of a grid in the terminal: validation accuracy over ratio and bottleneck."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cafe.errors import counted

from .output import print_wide, say, styled

if TYPE_CHECKING:
    from rich.text import Text

Means = dict[tuple[float, str], float]  # (ratio, bottleneck) -> percent

# a perceptually even scale from dark to light (viridis, in the terminal's 256 colours)
_COLOURS = (53, 54, 60, 61, 31, 30, 36, 35, 71, 77, 113, 149, 185, 220)


def print_heatmaps(rows: Sequence[Mapping[str, Any]], validation: str) -> None:
    """Print one map per shot count: mean validation accuracy over seeds, the best marked `*`.

    The best learning rate of the grid counts for each cell. Piped, the colours are left out.
    """
    from rich.table import Table

    for shots in dict.fromkeys(row["shots"] for row in rows):
        means = _means(row for row in rows if row["shots"] == shots)
        ratios, bottlenecks = (dict.fromkeys(axis) for axis in zip(*means, strict=True))
        low, high = min(means.values()), max(means.values())
        table = Table(box=None, pad_edge=False, title_justify="left")
        table.title = styled(
            f"{counted(shots, 'shot')}: mean {validation} validation accuracy %", "italic"
        )
        table.add_column("ratio \\ H")
        for bottleneck in bottlenecks:
            table.add_column(styled(bottleneck), justify="right")
        for ratio in ratios:
            cells = (_cell(means[ratio, bottleneck], low, high) for bottleneck in bottlenecks)
            table.add_row(f"{ratio:g}", *cells)
        print_wide(table)
        say("")


def _means(rows: Iterable[Mapping[str, Any]]) -> Means:
    seeds: dict[tuple[float, str, float], list[float]] = defaultdict(list)
    for row in rows:
        seeds[row["ratio"], row["bottleneck"], row["lr"]].append(row["val"])
    best: Means = {}
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
