"""Figures as plotly's JSON: data, layout and what a screen reader says; knows no HTML.

Colours are names that the page looks up in its light or dark theme: "@0" to "@7" of the palette,
"@ink", "@muted", "@grid", "@paper".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cafe.report.report_data import ReportData

Json = dict[str, Any]
LEGEND_BELOW: Json = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
_SHOWN = ("zero-shot", "clip-adapter")  # published numbers that are drawn unasked
_WIDEST_SHOWN = 8.0  # points of an interval that an axis makes room for
_DASHES = ("solid", "longdash", "dashdot")  # tells apart what has one colour
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon", "x")


class Figure(NamedTuple):
    """A figure, with a sentence for those who do not see it."""

    data: list[Json]
    layout: Json
    label: str

    def json(self) -> Json:
        """As JSON values."""
        return {"data": self.data, "layout": self.layout}


def colour_of(run: ReportData, method: str) -> str:
    """The palette's name of a method's colour: grey for zero-shot, blue for the one in focus."""
    if method == "zero-shot":
        return "@muted"
    others = [name for name in run.methods if name not in ("zero-shot", run.focus[0])]
    return "@0" if method == run.focus[0] else f"@{1 + others.index(method) % 7}"


def accuracy_over_shots(run: ReportData) -> Figure:
    """Lines over shots with 95 % intervals, published numbers dotted; dots for one shot count."""
    theirs = {int(count) for row in run.comparable for count in row["accuracy"]} - {0}
    if len(run.shots) == 1 and not theirs:
        return _dots(run)
    numbers = [count for count in run.shots if count != "all"]
    ticks = [*sorted(theirs | set(numbers)), *(["all"] if "all" in run.shots else [])]
    data = [_line(run, method, ticks) for method in run.methods]
    data += [_published_line(row, ticks) for row in run.comparable]
    layout = {
        "xaxis": {
            "title": {"text": "training images per class"},
            "tickvals": list(range(len(ticks))),
            "ticktext": [str(tick) for tick in ticks],
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"title": {"text": "top-1 accuracy (%)"}, "range": _range(run)},
        "legend": LEGEND_BELOW,
        "height": 460 + 14 * (len(data) // 4),
    }
    label = f"Lines: accuracy of {len(run.methods)} methods at {len(ticks)} shot counts"
    return Figure(data, layout, f"{label}; the table below has the numbers.")


def _line(run: ReportData, method: str, ticks: Sequence[Any]) -> Json:
    found = {shots: row for (name, shots), row in run.results.items() if name == method}
    x = [place for place, tick in enumerate(ticks) if tick in found]
    rows = [found[ticks[place]]["accuracy"] for place in x]
    strong, colour = method == run.focus[0], colour_of(run, method)
    place = run.methods.index(method)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": method,
        "x": x,
        "y": [row["mean"] for row in rows],
        "error_y": {
            "type": "data",
            "array": [row["ci95"] or 0 for row in rows],
            "thickness": 1.2,
            "width": 3,
            "color": colour,
        },
        "line": {
            "color": colour,
            "width": 3 if strong else 1.7,
            "dash": "dash" if method == "zero-shot" else _DASHES[place // 8 % len(_DASHES)],
        },
        "marker": {
            "symbol": _SYMBOLS[place % len(_SYMBOLS)],
            "size": 8 if strong else 6,
        },
        "hovertemplate": f"{method}: %{{y:.2f}} %<extra></extra>",
    }


def _published_line(row: Mapping[str, Any], ticks: Sequence[Any]) -> Json:
    values = {int(count): value for count, value in row["accuracy"].items()}
    flat = set(values) == {0}  # zero-shot: the same at every count
    x = [p for p, tick in enumerate(ticks) if flat or tick in values]
    return {
        "type": "scatter",
        "mode": "lines" if flat else "lines+markers",
        "name": f"{row['method']}, published",
        "x": x,
        "y": [values[0] if flat else values[ticks[place]] for place in x],
        "line": {"color": "@muted", "width": 1.2, "dash": "dot"},
        "marker": {"symbol": "circle-open", "size": 6, "color": "@muted"},
        "visible": True if row["cafe"] in _SHOWN else "legendonly",
        "hovertemplate": f"{row['method']}, published: %{{y:.2f}} %<extra></extra>",
    }


def _range(run: ReportData) -> list[float]:
    """From below the lowest mean to above the highest; very wide intervals are cut off."""
    rows = [row["accuracy"] for row in run.results.values()]
    ends = [min(row["ci95"] or 0, _WIDEST_SHOWN) for row in rows]
    means = [row["mean"] for row in rows]
    for row in run.comparable:
        means += row["accuracy"].values() if row["cafe"] in _SHOWN else []
    ends += [0.0] * (len(means) - len(ends))
    low = min(mean - end for mean, end in zip(means, ends, strict=True))
    high = max(mean + end for mean, end in zip(means, ends, strict=True))
    return [max(0.0, low - 2), min(101.0, high + 2)]


def _dots(run: ReportData) -> Figure:
    rows = [(method, row["accuracy"]) for (method, _), row in reversed(list(run.results.items()))]
    data = [_dot(method, row, colour_of(run, method)) for method, row in rows]
    layout = {
        "xaxis": {"title": {"text": "top-1 accuracy (%)"}, "range": _range(run), "zeroline": False},
        "yaxis": {"automargin": True, "type": "category"},
        "showlegend": False,
        "height": 130 + 34 * len(rows),
    }
    return Figure(data, layout, f"Dots: accuracy of {len(rows)} methods; see the table below.")


def _dot(method: str, row: Mapping[str, Any], colour: str) -> Json:
    error = {"type": "data", "array": [row["ci95"] or 0], "color": colour, "thickness": 2}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [row["mean"]],
        "y": [method],
        "error_x": {**error, "width": 5},
        "marker": {"color": colour, "size": 11},
        "hovertemplate": f"{method}: %{{x:.2f}} %<extra></extra>",
    }


def shots_words(shots: Any) -> str:
    """`1 shot`, `16 shots`, `all shots`."""
    return f"{shots} shot{'s' if shots != 1 else ''}"


def heat_cells(run: ReportData, shots: Any) -> dict[tuple[float, str], list[Mapping[str, Any]]]:
    """Runs of a grid by (ratio, bottleneck): those of the learning rate with the best mean."""
    rates: dict[tuple[float, str], dict[float, list[Mapping[str, Any]]]] = defaultdict(dict)
    for row in run.grid:
        if row["shots"] == shots:
            rates[row["ratio"], row["bottleneck"]].setdefault(row["lr"], []).append(row)
    return {cell: max(found.values(), key=mean_val) for cell, found in rates.items()}


def mean_val(rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean validation accuracy of runs."""
    return float(sum(row["val"] for row in rows) / len(rows))


