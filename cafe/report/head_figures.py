"""Figures about one head: gains by class, reliability, a map of the features; knows no HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cafe.errors import counted
from cafe.report.analysis import Analysis
from cafe.report.confusions import ConfusionMap
from cafe.report.feature_map import MOST_COLOURED
from cafe.report.figures import Figure, Json, axis, button, literal, scatter

_SMALLEST_BIN = 0.005  # of all answers; a smaller bin says nothing
_MOST_GAINS = 16  # bars on either side where there are many classes
_MAP_SYMBOLS = ("circle", "diamond", "triangle-up")
_MOST_NUMBERED = 12  # classes of a heat map whose cells have room for a number
_MOST_TENTHS = 6  # classes of one whose cells have room for a decimal place
_WIDE = 40  # letters of a name that a wide screen has room for
_STYLES = {"before": ("as fitted", "@1", "square"), "after": ("with temperature", "@0", "circle")}

Bins = Sequence[Mapping[str, float]]


def ends(by_class: Sequence[tuple[str, float]], most: int) -> list[tuple[str, float]]:
    """The first and the last of many classes, `most` each; all where there are not so many."""
    return [*by_class[:most], *by_class[max(most, len(by_class) - most) :]]


def gains(by_class: Sequence[tuple[str, float]], method: str) -> Figure:
    """Gain of classes over zero-shot as bars, blue for a gain and orange for a loss.

    Of many classes those at either end are shown, and none that gains and loses nothing.
    """
    many = len(by_class) > 2 * _MOST_GAINS
    changed = [(name, gain) for name, gain in by_class if gain or not many]
    shown = ends(changed, _MOST_GAINS)[::-1]  # plotly draws the first at the bottom
    names = [name for name, _ in shown]
    ticks = ticks_of([literal(name) for name in names], names)
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": ticks["tickvals"],
        "x": [gain for _, gain in shown],
        "marker": {"color": ["@0" if gain >= 0 else "@1" for _, gain in shown]},
        "hovertemplate": "%{y}: %{x:+.1f} points<extra></extra>",
    }
    layout = {
        "xaxis": axis("points of accuracy", zeroline=True),
        "yaxis": axis(showgrid=False, type="category", **ticks),
        "height": 110 + 22 * len(shown),
        "bargap": 0.35,
        "meta": {"wide": [literal(shortened(name, _WIDE)) for name in names]},
    }
    up, down = sum(gain > 0 for _, gain in by_class), sum(gain < 0 for _, gain in by_class)
    label = f"Bars: {method} gains on {up} of {len(by_class)} classes and loses on {down}."
    if len(shown) < len(changed):
        label += f" The {_MOST_GAINS} at either end are shown."
    elif many:
        label += " The others are not shown."
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
        cliponaxis=False,  # a mark at 100 % is whole
        customdata=[row["images"] for row in shown],
        meta=button(),
        hovertemplate="%{y:.1f} % of %{customdata:.0f} right at %{x:.1f} % sure<extra></extra>",
    )


def feature_maps(analysis: Analysis, class_names: Sequence[str]) -> dict[str, Figure]:
    """Two dimensions of the test features, before and after the adapter, coloured by class."""
    sides = {"map": analysis.before, "map-after": analysis.after}
    plain = axis(showgrid=False, zeroline=False, showticklabels=False, showline=False, ticks="")
    layout: Json = {
        "height": 400,
        "xaxis": plain,
        "yaxis": plain,
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
    }
    return {
        name: Figure(
            _clouds(points, analysis.labels, class_names),
            layout,
            f"Scatter of test features: {analysis.projection}.",
        )
        for name, points in sides.items()
        if points is not None
    }


def confusions(found: ConfusionMap, class_names: Sequence[str]) -> Figure:
    """How often each class is taken for each other, in percent of its images."""
    classes, names = found.classes, [literal(class_names[label]) for label in found.classes]
    shares = [
        [None if a == b else round(found.shares.get((a, b), 0.0), 1) for b in classes]
        for a in classes
    ]
    digits = int(len(classes) <= _MOST_TENTHS)
    heat = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": shares,
        "text": [[f"{z:.{digits}f}" if z and round(z) else "" for z in row] for row in shares],
        "texttemplate": "%{text}" if len(classes) <= _MOST_NUMBERED else "",
        "customdata": [[f"{a}|{b}" for b in classes] for a in classes],
        "colorscale": [[0, "@raised"], [1, "@0"]],
        "zmin": 0,
        "zmax": max(z or 0 for row in shares for z in row),
        "xgap": 1,
        "ygap": 1,
        "showscale": False,
        "hoverongaps": False,
        "hovertemplate": "%{z:.1f} % of %{y} are taken for %{x}<extra></extra>",
    }
    ticks = ticks_of(names, [class_names[label] for label in classes])
    layout = {
        "xaxis": _axis_of_classes("taken for", tickangle=-90, **ticks),
        "yaxis": _axis_of_classes("class", autorange="reversed", **ticks),
        "height": 190 + max(200, 21 * len(classes)),
    }
    shown = counted(len(classes), "class")
    of_all = f" of {found.total:,}" if len(classes) < found.total else ""
    label = f"Heat map: share of a class that is taken for another, {shown}{of_all}."
    return Figure([heat], layout, label)


def _axis_of_classes(title: str, **more: Any) -> Json:
    """An axis whose title keeps clear of the names."""
    return {
        "title": {"text": title, "standoff": 10},
        "type": "category",
        "showgrid": False,
        **more,
    }


def ticks_of(values: Sequence[str], names: Sequence[str]) -> Json:
    """Marks of an axis of classes: all of them, long names without their middle."""
    return {"tickvals": list(values), "ticktext": [literal(shortened(name)) for name in names]}


def shortened(name: str, most: int = 16) -> str:
    """A long name without its middle, for a narrow screen."""
    half = most // 2
    return name if len(name) <= most else f"{name[:half].rstrip()}…{name[1 - half :].lstrip()}"


def _clouds(
    points: Sequence[Sequence[float]], labels: Sequence[int], class_names: Sequence[str]
) -> list[Json]:
    """The points of each of the largest classes, then those of all others in grey."""
    # of equally large classes the lower index comes first
    largest = [label for label, _ in Counter(sorted(labels)).most_common(MOST_COLOURED)]
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
        clouds.append(("other classes", {"color": "@rest", "size": 4}, rest))
    return [
        scatter(
            "markers",
            [x for x, _ in cloud],
            [y for _, y in cloud],
            name=name,
            legendgroup=name,
            marker={**marker, "opacity": 0.85},
            hoverinfo="name",
            meta=button(),
        )
        for name, marker, cloud in clouds
    ]
