"""Tables for people, on stdout."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cafe.results.metrics import Summary
    from cafe.results.plan import Result

_PIPED_WIDTH = 160  # a table in a file is not folded to a terminal's 80 columns


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    bold: Collection[tuple[int, int]] = (),
) -> None:
    """Print a table.

    Parameters
    ----------
    headers : sequence of str
    rows : sequence of sequence of str
    numbers : sequence of int
        Columns that are set flush right.
    bold : collection of (int, int)
        Cells (row, column) that stand out: bold, or with a star where the output is piped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in numbers else "left")
    star = "" if sys.stdout.isatty() else "*"
    for y, row in enumerate(rows):
        strong = [(y, x) in bold for x in range(len(row))]
        pairs = zip(row, strong, strict=True)
        table.add_row(*(Text(star + c, "bold") if best else Text(c) for c, best in pairs))
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)


def interval(summary: Summary) -> str:
    """`83.1 ± 0.9`, or the mean alone where there is one seed."""
    if summary.ci95 is None:
        return f"{summary.mean:.2f}"
    return f"{summary.mean:.2f} ± {summary.ci95:.2f}"


def print_results(results: Sequence[Result]) -> None:
    """One row per method, with its hyper-parameters and time."""
    rows = [
        [
            result.method,
            interval(result.accuracy),
            f"{result.accuracy.std:.2f}",
            f"{result.seconds:.2f}",
            _brief_params(result),
        ]
        for result in results
    ]
    headers = ["method", "accuracy % (95 %)", "std", "seconds", "with"]
    print_table(headers, rows, numbers=(1, 2, 3))


def _brief_params(result: Result) -> str:
    params = result.heads[0].params
    return ", ".join(f"{name} {value}" for name, value in params.items() if name in _SHOWN)


_SHOWN = ("ratio", "text_ratio", "bottleneck", "epochs", "alpha", "beta")


def print_chosen(best: Sequence[Mapping[str, Any]], validation: str) -> None:
    """One row per shot count: the configuration that validation chose, and its one test."""
    rows = []
    for row in best:
        ci95 = row["test"]["ci95"]
        test = f"{row['test']['mean']:.2f}" + ("" if ci95 is None else f" ± {ci95:.2f}")
        config = [f"{row['ratio']:g}", str(row["bottleneck"]), f"{row['lr']:g}"]
        val = "-" if row["val"] is None else f"{row['val']:.2f}"
        rows.append([str(row["shots"]), *config, val, test])
    headers = ["shots", "ratio", "bottleneck", "lr", f"chosen on {validation} %", "then tested %"]
    print_table(headers, rows, numbers=range(len(headers)))


def print_shots(results: Sequence[Result]) -> None:
    """One row per method, one column per shot count."""
    shots = list(dict.fromkeys(result.shots for result in results))
    cells = {(result.method, result.shots): interval(result.accuracy) for result in results}
    names = list(dict.fromkeys(result.method for result in results))
    rows = [[name, *(cells[name, count] for count in shots)] for name in names]
    headers = ["accuracy % (95 %)", *(f"{s} shot{'s' if s != 1 else ''}" for s in shots)]
    print_table(headers, rows, numbers=range(1, len(headers)))
