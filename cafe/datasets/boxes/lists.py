"""Published lists of the images of each split, as Pascal VOC's `ImageSets/Main/train.txt`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from cafe.datasets.image_list import SPLIT_NAMES
from cafe.datasets.text_files import quote_some, read_text
from cafe.errors import DatasetError, counted


def find_lists(folder: Path) -> dict[str, Path]:
    """The lists in a folder by their split: `train.txt`, `val.txt`, `test.txt`.

    Where there is neither train nor val, `trainval.txt` is the list of train.
    """
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    files.sort(key=lambda file: -len(file.stem))  # train.txt wins over train2017.txt
    found = {split: file for file in files if (split := named_split(file.stem))}
    both = [file for file in files if file.stem.lower().rstrip("0123456789") == "trainval"]
    if both and not {"train", "val"} & found.keys():
        found["train"] = both[-1]
    return found


def named_split(name: str) -> str:
    """The split that a list or a folder is called after, also as in `train2017`; "" for others."""
    return SPLIT_NAMES.get(name.lower().rstrip("0123456789"), "")


def splits_of_lists(images: Sequence[str], lists: Mapping[str, Path]) -> tuple[str, ...] | None:
    """The split of each image, "" where it is in no list; None where there is no list.

    Parameters
    ----------
    images : sequence of str
        Paths, with or without a suffix. (M,)
    lists : mapping of str to Path
        Split -> text file; the first word of a line names an image, by as much of its path as the
        two have in common.

    Raises
    ------
    DatasetError
        If an image is in two lists, or a list names images that have no annotations.
    """
    ends, splits = _rows_of_ends(images), [""] * len(images)
    for split, path in lists.items():
        unknown = []
        for name in _names(path):
            rows = next((ends[end] for end in _ends(name) if end in ends), [])
            if not rows:
                unknown.append(name)
            for row in rows:
                if splits[row] not in ("", split):
                    raise DatasetError(
                        f"{path}: image {name!r} is in the list of {splits[row]} too; an image is "
                        "in one split."
                    )
                splits[row] = split
        if unknown:
            raise DatasetError(
                f"{path} names {counted(len(unknown), 'image')} without annotations "
                f"({quote_some(unknown)}); complete them, or take the lines out."
            )
    return tuple(splits) if lists else None


def listed_alone(images: Sequence[str], lists: Mapping[str, Path]) -> list[str]:
    """Images that a list names and nothing annotates, by as much of their path as others have."""
    ends, alone = _rows_of_ends(images), list[str]()
    for path in lists.values():
        found = [
            (_ends(name), [end for end in _ends(name) if end in ends]) for name in _names(path)
        ]
        depths = Counter(known[0].count("/") for _, known in found if known)
        usual = depths.most_common(1)[0][0] if depths else 0
        for own, known in found:
            if not known:
                alone.append(next((end for end in own if end.count("/") <= usual), own[-1]))
    return list(dict.fromkeys(alone))


def _names(path: Path) -> list[str]:
    return [line.split()[0] for line in read_text(path).split("\n") if line.strip()]


def _rows_of_ends(images: Sequence[str]) -> dict[str, list[int]]:
    """What a path may end with -> rows."""
    ends: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        for end in _ends(image):
            ends[end].append(row)
    return ends


def _ends(name: str) -> list[str]:
    """A path without its suffix, and then without its first folder, and so on: longest first."""
    folder, _, last = name.replace("\\", "/").removeprefix("./").rpartition("/")
    stem, dot, suffix = last.rpartition(".")
    if dot and suffix.isalnum() and len(suffix) <= 5 and not suffix.isdigit():
        last = stem
    parts = [*folder.split("/"), last] if folder else [last]
    return ["/".join(parts[start:]) for start in range(len(parts))]
