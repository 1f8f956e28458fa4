"""The shape of a row in the catalog, and the edits of class names that its rows name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cafe.datasets.official import Official


def keep(name: str) -> str:
    """Leave the name as it is."""
    return name


@dataclass(frozen=True)
class Known:
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
    images : tuple of str
        Where the images may lie below that; the first is CoOp's.
    url : str
        Where to get it.
    split_file : str or None
        Name of CoOp's split file; None where CoOp uses the official split.
    official : Official or None
        The official split, for where there is no file of CoOp's.
    by_folder : bool
        Whether the images lie in class folders that a split can be made from.
    edit : callable
        Class of an official split or a folder -> class name, as CoOp edits it.
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
    sizes: tuple[int, int, int]
    folders: tuple[str, ...]
    images: tuple[str, ...]
    url: str
    split_file: str | None = None
    official: Official | None = None
    by_folder: bool = True
    edit: Callable[[str], str] = keep
    ignored: tuple[str, ...] = ()
    torchvision: str | None = None
    note: str = ""


def renaming(**new: str) -> Callable[[str], str]:
    """Make an edit that replaces some names and keeps the others."""
    return lambda name: new.get(name, name)


def words_apart(name: str) -> str:
    """Write `ApplyEyeMakeup` as `Apply_Eye_Makeup`, as CoOp names UCF101's folders."""
    return "_".join(re.findall(r"[A-Z][^A-Z]*", name)) if "_" not in name else name


def place_last(name: str) -> str:
    """Write SUN397's `a/apse/indoor` as `indoor apse`."""
    return " ".join(reversed(name.split("/")[1:])) or name
