"""Tables of what was measured: methods over shot counts, the grid's choice, published numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from .output import print_table

if TYPE_CHECKING:
    from cafe.report.reproduction import Reproduction
    from cafe.results.record import Record
    from cafe.results.result import Result

Row = Mapping[str, Any]  # a result or an accuracy as JSON values

_SHOWN_PARAMS = ("ratio", "text_ratio", "bottleneck", "epochs", "alpha", "beta")
_LEVELS = "▁▂▃▄▅▆▇█"


def format_accuracy(summary: Row, sign: str = "") -> str:
    """`83.1 ± 0.9`, or the mean alone where there is one seed."""
    half = "" if summary["ci95"] is None else f" ± {summary['ci95']:.2f}"
    return f"{summary['mean']:{sign}.2f}{half}"


def print_results(record: Record) -> None:
    """Print what a run measured, over its shot counts where it has several."""
    if len({result.shots for result in record.results}) > 1:
        print_over_shots(record.json["results"])
    else:
        _print_one_shot_count(record.results)


def _print_one_shot_count(results: Sequence[Result]) -> None:
    """One row per method, with its hyper-parameters and time."""
    rows = []
    for result in results:
        params = result.heads[0].params.items()
        brief = ", ".join(f"{name} {value}" for name, value in params if name in _SHOWN_PARAMS)
        accuracy = format_accuracy(vars(result.accuracy))
        std, seconds = f"{result.accuracy.std:.2f}", f"{result.seconds:.2f}"
        rows.append([result.method, accuracy, std, seconds, brief])
    headers = ["method", "accuracy % (95 %)", "std", "seconds", "with"]
    print_table(headers, rows, numbers=(1, 2, 3))


def print_over_shots(
    rows: Sequence[Row], title: str = "accuracy % (95 %)", *, sign: str = "", compared: bool = False
) -> None:
    """One row per method, one column per shot count; on a terminal also the trend over shots.

    Parameters
    ----------
    rows : sequence of mapping
        `method`, `shots`, `accuracy` and `seconds`.
    title : str
        Header of the first column.
    sign : str
        "+" for differences.
    compared : bool
        Set the best of each shot count in bold, and add the seconds of each method.
    """
    shots, methods = _distinct(rows, "shots"), _distinct(rows, "method")
    cells = {(row["method"], row["shots"]): row["accuracy"] for row in rows}
    means = {place: accuracy["mean"] for place, accuracy in cells.items()}
    table = [
        [m, *(format_accuracy(cells[m, s], sign) if (m, s) in cells else "" for s in shots)]
        for m in methods
    ]
    headers = [title, *map(_shots_header, shots)]
    bold: set[tuple[int, int]] = set()
    if compared:
        best = {s: max(v for (_, count), v in means.items() if count == s) for s in shots}
        places = ((y, m, x, s) for y, m in enumerate(methods) for x, s in enumerate(shots, 1))
        bold = {(y, x) for y, m, x, s in places if means.get((m, s)) == best[s]}
        headers.append("seconds")
        for method, line in zip(methods, table, strict=True):
            seconds = sum(row["seconds"] for row in rows if row["method"] == method)
            line.append(f"{seconds:.2f}")
    if sys.stdout.isatty() and len(shots) > 1 and not sign:
        headers.append("trend")
        for method, line in zip(methods, table, strict=True):
            line.append(_trend([means.get((method, s)) for s in shots], means.values()))
    print_table(headers, table, numbers=range(1, len(headers)), bold=bold)


def _distinct(rows: Iterable[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def _shots_header(shots: object) -> str:
    return f"{shots} shot{'s' if shots != 1 else ''}"


def _trend(values: Iterable[float | None], scale: Iterable[float]) -> str:
    """A bar of one character per value, on a scale from the lowest to the highest accuracy."""
    low, *_, high = sorted(scale)
    step = (high - low) / (len(_LEVELS) - 1) or 1.0
    return "".join(" " if v is None else _LEVELS[round((v - low) / step)] for v in values)


def print_chosen(best: Sequence[Row], validation: str) -> None:
    """One row per shot count: the configuration that validation chose, and its one test."""
    rows = [
        [
            str(row["shots"]),
            f"{row['ratio']:g}",
            str(row["bottleneck"]),
            f"{row['lr']:g}",
            "-" if row["val"] is None else f"{row['val']:.2f}",
            format_accuracy(row["test"]),
        ]
        for row in best
    ]
    headers = ["shots", "ratio", "bottleneck", "lr", f"chosen on {validation} %", "then tested %"]
    print_table(headers, rows, numbers=range(len(headers)))


def print_comparison(json: Row) -> None:
    """Print the accuracies with the best in bold, and the paired differences."""
    encoder = json["encoder"]
    typer.echo(f"\n{json['dataset']}, {encoder['model']}.{encoder['pretrained']}")
    if "base_to_new" in json:
        _print_base_to_new(json["results"])
        return
    print_over_shots(json["results"], compared=True)
    if differences := json.get("differences"):
        typer.echo("")
        print_over_shots(differences, f"points to {differences[0]['to']}, paired", sign="+")


def _print_base_to_new(rows: Sequence[Row]) -> None:
    names = ("accuracy", "new", "harmonic_mean")
    table, bold = [], set()
    for y, row in enumerate(rows):
        same_shots = [other for other in rows if other["shots"] == row["shots"]]
        for x, name in enumerate(names, start=2):
            if row[name]["mean"] == max(other[name]["mean"] for other in same_shots):
                bold.add((y, x))
        accuracies = [format_accuracy(row[name]) for name in names]
        table.append([row["method"], str(row["shots"]), *accuracies, f"{row['seconds']:.2f}"])
    headers = ["method", "shots", "base %", "new %", "harmonic mean %", "seconds"]
    print_table(headers, table, numbers=range(1, len(headers)), bold=bold)


def print_published(reproduction: Reproduction) -> None:
    """Print our average of an encoder, and below it the published rows."""
    ours, published = reproduction.rows, reproduction.published
    cells = {(row["method"], row["shots"]): format_accuracy(row["accuracy"]) for row in ours}
    counts = {*_distinct(ours, "shots"), *(int(s) for row in published for s in row["accuracy"])}
    columns = sorted(counts - {"all"})
    table = [
        [f"{method} (ours)", *(cells.get((method, s), "") for s in columns), "this run"]
        for method in _distinct(ours, "method")
    ]
    for row in published:
        values = (row["accuracy"].get(str(s)) for s in columns)
        origin = (
            f"{len(row['over'])} datasets; validation: {row['validation']}; "
            f"prompts: {row['prompts']}; {row['source']}"
        )
        texts = ["" if value is None else f"{value:.2f}" for value in values]
        table.append([row["method"], *texts, origin])
    number = len(reproduction.comparison.records)
    datasets = f"{number} dataset{'s' if number != 1 else ''}"
    typer.echo(f"\n{reproduction.encoder}: average of {datasets}, and published numbers (top-1 %)")
    headers = ["accuracy %", *map(_shots_header, columns), "from"]
    print_table(headers, table, numbers=range(1, len(headers) - 1))
