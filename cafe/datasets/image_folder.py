"""Folders of images: `<class>/*.jpg`, or `train|val|test/<class>/*`.

An image is a file with an image's extension, in either case, whose name does not begin with a dot;
links are followed. Below a class folder images may lie at any depth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cafe.datasets.image_list import SPLIT_NAMES, ClassNames, Entry, ImageList, make_image_list
from cafe.datasets.make_split import SPLIT_BY_CAFE, make_split
from cafe.datasets.text_files import is_utf8, quote, quote_some
from cafe.errors import DatasetError

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_OTHERS = (".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
IMAGE_SUFFIXES = frozenset((*_JPEG, *_OTHERS))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  a name, no path


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder in the order of their names."""
    try:
        with os.scandir(folder) as entries:
            in_order = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}.") from error
    return [entry for entry in in_order if not entry.name.startswith((".", "__MACOSX"))]


def _walk(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    entries = _visible_entries(folder)
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder that it lies in
        return
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _walk(folder / entry.name, f"{path}/", above | {here})
        elif _is_image(entry.name):
            if not is_utf8(path):
                raise DatasetError(f"{folder}: {quote(path)} is not UTF-8; rename the file.")
            yield path


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, links to folders included, sorted."""
    return [entry.name for entry in _visible_entries(folder) if entry.is_dir()]


def images_below(folder: Path) -> list[str]:
    """Paths of all images below a folder, relative to it, in the order of the names.

    A broken link with an image's name counts; opening it raises an error that names it.
    """
    return list(_walk(folder, ""))


def class_entries(folder: Path, prefix: str = "", split: str = "") -> list[Entry]:
    """Entries of `<class>/**` in a folder, the class being the first folder of the path.

    Parameters
    ----------
    folder : Path
        Holds the class folders; images that lie directly in it are left out.
    prefix : str
        Put before each path.
    split : str
        Split of the entries.
    """
    return [
        Entry(split, f"{prefix}{name}/{path}", name)
        for name in subfolders(folder)
        for path in images_below(folder / name)
    ]


def _split_folders(root: Path) -> dict[str, str]:
    """Map "train", "val" and "test" to their folders, where the root is divided so."""
    folders: dict[str, str] = {}
    for name in subfolders(root):
        split = SPLIT_NAMES.get(name.lower())
        # A class may be called "train": a split holds class folders, a class holds images.
        if split is None or not subfolders(root / name):
            continue
        if split in folders:
            raise DatasetError(
                f"{root} has two folders for one split: '{folders[split]}' and '{name}'; keep one."
            )
        folders[split] = name
    return folders


def read_folder(root: Path, class_names: ClassNames = None) -> tuple[ImageList, str]:
    """Read a folder of class folders, or of splits of class folders.

    Parameters
    ----------
    root : Path
        The folder.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead; None takes the folders' names, underscores as spaces.

    Returns
    -------
    (ImageList, str)
        Its images, and in words which split they have.

    Raises
    ------
    DatasetError
        If there are no images or only one class.
    """
    folders = _split_folders(root)
    entries, source = _split_entries(root, folders) if folders else (class_entries(root), "")
    _check_classes(root, entries)
    if not source:
        entries, source = make_split(entries), f"a folder per class; {SPLIT_BY_CAFE}"
    return make_image_list(entries, str(root), class_names), source


def _split_entries(root: Path, folders: dict[str, str]) -> tuple[list[Entry], str]:
    """Entries of the split folders, and in words how they are used; "" where all are train."""
    entries = []
    for split, name in folders.items():
        entries += class_entries(root / name, f"{name}/", split)
    if set(folders) == {"train"}:
        return entries, ""
    source = f"the folders {', '.join(folders.values())}"
    if "val" in folders and "test" not in folders:
        entries = [e._replace(split="test") if e.split == "val" else e for e in entries]
        source += f"; '{folders['val']}' is the test set, as there is no other, and there is no val"
    return entries, source


def _check_classes(root: Path, entries: list[Entry]) -> None:
    classes = {entry.key for entry in entries}
    if len(classes) > 1:
        return
    if not classes:
        loose = sum(_is_image(entry.name) for entry in _visible_entries(root))
        content = f"only {loose} images outside of any class folder" if loose else "no images"
        raise DatasetError(f"{root} has {content}; put the images of each class into a folder.")
    only = str(classes.pop())
    inner = root / only
    hint = "put the images of each class into a folder"
    if inner.is_dir() and len(subfolders(inner)) > 1:
        hint = f"its folders ({quote_some(subfolders(inner))}) may be the classes: try {inner}"
    raise DatasetError(f"{root} has images of one class only, '{only}'; {hint}.")
