"""Small pictures of a dataset's images, for a page; knows no cache."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cafe.datasets.load import DATASET_NAMES, load_dataset
from cafe.datasets.open_image import open_image
from cafe.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

_EDGE = 144  # pixels: twice what a page shows, so that it is sharp on dense screens


def stays_inside(root: Path, name: str) -> bool:
    """Whether a file lies in a folder: a name in a cache may be absolute, climb, or be a link."""
    try:
        return (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, a NUL, a name of any length
        return False


Box = Sequence[float]
"""Left, top, width and height in pixels of the upright image."""


def thumbnails_from_folder(
    root: Path, ids: Mapping[int, str], boxes: Mapping[str, Box] | None = None
) -> dict[int, str]:
    """Thumbnails of files.

    Parameters
    ----------
    root : Path
        The folder that the ids are relative to.
    ids : mapping of int to str
        Row -> image id.
    boxes : mapping of str to sequence of float, optional
        Id -> the box that an item is, which is shown with half as much around it.

    Returns
    -------
    dict of int to str
        Row -> data URI; an image that is not there, lies outside of the folder, or cannot be read
        is left out.
    """
    items = {
        row: partial(open_item, root, name, (boxes or {}).get(name)) for row, name in ids.items()
    }
    return _encode_all(items)


def open_item(root: Path, name: str, box: Box | None, around: float = 0.25) -> Image.Image:
    """Open what an id of a cache is: an image below a folder, or of a box its part of the image.

    Parameters
    ----------
    root : Path
    name : str
    box : sequence of float or None
        None where the item is a whole image.
    around : float
        What is shown on each side of a box, in sides of the box.

    Raises
    ------
    DatasetError
        If the file is outside of the folder.
    """
    file = name if box is None else name.rpartition("#")[0]
    if not stays_inside(root, file):
        raise DatasetError(f"{file} is outside of '{root}'.")
    image = open_image(root / file)
    if box is None:
        return image
    from PIL import ImageOps

    left, top, width, height = box
    wide, high = around * width, around * height
    upright = ImageOps.exif_transpose(image)
    edges = max(left - wide, 0), max(top - high, 0), left + width + wide, top + height + high
    return upright.crop((*edges[:2], min(edges[2], upright.width), min(edges[3], upright.height)))


def thumbnails_from_dataset(name: str, ids: Mapping[int, str]) -> dict[int, str]:
    """Thumbnails of a dataset known by name: what ships with cafe, or lies in the data root.

    A cache of a stranger may call its dataset like any folder of yours: none is looked into.

    Parameters
    ----------
    name : str
        As `cafe datasets` lists it.
    ids : mapping of int to str
        Row -> id of an image of the test split.

    Returns
    -------
    dict of int to str
        Row -> data URI; an image that is not there or cannot be read is left out.

    Raises
    ------
    CafeError
        If the dataset cannot be loaded.
    """
    if name not in DATASET_NAMES:
        return {}
    dataset = load_dataset(name, allow_missing=True)
    items = {item.id: item for item in dataset.splits.get("test", ())}
    present = {row: items[image] for row, image in ids.items() if image in items}
    return _encode_all({row: partial(dataset.open_image, item) for row, item in present.items()})


def _encode_all(openers: Mapping[int, Callable[[], Image.Image]]) -> dict[int, str]:
    uris = {}
    for row, opener in openers.items():
        # Pillow's decoders raise anything; the page does without an image that cannot be read
        with contextlib.suppress(Exception), opener() as image:
            code = base64.b64encode(small_jpeg(image)).decode()
            uris[row] = f"data:image/jpeg;base64,{code}"
    return uris


def small_jpeg(image: Image.Image, edge: int = _EDGE) -> bytes:
    """An image of any mode as a JPEG whose longer side has `edge` pixels at most."""
    from PIL import ImageOps

    if image.mode.startswith(("I", "F")):  # whatever the range of its numbers, it shall be seen
        image = image.convert("F")
        scale = 255 / max(float(image.getextrema()[1]), 1e-9)  # type: ignore[arg-type]
        image = image.point(lambda value: value * scale + 0)
    image.draft("RGB", (2 * edge, 2 * edge))  # a large JPEG need not be decoded as large
    small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((edge, edge))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return stream.getvalue()
