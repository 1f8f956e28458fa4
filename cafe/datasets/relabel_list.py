"""Giving images other classes in a file that lists them: CSV, JSONL, or CoOp's JSON."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cafe.datasets.text_files import clean_name, clean_path
from cafe.errors import DatasetError, UnknownNameError

EDITED = (".csv", ".tsv", ".jsonl", ".json")
"""Suffixes of the lists that can be edited."""


class Edited(NamedTuple):
    """A list with other classes.

    Attributes
    ----------
    content : bytes
        Of the file; what is not changed is as it was, byte for byte, but in CoOp's JSON.
    states : dict of str to str
        Path of an image that was asked for -> "changed", "as proposed", or its class where that is
        neither the current one nor the proposed one. Images that are not listed are not in it.
    """

    content: bytes
    states: dict[str, str]


Changes = Mapping[str, tuple[str, str]]
"""Path of an image -> its class now, as it was read, or "" for any; and its class to be."""


class _Record(NamedTuple):
    """An image in a list: its place, path, the cells that give its class, and the class's name."""

    place: int
    path: str
    cells: dict[Any, Any]
    name: str


_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}  # which stay


def edit_list(file: Path, changes: Changes) -> Edited:
    """Give images of a list other classes of it; nothing is written.

    Raises
    ------
    UnknownNameError
        If a class is none of the list's.
    DatasetError
        If the file cannot be read.
    """
    if file.suffix.lower() not in EDITED:
        raise DatasetError(f"{file} cannot be edited; save it as CSV, and extract that.")
    try:
        raw = file.read_bytes()
        codec = next((codec for mark, codec in _MARKS.items() if raw.startswith(mark)), "utf-8")
        text = raw.decode(codec)
    except (OSError, UnicodeError) as error:
        raise DatasetError(f"cannot read {file}: {error}.") from error
    edit = {".json": _edit_coop, ".jsonl": _edit_jsonl}.get(file.suffix.lower(), _edit_csv)
    try:
        content, states = edit(text, changes)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error) as error:
        if isinstance(error, DatasetError | UnknownNameError):
            raise
        raise DatasetError(f"{file} is no list of images ({error}).") from error
    return Edited(content.encode(codec), states)


def _plan(
    records: Sequence[_Record], changes: Changes
) -> tuple[dict[int, dict[Any, Any]], dict[str, str]]:
    """Cells to be set by the place of a record, and the state of each image asked for."""
    cells_of = {record.name: record.cells for record in reversed(records)}
    edits, states = dict[int, dict[Any, Any]](), dict[str, str]()
    for record in records:
        if record.path not in changes:
            continue
        current, proposed = (clean_name(name) for name in changes[record.path])
        if proposed not in cells_of:
            raise UnknownNameError("class", proposed, cells_of)
        if record.name == proposed:
            states[record.path] = "as proposed"
        elif current and record.name != current:
            states[record.path] = record.name
        else:
            states[record.path] = "changed"
            edits[record.place] = cells_of[proposed]
    return edits, states


def _edit_csv(text: str, changes: Changes) -> tuple[str, dict[str, str]]:
    from cafe.datasets.manifest import delimiter_of

    mark = "\ufeff" if text.startswith("\ufeff") else ""
    lines = list(io.StringIO(text[len(mark) :], newline=""))
    first = 1 if lines and lines[0].startswith("sep=") else 0
    delimiter = lines[0][4] if first else delimiter_of("".join(lines))
    raw, header, rows = list[str](), list[str](), dict[int, list[str]]()
    for start, end, cells in _records(lines, first, delimiter):
        raw.append("".join(lines[start:end]))
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = ["_".join(cell.strip().lower().split()) for cell in cells]
        else:
            rows[len(raw) - 1] = cells
    path, label = header.index("path"), header.index("label")
    named = header.index("class_name") if "class_name" in header else label
    records = [
        _Record(
            place,
            clean_path(cells[path].strip(), "the list"),
            {label: cells[label], named: cells[named]},
            clean_name(cells[named]),
        )
        for place, cells in rows.items()
    ]
    edits, states = _plan(records, changes)
    for place, new in edits.items():
        line_end = raw[place][len(raw[place].rstrip("\r\n")) :]
        stream = io.StringIO(newline="")
        cells = [new.get(column, cell) for column, cell in enumerate(rows[place])]
        csv.writer(stream, delimiter=delimiter, lineterminator=line_end).writerow(cells)
        raw[place] = stream.getvalue()
    return mark + "".join(lines[:first]) + "".join(raw), states


def _records(
    lines: Sequence[str], first: int, delimiter: str
) -> Iterator[tuple[int, int, list[str]]]:
    """First and last line of each record, and its cells."""
    reader = csv.reader(
        iter(lines[first:]), strict=True, delimiter=delimiter, skipinitialspace=True
    )
    start = first
    for cells in reader:
        yield start, first + reader.line_num, cells
        start = first + reader.line_num


def _edit_jsonl(text: str, changes: Changes) -> tuple[str, dict[str, str]]:
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    lines = text[len(mark) :].split("\n")
    rows = {place: json.loads(line) for place, line in enumerate(lines) if line.strip()}
    records = []
    for place, row in rows.items():
        keys = {key.strip().lower(): key for key in row}
        used = {keys[name]: row[keys[name]] for name in ("label", "class_name") if name in keys}
        name = clean_name(str(row[keys.get("class_name", keys["label"])]))
        records.append(_Record(place, clean_path(row[keys["path"]], "the list"), used, name))
    edits, states = _plan(records, changes)
    for place, new in edits.items():
        lines[place] = json.dumps({**rows[place], **new}, ensure_ascii=False)
    return mark + "\n".join(lines), states


def _edit_coop(text: str, changes: Changes) -> tuple[str, dict[str, str]]:
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    content = json.loads(text[len(mark) :])
    rows = [row for part in content.values() for row in part]
    records = [
        _Record(i, clean_path(row[0], "the list"), {1: row[1], 2: row[2]}, clean_name(row[2]))
        for i, row in enumerate(rows)
    ]
    edits, states = _plan(records, changes)
    for place, new in edits.items():
        rows[place][1:3] = [new[1], new[2]]
    return (mark + json.dumps(content, ensure_ascii=False) if edits else text), states
