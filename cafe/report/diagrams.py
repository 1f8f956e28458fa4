"""Figures that look into one head: gains by class, reliability, a map of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cafe.report.analysis import Analysis, class_order
from cafe.report.figures import LEGEND_BELOW, Figure, Json
from cafe.report.report_data import ReportData

_SMALLEST_BIN = 0.005  # of all answers; a smaller bin says nothing
_MOST_GAINS = 16  # bars on either side where there are many classes
_MOST_CLASSES = 24  # told apart on a map: eight colours by three symbols


def gains(run: ReportData) -> list[tuple[str, float]]:
    """Points that the method in focus gains on zero-shot, class by class, the largest first."""
    method, shots = run.focus
    after = run.results[run.focus]["page"].get("per_class")
    before = run.results.get(("zero-shot", shots), {}).get("page", {}).get("per_class")
    if not after or not before or method == "zero-shot":
        return []
    triples = zip(run.class_names, after, before, strict=True)
    found = [(name, a - b) for name, a, b in triples if a is not None and b is not None]
    return sorted(found, key=lambda pair: -pair[1])


def gain_bars(found: Sequence[tuple[str, float]], method: str) -> Figure:
    """Per-class gains as bars, blue for a gain and orange for a loss."""
    shown = list(found)
    if len(shown) > 2 * _MOST_GAINS:
        shown = [*shown[:_MOST_GAINS], *shown[-_MOST_GAINS:]]
    shown.reverse()
    data = {
        "type": "bar",
        "orientation": "h",
        "y": [name for name, _ in shown],
        "x": [gain for _, gain in shown],
        "marker": {"color": ["@0" if gain >= 0 else "@1" for _, gain in shown]},
        "hovertemplate": "%{y}: %{x:+.1f} points<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "points of accuracy"}, "zeroline": True},
        "yaxis": {"automargin": True, "showgrid": False, "type": "category", "dtick": 1},
        "height": 110 + 22 * len(shown),
        "bargap": 0.35,
    }
    up = sum(gain > 0 for _, gain in found)
    down = sum(gain < 0 for _, gain in found)
    label = f"Bars: {method} gains on {up} of {len(found)} classes and loses on {down}."
    return Figure([data], layout, label)


def calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """Expected calibration error of reliability bins, in percent."""
    total = sum(one["images"] for one in bins)
    return sum(one["images"] / total * abs(one["accuracy"] - one["confidence"]) for one in bins)


def reliability_diagram(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Accuracy over confidence, before and after temperature scaling."""
    even = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 100],
        "y": [0, 100],
        "line": {"color": "@muted", "dash": "dot", "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    names = {"before": ("as fitted", "@1", "square"), "after": ("with temperature", "@0", "circle")}
    data = [even]
    for key, (name, colour, symbol) in names.items():
        if key in bins:
            data.append(_reliability_line(bins[key], name, colour, symbol))
    layout = {
        "xaxis": {"title": {"text": "confidence (%)"}, "range": [0, 101]},
        "yaxis": {"title": {"text": "accuracy (%)"}, "range": [0, 101]},
        "legend": LEGEND_BELOW,
        "height": 440,
    }
    errors = [f"{names[k][0]} {calibration_error(found):.1f} %" for k, found in bins.items()]
    return Figure(data, layout, f"Calibration error {', '.join(errors)}.")


def _reliability_line(
    bins: Sequence[Mapping[str, float]], name: str, colour: str, symbol: str
) -> Json:
    total = sum(one["images"] for one in bins)
    error = calibration_error(bins)
    bins = [one for one in bins if one["images"] >= _SMALLEST_BIN * total]
    most = max(one["images"] for one in bins)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{name} (error {error:.1f} %)",
        "x": [one["confidence"] for one in bins],
        "y": [one["accuracy"] for one in bins],
        "line": {"color": colour, "width": 1.7},
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": [5 + 13 * (one["images"] / most) ** 0.5 for one in bins],
        },
        "customdata": [one["images"] for one in bins],
        "hovertemplate": "%{y:.1f} % right at %{x:.1f} % sure, %{customdata:.0f} images"
        "<extra></extra>",
    }


def feature_map(analysis: Analysis, class_names: Sequence[str]) -> Figure:
    """Two dimensions of the test features, before and after the adapter, coloured by class."""
    shown = class_order(analysis.labels, _MOST_CLASSES)
    sides = [side for side in (analysis.before, analysis.after) if side is not None]
    data = []
    for number, points in enumerate(sides, start=1):
        axis = "" if number == 1 else "2"
        for place, label in enumerate([*shown, None]):
            rows = [
                row for row, c in enumerate(analysis.labels) if (c if c in shown else None) == label
            ]
            if rows:
                name = "other classes" if label is None else class_names[label]
                cloud = _cloud(points, rows, name, None if label is None else place)
                data.append({**cloud, "xaxis": f"x{axis}", "yaxis": f"y{axis}"})
                data[-1]["showlegend"] = number == 1
    plain: Json = {"showgrid": False, "zeroline": False, "showticklabels": False, "showline": False}
    plain["ticks"] = ""
    half = [0, 0.485] if len(sides) == 2 else [0, 1]
    layout: Json = {"xaxis": {**plain, "domain": half}, "yaxis": plain, "height": 500}
    titles = ["as the encoder gives them", "after the adapter"][: len(sides)]
    if len(sides) == 2:
        layout["xaxis2"] = {**plain, "domain": [0.515, 1]}
        layout["yaxis2"] = {**plain, "anchor": "x2"}
    layout["annotations"] = [
        {"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "y": 1.06, "x": x}
        for text, x in zip(titles, (0, 0.515), strict=False)
    ]
    layout["legend"] = LEGEND_BELOW
    return Figure(data, layout, f"Scatter of test features: {analysis.projection}.")


def _cloud(
    points: Sequence[Sequence[float]], rows: Sequence[int], name: str, place: int | None
) -> Json:
    symbols = ("circle", "diamond", "triangle-up")
    marker = (
        {"color": "@grid", "size": 4}
        if place is None
        else {"color": f"@{place % 8}", "symbol": symbols[place // 8 % 3], "size": 6}
    )
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "legendgroup": name,
        "x": [points[row][0] for row in rows],
        "y": [points[row][1] for row in rows],
        "marker": {**marker, "opacity": 0.85},
        "hoverinfo": "name",
    }
