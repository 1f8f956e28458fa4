"""Where the images of a box file lie below a folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.image_files import file_size
from cafe.datasets.image_formats import known_suffixes
from cafe.datasets.list_folder import images_below
from cafe.datasets.packed_dataset import split_word

_SAMPLE = 64  # images to look for, to learn in which folder they lie


def find_images(boxes: Boxes, root: Path) -> list[str | None]:
    """The path of each image below the root; None where it is not there."""
    listed = images_below(root)
    by_path = set(listed)
    by_stem: dict[str, str] = {}  # formats that name an image without its suffix
    ends: dict[str, list[str]] = defaultdict(list)
    for path in listed:
        stem = _stem(path)
        by_stem.setdefault(stem, path)
        ends[PurePosixPath(stem).name].append(stem)
    found: list[str | None] = [None] * len(boxes.images)
    shared = _shared_folders(boxes.images, ends)
    for rows in _by_split(boxes):
        names = [boxes.images[row][len(shared) :] for row in rows]
        split = "" if boxes.splits is None else boxes.splits[rows[0]]
        prefix = _prefix(names, ends, [split, PurePosixPath(boxes.where).parent.name])
        for row, name in zip(rows, names, strict=True):
            path = f"{prefix}{name}"
            if path in by_path or file_size(root / path) is not None:
                found[row] = path
            elif PurePosixPath(name).suffix.lower() not in known_suffixes():
                found[row] = by_stem.get(path)
    return found


def _shared_folders(names: Sequence[str], ends: Mapping[str, Sequence[str]]) -> str:
    """Folders before all names, which the root is in: `images/` where it is `data/images`.

    "" where some image is found by its whole name, or fewer than half are without these folders.
    """
    folders = [name.split("/")[:-1] for name in names] or [[]]
    pairs = zip(min(folders), max(folders), strict=False)
    common = [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    for count in range(len(common) + 1):
        shared = "".join(f"{folder}/" for folder in common[:count])
        sample = [name[len(shared) :] for name in names[:: max(len(names) // _SAMPLE, 1)]]
        votes = _prefix_votes(sample, ends)
        if votes and (not shared or 2 * max(votes.values()) >= len(sample)):
            return shared
    return ""


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


def _by_split(boxes: Boxes) -> list[list[int]]:
    """Rows of the images of each split, which may lie in a folder of their own."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row in range(len(boxes.images)):
        groups["" if boxes.splits is None else boxes.splits[row]].append(row)
    return list(groups.values())


def _prefix_votes(names: Sequence[str], ends: Mapping[str, Sequence[str]]) -> Counter[str]:
    """How many of a sample of images lie below which folder."""
    votes: Counter[str] = Counter()
    for name in names[:: max(len(names) // _SAMPLE, 1)]:
        for stem in {_stem(name), name}:
            for path in ends.get(PurePosixPath(stem).name, ()):
                if path == stem or path.endswith(f"/{stem}"):
                    votes[path[: len(path) - len(stem)]] += 1
    return votes


def _prefix(names: Sequence[str], ends: Mapping[str, Sequence[str]], hints: Sequence[str]) -> str:
    """The folder below which most of a sample of images lie, "" or with a slash at its end."""
    votes = _prefix_votes(names, ends)
    if not votes:
        return ""

    def rank(prefix: str) -> tuple[int, bool, int]:
        parts = prefix.split("/")
        words = {*parts, *map(split_word, parts)}  # of `train2017/` too
        is_hinted = any(hint and hint in words for hint in hints)
        return votes[prefix], is_hinted, -len(prefix)

    return max(sorted(votes), key=rank)
