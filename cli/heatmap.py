"""Heat maps of a grid in the terminal: validation accuracy over ratio and bottleneck."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cafe.errors import counted

from .output import print_wide, say, styled, terminal_width

if TYPE_CHECKING:
    from rich.text import Text

Means = dict[tuple[float, str], float]  # (ratio, bottleneck) -> percent

# a perceptually even scale from dark to light (viridis, in the terminal's 256 colours)
_COLOURS = (53, 54, 60, 61, 31, 30, 36, 35, 71, 77, 113, 149, 185, 220)


def print_heatmaps(rows: Sequence[Mapping[str, Any]], validation: str) -> None:
    """Print one map per shot count: mean validation accuracy over seeds, the best marked `*`.

    The best learning rate of the grid counts for each cell. Piped, the colours are left out. A map
    that is wider than the terminal is printed in parts.
    """
    for shots in dict.fromkeys(row["shots"] for row in rows):
        means = _means(row for row in rows if row["shots"] == shots)
        ratios, bottlenecks = (dict.fromkeys(axis) for axis in zip(*means, strict=True))
        title = f"{counted(shots, 'shot')}: mean {validation} validation accuracy %"
        names, width = list(bottlenecks), max(_CELL, *map(len, bottlenecks)) + 2
        many = max(1, (terminal_width() - _RATIO) // width)
        for start in range(0, len(names), many):
            _print_part(title, means, list(ratios), names[start : start + many])
        say("")


_CELL, _RATIO = len(" 95.00*"), 12


def _print_part(
    title: str, means: Means, ratios: Sequence[float], bottlenecks: Sequence[str]
) -> None:
    from rich.table import Table

    low, high = min(means.values()), max(means.values())
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.title = styled(title, "italic")
    table.add_column("ratio \\ H", no_wrap=True)
    for bottleneck in bottlenecks:
        table.add_column(styled(bottleneck), justify="right")
    for ratio in ratios:
        cells = (_cell(means[ratio, bottleneck], low, high) for bottleneck in bottlenecks)
        table.add_row(f"{ratio:g}", *cells)
    print_wide(table)


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
