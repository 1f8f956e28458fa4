"""The formats in which `cafe predict` prints predictions, one by one as they come."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cafe.inference.prediction import ClassScore, Prediction
    from cafe.results.saved_head import SavedHead

Write = Callable[["Prediction"], None]

_WIDEST = 32  # of a class name in the table


def _jsonl(_saved: SavedHead, _top: int) -> Write:
    return lambda prediction: typer.echo(json.dumps(prediction.json(), ensure_ascii=False))


def _csv(saved: SavedHead, top: int) -> Write:
    """Image, label and probability, then the runners-up, then the explanations."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    count = min(top, len(saved.class_names))
    fields = ["label", "probability", *(["score"] if saved.has_scores else [])]
    others = [f"{field}_{place}" for place in range(2, count + 1) for field in fields]
    headers = ["image", *fields, *others]

    def write(prediction: Prediction) -> None:
        zero_shot, nearest = prediction.zero_shot, prediction.nearest
        explained = {} if zero_shot is None else {"zero_shot": zero_shot.label}
        if nearest:
            explained["nearest"] = nearest[0].image
        if headers:
            writer.writerow([*headers, *explained])
            headers.clear()
        best, *rest = (tuple(score.json().values()) for score in prediction.top)
        runners_up = [value for score in rest for value in score]
        row = [prediction.image, prediction.label or "", *best[1:], *runners_up]
        writer.writerow([*row, *explained.values()])

    return write


def _table(saved: SavedHead, top: int) -> Write:
    """Lines whose columns are as wide as the class names, so that none waits for the others."""
    from rich.cells import cell_len, set_cell_size

    count = min(top, len(saved.class_names))
    width = min(max(map(cell_len, [*saved.class_names, "unknown"])), _WIDEST)
    full = width + (23 if saved.has_scores else 8)  # with the percentages
    headers = [set_cell_size("label", full), *[set_cell_size("or", full)] * (count - 1), "image"]

    def cell(label: str, score: ClassScore) -> str:
        alone = "" if score.score is None else f" {100 * score.score:6.1f} % alone"
        return f"{set_cell_size(label, width)} {100 * score.probability:5.1f} %{alone}"

    def write(prediction: Prediction) -> None:
        if headers:  # printed when there is something to put below them
            typer.echo("  ".join(headers))
            headers.clear()
        best, *others = prediction.top
        if prediction.label is None:
            others = [best, *others][: count - 1]
        cells = [cell(prediction.label or "unknown", best), *(cell(s.label, s) for s in others)]
        typer.echo("  ".join([*cells, prediction.image]))
        if prediction.zero_shot is not None:
            typer.echo(f"    zero-shot: {_brief(prediction.zero_shot)}")
        for near in prediction.nearest:
            typer.echo(f"    near to {near.image}, {near.label}, cosine {near.cosine:.3f}")

    return write


def _brief(score: ClassScore) -> str:
    alone = "" if score.score is None else f" ({100 * score.score:.1f} % alone)"
    return f"{score.label} {100 * score.probability:.1f} %{alone}"


FORMATS = {"table": _table, "csv": _csv, "jsonl": _jsonl}
