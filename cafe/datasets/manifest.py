"""Manifests: a CSV or JSONL file that gives each image a path, a label and perhaps a split.

Columns (or JSON keys), in any case: `path` and `label`; optionally `split` and `class_name`. A
label is a class name, or a number from 0 where `class_name` or the caller names the classes. Paths
are relative to the manifest's folder, or to the root that the caller gives. Between the columns of
CSV stand commas, semicolons, tabs or bars.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cafe.datasets.image_list import SPLIT_NAMES, ClassNames, Entry, ImageList, make_image_list
from cafe.datasets.make_split import SPLIT_BY_CAFE, complete_splits
from cafe.datasets.parquet import table_rows
from cafe.datasets.text_files import clean_path, quote, quote_some, read_text, unique_names
from cafe.errors import DatasetError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

_USED = ("path", "label", "split", "class_name")
_LIKE_SPLIT = re.compile(
    r"(.*_)?(sub)?set|(.*_)?split(_.*)?|partition|part|k?_?fold|phase|usage|is_.*"
)
_MARK = re.compile(r"sep=(.)\n")  # the first line of what some spreadsheets write


class Line(NamedTuple):
    """Fields by the names of their columns, in lower case and with underscores for spaces."""

    where: str
    fields: Mapping[str, Any]
    columns: Mapping[str, str]  # these names as they are written


def _line(pairs: Sequence[tuple[str, Any]], where: str) -> Line:
    named = [
        ("_".join(re.split(r"[\s_-]+", column.strip().lower())), column.strip(), value)
        for column, value in pairs
        if column.strip() or value not in ("", None)  # spreadsheets add columns of nothing
    ]
    names = [name for name, _, _ in named if name]
    if len(names) > len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{where}: two columns are called {quote(twice)}; keep one.")
    fields = {name: value for name, _, value in named}
    return Line(where, fields, {name: column for name, column, _ in named})


def csv_lines(path: Path) -> Iterator[Line]:
    """The lines of a CSV file with a header, one after the other."""
    text = read_text(path)
    mark = _MARK.match(text)
    skipped = mark.end() if mark else 0
    delimiter = mark[1] if mark else delimiter_of(text)
    stream = io.StringIO(text[skipped:], newline="")
    reader = csv.reader(stream, strict=True, delimiter=delimiter, skipinitialspace=True)
    header: list[str] = []
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num + bool(mark)}"
            if not any(field.strip() for field in row):  # what a spreadsheet writes below a table
                continue
            if not header:
                header = row
                _line([(name, "") for name in header], where)
                continue
            if len(row) != len(header):
                raise DatasetError(f"{where}: as many fields as the header has are expected.")
            yield _line(list(zip(header, row, strict=True)), where)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: not CSV ({error}).") from None


def delimiter_of(text: str) -> str:
    """What stands between the columns: of the usual four the one that the header is made with."""
    header = text.lstrip().partition("\n")[0].lower()
    for delimiter in ",;\t|":
        names = {name.strip(" \"'") for name in header.split(delimiter)}
        if "path" in names:
            return delimiter
    return ","


def _jsonl_lines(path: Path) -> Iterator[Line]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line, object_pairs_hook=unique_names)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{where}: not JSON ({error}).") from None
        if not isinstance(fields, dict):
            raise DatasetError(f'{where}: expected {{"path": ..., "label": ...}}.')
        yield _line(list(fields.items()), where)


def _parquet_lines(path: Path) -> Iterator[Line]:
    for number, fields in enumerate(table_rows(path)):
        yield _line(list(fields.items()), f"{path}, row {number}")


def _key(label: Any, where: str) -> int | str:
    if isinstance(label, int | float) and not isinstance(label, bool) and label % 1 == 0:
        return int(label)
    if not isinstance(label, str):
        raise DatasetError(f"{where}: label {quote(label)} is neither a name nor a number.")
    if not label.strip():
        raise DatasetError(f"{where}: the label is empty.")
    return label.strip()


def split_of(value: Any, where: str) -> str:
    """The split that a field names; "" where it is empty."""
    text = "" if value is None else str(value).strip().lower()
    if text and text not in SPLIT_NAMES:
        raise DatasetError(f"{where}: split {quote(value)} is none of train, val and test.")
    return SPLIT_NAMES[text] if text else ""


def _entry(line: Line, root: Path) -> Entry:
    lacking = [name for name in ("path", "label") if name not in line.fields]
    if lacking:
        raise DatasetError(
            f"{line.where}: no {' and no '.join(map(repr, lacking))}, only "
            f"{quote_some(line.fields, 6)}; a manifest has 'path', 'label' and perhaps 'split'."
        )
    path = line.fields["path"]
    if isinstance(path, str) and Path(path).is_absolute():
        path = _below(path, root)
    name = line.fields.get("class_name")
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise DatasetError(f"{line.where}: class name {quote(name)} is not a name.")
    key, split = _key(line.fields["label"], line.where), line.fields.get("split")
    return Entry(split_of(split, line.where), clean_path(path, line.where), key, name)


def _below(path: str, root: Path) -> str:
    """Make an absolute path relative where it lies below the root, else leave it."""
    try:
        return Path(path).relative_to(root.absolute()).as_posix()
    except ValueError:
        return path


def _one_kind_of_key(entries: Sequence[Entry]) -> list[Entry]:
    """Take labels for numbers where all of them are whole ones, else for names."""
    kind: type[int | str] = str
    if all(re.fullmatch(r"-?[0-9]{1,18}(\.0+)?", str(entry.key)) for entry in entries):
        kind = int
        entries = [e._replace(key=str(e.key).partition(".")[0]) for e in entries]
    return [entry._replace(key=kind(entry.key)) for entry in entries]


def read_manifest(path: Path, root: Path, class_names: ClassNames = None) -> tuple[ImageList, str]:
    """Read a manifest.

    Parameters
    ----------
    path : Path
        A `.csv` file with a header, or a `.jsonl` file with an object per line.
    root : Path
        Folder that the paths are relative to. An absolute path is taken only where it lies below.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead; None takes the manifest's.

    Returns
    -------
    (ImageList, str)
        Its images in the order of the file, and in words which split they have.

    Raises
    ------
    DatasetError
        If a line is not usable; the message gives its number.
    """
    read = {".jsonl": _jsonl_lines, ".parquet": _parquet_lines}.get(path.suffix.lower(), csv_lines)
    lines = list(read(path))
    entries = _one_kind_of_key([_entry(line, root) for line in lines])
    if not entries:
        raise DatasetError(f"{path} names no images; a manifest has 'path' and 'label'.")
    entries, is_split_made = complete_splits(entries, str(path), "lines")
    source = f"manifest {path.name}"
    if is_split_made:
        source += f", which has no splits; {SPLIT_BY_CAFE}"
    images = make_image_list(entries, str(path), class_names)
    notes = [*images.notes, *_unused(lines, is_split_made)]
    paths = [entry.path for entry in entries] if is_split_made else []
    return replace(images, notes=notes, unsplit=paths), source


def _unused(lines: Sequence[Line], is_unsplit: bool) -> Iterator[str]:
    """A line that names the columns that are not used, and one for what looks like the split."""
    columns = {
        name: column for line in lines for name, column in line.columns.items() if name not in _USED
    }
    like_split = [name for name in columns if is_unsplit and _is_like_split(name, lines)]
    if like_split:
        named = quote_some(columns[name] for name in like_split)
        yield f"not used: the column {named}, which looks like the split; call it 'split' if it is"
    if others := [column for name, column in columns.items() if name not in like_split]:
        yield f"not used: columns of {lines[0].where.rpartition(',')[0]} ({quote_some(others, 5)})"


def _is_like_split(name: str, lines: Sequence[Line]) -> bool:
    if _LIKE_SPLIT.fullmatch(name):
        return True
    values = {str(line.fields.get(name, "")).strip().lower() for line in lines}
    return bool(values) and values <= SPLIT_NAMES.keys()
