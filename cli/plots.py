"""Small plots in the terminal: bars and lines; plain characters where the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import typer

_COLOURS = ("33", "208", "35", "161", "141", "37", "220", "244")  # of 256: apart for every eye
_MARKS = "ox+*#@%&abcdefghij"
_WIDTH, _HEIGHT = 56, 12


def print_bars(values: Mapping[str, float]) -> None:
    """Print one bar per name, from a little below the lowest value to the highest."""
    if len(values) < 2:
        return
    low, high = min(values.values()), max(values.values())
    start = max(0.0, low - max(1.0, (high - low) * 0.25))
    names = max(map(len, values))
    typer.echo(f"\n{'':{names}}  accuracy %, from {start:.0f}")
    for number, (name, value) in enumerate(values.items()):
        cells = round((value - start) / (high - start or 1) * _WIDTH)
        bar = _painted(_block() * max(cells, 1), number)
        typer.echo(f"{name:{names}}  {bar} {value:.1f}")


def print_lines(series: Mapping[str, Sequence[float | None]], ticks: Sequence[str]) -> None:
    """Print one line of marks per name over evenly spaced ticks.

    Parameters
    ----------
    series : mapping of str to sequence of float or None
        A value per tick; None leaves a gap.
    ticks : sequence of str
        Labels of the horizontal axis.
    """
    values = [v for line in series.values() for v in line if v is not None]
    if len(ticks) < 2 or not values:
        return
    low, high = min(values), max(values)
    span = high - low or 1.0
    grid: list[list[tuple[str, int]]] = [[(" ", -1)] * (_WIDTH + 1) for _ in range(_HEIGHT)]
    for number, line in enumerate(series.values()):
        for x, value in _points(line, len(ticks)):
            row = round((high - value) / span * (_HEIGHT - 1))
            grid[row][x] = (_MARKS[number % len(_MARKS)], number)
    typer.echo("")
    for row, cells in enumerate(grid):
        label = high - span * row / (_HEIGHT - 1)
        body = "".join(_painted(mark, number) if number >= 0 else mark for mark, number in cells)
        typer.echo(f"{label:6.1f} | {body}".rstrip())
    step = _WIDTH // (len(ticks) - 1)
    axis = [" "] * (_WIDTH + 8)
    for number, tick in enumerate(ticks):
        axis[number * step : number * step + len(tick)] = tick
    typer.echo(f"       + {'-' * _WIDTH}\n         {''.join(axis).rstrip()}  shots per class")
    for number, name in enumerate(series):
        typer.echo(f"         {_painted(_MARKS[number % len(_MARKS)], number)} {name}")


def _points(line: Sequence[float | None], ticks: int) -> list[tuple[int, float]]:
    """Columns and values: every tick, and in between every other column."""
    step = _WIDTH // (ticks - 1)
    found = []
    for tick, value in enumerate(line):
        if value is None:
            continue
        found.append((tick * step, value))
        after = line[tick + 1] if tick + 1 < len(line) else None
        if after is not None and sys.stdout.isatty():  # joined only where colours tell them apart
            found += [
                (tick * step + x, value + (after - value) * x / step) for x in range(2, step, 2)
            ]
    return found


def _painted(text: str, number: int) -> str:
    if not sys.stdout.isatty():
        return text
    return f"\033[38;5;{_COLOURS[number % len(_COLOURS)]}m{text}\033[0m"


def _block() -> str:
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return "#"
    return "█"
