"""The images below a folder, by content, and what lies beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cafe.datasets.image_formats import known_suffixes, reason_against
from cafe.datasets.left_out import LeftOut
from cafe.errors import DatasetError

_SYSTEM = re.compile(
    r"\..*|#(recycle|snapshot)|@(eadir|recently-snapshot|recycle|sharebin|tmp)|\$recycle\.bin|"
    r"__macosx|desktop\.ini|ehthumbs(_vista)?\.db|found\.\d{3}|icon\r|lost\+found|"
    r"network trash folder|recycler|system volume information|temporary items|thumbs\.db",
    re.IGNORECASE | re.DOTALL,
)
"""What is hidden, and what systems and network disks keep in folders: `@eaDir` holds thumbnails."""

_THUMBNAILS = re.compile(r"[_-]?thumb(nail)?s?", re.IGNORECASE)
"""Folders that hold small copies, if there are images beside them; else it may be a class."""

HIDDEN = "hidden files, and those of systems and network disks"


class Listing(NamedTuple):
    """What is below a folder.

    Attributes
    ----------
    images : list of str
        Paths of all images, relative to the folder, with forward slashes, in the order of names.
    folders : list of str
        Paths of all visible folders.
    """

    images: list[str]
    folders: list[str]


def list_folder(folder: Path, left_out: LeftOut | None = None) -> Listing:
    """List the images below a folder, links followed.

    An image has a suffix of an image, in either case, or begins as an image does. A broken link
    with an image's suffix counts; opening it raises an error that names it.

    Parameters
    ----------
    folder : Path
    left_out : LeftOut, optional
        Counts everything else.

    Raises
    ------
    DatasetError
        If a folder cannot be read.
    """
    listing = Listing([], [])
    _walk(folder, "", frozenset(), listing, LeftOut() if left_out is None else left_out)
    return listing


def _walk(
    folder: Path,
    prefix: str,
    above: frozenset[tuple[int, int]],
    listing: Listing,
    left_out: LeftOut,
) -> None:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        left_out.add("links to a folder that they lie in", prefix.rstrip("/"))
        return
    entries = list(_visible_entries(folder, left_out))
    are_images = any(Path(entry.name).suffix.lower() in known_suffixes() for entry in entries)
    for entry in entries:
        path = f"{prefix}{entry.name}"
        is_folder = _answer(entry.is_dir)
        if is_folder and are_images and _THUMBNAILS.fullmatch(entry.name):
            left_out.add("folders of thumbnails beside images", path)
        elif is_folder:
            listing.folders.append(path)
            _walk(folder / entry.name, f"{path}/", above | {here}, listing, left_out)
        elif _is_image(folder / entry.name, entry, left_out):
            listing.images.append(path)


def _visible_entries(folder: Path, left_out: LeftOut) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder in the order of their names, without what systems keep there."""
    try:
        with os.scandir(folder) as entries:
            in_order = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}.") from error
    for entry in in_order:
        if _SYSTEM.fullmatch(entry.name):
            left_out.add(HIDDEN, entry.name)
        else:
            yield entry


def _answer(question: Callable[[], bool]) -> bool:
    """What a folder says of an entry; no, of a link that leads in a circle or where none may go."""
    try:
        return question()
    except OSError:
        return False


def _is_image(path: Path, entry: os.DirEntry[str], left_out: LeftOut) -> bool:
    suffix = path.suffix.lower()
    if _answer(entry.is_file):
        reason = reason_against(path)
    elif entry.is_symlink() and suffix in known_suffixes():
        reason = ""
    else:
        reason = "broken links" if entry.is_symlink() else "sockets, pipes and devices"
    if reason:
        left_out.add(reason, suffix or "without suffix")
    return not reason


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, links to folders included, sorted."""
    return [entry.name for entry in _visible_entries(folder, LeftOut()) if _answer(entry.is_dir)]


def images_below(folder: Path, left_out: LeftOut | None = None) -> list[str]:
    """Paths of all images below a folder; see `list_folder`."""
    return list_folder(folder, left_out).images
