"""COCO's JSON of boxes (cocodataset.org): one file, or a list of results of a detector.

Annotations are taken out of the file while it is parsed, so that a million of them, with their
polygons, never lie in memory as objects of Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cafe.datasets.boxes.boxes import UNLABELLED, BoxColumns, Boxes
from cafe.datasets.text_files import quote, quote_some, read_text, unique_names
from cafe.errors import DatasetError, counted

_MOST = 1 << 62  # of an id
_OF_IMAGE = ("id", "file_name", "width", "height")


class _Annotations:
    """Columns of the annotations that a parser meets, each of which becomes its row."""

    def __init__(self, where: str) -> None:
        self.columns, self.where = BoxColumns(), where
        self.has_ids = True

    def __call__(self, pairs: list[tuple[str, Any]]) -> Any:
        """What an object of the file becomes: an annotation its row, and any other a dict."""
        members = unique_names(pairs)
        if "file_name" in members and "bbox" not in members:
            # of a million images, no more than what is used
            return {name: members[name] for name in _OF_IMAGE if name in members}
        if "bbox" not in members or "image_id" not in members:
            return members
        columns, row = self.columns, len(self.columns.image)
        try:
            left, top, width, height = members["bbox"]
            columns.xywh.extend((left, top, width, height))
            columns.image.append(members["image_id"])
            columns.labels.append(_known(members, "category_id", UNLABELLED))
            columns.areas.append(_known(members, "area", float("nan")))
            columns.is_crowd.append(int(_known(members, "iscrowd", 0)) != 0)
            columns.scores.append(_known(members, "score", float("nan")))
            if "id" in members and self.has_ids:
                columns.box_ids.append(members["id"])
            else:
                self.has_ids = False
        except (TypeError, ValueError, OverflowError):
            raise _FaultError(
                f"{self.where}: annotation {row} is not usable ({_brief(members)}); it needs whole "
                "numbers as 'id', 'image_id' and 'category_id', as 'bbox' the numbers left, top, "
                "width and height, and numbers as 'area' and 'score', if they are there."
            ) from None
        return row


class _FaultError(Exception):
    """What is wrong with an annotation; no ValueError, which would be taken for bad JSON."""


def _known(members: Mapping[str, Any], name: str, default: float) -> Any:
    """A member, or the default where it is not there or null."""
    value = members.get(name)
    return default if value is None else value


def _brief(members: Mapping[str, Any]) -> str:
    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "score")
    return ", ".join(f"{name} {quote(members[name])}" for name in names if name in members)


def read_coco(path: Path, like: Boxes | None = None) -> Boxes:
    """Read a COCO file of boxes.

    Parameters
    ----------
    path : Path
        `{"images": [...], "annotations": [...], "categories": [...]}`; or a list of results,
        `[{"image_id": ..., "bbox": [left, top, width, height], ...}, ...]`.
    like : Boxes, optional
        Whose images and categories a list of results is about. A result of any other category,
        as a class-agnostic detector's, has no label.

    Returns
    -------
    Boxes
        In the order of the file. An annotation without a category has no label.

    Raises
    ------
    DatasetError
        If it is no such file; a category has no name; an annotation names an image or a category
        that is not there; ids are given twice; or numbers are not finite.
    """
    where, text = str(path), read_text(path)
    found = _Annotations(where)
    try:
        content = json.loads(text, object_pairs_hook=found)
    except _FaultError as error:
        raise DatasetError(str(error)) from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not usable JSON: {error}.") from None
    if isinstance(content, list):
        return _results(content, found, like)
    if not isinstance(content, dict):
        raise DatasetError(f"{where} is no COCO file: an object or a list is expected.")
    return _dataset(content, found)


def _dataset(content: Mapping[str, Any], found: _Annotations) -> Boxes:
    where = found.where
    lacking = [name for name in ("images", "annotations") if not _is_list(content, name)]
    if lacking:
        raise DatasetError(
            f"{where} is no COCO file: it has no list {' and no list '.join(map(repr, lacking))}, "
            f"only {quote_some(content, 6)}."
        )
    _check_all_found(content["annotations"], found)
    images, categories = content["images"], content.get("categories", [])
    rows = [_numbered(row, "file_name", "image", where) for row in images]
    named = [_numbered(row, "name", "category", where) for row in categories]
    named.sort(key=lambda pair: pair[0])
    sizes = [(_length(row.get("width")), _length(row.get("height"))) for row in images]
    return _number(
        found,
        [name for _, name in rows],
        [name for _, name in named],
        image_ids=[number for number, _ in rows],
        category_ids=[number for number, _ in named],
        sizes=sizes,
    )


def _results(content: list[Any], found: _Annotations, like: Boxes | None) -> Boxes:
    if like is None:
        raise DatasetError(
            f"{found.where} is a list of results, which names no images; give a COCO file with "
            "'images', 'annotations' and 'categories'."
        )
    _check_all_found(content, found)
    known = {*like.category_ids.tolist()}
    for row, number in enumerate(found.columns.labels):
        if number not in known:
            found.columns.labels[row] = UNLABELLED
    return _number(
        found,
        like.images,
        like.class_names,
        image_ids=like.image_ids.tolist(),
        category_ids=like.category_ids.tolist(),
        sizes=list(map(tuple, like.sizes.tolist())),
        splits=like.splits,
    )


def _is_list(content: Mapping[str, Any], name: str) -> bool:
    return isinstance(content.get(name), list)


def _check_all_found(annotations: list[Any], found: _Annotations) -> None:
    """Annotations that lie elsewhere in the file, or are none, would be silently wrong."""
    count = len(found.columns.image)
    if annotations == list(range(count)):
        return
    other = next((row for row in annotations if not isinstance(row, int)), None)
    if other is not None:
        raise DatasetError(
            f"{found.where}: an annotation has no 'bbox' and 'image_id' ({quote(other)})."
        )
    outside = counted(count - len(annotations), "box", "lie")
    raise DatasetError(f"{found.where}: {outside} outside of 'annotations'.")


def _numbered(row: Any, key: str, what: str, where: str) -> tuple[int, str]:
    """The id and the name of an image or a category."""
    number = row.get("id") if isinstance(row, dict) else None
    if type(number) is not int or abs(number) > _MOST:
        raise DatasetError(f"{where}: {what} {quote(row)} has no whole number as 'id'.")
    name = row.get(key)
    if not isinstance(name, str) or not name.strip():
        raise DatasetError(f"{where}: {what} {number} has no {key!r} ({quote(name)}); give it one.")
    return number, name.strip()


def _length(value: Any) -> int:
    """A side in pixels; 0 where it is not said."""
    return value if type(value) is int and 0 < value < 1 << 31 else 0


def _number(
    found: _Annotations,
    images: Any,
    names: Any,
    *,
    image_ids: list[int],
    category_ids: list[int],
    **more: Any,
) -> Boxes:
    """The boxes, with indices in place of COCO's ids."""
    columns, where = found.columns, found.where
    if not found.has_ids:
        del columns.box_ids[:]
    _replace(columns.image, image_ids, "image", where)
    _replace(columns.labels, category_ids, "category", where, keep=UNLABELLED)
    return columns.boxes(
        where, images, names, image_ids=image_ids, category_ids=category_ids, **more
    )


def _replace(column: Any, ids: list[int], what: str, where: str, keep: int | None = None) -> None:
    """Put the index of each id in its place."""
    index = {number: place for place, number in enumerate(ids)}
    if keep is not None:
        index.setdefault(keep, UNLABELLED)
    unknown = {number for number in column if number not in index}
    if unknown:
        count = sum(number in unknown for number in column)
        raise DatasetError(
            f"{where}: {counted(count, 'annotation')} of {what} {quote_some(sorted(unknown))}, "
            f"which is not among its {len(ids):,}; complete the list, or remove them."
        )
    for row, number in enumerate(column):
        column[row] = index[number]
