"""`suggestions.csv`: what may be wrong with single images, for a person to look at and to keep.

A row is an image: `id,problem,current,proposed,confidence`. Texts stand as `csv` quotes them, with
one exception: a spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage
return for a formula, so such a text gets a `'` in front, which reading takes away again.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cafe.errors import InputError, escape_bytes, is_utf8, raise_as, unescape_bytes
from cafe.store.files import write_text

_LIKE_FORMULA = re.compile(r"'*[=+\-@\t\r]")


@dataclass(frozen=True)
class Suggestion:
    """What may be wrong with one image.

    Attributes
    ----------
    id : str
        The image: for files, the path below the dataset's folder.
    problem : str
        In words, the kind first: `label`, `duplicate of a/1.jpg`, `outlier`, ...
    current : str
        Its class.
    proposed : str
        The class that it may be instead; "" where there is none to propose.
    confidence : float
        From 0 to 1.

    Raises
    ------
    InputError
        If a part is none of these.
    """

    id: str
    problem: str
    current: str
    proposed: str = ""
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if not self.id.strip() or not self.problem.strip():
            raise InputError("a suggestion needs the id of an image and a problem.")
        if any("\0" in text for text in (self.id, self.problem, self.current, self.proposed)):
            raise InputError("a NUL stands in it, which no name has.")
        if not (math.isfinite(self.confidence) and 0 <= self.confidence <= 1):
            raise InputError(f"confidence {self.confidence} is not from 0 to 1.")

    @property
    def kind(self) -> str:
        """The first word of the problem."""
        return self.problem.split()[0]

    @property
    def is_change(self) -> bool:
        """Whether it proposes another class."""
        return self.proposed not in ("", self.current)


COLUMNS = tuple(part.name for part in fields(Suggestion))


def write_suggestions(path: Path | str, suggestions: Iterable[Suggestion]) -> None:
    """Write suggestions in one step; a file that is there is replaced.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with raise_as(InputError, f"cannot write '{path}'", "choose another file"):
        write_text(Path(path), suggestions_text(suggestions))


def suggestions_text(suggestions: Iterable[Suggestion]) -> str:
    """What a file of suggestions holds: CSV."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for row in suggestions:
        texts = (escape_bytes(row.id), row.problem, row.current, row.proposed)
        writer.writerow([*map(_as_cell, texts), f"{row.confidence:.4f}"])
    return stream.getvalue()


def read_suggestions(path: Path | str) -> list[Suggestion]:
    """Read suggestions, also as a spreadsheet saves them.

    Columns may stand in any order, with commas, semicolons or tabs between; other columns are
    not looked at, and rows of nothing are left out.

    Raises
    ------
    InputError
        If the file cannot be read, or a row is not usable; the message gives its line.
    """
    text = _read(Path(path))
    header, *_ = text.splitlines() or [""]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    columns: list[str] = []
    rows = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _columns(cells, path)
                continue
            rows.append(_row(columns, cells, f"{path}, line {reader.line_num}"))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error}).") from None
    if not columns:
        raise InputError(f"'{path}' is empty; 'cafe check' writes a file of suggestions.")
    return rows


def _read(path: Path) -> str:
    with raise_as(InputError, f"cannot read '{path}'", "'cafe check' writes such a file"):
        raw = path.read_bytes()
    is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))  # "Unicode text" of a spreadsheet
    with raise_as(InputError, f"'{path}' is not UTF-8 text", "save it as UTF-8", UnicodeError):
        return raw.decode("utf-16" if is_utf16 else "utf-8-sig")


def _columns(cells: Sequence[str], path: Path | str) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    lacking = [name for name in ("id", "proposed") if name not in names]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if lacking or twice:
        what = f"has no column '{lacking[0]}'" if lacking else f"has two columns '{twice[0]}'"
        raise InputError(f"'{path}' {what}; suggestions have {', '.join(COLUMNS)}.")
    return names


def _row(columns: Sequence[str], cells: Sequence[str], where: str) -> Suggestion:
    if len(cells) != len(columns):
        raise InputError(f"{where}: {len(cells)} fields where the header has {len(columns)}.")
    texts = dict(zip(columns, map(_as_text, cells), strict=True))
    try:
        confidence = float(texts.get("confidence", "").strip().replace(",", ".") or 1)
    except ValueError:
        raise InputError(f"{where}: confidence '{texts['confidence']}' is no number.") from None
    try:
        return Suggestion(
            unescape_bytes(texts["id"]),
            texts.get("problem", "") or "label",
            texts.get("current", ""),
            texts["proposed"],
            confidence,
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _as_cell(text: str) -> str:
    text = text if is_utf8(text) else escape_bytes(text)
    return f"'{text}" if _LIKE_FORMULA.match(text) else text


def _as_text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _LIKE_FORMULA.match(cell) else cell
