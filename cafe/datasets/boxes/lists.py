"""Published lists of the images of each split, as Pascal VOC's `ImageSets/Main/train.txt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cafe.datasets.image_list import SPLIT_NAMES
from cafe.datasets.text_files import quote_some, read_text
from cafe.errors import DatasetError, counted


def find_lists(folder: Path) -> dict[str, Path]:
    """The lists in a folder by their split: `train.txt`, `val.txt`, `test.txt`."""
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    return {SPLIT_NAMES[f.stem.lower()]: f for f in files if f.stem.lower() in SPLIT_NAMES}


def splits_of_lists(images: Sequence[str], lists: Mapping[str, Path]) -> tuple[str, ...] | None:
    """The split of each image, "" where it is in no list; None where there is no list.

    Parameters
    ----------
    images : sequence of str
        Paths, with or without a suffix. (M,)
    lists : mapping of str to Path
        Split -> text file; the first word of a line names an image.

    Raises
    ------
    DatasetError
        If an image is in two lists, or a list names images that have no annotations.
    """
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        lines = [line.split()[0] for line in read_text(path).split("\n") if line.strip()]
        for name in map(_key, lines):
            if split_of.setdefault(name, split) != split:
                raise DatasetError(
                    f"{path}: image {name!r} is in the list of {split_of[name]} too; an image is "
                    "in one split."
                )
        known = set(map(_key, images))
        if unknown := [line for line in lines if _key(line) not in known]:
            raise DatasetError(
                f"{path} names {counted(len(unknown), 'image')} without annotations "
                f"({quote_some(unknown)}); complete them, or take the lines out."
            )
    return tuple(split_of.get(_key(image), "") for image in images) if lists else None


def _key(name: str) -> str:
    """What a list and a file of annotations have in common: the last part, without a suffix."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and suffix.isalnum() and len(suffix) <= 5 and not suffix.isdigit() else last
