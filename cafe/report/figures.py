"""Figures as plotly's JSON: data, layout and what a screen reader says; knows no HTML.

Colours are names that the page looks up in its light or dark theme: "@0" to "@7" of the palette,
"@ink", "@muted", "@grid", "@paper". The page makes the legend, a button for each trace: `meta` says
what the trace looks like while its button is off ("hidden", or "grey") and whether it starts so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from cafe.errors import counted
from cafe.report.heat_maps import HeatMap
from cafe.report.report_data import ReportData
from cafe.results.metrics import Summary
from cafe.store.key import say_items

Json = dict[str, Any]
_DRAWN_AT_FIRST = ("zero-shot", "clip-adapter")  # other published numbers wait in the legend
_WIDEST_INTERVAL = 8.0  # points of a confidence interval that an axis makes room for
_MOST_COLOURED = 6  # lines; an eye tells no more apart, and others are a click away
_DASHES = ("solid", "longdash", "dashdot")  # tells apart lines of one colour
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon", "x")
_HOVER = "%{fullData.name}: %{y:.2f} %<extra></extra>"


def button(*, on: bool = True, off: str = "hidden") -> Json:
    """What a trace's button in the legend does."""
    return {"on": on, "off": off}


class Figure(NamedTuple):
    """A figure, with a sentence for those who do not see it."""

    data: list[Json]
    layout: Json
    label: str


def literal(text: object) -> str:
    """A name that plotly and the page show as it is.

    plotly reads some HTML in texts (`<b>`, `<a href>`), and the page reads "@" as a colour; plotly
    turns entities back into characters.
    """
    return escape(str(text), quote=False).replace("@", "&#64;")


def scatter(mode: str, x: Sequence[Any], y: Sequence[Any], **more: Any) -> Json:
    """A trace of lines or markers."""
    return {"type": "scatter", "mode": mode, "x": x, "y": y, **more}


def axis(title: str = "", **more: Any) -> Json:
    """An axis of a layout."""
    return {"title": {"text": title}, **more} if title else more


def accuracy(run: ReportData) -> Figure:
    """Lines over shots with 95 % intervals, published numbers dotted; dots for one shot count."""
    published = {int(count) for row in run.comparable for count in row["accuracy"]} - {0}
    if len(run.shots) == 1 and not published:
        return _dots(run)
    # shot counts are evenly spaced words, not numbers: 1, 2, 4, 8 and 16 would crowd on a line
    numbers = {count for count in run.shots if count != "all"}
    ticks = [*sorted(published | numbers), *(["all"] if "all" in run.shots else [])]
    data = [_line(run, method, ticks) for method in run.ranked]
    data += [_published_line(row, ticks) for row in run.comparable]
    layout = {
        "xaxis": axis(
            say_items("training images per class", run.noun),
            tickvals=list(range(len(ticks))),
            ticktext=list(map(literal, ticks)),
            showgrid=False,
            zeroline=False,
        ),
        "yaxis": axis("top-1 accuracy (%)", range=_accuracy_range(run)),
        "height": 430,
    }
    methods, counts = counted(len(run.methods), "method"), counted(len(ticks), "shot count")
    label = f"Lines: accuracy of {methods} at {counts}"
    return Figure(data, layout, f"{label}; the table has the numbers.")


