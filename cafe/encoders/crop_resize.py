"""Resizing only what a crop keeps, to the very pixels of Pillow's resize.

An image of 1 x 15,000 pixels whose short side is resized to 224 becomes one of 752 million, of
which a crop keeps 224 x 224. These are computed alone. The arithmetic is Pillow's (`Resample.c`):
weights of an antialiased kernel in fixed point, columns first, rounded to 8 bits, and then rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS = 22  # of the fixed point


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x < 1, 1 - x, 0.0)


def _bicubic(x: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_KERNELS: Mapping[str, tuple[Callable[..., NDArray[np.float64]], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}
"""Kernel of the distance, and how far it reaches."""


class Side(NamedTuple):
    """One side of an image: its length, resized to `resized`, of which `kept` from `first` stay.

    Of a part of an image, from `start` to `end`, only this is resized.
    """

    length: int
    resized: int
    first: int
    kept: int
    start: float = 0.0
    end: float | None = None

    @property
    def part(self) -> tuple[float, float]:
        """Where what is resized starts and ends."""
        return self.start, self.length if self.end is None else self.end


class Taps(NamedTuple):
    """Which pixels make each pixel that is kept, by weights in fixed point. (kept, taps)"""

    places: NDArray[np.int64]
    weights: NDArray[np.int64]


def crop_resize(image: Image.Image, width: Side, height: Side, kernel: str) -> NDArray[np.uint8]:
    """Resize an image and crop it, without the pixels that the crop drops.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    width, height : Side
    kernel : {"bilinear", "bicubic"}

    Returns
    -------
    ndarray
        (height.kept, width.kept, 3)
    """
    across, down = taps_of(width, kernel), taps_of(height, kernel)
    box = (
        int(across.places.min()),
        int(down.places.min()),
        int(across.places.max()) + 1,
        int(down.places.max()) + 1,
    )
    pixels = np.asarray(image.crop(box)).astype(np.int64)  # (h, w, 3)
    columns = pixels[:, across.places - box[0]]  # (h, kept, taps, 3)
    pixels = _weighted(columns, across.weights[None, :, :, None], axis=2)
    rows = pixels[down.places - box[1]]  # (kept, taps, kept, 3)
    return _weighted(rows, down.weights[:, :, None, None], axis=1).astype(np.uint8)


def _weighted(
    pixels: NDArray[np.int64], weights: NDArray[np.int64], axis: int
) -> NDArray[np.int64]:
    total: NDArray[np.int64] = (pixels * weights).sum(axis) + (1 << (_BITS - 1))
    return (total >> _BITS).clip(0, 255)


def taps_of(side: Side, kernel: str) -> Taps:
    """Which pixels of a side make each one that is kept.

    Parameters
    ----------
    side : Side
    kernel : {"bilinear", "bicubic"}
    """
    weigh, support = _KERNELS[kernel]
    start, end = map(np.float32, side.part)
    scale = float(end - start) / side.resized
    stretch = max(scale, 1.0)
    reach = support * stretch
    centers = float(start) + (np.arange(side.first, side.first + side.kept) + 0.5) * scale
    low = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    high = np.minimum((centers + reach + 0.5).astype(np.int64), side.length)
    places = low[:, None] + np.arange((high - low).max())
    distances = np.abs((places - centers[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where(places < high[:, None], weigh(distances), 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added one after the other, as in a loop
    fixed = np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights)).astype(np.int64)
    return Taps(np.minimum(places, side.length - 1), fixed)
