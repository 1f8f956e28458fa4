"""Splits made here, for images that come without one: a function of each path and nothing else.

The SHA-256 of an image's path (relative to the root, forward slashes, UTF-8), read as a number from
0 to 1, decides: below 0.5 the image goes to train, below 0.7 to val, else to test. So an image that
is added or removed moves no other. Where a class would have no training image, its first by that
number goes to train; where it has several images and none in test, its last goes there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cafe.datasets.dataset import SPLITS, Dataset
from cafe.datasets.image_list import Entry
from cafe.errors import CafeError, DatasetError, raw_name, verb

SPLIT_BY_CAFE = "cafe's split: 50/20/30 % train/val/test in each class, by a hash of the path"
SPLIT_OF_IMAGES = (
    "cafe's split: 50/20/30 % train/val/test of the images, by a hash of the path; no image has "
    "boxes in two"
)
HELD_OUT = "val is 20 % of each class of train, by a hash of the path"

_CUTS = (("train", 0.5), ("val", 0.7), ("test", 1.0))


def _place(path: str) -> float:
    """A number from 0 up to 1 that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(raw_name(path)).digest()[:6], "big") / (1 << 48)


def _by_class(images: Sequence[tuple[str, int | str]]) -> list[list[int]]:
    """Group the rows by class, each group in the order of the paths' hashes."""
    groups: dict[int | str, list[int]] = {}
    for row, (_, key) in enumerate(images):
        groups.setdefault(key, []).append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: hashlib.sha256(raw_name(images[row][0])).digest())
    return list(groups.values())


def assign_splits(images: Sequence[tuple[str, int | str]], known: Mapping[str, str]) -> list[str]:
    """The split of each image.

    Parameters
    ----------
    images : sequence of (str, int or str)
        Path and class of each. Those of one path, as of boxes on one image, stay together.
    known : mapping of str to str
        Path -> split, of images that stay where they are. Such an image moves only where its class
        would have no training image otherwise.

    Returns
    -------
    list of str
        In the order of the images.
    """
    splits = {
        path: known.get(path) or next(split for split, cut in _CUTS if _place(path) < cut)
        for path, _ in images
    }
    classes = [list(dict.fromkeys(images[row][0] for row in rows)) for rows in _by_class(images)]
    for paths in classes:
        _move_to_train(paths, splits, known)
        new = [path for path in paths if path not in known]
        assigned = [splits[path] for path in paths]
        can_move = new and (splits[new[-1]] != "train" or assigned.count("train") > 1)
        if can_move and "test" not in assigned:
            splits[new[-1]] = "test"
    for paths in classes:  # an image that moved may have been the only one of another class
        _move_to_train(paths, splits, known)
    return [splits[path] for path, _ in images]


def _move_to_train(paths: Sequence[str], splits: dict[str, str], known: Mapping[str, str]) -> None:
    """Give a class a training image, if it has none."""
    if not any(splits[path] == "train" for path in paths):
        new = [path for path in paths if path not in known]
        splits[(new or paths)[0]] = "train"


def make_split(entries: Sequence[Entry]) -> list[Entry]:
    """Give each entry a split; their own splits are not looked at. The order stays."""
    splits = assign_splits([(entry.path, entry.key) for entry in entries], {})
    return [entry._replace(split=split) for entry, split in zip(entries, splits, strict=True)]


def complete_splits(
    entries: Sequence[Entry], where: str, unit: str, error: type[CafeError] = DatasetError
) -> tuple[list[Entry], bool]:
    """Give each entry a split where none has one; refuse where only some have.

    Parameters
    ----------
    entries : sequence of Entry
    where, unit : str
        What they are read from, and what it calls them ("lines"), for messages.
    error : type of CafeError
        What is raised where only some have a split.

    Returns
    -------
    (list of Entry, bool)
        The entries with their splits, and whether cafe made these.
    """
    unsplit = sum(not entry.split for entry in entries)
    if unsplit == len(entries):
        return make_split(entries), True
    if unsplit:
        raise error(
            f"{where}: {unsplit:,} of {len(entries):,} {unit} {verb(unsplit, 'have')} no split; "
            "give one to all or to none."
        )
    return list(entries), False


def keep_splits(dataset: Dataset, known: Mapping[str, str]) -> Dataset:
    """A dataset whose images stay in the splits that they were in, where cafe makes the split.

    Parameters
    ----------
    dataset : Dataset
    known : mapping of str to str
        Id of an image -> its split.
    """
    images = [(dataset.image_of(item.id), item.label) for item in dataset.unsplit]
    of_images = {dataset.image_of(name): split for name, split in known.items()}
    splits = assign_splits(images, of_images)
    assigned = list(zip(splits, dataset.unsplit, strict=True))
    by_split = {name: tuple(item for split, item in assigned if split == name) for name in SPLITS}
    by_split = {name: items for name, items in by_split.items() if items}
    if not assigned or by_split == {name: items for name, items in dataset.splits.items() if items}:
        return dataset
    source = f"{dataset.source}; images that were there before keep their split"
    return replace(dataset, splits=by_split, source=source)


def hold_out_validation(entries: Sequence[Entry]) -> list[Entry]:
    """Move 20 % of each class of train to val, where an official split has no val.

    Parameters
    ----------
    entries : sequence of Entry
        Entries with their splits.

    Returns
    -------
    list of Entry
        The same images in the same order.
    """
    kept = [entry for entry in entries if entry.split != "train"]
    train = [entry for entry in entries if entry.split == "train"]
    held = set()
    for rows in _by_class([(entry.path, entry.key) for entry in train]):
        held.update(rows[: (2 * len(rows) + 5) // 10])
    moved = [e._replace(split="val") if row in held else e for row, e in enumerate(train)]
    return moved + kept
