"""The eleven datasets of the paper: folders, splits, class names, where to get them.

The rows are in `catalog.json`. Folders, split files and edits of class names are CoOp's (its
DATASETS.md; arXiv 2109.01134), so a folder laid out for CoOp is found as it is. The second and
later folders are torchvision's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from cafe.datasets.official_splits import OFFICIAL_SPLITS, OfficialSplit, split_words


@dataclass(frozen=True)
class KnownDataset:
    """One dataset that cafe knows by name.

    Attributes
    ----------
    name : str
        Its name in cafe, which is CoOp's.
    title : str
        Its full name.
    classes : int
        How many it has.
    sizes : tuple of int
        Images in train, val and test of CoOp's split.
    folders : tuple of str
        Where it may lie below the data root; the first is CoOp's.
    image_folders : tuple of str
        Where the images may lie below that; the first is CoOp's.
    url : str
        Where to get it.
    split_file : str or None
        Name of CoOp's split file; None where CoOp uses the official split.
    official : OfficialSplit or None
        The official split, used where CoOp's split file is absent.
    class_folders : bool
        Whether the images lie in class folders, of which cafe can make a split.
    renamed : mapping of str to str
        Class of an official split or a folder -> class name, as CoOp renames it.
    edit : str
        What else CoOp does to class names: a key of `EDITS`.
    ignored : tuple of str
        Folders that are no classes.
    torchvision : str or None
        Class in `torchvision.datasets` that can download it.
    note : str
        What else one should know to get it.
    """

    name: str
    title: str
    classes: int
    sizes: tuple[int, ...]
    folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    url: str
    split_file: str | None = None
    official: OfficialSplit | None = None
    class_folders: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    edit: str = "none"
    ignored: tuple[str, ...] = ()
    torchvision: str | None = None
    note: str = ""

    def class_name(self, folder: str) -> str:
        """Name of a class as CoOp writes it, from its name in an official split or its folder."""
        return self.renamed.get(folder, EDITS[self.edit](folder))


def _place_last(name: str) -> str:
    """Write SUN397's `a/apse/indoor` as `indoor apse`."""
    return " ".join(reversed(name.split("/")[1:])) or name


EDITS: Mapping[str, Callable[[str], str]] = {
    "none": str,
    "lower_case": str.lower,
    "place_last": _place_last,
    "split_words": split_words,
}


def _known_dataset(row: dict[str, Any]) -> KnownDataset:
    official = row.pop("official", None)
    if official is not None:
        official = OFFICIAL_SPLITS[official.pop("kind")](**official)
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in row.items()
    }
    return KnownDataset(**values, official=official)


_ROWS = json.loads(files("cafe.datasets").joinpath("catalog.json").read_text(encoding="utf-8"))
KNOWN = tuple(map(_known_dataset, _ROWS))
BY_NAME = {row.name: row for row in KNOWN}
