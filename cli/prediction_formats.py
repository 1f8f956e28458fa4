"""The formats in which `cafe predict` prints predictions, one by one as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from .output import print_csv, print_json, say, shown

if TYPE_CHECKING:
    from cafe.inference.prediction import ClassScore, Prediction
    from cafe.results.saved_head import SavedHead

Write = Callable[["Prediction"], None]

_WIDEST = 32  # of the column of a class name; longer ones are wrapped


def _jsonl(_saved: SavedHead, _top: int) -> Write:
    return lambda prediction: print_json(prediction.json(), readable=True)


def _csv(saved: SavedHead, top: int) -> Write:
    """Image, label and probability, then the runners-up, then the explanations."""
    count = min(top, len(saved.class_names))
    fields = ["label", "probability", *(["score"] if saved.has_scores else [])]
    others = [f"{field}_{place}" for place in range(2, count + 1) for field in fields]
    headers = ["image", *fields, *others]

    def write(prediction: Prediction) -> None:
        zero_shot, nearest = prediction.zero_shot, prediction.nearest
        explained = {} if zero_shot is None else {"zero_shot": zero_shot.label}
        if nearest:
            explained["nearest"] = nearest[0].image
        if prediction.learning != "inductive":
            explained["learning"] = prediction.learning
        if headers:
            print_csv([*headers, *explained])
            headers.clear()
        best, *rest = (tuple(score.json().values()) for score in prediction.top)
        runners_up = [value for score in rest for value in score]
        row = [prediction.image, prediction.label or "", *best[1:], *runners_up]
        print_csv([*row, *explained.values()])

    return write


def _table(saved: SavedHead, top: int) -> Write:
    """Lines whose columns are as wide as the class names, so that none waits for the others."""
    from rich.cells import cell_len

    from cafe.datasets.text_files import distinct_names

    names = distinct_names(saved.class_names)
    count = min(top, len(names))
    width = min(max(cell_len(shown(name)) for name in [*names, "unknown"]), _WIDEST)
    full = width + (23 if saved.has_scores else 8)  # with the percentages
    headers = [["label"], *[["or"]] * (count - 1)]

    def cell(label: str, score: ClassScore) -> list[str]:
        alone = "" if score.score is None else f" {100 * score.score:6.1f} % alone"
        first, *more = _wrapped(label, width)
        return [f"{_padded(first, width)} {100 * score.probability:5.1f} %{alone}", *more]

    def write(prediction: Prediction) -> None:
        if headers:  # printed when there is something to put below them
            say(*_side_by_side(headers, full, "image"))
            headers.clear()
        best, *others = prediction.top
        if prediction.label is None:
            others = [best, *others][: count - 1]
        cells = [cell(prediction.label or "unknown", best), *(cell(s.label, s) for s in others)]
        say(*_side_by_side(cells, full, prediction.image))
        if prediction.zero_shot is not None:
            say(f"    zero-shot: {_brief(prediction.zero_shot)}")
        for near in prediction.nearest:
            say(f"    near to {near.image}, {near.label}, cosine {near.cosine:.3f}")

    return write


def _side_by_side(cells: Sequence[Sequence[str]], width: int, last: str) -> list[str]:
    """Lines of cells of one width; what comes last has any width and stands on the first line."""
    rows = zip_longest(*cells, fillvalue="")
    first, *more = ("  ".join(_padded(text, width) for text in row) for row in rows)
    return [f"{first}  {last}", *(line.rstrip() for line in more)]


def _wrapped(name: str, width: int) -> list[str]:
    """A name on lines of a width in cells: a CJK letter takes two."""
    from rich.console import Console
    from rich.text import Text

    return [line.plain for line in Text(shown(name)).wrap(Console(), width, overflow="fold")]


def _padded(text: str, width: int) -> str:
    from rich.cells import cell_len

    return text + " " * (width - cell_len(text))


def _brief(score: ClassScore) -> str:
    alone = "" if score.score is None else f" ({100 * score.score:.1f} % alone)"
    return f"{score.label} {100 * score.probability:.1f} %{alone}"


FORMATS = {"table": _table, "csv": _csv, "jsonl": _jsonl}
