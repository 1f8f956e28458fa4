"""Parquet files of labelled images, whose bytes are in a column."""

from __future__ import annotations

import bisect
import functools
import importlib
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.datasets.columns import Columns, choose_columns, key_of
from cafe.datasets.image_list import SPLIT_NAMES, Entry
from cafe.datasets.left_out import LeftOut
from cafe.datasets.packed_dataset import Place, Row, Stamp, file_stamp, split_word
from cafe.errors import DatasetError, ImageError, InputError, how_to_install, raise_as

_LOCK = threading.Lock()


def _parquet() -> Any:
    problem, advice = "Parquet files need pyarrow", how_to_install("parquet")
    with raise_as(InputError, problem, advice, ImportError):
        return importlib.import_module("pyarrow.parquet")


@functools.lru_cache(maxsize=4)
def _opened(path: Path, stamp: Stamp) -> tuple[Any, list[int]]:  # noqa: ARG001 - of another file
    """A file, and the row that each of its groups ends before."""
    file = _parquet().ParquetFile(path)
    rows = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    return file, list(itertools.accumulate(rows))


@functools.lru_cache(maxsize=2)
def _group(path: Path, stamp: Stamp, group: int, column: str) -> Any:
    """One column of a group of rows; images are read in order, so few groups are needed."""
    file, _ = _opened(path, stamp)
    return file.read_row_group(group, columns=[column]).column(0).combine_chunks()


@dataclass(frozen=True)
class ImageColumn:
    """A column of images in a file."""

    path: Path
    column: str

    def read(self, place: int, size: int) -> bytes:  # noqa: ARG002
        """The bytes of the image in a row."""
        with _LOCK, raise_as(ImageError, f"cannot read row {place} of {self.path}", of=Exception):
            stamp = self.stamp()
            _, ends = _opened(self.path, stamp)
            group = bisect.bisect_right(ends, place)
            value = _group(self.path, stamp, group, self.column)[
                place - ([0, *ends][group])
            ].as_py()
        return bytes(value["bytes"] if isinstance(value, dict) else value)

    def stamp(self) -> Stamp:
        """Times and inode of the file."""
        return file_stamp(self.path)


def holds_images(path: Path) -> bool:
    """Whether a file has a column of bytes: else it is a table of paths."""
    with _damage(path):
        schema = _parquet().read_schema(path)
    return any(_is_image(field.type) for field in schema)


def table_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of paths."""
    parquet = _parquet()
    with _damage(path):
        return list(parquet.read_table(path).to_pylist())


def read_parquet(paths: Sequence[Path], left_out: LeftOut) -> list[Row]:
    """List the labelled images of files.

    Raises
    ------
    DatasetError
        If a file is damaged, or has no column of images or of labels.
    """
    return [row for path in paths for row in _read_file(path, left_out)]


def _read_file(path: Path, left_out: LeftOut) -> Iterator[Row]:
    compute = importlib.import_module("pyarrow.compute")
    file, _ = _opened(path, file_stamp(path))
    columns = _columns(path, file.schema_arrow)
    names = _class_names(file.schema_arrow, columns.label)
    pack, word, row = ImageColumn(path, columns.image), split_word(path.name), -1
    for other in set(file.schema_arrow.names) - set(columns):
        left_out.add("columns that are not used", other)
    for group in range(file.num_row_groups):
        with _damage(path):
            table = file.read_row_group(group, columns=[name for name in columns if name])
        images = table.column(columns.image)
        data = images if not _is_struct(images.type) else compute.struct_field(images, "bytes")
        sizes = compute.binary_length(data).to_pylist()
        labels = table.column(columns.label).to_pylist()
        splits = (
            table.column(columns.split).to_pylist() if columns.split else itertools.repeat(None)
        )
        for size, label, split_cell in zip(sizes, labels, splits, strict=False):
            row += 1
            key = key_of(label, f"{path}, row {row}")
            if size is None or key is None:
                left_out.add("rows without an image or without a label", path.name)
                continue
            split = (
                word if split_cell is None else SPLIT_NAMES.get(str(split_cell).strip().lower(), "")
            )
            name = names[key] if isinstance(key, int) and key < len(names) else None
            image = f"{path.name}/{row:08d}"
            yield Row(Entry(split, image, key, name), Place(pack, row, size))


def _columns(path: Path, schema: Any) -> Columns:
    kinds = {field.name: str(field.type) for field in schema}
    images = [field.name for field in schema if _is_image(field.type)]
    labels = [
        field.name
        for field in schema
        if str(field.type).startswith(("int", "uint", "string", "large_string", "dict"))
    ]
    return choose_columns(kinds, images, [name for name in labels if name != "split"], str(path))


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct")


def _is_image(kind: Any) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary") or (text.startswith("struct<") and "bytes: " in text)


def _class_names(schema: Any, label: str) -> list[str]:
    """The names of numbered classes, where the file was written by the library `datasets`."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else []


def _damage(path: Path) -> Any:
    return raise_as(
        DatasetError, f"{path} is no readable Parquet file", "fetch it again", Exception
    )
