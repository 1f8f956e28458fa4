"""Finding a known dataset below a data root: its images, and the best split that is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cafe.datasets.base import SPLITS
from cafe.datasets.download import by_hand
from cafe.datasets.folder import images_below
from cafe.datasets.known import Known
from cafe.datasets.listing import Entry, Listing, Names, make_listing
from cafe.datasets.make_split import SPLIT_BY_CAFE, make_split
from cafe.datasets.official import read_official
from cafe.datasets.splitfile import read_split_file
from cafe.errors import DatasetError


def default_data_root() -> Path:
    """`$CAFE_DATA`, else the folder `data` of the working directory."""
    return Path(os.environ.get("CAFE_DATA") or "data").expanduser()


def image_roots(row: Known, data_root: Path) -> list[Path]:
    """Folders that may hold the images and exist, CoOp's first."""
    places = [data_root / folder / images for folder in row.folders for images in row.images]
    return [place for place in places if place.is_dir()]


def find_split_file(row: Known, data_root: Path) -> Path | None:
    """CoOp's split file in the dataset's folders or the data root itself."""
    if row.split_file is None:
        return None
    folders = [*(data_root / folder for folder in row.folders), data_root]
    return next((f / row.split_file for f in folders if (f / row.split_file).is_file()), None)


def find_official(row: Known, data_root: Path) -> Path | None:
    """The folder that holds every file of the official split."""
    for folder in (data_root / name for name in row.folders):
        if row.official and all((folder / name).is_file() for name in row.official.files):
            return folder
    return None


def known_listing(row: Known, data_root: Path, class_names: Names) -> tuple[Listing, str]:
    """Read the best split that is there: CoOp's, else the official one, else one of cafe's.

    Parameters
    ----------
    row : Known
        The dataset.
    data_root : Path
        Where to look.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead.

    Returns
    -------
    (Listing, str)
        Its images, and in words which split it is.
    """
    path = find_split_file(row, data_root)
    if path is not None:
        listing = read_split_file(path, class_names)
        return listing, f"CoOp's split ({path.name}){_unlike_published(row, listing)}"
    folder = find_official(row, data_root)
    if row.official is not None and folder is not None:
        entries, source = read_official(row.official, folder)
        return _named(row, entries, str(folder), class_names), source
    if not row.by_folder:
        raise DatasetError(_no_split(row, data_root))
    root = image_roots(row, data_root)[0]
    entries = _class_tree(root, row.ignored)
    if not entries:
        raise DatasetError(
            f"{row.name}: no images in class folders in {root}; {by_hand(row, data_root)}."
        )
    return _named(
        row, make_split(entries), str(root), class_names
    ), f"a folder per class; {SPLIT_BY_CAFE}"


def _class_tree(root: Path, ignored: tuple[str, ...]) -> list[Entry]:
    """Entries whose class is the whole path of their folder (`a/apse/indoor`)."""
    found = []
    for path in images_below(root):
        folder, _, _ = path.rpartition("/")
        if folder and folder.split("/")[0] not in ignored:
            found.append(Entry("", path, folder))
    return found


def _named(row: Known, entries: list[Entry], what: str, class_names: Names) -> Listing:
    edit: Callable[[str], str] = row.edit
    named = [e if e.name is not None else e._replace(name=edit(str(e.key))) for e in entries]
    return make_listing(named, what, class_names, distinct=False)


def _unlike_published(row: Known, listing: Listing) -> str:
    counts = tuple(len(listing.rows.get(split, ())) for split in SPLITS)
    return "" if counts == row.sizes else ", not with the published numbers of images"


def _no_split(row: Known, data_root: Path) -> str:
    wanted = [row.split_file] if row.split_file else []
    if row.official:
        wanted.append(" and ".join(row.official.files))
    return (
        f"{row.name}: images found but no split in {data_root / row.folders[0]}; put "
        f"{' or '.join(wanted)} there, or name a split file (--split-file)."
    )
