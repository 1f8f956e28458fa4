"""From what a user names to `Boxes`: a file or a folder of COCO, Pascal VOC, CSV or YOLO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cafe.datasets.boxes.boxes import UNLABELLED, Boxes
from cafe.datasets.boxes.coco import read_coco
from cafe.datasets.boxes.lists import find_lists, named_split
from cafe.datasets.boxes.table import read_table
from cafe.datasets.boxes.voc import read_voc
from cafe.datasets.boxes.yolo import NAMES, read_yolo
from cafe.datasets.packed_dataset import split_word
from cafe.datasets.text_files import quote_some
from cafe.errors import DatasetError, InputError

_KINDS = "COCO JSON, a folder of Pascal VOC's XML or YOLO's text files, or CSV"
_COLUMNS = ("xywh", "box_ids", "areas", "is_crowd", "is_difficult", "image_ids", "sizes")
_COCO_FOLDERS = ("", "annotations", "train", "training", "val", "valid", "validation", "test")


def read_boxes(path: Path, like: Boxes | None = None) -> Boxes:
    """Read boxes of any format.

    Parameters
    ----------
    path : Path
        COCO's JSON, or a folder with one for each split (`instances_train2017.json`,
        `train/_annotations.coco.json`); a folder of Pascal VOC's XML, with `ImageSets/Main` in it
        or beside it; a CSV table; a folder of YOLO's text files.
    like : Boxes, optional
        Whose images and categories a list of COCO results is about.

    Raises
    ------
    DatasetError
        If nothing is there, or it is not usable.
    InputError
        If a folder holds boxes in two formats.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise DatasetError(f"no such file or folder of boxes: {path}; check the path.")
    if suffix == ".json":
        return read_coco(path, like)
    if suffix in (".csv", ".tsv"):
        return read_table(path)
    if suffix == ".xml":
        return read_voc([path], path.parent, {})
    raise InputError(f"{path} is no file of boxes; give {_KINDS}.")


def _read_folder(folder: Path) -> Boxes:
    xml = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    found = {
        "COCO": [f for name in _COCO_FOLDERS for f in _visible(folder / name, "*.json")],
        "Pascal VOC": _visible(xml, "**/*.xml"),
        "YOLO": _yolo_files(folder),
    }
    kinds = [kind for kind, files in found.items() if files]
    if len(kinds) > 1:
        raise InputError(
            f"{folder} holds boxes as {' and as '.join(kinds)} files; name the folder or the file "
            "of one format."
        )
    if not kinds:
        raise DatasetError(f"{folder} holds no boxes; give {_KINDS}.")
    if "COCO" in kinds:
        return _join_coco(folder, found["COCO"])
    if "YOLO" in kinds:
        return read_yolo(found["YOLO"], folder)
    return read_voc(found["Pascal VOC"], xml, _voc_lists(xml))


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder, without hidden ones: a Mac writes `._a.xml` beside `a.xml`."""

    def is_hidden(part: str) -> bool:
        return part.startswith(".") or part == "__MACOSX"

    files = sorted(folder.glob(pattern))
    return [f for f in files if not any(map(is_hidden, f.relative_to(folder).parts))]


def _yolo_files(folder: Path) -> list[Path]:
    """Text files of boxes: those in folders called labels, else all but lists and names."""
    files = _visible(folder, "**/*.txt")
    labels = [f for f in files if "labels" in f.relative_to(folder).parts[:-1]]
    others = [
        f
        for f in files
        if f.name not in NAMES
        and not named_split(f.stem)
        and "ImageSets" not in f.parts
        and not f.stem.lower().startswith("readme")
    ]
    return labels or others


def _voc_lists(folder: Path) -> dict[str, Path]:
    for place in (folder, folder.parent):
        for lists in (place / "ImageSets" / "Main", place / "ImageSets"):
            if found := find_lists(lists):
                return found
    return {}


def _join_coco(folder: Path, files: Sequence[Path]) -> Boxes:
    """One set of boxes of the files of several splits."""
    # beside its boxes, COCO publishes captions and keypoints of the same images
    files = [f for f in files if f.name.startswith("instances")] or files
    if len(files) == 1:
        return read_coco(files[0])
    splits = [_split_of_file(f, folder) for f in files]
    if "" in splits or len(set(splits)) < len(splits):
        raise InputError(
            f"{folder}: which of its {len(files)} JSON files is train, val or test is not clear "
            f"({quote_some(f.name for f in files)}); call them so, or name one."
        )
    parts = [_in_its_folder(read_coco(file), folder) for file in files]
    return _concatenate(str(folder), parts, splits)


def _split_of_file(path: Path, folder: Path) -> str:
    """The split that a word of a file's name says, else its folder."""
    for word in path.stem.replace("-", "_").split("_"):
        if split := split_word(word):
            return split
    return split_word(path.parent.name) if path.parent != folder else ""


def _in_its_folder(boxes: Boxes, folder: Path) -> Boxes:
    """Boxes whose file lies among its images, with their folder before the names of these."""
    inside = Path(boxes.where).parent
    if inside == folder or not (boxes.images and (inside / boxes.images[0]).is_file()):
        return boxes
    prefix = inside.relative_to(folder).as_posix()
    return replace(boxes, images=tuple(f"{prefix}/{image}" for image in boxes.images))


def _concatenate(where: str, parts: Sequence[Boxes], splits: Sequence[str]) -> Boxes:
    categories = dict[int, str]()
    for part in parts:
        for number, name in zip(part.category_ids.tolist(), part.class_names, strict=True):
            if categories.setdefault(number, name) != name:
                raise DatasetError(
                    f"{part.where}: category {number} is {name!r}, and {categories[number]!r} in "
                    "another file; number them alike."
                )
    numbers = sorted(categories)
    names = tuple(categories[number] for number in numbers)
    starts = np.cumsum([0, *(len(part.images) for part in parts)])
    images = tuple(image for part in parts for image in part.images)
    if len(set(images)) < len(images):
        shared = [image for image, count in Counter(images).items() if count > 1]
        raise DatasetError(
            f"{where}: images are in two files ({quote_some(shared)}); take one out, or, if they "
            "are different images of one name, put their folder before each 'file_name'."
        )
    labels = [
        np.append(np.searchsorted(numbers, part.category_ids), UNLABELLED)[part.labels]
        for part in parts
    ]
    more: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
    }
    return replace(
        parts[0],
        where=where,
        images=images,
        image=np.concatenate([p.image + s for p, s in zip(parts, starts, strict=False)]),
        labels=np.concatenate(labels),
        class_names=names,
        category_ids=np.array(numbers, np.int64),
        splits=tuple(s for p, s in zip(parts, splits, strict=True) for _ in p.images),
        scores=None,
        notes=tuple(note for part in parts for note in part.notes),
        **more,
    )
