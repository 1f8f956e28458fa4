"""Splits made here, for images that come without one: a function of the paths and nothing else.

Within each class the images are ordered by the SHA-256 of their path (relative to the root, forward
slashes, UTF-8). Of n images the first go to train, the next to val, the rest to test:

    test  = 30 % of n, rounded half up, at least 1 where n >= 2
    val   = 20 % of n, rounded half up, and none where n < 5
    train = the rest, so a class with a single image has it in train

The order in which a disk or a list names the images is of no consequence; adding an image to a
class may move others of that class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cafe.datasets.image_list import Entry
from cafe.errors import raw_name

SPLIT_BY_CAFE = "cafe's split: 50/20/30 % train/val/test in each class, by a hash of the path"
HELD_OUT = "val is 20 % of each class of train, by a hash of the path"


def _by_class(entries: Sequence[Entry]) -> list[list[int]]:
    """Group the rows by class, each group in the order of the paths' hashes."""
    groups: dict[int | str, list[int]] = {}
    for row, entry in enumerate(entries):
        groups.setdefault(entry.key, []).append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: hashlib.sha256(raw_name(entries[row].path)).digest())
    return list(groups.values())


def make_split(entries: Sequence[Entry]) -> list[Entry]:
    """Give each entry a split, stratified by class.

    Parameters
    ----------
    entries : sequence of Entry
        Their splits are not looked at.

    Returns
    -------
    list of Entry
        The same images in the same order, each with its split.
    """
    split_of = [""] * len(entries)
    for rows in _by_class(entries):
        n = len(rows)
        test = max((3 * n + 5) // 10, 1) if n >= 2 else 0
        val = (2 * n + 5) // 10 if n >= 5 else 0
        train = n - val - test
        for rank, row in enumerate(rows):
            split_of[row] = "train" if rank < train else "val" if rank < train + val else "test"
    return [entry._replace(split=split_of[row]) for row, entry in enumerate(entries)]


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
    for rows in _by_class(train):
        held.update(rows[: (2 * len(rows) + 5) // 10])
    moved = [e._replace(split="val") if row in held else e for row, e in enumerate(train)]
    return moved + kept