def heat_map(run: ReportData, shots: Any) -> Figure:
    """Validation accuracy over ratio and bottleneck, the chosen cell framed."""
    cells = heat_cells(run, shots)
    ratios = sorted({ratio for ratio, _ in cells})
    widths = list(dict.fromkeys(width for _, width in cells))
    z = [[mean_val(cells[r, w]) if (r, w) in cells else None for r in ratios] for w in widths]
    (best,) = (
        (row["ratio"], row["bottleneck"])
        for row in run.record["best_per_shots"]
        if row["shots"] == shots
    )
    heat = {
        "type": "heatmap",
        "z": z,
        "x": [f"{ratio:g}" for ratio in ratios],
        "y": widths,
        "customdata": [[f"{shots}|{r:g}|{w}" for r in ratios] for w in widths],
        "colorscale": "Viridis",
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{z:.1f}" if len(ratios) <= 12 else "",
        "colorbar": {"title": {"text": "%"}, "thickness": 10, "outlinewidth": 0},
        "hovertemplate": "ratio %{x}, bottleneck %{y}: %{z:.2f} %<extra></extra>",
    }
    star = {
        "type": "scatter",
        "mode": "markers",
        "x": [f"{best[0]:g}"],
        "y": [best[1]],
        "marker": {
            "symbol": "square-open",
            "size": 34,
            "color": "#111",  # the chosen cell is the brightest
            "line": {"width": 2.5, "color": "#111"},
        },
        "hoverinfo": "skip",
        "showlegend": False,
    }
    layout = {
        "xaxis": {"title": {"text": "ratio"}, "type": "category", "showgrid": False},
        "yaxis": {"title": {"text": "bottleneck"}, "type": "category", "showgrid": False},
        "height": 150 + 46 * len(widths),
    }
    chosen = f"validation chose ratio {best[0]:g} and bottleneck {best[1]}."
    label = f"{shots_words(shots)[0].upper()}{shots_words(shots)[1:]}: {chosen}"
    return Figure([heat, star], layout, label)
