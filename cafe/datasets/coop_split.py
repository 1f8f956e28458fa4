"""CoOp's split files: `{"train": [[path, label, class name], ...], "val": ..., "test": ...}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cafe.datasets.image_list import SPLIT_NAMES, ClassNames, Entry, ImageList, make_image_list
from cafe.datasets.text_files import clean_path, quote, quote_some, read_json
from cafe.errors import DatasetError


def _entry(row: Any, split: str, what: str) -> Entry:
    if not isinstance(row, list) or len(row) not in (2, 3):
        raise DatasetError(f"{what}: {quote(row)} is not [path, label, class name].")
    path, label, *rest = row
    if isinstance(label, bool) or not isinstance(label, int):
        raise DatasetError(f"{what}: label {quote(label)} is not a whole number.")
    if label < 0:
        raise DatasetError(f"{what}: label {label} is out of range; labels start at 0.")
    if rest and not isinstance(rest[0], str):
        raise DatasetError(f"{what}: class name {quote(rest[0])} is not a text.")
    return Entry(split, clean_path(path, what), label, rest[0] if rest else None)


def read_coop_split(path: Path, class_names: ClassNames = None) -> ImageList:
    """Read a split file in CoOp's format.

    Parameters
    ----------
    path : Path
        The JSON file. An entry may lack the class name where `class_names` gives all of them.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead; None takes the file's.

    Returns
    -------
    ImageList
        Its images, in the order of the file.

    Raises
    ------
    DatasetError
        If it is no such file, a path leaves the root, or the labels do not fit together.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DatasetError(f'{path} is not a split file: expected {{"train": [...], ...}}.')
    unknown = [key for key in content if key.lower() not in SPLIT_NAMES]
    if unknown:
        raise DatasetError(
            f"{path} has splits called {quote_some(unknown)}; known: train, val, test."
        )
    splits = [SPLIT_NAMES[key.lower()] for key in content]
    if len(set(splits)) < len(splits):
        raise DatasetError(f"{path} names one split twice: {quote_some(content)}; keep one.")
    entries = []
    for key, split in zip(content, splits, strict=True):
        if not isinstance(content[key], list):
            raise DatasetError(f"{path}: split '{key}' is {quote(content[key])}, not a list.")
        for number, row in enumerate(content[key]):
            entries.append(_entry(row, split, f"{path}, {key}[{number}]"))
    if not entries:
        raise DatasetError(f"{path} names no images.")
    return make_image_list(entries, str(path), class_names)