def _line(run: ReportData, method: str, ticks: Sequence[Any]) -> Json:
    x = [place for place, shots in enumerate(ticks) if (method, shots) in run.results]
    summaries = [run.results[method, ticks[place]].accuracy for place in x]
    in_focus, place = method == run.focus[0], _place(run, method)
    colour, reference = _colour(run, method), method == "zero-shot"
    dash = "dash" if reference else _DASHES[place // 8 % len(_DASHES)]
    return scatter(
        "lines+markers",
        x,
        [summary.mean for summary in summaries],
        name=literal(method),
        error_y={**_error_bars(summaries, colour), "thickness": 1.2, "width": 3},
        line={"color": colour, "width": 3 if in_focus else 1.7, "dash": dash},
        marker={"symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 8 if in_focus else 6},
        hovertemplate=_HOVER,
        meta=button(on=reference or in_focus or place < _MOST_COLOURED, off="grey"),
    )


def _published_line(row: Mapping[str, Any], ticks: Sequence[Any]) -> Json:
    by_shots: Mapping[str, float] = row["accuracy"]
    if "0" in by_shots:  # zero-shot is the same at every shot count
        by_shots = {str(shots): by_shots["0"] for shots in ticks}
    points = {place: by_shots.get(str(shots)) for place, shots in enumerate(ticks)}
    places = [place for place, value in points.items() if value is not None]
    return scatter(
        "lines" if "0" in row["accuracy"] else "lines+markers",
        places,
        [points[place] for place in places],
        name=f"{row['method']}, published",
        line={"color": "@muted", "width": 1.2, "dash": "dot"},
        marker={"symbol": "circle-open", "size": 6, "color": "@muted"},
        hovertemplate=_HOVER,
        meta=button(on=row["cafe"] in _DRAWN_AT_FIRST),
    )


def _dots(run: ReportData) -> Figure:
    found = [run.results[method, shots] for shots in run.shots for method in run.ranked]
    results = found[::-1]  # plotly draws the first at the bottom
    data = [
        scatter(
            "markers",
            [result.accuracy.mean],
            [literal(result.method)],
            error_x={**_error_bars([result.accuracy], colour), "thickness": 2, "width": 5},
            marker={"color": colour, "size": 11},
            hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
        )
        for result in results
        for colour in ["@0" if result.method == run.ranked[0] else "@muted"]
    ]
    layout = {
        "xaxis": axis("top-1 accuracy (%)", range=_accuracy_range(run), zeroline=False),
        "yaxis": axis(automargin=True, type="category"),
        "showlegend": False,
        "height": 130 + 34 * len(results),
    }
    return Figure(
        data, layout, f"Dots: accuracy of {counted(len(results), 'method')}; see the table below."
    )


def _place(run: ReportData, method: str) -> int:
    """A method's rank among those that take a colour: zero-shot takes none."""
    return [name for name in run.ranked if name != "zero-shot" or name == method].index(method)


def _colour(run: ReportData, method: str) -> str:
    """The palette's name of a method's colour: grey for zero-shot, blue for the best."""
    return "@muted" if method == "zero-shot" else f"@{_place(run, method) % 8}"


def _error_bars(summaries: Sequence[Summary], colour: str) -> Json:
    halves = [summary.ci95 or 0 for summary in summaries]
    return {"type": "data", "array": halves, "color": colour}


def _accuracy_range(run: ReportData) -> list[float]:
    """From below the lowest mean to above the highest; very wide intervals are cut off."""
    summaries = [result.accuracy for result in run.results.values()]
    ends = [(s.mean, min(s.ci95 or 0, _WIDEST_INTERVAL)) for s in summaries]
    for row in run.comparable:
        if row["cafe"] in _DRAWN_AT_FIRST:
            ends += [(value, 0.0) for value in row["accuracy"].values()]
    low, high = min(mean - half for mean, half in ends), max(mean + half for mean, half in ends)
    return [max(0.0, low - 2), min(101.0, high + 2)]


def heat(heat_map: HeatMap) -> Figure:
    """Validation accuracy over ratio and bottleneck, the chosen cell framed."""
    ratios, bottlenecks = heat_map.ratios, heat_map.bottlenecks
    colours = {
        "type": "heatmap",
        "z": [[heat_map.mean(ratio, width) for ratio in ratios] for width in bottlenecks],
        "x": [f"{ratio:g}" for ratio in ratios],
        "y": list(map(literal, bottlenecks)),
        "customdata": [[heat_map.key(ratio, width) for ratio in ratios] for width in bottlenecks],
        "colorscale": "Viridis",
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{z:.1f}" if len(ratios) <= 12 else "",
        "colorbar": {"title": {"text": "%"}, "thickness": 10, "outlinewidth": 0},
        "hovertemplate": "ratio %{x}, bottleneck %{y}: %{z:.2f} %<extra></extra>",
    }
    ratio, bottleneck = heat_map.chosen
    line = {"width": 2.5, "color": "#111"}  # black: the chosen cell is the brightest
    frame = scatter(
        "markers",
        [f"{ratio:g}"],
        [literal(bottleneck)],
        marker={"symbol": "square-open", "size": 34, "color": "#111", "line": line},
        hoverinfo="skip",
        showlegend=False,
    )
    layout = {
        "xaxis": axis("ratio", type="category", showgrid=False),
        "yaxis": axis("bottleneck", type="category", showgrid=False),
        "height": 150 + 46 * len(bottlenecks),
    }
    label = f"{counted(heat_map.shots, 'shot')}: validation chose ratio {ratio:g} and bottleneck "
    return Figure([colours, frame], layout, f"{label[0].upper()}{label[1:]}{bottleneck}.")
