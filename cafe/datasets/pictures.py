"""What the pixels of image files say at a glance: their size, and a small grey copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.datasets.thumbnails import Box, open_item

if TYPE_CHECKING:
    from PIL import Image

GREY = 32
"""Pixels on a side of a grey copy."""

_THREADS, _SOME = 4, 64


class Glance(NamedTuple):
    """Images at a glance; zeros where one cannot be read.

    Attributes
    ----------
    sides : ndarray
        Pixels of the shorter side. (N,)
    grey : ndarray
        (N, 32, 32)
    """

    sides: NDArray[np.int64]
    grey: NDArray[np.uint8]


def glance(
    root: Path,
    ids: Sequence[str],
    tell: Callable[[int, int], None],
    boxes: Mapping[str, Box] | None = None,
) -> Glance:
    """Look at image files below a folder, or at boxes on them; none outside of it is opened.

    Parameters
    ----------
    root : Path
    ids : sequence of str
        Paths relative to the root. (N,)
    tell : callable
        Called with the images done and the images in all.
    boxes : mapping of str to sequence of float, optional
        Id -> the box that an item is.
    """
    sides = np.zeros(len(ids), np.int64)
    grey = np.zeros((len(ids), GREY, GREY), np.uint8)

    def look(row: int) -> None:
        try:
            with open_item(root, ids[row], (boxes or {}).get(ids[row]), around=0) as image:
                sides[row], grey[row] = min(image.size), _small(image)
        except Exception:  # Pillow's decoders raise anything
            sides[row] = 0

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(ids), _SOME):
            tell(start, len(ids))
            list(pool.map(look, range(start, min(start + _SOME, len(ids)))))
    return Glance(sides, grey)


def _small(image: Image.Image) -> NDArray[np.uint8]:
    image.draft("L", (2 * GREY, 2 * GREY))
    if image.mode.startswith(("I", "F")):  # whatever the range of its numbers
        image = image.convert("F")
        low, high = (float(end) for end in image.getextrema())  # type: ignore[arg-type]
        image = image.point(lambda v: (v - low) * (255 / max(high - low, 1e-9)) + 0)
    small = image.convert("RGB").convert("L").resize((GREY, GREY), 2, reducing_gap=2.0)
    return np.asarray(small, np.uint8)
