"""Tables and plots of a comparison, from its JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from .plots import print_lines
from .tables import print_table

if TYPE_CHECKING:
    from cafe.report.reproduction import Reproduction

Row = Mapping[str, Any]


def print_comparison(json: Row, *, plot: bool = True) -> None:
    """Print the accuracies with the best in bold, the paired differences, and lines over shots."""
    rows = json["results"]
    encoder = json["encoder"]
    typer.echo(f"\n{json['dataset']}, {encoder['model']}.{encoder['pretrained']}")
    if "base_to_new" in json:
        _print_transfer(rows)
        return
    shots, methods = _axes(rows)
    cells = {(row["method"], row["shots"]): row["accuracy"] for row in rows}
    _print_grid("accuracy % (95 %)", cells, shots, methods, _seconds(rows))
    gaps = {(row["method"], row["shots"]): row["accuracy"] for row in json.get("differences", ())}
    if gaps:
        others = [name for name in methods if any((name, count) in gaps for count in shots)]
        typer.echo("")
        reference = json["differences"][0]["to"]
        _print_grid(f"points to {reference}, paired", gaps, shots, others, sign="+")
    if plot:
        means = {m: [_mean(cells.get((m, s))) for s in shots] for m in methods}
        print_lines(means, [str(count) for count in shots])


def _axes(rows: Sequence[Row]) -> tuple[list[Any], list[str]]:
    return (
        list(dict.fromkeys(row["shots"] for row in rows)),
        list(dict.fromkeys(row["method"] for row in rows)),
    )


def _seconds(rows: Sequence[Row]) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in rows:
        total[row["method"]] = total.get(row["method"], 0.0) + row["seconds"]
    return total


def _mean(summary: Row | None) -> float | None:
    return None if summary is None else summary["mean"]


def _print_grid(
    title: str,
    cells: Mapping[tuple[str, Any], Row],
    shots: Sequence[Any],
    methods: Sequence[str],
    seconds: Mapping[str, float] | None = None,
    *,
    sign: str = "",
) -> None:
    """One row per method, one column per shot count; without a sign, the best of each in bold."""
    best = {
        count: max(cells[m, count]["mean"] for m in methods if (m, count) in cells)
        for count in shots
    }
    rows, bold = [], set()
    for number, method in enumerate(methods):
        row = [method]
        for column, count in enumerate(shots, start=1):
            found = cells.get((method, count))
            row.append("" if found is None else _interval(found, sign))
            if found is not None and not sign and found["mean"] == best[count]:
                bold.add((number, column))
        rows.append(row + ([f"{seconds[method]:.2f}"] if seconds else []))
    headers = [title, *(f"{s} shot{'s' if s != 1 else ''}" for s in shots)]
    headers += ["seconds"] if seconds else []
    print_table(headers, rows, numbers=range(1, len(headers)), bold=bold)


def _interval(summary: Row, sign: str = "") -> str:
    half = "" if summary["ci95"] is None else f" ± {summary['ci95']:.2f}"
    return f"{summary['mean']:{sign}.2f}{half}"


def _print_transfer(rows: Sequence[Row]) -> None:
    names = ("accuracy", "new", "harmonic_mean")
    shown = [
        [
            row["method"],
            str(row["shots"]),
            *(_interval(row[name]) for name in names),
            f"{row['seconds']:.2f}",
        ]
        for row in rows
    ]
    bold = set()
    for count in dict.fromkeys(row["shots"] for row in rows):
        mine = [(i, row) for i, row in enumerate(rows) if row["shots"] == count]
        for column, name in enumerate(names, start=2):
            top = max(row[name]["mean"] for _, row in mine)
            bold |= {(i, column) for i, row in mine if row[name]["mean"] == top}
    headers = ["method", "shots", "base %", "new %", "harmonic mean %", "seconds"]
    print_table(headers, shown, numbers=range(1, len(headers)), bold=bold)


def print_published(found: Reproduction) -> None:
    """Our average of an encoder, and below it the published rows."""
    shots, methods = _axes(found.rows)
    cells = {(row["method"], row["shots"]): _interval(row["accuracy"]) for row in found.rows}
    counts = list(
        dict.fromkeys([*shots, *(int(s) for p in found.published for s in p["accuracy"])])
    )
    columns = sorted((s for s in counts if s != "all"), key=int)
    rows = [[f"{m} (ours)", *(cells.get((m, s), "") for s in columns), "this run"] for m in methods]
    for row in found.published:
        values = [row["accuracy"].get(str(s)) for s in columns]
        over = f"{len(row['over'])} datasets; validation: {row['validation']}; "
        texts = ["" if value is None else f"{value:.2f}" for value in values]
        rows.append([row["method"], *texts, f"{over}prompts: {row['prompts']}; {row['source']}"])
    number = len(found.comparison.records)
    of = f"{number} dataset{'s' if number != 1 else ''}"
    typer.echo(f"\n{found.encoder}: average of {of}, and published numbers (top-1 %)")
    headers = ["accuracy %", *(f"{s} shot{'s' if s != 1 else ''}" for s in columns), "from"]
    print_table(headers, rows, numbers=range(1, len(headers) - 1))
