"""What datasets cafe knows by name, and which of them are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cafe.datasets.catalog import KNOWN
from cafe.datasets.download import by_hand
from cafe.datasets.known import Known
from cafe.datasets.resolve import (
    default_data_root,
    find_official,
    find_split_file,
    image_roots,
)


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
        Whether `--download` can fetch it.
    advice : str
        What to do where it is not there; else "".
    """

    name: str
    title: str
    classes: int
    sizes: tuple[int, int, int]
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


def _info(row: Known, data_root: Path) -> DatasetInfo:
    roots = image_roots(row, data_root)
    split = _split(row, data_root) if roots else ""
    return DatasetInfo(
        name=row.name,
        title=row.title,
        classes=row.classes,
        sizes=row.sizes,
        present=bool(split),
        images=roots[0] if roots else None,
        split=split,
        looked_in=tuple(data_root / f / images for f in row.folders for images in row.images),
        url=row.url,
        can_download=row.torchvision is not None,
        advice="" if split else by_hand(row, data_root),
    )


def _split(row: Known, data_root: Path) -> str:
    if find_split_file(row, data_root):
        return "CoOp"
    if find_official(row, data_root):
        return "official"
    return "cafe" if row.by_folder else ""
