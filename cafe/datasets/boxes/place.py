"""Boxes on the images that are on the disk: found, in pixels of the upright image, clipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cafe.datasets.boxes.boxes import Boxes
from cafe.datasets.boxes.find import find_images
from cafe.datasets.image_files import missing_message
from cafe.datasets.image_formats import HEAD, can_open, sniff
from cafe.datasets.text_files import quote, quote_some
from cafe.errors import MissingFilesError, counted

_TOLERANCE = 1.0  # pixels: formats count from 0 or from 1, and round
_ORIENTATION = 274  # the EXIF tag
_SIDEWAYS = 5  # this orientation of EXIF and those above it swap the sides


@dataclass(frozen=True)
class PlacedBoxes:
    """Boxes whose images are there.

    Attributes
    ----------
    boxes : Boxes
        Without the images that are not there; its `images` are paths below the root, `sizes` those
        of the upright images, 0 of one that cannot be read. A box that is empty has no width or no
        height.
    missing : tuple of str
        Images that are not there.
    """

    boxes: Boxes
    missing: tuple[str, ...]


def place_boxes(
    boxes: Boxes, root: Path, *, allow_missing: bool = False, name: str = ""
) -> PlacedBoxes:
    """Find the images of boxes below a folder, and put the boxes on them.

    Boxes are clipped to their images. Where the file says the size of an image as it is stored, and
    EXIF turns it, its boxes are turned too. No image is decoded.

    Parameters
    ----------
    boxes : Boxes
    root : Path
        Folder of the images. Names in a box file may begin at any folder below it.
    allow_missing : bool
        Go on without the images that are not there.
    name : str
        What the images are called in messages.

    Returns
    -------
    PlacedBoxes

    Raises
    ------
    MissingFilesError
        If images are missing, and that is not allowed; or if none is there.
    """
    found = find_images(boxes, root)
    missing = [image for image, path in zip(boxes.images, found, strict=True) if path is None]
    if missing and not (allow_missing and len(missing) < len(found)):
        total = len(found)
        raise MissingFilesError(
            missing_message(name or root.name, root, missing, total, "box file")
        )
    there = _without(boxes, found)
    has_boxes = np.bincount(there.image, minlength=len(there.images)) > 0
    headers = [
        _read_header(root / path) if used else _Header()
        for path, used in zip(there.images, has_boxes, strict=True)
    ]
    return PlacedBoxes(_clip(_turn(there, headers), headers), tuple(missing))


def _without(boxes: Boxes, found: Sequence[str | None]) -> Boxes:
    """The boxes of images that are there, under their paths below the root."""
    is_there = np.array([path is not None for path in found], np.bool_)
    place = np.cumsum(is_there) - 1
    kept = boxes.take(is_there[boxes.image])
    rows = np.flatnonzero(is_there).tolist()
    return replace(
        kept,
        images=tuple(path for path in found if path is not None),
        image=place[kept.image],
        image_ids=boxes.image_ids[is_there],
        sizes=boxes.sizes[is_there],
        splits=None if boxes.splits is None else tuple(boxes.splits[row] for row in rows),
    )


class _Header(NamedTuple):
    """Sides of an image as they are stored, 0 where it cannot be read, and how EXIF turns it."""

    width: int = 0
    height: int = 0
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as it is shown."""
        sides = self.width, self.height
        return sides[::-1] if self.orientation >= _SIDEWAYS else sides


def _read_header(path: Path) -> _Header:
    from PIL import Image

    try:
        with path.open("rb") as stream:
            name = sniff(stream.read(HEAD))
            if name is None or not can_open(name):
                return _Header()
            stream.seek(0)
            with Image.open(stream, formats=[name]) as image:
                # Pillow decodes a PNG to look for EXIF behind its pixels
                knows = image.format != "PNG" or "exif" in image.info
                orientation = image.getexif().get(_ORIENTATION, 1) if knows else 1
                return _Header(*image.size, orientation if orientation in range(1, 9) else 1)
    except Exception:  # Pillow raises anything; the image is recorded when it is decoded
        return _Header()


def _turn(boxes: Boxes, headers: Sequence[_Header]) -> Boxes:
    """The boxes in pixels of the upright images."""
    said, upright = boxes.sizes, np.array([h.upright for h in headers], np.int64).reshape(-1, 2)
    stored = np.array([h[:2] for h in headers], np.int64).reshape(-1, 2)
    is_other = (said > 0).all(axis=1) & (upright > 0).all(axis=1) & (said != upright).any(axis=1)
    is_turned = is_other & (said == stored).all(axis=1)
    notes = list(boxes.notes)
    xywh = boxes.xywh.copy()
    if boxes.is_relative:
        xywh *= np.tile(upright, 2)[boxes.image]
    for row in np.flatnonzero(is_turned[boxes.image]).tolist():
        xywh[row] = _turned(xywh[row].tolist(), headers[boxes.image[row]])
    if turned := int(is_turned.sum()):
        notes.append(f"boxes of {counted(turned, 'image')} are turned as EXIF turns the image")
    if others := np.flatnonzero(is_other & ~is_turned).tolist():
        first = others[0]
        (width, height), (w, h) = said[first].tolist(), upright[first].tolist()
        notes.append(
            f"{counted(len(others), 'image', 'have')} another size than the box file says "
            f"({quote(boxes.images[first])} has {w} x {h}, not {width} x {height}); check that "
            "their boxes fit"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are clipped next
        own_area = np.isclose(boxes.areas, boxes.xywh[:, 2] * boxes.xywh[:, 3])
        areas = np.where(own_area, xywh[:, 2] * xywh[:, 3], boxes.areas)
    return replace(boxes, xywh=xywh, areas=areas, is_relative=False, notes=tuple(notes))


def _turned(box: Sequence[float], header: _Header) -> tuple[float, float, float, float]:
    """A box of an image as it is stored, on the image as it is shown."""
    x, y, w, h = box
    across, down = header.width - x - w, header.height - y - h  # from the right, from the bottom
    left, top = {5: (y, x), 6: (down, x), 7: (down, across), 8: (y, across)}[header.orientation]
    return left, top, h, w


def _clip(boxes: Boxes, headers: Sequence[_Header]) -> Boxes:
    """The boxes within their images; where an image cannot be read, as they are."""
    sizes = np.array([header.upright for header in headers], np.int64).reshape(-1, 2)
    most = np.where(sizes > 0, sizes, np.inf)[boxes.image]  # (B, 2)
    with np.errstate(over="ignore"):  # beyond all numbers is beyond the image
        first, last = boxes.xywh[:, :2], boxes.xywh[:, :2] + boxes.xywh[:, 2:]
    low, high = np.clip(first, 0, most), np.clip(last, 0, most)
    xywh = np.concatenate([low, np.maximum(high - low, 0)], axis=1)
    outside = np.maximum(np.abs(low - first), np.abs(high - last)).max(axis=1, initial=0)
    is_empty = (xywh[:, 2:] <= 0).any(axis=1)
    notes = list(boxes.notes)
    for what, mask in (
        ("clipped to their images", (outside > _TOLERANCE) & ~is_empty),
        ("skipped, as they are empty or outside of their images", is_empty),
    ):
        if count := int(mask.sum()):
            named = dict.fromkeys(boxes.images[i] for i in boxes.image[mask].tolist())
            notes.append(f"{what}: {counted(count, 'box')} ({quote_some(named)})")
    return replace(boxes, xywh=xywh, sizes=sizes, notes=tuple(notes))
