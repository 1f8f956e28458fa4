"""The sections of a run as HTML; figures and data are left with the page for its script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

from cafe.report import diagrams, figures, tables
from cafe.report.figures import Figure
from cafe.report.report_data import ReportData


@dataclass
class Page:
    """What the sections leave for the page's script."""

    figures: list[dict[str, Any]] = field(default_factory=list)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    def figure(
        self, name: str, found: Figure, caption: str, run: str | None = None, kind: str = ""
    ) -> str:
        """A figure of the page; its caption is HTML."""
        self.figures.append({"id": name, "run": run, **found.json()})
        height = found.layout["height"]
        return (
            f'<figure><div class="plot {kind}" id="{name}" role="img" '
            f'aria-label="{escape(found.label)}" style="min-height:{height}px"></div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )


def name_of(run: ReportData) -> str:
    """The dataset of a run, in words where it is several."""
    names = run.record.get("datasets")
    return str(run.record["dataset"]) if names is None else f"average of {len(names)} caches"


def title_of(run: ReportData) -> str:
    """Dataset, encoder and kind of a run."""
    kind = "grid" if run.grid else _KINDS.get(run.record.get("kind", ""), "fit")
    return f"{name_of(run)}, {run.encoder} ({kind})"


_KINDS = {
    "compare": "comparison",
    "base-to-new": "base to new",
    "compare-average": "comparison",
    "base-to-new-average": "base to new",
}


def section(page: Page, run: ReportData, name: str) -> str:
    """Everything of one run."""
    parts = [
        f'<section class="run" id="{name}" aria-labelledby="{name}-title">',
        f'<h2 id="{name}-title">{escape(title_of(run))}</h2>',
        f'<p class="of">{escape(run.record["created"][:10])} · {escape(run.folder.name)}</p>',
        _cards(run),
        *_accuracy(page, run, name),
        *_grid(page, run, name),
        *_into(page, run, name),
        *_protocol(run),
        "</section>",
    ]
    return "".join(parts)


def _cards(run: ReportData) -> str:
    """The numbers to take home."""
    method, shots = run.focus
    mine, at = run.results[run.focus]["accuracy"], figures.shots_words(shots)
    cards = [(f"{tables.interval(mine)} %", f"{method}, {at}")]
    zero = run.results.get(("zero-shot", shots))
    if zero is not None and method != "zero-shot":
        gain = mine["mean"] - zero["accuracy"]["mean"]
        cards.append((f"{gain:+.2f}", f"points on zero-shot's {zero['accuracy']['mean']:.2f} %"))
    rows = {name: row["accuracy"] for (name, count), row in run.results.items() if count == shots}
    best = max(rows, key=lambda name: rows[name]["mean"])
    if best != method:
        cards.append((f"{tables.interval(rows[best])} %", f"the best, {best}, {at}"))
    seconds, count = run.results[run.focus]["seconds"], len(mine["per_seed"])
    cards.append((f"{seconds:.1f} s", f"for {count} fit{'s' if count != 1 else ''} of {method}"))
    inside = "".join(
        f"<div><b>{value}</b><span>{escape(text)}</span></div>" for value, text in cards
    )
    return f'<div class="cards">{inside}</div>'


def _accuracy(page: Page, run: ReportData, name: str) -> Iterator[str]:
    yield "<h3>Accuracy over shots</h3>" if len(run.shots) > 1 else "<h3>Accuracy</h3>"
    found = figures.accuracy_over_shots(run)
    count = len(run.record["protocol"]["seeds"])
    caption = f"Mean over {count} seeds; bars are 95 % intervals."
    if run.comparable:
        caption += " Dotted: published; more of them in the legend."
    elif not run.published:
        caption += f" No published number is known for {escape(name_of(run))} with "
        caption += f"{escape(run.record['encoder']['model'])}."
    yield page.figure(f"{name}-accuracy", found, caption)
    yield tables.accuracies(run)
    yield tables.halves(run)
    yield tables.paired(run)
    yield tables.published(run)
    yield tables.beyond_top1(run)


def _grid(page: Page, run: ReportData, name: str) -> Iterator[str]:
    if not run.grid:
        return
    yield "<h3>Ratio and bottleneck</h3>"
    yield (
        "<p>Mean validation accuracy of every configuration; the frame marks the chosen one. "
        "Choose a cell, or a number of the table, to see its runs. Only what validation chose was "
        "tested.</p>"
    )
    page.cells[name] = {}
    for shots in dict.fromkeys(row["shots"] for row in run.grid):
        found = figures.heat_map(run, shots)
        yield page.figure(f"{name}-heat-{shots}", found, escape(found.label), run=name)
        yield f"<details><summary>Table, {figures.shots_words(shots)}</summary>"
        yield f"{tables.heat(run, shots, name)}</details>"
        for (ratio, width), rows in figures.heat_cells(run, shots).items():
            page.cells[name][f"{shots}|{ratio:g}|{width}"] = [dict(row) for row in rows]
    yield (
        f'<div class="panel" id="{name}-panel" role="region" aria-live="polite" '
        'aria-label="Runs of the chosen cell">No cell is chosen.</div>'
    )


def _into(page: Page, run: ReportData, name: str) -> Iterator[str]:
    """A look into the method in focus."""
    method, shots = run.focus
    of = f"{escape(method)}, {figures.shots_words(shots)}"
    found = diagrams.gains(run)
    if found:
        yield f'<h3>Gain over zero-shot by class</h3><p class="of">{of}, mean over seeds.</p>'
        bars = diagrams.gain_bars(found, method)
        yield page.figure(f"{name}-gains", bars, escape(bars.label))
        yield f"<details><summary>Table</summary>{tables.gain_rows(found)}</details>"
    pairs = tables.confusions(run)
    if pairs:
        yield f'<h3>What is confused</h3><p class="of">{of}, mean over seeds.</p>{pairs}'
    analysis = run.analysis
    bins = analysis.reliability if analysis else _stored_reliability(run)
    if bins:
        yield f'<h3>How far its probabilities can be believed</h3><p class="of">{of}.</p>'
        diagram = diagrams.reliability_diagram(bins)
        caption = f"{escape(diagram.label)} On the diagonal, a probability is the share of answers "
        caption += "that are right; larger marks hold more images. "
        if analysis and analysis.temperature:
            caption += (
                f"The temperature, {analysis.temperature:.2f}, was fitted without test images. "
            )
        caption += "Bins with less than 0.5 % of the images are not drawn."
        yield page.figure(f"{name}-reliability", diagram, caption, kind="narrow")
    if analysis is not None:
        title = "<h3>The features in two dimensions</h3>"
        yield f'{title}<p class="of">{of}, seed {analysis.seed}.</p>'
        plot = diagrams.feature_map(analysis, run.class_names)
        caption = f"{escape(analysis.projection)}; each side is its own map, coloured by class."
        yield page.figure(f"{name}-map", plot, caption)


def _stored_reliability(run: ReportData) -> dict[str, Any]:
    bins = run.results[run.focus]["page"].get("reliability")
    return {"before": bins} if bins else {}


def _protocol(run: ReportData) -> Iterator[str]:
    record = run.record
    yield f"<h3>Protocol</h3><p>{escape(record['protocol']['words'])}</p>"
    for method, reason in record.get("left_out", {}).items():
        yield f"<p>{escape(method)} is left out: {escape(reason)}.</p>"
    if run.notes:
        yield '<ul class="notes">'
        yield "".join(f"<li>{escape(note)}</li>" for note in run.notes) + "</ul>"
    yield "<h3>How to get these numbers again</h3>"
    yield "<p>Every number of this run comes from one command:</p>"
    yield f"<pre>{escape(command_of(record))}</pre>"
    yield "<details><summary>Cache, encoder and versions</summary>"
    encoder = {f"encoder {key}": value for key, value in record["encoder"].items()}
    versions = {f"version of {key}": value for key, value in record.get("versions", {}).items()}
    key = {f"key: {part}": json.dumps(v) for part, v in record.get("cache_key", {}).items()}
    about = {"cache": record["cache"], "made": record["created"]}
    yield f"{tables.facts({**about, **encoder, **versions, **key})}</details>"


def command_of(record: Any) -> str:
    """The command of a run: the recorded one, or that which does the same."""
    if record.get("command"):
        return str(record["command"])
    protocol = record["protocol"]
    shots = protocol["shots"] if isinstance(protocol["shots"], list) else [protocol["shots"]]
    caches = record["cache"] if isinstance(record["cache"], list) else [record["cache"]]
    methods = dict.fromkeys(row["method"] for row in record["results"])
    words = ["cafe", "compare", *caches, "--methods", ",".join(methods)]
    words += ["--shots", ",".join(map(str, shots))]
    words += ["--seeds", ",".join(map(str, protocol["seeds"]))]
    words += ["--validation", protocol["validation"]]
    words += ["--base-to-new"] if "base_to_new" in record else []
    return shlex.join(words)
