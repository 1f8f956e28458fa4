"""Figures about one head: gains by class, reliability, a map of the features; knows no HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cafe.report.analysis import Analysis
from cafe.report.figures import LEGEND_BELOW, Figure, Json, axis, literal, scatter

_SMALLEST_BIN = 0.005  # of all answers; a smaller bin says nothing
_MOST_GAINS = 16  # bars on either side where there are many classes
_MOST_CLASSES = 24  # told apart on a map: eight colours by three symbols
_MAP_SYMBOLS = ("circle", "diamond", "triangle-up")
_SIDE_TITLES = ("encoder's features", "adapted features")  # they share a narrow screen
_HALVES = ([0, 0.485], [0.515, 1])  # of the figure's width
_TITLE: Json = {"showarrow": False, "xref": "paper", "yref": "paper", "xanchor": "left", "y": 1.06}

_STYLES = {"before": ("as fitted", "@1", "square"), "after": ("with temperature", "@0", "circle")}

Bins = Sequence[Mapping[str, float]]


def ends(by_class: Sequence[tuple[str, float]], most: int) -> list[tuple[str, float]]:
    """The first and the last of many classes, `most` each; all where there are not so many."""
    return [*by_class[:most], *by_class[max(most, len(by_class) - most) :]]


def gains(by_class: Sequence[tuple[str, float]], method: str) -> Figure:
    """Gain of every class over zero-shot as bars, blue for a gain and orange for a loss."""
    shown = ends(by_class, _MOST_GAINS)[::-1]  # plotly draws the first at the bottom
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [literal(name) for name, _ in shown],
        "x": [gain for _, gain in shown],
        "marker": {"color": ["@0" if gain >= 0 else "@1" for _, gain in shown]},
        "hovertemplate": "%{y}: %{x:+.1f} points<extra></extra>",
    }
    layout = {
        "xaxis": axis("points of accuracy", zeroline=True),
        "yaxis": axis(automargin=True, showgrid=False, type="category", dtick=1),
        "height": 110 + 22 * len(shown),
        "bargap": 0.35,
    }
    up, down = sum(gain > 0 for _, gain in by_class), sum(gain < 0 for _, gain in by_class)
    label = f"Bars: {method} gains on {up} of {len(by_class)} classes and loses on {down}."
    if len(shown) < len(by_class):
        label += f" The {_MOST_GAINS} at either end are shown."
    return Figure([bars], layout, label)


def reliability(bins: Mapping[str, Bins]) -> Figure:
    """Accuracy over confidence, "before" and, where it is there, "after" temperature scaling."""
    diagonal = scatter(
        "lines",
        [0, 100],
        [0, 100],
        line={"color": "@muted", "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    lines = [(bins[key], *style) for key, style in _STYLES.items() if key in bins]
    layout = {
        "xaxis": axis("confidence (%)", range=[0, 101]),
        "yaxis": axis("accuracy (%)", range=[0, 101]),
        "legend": LEGEND_BELOW,
        "height": 440,
    }
    errors = [f"{name} {calibration_error(own):.1f} %" for own, name, *_ in lines]
    data = [diagonal, *(_reliability_line(*line) for line in lines)]
    return Figure(data, layout, f"Calibration error {', '.join(errors)}.")


def calibration_error(bins: Bins) -> float:
    """Expected calibration error of reliability bins, in percent."""
    total = sum(row["images"] for row in bins)
    return sum(row["images"] / total * abs(row["accuracy"] - row["confidence"]) for row in bins)


def _reliability_line(bins: Bins, name: str, colour: str, symbol: str) -> Json:
    total = sum(row["images"] for row in bins)
    shown = [row for row in bins if row["images"] >= _SMALLEST_BIN * total]
    most = max(row["images"] for row in shown)
    sizes = [5 + 13 * (row["images"] / most) ** 0.5 for row in shown]
    return scatter(
        "lines+markers",
        [row["confidence"] for row in shown],
        [row["accuracy"] for row in shown],
        name=f"{name} (error {calibration_error(bins):.1f} %)",
        line={"color": colour, "width": 1.7},
        marker={"symbol": symbol, "color": colour, "size": sizes},
        customdata=[row["images"] for row in shown],
        hovertemplate="%{y:.1f} % right at %{x:.1f} % sure, %{customdata:.0f} images"
        "<extra></extra>",
    )


def feature_map(analysis: Analysis, class_names: Sequence[str]) -> Figure:
    """Two dimensions of the test features, before and after the adapter, coloured by class."""
    sides = [side for side in (analysis.before, analysis.after) if side is not None]
    plain = axis(showgrid=False, zeroline=False, showticklabels=False, showline=False, ticks="")
    layout: Json = {"height": 500, "legend": LEGEND_BELOW, "annotations": []}
    data = []
    for place, (points, title) in enumerate(zip(sides, _SIDE_TITLES, strict=False)):
        number, anchor = ("2", {"anchor": "x2"}) if place else ("", {})
        domain = _HALVES[place] if len(sides) == 2 else [0, 1]
        layout[f"xaxis{number}"] = {**plain, "domain": domain}
        layout[f"yaxis{number}"] = {**plain, **anchor}
        layout["annotations"].append({**_TITLE, "text": title, "x": domain[0]})
        data += [
            {**cloud, "xaxis": f"x{number}", "yaxis": f"y{number}", "showlegend": not place}
            for cloud in _clouds(points, analysis.labels, class_names)
        ]
    return Figure(data, layout, f"Scatter of test features: {analysis.projection}.")


def _clouds(
    points: Sequence[Sequence[float]], labels: Sequence[int], class_names: Sequence[str]
) -> list[Json]:
    """The points of each of the largest classes, then those of all others in grey."""
    # of equally large classes the lower index comes first
    largest = [label for label, _ in Counter(sorted(labels)).most_common(_MOST_CLASSES)]
    clouds = [
        (
            literal(class_names[label]),
            {"color": f"@{place % 8}", "symbol": _MAP_SYMBOLS[place // 8 % 3], "size": 6},
            [point for point, own in zip(points, labels, strict=True) if own == label],
        )
        for place, label in enumerate(largest)
    ]
    rest = [point for point, own in zip(points, labels, strict=True) if own not in largest]
    if rest:
        clouds.append(("other classes", {"color": "@grid", "size": 4}, rest))
    return [
        scatter(
            "markers",
            [x for x, _ in cloud],
            [y for _, y in cloud],
            name=name,
            legendgroup=name,
            marker={**marker, "opacity": 0.85},
            hoverinfo="name",
        )
        for name, marker, cloud in clouds
    ]
