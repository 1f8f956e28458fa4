"""Finding a known dataset below a data root: its images, and the best split that is there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from cafe.datasets.catalog import KNOWN, KnownDataset
from cafe.datasets.coop_split import read_coop_split
from cafe.datasets.dataset import SPLITS
from cafe.datasets.image_folder import LOOSE
from cafe.datasets.image_list import ClassNames, Entry, ImageList, make_image_list
from cafe.datasets.left_out import LeftOut
from cafe.datasets.list_folder import images_below
from cafe.datasets.make_split import SPLIT_BY_CAFE, make_split
from cafe.errors import DatasetError


def default_data_root() -> Path:
    """`$CAFE_DATA`, else the folder `data` of the working directory."""
    return Path(os.environ.get("CAFE_DATA") or "data").expanduser()


def how_to_get(row: KnownDataset, data_root: Path) -> str:
    """Say where to get a dataset and where to put it."""
    note = f"; {row.note}" if row.note else ""
    images = _image_folders(row, data_root)[0]
    return f"get it from {row.url} and put the images into {images}{note}"


def _image_folders(row: KnownDataset, data_root: Path) -> list[Path]:
    return [data_root / folder / images for folder in row.folders for images in row.image_folders]


def image_roots(row: KnownDataset, data_root: Path) -> list[Path]:
    """Folders that may hold the images and exist, CoOp's first."""
    return [folder for folder in _image_folders(row, data_root) if folder.is_dir()]


def _coop_split_file(row: KnownDataset, data_root: Path) -> Path | None:
    """CoOp's split file in the dataset's folders or the data root itself."""
    if row.split_file is None:
        return None
    files = [data_root / folder / row.split_file for folder in (*row.folders, ".")]
    return next((file for file in files if file.is_file()), None)


def _official_folder(row: KnownDataset, data_root: Path) -> Path | None:
    """The folder that holds every file of the official split."""
    for folder in (data_root / name for name in row.folders):
        if row.official and all((folder / name).is_file() for name in row.official.files):
            return folder
    return None


def read_known(
    row: KnownDataset, data_root: Path, class_names: ClassNames
) -> tuple[ImageList, str]:
    """Read the best split that is there: CoOp's, else the official one, else one of cafe's.

    Parameters
    ----------
    row : KnownDataset
        The dataset.
    data_root : Path
        Where to look.
    class_names : sequence of str, mapping of str to str, or None
        Names to use instead.

    Returns
    -------
    (ImageList, str)
        Its images, and in words which split it is.

    Raises
    ------
    DatasetError
        If there is no split, and none can be made.
    """
    path = _coop_split_file(row, data_root)
    if path is not None:
        images = read_coop_split(path, class_names)
        as_published = tuple(len(images.rows.get(split, ())) for split in SPLITS) == row.sizes
        note = "" if as_published else ", not with the published numbers of images"
        return images, f"CoOp's split ({path.name}){note}"
    folder, left_out = _official_folder(row, data_root), LeftOut()
    unsplit: list[str] = []
    if row.official is not None and folder is not None:
        entries, source = row.official.read(folder, left_out)
    else:
        folder = image_roots(row, data_root)[0]
        entries, source = _split_by_cafe(row, data_root, folder, left_out)
        unsplit = [entry.path for entry in entries]
    named = [
        e if e.name is not None else e._replace(name=row.class_name(str(e.key))) for e in entries
    ]
    images = make_image_list(named, str(folder), class_names)
    notes = [*images.notes, *left_out.lines()]
    return replace(images, notes=notes, unsplit=unsplit), source


def _split_by_cafe(
    row: KnownDataset, data_root: Path, root: Path, left_out: LeftOut
) -> tuple[list[Entry], str]:
    """A split of class folders; the class is the whole path of the folder (`a/apse/indoor`)."""
    if not row.class_folders:
        wanted = [row.split_file] if row.split_file else []
        wanted += [" and ".join(row.official.files)] if row.official else []
        raise DatasetError(
            f"{row.name}: images found but no split in {data_root / row.folders[0]}; put "
            f"{' or '.join(wanted)} there, or name a split file (split_file=)."
        )
    entries = []
    for path in images_below(root, left_out):
        folder, _, _ = path.rpartition("/")
        if not folder:
            left_out.add(LOOSE)
        elif folder.split("/")[0] in row.ignored:
            left_out.add("images in folders that are no class", folder.split("/")[0])
        else:
            entries.append(Entry("", path, folder))
    if not entries:
        raise DatasetError(
            f"{row.name}: no images in class folders in {root}; {how_to_get(row, data_root)}."
        )
    return make_split(entries), f"a folder per class; {SPLIT_BY_CAFE}"


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset as `cafe datasets` shows it.

    Attributes
    ----------
    name, title : str
        As in `load_dataset`, and in full.
    classes : int
        How many there are.
    sizes : tuple of int
        Images in train, val and test as published; other splits have others.
    present : bool
        Whether there is a folder of images, and a split to go with it.
    images : Path or None
        The folder of images that was found.
    split : str
        The split that would be used: "CoOp", "official", "cafe" or "" where there is none.
    looked_in : tuple of Path
        Where its images were looked for.
    url : str
        Where it comes from.
    can_download : bool
        Whether `load_dataset(..., download=True)` can fetch it.
    advice : str
        What to do where it is not there; else "".
    """

    name: str
    title: str
    classes: int
    sizes: tuple[int, ...]
    present: bool
    images: Path | None
    split: str
    looked_in: tuple[Path, ...]
    url: str
    can_download: bool
    advice: str


_DIGITS = DatasetInfo(
    name="digits",
    title="Handwritten digits of scikit-learn",
    classes=10,
    sizes=(600, 200, 997),
    present=True,
    images=None,
    split="cafe",
    looked_in=(),
    url="https://scikit-learn.org/stable/datasets/toy_dataset.html",
    can_download=False,
    advice="",
)


def list_datasets(data_root: Path | None = None) -> list[DatasetInfo]:
    """List the datasets that have a name; no image is counted or opened.

    Parameters
    ----------
    data_root : Path or None
        Where they lie; None takes `$CAFE_DATA`, else `./data`.

    Returns
    -------
    list of DatasetInfo
        `digits`, then the eleven in the order of the catalog.
    """
    root = data_root if data_root is not None else default_data_root()
    return [_DIGITS, *(_info(row, root) for row in KNOWN)]


def _info(row: KnownDataset, data_root: Path) -> DatasetInfo:
    roots = image_roots(row, data_root)
    split = _best_split(row, data_root) if roots else ""
    return DatasetInfo(
        name=row.name,
        title=row.title,
        classes=row.classes,
        sizes=row.sizes,
        present=bool(split),
        images=roots[0] if roots else None,
        split=split,
        looked_in=tuple(_image_folders(row, data_root)),
        url=row.url,
        can_download=row.torchvision is not None,
        advice="" if split else how_to_get(row, data_root),
    )


def _best_split(row: KnownDataset, data_root: Path) -> str:
    if _coop_split_file(row, data_root):
        return "CoOp"
    if _official_folder(row, data_root):
        return "official"
    return "cafe" if row.class_folders else ""
