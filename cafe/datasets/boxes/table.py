"""Boxes in a CSV file: `path,x,y,w,h,label,split`, one box a line, the last two if they are known.

`x` and `y` are the left and upper edge, `w` and `h` width and height, in pixels. `score` may be
there too. An image is listed on the line of each of its boxes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cafe.datasets.boxes.boxes import UNLABELLED, BoxColumns, Boxes
from cafe.datasets.class_order import in_class_order
from cafe.datasets.manifest import Line, csv_lines, split_of
from cafe.datasets.text_files import clean_path, quote, quote_some
from cafe.errors import DatasetError

_NEEDED = ("path", "x", "y", "w", "h")


def read_table(path: Path) -> Boxes:
    """Read boxes of a CSV file.

    Parameters
    ----------
    path : Path
        A `.csv` or `.tsv` file with a header.

    Returns
    -------
    Boxes
        In the order of the file. A line without a label gives a box without one.

    Raises
    ------
    DatasetError
        If a line is not usable; the message gives its number.
    """
    columns, places = BoxColumns(), _Images()
    labels: dict[str, int] = {}
    for line in csv_lines(path):
        _require(line)
        columns.image.append(places.row_of(line))
        columns.xywh.extend(_number(line, name) for name in _NEEDED[1:])
        label = str(line.fields.get("label") or "").strip()
        columns.labels.append(labels.setdefault(label, len(labels)) if label else UNLABELLED)
        has_score = str(line.fields.get("score") or "").strip()
        columns.scores.append(_number(line, "score") if has_score else float("nan"))
    if not columns.image:
        raise DatasetError(f"{path} names no boxes; a line is path,x,y,w,h,label,split.")
    names = in_class_order(labels)
    rank = {labels[name]: place for place, name in enumerate(names)} | {UNLABELLED: UNLABELLED}
    for row, label_row in enumerate(columns.labels):
        columns.labels[row] = rank[label_row]
    splits = tuple(places.splits) if any(places.splits) else None
    return columns.boxes(str(path), list(places.rows), names, splits=splits)


class _Images:
    """The images of the lines, numbered as they come, each in one split."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.splits: list[str] = []

    def row_of(self, line: Line) -> int:
        image = clean_path(line.fields["path"], line.where)
        split = split_of(line.fields.get("split"), line.where)
        row = self.rows.setdefault(image, len(self.rows))
        if row == len(self.splits):
            self.splits.append(split)
        if self.splits[row] != split:
            raise DatasetError(
                f"{line.where}: image {quote(image)} is in the split {quote(split)} and before in "
                f"{quote(self.splits[row])}; all boxes of an image are in one."
            )
        return row


def _require(line: Line) -> None:
    lacking = [name for name in _NEEDED if name not in line.fields]
    if lacking:
        raise DatasetError(
            f"{line.where}: no {' and no '.join(map(repr, lacking))}, only "
            f"{quote_some(line.fields, 8)}; the columns are path,x,y,w,h,label,split."
        )


def _number(line: Line, name: str) -> float:
    value: Any = line.fields[name]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DatasetError(f"{line.where}: {name} is {quote(value)}, and no number.") from None
