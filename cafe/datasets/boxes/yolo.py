"""YOLO's text files: `class x y w h` for each box of an image, centre and sides as shares of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cafe.datasets.boxes.boxes import BoxColumns, Boxes
from cafe.datasets.boxes.lists import find_lists, listed_alone, named_split, splits_of_lists
from cafe.datasets.list_folder import images_below
from cafe.datasets.text_files import quote, quote_some, read_text
from cafe.errors import DatasetError, counted

_MOST = 2.0  # a share that is rounded, or of a box that reaches out, may be over 1

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "classes.names")
"""Files that name the classes, the first that is there."""


def read_yolo(files: Sequence[Path], folder: Path) -> Boxes:
    """Read YOLO's text files.

    The image of `labels/train/a.txt` is `images/train/a` with any suffix, and that of `a.txt` lies
    beside it. Folders called train, val or test make the splits, else lists of that name. An image
    in a list, or without one beside the others, that has no text file is one without a box.

    Parameters
    ----------
    files : sequence of Path
        Text files of boxes.
    folder : Path
        Folder that they lie below; it, or one above, names the classes (`NAMES`).

    Returns
    -------
    Boxes
        As shares of the images' sides, of file after file. A sixth number is a score.

    Raises
    ------
    DatasetError
        If no file names the classes, or a line is not usable.
    """
    names = _class_names(folder)
    columns, images = BoxColumns(), list[str]()
    for row, path in enumerate(files):
        relative = path.relative_to(folder).with_suffix("").as_posix()
        images.append(
            "/".join("images" if part == "labels" else part for part in relative.split("/"))
        )
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if line.strip():
                columns.image.append(row)
                _add(columns, line, names, f"{path}, line {number}")
    lists = {} if any(map(_split_of_folder, images)) else find_lists(folder)
    bare = listed_alone(images, lists) if lists else _beside(images, folder)
    images += bare
    folders = tuple(map(_split_of_folder, images))
    splits = folders if any(folders) else splits_of_lists(images, lists)
    notes = [f"{counted(len(bare), 'image')} without a text file, taken to hold no box"]
    return columns.boxes(
        str(folder),
        images,
        names,
        splits=splits,
        is_relative=True,
        notes=tuple(notes if bare else ()),
    )


def _beside(images: Sequence[str], folder: Path) -> list[str]:
    """Images without a text file in the folders where others have one."""
    known, places = set(images), {image.rpartition("/")[0] for image in images}
    stems = [PurePosixPath(path).with_suffix("").as_posix() for path in images_below(folder)]
    return sorted({s for s in stems if s not in known and s.rpartition("/")[0] in places})


def _add(columns: BoxColumns, line: str, names: Sequence[str], where: str) -> None:
    words = line.split()
    try:
        label, (x, y, w, h, *more) = int(words[0]), map(float, words[1:])
    except ValueError:
        label, more = -1, [0.0, 0.0]
    if len(more) > 1:
        raise DatasetError(
            f"{where}: {quote(line.strip())} is no box; 'class x y w h' is expected, the class as "
            "its number and the rest as shares of the image's sides."
        )
    if not 0 <= label < len(names):
        raise DatasetError(
            f"{where}: class {label} has no name, as there are {len(names)} "
            f"({quote_some(names)}); name it."
        )
    if _MOST < max(x, y, w, h) < float("inf"):  # what is not finite is refused later
        raise DatasetError(
            f"{where}: {quote(line.strip())} holds pixels, it seems; shares of the image's sides "
            "are from 0 to 1."
        )
    columns.labels.append(label)
    columns.xywh.extend((x - w / 2, y - h / 2, w, h))
    columns.scores.append(more[0] if more else float("nan"))


def _split_of_folder(image: str) -> str:
    return next(filter(None, map(named_split, image.split("/")[:-1])), "")


def _class_names(folder: Path) -> list[str]:
    for place in (folder, folder.parent):
        for path in (place / name for name in NAMES):
            if path.is_file():
                return _read_names(path)
    raise DatasetError(
        f"{folder}: nothing names the classes; add classes.txt with a name on each line, or "
        "data.yaml with 'names:'."
    )


def _read_names(path: Path) -> list[str]:
    text = read_text(path)
    if path.suffix not in (".yaml", ".yml"):
        return [line.strip() for line in text.strip().split("\n")]
    yaml: Any = importlib.import_module("yaml")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DatasetError(f"{path} is not YAML ({quote(str(error))}).") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, Mapping) and names.keys() == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or any(isinstance(n, list | dict) for n in names):
        raise DatasetError(f"{path} has no list 'names' of classes, numbered from 0.")
    return ["" if name is None else str(name) for name in names]
