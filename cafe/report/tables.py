"""Tables as plain HTML: every number of a page, readable without JavaScript."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from cafe.report.figures import heat_cells, mean_val, shots_words
from cafe.report.report_data import ReportData

Row = Mapping[str, Any]


def table(
    caption: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    words: Collection[str] = (),
) -> str:
    """A table of cells that are HTML already.

    The first cell of a row is its header; columns whose header is among `words` hold no numbers.
    """
    kinds = [' class="words"' if text in words else "" for text in headers]
    head = "".join(
        f'<th scope="col"{kind}>{escape(text)}</th>'
        for kind, text in zip(kinds, headers, strict=True)
    )
    body = ""
    for first, *rest in rows:
        cells = [f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True)]
        body += f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def interval(summary: Row, sign: str = "") -> str:
    """`83.12 ± 0.90`, or the mean alone where there is one seed."""
    half = "" if summary["ci95"] is None else f'<span class="half"> ± {summary["ci95"]:.2f}</span>'
    return f"{summary['mean']:{sign}.2f}{half}"


def accuracies(run: ReportData) -> str:
    """One row per method, one column per shot count, the best in bold."""
    best = {
        count: max(
            row["accuracy"]["mean"] for (_, shots), row in run.results.items() if shots == count
        )
        for count in run.shots
    }
    rows = []
    for method in run.methods:
        cells = [escape(method)]
        for count in run.shots:
            found = run.results.get((method, count))
            text = "" if found is None else interval(found["accuracy"])
            top = found is not None and found["accuracy"]["mean"] == best[count]
            cells.append(f"<strong>{text}</strong>" if top else text)
        seconds = sum(row["seconds"] for (name, _), row in run.results.items() if name == method)
        rows.append([*cells, f"{seconds:.2f}"])
    headers = ["method", *map(shots_words, run.shots), "seconds"]
    return table("Top-1 accuracy in percent, mean and 95 % interval over seeds", headers, rows)


def paired(run: ReportData) -> str:
    """Differences to CLIP-Adapter, paired by seed; empty where the record has none."""
    gaps = run.record.get("differences") or []
    if not gaps:
        return ""
    cells = {(row["method"], row["shots"]): interval(row["accuracy"], "+") for row in gaps}
    methods = list(dict.fromkeys(row["method"] for row in gaps))
    rows = [[escape(m), *(cells.get((m, count), "") for count in run.shots)] for m in methods]
    caption = f"Points of difference to {gaps[0]['to']}, paired by seed, with 95 % interval"
    return table(caption, ["method", *map(shots_words, run.shots)], rows)


def halves(run: ReportData) -> str:
    """Base, new and harmonic mean, where the run is base-to-new."""
    rows = [
        [
            escape(method),
            str(shots),
            *(interval(row[name]) for name in ("accuracy", "new", "harmonic_mean")),
        ]
        for (method, shots), row in run.results.items()
        if "new" in row
    ]
    headers = ["method", "shots", "base", "new", "harmonic mean"]
    return table("Base to new: accuracy in percent on either half", headers, rows) if rows else ""


def published(run: ReportData) -> str:
    """Published numbers with their sources; empty where there are none."""
    if not run.published:
        return ""
    counts = sorted({int(count) for row in run.published for count in row["accuracy"]})
    rows = [
        [
            escape(row["method"]),
            *(_number(row["accuracy"].get(str(count))) for count in counts),
            f"{len(row['over'])}",
            escape(row["validation"]),
            escape(row["prompts"]),
            escape(row["source"]),
        ]
        for row in run.published
    ]
    headers = ["method", *map(shots_words, counts), "datasets", "validation", "prompts", "source"]
    return table("Published top-1 accuracy in percent", headers, rows, headers[-3:])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def beyond_top1(run: ReportData) -> str:
    """Metrics beyond top-1 of every method at the shot count in focus."""
    names = {
        "mean_class_accuracy": "mean per class %",
        "top5_accuracy": "top-5 %",
        "nll": "likelihood loss (nats)",
        "ece": "calibration error %",
    }
    rows = []
    for method in run.methods:
        row = run.results.get((method, run.focus[1]), {})
        if row.get("metrics"):
            temperature = (row.get("calibration") or {}).get("temperature")
            values = [f"{row['metrics'].get(name, float('nan')):.2f}" for name in names]
            rows.append([escape(method), *values, _number(temperature)])
    headers = ["method", *names.values(), "temperature"]
    caption = f"Beyond top-1, {shots_words(run.focus[1])}, means over seeds"
    return table(caption, headers, rows) if rows else ""


def heat(run: ReportData, shots: Any, run_id: str) -> str:
    """The heat map's numbers; each is a button that shows the runs of its cell."""
    cells = heat_cells(run, shots)
    ratios = sorted({ratio for ratio, _ in cells})
    widths = list(dict.fromkeys(width for _, width in cells))

    def cell(ratio: float, width: str) -> str:
        if (ratio, width) not in cells:
            return ""
        key = escape(f"{shots}|{ratio:g}|{width}")
        value = mean_val(cells[ratio, width])
        return f'<button type="button" data-run="{run_id}" data-cell="{key}">{value:.2f}</button>'

    rows = [[f"{ratio:g}", *(cell(ratio, width) for width in widths)] for ratio in ratios]
    caption = f"Mean validation accuracy in percent, {shots_words(shots)}"
    return table(caption, ["ratio \\ bottleneck", *map(escape, widths)], rows)


def gain_rows(found: Sequence[tuple[str, float]]) -> str:
    """Gain of every class."""
    rows = [[escape(name), f"{gain:+.2f}"] for name, gain in found]
    return table("Points gained on zero-shot by class", ["class", "points"], rows)


def confusions(run: ReportData) -> str:
    """Pairs of classes that are confused most, with pictures where there are such."""
    pairs = run.results[run.focus]["page"].get("confusions", ())[:12]
    pictures = run.analysis.pictures if run.analysis else {}
    ids = run.analysis.ids if run.analysis else {}
    rows = []
    for pair in pairs:
        shown = [
            f'<img src="{pictures[row]}" alt="{escape(ids[row])}" title="{escape(ids[row])}">'
            for row in pair["rows"]
            if row in pictures
        ]
        names = [escape(run.class_names[pair[key]]) for key in ("label", "predicted")]
        cells = [*names, f"{pair['images']:g}", f"{pair['share']:.1f} %"]
        cells += [f'<span class="thumbs">{"".join(shown)}</span>'] if pictures else []
        rows.append(cells)
    headers = ["class", "taken for", "images per seed", "share of the class"]
    headers += ["of them"] if pictures else []
    caption = "Most confused pairs of classes"
    return table(caption, headers, rows, ("taken for", "of them")) if rows else ""


def facts(values: Mapping[str, Any]) -> str:
    """Names and values."""
    rows = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{rows}</dl>"
